//! The queries of a map: of `AddressSpaceBase`, and of `AddressSpace` on its current one.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyString, PyTuple};

use super::argument::{Argument, has, wanted};
use super::base::PyBase;
use super::callback;
use super::calls::python_call;
use super::change::PyChange;
use super::convert::{self, Address, Size};
use super::enum_members;
use super::layout::PyLayout;
use super::region::PyRegion;
use super::space::PySpace;
use crate::model::region::RegionType;

/// The exact base that a key in `[]` is; positions and slices look like those of a list, and are refused.
fn exact_base(key: &Bound<'_, PyAny>) -> PyResult<u64> {
    match key.extract::<Address>() {
        Ok(base) => Ok(base.0),
        Err(error) if error.is_instance_of::<PyTypeError>(key.py()) => {
            Err(PyTypeError::new_err(format!("{}; {HOW_TO_LOOK_UP}", error.value(key.py()))))
        }
        Err(error) => Err(hinted(key.py(), error)),
    }
}

/// The error, with a word on what else may have been meant.
fn hinted(py: Python<'_>, error: PyErr) -> PyErr {
    let _guard = python_call();
    let value = error.value(py);
    let message = value.str().map(|message| format!("{message}; {HOW_TO_LOOK_UP}"));
    match message.and_then(|message| value.setattr("args", (message,))) {
        Ok(()) => error,
        Err(failure) => failure,
    }
}

const HOW_TO_LOOK_UP: &str = "[] takes an exact base or a name: .find_region(addr) finds the region that holds an address, .regions[i] the one at a position";

/// A map, or the current one of a space.
pub(super) fn base_of(object: &Bound<'_, PyAny>, name: &str) -> PyResult<Py<PyBase>> {
    let base = match (object.cast::<PyBase>(), object.cast::<PySpace>()) {
        (Ok(base), _) => PyBase::base(base),
        (_, Ok(space)) => PySpace::base(space),
        _ => Err(wanted("an AddressSpace or AddressSpaceBase", object)),
    };
    base.argument(name)
}

/// The first lines of an example: a map of one region.
macro_rules! example {
    ($name:literal) => {
        concat!(
            ">>> from dbs_address_space import ",
            $name,
            ", AddressSpaceLayout, AddressSpaceRegion\n>>> regions = [AddressSpaceRegion(\"ram\", 0, \"1MiB\", name=\"ram0\")]\n>>> guest = ",
            $name,
            ".from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))"
        )
    };
}

/// The verbs for a class that has `query`, which runs a closure on the object of its map, and `base`, which gives that object.
macro_rules! queries {
    ($class:ident, $name:literal) => {
        #[pymethods]
        impl $class {
            /// The regions by ascending base.
            #[getter]
            fn regions(slf: &Bound<'_, Self>) -> PyResult<Py<PyTuple>> {
                // Not by a query: as many objects as a map has regions are made between looks at signals.
                Self::base(slf)?.get().all_objects(slf.py())
            }

            /// The layout that every region keeps.
            #[getter]
            fn layout(&self, py: Python<'_>) -> PyResult<PyLayout> {
                self.query(py, |base| Ok(PyLayout(base.map.layout().clone())))
            }

            /// How many maps its space had published with this one: 0 for the first, and for a map that no space published.
            #[getter]
            fn generation(&self, py: Python<'_>) -> PyResult<u64> {
                self.query(py, |base| Ok(base.map.generation().0))
            }

            /// The highest inclusive address of a region that is not a DAX window; `layout.mem_start` when there is none.
            #[getter]
            fn last_addr(&self, py: Python<'_>) -> PyResult<u64> {
                self.query(py, |base| Ok(base.map.last_addr()))
            }

            /// The bytes of `DEFAULT_MEMORY`.
            #[getter]
            fn ram_size(&self, py: Python<'_>) -> PyResult<u64> {
                self.query(py, |base| Ok(base.map.ram_size()))
            }

            /// The region that holds `addr`, the same object each time, or `None`. O(log n).
            ///
            #[doc = example!($name)]
            /// >>> guest.find_region(0x1000).name
            /// 'ram0'
            fn find_region<'py>(&self, py: Python<'py>, addr: Address) -> PyResult<Option<Bound<'py, PyRegion>>> {
                self.query(py, |base| base.object_at(py, addr.0))
            }

            /// Whether `addr` lies in a DAX window; `False` in a hole.
            ///
            #[doc = example!($name)]
            /// >>> guest.is_dax_region(0)
            /// False
            fn is_dax_region(&self, py: Python<'_>, addr: Address) -> PyResult<bool> {
                let is_dax = |base: &PyBase| Some(base.map.find(addr.0)?.region_type == RegionType::DaxMemory);
                self.query(py, |base| Ok(is_dax(base).unwrap_or(false)))
            }

            /// The protection of the region that holds `addr`, a `Prot`; raises `UnmappedAddress` in a hole.
            ///
            #[doc = example!($name)]
            /// >>> print(guest.prot_flags(0x1000))
            /// rw-
            fn prot_flags<'py>(&self, py: Python<'py>, addr: Address) -> PyResult<Bound<'py, PyAny>> {
                let prot_flags = self.query(py, |base| Ok(base.map.get(addr.0)?.prot_flags))?;
                enum_members::protection(py, prot_flags)
            }

            /// The host's NUMA node of the region that holds `addr`, or `None`; raises `UnmappedAddress` in a hole.
            ///
            #[doc = example!($name)]
            /// >>> guest.numa_node_id(0) is None
            /// True
            fn numa_node_id(&self, py: Python<'_>, addr: Address) -> PyResult<Option<u32>> {
                self.query(py, |base| Ok(base.map.get(addr.0)?.host_numa_node_id))
            }

            /// Calls `callback(region)` for each region by ascending base; an exception of it ends the walk and comes out.
            ///
            /// The walk is over the map as it is now, whatever the callback changes.
            ///
            #[doc = example!($name)]
            /// >>> guest.walk_regions(lambda region: print(region.name))
            /// ram0
            fn walk_regions(slf: &Bound<'_, Self>, callback: &Bound<'_, PyAny>) -> PyResult<()> {
                let _guard = python_call();
                if !callback.is_callable() {
                    return Err(wanted("a function of a region", callback)).argument("callback");
                }
                callback::check(callback, "callback")?;
                let regions = Self::regions(slf)?;
                let call = |region| callback::answer(callback.call1((region,))?, "callback").map(drop);
                regions.bind(slf.py()).iter().try_for_each(call)
            }

            /// The regions that share an address with `[base, base + size)`, by ascending base.
            ///
            #[doc = example!($name)]
            /// >>> [region.name for region in guest.overlapping(0xf_f000, "8KiB")]
            /// ['ram0']
            fn overlapping<'py>(slf: &Bound<'py, Self>, base: Address, size: Size) -> PyResult<Bound<'py, PyTuple>> {
                let (range, base) = (convert::range(base, size)?, Self::base(slf)?);
                base.get().objects_of(slf.py(), base.get().map.overlapping(range))
            }

            /// The ranges that regions of a type (of all types for `None`) cover, touching ones joined: a tuple of `AddressRange`.
            ///
            #[doc = example!($name)]
            /// >>> guest.ranges("ram")
            /// (AddressRange(base=0x0, size=0x10_0000),)
            #[pyo3(signature = (region_type=None))]
            fn ranges<'py>(
                &self,
                py: Python<'py>,
                region_type: Option<&Bound<'_, PyAny>>,
            ) -> PyResult<Bound<'py, PyTuple>> {
                let region_type = region_type.map(convert::region_type).transpose()?;
                convert::py_ranges(py, self.query(py, |base| Ok(base.map.ranges(region_type)))?)
            }

            /// The ranges between `low` and `high` (`layout.phys_end` by default) that no region covers: a tuple of `AddressRange`.
            ///
            #[doc = example!($name)]
            /// >>> [str(gap) for gap in guest.gaps(high=0x20_0000)]
            /// ['[0x10_0000, 0x20_0000)']
            #[pyo3(signature = (low=Address(0), high=None), text_signature = "($self, low=0, high=None)")]
            fn gaps<'py>(&self, py: Python<'py>, low: Address, high: Option<Address>) -> PyResult<Bound<'py, PyTuple>> {
                let end = |base: &PyBase| high.map_or(base.map.layout().phys_end(), |high| high.0);
                convert::py_ranges(py, self.query(py, |base| Ok(base.map.gaps(low.0, end(base))))?)
            }

            /// How `after`, a map or the current one of a space, differs from this map: an `AddressSpaceChange`.
            ///
            #[doc = example!($name)]
            /// >>> from dbs_address_space import AddressSpaceBase
            /// >>> guest.diff(AddressSpaceBase.from_regions([], guest.layout))
            /// AddressSpaceChange(0 added, 1 removed, 0 replaced)
            fn diff(slf: &Bound<'_, Self>, after: &Bound<'_, PyAny>) -> PyResult<PyChange> {
                PyChange::between(slf.py(), Self::base(slf)?, base_of(after, "after")?)
            }

            fn __getitem__<'py>(
                &self,
                py: Python<'py>,
                key: &Bound<'_, PyAny>,
            ) -> PyResult<Option<Bound<'py, PyRegion>>> {
                match key.cast::<PyString>() {
                    Ok(name) => {
                        let name = name.as_borrowed();
                        let name = convert::word(&name)?;
                        self.query(py, |base| base.object_at(py, base.map.at_name(&name)?.base()))
                    }
                    Err(_) => {
                        let base_addr = exact_base(key)?;
                        let found = self.query(py, |base| base.object_at(py, base.map.at_base(base_addr)?.base()));
                        found.map_err(|error| hinted(key.py(), error))
                    }
                }
            }

            fn __contains__(&self, py: Python<'_>, x: &Bound<'_, PyAny>) -> PyResult<bool> {
                if let Ok(region) = x.cast::<PyRegion>() {
                    return self.query(py, |base| Ok(base.map.equal_to(&region.get().0).is_ok()));
                }
                if let Ok(name) = x.cast::<PyString>() {
                    let name = name.as_borrowed();
                    let name = convert::word(&name)?;
                    return self.query(py, |base| Ok(base.map.find_name(&name).is_some()));
                }
                if !has(x, "__index__")? {
                    return Err(wanted("an address, a name or a region", x));
                }
                let addr = x.extract::<Address>()?;
                self.query(py, |base| Ok(base.map.find_index(addr.0).is_some()))
            }

            fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
                self.query(py, |base| Ok(base.map.regions().len()))
            }

            /// True also when it is empty: it is a map, not a list.
            #[allow(clippy::unused_self, reason = "what Python asks for")]
            const fn __bool__(&self) -> bool {
                true
            }

            fn __iter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
                Ok(PyIterator::from_object(Self::regions(slf)?.bind(slf.py()))?.into_any())
            }

            fn __reversed__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
                let _guard = python_call();
                slf.py().import("builtins")?.call_method1("reversed", (Self::regions(slf)?,))
            }
        }
    };
}

pub(super) use example;

queries!(PyBase, "AddressSpaceBase");
queries!(PySpace, "AddressSpace");
