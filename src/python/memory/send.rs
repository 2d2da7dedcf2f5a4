//! Streams: memory on its way to another process.

use std::time::Duration;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyBytes, PyDict, PyTuple};

use super::image::{PyPlace, RESTORE, piece_of, py_areas, sorted};
use super::{EVERYWHERE, PyMemory};
use crate::image::plan::Plan;
use crate::image::restore::Piece;
use crate::memory::access::{Shape, Verb};
use crate::memory::protection::Need;
use crate::model::invalid::Invalid;
use crate::model::room;
use crate::python::base::PyBase;
use crate::python::calls::python_call;
use crate::python::convert::{self, Size, U32};
use crate::python::interrupt::detached;
use crate::python::seconds::{Downtime, Timeout};
use crate::python::space::PySpace;
use crate::python::stream::{PyStreamReceiver, PyStreamSender, connection};
use crate::python::{callback, file, keywords};
use crate::stream::connection::Connection;
use crate::stream::send::Sender;

const SEND: Verb = Verb::new("send", Need::Nothing).shaped(Shape::Mapped).slow();

/// The longest silence of the other side, where the caller says nothing.
const PATIENCE: Option<Timeout> = Some(Timeout(Duration::from_secs(30)));

impl PyMemory {
    /// Leases all memory, and sends the map.
    fn begin_stream(&self, connection: Connection, describe: &Bound<'_, PyAny>) -> PyResult<PyStreamSender> {
        let _guard = python_call();
        self.space.check_process()?;
        let py = describe.py();
        let (map, leased) = detached(py, None, |interrupt| {
            self.space.lease_with_map(self.incarnation, (SEND, &[EVERYWHERE]), interrupt)
        })?;
        let generation = map.generation();
        let plan = Plan::of(leased.sections(), &[], 0)?;
        let (areas, regions) = (py_areas(py, &plan)?, convert::py_tuple(py, plan.regions())?);
        drop(plan);
        let json = describe.call1((Py::new(py, PyBase::from(map))?, areas, regions))?;
        let json = room::collected(json.cast::<PyBytes>()?.as_bytes().iter().copied())?;
        let sender =
            detached(py, None, |interrupt| Sender::begin(connection, leased, (generation.0, &json), interrupt))?;
        Ok(PyStreamSender::new(self.space.clone(), generation, sender))
    }
}

#[pymethods]
impl PyMemory {
    /// Sends the map and all memory over a connected stream socket, while the guest runs, to `GuestMemory.receive`: a `SendReport`.
    ///
    /// A first pass sends all that is not zero, each further one what was written meanwhile. When what is left would take no more than
    /// `max_downtime` seconds, `stop()` is called: it pauses the guest and whoever else writes, and may return blobs, as a dict of bytes by
    /// their names, such as registers. The rest is sent, and the call returns once the receiver has published all: the guest then runs there.
    /// Without `stop` it ends with a pass that nobody wrote behind. After `max_passes` without that it gives up: `converged` is false,
    /// `stop()` was not called, and the guest runs on.
    ///
    /// `sock` is an int or anything with `fileno()`; it stays the caller's. `blobs` are sent first; those of `stop()` replace them by name.
    /// `rate` bytes a second are sent at most before `stop()`. The other side may be silent for `timeout` seconds (`None`: for ever).
    /// `trust` is that of `dirty.start`. `progress(p)` is called with a `SendProgress`. Regions can't be removed meanwhile; a map that
    /// changes is `GenerationChanged`.
    ///
    /// What `stop` or `progress` raises, and Ctrl-C, ends it. Whatever it raises, the memory, its dirty pages for others and the guest are as
    /// they were, the receiver publishes nothing, and the socket is shut down; an exception behind `stop()` has a note. Raises
    /// `ImageError` when the receiver refuses, or memory is written behind `stop()`; `PartialTransfer` when the connection fails or is silent;
    /// `Unsupported` beside writers that nobody sees; `AccessDenied`, `NotMapped`, `InvalidArgument` for a socket of another kind.
    ///
    /// >>> import socket, threading
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceBuilder, GuestMemory
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> space.memory.write(0x1000, b"hello")
    /// >>> ours, theirs = socket.socketpair()
    /// >>> there = AddressSpace(space.layout)
    /// >>> receiver = threading.Thread(target=GuestMemory.receive, args=(theirs, there))
    /// >>> receiver.start()
    /// >>> report = space.memory.send(ours, stop=lambda: {"vcpu0": b"registers"})
    /// >>> receiver.join()
    /// >>> report.converged, report.passes, there.memory.read(0x1000, 5)
    /// (True, 1, b'hello')
    /// >>> ours.close(), theirs.close()
    /// (None, None)
    #[pyo3(signature = (sock, *, max_downtime=Downtime::DEFAULT, max_passes=U32(30), stop=None, blobs=None, rate=None,
            timeout=PATIENCE, trust=None, progress=None, **others),
        text_signature = "($self, sock, *, max_downtime=0.3, max_passes=30, stop=None, blobs=None, rate=None, timeout=30.0, trust=(), progress=None)")]
    #[allow(clippy::too_many_arguments, reason = "all but one are keywords")]
    fn send<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        max_downtime: Downtime,
        max_passes: U32,
        stop: Option<Py<PyAny>>,
        blobs: Option<&Bound<'py, PyAny>>,
        rate: Option<Size>,
        timeout: Option<Timeout>,
        trust: Option<&Bound<'py, PyAny>>,
        progress: Option<Py<PyAny>>,
        others: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        keywords::refuse_of::<Self>("send", others)?;
        let _guard = python_call();
        let py = slf.py();
        callback::check_progress(py, progress.as_ref())?;
        callback::check_function(stop.as_ref().map(|stop| stop.bind(py)), "stop", "no arguments")?;
        let rate = rate.map(|rate| rate.0);
        if max_passes.0 == 0 || rate == Some(0) {
            return Err(Invalid::argument("send: max_passes and rate are at least 1").into());
        }
        let trust = trust.map_or_else(|| PyTuple::empty(py).into_any(), Clone::clone);
        let options = [
            ("max_downtime", max_downtime.0.as_secs_f64().into_py_any(py)?),
            ("max_passes", max_passes.0.into_py_any(py)?),
            ("stop", stop.into_py_any(py)?),
            ("blobs", blobs.into_py_any(py)?),
            ("rate", rate.into_py_any(py)?),
            ("timeout", timeout.map(|timeout| timeout.0.as_secs_f64()).into_py_any(py)?),
            ("trust", trust.unbind()),
            ("progress", progress.into_py_any(py)?),
        ];
        let module = py.import("dbs_address_space.streams")?;
        module.getattr("sent")?.call((slf, sock), Some(&options.into_py_dict(py)?))
    }

    /// Receives what `send` sends, into a space without regions: a `ReceiveReport`.
    ///
    /// The regions and their memory are published in `space` as one change, of which its clients are asked, and only when all has come
    /// and the digest of the memory is that of what was sent: `space.memory` is there then. The space has the layout of the one that is
    /// sent, and stays as it is until then. Regions over a user's file or buffer have memory of their own here. `sock` is a
    /// connected stream socket, an int or anything with `fileno()`, which stays the caller's; the other side may be silent for `timeout` seconds (`None`:
    /// for ever), which has to be longer than its `stop()` takes.
    ///
    /// Whatever it raises, nothing is published, the sender hears why, and the socket is shut down. Raises `ImageCorrupt` for a stream that
    /// is damaged, ends early or was never one, with `.chunk`; `ImageMismatch` for another layout or architecture, `ImageTooNew`;
    /// `ImageError` when the sender gives up; `PartialTransfer` when the connection fails or is silent; `GenerationChanged` when the space
    /// has changed meanwhile; `InvalidArgument` for a space with regions; as `map_memory()` and `insert_region` do.
    ///
    /// >>> import socket, threading
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceBuilder, GuestMemory
    /// >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    /// >>> ours, theirs = socket.socketpair()
    /// >>> sender = threading.Thread(target=space.memory.send, args=(ours,), kwargs={"blobs": {"vcpu0": b"registers"}})
    /// >>> sender.start()
    /// >>> there = AddressSpace(space.layout)
    /// >>> GuestMemory.receive(theirs, there).blobs
    /// {'vcpu0': b'registers'}
    /// >>> sender.join()
    /// >>> there["ram0"].size, there.is_mapped
    /// (4194304, True)
    /// >>> ours.close(), theirs.close()
    /// (None, None)
    #[staticmethod]
    #[pyo3(signature = (sock, space, *, timeout=PATIENCE, progress=None, **others),
        text_signature = "(sock, space, *, timeout=30.0, progress=None)")]
    fn receive<'py>(
        sock: &Bound<'py, PyAny>,
        space: &Bound<'py, PySpace>,
        timeout: Option<Timeout>,
        progress: Option<Py<PyAny>>,
        others: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        keywords::refuse_of::<Self>("receive", others)?;
        let _guard = python_call();
        callback::check_progress(sock.py(), progress.as_ref())?;
        file::descriptor(sock, "sock")?;
        let module = sock.py().import("dbs_address_space.streams")?;
        module.getattr("received")?.call1((sock, space, timeout.map(|timeout| timeout.0.as_secs_f64()), progress))
    }

    /// Begins a stream, whose JSON `describe(base, areas, regions)` gives.
    fn _sender(
        &self,
        sock: &Bound<'_, PyAny>,
        timeout: Option<Timeout>,
        describe: &Bound<'_, PyAny>,
    ) -> PyResult<PyStreamSender> {
        self.begin_stream(connection(sock, "send", timeout)?, describe)
    }

    /// Fills new memory, each region from its place, with what a stream brings.
    fn _receive(
        &self,
        py: Python<'_>,
        receiver: &PyStreamReceiver,
        places: Vec<PyPlace>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let places = sorted(places)?;
        let (_, leased) = detached(py, None, |interrupt| {
            self.space.lease_with_map(self.incarnation, (RESTORE, &[EVERYWHERE]), interrupt)
        })?;
        let sections = room::collected(leased.sections())?;
        let pieces = room::collected(sections.iter().filter_map(|section| piece_of(section, &places)))?;
        pieces.iter().for_each(Piece::descend);
        receiver.with(py, progress, |receiver, interrupt| receiver.fill(&pieces, interrupt))
    }
}
