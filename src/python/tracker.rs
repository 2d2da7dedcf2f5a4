//! `GuestMemory.dirty`, and the `DirtyTracker` that it starts.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFrozenSet, PyTuple};

use super::argument::Argument;
use super::calls::{self, python_call};
use super::convert::{self, Address, Size};
use super::dirty::PyDirtyPages;
use super::import_once::ImportOnce;
use super::interrupt::detached;
use super::keywords;
use super::leaving::context_manager;
use super::seconds::{Poll, Timeout};
use super::space_ref::SpaceRef;
use crate::memory::tracking::Consumer;
use crate::memory::watch;
use crate::model::dirty::DirtyPages;
use crate::model::error::Result;
use crate::model::ids::{ConsumerId, Incarnation};
use crate::model::invalid::Invalid;
use crate::model::quote::quoted;
use crate::model::tracking::{self, TrackingMode};
use crate::space::tracker::{UNSEEN_WRITERS, pages_of};
use crate::sys::lock::Lock;

/// The tracking of writes to a guest memory: `GuestMemory.dirty`.
#[pyclass(frozen, weakref, name = "_Dirty", module = "dbs_address_space._core")]
#[derive(Debug)]
pub struct PyDirty {
    pub(super) space: SpaceRef,
    pub(super) incarnation: Incarnation,
}

#[pymethods]
impl PyDirty {
    /// Begins to follow the writes to all memory, and to what is plugged from now on; any number of trackers may, each finds every write.
    ///
    /// `mode` says who sees them: `"pagemap"` is the kernel, by this process's page tables (`PAGEMAP_SCAN`): verbs, views, NumPy, ctypes,
    /// Unicorn and KVM guests, exactly. `"kvm"` is KVM's log with this package's own writes, `"api"` the latter alone, where a writable view
    /// counts as written whole. `"auto"` takes the kernel where it can watch the memory, else `"kvm"`. `exact` also watches pages of files
    /// that are not in memory yet, which else count as written when they are first read. `page_size` is that of the results: by default the
    /// largest of the memory. A vhost-user back-end writes unseen: beside one, `trust=("vhost-user",)` says that this is known;
    /// `"share"` stands for followers that may write, and `"leader"` for all other processes of a follower.
    /// Raises `Unsupported` for memory that the mode can't watch, and `NotMapped`.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> with memory.dirty.start("api") as tracker:
    /// ...     memory.write_u8(0x1234, 1)
    /// ...     [str(pages) for pages in tracker.collect()]
    /// ['[0x1000, 0x2000)']
    #[pyo3(signature = (mode="auto", *, exact=false, page_size=None, trust=None), text_signature = "($self, mode='auto', *, exact=False, page_size=None, trust=())")]
    fn start(
        &self,
        py: Python<'_>,
        mode: &str,
        exact: bool,
        page_size: Option<Size>,
        trust: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<PyTracker> {
        let is_trusting = is_trusting(trust)?;
        let consumer = Consumer { id: ConsumerId::unique(), mode: TrackingMode::parse(mode)?, is_exact: exact };
        if !is_trusting {
            let how = |name: &str| format!("trust=(\"{name}\",), for a set that lacks what it writes");
            self.space.refuse_unseen_writers(how)?;
        }
        let page_size = page_size.map_or_else(|| self.space.largest_page(self.incarnation), |size| Ok(size.0))?;
        DirtyPages::new(page_size, Vec::new())?;
        detached(py, None, |interrupt| self.space.start_tracking(self.incarnation, consumer, interrupt))?;
        Ok(PyTracker {
            space: self.space.clone(),
            incarnation: self.incarnation,
            id: consumer.id,
            page_size,
            generation: Lock::new(self.space.map().generation().0),
            is_stopped: AtomicBool::new(false),
        })
    }

    /// Why each source can't be had on this machine, by its name; `None` for those that are there.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory.dirty.available()["api"] is None
    /// True
    fn available<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let sources = PyDict::new(py);
        sources.set_item("api", py.None())?;
        sources.set_item("pagemap", watch::available().err().map(|why| format!("it needs {}", why.how())))?;
        let is_logged = self.space.is_logged(self.incarnation)?;
        sources.set_item(
            "kvm",
            (!is_logged).then_some("no machine logs: call space.attach_kvm(vm, dirty_log=True) first"),
        )?;
        Ok(sources)
    }
}

/// Whether the names in `trust=` are of writers that nobody sees; another name is refused, for it would change nothing.
pub(super) fn is_trusting(trust: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
    let names = convert::items_or_none(trust, "names", |item| convert::text(&item)).argument("trust")?;
    match names.iter().find(|name| !UNSEEN_WRITERS.contains(&name.as_str())) {
        None => Ok(!names.is_empty()),
        Some(name) => {
            let known = UNSEEN_WRITERS.map(quoted).join(", ");
            Err(Invalid::argument(format!("trust= has {}, which is none of {known}", quoted(name))).into())
        }
    }
}

/// Finds the pages that were written since it was started, or since they were collected; used in `with`, it stops.
///
/// Made by `GuestMemory.dirty.start`. It keeps nothing in the space: what is unplugged leaves its set, what is plugged counts as written
/// where it has data. After `GuestMemory.close()` it raises `NotMapped`, and `ForkedProcess` in a forked child.
///
/// >>> from dbs_address_space import AddressSpaceBuilder
/// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
/// >>> tracker = memory.dirty.start("api")
/// >>> memory.fill(0x3000, "8KiB", 0xff)
/// >>> tracker.collect().count, tracker.collect().count
/// (2, 0)
/// >>> tracker.stop()
#[pyclass(frozen, weakref, name = "DirtyTracker", module = "dbs_address_space")]
#[derive(Debug)]
pub struct PyTracker {
    space: SpaceRef,
    incarnation: Incarnation,
    id: ConsumerId,
    page_size: u64,
    generation: Lock<u64>,
    is_stopped: AtomicBool,
}

impl PyTracker {
    fn found(&self, py: Python<'_>, is_look: bool) -> PyResult<PyDirtyPages> {
        let how = (self.page_size, is_look);
        let found = detached(py, None, |interrupt| self.space.collect(self.incarnation, self.id, how, interrupt));
        // Behind it: one that is stopped meanwhile has found a part of the pages.
        self.check_follows()?;
        let found = found?;
        *self.generation.lock()? = found.generation.0;
        Ok(found.pages.into())
    }

    /// Refuses an answer that would lack all writes since the end.
    fn check_follows(&self) -> Result<()> {
        // Acquire: whoever learned of the end from another thread finds it here.
        if !self.is_stopped.load(Ordering::Acquire) {
            return Ok(());
        }
        let message = "the tracker was stopped, by stop() or at the end of its with block, and knows of no writes: collect before that";
        Err(Invalid::argument(message).into())
    }

    fn observers(&self) -> Result<(BTreeSet<&'static str>, bool)> {
        self.space.observers(self.incarnation, self.id)
    }
}

context_manager!(PyTracker, PyTracker::stop);

#[pymethods]
impl PyTracker {
    /// The pages that were written since the last time; from here on a new write is found again. What is read behind this call has all of them.
    ///
    /// When it raises, no page is lost: the next call finds them. A tracker that was stopped raises `InvalidArgument`.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> with memory.dirty.start("api") as tracker:
    /// ...     memory.write_u64(0x5008, 1)
    /// ...     0x5000 in tracker.collect()
    /// True
    fn collect(&self, py: Python<'_>) -> PyResult<PyDirtyPages> {
        self.found(py, false)
    }

    /// The same, and keeps them for the next `collect()`.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> with memory.dirty.start("api") as tracker:
    /// ...     memory.write_u64(0x5008, 1)
    /// ...     tracker.peek().count, tracker.collect().count
    /// (1, 1)
    fn peek(&self, py: Python<'_>) -> PyResult<PyDirtyPages> {
        self.found(py, true)
    }

    /// `peek()` for asyncio, once a page of a range was written: a coroutine that waits for it, and gives the written pages of the range.
    ///
    /// It looks every `poll` seconds at what is followed, and after `timeout` seconds (`None`: never) gives none. Cancelling it
    /// ends the wait; stopping the tracker does, as `InvalidArgument`.
    /// Raises what `peek()` raises, and `InvalidAddressRange`.
    ///
    /// >>> import asyncio
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> async def main():
    /// ...     with memory.dirty.start("api") as tracker:
    /// ...         waiter = asyncio.create_task(tracker.wait(0x5000, "8KiB"))
    /// ...         await asyncio.sleep(0)
    /// ...         memory.write_u8(0x6001, 1)
    /// ...         return [str(pages) for pages in await waiter]
    /// >>> asyncio.run(main())
    /// ['[0x6000, 0x7000)']
    #[pyo3(signature = (addr, size, *, timeout=None, poll=Poll::DEFAULT, **others), text_signature = "($self, addr, size, *, timeout=None, poll=0.001)")]
    fn wait<'py>(
        slf: &Bound<'py, Self>,
        addr: Address,
        size: Size,
        timeout: Option<Timeout>,
        poll: Poll,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        keywords::refuse_of::<Self>("wait", others)?;
        let _guard = python_call();
        static WAIT: ImportOnce = ImportOnce::new();
        // Here already: a wrong argument leaves no coroutine that nobody awaits.
        let range = convert::range(addr, size)?;
        let place = PyDirtyPages::from(pages_of(&[range], slf.get().page_size, Vec::new())?.with_exactness(true));
        let wait = WAIT.import(slf.py(), "dbs_address_space.aio", "wait_written")?;
        let timeout = timeout.map(|timeout| timeout.0.as_secs_f64());
        wait.call1((slf, place, timeout, poll.0.as_secs_f64()))
    }

    /// Gives pages back that could not be used, such as those of a backup that failed: the next `collect()` finds them again.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder, DirtyPages
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> with memory.dirty.start("api") as tracker:
    /// ...     tracker.put_back(DirtyPages([(0x2000, 0x1000)]))
    /// ...     tracker.collect().count
    /// 1
    fn put_back(&self, py: Python<'_>, pages: &PyDirtyPages) -> PyResult<()> {
        self.check_follows()?;
        let ranges = pages.inner().ranges()?;
        Ok(calls::detach(py, || self.space.put_back(self.incarnation, self.id, &ranges))?)
    }

    /// Ends it; a second time does nothing. From then on `collect`, `peek` and `put_back` raise `InvalidArgument`.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory.dirty.start("api").stop()
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        // Release: as in `check_follows`.
        self.is_stopped.store(true, Ordering::Release);
        match detached(py, None, |interrupt| self.space.stop_tracking(self.incarnation, self.id, interrupt)) {
            // The memory has gone, and the tracker with it.
            Err(_) if !self.space.has_incarnation(self.incarnation) => Ok(()),
            stopped => stopped,
        }
    }

    /// The observers of the writes, a sorted tuple: `"api"`, `"kvm"`, `"pagemap"`.
    #[getter]
    fn sources<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.observers()?.0)
    }

    /// Writers whom none of the sources sees.
    #[getter]
    fn blind_to<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyFrozenSet>> {
        PyFrozenSet::new(py, tracking::blind_to(&self.observers()?.0.into_iter().collect::<Vec<_>>()))
    }

    /// Whether the pages that are found are those that were written by whom the sources see, none less and none more.
    #[getter]
    fn is_exact(&self) -> PyResult<bool> {
        Ok(self.observers()?.1)
    }

    /// The generation of the map that the last set belongs to.
    #[getter]
    fn generation(&self) -> PyResult<u64> {
        Ok(*self.generation.lock()?)
    }

    fn __repr__(&self) -> String {
        match self.observers() {
            Ok((sources, _)) if !sources.is_empty() => {
                format!("DirtyTracker({})", sources.into_iter().collect::<Vec<_>>().join("+"))
            }
            _ => "DirtyTracker(stopped)".into(),
        }
    }
}
