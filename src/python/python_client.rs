//! A client written in Python, as the space sees it.
//!
//! The space calls it in the writer's turn, in the thread that makes the change and without the interpreter's lock. Each phase takes
//! that lock for the call alone, so the order is always the turn, then the interpreter's lock.

use crate::model::quote::quoted;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use pyo3::exceptions::{PyException, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::attachment::AttachmentState;
use super::callback;
use super::calls::{self, python_call};
use super::change::PyChange;
use super::error::Exception;
use crate::model::error::{ClientException, Error, Result};
use crate::model::interrupt::Interrupt;
use crate::space::client::Client;
use crate::space::proposal::Proposal;
use crate::sys::lock::Lock;

/// Forwards to an object with `prepare`, `commit` and `rollback`, or to a callable that only hears of published changes.
pub(super) struct PyClient {
    /// Has the object. Weak, for the space owns this: a strong reference would be a cycle that the garbage collector can't see.
    attachment: Weak<AttachmentState>,
    name: String,
    is_observer: bool,
    replay: bool,
    is_new: AtomicBool,
    /// The change under way: the same object in all its phases.
    change: Lock<Option<Py<PyChange>>>,
}

impl PyClient {
    pub(super) fn new(
        attachment: &Weak<AttachmentState>,
        client: &Bound<'_, PyAny>,
        is_observer: bool,
        replay: bool,
    ) -> Self {
        Self {
            attachment: Weak::clone(attachment),
            name: name_of(client),
            is_observer,
            replay,
            is_new: AtomicBool::new(true),
            change: Lock::new(None),
        }
    }

    /// Calls a phase with the change.
    fn call(&self, phase: &str, proposal: &Arc<Proposal>) -> Result<()> {
        let _guard = python_call();
        self.with_client(|py, client| {
            let change = self.change_of(py, proposal)?;
            let result = match self.is_observer {
                true => client.call1((&change,)),
                false => client.call_method1(phase, (&change,)),
            };
            let result = result.and_then(|told| callback::answer(told, phase));
            result.map(drop).map_err(|raised| self.wrapped(client, phase, Some(&change), raised))
        })
    }

    /// Runs `work` attached; what it raises becomes an error that carries the exception.
    fn with_client(&self, work: impl FnOnce(Python<'_>, &Bound<'_, PyAny>) -> PyResult<()>) -> Result<()> {
        let outcome = calls::attach(|py| {
            // Without its object nobody is left who could ask what became of it.
            let Some(client) = self.attachment.upgrade().and_then(|attachment| attachment.object(py)) else {
                return Ok(());
            };
            work(py, &client)
        });
        match outcome {
            Some(Ok(())) => Ok(()),
            Some(Err(raised)) => {
                Err(Error::Client { message: raised.to_string(), raised: Some(ClientException::new(raised)) })
            }
            None => Err(Error::Client {
                message: format!("client {} can't be asked: the interpreter is shutting down", quoted(&self.name)),
                raised: None,
            }),
        }
    }

    /// A `ClientError` caused by an `Exception`; Ctrl-C and the like stay what they are.
    fn wrapped(&self, client: &Bound<'_, PyAny>, phase: &str, change: Option<&Py<PyChange>>, raised: PyErr) -> PyErr {
        let py = client.py();
        // KeyboardInterrupt and SystemExit are not the client's, and pass as they are.
        if !raised.is_instance_of::<PyException>(py) {
            return raised;
        }
        let done = if phase == "prepare" { "refused the change" } else { "failed" };
        let message = format!("client {} {done} in {phase}: {raised}", quoted(&self.name));
        let error = client_error(&message, client, change).unwrap_or_else(|failure| failure);
        error.set_cause(py, Some(raised));
        error
    }

    fn change_of(&self, py: Python<'_>, proposal: &Arc<Proposal>) -> PyResult<Py<PyChange>> {
        // Locked for a moment each time: making the object runs Python code.
        if let Some(change) = &*self.change.lock()? {
            return Ok(change.clone_ref(py));
        }
        let change = Py::new(py, PyChange::offered(py, proposal)?)?;
        *self.change.lock()? = Some(change.clone_ref(py));
        Ok(change)
    }

    /// Ends the change for this client: a change that is kept must not show memory that may be gone.
    fn end_change(&self) {
        let change = self.change.lock().map(|mut change| change.take());
        if let Ok(Some(change)) = change {
            change.get().end();
        }
    }
}

impl Client for PyClient {
    fn name(&self) -> &str {
        &self.name
    }

    fn prepare(&self, proposal: &Arc<Proposal>, _interrupt: &dyn Interrupt) -> Result<()> {
        if self.is_observer {
            return Ok(());
        }
        self.call("prepare", proposal).inspect_err(|_| self.end_change())
    }

    fn commit(&self, proposal: &Arc<Proposal>, _interrupt: &dyn Interrupt) -> Result<()> {
        // Whatever comes of it, the offer at the subscription was this one.
        let is_new = self.is_new.swap(false, Ordering::AcqRel);
        // An observer hears of maps: the first offer is not a change of the map, and neither is memory that comes.
        let is_old_news = (is_new && !self.replay) || proposal.renews_memory() || proposal.change.is_empty();
        let result = if self.is_observer && is_old_news { Ok(()) } else { self.call("commit", proposal) };
        self.end_change();
        result
    }

    fn rollback(&self, proposal: &Arc<Proposal>, _interrupt: &dyn Interrupt) -> Result<()> {
        let result = if self.is_observer { Ok(()) } else { self.call("rollback", proposal) };
        self.end_change();
        result
    }

    /// A client without `leave()` has nothing to let go.
    fn leave(&self, _interrupt: &dyn Interrupt) -> Result<()> {
        let _guard = python_call();
        self.with_client(|_, client| {
            let Some(leave) = client.getattr_opt("leave")? else { return Ok(()) };
            let left = leave.call0().and_then(|told| callback::answer(told, "leave"));
            left.map(drop).map_err(|raised| self.wrapped(client, "leave", None, raised))
        })
    }
}

/// Whether an object is a plain callable; refuses one that is neither that nor a client.
pub(super) fn is_observer(client: &Bound<'_, PyAny>) -> PyResult<bool> {
    let _guard = python_call();
    if let Some(leave) = client.getattr_opt("leave")? {
        callback::check(&leave, "the client's leave")?;
    }
    if !client.hasattr("prepare")? {
        return match client.is_callable() {
            true => callback::check(client, "the observer").map(|()| true),
            false => Err(PyTypeError::new_err(format!(
                "{} is not a client: it needs prepare(change), commit(change) and rollback(change), or to be callable",
                client.get_type().name()?
            ))),
        };
    }
    for phase in ["prepare", "commit", "rollback"] {
        let Some(method) = client.getattr_opt(phase)?.filter(Bound::is_callable) else {
            return Err(PyTypeError::new_err(format!(
                "{} has no method {phase}(change): a client has prepare, commit and rollback",
                client.get_type().name()?
            )));
        };
        callback::check(&method, &format!("the client's {phase}"))?;
    }
    Ok(false)
}

/// The client's `name` when it has one, else that of the function or the class.
fn name_of(client: &Bound<'_, PyAny>) -> String {
    let _guard = python_call();
    let text = |name: &str| client.getattr(name).ok()?.cast_into::<PyString>().ok().map(|text| text.to_string());
    let class = || client.get_type().name().map_or_else(|_| "client".into(), |name| name.to_string());
    text("name").or_else(|| text("__qualname__")).unwrap_or_else(class)
}

/// A `ClientError` about a Python client, and the change that it was asked about.
fn client_error(message: &str, client: &Bound<'_, PyAny>, change: Option<&Py<PyChange>>) -> PyResult<PyErr> {
    Exception::new(client.py(), "ClientError").with("client", client)?.with("change", change)?.build(message)
}
