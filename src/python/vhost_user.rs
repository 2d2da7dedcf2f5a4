//! `VhostUserClient`: a vhost-user back-end that follows a space; and the memory table of a space.

use std::sync::{Arc, Weak};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use super::argument::Argument;
use super::attachment::{PyAttachment, over};
use super::calls::python_call;
use super::convert::{self, Address, CInt, U32};
use super::file;
use super::import_once::ImportOnce;
use super::interrupt::detached;
use super::keywords;
use super::memory::{EVERYWHERE, PyMemory};
use super::seconds::Timeout;
use super::space::PySpace;
use crate::clients::partial_pages::{self, PartialPages};
use crate::clients::vhost_user::{VhostUser, VhostUserRegion};
use crate::memory::access::{Shape, Verb};
use crate::memory::protection::Need;
use crate::memory::section::Section;
use crate::model::error::Result;
use crate::model::range::Range;
use crate::model::region::RegionType;

/// A vhost-user back-end whose memory table follows an address space: the `Attachment` that `AddressSpace.attach_vhost_user()` makes.
///
/// It has the front-end's end of the socket: the rest of the conversation, such as the features and the rings, goes through `send` and
/// `ask`, so that messages never mix. `detach()` takes all memory from the back-end, whose rings must have been stopped, and raises
/// `BackingError` when the back-end refuses, or leaves a message unanswered for more than a second; it is detached all the same. The socket
/// stays its owner's.
#[pyclass(frozen, extends = PyAttachment, name = "VhostUserClient", module = "dbs_address_space")]
pub struct PyVhostUserClient {
    /// Gone once it is detached, and with it the duplicate of the socket.
    client: Weak<VhostUser>,
    features: u64,
    protocol_features: u64,
    max_regions: usize,
}

impl PyVhostUserClient {
    fn regions(&self) -> PyResult<Vec<VhostUserRegion>> {
        Ok(self.client.upgrade().map(|client| client.table()).transpose()?.unwrap_or_default())
    }

    fn message(
        &self,
        py: Python<'_>,
        request: U32,
        payload: Option<&[u8]>,
        fds: Option<&Bound<'_, PyAny>>,
        has_reply: bool,
    ) -> PyResult<Vec<u8>> {
        let client = self.client.upgrade().ok_or_else(over)?;
        let fds = convert::items_or_none(fds, "descriptors", |fd| Ok(fd.extract::<CInt>()?.0)).argument("fds")?;
        let payload = payload.unwrap_or_default();
        detached(py, None, |interrupt| client.message(request.0, payload, &fds, has_reply, interrupt))
    }
}

#[pymethods]
impl PyVhostUserClient {
    /// The virtio features that the back-end offers, with `VHOST_USER_F_PROTOCOL_FEATURES` in bit 30.
    #[getter]
    const fn features(&self) -> u64 {
        self.features
    }

    /// The features of the protocol that are in use.
    #[getter]
    const fn protocol_features(&self) -> u64 {
        self.protocol_features
    }

    /// How many regions of memory the back-end takes.
    #[getter]
    const fn max_regions(&self) -> usize {
        self.max_regions
    }

    /// The regions that the back-end was shown: a tuple of `VhostUserRegion` by ascending address.
    #[getter]
    fn table<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        to_python(py, &self.regions()?)
    }

    /// The RAM that the back-end is not shown: a tuple of `AddressRange`, ascending, made at each call.
    ///
    /// With `partial_pages="skip"` these are the parts of regions that do not fill a page; otherwise there are none.
    #[getter]
    fn left_out<'py>(slf: &Bound<'py, Self>, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let Some(client) = slf.get().client.upgrade() else { return Ok(PyTuple::empty(py)) };
        let (space, _) = slf.as_super().get().membership(py)?;
        let shown: Vec<Range> = client.table()?.iter().map(VhostUserRegion::range).collect();
        let map = space.map();
        let ram = map.regions().iter().filter(|region| region.region_type == RegionType::DefaultMemory);
        convert::py_ranges(py, ram.flat_map(|region| partial_pages::left_out(region.range, &shown)).collect())
    }

    /// Sends a message that has no reply, with descriptors beside it, and returns once the back-end has taken it.
    ///
    /// `request` is its number in the protocol, `payload` the bytes after the header. Raises `BackingError` when the back-end refuses,
    /// does not answer in time or is gone, `InvalidArgument` once it is detached, `ReentrantChange` in a signal handler that runs while
    /// another message is waited for.
    #[pyo3(signature = (request, payload=None, *, fds=None), text_signature = "($self, request, payload=b'', *, fds=())")]
    fn send(
        &self,
        py: Python<'_>,
        request: U32,
        payload: Option<&[u8]>,
        fds: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.message(py, request, payload, fds, false).map(drop)
    }

    /// Sends a message that has a reply, and returns the reply's payload. Raises as `send` does.
    #[pyo3(signature = (request, payload=None, *, fds=None), text_signature = "($self, request, payload=b'', *, fds=())")]
    fn ask<'py>(
        &self,
        py: Python<'py>,
        request: U32,
        payload: Option<&[u8]>,
        fds: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.message(py, request, payload, fds, true)?))
    }

    fn __repr__(&self) -> PyResult<String> {
        Ok(format!("VhostUserClient({} of {} regions)", self.regions()?.len(), self.max_regions))
    }
}

#[pymethods]
impl PySpace {
    /// Keeps the memory table of a vhost-user back-end in step with this space's RAM; returns its `VhostUserClient`.
    ///
    /// `sock` is a connected Unix socket, an int or anything with `fileno()`, that stays the caller's; a duplicate is kept until
    /// `detach()`. The session is opened and the protocol's features are negotiated here: those that this needs, and those bits of
    /// `protocol_features` that the back-end offers. `SET_FEATURES` and the rings are the caller's, by `VhostUserClient.send`.
    /// Each message waits `timeout` seconds for the back-end, or for ever with `None`. Ctrl-C ends the wait in every verb, and after a message without an answer the
    /// connection takes no other: detach it. Firmware, devices and DAX windows are not in the table. A back-end maps whole pages: RAM that
    /// begins or ends inside one, or whose bytes do in their file, is `Misaligned`, or shown without such parts with `partial_pages="skip"`,
    /// and they are in `VhostUserClient.left_out`.
    ///
    /// A region is removed from the table when its removal is published: the caller must have no request under way in it. Raises
    /// `NotMapped`, `Unsupported` naming RAM that is not shared, `BackingError` for a back-end that refuses, does not answer or has
    /// no room (`ENOSPC`).
    #[pyo3(signature = (sock, *, timeout=Some(Timeout(Duration::from_secs(5))), protocol_features=Address(0), partial_pages="refuse", **others),
        text_signature = "($self, sock, *, timeout=5.0, protocol_features=0, partial_pages='refuse')")]
    #[allow(clippy::too_many_arguments, reason = "keywords in Python")]
    fn attach_vhost_user<'py>(
        &self,
        py: Python<'py>,
        sock: &Bound<'_, PyAny>,
        timeout: Option<Timeout>,
        protocol_features: Address,
        partial_pages: &str,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Bound<'py, PyVhostUserClient>> {
        keywords::refuse_of::<Self>("attach_vhost_user", others)?;
        self.inner().check_process()?;
        // Before the negotiation, for which a backend is there once.
        self.inner().check_mapped("vhost-user")?;
        let (socket, timeout) = (file::descriptor(sock, "sock")?, timeout.map_or(Duration::MAX, |timeout| timeout.0));
        let partial_pages = PartialPages::parse(partial_pages)?;
        let client = detached(py, None, |interrupt| {
            VhostUser::new(socket, timeout, protocol_features.0, partial_pages, interrupt).map(Arc::new)
        })?;
        let (features, protocol_features, max_regions) = client.negotiated();
        let object = PyVhostUserClient { client: Arc::downgrade(&client), features, protocol_features, max_regions };
        self.attach(py, None, |_| client, |attachment| attachment.add_subclass(object))
    }
}

#[pymethods]
impl PyMemory {
    /// The memory table that a vhost-user back-end is sent: a tuple of `VhostUserRegion`, one a region of RAM.
    ///
    /// `fd` is the mapping's own descriptor, open for as long as the region is mapped; huge pages are guarded from here on.
    /// Firmware, devices and DAX windows are not in it. RAM that begins or ends inside a page, or whose bytes do in their file, is
    /// `Misaligned`, or there without such parts with `partial_pages="skip"`. Raises `Unsupported` naming RAM that is private to this process.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> region, = space.map_memory().vhost_user_regions()
    /// >>> region.guest_phys_addr, region.memory_size, region.mmap_offset
    /// (0, 1048576, 0)
    #[pyo3(signature = (*, partial_pages="refuse"), text_signature = "($self, *, partial_pages='refuse')")]
    fn vhost_user_regions<'py>(&self, py: Python<'py>, partial_pages: &str) -> PyResult<Bound<'py, PyTuple>> {
        let partial_pages = PartialPages::parse(partial_pages)?;
        let verb = Verb::new("vhost_user_regions", Need::Nothing).shaped(Shape::Mapped).slow();
        let table = self.run(py, [(verb, &[EVERYWHERE])], None, |[sections], _| {
            let of = |section: &Section<'_>| VhostUserRegion::of(section.region(), partial_pages).transpose();
            let exported = sections.iter().filter_map(of);
            exported.collect::<Result<Vec<_>>>()
        });
        to_python(py, &table?)
    }
}

fn to_python<'py>(py: Python<'py>, table: &[VhostUserRegion]) -> PyResult<Bound<'py, PyTuple>> {
    let _guard = python_call();
    static CLASS: ImportOnce = ImportOnce::new();
    let class = CLASS.import(py, "dbs_address_space.ranges", "VhostUserRegion")?;
    let region = |region: &VhostUserRegion| {
        let VhostUserRegion { guest_phys_addr, memory_size, userspace_addr, mmap_offset, .. } = *region;
        class.call1((guest_phys_addr, memory_size, userspace_addr, mmap_offset, region.fd()))
    };
    PyTuple::new(py, table.iter().map(region).collect::<PyResult<Vec<_>>>()?)
}
