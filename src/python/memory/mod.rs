//! `GuestMemory`: the bytes behind an address space. One file for each kind of verb.

use std::sync::Arc;

use arc_swap::Guard;
use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::buffer;
use super::convert::{self, Address, Size};
use super::interrupt::detached;
use super::mapping::PyMapping;
use super::region_objects::RegionObject;
use super::registry::PyRegistry;
use super::space_ref::SpaceRef;
use crate::memory::access::{Access, LeasedSections};
use crate::memory::dirty::DirtySource;
use crate::memory::mapped_regions::{MappedRegions, Need};
use crate::memory::region::MappedRegion;
use crate::memory::section::Section;
use crate::model::error::Result;
use crate::model::format;
use crate::model::ids::Incarnation;
use crate::model::interrupt::{Interrupt, Uninterrupted};
use crate::model::range::Range;
use crate::model::region_map::RegionMap;
use crate::space::state::SpaceState;

mod atomics;
mod bytes;
mod file;
mod integers;
mod placement;
mod scans;
pub mod search;
mod structs;
mod vectors;
mod views;

/// From this size on a copy is done without the interpreter's lock, under leases instead of the snapshot.
const LONG: u64 = 4 << 20;

/// The bytes behind a mapped address space: a live handle that follows every later change and keeps its space alive.
///
/// Made by `AddressSpace.map_memory()`. Accesses may span touching regions and are all or nothing: a hole or a device region is
/// `UnmappedAddress`, a protection `AccessDenied`, both with the first bad address. Only a fault of the memory itself, such as a
/// truncated file, can stop one midway: `MemoryFault`, never a signal. Size 0 does nothing, anywhere. Copies from 4 MiB on release
/// the interpreter's lock. Used in `with`, or closed, all memory is unmapped; views and arrays on it refuse that with `RegionBusy`.
///
/// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
/// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
/// >>> memory = space.map_memory()
/// >>> memory.write_u32(0x1000, 0x12345678)
/// >>> memory.read(0x1000, 4)
/// b'xV4\x12'
#[pyclass(frozen, name = "GuestMemory", module = "dbs_address_space")]
#[derive(Debug)]
pub struct PyMemory {
    space: SpaceRef,
    /// Closing the memory is a change that they are asked about.
    registry: Py<PyRegistry>,
    incarnation: Incarnation,
}

/// An access that was found possible, and what keeps it so.
enum Plan {
    /// Nothing.
    Empty,
    /// A short one: the snapshot, for as long as the copy takes.
    Short(Vec<Section>, Guard<Arc<SpaceState>>),
    /// A long one: leases, so that the interpreter and the snapshot can be let go.
    Long(LeasedSections),
}

impl Plan {
    /// Does the work, a long one without the interpreter's lock, and lets go of everything before an error becomes an exception:
    /// that runs Python code.
    fn run<T: Default + Send>(
        self,
        py: Python<'_>,
        progress: Option<Py<PyAny>>,
        work: impl FnOnce(&[Section], &dyn Interrupt) -> Result<T> + Send,
    ) -> PyResult<T> {
        match self {
            Self::Empty => Ok(T::default()),
            Self::Short(sections, snapshot) => {
                let result = work(&sections, &Uninterrupted);
                drop((sections, snapshot));
                Ok(result?)
            }
            Self::Long(leased) => detached(py, progress, move |interrupt| work(&leased.sections, interrupt)),
        }
    }
}

/// Does work under leases, a long one, or one that may block, without the interpreter's lock.
fn under_leases<T: Send>(
    py: Python<'_>,
    leased: LeasedSections,
    size: Size,
    progress: Option<Py<PyAny>>,
    work: impl FnOnce(&[Section], &dyn Interrupt) -> Result<T> + Send,
) -> PyResult<T> {
    if size.0 >= LONG || leased.sections.iter().any(Section::may_block) {
        return detached(py, progress, move |interrupt| work(&leased.sections, interrupt));
    }
    let result = work(&leased.sections, &Uninterrupted);
    drop(leased);
    Ok(result?)
}

/// All sections of a range; holes are refused.
fn whole(access: &Access<'_>) -> Result<Vec<Section>> {
    access.sections()
}

/// What is done with the memory: a verb for messages and leases, and what it needs.
type Verb = (&'static str, Need);

impl PyMemory {
    pub(super) const fn new(space: SpaceRef, registry: Py<PyRegistry>, incarnation: Incarnation) -> Self {
        Self { space, registry, incarnation }
    }

    /// Runs `work` on one snapshot, which is let go before an error becomes an exception: that runs Python code.
    #[inline]
    pub(super) fn with_memory<T>(&self, work: impl FnOnce(&RegionMap, &MappedRegions) -> Result<T>) -> PyResult<T> {
        let result = {
            let snapshot = self.space.load();
            snapshot.memory_of(self.incarnation).and_then(|memory| work(&snapshot.map, memory))
        };
        Ok(result?)
    }

    fn with_access<T>(
        &self,
        (verb, need): Verb,
        range: Range,
        work: impl FnOnce(&Access<'_>) -> Result<T>,
    ) -> PyResult<T> {
        self.with_memory(|map, memory| work(&Access { map, memory, verb, need, range }))
    }

    /// A plan for the whole range; holes are refused.
    fn plan(&self, py: Python<'_>, verb: Verb, range: Range) -> PyResult<Plan> {
        self.plan_for(py, verb, range, whole)
    }

    fn plan_for(
        &self,
        py: Python<'_>,
        verb: Verb,
        range: Range,
        find: impl Fn(&Access<'_>) -> Result<Vec<Section>>,
    ) -> PyResult<Plan> {
        loop {
            match self.try_plan(verb, range, &find)? {
                Ok(plan) => return Ok(plan),
                Err(unsettled) => self.wait_settled(py, &unsettled)?,
            }
        }
    }

    /// A plan on the current snapshot: under leases for a long access, and for one that may block; `Err` is a region to wait for.
    fn try_plan(
        &self,
        (verb, need): Verb,
        range: Range,
        find: impl FnOnce(&Access<'_>) -> Result<Vec<Section>>,
    ) -> Result<std::result::Result<Plan, Arc<MappedRegion>>> {
        let snapshot = self.space.load();
        let access = Access { map: &snapshot.map, memory: snapshot.memory_of(self.incarnation)?, verb, need, range };
        if range.is_empty() {
            return Ok(Ok(Plan::Empty));
        }
        let sections = find(&access)?;
        if range.size() < LONG && !sections.iter().any(Section::may_block) {
            return Ok(Ok(Plan::Short(sections, snapshot)));
        }
        Ok(access.lease(sections).map(Plan::Long))
    }

    /// Pieces under leases; while a change is deciding about one of the regions, waits for what it decides.
    fn lease(
        &self,
        py: Python<'_>,
        (verb, need): Verb,
        range: Range,
        find: impl Fn(&Access<'_>) -> Result<Vec<Section>>,
    ) -> PyResult<LeasedSections> {
        loop {
            match self.space.try_lease(self.incarnation, (verb, need, range), &find)? {
                Ok(leased) => return Ok(leased),
                Err(unsettled) => self.wait_settled(py, &unsettled)?,
            }
        }
    }

    fn wait_settled(&self, py: Python<'_>, region: &MappedRegion) -> PyResult<()> {
        buffer::wait_settled(py, &self.space, &region.leases, region.desc.base())
    }
}

#[pymethods]
impl PyMemory {
    /// Whether every byte of a range has memory; protections play no part. `True` for size 0.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> memory.check_range(0, "4MiB"), memory.check_range(0, "5MiB")
    /// (True, False)
    fn check_range(&self, addr: Address, size: Size) -> PyResult<bool> {
        let range = convert::range(addr, size)?;
        self.with_access(("check", Need::Any), range, |access| Ok(access.sections().is_ok()))
    }

    /// The host address of a guest physical address, valid until its region is removed: nothing holds it.
    ///
    /// Raises `UnmappedAddress`, `NotMapped`.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> memory.host_address(0x1000) - memory.host_address(0)
    /// 4096
    fn host_address(&self, addr: Address) -> PyResult<usize> {
        let range = convert::range(addr, Size(1))?;
        self.with_access(("host_address", Need::Any), range, |access| {
            let section = access.single_section()?;
            Ok(section.region.mapping.host(section.offset).addr())
        })
    }

    /// The regions that have memory, by ascending base.
    #[getter]
    fn regions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let descs: Vec<_> =
            self.with_memory(|_, memory| Ok(memory.regions().iter().map(|region| Arc::clone(&region.desc)).collect()))?;
        PyTuple::new(py, descs.into_iter().map(RegionObject).collect::<Vec<_>>())
    }

    /// The `Mapping` of the region that holds `addr`. Raises `UnmappedAddress`, `NotMapped`.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> memory.mapping(0x1000).base
    /// 0
    fn mapping(&self, addr: Address) -> PyResult<PyMapping> {
        let range = convert::range(addr, Size(1))?;
        self.with_access(("mapping", Need::Any), range, |access| Ok(PyMapping::of(&access.single_section()?.region)))
    }

    /// The `Mapping` of every region that has memory, by ascending base. Raises `NotMapped`.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    /// >>> [mapping.size for mapping in memory.mappings()]
    /// [4194304]
    fn mappings<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let mappings: Vec<_> =
            self.with_memory(|_, memory| Ok(memory.regions().iter().map(PyMapping::of).collect()))?;
        PyTuple::new(py, mappings)
    }

    /// Unmaps everything; the space stays as a map, and `map_memory()` then makes new memory. Closing twice does nothing.
    ///
    /// Raises `RegionBusy` when a view or array holds a region, and then nothing is unmapped.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> space.memory.close()
    /// >>> space.is_mapped
    /// False
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, None, |interrupt| self.space.close_memory(self.incarnation, interrupt))
    }

    /// Marks every write through this package, or stops to. For tests and benches: the tracking to come has a name of its own.
    fn _track_writes(&self, py: Python<'_>, is_tracked: bool) -> PyResult<()> {
        detached(py, None, |interrupt| self.space.track_writes(self.incarnation, is_tracked, interrupt))
    }

    /// The pages that were written since the last call: a tuple of `AddressRange`.
    fn _drain_writes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let mut found = Vec::new();
        self.with_memory(|_, memory| {
            for region in memory.regions() {
                let at = |offset: u64| region.desc.base().saturating_add(offset);
                region.drain(&mut |pages| found.push(Range::between(at(pages.base()), at(pages.end()))));
            }
            Ok(())
        })?;
        convert::py_ranges(py, found)
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _type: &Bound<'_, PyAny>,
        _value: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        self.close(py).map(|()| false)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        visit.call(&self.registry)
    }

    fn __repr__(&self) -> String {
        let snapshot = self.space.load();
        let Ok(memory) = snapshot.memory_of(self.incarnation) else { return "GuestMemory(closed)".into() };
        let size = memory.regions().iter().fold(0u64, |sum, region| sum.saturating_add(region.desc.size()));
        format!("GuestMemory({} regions, {})", memory.regions().len(), format::size(size))
    }

    #[allow(clippy::unused_self, reason = "a method for pickle")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err("cannot pickle GuestMemory: it is a handle on this process's mappings"))
    }
}
