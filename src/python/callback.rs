//! Functions of the user's that this package calls.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyInt;

use super::calls::python_call;

/// Whether a function, or a call of an object, is one of those that `inspect` has these questions for.
fn is_any(function: &Bound<'_, PyAny>, questions: &[&str]) -> PyResult<bool> {
    let _guard = python_call();
    let inspect = function.py().import("inspect")?;
    let is = |function: &Bound<'_, PyAny>| {
        let mut asked = questions.iter().map(|question| inspect.call_method1(*question, (function,))?.is_truthy());
        asked.try_fold(false, |found, answer| Ok::<_, PyErr>(found || answer?))
    };
    Ok(is(function)? || function.getattr_opt("__call__")?.is_some_and(|call| is(&call).unwrap_or(false)))
}

/// Whether calling a function makes a coroutine, which somebody has to await.
pub(super) fn is_coroutine_function(function: &Bound<'_, PyAny>) -> PyResult<bool> {
    is_any(function, &["iscoroutinefunction"])
}

/// Refuses a coroutine or generator function: its call would give one that nobody runs. `what` is what it is given as.
pub(super) fn check(function: &Bound<'_, PyAny>, what: &str) -> PyResult<()> {
    let _guard = python_call();
    let (kind, advice) = if is_any(function, &["iscoroutinefunction", "isasyncgenfunction"])? {
        (
            "coroutine",
            "nobody would await: give a plain function, which may hand over to a loop with loop.call_soon_threadsafe()",
        )
    } else if is_any(function, &["isgeneratorfunction"])? {
        ("generator", "nobody would iterate: give a function without yield")
    } else {
        return Ok(());
    };
    let name = function.getattr("__qualname__").or_else(|_| function.get_type().name().map(Bound::into_any))?;
    Err(PyTypeError::new_err(format!("{what} is the {kind} function {name}, which {advice}")))
}

/// [`check`] for a progress function, which short work takes and never calls.
pub(super) fn check_progress(py: Python<'_>, progress: Option<&Py<PyAny>>) -> PyResult<()> {
    check_function(progress.map(|progress| progress.bind(py)), "progress", "a Progress")
}

/// Refuses what is not a function, if anything was given, and a coroutine function. `what` is that which it takes.
#[pyfunction]
#[pyo3(signature = (function, name, what))]
pub fn check_function(function: Option<&Bound<'_, PyAny>>, name: &str, what: &str) -> PyResult<()> {
    let Some(function) = function else { return Ok(()) };
    if !function.is_callable() {
        let class = function.get_type().name()?;
        return Err(PyTypeError::new_err(format!("{name} must be a function that takes {what}, not {class}")));
    }
    check(function, name)
}

/// The answer of a user's function, unless it is a coroutine: a plain function may return one, too.
#[inline]
pub(super) fn answer<'py>(answer: Bound<'py, PyAny>, what: &str) -> PyResult<Bound<'py, PyAny>> {
    if answer.is_none() || answer.is_exact_instance_of::<PyInt>() { Ok(answer) } else { awaitable(answer, what) }
}

#[cold]
fn awaitable<'py>(answer: Bound<'py, PyAny>, what: &str) -> PyResult<Bound<'py, PyAny>> {
    let _guard = python_call();
    let class = answer.get_type();
    if !class.hasattr("__await__")? {
        return Ok(answer);
    }
    // Else Python would warn that it was never awaited, which this says better.
    if let Some(close) = answer.getattr_opt("close")? {
        close.call0()?;
    }
    Err(PyTypeError::new_err(format!(
        "{what} returned a {}, which nobody awaits: give a plain function, which may hand over to a loop with \
         loop.call_soon_threadsafe()",
        class.name()?
    )))
}

/// The answer of a user's function, for the callers in Python; raises `TypeError` for a coroutine.
#[pyfunction]
pub fn checked_answer<'py>(value: Bound<'py, PyAny>, what: &str) -> PyResult<Bound<'py, PyAny>> {
    answer(value, what)
}
