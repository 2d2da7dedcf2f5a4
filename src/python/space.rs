//! `AddressSpace`: the live space.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::base::{PyBase, regions_of, target};
use super::change::PyChange;
use super::convert::{Address, Size, Timeout};
use super::interrupt::detached;
use super::layout::PyLayout;
use super::memory::PyMemory;
use super::region::PyRegion;
use super::region_objects::handed_over;
use super::registry::PyClients;
use super::space_ref::SpaceRef;
use crate::model::error::Error;
use crate::model::format;
use crate::model::ids::{Generation, Incarnation};
use crate::model::lock::Lock;
use crate::model::region_map::RegionMap;
use crate::space::AddressSpace;

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
#[pyclass(frozen, name = "AddressSpace", module = "dbs_address_space")]
#[derive(Debug)]
pub struct PySpace {
    inner: SpaceRef,
    clients: Py<PyClients>,
    /// The object of the newest map that was asked for. Nothing in it leads back here, so that the garbage collector need not see it.
    current: ArcSwap<Py<PyBase>>,
    /// The handle of the memory, by incarnation.
    memory: Lock<Option<(Incarnation, Py<PyMemory>)>>,
}

impl PySpace {
    fn begin(py: Python<'_>, map: RegionMap) -> PyResult<Self> {
        Self::of(py, AddressSpace::with_map(map))
    }

    pub(super) fn of(py: Python<'_>, space: AddressSpace) -> PyResult<Self> {
        let inner = SpaceRef::new(space);
        let base = Py::new(py, PyBase::from(inner.map()))?;
        let clients = Py::new(py, PyClients::default())?;
        Ok(Self { inner, clients, current: ArcSwap::from_pointee(base), memory: Lock::new(None) })
    }

    pub(super) const fn inner(&self) -> &SpaceRef {
        &self.inner
    }

    pub(super) const fn clients(&self) -> &Py<PyClients> {
        &self.clients
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

    /// Runs a query on the object of the current map.
    fn query<T>(&self, py: Python<'_>, query: impl FnOnce(&PyBase) -> PyResult<T>) -> PyResult<T> {
        query(self.current(py)?.get())
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
        let cached = |py| {
            let memory = self.memory.lock();
            memory.as_ref().filter(|(cached, _)| *cached == incarnation).map(|(_, memory)| memory.clone_ref(py))
        };
        if let Some(memory) = cached(py) {
            return Ok(memory);
        }
        let memory = Py::new(py, PyMemory::new(self.inner.clone(), self.clients.clone_ref(py), incarnation))?;
        // The one before is dropped once the lock is free: its end may run Python code.
        let replaced = self.memory.lock().replace((incarnation, memory.clone_ref(py)));
        drop(replaced);
        Ok(memory)
    }
}

/// Frees views that a cycle of garbage holds, and that would keep their regions busy.
fn collect_garbage() {
    Python::try_attach(|py| py.import("gc").and_then(|gc| gc.call_method0("collect")).map(drop).unwrap_or_default());
}

#[pymethods]
impl PySpace {
    #[new]
    fn new(py: Python<'_>, layout: &Bound<'_, PyLayout>) -> PyResult<Self> {
        Self::begin(py, RegionMap::empty(layout.get().0.clone()))
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
        let region = handed_over(region)?;
        let map = detached(py, None, |interrupt| self.inner.insert(region, interrupt))?;
        self.base_of(py, &map)
    }

    /// Removes a region, given by its exact base, its name or an equal region, and returns the map just published.
    ///
    /// In a mapped space its memory is unmapped; once this has returned no late write can reach it. A region that views, arrays or
    /// long accesses hold is `RegionBusy`, at once or after `timeout` seconds (`None`: never); Ctrl-C ends the wait. Raises
    /// `UnmappedAddress` when it isn't there.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> len(space.remove_region(0))
    /// 0
    #[pyo3(signature = (x, *, timeout=Some(Timeout(Duration::ZERO))), text_signature = "($self, x, *, timeout=0.0)")]
    fn remove_region(&self, py: Python<'_>, x: &Bound<'_, PyAny>, timeout: Option<Timeout>) -> PyResult<Py<PyBase>> {
        let timeout = timeout.map(|timeout| timeout.0);
        let target = target(x)?;
        let map = detached(py, None, |interrupt| self.inner.remove(&target, timeout, interrupt, &collect_garbage))?;
        self.base_of(py, &map)
    }

    /// Puts `new` in the place of `old` (exact base, name or region) and returns the map just published; memory and bytes stay.
    ///
    /// Range, type and backing must be the same (`InvalidAddressRange`: use a transaction); name, protection, node and hints may
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
        let (old, new) = (target(old)?, handed_over(new)?);
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

    /// The regions of the current map by ascending base.
    #[getter]
    fn regions(&self, py: Python<'_>) -> PyResult<Py<PyTuple>> {
        self.query(py, |base| base.regions(py))
    }

    /// The layout that every region keeps.
    #[getter]
    fn layout(&self, py: Python<'_>) -> PyResult<PyLayout> {
        self.query(py, |base| Ok(base.layout()))
    }

    /// How many maps were published; 0 for a new space.
    #[getter]
    fn generation(&self) -> u64 {
        self.inner.load().map.generation().0
    }

    /// The highest inclusive address of a region that is not a DAX window; `layout.mem_start` when there is none.
    #[getter]
    fn last_addr(&self) -> u64 {
        self.inner.load().map.last_addr()
    }

    /// The bytes of `DEFAULT_MEMORY`.
    #[getter]
    fn ram_size(&self) -> u64 {
        self.inner.load().map.ram_size()
    }

    /// The region that holds `addr`, or `None`: `AddressSpaceBase.find_region` on the current map.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="ram0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> space.find_region(0x1000).name
    /// 'ram0'
    fn find_region<'py>(&self, py: Python<'py>, addr: Address) -> PyResult<Option<Bound<'py, PyRegion>>> {
        match self.cached() {
            Some(base) => base.get().find_region(py, addr),
            None => self.query(py, |base| base.find_region(py, addr)),
        }
    }

    /// Whether `addr` lies in a DAX window; `False` in a hole.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="ram0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> space.is_dax_region(0x1000)
    /// False
    fn is_dax_region(&self, py: Python<'_>, addr: Address) -> PyResult<bool> {
        self.query(py, |base| Ok(base.is_dax_region(addr)))
    }

    /// The protection of the region that holds `addr`, a `Prot`; raises `UnmappedAddress` in a hole.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="ram0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> print(space.prot_flags(0x1000))
    /// rw-
    fn prot_flags<'py>(&self, py: Python<'py>, addr: Address) -> PyResult<Bound<'py, PyAny>> {
        self.query(py, |base| base.prot_flags(py, addr))
    }

    /// The host's NUMA node of the region that holds `addr`, or `None`; raises `UnmappedAddress` in a hole.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="ram0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> space.numa_node_id(0x1000) is None
    /// True
    fn numa_node_id(&self, py: Python<'_>, addr: Address) -> PyResult<Option<u32>> {
        self.query(py, |base| base.numa_node_id(addr))
    }

    /// Calls `callback(region)` for each region of the map as it is now; the callback may change the space.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="ram0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> space.walk_regions(lambda region: print(region.name))
    /// ram0
    fn walk_regions(&self, py: Python<'_>, callback: &Bound<'_, PyAny>) -> PyResult<()> {
        self.query(py, |base| base.walk_regions(py, callback))
    }

    /// The regions that share an address with `[base, base + size)`, by ascending base.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="ram0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> [region.name for region in space.overlapping(0xf_f000, "8KiB")]
    /// ['ram0']
    fn overlapping<'py>(&self, py: Python<'py>, base: Address, size: Size) -> PyResult<Bound<'py, PyTuple>> {
        self.query(py, |current| current.overlapping(py, base, size))
    }

    /// The ranges that regions of a type cover: `AddressSpaceBase.ranges` on the current map.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="ram0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> space.ranges("ram")
    /// (AddressRange(base=0, size=1048576),)
    #[pyo3(signature = (region_type=None))]
    fn ranges<'py>(&self, py: Python<'py>, region_type: Option<&Bound<'_, PyAny>>) -> PyResult<Bound<'py, PyTuple>> {
        self.query(py, |base| base.ranges(py, region_type))
    }

    /// The ranges that no region covers: `AddressSpaceBase.gaps` on the current map.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="ram0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> [str(gap) for gap in space.gaps(high=0x20_0000)]
    /// ['[0x10_0000, 0x20_0000)']
    #[pyo3(signature = (low=Address(0), high=None), text_signature = "($self, low=0, high=None)")]
    fn gaps<'py>(&self, py: Python<'py>, low: Address, high: Option<Address>) -> PyResult<Bound<'py, PyTuple>> {
        self.query(py, |base| base.gaps(py, low, high))
    }

    /// How `after` differs from the current map, an `AddressSpaceChange`.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="ram0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> space.diff(space.snapshot().remove_region(0))
    /// AddressSpaceChange(0 added, 1 removed, 0 replaced)
    fn diff(&self, py: Python<'_>, after: Py<PyBase>) -> PyResult<PyChange> {
        PyChange::between(py, self.current(py)?, after)
    }

    fn __getitem__<'py>(&self, py: Python<'py>, key: &Bound<'_, PyAny>) -> PyResult<Option<Bound<'py, PyRegion>>> {
        self.query(py, |base| base.__getitem__(py, key))
    }

    fn __contains__(&self, py: Python<'_>, x: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.query(py, |base| base.__contains__(x))
    }

    fn __len__(&self) -> usize {
        self.inner.load().map.regions().len()
    }

    fn __bool__(&self) -> bool {
        true
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.query(py, |base| base.__iter__(py))
    }

    fn __reversed__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.query(py, |base| base.__reversed__(py))
    }

    fn __repr__(&self) -> String {
        let snapshot = self.inner.load();
        let (map, mapped) = (&snapshot.map, if snapshot.memory().is_some() { "mapped" } else { "not mapped" });
        let (regions, ram) = (map.regions().len(), format::size(map.ram_size()));
        format!("AddressSpace({regions} regions, {ram} RAM, {mapped}, generation {})", map.generation())
    }

    fn __str__(&self, py: Python<'_>) -> PyResult<String> {
        self.query(py, |base| Ok(base.__str__()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.clients)?;
        let Some(memory) = self.memory.try_lock() else { return Ok(()) };
        memory.as_ref().map_or(Ok(()), |(_, memory)| visit.call(memory))
    }

    #[allow(clippy::unused_self, reason = "a method for pickle")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "cannot pickle a live AddressSpace: pickle its snapshot() and build a new space from that",
        ))
    }
}
