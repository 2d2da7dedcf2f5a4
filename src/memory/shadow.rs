//! The bytes of a storage at one moment, in a sealed file of their own: nobody can change them any more.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::dirty::{DirtyBitmap, PAGE};
use super::live::{LOOK, Live, whole_pages};
use super::region::MappedRegion;
use super::source::failed;
use crate::model::error::Result;
use crate::model::int::usize_of;
use crate::model::interrupt::Interrupt;
use crate::model::range::Range;
use crate::model::region::{MAP_SHARED, PROT_READ};
use crate::model::room::Gathered;
use crate::sys::copy::{self as kernel, Stopped};
use crate::sys::file::{self, SEAL_ALL};
use crate::sys::host::page_size;
use crate::sys::span::Span;

/// A page of zeroes.
static ZEROES: [u8; 4096] = [0; 4096];

/// The pages that a storage had at one moment. What is not stored here is stored in the shadow of an earlier moment, or zero.
#[derive(Debug)]
pub struct Shadow {
    stored: DirtyBitmap,
    /// The file's bytes, each at its offset in the storage; read-only.
    bytes: Span,
    parent: Option<Arc<Self>>,
}

impl Shadow {
    /// Stores all pages that the windows of a storage show and that are not zero; `progress` is told how far it is.
    pub fn of(
        region: &MappedRegion,
        windows: &[&MappedRegion],
        interrupt: &dyn Interrupt,
        progress: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Self> {
        let mut writer = ShadowWriter::new(region)?;
        for run in data_of(region)? {
            writer.add(windows, run, false, interrupt)?;
            progress(run.end())?;
        }
        writer.seal(region, None)
    }

    /// Stores the pages of some runs; all others are those of an earlier moment.
    pub fn above(
        parent: &Arc<Self>,
        (region, windows): (&MappedRegion, &[&MappedRegion]),
        runs: &[Range],
        interrupt: &dyn Interrupt,
    ) -> Result<Self> {
        let mut writer = ShadowWriter::new(region)?;
        runs.iter().try_for_each(|run| writer.add(windows, *run, true, interrupt))?;
        writer.seal(region, Some(Arc::clone(parent)))
    }

    /// The shadow of the moment before, if pages are looked for there.
    pub const fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    /// Calls `found` with each run of pages that are stored here, and not only in those before.
    pub fn stored(&self, found: &mut dyn FnMut(Range)) {
        self.stored.peek(found);
    }

    /// Whether the page of a byte is stored nowhere, for it was zero.
    pub(super) fn is_hole(&self, offset: u64) -> bool {
        !self.stored.has(offset) && self.parent.as_ref().is_none_or(|parent| parent.is_hole(offset))
    }

    /// The bytes from an offset to the end of its page; there for as long as the shadow is, and never written.
    pub(super) fn bytes(&self, offset: u64) -> *const u8 {
        match &self.parent {
            _ if self.stored.has(offset) => self.bytes.start().wrapping_add(usize_of(offset)),
            Some(parent) => parent.bytes(offset),
            None => ZEROES.as_ptr().wrapping_add(usize_of(offset & (PAGE - 1))),
        }
    }

    /// The bytes that are stored here.
    pub fn size(&self) -> u64 {
        let mut size = 0u64;
        self.stored(&mut |run| size = size.saturating_add(run.size()));
        size
    }
}

/// The bytes that a storage should have: those of a shadow that lie so far behind, as a number that wraps.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    shadow: &'a Shadow,
    shift: u64,
}

impl<'a> Expected<'a> {
    /// The bytes of a shadow of the same storage.
    pub const fn all(shadow: &'a Shadow) -> Self {
        Self { shadow, shift: 0 }
    }

    /// Those of a shadow from one offset on, for a storage from another offset on.
    pub const fn from(shadow: &'a Shadow, offset: u64, at: u64) -> Self {
        Self { shadow, shift: offset.wrapping_sub(at) }
    }

    pub(super) const fn shift(&self) -> u64 {
        self.shift
    }

    /// The bytes from an offset in the storage to the end of their page.
    pub(super) fn bytes(&self, offset: u64) -> *const u8 {
        self.shadow.bytes(offset.wrapping_add(self.shift))
    }

    pub(super) fn is_hole(&self, offset: u64) -> bool {
        self.shadow.is_hole(offset.wrapping_add(self.shift))
    }

    /// Calls `found` with each run of bytes that are stored, in this shadow or in those before.
    pub(super) fn stored(&self, found: &mut dyn FnMut(Range)) {
        let mut here = Some(self.shadow);
        while let Some(shadow) = here {
            shadow.stored(&mut |run| found(Range::at(run.base().wrapping_sub(self.shift), run.size())));
            here = shadow.parent.as_deref();
        }
    }
}

/// The runs of the storage of a region that have data.
pub(super) fn data_of(region: &MappedRegion) -> Result<Vec<Range>> {
    let (storage, mut runs) = (region.storage(), Gathered::default());
    // It is compared and put back without a look whether all is there.
    storage.ensure(storage.whole())?;
    storage.data_runs(region.desc(), storage.whole(), &mut |run| runs.add(whole_pages(run, storage)))?;
    runs.finish()
}

/// A shadow in the making.
struct ShadowWriter {
    file: File,
    stored: DirtyBitmap,
    /// The bytes of the file: whole pages.
    size: u64,
}

impl ShadowWriter {
    fn new(region: &MappedRegion) -> Result<Self> {
        let whole = region.storage().whole().size();
        let size = whole.checked_next_multiple_of(page_size()).unwrap_or(whole);
        let refused = |error: std::io::Error| failed(region.desc(), "making a memfd for its shadow failed", &error);
        let file = file::memfd("shadow", None).map_err(refused)?;
        file.set_len(size).map_err(refused)?;
        Ok(Self { file, stored: DirtyBitmap::new(0, whole)?, size })
    }

    /// Stores the pages of a run, also those that are zero if `all`.
    fn add(&mut self, windows: &[&MappedRegion], run: Range, all: bool, interrupt: &dyn Interrupt) -> Result<()> {
        Live::new(windows, LOOK).each(&[run], interrupt, &mut |live| {
            let mut next: Option<(Range, *const u8)> = None;
            for (page, bytes) in live.pages(0).filter(|(page, bytes)| all || !is_zero(*page, *bytes)) {
                next = match next {
                    Some((run, first)) if run.end() == page.base() => {
                        Some((Range::between(run.base(), page.end()), first))
                    }
                    before => {
                        self.store(before)?;
                        Some((page, bytes))
                    }
                };
            }
            self.store(next)
        })
    }

    /// Writes a run of pages with their bytes, which the kernel reads.
    fn store(&self, run: Option<(Range, *const u8)>) -> Result<(), Stopped> {
        let Some((run, bytes)) = run else { return Ok(()) };
        kernel::write_file(&self.file, run.base(), bytes, usize_of(run.size()))?;
        self.stored.mark(run.base(), run.size());
        Ok(())
    }

    fn seal(self, region: &MappedRegion, parent: Option<Arc<Shadow>>) -> Result<Shadow> {
        let refused = |error: std::io::Error| failed(region.desc(), "mapping its shadow failed", &error);
        file::seal(&self.file, SEAL_ALL).map_err(refused)?;
        let (size, fd) = (usize_of(self.size), self.file.as_raw_fd());
        let bytes = Span::reserve(size).map_err(refused)?;
        // SAFETY: nothing was mapped into the span before.
        unsafe { bytes.map(0, size, PROT_READ, MAP_SHARED, fd, 0) }.map_err(refused)?;
        Ok(Shadow { stored: self.stored, bytes, parent })
    }
}

/// Whether a page, whose bytes can be read, is zero.
fn is_zero(page: Range, bytes: *const u8) -> bool {
    // SAFETY: the bytes of a live part, and as many zeroes: no page has more.
    unsafe { kernel::are_equal(bytes, ZEROES.as_ptr(), usize_of(page.size())) }
}
