//! The bytes of a storage as they are now, page by page, on whatever path reaches them and through whatever protection.

use std::ffi::c_int;

use super::dirty::PAGE;
use super::path::Path;
use super::region::MappedRegion;
use super::section::Section;
use super::source_error::failed;
use super::storage::Storage;
use crate::model::error::{Error, Result};
use crate::model::int::{u64_of, usize_of};
use crate::model::interrupt::{Interrupt, STEP};
use crate::model::range::Range;
use crate::model::region::{PROT_READ, PROT_WRITE};
use crate::sys::copy::{self as kernel, Stopped};
use crate::sys::errno;

/// Bytes that are looked at together; a copy of as many stays in a cache.
const CHUNK: usize = 64 << 10;

/// A part of a storage that can be read, and written if that was asked for, for as long as this is there.
pub(super) struct LivePart<'a> {
    region: &'a MappedRegion,
    part: Range,
    path: Path<'a>,
    /// The bytes themselves, or a copy.
    bytes: *const u8,
}

impl LivePart<'_> {
    /// Its pages, or what it has of them: where each lies in the storage, and its bytes. Pages begin where `shift` makes them begin.
    pub(super) fn pages(&self, shift: u64) -> impl Iterator<Item = (Range, *const u8)> {
        let mut left = self.part;
        std::iter::from_fn(move || {
            let in_page = left.base().wrapping_add(shift) & (PAGE - 1);
            let page = left.take(PAGE.abs_diff(in_page));
            left = left.skip(page.size());
            let at = usize_of(page.base().abs_diff(self.part.base()));
            (!page.is_empty()).then(|| (page, self.bytes.wrapping_add(at)))
        })
    }

    /// Writes a page of it.
    ///
    /// # Safety
    /// `from` is valid for reading as many bytes.
    pub(super) unsafe fn put(&self, page: Range, from: *const u8) -> Result<(), Stopped> {
        let (host, size) = (self.region.host(page), usize_of(page.size()));
        if self.path.is_direct() {
            // SAFETY: the page lies inside the mapping, which can't fault; the source is the caller's promise.
            unsafe { std::ptr::copy(from, host, size) };
            return Ok(());
        }
        // SAFETY: the source is the caller's promise; the kernel checks the target, which is the guest's.
        unsafe { kernel::write_guarded(host, from, size) }
    }
}

/// A storage, with the windows that show it.
pub(super) struct Live<'a> {
    windows: &'a [&'a MappedRegion],
    /// The protection that is needed, and lifted where it is missing.
    need: c_int,
}

impl<'a> Live<'a> {
    /// The windows of one storage.
    pub(super) const fn new(windows: &'a [&'a MappedRegion], need: c_int) -> Self {
        Self { windows, need }
    }

    /// Calls `work` with parts of some runs in turn, each part once; what no window shows is left out.
    pub(super) fn each(
        &self,
        runs: &[Range],
        interrupt: &dyn Interrupt,
        work: &mut dyn FnMut(&LivePart<'_>) -> Result<(), Stopped>,
    ) -> Result<()> {
        let (mut buffer, mut since) = ([0; CHUNK], 0u64);
        for run in runs {
            let mut left = *run;
            while let Some((region, part)) = self.first_shown(left) {
                self.unprotected(region, part, |bits| {
                    chunks(part).try_for_each(|chunk| {
                        since = since.saturating_add(chunk.size());
                        if since >= STEP {
                            since = 0;
                            interrupt.check()?;
                        }
                        let done = live_part(region, chunk, bits, &mut buffer).and_then(|live| work(&live));
                        done.map_err(|stopped| self.fault(region, chunk, &stopped))
                    })
                })?;
                left = Range::between(part.end(), left.end());
            }
        }
        Ok(())
    }

    fn fault(&self, region: &MappedRegion, part: Range, stopped: &Stopped) -> Error {
        let range = region.window().guest_of(part);
        let verb = if self.need & PROT_WRITE == 0 { "checkpoint" } else { "restore" };
        Section::new(region, range, Range::between(0, range.size())).fault(verb, stopped)
    }

    /// The first part of a run that a window shows, with that window.
    fn first_shown(&self, run: Range) -> Option<(&'a MappedRegion, Range)> {
        let shown = self.windows.iter().map(|region| (*region, region.window().shown().intersection(&run)));
        shown.filter(|(_, part)| !part.is_empty()).min_by_key(|(_, part)| part.base())
    }

    /// Runs `work` with the bits of protection that a path is to be asked for, once the pages allow what is needed.
    fn unprotected(&self, region: &MappedRegion, part: Range, work: impl FnOnce(c_int) -> Result<()>) -> Result<()> {
        if region.storage().has_protection(part, self.need) {
            return work(self.need);
        }
        // Without bits: the protection that is noted still forbids it; only the pages allow it.
        let lifted = region.storage().with_write_access(part, || work(0))?;
        lifted.unwrap_or_else(|error| Err(failed(region.desc(), "lifting its protection (mprotect) failed", &error)))
    }
}

fn chunks(part: Range) -> impl Iterator<Item = Range> {
    let size = u64_of(CHUNK);
    // By multiples, so that no page is cut in two.
    let first = part.base() & size.wrapping_neg();
    (first..part.end()).step_by(CHUNK).map(move |base| Range::at(base, size).intersection(&part))
}

fn live_part<'a>(
    region: &'a MappedRegion,
    part: Range,
    bits: c_int,
    buffer: &mut [u8; CHUNK],
) -> Result<LivePart<'a>, Stopped> {
    let (path, host, size) = (region.storage().path(part, bits), region.host(part), usize_of(part.size()));
    let copy = buffer.as_mut_ptr();
    let bytes = match &path {
        Path::Direct | Path::DirectUntilExported(_) => host.cast_const(),
        Path::File(file, start) => {
            let position = Range::between(*start, u64::MAX).skip(part.base()).base();
            // SAFETY: a chunk has at most as many bytes as the buffer.
            unsafe { kernel::read_file(file, position, copy, size)? };
            copy.cast_const()
        }
        Path::Kernel => {
            // SAFETY: as above, and the kernel checks the source.
            unsafe { kernel::read_guarded(host, copy, size)? };
            copy.cast_const()
        }
        Path::Reader(reader) => {
            let bytes = buffer.get_mut(..size).unwrap_or_default();
            let read = reader.reader.read(reader.at.saturating_add(part.base()), bytes);
            read.map_err(|error| Stopped { completed: 0, error: Some(error) })?;
            copy.cast_const()
        }
        Path::Thread => {
            let error = errno::refusal(errno::EFAULT, "its pages are brought in by somebody when they are touched");
            return Err(Stopped { completed: 0, error: Some(error) });
        }
    };
    Ok(LivePart { region, part, path, bytes })
}

/// The whole pages that a part of a storage lies in, as far as the storage goes.
pub(super) fn whole_pages(part: Range, storage: &Storage) -> Range {
    let end = part.end().checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
    Range::between(part.base() & !(PAGE - 1), end.min(storage.whole().end()))
}

/// The protection that looking at bytes needs.
pub(super) const LOOK: c_int = PROT_READ;
