//! `AddressSpace`: the live space. Its queries are in `queries.rs`; the verbs about clients, free addresses and the like
//! lie beside the classes that they return.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::attachment::PyAttachment;
use super::base::{PyBase, regions_of, target};
use super::calls::python_call;
use super::convert::{self, Address};
use super::interrupt::detached;
use super::layout::PyLayout;
use super::leaving::{context_manager, patience};
use super::memory::PyMemory;
use super::region::PyRegion;
use super::region_objects::handed_over;
use super::registry::PyRegistry;
use super::seconds::Timeout;
use super::space_ref::SpaceRef;
use crate::model::error::Error;
use crate::model::format;
use crate::model::ids::{Generation, Incarnation};
use crate::model::region_map::RegionMap;
use crate::space::AddressSpace;
use crate::space::stats::SpaceStats;
use crate::sys::lock::Lock;
use crate::sys::once::Once;

/// A live guest physical address space: the regions that exist, their types, and the memory behind them.
///
/// `AddressSpace(layout)` begins without regions, `from_regions` with some; addresses and sizes are bytes, and ends are exclusive.
/// There is one immutable snapshot behind one atomic pointer: readers never wait and never see half a change, writers take turns,
/// and every change is published once or not at all. Every query of `AddressSpaceBase` is here too, on the current snapshot, and
/// `snapshot()` gives that map to keep. `map_memory()` gives the regions their memory.
///
/// All of it may be called from any thread. A change from inside a client's phase raises `ReentrantChange`. In a forked child
/// queries and memory work, and changes raise `ForkedProcess`. A space can't be pickled; its snapshot can.
///
/// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
/// >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
/// >>> space.insert_region(AddressSpaceRegion("ram", 0, "64MiB", name="ram0")).generation
/// 1
/// >>> with space.map_memory() as memory:
/// ...     memory.write(0x1000, b"hello")
/// ...     memory.read(0x1000, 5)
/// b'hello'
#[pyclass(frozen, weakref, name = "AddressSpace", module = "dbs_address_space")]
#[derive(Debug)]
pub struct PySpace {
    inner: SpaceRef,
    registry: Py<PyRegistry>,
    /// The object of the newest map that was asked for. Nothing in it leads back here, so that the garbage collector need not see it.
    current: ArcSwap<Py<PyBase>>,
    /// The handle of the memory, by incarnation.
    memory: Lock<Option<(Incarnation, Py<PyMemory>)>>,
    /// The ports, from when they are first asked for.
    ports: Once<Py<Self>>,
}

impl PySpace {
    pub(super) fn begin(py: Python<'_>, map: RegionMap) -> PyResult<Self> {
        Self::of(py, AddressSpace::with_map(map))
    }

    pub(super) fn of(py: Python<'_>, space: AddressSpace) -> PyResult<Self> {
        Self::sharing(py, SpaceRef::new(space), Py::new(py, PyRegistry::default())?)
    }

    /// Another handle of a space.
    fn sharing(py: Python<'_>, inner: SpaceRef, registry: Py<PyRegistry>) -> PyResult<Self> {
        let base = Py::new(py, PyBase::from(inner.map()))?;
        Ok(Self { inner, registry, current: ArcSwap::from_pointee(base), memory: Lock::new(None), ports: Once::new() })
    }

    pub(super) const fn inner(&self) -> &SpaceRef {
        &self.inner
    }

    pub(super) const fn registry(&self) -> &Py<PyRegistry> {
        &self.registry
    }

    pub(super) const fn port_space(&self) -> &Once<Py<Self>> {
        &self.ports
    }

    /// The object of a map, the cached one when it is of that generation.
    pub(super) fn base_of(&self, py: Python<'_>, map: &Arc<RegionMap>) -> PyResult<Py<PyBase>> {
        let cached = self.current.load();
        let (here, wanted) = (cached.get().map.generation(), map.generation());
        if here == wanted {
            return Ok(cached.clone_ref(py));
        }
        // Let go before an object is made, which may run Python code: that may want to replace the one cached.
        drop(cached);
        let base = Py::new(py, PyBase::from(Arc::clone(map)))?;
        // Another thread may have stored a newer one by now. Look-ups then find this one outdated, and it is replaced in its turn.
        if wanted > here {
            self.current.store(Arc::new(base.clone_ref(py)));
        }
        Ok(base)
    }

    /// Runs a query on the object of the current map, which must not call back: the map would be held meanwhile.
    #[inline]
    pub(super) fn query<T>(&self, py: Python<'_>, query: impl FnOnce(&PyBase) -> PyResult<T>) -> PyResult<T> {
        match self.cached() {
            Some(base) => query(base.get()),
            None => query(self.base_of(py, &self.inner.map())?.get()),
        }
    }

    /// The object of the current map.
    pub(super) fn base(slf: &Bound<'_, Self>) -> PyResult<Py<PyBase>> {
        slf.get().current(slf.py())
    }

    fn current(&self, py: Python<'_>) -> PyResult<Py<PyBase>> {
        match self.cached() {
            Some(cached) => Ok(cached.clone_ref(py)),
            None => self.base_of(py, &self.inner.map()),
        }
    }

    /// The cached object, when it is of the newest map.
    #[inline]
    fn cached(&self) -> Option<Guard<Arc<Py<PyBase>>>> {
        let cached = self.current.load();
        self.inner.is_current(&cached.get().map).then_some(cached)
    }

    fn memory_of(&self, py: Python<'_>, incarnation: Incarnation) -> PyResult<Py<PyMemory>> {
        if let Some((cached, memory)) = &*self.memory.lock()?
            && *cached == incarnation
        {
            return Ok(memory.clone_ref(py));
        }
        let memory = Py::new(py, PyMemory::new(self.inner.clone(), self.registry.clone_ref(py), incarnation))?;
        // The one before is dropped once the lock is free: its end may run Python code.
        let replaced = self.memory.lock()?.replace((incarnation, memory.clone_ref(py)));
        drop(replaced);
        Ok(memory)
    }
}

context_manager!(PySpace, |space, py| space.close(py, Some(Timeout(Duration::ZERO))));

#[pymethods]
impl PySpace {
    #[new]
    #[pyo3(signature = (layout, *others), text_signature = "(layout)")]
    fn new(layout: &Bound<'_, PyAny>, others: &Bound<'_, PyTuple>) -> PyResult<Self> {
        let py = layout.py();
        match layout.cast::<PyLayout>() {
            Ok(layout) if others.is_empty() => Self::begin(py, RegionMap::empty(layout.get().0.clone())),
            _ => {
                let how =
                    "AddressSpace(layout) begins empty: AddressSpace.from_regions(regions, layout) begins with regions";
                let given = layout.get_type().name()?;
                Err(PyTypeError::new_err(format!(
                    "AddressSpace takes one AddressSpaceLayout, not {given} and {} more; {how}",
                    others.len()
                )))
            }
        }
    }

    /// A space that begins with regions in any order.
    ///
    /// Raises `LayoutViolation`, `RegionOverlap` or `DuplicateName`.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> len(space), space.generation
    /// (1, 0)
    #[staticmethod]
    fn from_regions(py: Python<'_>, regions: &Bound<'_, PyAny>, layout: &Bound<'_, PyLayout>) -> PyResult<Self> {
        Self::begin(py, RegionMap::from_regions(regions_of(regions)?, layout.get().0.clone())?)
    }

    /// Another handle of the space of a memory, for the package's own handles: its ports are others.
    #[staticmethod]
    fn _of_memory(py: Python<'_>, memory: &Bound<'_, PyMemory>) -> PyResult<Self> {
        let (inner, registry) = memory.get().owner(py);
        Self::sharing(py, inner, registry)
    }

    /// The current map as an immutable value: one atomic load.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout
    /// >>> AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45)).snapshot()
    /// AddressSpaceBase(0 regions, 0 B RAM, last_addr 0x0, generation 0)
    fn snapshot(&self, py: Python<'_>) -> PyResult<Py<PyBase>> {
        self.current(py)
    }

    /// Adds a region and returns the map just published; in a mapped space its memory is there before anyone sees it.
    ///
    /// Raises `LayoutViolation`, `RegionOverlap`, `DuplicateName`; in a mapped space also `Misaligned`, `BackingError`,
    /// `HugePagesShort`, `NumaError`. Then nothing has changed.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> 0x1000 in space.insert_region(AddressSpaceRegion("ram", 0, "1MiB"))
    /// True
    fn insert_region(&self, py: Python<'_>, region: &Bound<'_, PyRegion>) -> PyResult<Py<PyBase>> {
        // Noted before the change: its clients are shown the very object that the caller inserted.
        let region = handed_over(region)?;
        let map = detached(py, None, |interrupt| self.inner.insert(region, interrupt))?;
        self.base_of(py, &map)
    }

    /// Removes a region, given by its exact base, its name, an equal region or an `UnplugRequest`, and returns the map just published.
    ///
    /// In a mapped space its memory is unmapped; once this has returned no late write can reach it. A region that views, arrays or
    /// long accesses hold is `RegionBusy`, at once or after `timeout` seconds (`None`: never); Ctrl-C ends the wait. Raises
    /// `UnmappedAddress` when it isn't there, for a name the `UnknownName` that is a `KeyError` too.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> len(space.remove_region(0))
    /// 0
    #[pyo3(signature = (x, *, timeout=Some(Timeout(Duration::ZERO))), text_signature = "($self, x, *, timeout=0.0)")]
    fn remove_region(&self, py: Python<'_>, x: &Bound<'_, PyAny>, timeout: Option<Timeout>) -> PyResult<Py<PyBase>> {
        let (target, patience) = (target(x, "x")?, patience(timeout));
        let map = detached(py, None, |interrupt| self.inner.remove(&target, patience, interrupt))?;
        self.base_of(py, &map)
    }

    /// Puts `new` in the place of `old` (exact base, name or region) and returns the map just published; memory and bytes stay.
    ///
    /// Range, type and backing must be the same (`InvalidAddressRange`; a transaction loses the bytes); name, protection, node and hints may
    /// change. Taking a protection away from a region that is held is `RegionBusy`. Raises `UnmappedAddress`, `DuplicateName`.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> space.replace_region(0, space[0].replace(name="ram0"))["ram0"].size
    /// 1048576
    fn replace_region(
        &self,
        py: Python<'_>,
        old: &Bound<'_, PyAny>,
        new: &Bound<'_, PyRegion>,
    ) -> PyResult<Py<PyBase>> {
        let (old, new) = (target(old, "old")?, handed_over(new)?);
        let map = detached(py, None, |interrupt| self.inner.replace(old, new, interrupt))?;
        self.base_of(py, &map)
    }

    /// Maps every region and returns the `GuestMemory`; a space that is mapped already gives the same one.
    ///
    /// `progress(p)` is called at most 20 times a second with `p.stage, p.done, p.total, p.rate` (bytes, bytes a second); an exception
    /// of it undoes everything and is raised. Raises `Misaligned`, `BackingError`, `HugePagesShort`, `NumaError`, and then nothing
    /// is mapped.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout
    /// >>> AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45)).map_memory()
    /// GuestMemory(0 regions, 0 B)
    #[pyo3(signature = (*, progress=None))]
    fn map_memory(&self, py: Python<'_>, progress: Option<Py<PyAny>>) -> PyResult<Py<PyMemory>> {
        let incarnation = detached(py, progress, |interrupt| self.inner.map_memory(interrupt))?;
        self.memory_of(py, incarnation)
    }

    /// The memory of a mapped space; raises `NotMapped` before `map_memory()` and after `close()`.
    #[getter]
    fn memory(&self, py: Python<'_>) -> PyResult<Py<PyMemory>> {
        let incarnation = self.inner.load().memory().map(|memory| memory.incarnation());
        let incarnation = incarnation
            .ok_or_else(|| Error::NotMapped { message: "the space is not mapped: call map_memory()".into() })?;
        self.memory_of(py, incarnation)
    }

    /// Whether the space has memory.
    #[getter]
    fn is_mapped(&self) -> bool {
        self.inner.load().memory().is_some()
    }

    /// Lets other processes of the same user, and of root, look at the space at a socket: a `SpaceServer`, until it is closed.
    ///
    /// `dbs-address-space show space:PATH` and its other commands read from there, `top` again and again. They see the map and the numbers, and,
    /// where they ask for it, the memory that is in files, to read only; huge pages are guarded from then on. A socket of that path
    /// that nobody listens at is replaced. Raises `OSError` where somebody does, or where the socket can't be made.
    ///
    /// >>> import tempfile
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> with tempfile.TemporaryDirectory() as directory:
    /// ...     space.serve(directory + "/vm.sock").close()
    fn serve<'py>(slf: &Bound<'py, Self>, path: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        slf.get().inner.check_process()?;
        let _guard = python_call();
        slf.py().import("dbs_address_space.serving")?.getattr("SpaceServer")?.call1((slf, path))
    }

    /// Numbers of the space, a `SpaceStats`: its changes, the leases and the memory that are there, faults.
    ///
    /// Each is right by itself; together they need not be of one moment. In a forked child: `ForkedProcess` where a thread of the parent
    /// had what it looks at.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> with space.memory.view(0, 4096):
    /// ...     stats = space.stats()
    /// >>> stats.mapped, stats.leases, stats.faults
    /// (4194304, 1, 0)
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let stats = self.inner.stats()?;
        let SpaceStats { changes, refused, waited, mapped, guarded, leases, faults } = stats;
        convert::py_space_stats(py, (changes, refused, waited.as_secs_f64(), mapped, guarded, leases, faults))
    }

    /// Unmaps the memory, if there is any, and ends every attachment, those of the ports too; the space stays as a map. Closing twice does nothing.
    ///
    /// `with` closes the space at its end. A region that views, arrays or long accesses hold is `RegionBusy`, at once or after `timeout`
    /// seconds (`None`: never), as in `remove_region`; a client that refuses is `ClientError`; then nothing has changed. The error of an
    /// attachment that could not let go of everything comes only when all of them have ended.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> with AddressSpaceBuilder(numa_regions=["4MiB"]).build() as space:
    /// ...     space.memory.write(0, b"hello")
    /// >>> space.is_mapped, len(space)
    /// (False, 1)
    #[pyo3(signature = (*, timeout=Some(Timeout(Duration::ZERO))), text_signature = "($self, *, timeout=0.0)")]
    fn close(&self, py: Python<'_>, timeout: Option<Timeout>) -> PyResult<()> {
        let incarnation = self.inner.load().memory().map(|memory| memory.incarnation());
        if let Some(incarnation) = incarnation {
            let patience = patience(timeout);
            detached(py, None, |interrupt| self.inner.close_memory(incarnation, patience, interrupt))?;
        }
        let handles = self.registry.get().registry().handles(py)?;
        let attachments = handles.iter().filter_map(|handle| handle.cast::<PyAttachment>().ok());
        // All of them first: an error of one keeps no other.
        let mut ended: Vec<_> = attachments.map(|attachment| attachment.get().detach(py)).collect();
        ended.extend(self.ports.get().map(|ports| ports.get().close(py, timeout)));
        ended.into_iter().collect()
    }

    /// Waits until the generation is above `generation` and returns the newest map; `None` after `timeout` seconds.
    ///
    /// Returns at once when it is. Ctrl-C ends the wait. In a forked child: `ForkedProcess`.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout
    /// >>> AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45)).wait_for_change(0, timeout=0.01)
    #[pyo3(signature = (generation, timeout=None))]
    fn wait_for_change(
        &self,
        py: Python<'_>,
        generation: Address,
        timeout: Option<Timeout>,
    ) -> PyResult<Option<Py<PyBase>>> {
        let timeout = timeout.map(|timeout| timeout.0);
        let generation = Generation(generation.0);
        let map = detached(py, None, |interrupt| self.inner.wait_for_change(generation, timeout, interrupt))?;
        map.map(|map| self.base_of(py, &map)).transpose()
    }

    fn __repr__(&self) -> String {
        let snapshot = self.inner.load();
        let (map, mapped) = (&snapshot.map, if snapshot.memory().is_some() { "mapped" } else { "not mapped" });
        let (regions, ram) = (map.regions().len(), format::size(map.ram_size()));
        format!("AddressSpace({regions} regions, {ram} RAM, {mapped}, generation {})", map.generation())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.registry)?;
        self.ports.get().map_or(Ok(()), |ports| visit.call(ports))?;
        // Never waited for: the collector may run in the thread that has the lock.
        let Some(memory) = self.memory.try_lock() else { return Ok(()) };
        memory.as_ref().map_or(Ok(()), |(_, memory)| visit.call(memory))
    }

    #[allow(clippy::unused_self, reason = "a method for pickle")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "cannot pickle a live AddressSpace: pickle its snapshot() and build a new space from that; multiprocessing, imported before \
             this package, gives other processes a follower",
        ))
    }
}
