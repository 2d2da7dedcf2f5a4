//! The one guard of every call from here into Python.

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
