//! The one guard of every call from here into Python, and the ways to give up the interpreter's lock and to take it.

use pyo3::Python;

use crate::sys::thread_end::EndGuard;

/// Taken by whatever may run Python code, before it does, and held until that has returned.
///
/// Python code lets the interpreter's lock go now and then. Once the interpreter has ended, getting it back ends the thread: before
/// CPython 3.14 by `pthread_exit`, which would unwind our frames and abort the process. Under the guard the thread waits until the
/// process is gone, as CPython 3.14 lets it. `tests/python/test_layers.py` looks for calls without it.
#[must_use]
pub(super) fn python_call() -> EndGuard {
    EndGuard::new()
}

/// Runs `work` without the interpreter's lock. The guard is for taking it back, which the interpreter's end makes the end of the thread.
pub(super) fn detach<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    let _guard = python_call();
    py.detach(work)
}

/// Runs `work` with the interpreter's lock, unless the interpreter has ended.
pub(super) fn attach<T>(work: impl for<'py> FnOnce(Python<'py>) -> T) -> Option<T> {
    let _guard = python_call();
    Python::try_attach(work)
}
