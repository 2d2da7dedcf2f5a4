//! A client written in Python, as the space sees it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use pyo3::exceptions::{PyException, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::change::PyChange;
use super::error::Exception;
use super::registry::Shared;
use crate::model::error::{ClientException, Error, Result};
use crate::model::lock::Lock;
use crate::space::client::Client;
use crate::space::proposal::Proposal;

/// Forwards to an object with `prepare`, `commit` and `rollback`, or to a callable that only hears of what was published.
pub(super) struct PyClient {
    shared: Weak<Shared>,
    id: u64,
    name: String,
    is_observer: bool,
    replay: bool,
    is_new: AtomicBool,
    /// The change under way: the same object in all its phases.
    change: Lock<Option<Py<PyChange>>>,
}

impl PyClient {
    pub(super) fn new(shared: Weak<Shared>, id: u64, client: &Bound<'_, PyAny>, replay: bool) -> PyResult<Self> {
        let is_observer = is_observer(client)?;
        Ok(Self {
            shared,
            id,
            name: name_of(client),
            is_observer,
            replay,
            is_new: AtomicBool::new(true),
            change: Lock::new(None),
        })
    }

    /// Calls a phase; what it raises is an error that carries the exception.
    fn call(&self, phase: &'static str, proposal: &Arc<Proposal>) -> Result<()> {
        let outcome = Python::try_attach(|py| -> PyResult<()> {
            let Some(client) = self.shared.upgrade().and_then(|shared| shared.client(py, self.id)) else {
                return Ok(());
            };
            let change = self.change_of(py, proposal)?;
            let result = match self.is_observer {
                true => client.call1((&change,)),
                false => client.call_method1(phase, (&change,)),
            };
            result.map(drop).map_err(|raised| self.wrapped(py, phase, &client, &change, raised))
        });
        match outcome {
            Some(Ok(())) => Ok(()),
            Some(Err(raised)) => {
                Err(Error::Client { message: raised.to_string(), raised: Some(ClientException::new(raised)) })
            }
            None => Err(Error::Client {
                message: format!("client {:?} can't be asked: the interpreter is shutting down", self.name),
                raised: None,
            }),
        }
    }

    /// A `ClientError` caused by an `Exception`; Ctrl-C and the like stay what they are.
    fn wrapped(
        &self,
        py: Python<'_>,
        phase: &str,
        client: &Bound<'_, PyAny>,
        change: &Py<PyChange>,
        raised: PyErr,
    ) -> PyErr {
        if !raised.is_instance_of::<PyException>(py) {
            return raised;
        }
        let done = if phase == "prepare" { "refused the change" } else { "failed" };
        let message = format!("client {:?} {done} in {phase}: {raised}", self.name);
        let error = client_error(py, &message, client, change).unwrap_or_else(|failure| failure);
        error.set_cause(py, Some(raised));
        error
    }

    fn change_of(&self, py: Python<'_>, proposal: &Arc<Proposal>) -> PyResult<Py<PyChange>> {
        let under_way = || self.change.lock();
        if let Some(change) = under_way().as_ref() {
            return Ok(change.clone_ref(py));
        }
        let change = Py::new(py, PyChange::offered(py, proposal)?)?;
        *under_way() = Some(change.clone_ref(py));
        Ok(change)
    }

    /// The change is over for this client: its host side is not shown any more.
    fn end_change(&self) {
        let change = self.change.lock().take();
        if let Some(change) = change {
            change.get().end();
        }
    }
}

impl Client for PyClient {
    fn name(&self) -> &str {
        &self.name
    }

    fn prepare(&self, proposal: &Arc<Proposal>) -> Result<()> {
        if self.is_observer {
            return Ok(());
        }
        self.call("prepare", proposal).inspect_err(|_| self.end_change())
    }

    fn commit(&self, proposal: &Arc<Proposal>) -> Result<()> {
        let is_new = self.is_new.swap(false, Ordering::AcqRel);
        let is_no_news = (is_new && !self.replay) || proposal.renews_memory() || proposal.change.is_empty();
        let result = if self.is_observer && is_no_news { Ok(()) } else { self.call("commit", proposal) };
        self.end_change();
        result
    }

    fn rollback(&self, proposal: &Arc<Proposal>) -> Result<()> {
        let result = if self.is_observer { Ok(()) } else { self.call("rollback", proposal) };
        self.end_change();
        result
    }

    /// The exception is kept where the garbage collector sees it.
    fn failed(&self, error: Error) -> Option<Error> {
        Python::try_attach(|py| {
            let raised = PyErr::from(error);
            let shared = self.shared.upgrade()?;
            let client = shared.client(py, self.id);
            let exception = raised.value(py).clone().into_any().unbind();
            let replaced = shared.lock(py).entries.get_mut(&self.id).and_then(|entry| entry.error.replace(exception));
            drop(replaced);
            raised.write_unraisable(py, client.as_ref());
            Some(())
        });
        None
    }
}

/// Whether it is a plain callable; refuses what is neither that nor a client.
fn is_observer(client: &Bound<'_, PyAny>) -> PyResult<bool> {
    if !client.hasattr("prepare")? {
        return match client.is_callable() {
            true => Ok(true),
            false => Err(PyTypeError::new_err(format!(
                "{} is not a client: it needs prepare(change), commit(change) and rollback(change), or to be callable",
                client.get_type().name()?
            ))),
        };
    }
    for phase in ["prepare", "commit", "rollback"] {
        if !client.getattr_opt(phase)?.is_some_and(|method| method.is_callable()) {
            return Err(PyTypeError::new_err(format!(
                "{} has no method {phase}(change): a client has prepare, commit and rollback",
                client.get_type().name()?
            )));
        }
    }
    Ok(false)
}

/// Its `name` when it has one, else that of the function or the class.
fn name_of(client: &Bound<'_, PyAny>) -> String {
    let text = |name: &str| client.getattr(name).ok()?.cast_into::<PyString>().ok().map(|text| text.to_string());
    let class = || client.get_type().name().map_or_else(|_| "client".into(), |name| name.to_string());
    text("name").or_else(|| text("__qualname__")).unwrap_or_else(class)
}

/// A `ClientError` about a Python client and the change that it was asked about.
fn client_error(py: Python<'_>, message: &str, client: &Bound<'_, PyAny>, change: &Py<PyChange>) -> PyResult<PyErr> {
    Exception::new(py, "ClientError").with("client", client)?.with("change", change)?.build(message)
}
