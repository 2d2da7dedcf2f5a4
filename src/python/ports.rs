//! `AddressSpace.ports`: the addresses of x86's `in` and `out`, as a space of devices.

use pyo3::prelude::*;

use super::space::PySpace;
use crate::model::invalid::Invalid;
use crate::model::layout::Layout;
use crate::model::region_map::RegionMap;

#[pymethods]
impl PySpace {
    /// The I/O ports of an x86 machine, 0 to 0xffff: an `AddressSpace` of its own, always the same, for device regions only.
    ///
    /// It has every verb of a space, `attach_device`, `dispatch`, `reserve` and `find_free` among them, where a region's type is
    /// `"device"` and its alignment 1 when they are not given. So what answers an access, by MMIO or by `in` and `out`, is one
    /// handler, and one `dispatch`. It ends with `close()` of the space. Raises `InvalidArgument` of ports themselves.
    ///
    /// >>> from types import SimpleNamespace
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> ports = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45)).ports
    /// >>> _ = ports.insert_region(AddressSpaceRegion("device", 0x3f8, 8, name="com1"))
    /// >>> _ = ports.attach_device("com1", SimpleNamespace(read=lambda offset, size: 0, write=print))
    /// >>> ports.dispatch(0x3f8, 1, ord("a"))
    /// 0 1 97
    #[getter]
    fn ports(&self, py: Python<'_>) -> PyResult<Py<Self>> {
        if self.inner().map().layout().is_of_ports() {
            return Err(Invalid::argument("these are the ports of a space, which have none of their own").into());
        }
        let begin = || Py::new(py, Self::begin(py, RegionMap::empty(Layout::of_ports()))?);
        Ok(self.port_space().get_or_try_init(begin)?.clone_ref(py))
    }
}
