//! Asking for a region back: the verbs of `AddressSpace` about requests.

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::base::target;
use super::space::PySpace;
use super::unplug_request::PyUnplugRequest;

#[pymethods]
impl PySpace {
    /// Asks for a region (exact base, name or region) to be given up and returns the `UnplugRequest`; nothing is removed.
    ///
    /// The code that drives the guest finds it in `unplug_requests`, and gives it to `remove_region` when the guest has let go, or
    /// cancels it. Asking again gives the same request. Raises `UnmappedAddress`.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="ram0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> request = space.request_unplug("ram0")
    /// >>> space.unplug_requests == (request,)
    /// True
    fn request_unplug(&self, region: &Bound<'_, PyAny>) -> PyResult<PyUnplugRequest> {
        let request = self.inner().request_unplug(&target(region, "region")?)?;
        Ok(PyUnplugRequest { space: self.inner().clone(), request })
    }

    /// The `UnplugRequest`s that are pending, oldest first.
    #[getter]
    fn unplug_requests<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let of = |request| PyUnplugRequest { space: self.inner().clone(), request };
        PyTuple::new(py, self.inner().unplug_requests()?.into_iter().map(of))
    }
}
