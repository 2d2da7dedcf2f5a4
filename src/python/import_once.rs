//! Python objects that are looked up once.
//!
//! PyO3's `PyOnceLock` and `intern!` let the interpreter's lock go while they hold their own: a fork in between would leave that locked
//! in the child, for ever.

use pyo3::prelude::*;

use super::calls::python_call;
use crate::sys::once::Once;

/// An object that a module has under a name.
pub(super) struct ImportOnce(Once<Py<PyAny>>);

impl ImportOnce {
    pub(super) const fn new() -> Self {
        Self(Once::new())
    }

    /// Imports it the first time.
    pub(super) fn import<'py>(&self, py: Python<'py>, module: &str, name: &str) -> PyResult<&Bound<'py, PyAny>> {
        let object = self.0.get_or_try_init(|| {
            let _guard = python_call();
            py.import(module)?.getattr(name).map(Bound::unbind)
        });
        object.map(|object| object.bind(py))
    }
}

/// A name as Python's own string, made the first time.
macro_rules! interned {
    ($py:expr, $name:literal) => {{
        static NAME: $crate::sys::once::Once<pyo3::Py<pyo3::types::PyString>> = $crate::sys::once::Once::new();
        NAME.get_or_init(|| pyo3::types::PyString::intern($py, $name).unbind()).bind($py)
    }};
}

pub(super) use interned;
