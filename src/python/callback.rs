//! Functions of the user's that this package calls.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use super::calls::python_call;

/// Refuses a coroutine function: its call would give a coroutine that nobody runs. `what` is what it is given as.
pub(super) fn check(function: &Bound<'_, PyAny>, what: &str) -> PyResult<()> {
    let _guard = python_call();
    let inspect = function.py().import("inspect")?;
    let is_async = |function: &Bound<'_, PyAny>| {
        let asked = |question| inspect.call_method1(question, (function,))?.is_truthy();
        Ok::<_, PyErr>(asked("iscoroutinefunction")? || asked("isasyncgenfunction")?)
    };
    let call = function.getattr_opt("__call__")?;
    if !is_async(function)? && !call.is_some_and(|call| is_async(&call).unwrap_or(false)) {
        return Ok(());
    }
    let name = function.getattr("__qualname__").or_else(|_| function.get_type().name().map(Bound::into_any))?;
    Err(PyTypeError::new_err(format!(
        "{what} is the coroutine function {name}, which nobody would await: give a plain function, which may hand over to a loop \
         with loop.call_soon_threadsafe()"
    )))
}

/// [`check`] for a progress function, which short work takes and never calls.
pub(super) fn check_progress(py: Python<'_>, progress: Option<&Py<PyAny>>) -> PyResult<()> {
    progress.map_or(Ok(()), |progress| check(progress.bind(py), "progress"))
}
