//! The kernel's notes of who stores where: the registration of a mapping with this process's userfaultfd.

use std::io;
use std::sync::{Arc, Weak};

use super::protection::Pages;
use super::source_error::failed;
use crate::model::error::{Error, Result};
use crate::model::region::SharedRegion;
use crate::model::room::Gathered;
use crate::sys::errno::{self, EBUSY};
use crate::sys::lock::Lock;
use crate::sys::pagemap::{Pagemap, Query};
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
    /// A scan and the protection of what it found are one step: a store between those of another thread would be protected unseen.
    scanning: Lock<()>,
}

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
    pub(super) fn new((host, size): Pages) -> Result<Self, NoWatch> {
        let kernel = kernel()?;
        kernel.userfault.register(host, size).map_err(|error| match errno::of(&error) {
            EBUSY => NoWatch::Taken,
            other => NoWatch::Kernel(other),
        })?;
        Ok(Self { kernel, host: host.expose_provenance(), size, scanning: Lock::new(()) })
    }

    fn host(&self) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(self.host)
    }

    /// Protects pages, those that are there or all, and calls `found` with the address and the size of runs that were stored to before.
    pub(super) fn protect(
        &self,
        (host, size): Pages,
        all: bool,
        found: &mut dyn FnMut(usize, usize),
    ) -> io::Result<()> {
        let _scanning = self.scanning.lock()?;
        self.kernel.pagemap.protect(host, size, all, found)
    }

    /// Registers pages anew that took the place of others.
    pub(super) fn renew(&self) -> io::Result<()> {
        self.kernel.userfault.register(self.host(), self.size)
    }

    /// The address and the size of each run of pages that were stored to since they were protected; they stay unprotected.
    pub(super) fn written(&self) -> Result<Vec<(usize, usize)>, CollectError> {
        let _scanning = self.scanning.lock().map_err(io::Error::from)?;
        let mut runs = Gathered::default();
        let mut add = |start, size| runs.add((start, size));
        self.kernel.pagemap.scan(self.host(), self.size, Query::Written, &mut add)?;
        Ok(runs.finish()?)
    }

    /// Protects pages that the caller looks at behind this, each run by itself: joined over a gap, pages would be protected that were
    /// stored to; and one call for all makes KVM forget every page of the guest's.
    pub(super) fn protect_run(&self, (host, size): Pages) -> io::Result<()> {
        let _scanning = self.scanning.lock()?;
        self.kernel.userfault.protect(host, size)
    }

    /// Calls `found` with the address and the size of each run of pages that were stored to since the last time, and protects them.
    ///
    /// What is read behind this has every store that was found, and a store that comes later is found the next time.
    pub(super) fn collect(&self, found: &mut dyn FnMut(usize, usize)) -> Result<(), CollectError> {
        let _scanning = self.scanning.lock().map_err(io::Error::from)?;
        let mut runs = Gathered::default();
        let mut add = |start, size| runs.add((start, size));
        self.kernel.pagemap.scan(self.host(), self.size, Query::Written, &mut add)?;
        let runs = runs.finish()?;
        // Told first: when the protection of some fails, they are found once more, and none is lost.
        runs.iter().for_each(|(start, size)| found(*start, *size));
        for (start, size) in runs {
            // Each run by itself: over a gap, pages would be protected that were stored to since the scan.
            self.kernel.userfault.protect(std::ptr::with_exposed_provenance_mut(start), size)?;
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
