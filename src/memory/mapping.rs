//! One mapping of a region's backing, made through vm-memory and unmapped when the last user lets go.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::advice;
use super::dax_window::DaxWindow;
use super::extent::HoleFinder;
use super::gate::Gate;
use super::mmap::{self, MappedPages};
use super::present::PresentPages;
use super::protection::{Pages, Protection};
use super::source::{self, Backing};
use super::tracking::Tracking;
use crate::model::error::Result;
use crate::model::int::{u64_of, usize_of};
use crate::model::range::Range;
use crate::model::region::{PROT_READ, PROT_WRITE, SharedRegion};
use crate::sys::copy::{self, Reach};
use crate::sys::fork::Forked;
use crate::sys::memory::{self, Advice};

/// The memory of a region. How it may be touched is said in `path.rs`.
#[derive(Debug)]
pub struct Mapping {
    /// First, so that it is dropped while the pages are there, which the kernel watches.
    tracking: Tracking,
    mapped: MappedPages,
    /// The first byte of the region, which may lie behind the start of the pages.
    start: *mut u8,
    backing: Backing,
    gate: Gate,
    protection: Protection,
    /// Of huge pages, those that are known to be there.
    present: PresentPages,
    holes: HoleFinder,
    window: Option<DaxWindow>,
    /// Copies that were given up because a userfaultfd handler did not answer, and that go on.
    pub(super) pending_copies: AtomicUsize,
}

// SAFETY: the pointer leads into the mapping, which is shared between threads by copies, atomics and the kernel only.
unsafe impl Send for Mapping {}
// SAFETY: as above; the pointer is never changed.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Opens what the region asks for and maps it.
    pub(super) fn new(region: &SharedRegion) -> Result<Self> {
        let backing = source::open(region)?;
        let mapped = mmap::map(region, &backing).map_err(|error| source::mmap_failed(region, &backing, &error))?;
        let start = mapped.mmap.as_ptr().wrapping_add(usize_of(backing.lead()));
        let window = mapped.own.filter(|_| backing.is_window).map(DaxWindow::new);
        let huge_pages = if backing.is_huge { usize_of(region.size().div_ceil(backing.page_size)) } else { 0 };
        let mapping = Self {
            tracking: Tracking::default(),
            present: PresentPages::new(huge_pages)?,
            holes: HoleFinder::new(&backing, region.size())?,
            mapped,
            start,
            backing,
            gate: Gate::default(),
            protection: Protection::new(region.prot_flags),
            window,
            pending_copies: AtomicUsize::new(0),
        };
        source::seal_mapped(region, &mapping.backing)?;
        if mapping.backing.is_foreign {
            // Others have it already, and may punch pages out.
            mapping.gate.close();
        }
        mapping.probe(region)?;
        Ok(mapping)
    }

    /// Adopted memory may be `VM_PFNMAP` or `memfd_secret`, which `process_vm_readv(2)` cannot copy.
    fn probe(&self, region: &SharedRegion) -> Result<()> {
        let is_readable = region.prot_flags & PROT_READ != 0;
        if !region.source.is_adopted() || !is_readable || self.backing.has_fault_handler {
            return Ok(());
        }
        match copy::probe(self.start.expose_provenance()) {
            Reach::Guarded => Ok(()),
            Reach::Special => Err(source::special(region)),
            Reach::None(error) => {
                Err(source::failed(region, "reading its first byte (process_vm_readv) failed", &error))
            }
        }
    }

    /// Binds and advises the memory as `new` asks, where that differs from what `old` asked.
    pub fn advise(&self, old: Option<&SharedRegion>, new: &SharedRegion) -> Result<()> {
        let Some(own) = self.mapped.own else { return Ok(()) };
        advice::apply(own.pages(), self.backing.is_huge, old, new)
    }

    /// Brings all pages in and keeps them in memory.
    pub(super) fn lock(&self, region: &SharedRegion) -> Result<()> {
        advice::lock(self.pages(), region)
    }

    /// The whole pages that the region lies in.
    pub(super) fn pages(&self) -> Pages {
        (self.mapped.mmap.as_ptr(), self.mapped.mmap.size())
    }

    /// The whole pages that part of the region lies in.
    pub(super) fn pages_of(&self, part: Range) -> Pages {
        let (host, size) = self.pages();
        let page_size = usize_of(self.backing.page_size);
        let (first, end) = (self.in_pages(part.base()), self.in_pages(part.end()));
        let first = first.abs_diff(first.checked_rem(page_size).unwrap_or_default());
        let end = end.checked_next_multiple_of(page_size).unwrap_or(size).min(size);
        (host.wrapping_add(first), end.abs_diff(first))
    }

    /// All of the region.
    pub(super) fn whole(&self) -> Range {
        Range::between(0, u64_of(self.pages().1).saturating_sub(self.backing.lead()))
    }

    fn numbers_of_pages(&self, part: Range) -> std::ops::Range<usize> {
        let number = |end: u64| usize_of(end.checked_div(self.backing.page_size).unwrap_or_default());
        number(part.base())..number(part.end().saturating_add(self.backing.page_size).saturating_sub(1))
    }

    /// Whether huge pages are known to be there.
    pub(super) fn is_present(&self, part: Range) -> bool {
        self.present.has(self.numbers_of_pages(part))
    }

    /// Brings the pages of a part in; of huge ones it is known from then on that they are there.
    pub(super) fn populate(&self, part: Range) -> io::Result<()> {
        let is_writable = self.prot_flags() & PROT_WRITE != 0;
        let (host, size) = self.pages_of(part);
        memory::advise(host, size, if is_writable { Advice::PopulateWrite } else { Advice::PopulateRead })?;
        // A private page that was only read is still the file's: the first write may find no page for its copy.
        if is_writable || !self.backing.is_private() || self.backing.file.is_none() {
            self.present.mark(self.numbers_of_pages(part));
        }
        Ok(())
    }

    /// The distance of a byte of the region from the start of the pages.
    fn in_pages(&self, offset: u64) -> usize {
        self.host(offset).addr().abs_diff(self.pages().0.addr())
    }

    /// The host address of a byte of the region.
    #[inline]
    pub fn host(&self, offset: u64) -> *mut u8 {
        self.start.wrapping_add(usize_of(offset))
    }

    /// Bytes a page.
    pub const fn page_size(&self) -> u64 {
        self.backing.page_size
    }

    /// The offset in its file at which the region begins; `None` for memory without a file.
    pub fn start_in_file(&self) -> Option<u64> {
        self.backing.file.as_ref().map(|_| self.backing.offset)
    }

    /// Whether a copy may wait for a disk, or for whoever answers its faults.
    pub const fn may_block(&self) -> bool {
        self.backing.may_block
    }

    /// The backing that was opened.
    pub(super) const fn backing(&self) -> &Backing {
        &self.backing
    }

    pub(super) const fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The window that the region is, if it is a DAX window.
    pub(super) const fn window(&self) -> Option<&DaxWindow> {
        self.window.as_ref()
    }

    /// The file and the offset at which the region begins in it. Others can punch and truncate it from here on as they like, so that
    /// memory that was direct until it was exported no longer is.
    ///
    /// Waits for direct copies in flight, so it must be called without the interpreter's lock.
    pub fn export_file(&self) -> Option<(Arc<File>, u64)> {
        let file = self.backing.file.as_ref()?;
        // Before the descriptor is out: a direct copy under way must end before anyone can punch.
        self.gate.close();
        Some((Arc::clone(file), self.backing.offset))
    }

    /// The holes of its file.
    pub(super) const fn holes(&self) -> &HoleFinder {
        &self.holes
    }

    /// The consumers, who want to know which pages are written.
    pub(super) const fn tracking(&self) -> &Tracking {
        &self.tracking
    }

    /// The pages, where this process mapped them.
    pub(super) fn own_pages(&self) -> Option<Pages> {
        self.mapped.own.map(|own| own.pages())
    }

    /// Whether all of a part has the protection bits; in a DAX window that is up to the files.
    pub(super) fn allows(&self, part: Range, bits: i32) -> Result<bool, Forked> {
        match &self.window {
            Some(window) => Ok(window.first_denied(part, bits)?.is_none()),
            None => Ok(self.prot_flags() & bits == bits),
        }
    }

    /// The protection of all pages; a lease keeps others from taking any away.
    pub fn prot_flags(&self) -> i32 {
        self.protection.flags()
    }

    /// Sets the protection of the whole mapping; a buffer's own is its owner's.
    ///
    /// # Safety
    /// No one touches the memory who relies on a protection that is taken away.
    pub(super) unsafe fn protect(&self, prot_flags: i32) -> io::Result<()> {
        let Some(own) = self.mapped.own else {
            self.protection.note(prot_flags);
            return Ok(());
        };
        // SAFETY: the pages of this mapping; the rest is the caller's promise.
        unsafe { self.protection.set(own.pages(), prot_flags) }
    }

    /// Runs `work` while the pages of a part can be read and written, and restores their protection.
    pub(super) fn with_write_access<T>(&self, part: Range, work: impl FnOnce() -> T) -> Result<io::Result<T>, Forked> {
        if let Some(buffer) = &self.backing.buffer {
            let what = "its buffer is read-only";
            let refused = || io::Error::new(io::ErrorKind::PermissionDenied, what);
            return Ok(if buffer.is_writable { Ok(work()) } else { Err(refused()) });
        }
        if self.window.is_some() {
            let what = "what a DAX window shows has its own protection";
            return Ok(Err(io::Error::new(io::ErrorKind::PermissionDenied, what)));
        }
        // SAFETY: pages of this mapping.
        unsafe { self.protection.lifted(self.pages_of(part), work) }
    }
}
