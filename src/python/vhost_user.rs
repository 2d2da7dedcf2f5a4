//! `VhostUserClient`, and the memory table of a space.

use std::os::fd::RawFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyTuple};

use super::convert::{Address, Timeout, U32};
use super::interrupt::detached;
use super::kvm::descriptor;
use super::memory::{EVERYWHERE, PyMemory};
use super::space::PySpace;
use super::space_ref::SpaceRef;
use crate::clients::vhost_user::{VhostUser, VhostUserRegion};
use crate::memory::access::{Shape, Verb};
use crate::memory::protection::Need;
use crate::model::error::Result;
use crate::space::client::Subscription;

/// A vhost-user backend whose memory table follows an address space; also a context manager that detaches it.
///
/// Made by `AddressSpace.attach_vhost_user()`. It has the front-end's end of the socket: the rest of the conversation, such as the
/// features and the rings, goes through `send` and `ask`, so that messages never mix. Dropping it changes nothing.
#[pyclass(frozen, name = "VhostUserClient", module = "dbs_address_space")]
pub struct PyVhostUserClient {
    space: SpaceRef,
    client: Arc<VhostUser>,
    subscription: OnceLock<Arc<Subscription>>,
}

#[pymethods]
impl PyVhostUserClient {
    /// The virtio features that the backend offers, with `VHOST_USER_F_PROTOCOL_FEATURES` in bit 30.
    #[getter]
    fn features(&self, py: Python<'_>) -> u64 {
        py.detach(|| self.client.negotiated()).0
    }

    /// The features of the protocol that are in use.
    #[getter]
    fn protocol_features(&self, py: Python<'_>) -> u64 {
        py.detach(|| self.client.negotiated()).1
    }

    /// How many regions of memory the backend takes.
    #[getter]
    fn max_regions(&self, py: Python<'_>) -> usize {
        py.detach(|| self.client.negotiated()).2
    }

    /// What the backend has been shown: a tuple of `VhostUserRegion` by ascending address.
    #[getter]
    fn table<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        to_python(py, &py.detach(|| self.client.table()))
    }

    /// Sends a message that has no reply, with descriptors beside it, and returns once the backend has taken it.
    ///
    /// `request` is its number in the protocol, `payload` what follows the header. Raises `BackingError` when the backend refuses,
    /// does not answer in time or is gone.
    #[pyo3(signature = (request, payload=None, *, fds=Vec::new()), text_signature = "($self, request, payload=b'', *, fds=())")]
    fn send(&self, py: Python<'_>, request: U32, payload: Option<&[u8]>, fds: Vec<RawFd>) -> PyResult<()> {
        let payload = payload.unwrap_or_default();
        Ok(py.detach(|| self.client.message(request.0, payload, &fds, false)).map(drop)?)
    }

    /// Sends a message that has a reply, and returns the reply's payload. Raises as `send` does.
    #[pyo3(signature = (request, payload=None, *, fds=Vec::new()), text_signature = "($self, request, payload=b'', *, fds=())")]
    fn ask<'py>(
        &self,
        py: Python<'py>,
        request: U32,
        payload: Option<&[u8]>,
        fds: Vec<RawFd>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let payload = payload.unwrap_or_default();
        let reply = py.detach(|| self.client.message(request.0, payload, &fds, true))?;
        Ok(PyBytes::new(py, &reply))
    }

    /// What ended the attachment, a `BackingError`; `None` as long as all is well.
    #[getter]
    fn error<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        let error = self.subscription.get()?.error()?;
        Some(PyErr::from(error).into_value(py).into_bound(py).into_any())
    }

    /// Takes all memory from the backend, whose rings must have been stopped; the socket stays its owner's.
    ///
    /// Doing it twice does nothing. Raises `BackingError` when the backend refuses; it is detached all the same.
    fn detach(&self, py: Python<'_>) -> PyResult<()> {
        let Some(subscription) = self.subscription.get() else { return Ok(()) };
        detached(py, None, |interrupt| self.space.unsubscribe(subscription, interrupt))
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _type: &Bound<'_, PyAny>,
        _value: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        self.detach(py).map(|()| false)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let (regions, (_, _, most)) = py.detach(|| (self.client.table().len(), self.client.negotiated()));
        format!("VhostUserClient({regions} of {most} regions)")
    }
}

#[pymethods]
impl PySpace {
    /// Keeps the memory table of a vhost-user backend in step with this space's RAM; returns its `VhostUserClient`.
    ///
    /// `sock` is a connected Unix socket, an int or anything with `fileno()`, that stays the caller's; a duplicate is kept until
    /// `detach()`. The session is opened and the protocol's features are negotiated here: what this needs, and those bits of
    /// `protocol_features` that the backend offers. `SET_FEATURES` and the rings are the caller's, by `VhostUserClient.send`.
    /// Each message waits `timeout` seconds for the backend. Firmware, devices and DAX windows are not in the table.
    ///
    /// A region is removed from the table when its removal is published: the caller must have no request under way in it. Raises
    /// `NotMapped`, `Unsupported` naming RAM that is not shared, `BackingError` for a backend that refuses, does not answer or has
    /// no room (`ENOSPC`).
    #[pyo3(signature = (sock, *, timeout=Timeout(Duration::from_secs(5)), protocol_features=Address(0)), text_signature = "($self, sock, *, timeout=5.0, protocol_features=0)")]
    fn attach_vhost_user<'py>(
        &self,
        py: Python<'py>,
        sock: &Bound<'_, PyAny>,
        timeout: Timeout,
        protocol_features: Address,
    ) -> PyResult<Bound<'py, PyVhostUserClient>> {
        self.inner().check_process()?;
        self.inner().check_mapped("vhost-user")?;
        let (socket, timeout) = (descriptor(sock)?, timeout.0);
        let client = Arc::new(py.detach(|| VhostUser::new(socket, timeout, protocol_features.0))?);
        let space = self.inner().clone();
        let object = PyVhostUserClient { space, client: Arc::clone(&client), subscription: OnceLock::new() };
        let object = Bound::new(py, object)?;
        let (_, subscription) = self.attach(object.as_any(), |_| Ok(client))?;
        let _ = object.get().subscription.set(subscription);
        Ok(object)
    }
}

#[pymethods]
impl PyMemory {
    /// The memory table that a vhost-user backend is sent: a tuple of `VhostUserRegion`, one a region of RAM.
    ///
    /// `fd` is the mapping's own descriptor, open for as long as the region is mapped; huge pages are guarded from here on.
    /// Firmware, devices and DAX windows are not in it. Raises `Unsupported` naming RAM that is private to this process.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> region, = space.map_memory().vhost_user_regions()
    /// >>> region.guest_phys_addr, region.memory_size, region.mmap_offset
    /// (0, 1048576, 0)
    fn vhost_user_regions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let verb = Verb::new("vhost_user_regions", Need::Nothing).shaped(Shape::Mapped).slow();
        let table = self.run(py, [(verb, &[EVERYWHERE])], None, |[sections], _| {
            let exported = sections.iter().filter_map(|section| VhostUserRegion::of(section.region()).transpose());
            exported.collect::<Result<Vec<_>>>()
        });
        to_python(py, &table?)
    }
}

fn to_python<'py>(py: Python<'py>, table: &[VhostUserRegion]) -> PyResult<Bound<'py, PyTuple>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class = CLASS.import(py, "dbs_address_space.ranges", "VhostUserRegion")?;
    let region = |region: &VhostUserRegion| {
        let VhostUserRegion { guest_phys_addr, memory_size, userspace_addr, mmap_offset, .. } = *region;
        class.call1((guest_phys_addr, memory_size, userspace_addr, mmap_offset, region.fd()))
    };
    PyTuple::new(py, table.iter().map(region).collect::<PyResult<Vec<_>>>()?)
}
