//! `Reservation`, and the verbs of `AddressSpace` that look for room.

use std::sync::Arc;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use super::base::PyBase;
use super::calls::python_call;
use super::convert::{self, Address, Size};
use super::interrupt::detached;
use super::keywords;
use super::leaving::context_manager;
use super::region::PyRegion;
use super::region_objects::handed_over;
use super::registry::PyRegistry;
use super::space::PySpace;
use super::space_ref::SpaceRef;
use crate::model::allocator::{FitPolicy, Wanted};
use crate::model::format;
use crate::model::layout::Layout;
use crate::model::region::RegionType;
use crate::model::reservations::{Bounds, Reservation};

/// The arguments that `find_free` and `reserve` share.
pub(super) struct Room {
    pub(super) wanted: Wanted,
    pub(super) bounds: Bounds,
}

impl Room {
    pub(super) fn parse(
        layout: &Layout,
        size: Size,
        region_type: Option<&Bound<'_, PyAny>>,
        align: Option<Size>,
        (low, high): (Option<Address>, Option<Address>),
        policy: &str,
        guard_gap: Size,
    ) -> PyResult<Self> {
        let (usual, small) =
            if layout.is_of_ports() { (RegionType::DeviceMemory, 1) } else { (RegionType::DefaultMemory, 4096) };
        let region_type = region_type.map(convert::region_type).transpose()?.unwrap_or(usual);
        let default_align = if region_type == RegionType::DaxMemory { 2 << 20 } else { small };
        let align = align.map_or(default_align, |align| align.0);
        Ok(Self {
            wanted: Wanted { size: size.0, align, guard_gap: guard_gap.0, policy: FitPolicy::parse(policy)? },
            bounds: Bounds { region_type, low: low.map_or(0, |low| low.0), high: high.map_or(u64::MAX, |high| high.0) },
        })
    }
}

/// Addresses that are kept for an owner: others are neither given them nor can they insert regions there.
///
/// Made by `AddressSpace.reserve()`. It ends with `release()`, or with the `with` block that it is used in; dropping the object does
/// not end it. Regions that were inserted stay.
///
/// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
/// >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
/// >>> with space.reserve("1GiB", owner="dimm0", align="1GiB") as room:
/// ...     base = room.insert_region(AddressSpaceRegion("ram", room.base, room.size))
/// >>> space.reservations
/// ()
#[pyclass(frozen, weakref, name = "Reservation", module = "dbs_address_space")]
#[derive(Debug)]
pub struct PyReservation {
    space: SpaceRef,
    /// The clients that are asked about an insertion: it may be made when the `AddressSpace` object is gone.
    registry: Py<PyRegistry>,
    reservation: Arc<Reservation>,
}

context_manager!(PyReservation, |reservation, _| reservation.release());

#[pymethods]
impl PyReservation {
    /// The first address.
    #[getter]
    fn base(&self) -> u64 {
        self.reservation.range.base()
    }

    /// The number of bytes.
    #[getter]
    fn size(&self) -> u64 {
        self.reservation.range.size()
    }

    /// The first address after it.
    #[getter]
    fn end(&self) -> u64 {
        self.reservation.range.end()
    }

    /// The owner's name.
    #[getter]
    fn owner(&self) -> &str {
        &self.reservation.owner
    }

    /// Whether it has not been released.
    #[getter]
    fn is_active(&self) -> PyResult<bool> {
        Ok(self.space.is_reserved(&self.reservation)?)
    }

    /// Inserts a region that lies in the reservation, which others can't, and returns the map just published.
    ///
    /// Raises `InvalidAddressRange` for a region that reaches out of it, and else as `AddressSpace.insert_region` does.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> room = space.reserve("1MiB", owner="dimm0")
    /// >>> len(room.insert_region(AddressSpaceRegion("ram", room.base, room.size)))
    /// 1
    fn insert_region(&self, py: Python<'_>, region: &Bound<'_, PyRegion>) -> PyResult<PyBase> {
        let region = handed_over(region)?;
        let map = detached(py, None, |interrupt| self.space.insert_reserved(&self.reservation, &region, interrupt))?;
        Ok(map.into())
    }

    /// Gives the addresses back; a second time it does nothing.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout
    /// >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> room = space.reserve("1MiB", owner="dimm0")
    /// >>> room.release()
    /// >>> room.is_active
    /// False
    fn release(&self) -> PyResult<()> {
        Ok(self.space.release(&self.reservation)?)
    }

    fn __eq__(&self, other: &Bound<'_, Self>) -> bool {
        self.reservation.id == other.get().reservation.id
    }

    fn __hash__(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        self.reservation.id.hash(&mut hasher);
        hasher.finish()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let _guard = python_call();
        let range = self.reservation.range;
        let (owner, size) = (PyString::new(py, self.owner()), format::size(range.size()));
        let released = if self.is_active()? { "" } else { ", released" };
        Ok(format!("Reservation({range} {size}, owner={}{released})", owner.repr()?))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.registry)
    }

    #[allow(clippy::unused_self, reason = "a method for pickle")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(pyo3::exceptions::PyTypeError::new_err("cannot pickle a Reservation: it is part of a live AddressSpace"))
    }
}

#[pymethods]
impl PySpace {
    /// The base of free addresses, where neither a region nor a reservation is, and where the layout allows such a region.
    ///
    /// `align` is a power of two: 2 MiB for `"dax"`, 1 for `ports`, else 4 KiB, when not given. `low` and `high` bound the place, which lies below
    /// the layout's ends in any case. `policy` is `"first"`, `"last"` or `"best"`; `guard_gap` bytes stay free on both sides. Raises
    /// `NoSpace`, or of its kinds `Fragmented` and `AlignmentImpossible`, with the numbers.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout
    /// >>> AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45)).find_free("1GiB", policy="last") == (1 << 45) - (1 << 30)
    /// True
    #[pyo3(signature = (size, *, region_type=None, align=None, low=None, high=None, policy="first", guard_gap=Size(0), **others),
        text_signature = "($self, size, *, region_type='ram', align=None, low=None, high=None, policy='first', guard_gap=0)")]
    #[allow(clippy::too_many_arguments, reason = "the keywords that users were promised")]
    fn find_free(
        &self,
        size: Size,
        region_type: Option<&Bound<'_, PyAny>>,
        align: Option<Size>,
        low: Option<Address>,
        high: Option<Address>,
        policy: &str,
        guard_gap: Size,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<u64> {
        keywords::refuse_of::<Self>("find_free", others)?;
        let map = self.inner().map();
        let room = Room::parse(map.layout(), size, region_type, align, (low, high), policy, guard_gap)?;
        Ok(self.inner().find_free(&room.wanted, room.bounds)?)
    }

    /// Keeps addresses for an owner, at `base` or where `find_free` finds them: nobody else is given them or can insert there.
    ///
    /// The arguments are those of `find_free`. The owner inserts through the `Reservation`. Raises as `find_free` does; with
    /// `base`, `Misaligned`, or `RegionOverlap` that names the region or owner in the way.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout
    /// >>> AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45)).reserve("1MiB", owner="pci", region_type="device")
    /// Reservation([0x2000_0000_0000, 0x2000_0010_0000) 1 MiB, owner='pci')
    #[pyo3(signature = (size, *, owner, base=None, region_type=None, align=None, low=None, high=None, policy="first", guard_gap=Size(0), **others),
        text_signature = "($self, size, *, owner, base=None, region_type='ram', align=None, low=None, high=None, policy='first', guard_gap=0)")]
    #[allow(clippy::too_many_arguments, reason = "the keywords that users were promised")]
    fn reserve(
        &self,
        py: Python<'_>,
        size: Size,
        owner: &str,
        base: Option<Address>,
        region_type: Option<&Bound<'_, PyAny>>,
        align: Option<Size>,
        low: Option<Address>,
        high: Option<Address>,
        policy: &str,
        guard_gap: Size,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<PyReservation> {
        keywords::refuse_of::<Self>("reserve", others)?;
        let map = self.inner().map();
        let Room { wanted, bounds } =
            Room::parse(map.layout(), size, region_type, align, (low, high), policy, guard_gap)?;
        let base = base.map(|base| base.0);
        let reservation =
            detached(py, None, |interrupt| self.inner().reserve(&wanted, bounds, base, owner, interrupt))?;
        Ok(self.reservation(py, reservation))
    }

    /// The reservations that have not been released, by ascending base.
    #[getter]
    fn reservations<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let reservations = self.inner().reservation_list()?.into_iter();
        convert::py_tuple(py, reservations.map(|reservation| self.reservation(py, reservation)))
    }
}

impl PySpace {
    fn reservation(&self, py: Python<'_>, reservation: Arc<Reservation>) -> PyReservation {
        PyReservation { space: self.inner().clone(), registry: self.registry().clone_ref(py), reservation }
    }
}
