//! The kernel's notes of who stores where: the registration of a mapping with this process's userfaultfd.

use std::io;
use std::sync::{Arc, Weak};

use super::protection::Pages;
use super::source_error::failed;
use crate::model::error::{Error, Result};
use crate::model::region::SharedRegion;
use crate::model::room::{self, Gathered, Room};
use crate::sys::errno::{self, EBUSY};
use crate::sys::lock::Lock;
use crate::sys::pagemap::{Pagemap, Query, Unprotected};
use crate::sys::userfault::Userfault;

/// The descriptors that all watches of the process share, whatever the number of regions.
#[derive(Debug)]
struct Kernel {
    userfault: Userfault,
    pagemap: Pagemap,
}

/// Pages whose stores the kernel notes, through whichever mapping of this process they come: from Python, from a guest, from the kernel.
#[derive(Debug)]
pub(super) struct Watch {
    kernel: Arc<Kernel>,
    host: usize,
    size: usize,
    /// Whether pages may leave the page tables, and their bytes stay.
    is_shared: bool,
    /// The runs that the last scan found to be there. A scan and the protection of what it found are one step: a store between those of
    /// another thread would be protected unseen.
    scanning: Lock<Vec<Unprotected>>,
}

/// Bytes whose pages the kernel tells apart in the time of one more call.
const CALL: usize = 4 << 20;

/// Why pages can't be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoWatch {
    /// The kernel has not what it takes, or forbids it: the error number.
    Kernel(i32),
    /// Another userfaultfd has the pages.
    Taken,
    /// Someone else made the memory, or maps files into it.
    Foreign,
}

impl NoWatch {
    /// The remedy.
    pub fn how(self) -> String {
        match self {
            Self::Kernel(errno::EPERM) => {
                "a process that may call userfaultfd(2): this one's seccomp filter or user forbids it".into()
            }
            Self::Kernel(_) => {
                "Linux 6.7 or newer, which has PAGEMAP_SCAN and userfaultfd's asynchronous write protection".into()
            }
            Self::Taken => "memory that no other userfaultfd is registered on".into(),
            Self::Foreign => "memory that this package mapped, other than a DAX window".into(),
        }
    }
}

impl Kernel {
    fn open() -> io::Result<Self> {
        Ok(Self { userfault: Userfault::open()?, pagemap: Pagemap::open()? })
    }

    /// The one of this process, while there are watches: a forked child has its parent's at first, which acts on the parent.
    fn current() -> io::Result<Arc<Self>> {
        static CURRENT: Lock<Weak<Kernel>> = Lock::new(Weak::new());
        let mut current = CURRENT.lock()?;
        let ours = current.upgrade().filter(|kernel| kernel.pagemap.is_ours());
        let kernel = ours.map_or_else(|| Self::open().map(Arc::new), Ok)?;
        *current = Arc::downgrade(&kernel);
        Ok(kernel)
    }
}

fn kernel() -> Result<Arc<Kernel>, NoWatch> {
    Kernel::current().map_err(|error| NoWatch::Kernel(errno::of(&error)))
}

/// Whether pages can be watched at all.
pub fn available() -> Result<(), NoWatch> {
    kernel().map(drop)
}

/// Calls `found` with the start and the size of each run of pages that a query asks for.
pub(super) fn scan(
    (host, size): Pages,
    query: Query,
    found: &mut dyn FnMut(usize, usize),
) -> Result<io::Result<()>, NoWatch> {
    let pagemap = Pagemap::open().map_err(|error| NoWatch::Kernel(errno::of(&error)))?;
    Ok(pagemap.scan(host, size, query, found))
}

impl Watch {
    /// Begins to watch whole pages of one mapping. None is protected yet: all that is there counts as written.
    pub(super) fn new((host, size): Pages, is_shared: bool) -> Result<Self, NoWatch> {
        let kernel = kernel()?;
        kernel.userfault.register(host, size).map_err(|error| match errno::of(&error) {
            EBUSY => NoWatch::Taken,
            other => NoWatch::Kernel(other),
        })?;
        Ok(Self { kernel, host: host.expose_provenance(), size, is_shared, scanning: Lock::new(Vec::new()) })
    }

    fn host(&self) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(self.host)
    }

    /// Protects pages, those that are there or all, and calls `found` with those that were not before.
    pub(super) fn protect(&self, (host, size): Pages, all: bool, found: &mut dyn FnMut(Unprotected)) -> io::Result<()> {
        let _scanning = self.scanning.lock()?;
        self.kernel.pagemap.protect(host, size, all, found)
    }

    /// Registers pages anew that took the place of others.
    pub(super) fn renew(&self) -> io::Result<()> {
        self.kernel.userfault.register(self.host(), self.size)
    }

    /// The runs of pages that are not protected, and stay so: they were stored to since they were, or are in no page table.
    pub(super) fn written(&self) -> Result<Vec<Unprotected>, CollectError> {
        self.scan(&mut *self.scanning.lock().map_err(io::Error::from)?)
    }

    fn scan(&self, last: &mut Vec<Unprotected>) -> Result<Vec<Unprotected>, CollectError> {
        let found = if self.is_shared { self.told_apart(last)? } else { self.unprotected((self.host(), self.size))? };
        *last = room::collected(found.iter().copied().filter(|run| run.is_there))?;
        Ok(found)
    }

    fn unprotected(&self, (host, size): Pages) -> Result<Vec<Unprotected>, CollectError> {
        let mut runs = Gathered::default();
        self.kernel.pagemap.unprotected(host, size, self.is_shared, &mut |run| runs.add(run))?;
        Ok(runs.finish()?)
    }

    /// The unprotected runs, of which only those are looked at closely that the last scan did not find to be there.
    fn told_apart(&self, last: &[Unprotected]) -> Result<Vec<Unprotected>, CollectError> {
        let mut runs = Gathered::default();
        self.kernel.pagemap.touched(self.host(), self.size, &mut |start, size| {
            runs.add(Unprotected { start, size, is_there: true });
        })?;
        let runs = runs.finish()?;
        let is_known = |run: &Unprotected| {
            let before = last.partition_point(|known| known.start <= run.start).checked_sub(1);
            before.and_then(|index| last.get(index)).is_some_and(|known| known.end() >= run.end())
        };
        let calls = runs.iter().filter(|run| !is_known(run)).count();
        if calls.saturating_mul(CALL) > self.size {
            return self.unprotected((self.host(), self.size));
        }
        let mut found = Vec::new();
        for run in &runs {
            if is_known(run) {
                found.add(*run)?;
            } else {
                found.add_all(self.unprotected((std::ptr::with_exposed_provenance_mut(run.start), run.size))?)?;
            }
        }
        Ok(found)
    }

    /// Protects pages that the caller looks at behind this, each run by itself: joined over a gap, pages would be protected that were
    /// stored to; and one call for all makes KVM forget every page of the guest's.
    pub(super) fn protect_run(&self, (host, size): Pages) -> io::Result<()> {
        let _scanning = self.scanning.lock()?;
        self.kernel.userfault.protect(host, size)
    }

    /// Calls `found` with the runs of pages that are not protected, and protects those that were stored to since the last time.
    ///
    /// What is read behind this has every store that was found, and a store that comes later is found the next time.
    pub(super) fn collect(&self, found: &mut dyn FnMut(Unprotected)) -> Result<(), CollectError> {
        let mut last = self.scanning.lock().map_err(io::Error::from)?;
        let runs = self.scan(&mut last)?;
        // Told first: when the protection of some fails, they are found once more, and none is lost.
        runs.iter().for_each(|run| found(*run));
        for run in runs.iter().filter(|run| run.is_there) {
            // Each run by itself: over a gap, pages would be protected that were stored to since the scan.
            self.kernel.userfault.protect(std::ptr::with_exposed_provenance_mut(run.start), run.size)?;
        }
        Ok(())
    }
}

/// A collection that failed; what was found before is not lost.
#[derive(Debug)]
pub(super) enum CollectError {
    /// The kernel refused.
    Kernel(io::Error),
    /// There is not room for so many runs.
    Room(Error),
}

impl CollectError {
    /// The error of a region.
    pub(super) fn of(self, region: &SharedRegion) -> Error {
        match self {
            Self::Kernel(error) => failed(region, "looking for its written pages (PAGEMAP_SCAN) failed", &error),
            Self::Room(error) => error,
        }
    }
}

impl From<io::Error> for CollectError {
    fn from(error: io::Error) -> Self {
        Self::Kernel(error)
    }
}

impl From<Error> for CollectError {
    fn from(error: Error) -> Self {
        Self::Room(error)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Refused in a forked child, whose pages were never registered.
        let _ = self.kernel.userfault.unregister(self.host(), self.size);
    }
}
