//! The bytes of a storage at one moment, in a sealed file of their own: nobody can change them any more.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::dirty::{DirtyBitmap, PAGE};
use crate::model::error::Result;
use crate::model::int::usize_of;
use crate::model::range::{Range, joined};
use crate::model::region::{MAP_SHARED, PROT_READ};
use crate::model::room::Gathered;
use crate::sys::copy::{self as kernel, Stopped};
use crate::sys::errno;
use crate::sys::file::{self, SEAL_ALL};
use crate::sys::host::page_size;
use crate::sys::span::Span;

/// A page of zeroes.
static ZEROES: [u8; 4096] = [0; 4096];

/// The pages that a storage had at one moment. What is not stored here is stored in the shadow of an earlier moment, or zero.
#[derive(Debug)]
pub struct Shadow {
    stored: DirtyBitmap,
    /// The bytes of the storage.
    whole: u64,
    /// The file's bytes, each at its offset in the storage; read-only.
    bytes: Span,
    file: Arc<File>,
    parent: Option<Arc<Self>>,
}

impl Shadow {
    /// The shadow of the moment before, if pages are looked for there.
    pub const fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    /// The bytes of the storage.
    pub const fn whole(&self) -> Range {
        Range::between(0, self.whole)
    }

    /// The sealed file: each page that is stored here lies at its offset, and all else is a hole.
    pub const fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Calls `found` with each run of pages that are stored here, and not only in those before.
    pub fn stored(&self, found: &mut dyn FnMut(Range)) {
        self.stored.peek(found);
    }

    /// The first pages in a range that are stored here and touch each other; none at its end, when there are none.
    pub(super) fn first_stored(&self, range: Range) -> Range {
        self.stored.first_in(range)
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

    /// The same bytes in one file.
    pub fn flattened(&self) -> Result<io::Result<Self>> {
        let mut runs = Gathered::default();
        Expected::all(self).stored(&mut |run| runs.add(run));
        let mut runs = runs.finish()?;
        runs.sort_unstable();
        let writer = ShadowWriter::new(self.whole)?;
        Ok(writer.and_then(|writer| {
            for run in joined(runs) {
                for page in (run.base()..run.end()).step_by(usize_of(PAGE)) {
                    writer.store(Range::at(page, PAGE).intersection(&run), self.bytes(page)).map_err(error_of)?;
                }
            }
            writer.seal(None)
        }))
    }
}

fn error_of(stopped: Stopped) -> io::Error {
    stopped.error.unwrap_or_else(|| errno::refusal(errno::EFAULT, "not all of it was copied"))
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

/// A shadow in the making.
pub(super) struct ShadowWriter {
    file: File,
    stored: DirtyBitmap,
    whole: u64,
}

impl ShadowWriter {
    /// For a storage of so many bytes.
    pub(super) fn new(whole: u64) -> Result<io::Result<Self>> {
        let stored = DirtyBitmap::new(0, whole)?;
        let made = file::memfd("shadow", None).and_then(|file| file.set_len(padded(whole)).map(|()| file));
        Ok(made.map(|file| Self { file, stored, whole }))
    }

    /// Stores a run of pages, whose bytes the kernel reads.
    pub(super) fn store(&self, run: Range, bytes: *const u8) -> Result<(), Stopped> {
        kernel::write_file(&self.file, run.base(), bytes, usize_of(run.size()))?;
        self.stored.mark(run.base(), run.size());
        Ok(())
    }

    /// Nothing of it can be changed any more. What it has not is in the parent.
    pub(super) fn seal(self, parent: Option<Arc<Shadow>>) -> io::Result<Shadow> {
        file::seal(&self.file, SEAL_ALL)?;
        let (size, fd) = (usize_of(padded(self.whole)), self.file.as_raw_fd());
        let bytes = Span::reserve(size)?;
        // SAFETY: nothing was mapped into the span before.
        unsafe { bytes.map(0, size, PROT_READ, MAP_SHARED, fd, 0) }?;
        Ok(Shadow { stored: self.stored, whole: self.whole, bytes, file: Arc::new(self.file), parent })
    }
}

/// Whole pages.
fn padded(size: u64) -> u64 {
    size.checked_next_multiple_of(page_size()).unwrap_or(size)
}

/// Whether a page, whose bytes can be read, is zero.
pub(super) fn is_zero(page: Range, bytes: *const u8) -> bool {
    // SAFETY: the bytes of a live part, and as many zeroes: no page has more.
    unsafe { kernel::are_equal(bytes, ZEROES.as_ptr(), usize_of(page.size())) }
}
