//! Calls of the package's pictures, which are drawn in Python.

use pyo3::call::PyCallArgs;
use pyo3::prelude::*;

use super::calls::python_call;

/// The result of one of the package's pictures for a map or a change.
pub(super) fn drawn<'py>(
    map: &Bound<'py, PyAny>,
    module: &str,
    function: &str,
    arguments: impl PyCallArgs<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let _guard = python_call();
    let module = map.py().import(format!("dbs_address_space.pictures.{module}"))?;
    let partial = map.py().import("functools")?.getattr("partial")?;
    partial.call1((module.getattr(function)?, map))?.call1(arguments)
}
