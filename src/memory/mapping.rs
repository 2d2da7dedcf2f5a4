//! One mapping of a region's backing, made through vm-memory and unmapped when the last user lets go.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice, volatile_memory};

use super::source::{self, Backing};
use crate::model::error::{Error, Result};
use crate::model::interrupt::Interrupt;
use crate::model::region::{MAP_POPULATE, PROT_READ, PROT_WRITE, SharedRegion};
use crate::sys::fork::Process;
use crate::sys::memory::{self, Advice};

/// Between two looks at the caller's [`Interrupt`], this much is populated.
const POPULATE_STEP: u64 = 64 << 20;

/// The memory of a region, and how it may be touched.
#[derive(Debug)]
pub struct Mapping {
    mmap: MmapRegion<()>,
    backing: Backing,
    /// Set for good once a touch may fault.
    guarded: AtomicBool,
    /// Held, shared, by direct copies of memory that may become guarded.
    copying: RwLock<()>,
    process: Process,
    /// The protection of all pages.
    prot_flags: AtomicI32,
    /// Held while the protection is changed, or lifted for a forced write.
    protecting: Mutex<()>,
}

/// Maps regions one after the other and tells how far it is.
#[allow(missing_debug_implementations, reason = "borrows a caller's trait object")]
pub struct Mapper<'a> {
    interrupt: &'a dyn Interrupt,
    done: u64,
    total: u64,
}

impl<'a> Mapper<'a> {
    /// A mapper for regions of `total` bytes.
    pub fn new(interrupt: &'a dyn Interrupt, total: u64) -> Self {
        Self { interrupt, done: 0, total }
    }

    /// Maps, places and populates one region.
    pub fn map(&mut self, region: &SharedRegion) -> Result<Mapping> {
        let mapping = Mapping::new(region)?;
        mapping.advise(None, region)?;
        let before = self.done;
        if region.perm_flags & MAP_POPULATE != 0 && region.prot_flags & (PROT_READ | PROT_WRITE) != 0 {
            self.populate(region, &mapping)?;
        }
        self.done = before.saturating_add(region.size());
        self.interrupt.progress("map", self.done, self.total)?;
        Ok(mapping)
    }

    fn populate(&mut self, region: &SharedRegion, mapping: &Mapping) -> Result<()> {
        let advice = if region.prot_flags & PROT_WRITE != 0 { Advice::PopulateWrite } else { Advice::PopulateRead };
        let step = POPULATE_STEP.max(mapping.backing.page_size);
        let mut offset = 0;
        while offset < region.size() {
            let size = step.min(region.size().saturating_sub(offset));
            memory::advise(mapping.host(offset), usize_of(size), advice).map_err(|error| {
                source::failed(region, "populating its pages (MADV_POPULATE_WRITE, Linux 5.14) failed", &error)
            })?;
            offset = offset.saturating_add(size);
            self.done = self.done.saturating_add(size);
            self.interrupt.progress("populate", self.done, self.total)?;
        }
        Ok(())
    }
}

impl Mapping {
    fn new(region: &SharedRegion) -> Result<Self> {
        let backing = source::open(region)?;
        let mut builder = MmapRegionBuilder::new_with_bitmap(usize_of(region.size()), ())
            .with_mmap_prot(region.prot_flags)
            .with_mmap_flags(backing.flags)
            .with_hugetlbfs(backing.is_huge);
        if let Some(file) = &backing.file {
            builder = builder.with_file_offset(FileOffset::from_arc(Arc::clone(file), backing.offset));
        }
        let mmap = builder.build().map_err(|error| source::mmap_failed(region, &backing, &io_error(error)))?;
        let guarded = AtomicBool::new(backing.guarded);
        let prot_flags = AtomicI32::new(region.prot_flags);
        Ok(Self {
            mmap,
            backing,
            guarded,
            copying: RwLock::default(),
            process: Process::current(),
            prot_flags,
            protecting: Mutex::default(),
        })
    }

    /// Places and advises the memory as `new` asks, where that differs from what `old` asked.
    pub fn advise(&self, old: Option<&SharedRegion>, new: &SharedRegion) -> Result<()> {
        let (host, size) = (self.host(0), self.mmap.size());
        let node = new.host_numa_node_id;
        if node != old.and_then(|old| old.host_numa_node_id) {
            memory::prefer_node(host, size, node).map_err(|error| no_node(new, &error))?;
        }
        let advise = |wanted: bool, before: bool, advice: Advice, what: &str| match wanted == before {
            true => Ok(()),
            false => memory::advise(host, size, advice).map_err(|error| source::failed(new, what, &error)),
        };
        let transparent = |region: &SharedRegion| region.is_hugepage && !self.backing.is_huge;
        let (huge, merge) = (transparent(new), new.is_mergeable);
        advise(huge, old.is_some_and(transparent), Advice::HugePages(huge), "advising transparent huge pages failed")?;
        advise(
            merge,
            old.is_some_and(|old| old.is_mergeable),
            Advice::Mergeable(merge),
            "advising samepage merging failed",
        )
    }

    /// The host address of a byte of the region.
    #[inline]
    #[must_use]
    pub fn host(&self, offset: u64) -> *mut u8 {
        self.mmap.as_ptr().wrapping_add(usize_of(offset))
    }

    /// Part of it, for vm-memory's own verbs.
    pub fn slice(&self, offset: u64, count: usize) -> volatile_memory::Result<VolatileSlice<'_, ()>> {
        self.mmap.get_slice(usize_of(offset), count)
    }

    /// The number of bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.mmap.size()
    }

    /// The file and where in it the region begins.
    #[must_use]
    pub fn file_offset(&self) -> Option<&FileOffset> {
        self.mmap.file_offset()
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
        if self.backing.is_huge && !self.guarded.swap(true, Ordering::AcqRel) && self.process.is_current() {
            drop(self.copying.write());
        }
        Some(fd)
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
        let copying = self.copying.read().unwrap_or_else(PoisonError::into_inner);
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
        !self.backing.guarded && !self.backing.is_huge
    }

    /// The file that guarded reads read; `None` where the mapping shows something else than the file.
    #[must_use]
    pub fn readable_file(&self) -> Option<(&File, u64)> {
        let file = self.backing.file.as_ref().filter(|_| self.backing.is_regular && !self.backing.is_private())?;
        Some((file, self.backing.offset))
    }

    /// The protection of all pages; a lease keeps others from taking any away.
    #[must_use]
    pub fn prot_flags(&self) -> i32 {
        self.prot_flags.load(Ordering::Acquire)
    }

    /// Sets the protection of the whole mapping.
    ///
    /// A change adds protections before anyone may use them, and takes one away once the leases are closed and no reader is left.
    pub fn protect(&self, prot_flags: i32) -> io::Result<()> {
        let _protecting = self.protecting.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the range is this mapping, and no access that relies on a protection taken away is under way, as said above.
        unsafe { memory::protect(self.host(0), self.mmap.size(), prot_flags)? };
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
        let _protecting = self.lock_protection()?;
        let before = self.prot_flags();
        let first = offset & !self.backing.page_size.saturating_sub(1);
        let end =
            offset.saturating_add(u64::try_from(size).unwrap_or(u64::MAX)).next_multiple_of(self.backing.page_size);
        let (host, length) = (self.host(first), usize_of(end.saturating_sub(first)));
        let lifted = before | PROT_READ | PROT_WRITE;
        // SAFETY: whole pages of this mapping; protections are only added while others read.
        unsafe { memory::protect(host, length, lifted)? };
        let result = work();
        // SAFETY: back to what everyone else relies on.
        unsafe { memory::protect(host, length, before)? };
        Ok(result)
    }

    /// In a forked child the lock may have been left taken by a thread that is not there: then the write is refused.
    fn lock_protection(&self) -> io::Result<MutexGuard<'_, ()>> {
        if self.process.is_current() {
            return Ok(self.protecting.lock().unwrap_or_else(PoisonError::into_inner));
        }
        self.protecting
            .try_lock()
            .map_err(|_| io::Error::new(io::ErrorKind::WouldBlock, "locked by a thread of the parent process"))
    }
}

/// Leave to touch memory, which stays free of faults meanwhile.
#[derive(Debug)]
pub struct Direct<'a>(#[allow(dead_code, reason = "held, not read")] Option<RwLockReadGuard<'a, ()>>);

fn no_node(region: &SharedRegion, error: &io::Error) -> Error {
    let node = region.host_numa_node_id.map_or_else(|| "any NUMA node".into(), |node| format!("NUMA node {node}"));
    let message =
        format!("cannot map {region}: the host has no memory on {node} (/sys/devices/system/node/has_memory): {error}");
    Error::Numa { message, errno: error.raw_os_error().unwrap_or_default(), region: Arc::clone(region) }
}

fn io_error(error: MmapRegionError) -> io::Error {
    match error {
        MmapRegionError::Mmap(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidInput, other.to_string()),
    }
}

/// The crate builds for 64-bit hosts only, where every size fits.
#[inline]
#[must_use]
pub fn usize_of(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}
