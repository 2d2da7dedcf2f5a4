//! `AddressSpaceChange`.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::base::PyBase;
use super::calls::{self, python_call};
use super::convert::U32;
use super::drawing::drawn;
use super::keywords;
use super::mapping::PyMapping;
use super::region::PyRegion;
use super::region_objects::RegionObject;
use crate::memory::region::MappedRegion;
use crate::model::change::Change;
use crate::model::error::Error;
use crate::model::region::SharedRegion;
use crate::model::region_map::{RegionEntry, RegionMap};
use crate::space::proposal::Proposal;
use crate::sys::lock::Lock;

/// The difference between two maps: the regions that were added, removed, and replaced with their backing kept.
///
/// True when anything differs; `str()` gives a line a region, with `+`, `-` or `~` before it. Made by `AddressSpaceBase.diff`.
///
/// >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
/// >>> before = AddressSpaceBase.from_regions([], AddressSpaceLayout(1 << 46, 0, 1 << 45))
/// >>> print(before.diff(before.insert_region(AddressSpaceRegion("ram", 0, "1MiB"))))
/// + AddressSpaceRegion(DEFAULT_MEMORY [0x0, 0x10_0000) 1 MiB rw- shmem)
#[pyclass(frozen, weakref, name = "AddressSpaceChange", module = "dbs_address_space")]
#[derive(Debug)]
pub struct PyChange {
    before: Py<PyBase>,
    after: Py<PyBase>,
    added: Py<PyTuple>,
    removed: Py<PyTuple>,
    replaced: Py<PyTuple>,
    text: String,
    /// The host side, while a client is shown the change: taken away afterwards, so that a kept change does not keep memory.
    proposal: Lock<Option<Arc<Proposal>>>,
}

impl PyChange {
    /// How two maps differ.
    pub(super) fn between(py: Python<'_>, before: Py<PyBase>, after: Py<PyBase>) -> PyResult<Self> {
        let change = Change::between(&before.get().map, &after.get().map);
        Self::of(py, &change, before, after)
    }

    fn of(py: Python<'_>, change: &Change, before: Py<PyBase>, after: Py<PyBase>) -> PyResult<Self> {
        let object = |region: &RegionEntry| RegionObject(Arc::clone(region));
        let removed = change.removed.iter().map(|region| RegionObject(removed_description(change, region)));
        Ok(Self {
            added: PyTuple::new(py, change.added.iter().map(object))?.unbind(),
            removed: PyTuple::new(py, removed)?.unbind(),
            replaced: PyTuple::new(py, change.replaced.iter().map(|(old, new)| (object(old), object(new))))?.unbind(),
            text: change.to_string(),
            before,
            after,
            proposal: Lock::new(None),
        })
    }

    /// A change as a client is shown it.
    pub(super) fn offered(py: Python<'_>, proposal: &Arc<Proposal>) -> PyResult<Self> {
        let base = |map: &Arc<RegionMap>| Py::new(py, PyBase::from(Arc::clone(map)));
        let change = Self::of(py, &proposal.change, base(&proposal.change.before)?, base(&proposal.change.after)?)?;
        *change.proposal.lock()? = Some(Arc::clone(proposal));
        Ok(change)
    }

    /// Ends the time in which [`mapping`](Self::mapping) answers.
    pub(super) fn end(&self) {
        // Dropped behind the lock: the last share in a proposal may unmap memory.
        let proposal = self.proposal.lock().map(|mut proposal| proposal.take());
        drop(proposal);
    }

    /// The region that a user's object stands for: that very region or else an equal one, and of two the one behind the change, unless
    /// the object is that of the removed one.
    fn entry_of<'a>(&self, change: &'a Change, region: &Bound<'_, PyRegion>) -> Option<&'a RegionEntry> {
        let desc = &region.get().0;
        let index = change.removed.partition_point(|removed| removed.base() < desc.base());
        let is_removed = self.removed.bind(region.py()).get_item(index).is_ok_and(|removed| removed.is(region));
        let maps = if is_removed { [&change.before, &change.after] } else { [&change.after, &change.before] };
        let there = || maps.into_iter().filter_map(|map| map.find(desc.base()));
        there().find(|entry| Arc::ptr_eq(entry, desc)).or_else(|| there().find(|entry| entry.desc == *desc))
    }

    fn mapped(&self, region: &Bound<'_, PyRegion>) -> PyResult<Arc<MappedRegion>> {
        let proposal = self.proposal.lock()?.clone();
        let proposal = proposal.filter(|proposal| proposal.has_memory()).ok_or_else(|| Error::NotMapped {
            message: "the change shows no memory: ask in a client's prepare, commit or rollback, on a mapped space"
                .into(),
        })?;
        let shown = self.entry_of(&proposal.change, region);
        let region = &region.get().0;
        let mapped = shown.and_then(|shown| proposal.mapping(shown)).ok_or_else(|| Error::Unmapped {
            message: format!("{region} has no memory in this change"),
            address: Some(region.base()),
            size: Some(region.size()),
            region: Some(Arc::clone(region)),
        })?;
        Ok(Arc::clone(mapped))
    }

    fn is_empty(&self, py: Python<'_>) -> bool {
        [&self.added, &self.removed, &self.replaced].iter().all(|regions| regions.bind(py).is_empty())
    }
}

/// The description that a removed region is shown under: a copy where the very same object was put back in its place.
///
/// A client that undoes a change asks for the memory of both, and could not tell them apart otherwise.
fn removed_description(change: &Change, region: &RegionEntry) -> SharedRegion {
    match change.after.find(region.base()) {
        Some(other) if other.id != region.id && Arc::ptr_eq(other, region) => Arc::new((***region).clone()),
        _ => Arc::clone(region),
    }
}

#[pymethods]
impl PyChange {
    /// The map before.
    #[getter]
    fn before(&self, py: Python<'_>) -> Py<PyBase> {
        self.before.clone_ref(py)
    }

    /// The map after.
    #[getter]
    fn after(&self, py: Python<'_>) -> Py<PyBase> {
        self.after.clone_ref(py)
    }

    /// The regions that are only in `after`.
    #[getter]
    fn added(&self, py: Python<'_>) -> Py<PyTuple> {
        self.added.clone_ref(py)
    }

    /// The regions that are only in `before`.
    #[getter]
    fn removed(&self, py: Python<'_>) -> Py<PyTuple> {
        self.removed.clone_ref(py)
    }

    /// Pairs `(old, new)` of regions with the same range and backing that differ otherwise.
    #[getter]
    fn replaced(&self, py: Python<'_>) -> Py<PyTuple> {
        self.replaced.clone_ref(py)
    }

    /// The `Mapping` of an added, kept or removed region: where its memory is in this process.
    ///
    /// Only in a change that a client is shown, from `prepare`, when an added region has its memory and nobody else sees it yet, until
    /// its `commit` or `rollback` has returned; `NotMapped` later, and in an unmapped space. Where a region was taken out and put back,
    /// the object in `removed` has the old memory and any other the new. Raises `UnmappedAddress` for a device and for a region that
    /// is neither in `before` nor in `after`.
    ///
    /// >>> from dbs_address_space import AddressSpaceBuilder
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> def show(change):
    /// ...     for region in change.added:
    /// ...         print(change.mapping(region).size)
    /// >>> subscription = space.subscribe(show, replay=True)
    /// 4194304
    fn mapping(&self, region: &Bound<'_, PyRegion>) -> PyResult<PyMapping> {
        Ok(PyMapping::of(&*self.mapped(region)?))
    }

    /// The change as an SVG picture: the maps side by side on one scale, with changed regions in colour, and the rest as one row each.
    ///
    /// A region of the same name and size at another base has moved, which an arrow shows. `theme` and `width` are those of
    /// `AddressSpace.to_svg`. Raises `InvalidArgument` for another theme or less than 320 pixels.
    ///
    /// >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
    /// >>> before = AddressSpaceBase.from_regions([], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> before.diff(before.insert_region(AddressSpaceRegion("ram", 0, "1MiB"))).to_svg()[:4]
    /// '<svg'
    #[pyo3(signature = (*, title="Change", theme="auto", width=U32(984), **others),
        text_signature = "($self, *, title='Change', theme='auto', width=984)")]
    fn to_svg<'py>(
        slf: &Bound<'py, Self>,
        title: &str,
        theme: &str,
        width: U32,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        keywords::refuse_of::<Self>("to_svg", others)?;
        drawn(slf.as_any(), "diff_picture", "to_svg", (title, theme, width.0))
    }

    /// The memory of a region as `mapping` finds it, mapped for as long as the result is kept: for clients that hand out pointers to it,
    /// which somebody may still have when the region is gone.
    fn _keep(&self, region: &Bound<'_, PyRegion>) -> PyResult<PyKeptMemory> {
        self.mapped(region).map(|mapped| PyKeptMemory(Some(mapped)))
    }

    fn __bool__(&self, py: Python<'_>) -> bool {
        !self.is_empty(py)
    }

    fn __eq__(&self, other: &Bound<'_, Self>) -> PyResult<bool> {
        let (py, theirs) = (other.py(), other.get());
        Ok(self.before.bind(py).eq(&theirs.before)? && self.after.bind(py).eq(&theirs.after)?)
    }

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        (&self.before, &self.after).into_pyobject(py)?.hash()
    }

    fn __str__(&self) -> &str {
        &self.text
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let length = |regions: &Py<PyTuple>| regions.bind(py).len();
        format!(
            "AddressSpaceChange({} added, {} removed, {} replaced)",
            length(&self.added),
            length(&self.removed),
            length(&self.replaced)
        )
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, (Py<PyBase>,))> {
        let _guard = python_call();
        Ok((self.before.bind(py).getattr("diff")?, (self.after(py),)))
    }
}

/// Memory that stays mapped for as long as this is kept, and vetoes nothing.
#[pyclass(frozen, name = "_KeptMemory", module = "dbs_address_space._core")]
pub struct PyKeptMemory(Option<Arc<MappedRegion>>);

impl Drop for PyKeptMemory {
    /// The last share unmaps the memory, which takes long, without the interpreter's lock.
    fn drop(&mut self) {
        let memory = self.0.take();
        if memory.as_ref().is_some_and(|memory| Arc::strong_count(memory) == 1) {
            // At the interpreter's end there is no lock to let go: then the memory is dropped with the closure.
            let _ = calls::attach(|py| calls::detach(py, || drop(memory)));
        }
    }
}
