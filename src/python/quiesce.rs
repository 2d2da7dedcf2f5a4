//! The context manager of a user's that holds a guest's processors.

use std::sync::Weak;

use pyo3::exceptions::{PyException, PyTypeError};
use pyo3::prelude::*;

use super::attachment::AttachmentState;
use super::callback;
use super::calls::{self, python_call};
use super::error::Exception;
use crate::clients::kvm::Quiesce;
use crate::model::error::{ClientException, Error, Result};

/// Enters and leaves the object of an attachment.
pub(super) struct PyQuiesce {
    /// Has the object; weak, as everything of Python's below the binding.
    attachment: Weak<AttachmentState>,
}

impl PyQuiesce {
    pub(super) fn new(attachment: &Weak<AttachmentState>) -> Self {
        Self { attachment: Weak::clone(attachment) }
    }

    fn call(&self, work: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<()>) -> Result<()> {
        let outcome = calls::attach(|py| {
            let manager = self.attachment.upgrade().and_then(|attachment| attachment.object(py));
            manager.map_or(Ok(()), |manager| work(&manager).map_err(|raised| wrapped(&manager, raised)))
        });
        let raised =
            |raised: PyErr| Error::Client { message: raised.to_string(), raised: Some(ClientException::new(raised)) };
        outcome.map_or(Ok(()), |outcome| outcome.map_err(raised))
    }
}

impl Quiesce for PyQuiesce {
    fn enter(&self) -> Result<()> {
        let _guard = python_call();
        self.call(|manager| callback::answer(manager.call_method0("__enter__")?, "quiesce").map(drop))
    }

    fn leave(&self) -> Result<()> {
        let _guard = python_call();
        self.call(|manager| {
            let none = manager.py().None();
            callback::answer(manager.call_method1("__exit__", (&none, &none, &none))?, "quiesce").map(drop)
        })
    }
}

/// A `ClientError` caused by an `Exception`; Ctrl-C and the like stay what they are.
fn wrapped(manager: &Bound<'_, PyAny>, raised: PyErr) -> PyErr {
    let py = manager.py();
    if !raised.is_instance_of::<PyException>(py) {
        return raised;
    }
    let error = Exception::new(py, "ClientError").with("client", manager);
    let error = error.and_then(|error| error.build(&format!("quiesce of KVM failed: {raised}")));
    let error = error.unwrap_or_else(|failure| failure);
    error.set_cause(py, Some(raised));
    error
}

/// Refuses what is not a context manager.
pub(super) fn check(manager: &Bound<'_, PyAny>) -> PyResult<()> {
    let _guard = python_call();
    let class = manager.get_type();
    if class.hasattr("__enter__")? && class.hasattr("__exit__")? {
        return Ok(());
    }
    Err(PyTypeError::new_err(format!(
        "quiesce must be a context manager that can be used again, not {}",
        class.name()?
    )))
}
