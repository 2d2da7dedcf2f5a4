//! Closing and removing: the wait for those who hold memory, and the end of a `with` block, which never hides what its body raised.

use pyo3::exceptions::PyException;
use pyo3::prelude::*;

use super::calls::{self, python_call};
use super::seconds::Timeout;
use crate::space::removal::Patience;

/// A caller's `timeout=`. Views that a cycle of garbage holds, and that would keep their regions busy, are freed first.
pub(super) fn patience(timeout: Option<Timeout>) -> Patience {
    Patience { timeout: timeout.map(|timeout| timeout.0), when_busy: collect_garbage }
}

fn collect_garbage() {
    let _guard = python_call();
    calls::attach(|py| py.import("gc").and_then(|gc| gc.call_method0("collect")).map(drop).unwrap_or_default());
}

/// The answer of `__exit__`, once all is closed that can be: an exception of the body passes, and a failure to close becomes a note on it.
///
/// Ctrl-C and the like come out themselves, with the body's exception as their context.
pub(super) fn leave(raised: &Bound<'_, PyAny>, closed: PyResult<()>) -> PyResult<bool> {
    let _guard = python_call();
    let py = raised.py();
    let Err(failure) = closed else { return Ok(false) };
    if raised.is_none() {
        return Err(failure);
    }
    if !failure.is_instance_of::<PyException>(py) {
        failure.value(py).setattr("__context__", raised)?;
        return Err(failure);
    }
    let note = format!("at the end of the with block, closing failed too: {failure}");
    raised.call_method1("add_note", (note,)).map(|_| false)
}

/// Makes a class a context manager, which something ends with its block: a function of the object and the interpreter.
macro_rules! context_manager {
    ($class:ty, $end:expr) => {
        #[pyo3::pymethods]
        impl $class {
            fn __enter__(slf: pyo3::Py<Self>) -> pyo3::Py<Self> {
                slf
            }

            fn __exit__(
                &self,
                py: pyo3::Python<'_>,
                _type: &pyo3::Bound<'_, pyo3::PyAny>,
                value: &pyo3::Bound<'_, pyo3::PyAny>,
                _traceback: &pyo3::Bound<'_, pyo3::PyAny>,
            ) -> pyo3::PyResult<bool> {
                let end: fn(&Self, pyo3::Python<'_>) -> pyo3::PyResult<()> = $end;
                crate::python::leaving::leave(value, end(self, py))
            }
        }
    };
}
pub(super) use context_manager;
