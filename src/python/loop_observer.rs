//! Observers that are coroutine functions: the loop that subscribed runs them.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::callback;
use super::calls::python_call;
use super::import_once::{ImportOnce, interned};

/// A callable for a coroutine function: each call lets the loop begin one, and waits for nothing.
#[pyclass(frozen, weakref, name = "_LoopObserver", module = "dbs_address_space._core")]
pub struct PyLoopObserver {
    function: Py<PyAny>,
    event_loop: Py<PyAny>,
}

impl PyLoopObserver {
    /// The observer for a coroutine function, which is not a client, where a loop runs; `None` for anything else.
    pub(super) fn of<'py>(function: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, Self>>> {
        let _guard = python_call();
        if function.hasattr("prepare")? || !callback::is_coroutine_function(function)? {
            return Ok(None);
        }
        // The C function of `asyncio`, without all that the module imports; there is one where a loop runs.
        let event_loop = function.py().import("_asyncio")?.call_method0("_get_running_loop")?;
        if event_loop.is_none() {
            return Ok(None);
        }
        let observer = Self { function: function.clone().unbind(), event_loop: event_loop.unbind() };
        Bound::new(function.py(), observer).map(Some)
    }

    /// The coroutine function behind an observer; any other object is itself.
    pub(super) fn function_of<'py>(object: Bound<'py, PyAny>) -> Bound<'py, PyAny> {
        match object.cast::<Self>() {
            Ok(observer) => observer.get().function.bind(object.py()).clone(),
            Err(_) => object,
        }
    }
}

#[pymethods]
impl PyLoopObserver {
    fn __call__(&self, change: &Bound<'_, PyAny>) -> PyResult<()> {
        let _guard = python_call();
        static BEGIN: ImportOnce = ImportOnce::new();
        let py = change.py();
        let begin = BEGIN.import(py, "dbs_address_space.aio", "begin")?;
        let event_loop = self.event_loop.bind(py);
        event_loop.call_method1(interned!(py, "call_soon_threadsafe"), (begin, &self.function, change))?;
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.function)?;
        visit.call(&self.event_loop)
    }
}
