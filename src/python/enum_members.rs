//! Members of Python's enums, which getters give without a call of Python: each is made by one once, and then found.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::calls::python_call;
use super::import_once::ImportOnce;
use crate::sys::once::Once;

/// The members that are kept. Flags can be any number; those that are in use are few.
const MOST: usize = 64;

/// An enum of `dbs_address_space.enums`.
struct Members {
    class: ImportOnce,
    by_value: Once<Py<PyDict>>,
}

impl Members {
    const fn new() -> Self {
        Self { class: ImportOnce::new(), by_value: Once::new() }
    }

    fn get<'py>(&self, py: Python<'py>, class: &str, value: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let members = self.by_value.get_or_init(|| PyDict::new(py).unbind()).bind(py);
        // No call of Python: the keys are ints or str themselves.
        if let Some(member) = members.get_item(&value)? {
            return Ok(member);
        }
        let _guard = python_call();
        let member = self.class.import(py, "dbs_address_space.enums", class)?.call1((&value,))?;
        if members.len() < MOST {
            members.set_item(value, &member)?;
        }
        Ok(member)
    }
}

/// A member of `AddressSpaceRegionType`.
pub(super) fn region_type<'py>(py: Python<'py>, value: &str) -> PyResult<Bound<'py, PyAny>> {
    static MEMBERS: Members = Members::new();
    MEMBERS.get(py, "AddressSpaceRegionType", PyString::new(py, value).into_any())
}

/// A member of `MemorySourceType`.
pub(super) fn source_type<'py>(py: Python<'py>, value: &str) -> PyResult<Bound<'py, PyAny>> {
    static MEMBERS: Members = Members::new();
    MEMBERS.get(py, "MemorySourceType", PyString::new(py, value).into_any())
}

/// A `Prot`.
pub(super) fn protection(py: Python<'_>, value: i32) -> PyResult<Bound<'_, PyAny>> {
    static MEMBERS: Members = Members::new();
    MEMBERS.get(py, "Prot", value.into_pyobject(py)?.into_any())
}

/// A `MapFlags`.
pub(super) fn map_flags(py: Python<'_>, value: i32) -> PyResult<Bound<'_, PyAny>> {
    static MEMBERS: Members = Members::new();
    MEMBERS.get(py, "MapFlags", value.into_pyobject(py)?.into_any())
}
