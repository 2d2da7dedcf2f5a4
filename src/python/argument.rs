//! Refusals of arguments: they tell which parameter is meant, and what that takes.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use super::calls::{self, python_call};

/// The outcome of converting an argument that PyO3 has not converted itself.
pub(super) trait Argument<T> {
    /// The same, where a refusal has a note that names the parameter: PyO3 adds it to those of its own conversions.
    fn argument(self, name: &str) -> PyResult<T>;
}

impl<T> Argument<T> for PyResult<T> {
    #[inline]
    fn argument(self, name: &str) -> Self {
        self.map_err(|refusal| noted(refusal, name))
    }
}

#[cold]
fn noted(refusal: PyErr, name: &str) -> PyErr {
    let _guard = python_call();
    let note =
        |py: Python<'_>| refusal.value(py).call_method1("add_note", (format!("while processing '{name}'"),)).map(drop);
    match calls::attach(note) {
        Some(Err(failure)) => failure,
        Some(Ok(())) | None => refusal,
    }
}

/// The refusal of an argument of a wrong type.
#[cold]
pub(super) fn wanted(what: &str, given: &Bound<'_, PyAny>) -> PyErr {
    PyTypeError::new_err(format!("{what} is needed, not {}", type_name(given)))
}

pub(super) fn type_name(object: &Bound<'_, PyAny>) -> String {
    object.get_type().name().map_or_else(|_| "that".into(), |name| name.to_string())
}

/// Whether the class of an object has a special method.
pub(super) fn has(object: &Bound<'_, PyAny>, method: &str) -> PyResult<bool> {
    let _guard = python_call();
    object.get_type().hasattr(method)
}
