//! `AddressSpaceBase`: the immutable map. Its queries are in `queries.rs`.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::argument::{Argument, has, wanted};
use super::calls::python_call;
use super::convert::{self, Address};
use super::layout::PyLayout;
use super::region::PyRegion;
use super::region_key::PyRegionKey;
use super::region_objects::{RegionObject, handed_over};
use super::unplug_request::PyUnplugRequest;
use crate::model::change::{MapOperation, RegionTarget};
use crate::model::format::hex;
use crate::model::pieces::Sublist;
use crate::model::region::SharedRegion;
use crate::model::region_map::{RegionEntry, RegionMap};
use crate::sys::once::Once;

/// The map of an address space as an immutable value: sorted regions and the layout that they keep.
///
/// Addresses and sizes are bytes, and ends are exclusive. A base is made by `from_regions`, by its own verbs, each of which returns
/// a new one, or by `AddressSpace.snapshot()`. It holds no memory: it may be kept for any time, used by any thread, compared, hashed
/// and pickled. Two bases are equal when their regions and their layouts are; the generation does not count.
///
/// A base is a collection of its regions by ascending base, and true even when empty. `base[addr]` is the region that holds an
/// address, `base["name"]` the one of that name, and both raise `UnmappedAddress` where there is none; `in` takes an address, a name
/// or a region, of which an equal one will do. Every query gives the very object that was inserted, as long as someone keeps it.
///
/// >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
/// >>> base = AddressSpaceBase.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="ram0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
/// >>> base["ram0"] is base.find_region(0x1000)
/// True
#[pyclass(frozen, weakref, name = "AddressSpaceBase", module = "dbs_address_space")]
pub struct PyBase {
    pub(super) map: Arc<RegionMap>,
    /// The object of each region, kept from when it is first asked for: a look-up must not search for it.
    objects: Once<Box<[Once<Py<PyRegion>>]>>,
    tuple: Once<Py<PyTuple>>,
}

impl From<Arc<RegionMap>> for PyBase {
    fn from(map: Arc<RegionMap>) -> Self {
        Self { map, objects: Once::new(), tuple: Once::new() }
    }
}

impl From<RegionMap> for PyBase {
    fn from(map: RegionMap) -> Self {
        Self::from(Arc::new(map))
    }
}

impl PyBase {
    /// The object of the region at an index.
    fn object<'py>(&self, py: Python<'py>, index: usize) -> PyResult<Option<Bound<'py, PyRegion>>> {
        let objects = self.objects.get_or_init(|| self.map.regions().iter().map(|_| Once::new()).collect());
        let (Some(object), Some(region)) = (objects.get(index), self.map.regions().get(index)) else { return Ok(None) };
        let find = || RegionObject(Arc::clone(region)).into_pyobject(py).map(Bound::unbind);
        // Cached in the snapshot's own list: the next look-up of this region takes neither the table nor its lock.
        let object = object.get_or_try_init(find)?;
        Ok(Some(object.bind(py).clone()))
    }

    /// The objects of all regions, the same tuple each time.
    pub(super) fn all_objects(&self, py: Python<'_>) -> PyResult<Py<PyTuple>> {
        let make = || self.objects_of(py, self.map.regions()).map(Bound::unbind);
        Ok(self.tuple.get_or_try_init(make)?.clone_ref(py))
    }

    /// The objects of regions that lie side by side.
    pub(super) fn objects_of<'py>(
        &self,
        py: Python<'py>,
        regions: Sublist<'_, RegionEntry>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let first = regions.first().and_then(|region| self.map.find_index(region.base())).unwrap_or_default();
        let objects = (first..).take(regions.len()).filter_map(|index| self.object(py, index).transpose());
        PyTuple::new(py, convert::collected(py, objects)?)
    }

    /// The object of a region of this map.
    pub(super) fn object_at<'py>(&self, py: Python<'py>, addr: u64) -> PyResult<Option<Bound<'py, PyRegion>>> {
        match self.map.find_index(addr) {
            Some(index) => self.object(py, index),
            None => Ok(None),
        }
    }

    /// Runs a query on this map: the counterpart of `PySpace::query`.
    #[inline]
    pub(super) fn query<T>(&self, _py: Python<'_>, query: impl FnOnce(&Self) -> PyResult<T>) -> PyResult<T> {
        query(self)
    }

    /// This map: the counterpart of `PySpace::base`.
    pub(super) fn base(slf: &Bound<'_, Self>) -> PyResult<Py<Self>> {
        Ok(slf.clone().unbind())
    }
}

/// Words for all that stands for a region.
const A_REGION: &str = "a region, its base or its name";

/// The region that an exact base, an equal region, a name, or what means one region stands for.
pub(super) fn target(x: &Bound<'_, PyAny>, name: &str) -> PyResult<RegionTarget> {
    target_of(x).argument(name)
}

fn target_of(x: &Bound<'_, PyAny>) -> PyResult<RegionTarget> {
    if let Ok(region) = x.cast::<PyRegion>() {
        return Ok(RegionTarget::Region(Arc::clone(&region.get().0)));
    }
    if let Ok(key) = x.cast::<PyRegionKey>() {
        return Ok(RegionTarget::Inserted(key.get().0.clone()));
    }
    if let Ok(request) = x.cast::<PyUnplugRequest>() {
        return Ok(RegionTarget::Inserted(request.get().request.region.clone()));
    }
    if let Ok(name) = x.cast::<PyString>() {
        return Ok(RegionTarget::Name(convert::word(&name.as_borrowed())?.into()));
    }
    match has(x, "__index__")? {
        true => x.extract::<Address>().map(|base| RegionTarget::Base(base.0)),
        false => Err(wanted(A_REGION, x)),
    }
}

/// Regions for a map, from any iterable.
pub(super) fn regions_of(regions: &Bound<'_, PyAny>) -> PyResult<Vec<SharedRegion>> {
    let region = |item: Bound<'_, PyAny>| {
        handed_over(item.cast::<PyRegion>().map_err(|_| wanted("an AddressSpaceRegion", &item))?)
    };
    convert::items(regions, "AddressSpaceRegion", region).argument("regions")
}

#[pymethods]
impl PyBase {
    /// A map of regions in any order, at generation 0.
    ///
    /// Raises `LayoutViolation`, `RegionOverlap` or `DuplicateName`, with the region and the one in conflict.
    ///
    /// >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout
    /// >>> len(AddressSpaceBase.from_regions([], AddressSpaceLayout(1 << 46, 0, 1 << 45)))
    /// 0
    #[staticmethod]
    fn from_regions(regions: &Bound<'_, PyAny>, layout: &Bound<'_, PyLayout>) -> PyResult<Self> {
        Ok(RegionMap::from_regions(regions_of(regions)?, layout.get().0.clone())?.into())
    }

    /// A new map with one region more; raises as `from_regions` does.
    ///
    /// >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
    /// >>> base = AddressSpaceBase.from_regions([], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> len(base.insert_region(AddressSpaceRegion("ram", 0, "1MiB"))), len(base)
    /// (1, 0)
    fn insert_region(&self, region: &Bound<'_, PyRegion>) -> PyResult<Self> {
        Ok(MapOperation::insert(handed_over(region)?).apply(&self.map)?.into())
    }

    /// A new map without a region, given by its exact base, its name or an equal region.
    ///
    /// Raises `UnmappedAddress`; an address inside a region names that region.
    ///
    /// >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
    /// >>> base = AddressSpaceBase.from_regions([AddressSpaceRegion("ram", 0, "1MiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> len(base.remove_region(0))
    /// 0
    fn remove_region(&self, x: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(MapOperation::Remove(target(x, "x")?).apply(&self.map)?.into())
    }

    /// A new map with `new` in the place of `old`: the same range and backing, another name, protection, node or hint.
    ///
    /// Raises `UnmappedAddress` when `old` is not there, `InvalidAddressRange` when the backing differs, `DuplicateName`.
    ///
    /// >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
    /// >>> region = AddressSpaceRegion("ram", 0, "1MiB")
    /// >>> base = AddressSpaceBase.from_regions([region], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> base.replace_region(region, region.replace(name="ram0"))["ram0"].base
    /// 0
    fn replace_region(&self, old: &Bound<'_, PyAny>, new: &Bound<'_, PyRegion>) -> PyResult<Self> {
        Ok(MapOperation::Replace(target(old, "old")?, handed_over(new)?).apply(&self.map)?.into())
    }

    /// The key of a region, which no other has; it can stand for the region wherever a name can.
    fn _key(&self, x: &Bound<'_, PyAny>) -> PyResult<PyRegionKey> {
        Ok(PyRegionKey(target(x, "x")?.find(&self.map)?.clone()))
    }

    /// The region of a key, as it is described here; `None` when it is not here.
    fn _find_key<'py>(&self, py: Python<'py>, key: &Bound<'_, PyRegionKey>) -> PyResult<Option<Bound<'py, PyRegion>>> {
        let key = &key.get().0;
        if self.map.inserted(key).is_ok() { self.object_at(py, key.base()) } else { Ok(None) }
    }

    fn __eq__(&self, other: &Bound<'_, Self>) -> bool {
        self.map == other.get().map
    }

    fn __hash__(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        self.map.hash(&mut hasher);
        hasher.finish()
    }

    fn __repr__(&self) -> String {
        let (map, ram) = (&self.map, crate::model::format::size(self.map.ram_size()));
        format!(
            "AddressSpaceBase({} regions, {ram} RAM, last_addr {}, generation {})",
            map.regions().len(),
            hex(map.last_addr()),
            map.generation()
        )
    }

    fn __copy__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __deepcopy__(slf: Py<Self>, _memo: &Bound<'_, PyAny>) -> Py<Self> {
        slf
    }

    #[allow(clippy::type_complexity, reason = "what pickle asks for")]
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, (Py<PyTuple>, PyLayout))> {
        let _guard = python_call();
        Ok((
            py.get_type::<Self>().getattr("from_regions")?,
            (self.all_objects(py)?, PyLayout(self.map.layout().clone())),
        ))
    }
}
