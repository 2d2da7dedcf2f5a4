//! One mapping of a region's backing, made through vm-memory and unmapped when the last user lets go.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use vm_memory::{FileOffset, VolatileMemory, VolatileSlice, volatile_memory};

use super::advice;
use super::dax_table::Window;
use super::dirty::{DirtyBitmap, DirtySource};
use super::mmap::{self, MappedPages};
use super::source::{self, Backing};
use crate::model::error::Result;
use crate::model::int::usize_of;
use crate::model::lock::{Lock, LockGuard, SharedGuard, SharedLock};
use crate::model::region::{PROT_READ, PROT_WRITE, RegionType, SharedRegion};
use crate::sys::copy::Reach;
use crate::sys::fork::Process;
use crate::sys::kvm_slot::StableBytes;
use crate::sys::memory;
use crate::sys::{copy, file, smaps};

/// The memory of a region, and how it may be touched.
#[derive(Debug)]
pub struct Mapping {
    placed: MappedPages,
    /// The first byte of the region, which may lie behind the start of the mapping.
    start: *mut u8,
    size: u64,
    file_offset: Option<FileOffset>,
    backing: Backing,
    /// Set for good once a touch may fault.
    guarded: AtomicBool,
    /// Held, shared, by direct copies of memory that may become guarded.
    copying: SharedLock<()>,
    process: Process,
    /// A touch may wait for a userfaultfd handler.
    has_fault_handler: bool,
    /// Accesses that were given up because that handler did not answer, and that go on.
    pub(super) pending_copies: AtomicUsize,
    /// The file through a description whose position is ours alone, to look for holes.
    seeker: OnceLock<Option<File>>,
    window: Option<Window>,
    /// Made when writes are first tracked, kept until the mapping goes.
    dirty: OnceLock<DirtyBitmap>,
    is_tracked: AtomicBool,
    /// The protection of all pages.
    prot_flags: AtomicI32,
    /// Held while the protection is changed, or lifted for a forced write.
    protecting: Lock<()>,
}

// SAFETY: the pointer leads into the mapping, which is shared between threads by copies, atomics and the kernel only.
unsafe impl Send for Mapping {}
// SAFETY: as above; the pointer is never changed.
unsafe impl Sync for Mapping {}

// SAFETY: what is mapped at `start` is unmapped when the mapping is dropped, and a buffer is kept by `backing`. What a DAX window maps
// over a part of itself is the same bytes to whoever looks.
unsafe impl StableBytes for Mapping {
    fn bytes(&self) -> *mut [u8] {
        std::ptr::slice_from_raw_parts_mut(self.start, usize_of(self.size))
    }
}

/// Bytes that are alike in one respect: whether a shared file has pages for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// It has, or it isn't known.
    Data(u64),
    /// It has not: they read as zeroes, and a touch would allocate them.
    Hole(u64),
}

impl Mapping {
    /// Opens what the region asks for and maps it.
    pub(super) fn new(region: &SharedRegion) -> Result<Self> {
        let backing = source::open(region)?;
        let placed = mmap::map(region, &backing).map_err(|error| source::mmap_failed(region, &backing, &error))?;
        let start = placed.mmap.as_ptr().wrapping_add(usize_of(backing.lead()));
        let file_offset = backing.file.as_ref().map(|file| FileOffset::from_arc(Arc::clone(file), backing.offset));
        let mapping = Self {
            has_fault_handler: backing.buffer.is_some()
                && smaps::has_fault_handler(start.addr(), usize_of(region.size())),
            placed,
            start,
            size: region.size(),
            file_offset,
            guarded: AtomicBool::new(backing.guarded),
            copying: SharedLock::default(),
            backing,
            process: Process::current(),
            pending_copies: AtomicUsize::new(0),
            seeker: OnceLock::new(),
            window: (region.region_type == RegionType::DaxMemory).then(Window::default),
            dirty: OnceLock::new(),
            is_tracked: AtomicBool::new(false),
            prot_flags: AtomicI32::new(region.prot_flags),
            protecting: Lock::default(),
        };
        source::seal_mapped(region, &mapping.backing)?;
        mapping.probe(region)?;
        Ok(mapping)
    }

    /// Memory that someone else made may be of a kind that the kernel copies for nobody.
    fn probe(&self, region: &SharedRegion) -> Result<()> {
        let is_probed = region.source.is_adopted() && region.prot_flags & PROT_READ != 0 && !self.has_fault_handler;
        match if is_probed { copy::probe(self.start.expose_provenance()) } else { Reach::Guarded } {
            Reach::Guarded => Ok(()),
            Reach::Special => Err(source::special(region)),
            Reach::None(error) => {
                Err(source::failed(region, "reading its first byte (process_vm_readv) failed", &error))
            }
        }
    }

    /// Places and advises the memory as `new` asks, where that differs from what `old` asked.
    pub fn advise(&self, old: Option<&SharedRegion>, new: &SharedRegion) -> Result<()> {
        if self.backing.buffer.is_some() {
            return Ok(());
        }
        let (host, size) = self.pages();
        advice::apply(host, size, self.backing.is_huge, old, new)
    }

    /// The whole pages that the region lies in: where they begin, and how many bytes they have.
    #[must_use]
    pub fn pages(&self) -> (*mut u8, usize) {
        (self.placed.mmap.as_ptr(), self.placed.mmap.size())
    }

    /// What is mapped into the region, when it is a DAX window.
    #[must_use]
    pub const fn window(&self) -> Option<&Window> {
        self.window.as_ref()
    }

    /// The host address of a byte of the region.
    #[inline]
    #[must_use]
    pub fn host(&self, offset: u64) -> *mut u8 {
        self.start.wrapping_add(usize_of(offset))
    }

    /// Part of it, for vm-memory's own verbs.
    pub fn slice(&self, offset: u64, count: usize) -> volatile_memory::Result<VolatileSlice<'_, ()>> {
        self.placed.mmap.get_slice(usize_of(offset.saturating_add(self.backing.lead())), count)
    }

    /// The file and where in it the region begins.
    #[must_use]
    pub const fn file_offset(&self) -> Option<&FileOffset> {
        self.file_offset.as_ref()
    }

    /// The backing that was opened.
    #[must_use]
    pub const fn backing(&self) -> &Backing {
        &self.backing
    }

    /// The descriptor, which others can now punch and truncate as they like: huge pages are guarded from here on.
    ///
    /// Waits for direct copies in flight, so it must be called without the interpreter's lock.
    #[must_use]
    pub fn export_descriptor(&self) -> Option<RawFd> {
        let fd = self.backing.file.as_ref()?.as_raw_fd();
        if self.backing.is_huge {
            self.guard();
        }
        Some(fd)
    }

    /// From here on accesses go through the kernel; waits for direct copies in flight, so never with the interpreter's lock.
    pub fn guard(&self) {
        if !self.guarded.swap(true, Ordering::AcqRel) && self.process.is_current() {
            drop(self.copying.write());
        }
    }

    /// Leave for a direct copy, for as long as it is held; `None` when the copy must go through the kernel.
    #[must_use]
    pub fn direct(&self) -> Option<Direct<'_>> {
        if self.is_always_direct() {
            return Some(Direct(None));
        }
        if self.is_guarded() {
            return None;
        }
        let copying = self.copying.read();
        (!self.is_guarded()).then_some(Direct(Some(copying)))
    }

    /// Whether accesses go through the kernel, because a touch may fault.
    #[inline]
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        self.guarded.load(Ordering::Acquire) || (self.backing.guarded_after_fork() && !self.process.is_current())
    }

    /// Whether it is and stays safe to touch, so that a look at [`is_guarded`](Self::is_guarded) is not needed again.
    #[must_use]
    pub fn is_always_direct(&self) -> bool {
        !self.backing.guarded && !self.backing.is_huge && !self.backing.dontfork
    }

    /// The file that guarded reads read; `None` where the mapping shows something else than the file.
    #[must_use]
    pub fn readable_file(&self) -> Option<(&File, u64)> {
        let file = self.backing.file.as_ref().filter(|_| self.backing.is_regular && !self.backing.is_private())?;
        Some((file, self.backing.offset))
    }

    /// Whether an access may wait for a userfaultfd handler that must not be waited for without end.
    #[must_use]
    pub const fn has_fault_handler(&self) -> bool {
        self.has_fault_handler
    }

    /// What lies at `offset`, as far as it goes: a hole of a shared file, or data.
    #[must_use]
    pub fn extent_at(&self, offset: u64) -> Extent {
        let all = Extent::Data(self.size.saturating_sub(offset));
        let Some((file, start)) = self.readable_file() else { return all };
        let Some(seeker) = self.seeker.get_or_init(|| file::reopen(file).ok()) else { return all };
        let position = start.saturating_add(offset);
        let size_to = |end: u64| end.saturating_sub(start).min(self.size).saturating_sub(offset);
        match file::next_data(seeker, position) {
            Some(data) if data > position => Extent::Hole(size_to(data)),
            Some(_) => Extent::Data(file::next_hole(seeker, position).map_or(self.size, size_to)),
            // Behind the end of a file that was truncated lies no hole, but a fault.
            None => match copy::length(file) {
                Ok(length) if length > position => Extent::Hole(size_to(length)),
                _ => all,
            },
        }
    }

    /// Whether [`extent_at`](Self::extent_at) tells holes from data: files of huge pages don't say.
    #[must_use]
    pub fn knows_holes(&self) -> bool {
        !self.backing.is_huge && self.seeker.get().is_some_and(Option::is_some)
    }

    /// Begins or ends the tracking of our own writes.
    pub(super) fn track(&self, is_tracked: bool) {
        if is_tracked && !self.is_tracked.load(Ordering::Acquire) {
            // What was marked the last time is old news.
            self.dirty.get_or_init(|| DirtyBitmap::new(self.size)).drain(&mut |_| ());
        }
        self.is_tracked.store(is_tracked, Ordering::Release);
    }

    /// The bitmap of our own writes, while they are tracked.
    #[must_use]
    pub fn dirty(&self) -> Option<&DirtyBitmap> {
        self.dirty.get().filter(|_| self.is_tracked.load(Ordering::Acquire))
    }

    /// Whether all of a range has the protection bits; in a DAX window that is up to the files.
    #[must_use]
    pub fn allows(&self, offset: u64, size: u64, bits: i32) -> bool {
        match &self.window {
            Some(window) => window.first_denied(offset, offset.saturating_add(size), bits).is_none(),
            None => self.prot_flags() & bits == bits,
        }
    }

    /// The protection of all pages; a lease keeps others from taking any away.
    #[must_use]
    pub fn prot_flags(&self) -> i32 {
        self.prot_flags.load(Ordering::Acquire)
    }

    /// Sets the protection of the whole mapping; a buffer's own is its owner's.
    ///
    /// A change adds protections before anyone may use them, and takes one away once the leases are closed and no reader is left.
    pub fn protect(&self, prot_flags: i32) -> io::Result<()> {
        let _protecting = self.protecting.lock();
        if self.backing.buffer.is_none() {
            // SAFETY: this mapping, and no access that relies on a protection taken away is under way, as said above.
            unsafe { memory::protect(self.placed.mmap.as_ptr(), self.placed.mmap.size(), prot_flags)? };
        }
        self.prot_flags.store(prot_flags, Ordering::Release);
        Ok(())
    }

    /// Runs `work` while the pages of a range are writable, and restores their protection.
    pub fn with_write_access(
        &self,
        offset: u64,
        size: usize,
        work: impl FnOnce() -> Result<()>,
    ) -> io::Result<Result<()>> {
        if self.backing.buffer.is_some() {
            return Ok(work());
        }
        if self.window.is_some() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "what a DAX window shows has its own protection",
            ));
        }
        let _protecting = self.lock_protection()?;
        let before = self.prot_flags();
        let (page_size, offset) = (self.backing.page_size, offset.saturating_add(self.backing.lead()));
        let first = offset & !page_size.saturating_sub(1);
        let end = offset.saturating_add(u64::try_from(size).unwrap_or(u64::MAX)).next_multiple_of(page_size);
        let (host, length) =
            (self.placed.mmap.as_ptr().wrapping_add(usize_of(first)), usize_of(end.saturating_sub(first)));
        let lifted = before | PROT_READ | PROT_WRITE;
        // SAFETY: whole pages of this mapping; protections are only added while others read.
        unsafe { memory::protect(host, length, lifted)? };
        let result = work();
        // SAFETY: back to what everyone else relies on.
        unsafe { memory::protect(host, length, before)? };
        Ok(result)
    }

    /// In a forked child the lock may have been left taken by a thread that is not there: then the write is refused.
    fn lock_protection(&self) -> io::Result<LockGuard<'_, ()>> {
        if self.process.is_current() {
            return Ok(self.protecting.lock());
        }
        self.protecting
            .try_lock()
            .ok_or_else(|| io::Error::new(io::ErrorKind::WouldBlock, "locked by a thread of the parent process"))
    }
}

/// The mapping through vm-memory; a buffer of the user's is only pointed at.
/// Leave to touch memory, which stays free of faults meanwhile.
#[derive(Debug)]
pub struct Direct<'a>(#[allow(dead_code, reason = "held, not read")] Option<SharedGuard<'a, ()>>);
