//! Memory on its way to another process, for `dbs_address_space.streams`, which decides when to go on and when to stop.

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::buffer;
use super::calls;
use super::convert::{Size, U64};
use super::dirty::PyDirtyPages;
use super::file;
use super::interrupt::detached;
use super::seconds::Timeout;
use super::space::PySpace;
use super::space_ref::SpaceRef;
use crate::clients::duplicate;
use crate::memory::buffer::Output;
use crate::model::error::{Error, ImageFault, Result};
use crate::model::ids::Generation;
use crate::model::int::u64_of;
use crate::model::interrupt::Interrupt;
use crate::model::invalid::Invalid;
use crate::stream::connection::{Connection, broken};
use crate::stream::receive::Receiver;
use crate::stream::send::Sender;
use crate::sys::lock::Lock;

/// A duplicate of a connected socket of the caller's.
pub(super) fn connection(
    sock: &Bound<'_, PyAny>,
    verb: &'static str,
    timeout: Option<Timeout>,
) -> PyResult<Connection> {
    let socket = duplicate(file::descriptor(sock, "sock")?)?;
    Ok(Connection::new(socket, verb, timeout.map(|timeout| timeout.0))?)
}

/// Takes a side of a stream out for one call, which takes the interpreter's lock: other threads must not wait for it.
fn with<S: Send, T: Send>(
    py: Python<'_>,
    side: &Lock<Option<S>>,
    progress: Option<Py<PyAny>>,
    work: impl FnOnce(&mut S, &dyn Interrupt) -> Result<T> + Send,
) -> PyResult<T> {
    let taken = side.lock()?.take();
    let Some(mut taken) = taken else {
        return Err(Invalid::argument("this side of the stream has ended, or is in use").into());
    };
    let result = detached(py, progress, |interrupt| work(&mut taken, interrupt));
    *side.lock()? = Some(taken);
    result
}

/// The side that sends; leases on all memory are held until it is closed.
#[pyclass(frozen, weakref, name = "_StreamSender", module = "dbs_address_space._core")]
#[derive(Debug)]
pub struct PyStreamSender {
    space: SpaceRef,
    generation: Generation,
    sender: Lock<Option<Sender>>,
}

impl PyStreamSender {
    pub(super) const fn new(space: SpaceRef, generation: Generation, sender: Sender) -> Self {
        Self { space, generation, sender: Lock::new(Some(sender)) }
    }
}

#[pymethods]
impl PyStreamSender {
    /// Sends all memory, or what some pages have now; at most `rate` bytes a second.
    #[pyo3(name = "send")]
    fn send_pass(
        &self,
        py: Python<'_>,
        pages: Option<&PyDirtyPages>,
        rate: Option<Size>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let dirty = pages.map(|pages| pages.inner().ranges()).transpose()?;
        with(py, &self.sender, progress, |sender, interrupt| {
            sender.pass(dirty.as_deref(), rate.map(|rate| rate.0), interrupt)
        })
    }

    /// Sends a blob.
    fn blob(&self, py: Python<'_>, name: &str, content: &[u8]) -> PyResult<()> {
        with(py, &self.sender, None, |sender, interrupt| sender.blob(name, content, interrupt))
    }

    /// Refuses when the map has changed since it was sent.
    fn check_map(&self) -> PyResult<()> {
        let (expected, actual) = (self.generation, self.space.map().generation());
        if expected == actual { Ok(()) } else { Err(Error::GenerationChanged { expected, actual }.into()) }
    }

    /// Says that this is all, and gives the digest of the memory once the receiver has published it.
    fn finish<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let content = with(py, &self.sender, None, |sender, interrupt| sender.finish(interrupt))?;
        bytes(py, &content)
    }

    /// Says that nothing more comes.
    fn give_up(&self, py: Python<'_>, why: &str) -> PyResult<()> {
        with(py, &self.sender, None, |sender, interrupt| sender.give_up(why, interrupt))
    }

    /// The bytes that were sent.
    #[getter]
    fn moved(&self) -> PyResult<u64> {
        Ok(self.sender.lock()?.as_ref().map_or(0, Sender::moved))
    }

    /// Lets the memory go; in the midst of a stream it also ends the conversation.
    fn close(&self, py: Python<'_>, is_whole: bool) -> PyResult<()> {
        let sender = self.sender.lock()?.take();
        sender.iter().filter(|_| !is_whole).for_each(Sender::abandon);
        calls::detach(py, || drop(sender));
        Ok(())
    }
}

/// The side that receives, once the map is known.
#[pyclass(frozen, weakref, name = "_StreamReceiver", module = "dbs_address_space._core")]
#[derive(Debug)]
pub struct PyStreamReceiver(Lock<Option<Receiver>>);

impl PyStreamReceiver {
    /// Works on what comes.
    pub(super) fn with<T: Send>(
        &self,
        py: Python<'_>,
        progress: Option<Py<PyAny>>,
        work: impl FnOnce(&mut Receiver, &dyn Interrupt) -> Result<T> + Send,
    ) -> PyResult<T> {
        with(py, &self.0, progress, work)
    }

    fn look<T>(&self, look: impl FnOnce(&Receiver) -> T) -> PyResult<T> {
        let receiver = self.0.lock()?;
        let over = || Invalid::argument("this side of the stream has ended, or is in use");
        Ok(look(receiver.as_ref().ok_or_else(over)?))
    }
}

#[pymethods]
impl PyStreamReceiver {
    #[new]
    fn new(sock: &Bound<'_, PyAny>, timeout: Option<Timeout>) -> PyResult<Self> {
        let connection = connection(sock, "receive", timeout)?;
        let receiver = detached(sock.py(), None, |interrupt| Receiver::begin(connection, interrupt))?;
        Ok(Self(Lock::new(Some(receiver))))
    }

    /// Tells a sender why it is not listened to, and ends the conversation.
    #[staticmethod]
    fn decline(sock: &Bound<'_, PyAny>, timeout: Option<Timeout>, why: &str) -> PyResult<()> {
        let connection = connection(sock, "receive", timeout)?;
        calls::detach(sock.py(), || Receiver::decline(&connection, why));
        Ok(())
    }

    /// The description of the map.
    #[getter]
    fn json<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.look(|receiver| bytes(py, receiver.json()))?
    }

    /// The bytes that the data has room for.
    #[getter]
    fn room(&self) -> PyResult<u64> {
        self.look(Receiver::room)
    }

    /// The bytes that came.
    #[getter]
    fn moved(&self) -> PyResult<u64> {
        self.look(Receiver::moved)
    }

    /// The digest of the memory, once all has come.
    #[getter]
    fn content<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.look(|receiver| bytes(py, &receiver.content()))?
    }

    /// The passes over memory that came.
    #[getter]
    fn passes(&self) -> PyResult<u64> {
        self.look(Receiver::passes)
    }

    /// The names and the contents of the blobs, the newest last.
    #[getter]
    fn blobs<'py>(&self, py: Python<'py>) -> PyResult<Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)>> {
        self.look(|receiver| {
            let both = receiver.blobs().iter();
            both.map(|(name, content)| Ok((bytes(py, name)?, bytes(py, content)?))).collect()
        })?
    }

    /// The error of a stream that is damaged.
    #[staticmethod]
    fn corrupt(message: String) -> PyErr {
        broken(ImageFault::Corrupt, message, None).into()
    }

    /// The error of a stream that does not belong to the space.
    #[staticmethod]
    fn mismatch(message: String) -> PyErr {
        broken(ImageFault::Mismatch, message, None).into()
    }

    /// Tells the sender why it is not, and ends the conversation.
    fn refuse(&self, why: &str) -> PyResult<()> {
        self.look(|receiver| receiver.refuse(why))
    }
}

#[pymethods]
impl PySpace {
    /// Takes over the map and the memory of a space that nobody has seen, if this one is as it was, and tells the sender of it.
    fn _adopt(&self, py: Python<'_>, other: &Self, generation: U64, receiver: &PyStreamReceiver) -> PyResult<()> {
        let (space, other) = (self.inner(), other.inner());
        receiver.with(py, None, |receiver, interrupt| {
            let adopted = space.adopt(other, Generation(generation.0), interrupt);
            // In one step with the publication: an exception that comes in between must not keep it from the sender.
            match &adopted {
                Ok(_) => receiver.accept(),
                Err(error) => receiver.refuse(&error.to_string()),
            }
            adopted.map(drop)
        })
    }
}

fn bytes<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    buffer::new_bytes(py, u64_of(bytes.len()), |output: &Output<'_>| Ok(output.put(0, bytes)?))
}
