//! `UnplugRequest`.

use std::sync::Arc;

use pyo3::prelude::*;

use super::interrupt::detached;
use super::region_objects::RegionObject;
use super::seconds::Timeout;
use super::space_ref::SpaceRef;
use crate::model::unplug::{UnplugRequest, UnplugState};

/// A request that the guest give a region up; `remove_region` takes the request, once the guest has let go, and removes that very region.
///
/// Made by `AddressSpace.request_unplug(region)`; the code that drives the guest finds it in `AddressSpace.unplug_requests`.
///
/// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
/// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="dimm0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
/// >>> request = space.request_unplug("dimm0")
/// >>> request.wait(0.0)
/// False
/// >>> base = space.remove_region(request)
/// >>> request.done()
/// True
#[pyclass(frozen, weakref, name = "UnplugRequest", module = "dbs_address_space")]
#[derive(Debug)]
pub struct PyUnplugRequest {
    pub(super) space: SpaceRef,
    pub(super) request: Arc<UnplugRequest>,
}

#[pymethods]
impl PyUnplugRequest {
    /// The region that is asked for.
    #[getter]
    fn region(&self) -> RegionObject {
        RegionObject(Arc::clone(&self.request.region))
    }

    /// Whether the region was removed.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="ram0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> space.request_unplug("ram0").done()
    /// False
    fn done(&self) -> PyResult<bool> {
        Ok(self.request.state()? == UnplugState::Done)
    }

    /// Whether the request was withdrawn.
    #[getter]
    fn cancelled(&self) -> PyResult<bool> {
        Ok(self.request.state()? == UnplugState::Cancelled)
    }

    /// Waits until the region is removed or the request withdrawn, at most `timeout` seconds (`None`: for ever); whether it is removed.
    ///
    /// Ctrl-C ends the wait.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="ram0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> request = space.request_unplug("ram0")
    /// >>> base = space.remove_region("ram0")
    /// >>> request.wait()
    /// True
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<Timeout>) -> PyResult<bool> {
        let timeout = timeout.map(|timeout| timeout.0);
        let state = detached(py, None, |interrupt| self.request.wait(timeout, interrupt))?;
        Ok(state == UnplugState::Done)
    }

    /// Withdraws the request: the user may think better of it, and the code that drives the guest calls this when the guest refuses.
    /// A request that is settled stays as it is.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="ram0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> request = space.request_unplug("ram0")
    /// >>> request.cancel()
    /// >>> request.cancelled, space.unplug_requests
    /// (True, ())
    fn cancel(&self) -> PyResult<()> {
        Ok(self.space.cancel_unplug(&self.request)?)
    }

    fn __eq__(&self, other: &Bound<'_, Self>) -> bool {
        Arc::ptr_eq(&self.request, &other.get().request)
    }

    fn __hash__(&self) -> usize {
        Arc::as_ptr(&self.request).addr()
    }

    fn __repr__(&self) -> String {
        let state = match self.request.state() {
            Ok(UnplugState::Pending) => "pending",
            Ok(UnplugState::Done) => "done",
            Ok(UnplugState::Cancelled) => "cancelled",
            Err(_) => "locked by the parent process",
        };
        format!("UnplugRequest({}, {state})", self.request.region)
    }
}
