//! The checks of arguments for what the package has in Python: as methods check theirs, in the same words.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyType};

use super::argument::{Argument, type_name};
use super::calls::python_call;
use super::convert::{Address, CInt, Size, U64, range, word};
use super::seconds::Timeout;
use super::threads::Threads;
use crate::model::format;
use crate::model::region::RegionType;
use crate::model::source::SourceType;

/// The value of the `AddressSpaceRegionType` that a text names; raises `InvalidRegionType` for anything else.
#[pyfunction]
pub fn parse_region_type(value: &Bound<'_, PyAny>) -> PyResult<&'static str> {
    let _guard = python_call();
    match value.cast::<PyString>() {
        Ok(text) => Ok(RegionType::parse(&word(&text.as_borrowed())?)?.value()),
        Err(_) => Err(RegionType::unknown(value.repr()?).into()),
    }
}

/// The value of the `MemorySourceType` that a text names; raises `InvalidMemorySourceType` for anything else.
#[pyfunction]
pub fn parse_source_type(value: &Bound<'_, PyAny>) -> PyResult<&'static str> {
    let _guard = python_call();
    match value.cast::<PyString>() {
        Ok(text) => Ok(SourceType::parse(&word(&text.as_borrowed())?)?.as_str()),
        Err(_) => Err(SourceType::unknown(value.repr()?).into()),
    }
}

/// The bits of the `Prot` that a text such as `"rw-"` stands for; raises `InvalidArgument` for another text.
#[pyfunction]
pub fn parse_protection(text: &Bound<'_, PyString>) -> PyResult<i32> {
    Ok(format::parse_protection(&word(&text.as_borrowed())?)?)
}

/// A size as it is shown everywhere: `3 GiB`.
#[pyfunction]
#[must_use]
pub fn size_text(size: Size) -> String {
    format::size(size.0)
}

/// A protection's bits as in `/proc/PID/maps`.
#[pyfunction]
pub fn protection_text(bits: CInt) -> String {
    format::protection(bits.0)
}

/// An int, checked like every number of this package; `name` is that of the parameter.
#[pyfunction]
pub fn checked_int(value: &Bound<'_, PyAny>, name: &str) -> PyResult<u64> {
    value.extract::<U64>().map(|number| number.0).argument(name)
}

/// A number of bytes, an int or text; `name` is that of the parameter.
#[pyfunction]
pub fn checked_size(value: &Bound<'_, PyAny>, name: &str) -> PyResult<u64> {
    value.extract::<Size>().map(|size| size.0).argument(name)
}

/// How many threads are to work, `None` for as many as help.
#[pyfunction]
pub fn checked_threads(threads: Option<Threads>) -> Option<usize> {
    threads.map(|threads| threads.0)
}

/// Seconds to wait, `None` for ever.
#[pyfunction]
pub fn checked_timeout(timeout: Option<Timeout>) -> Option<f64> {
    timeout.map(|timeout| timeout.0.as_secs_f64())
}

/// Refuses what is not of a class; `name` is that of the parameter.
#[pyfunction]
pub fn check_type(value: &Bound<'_, PyAny>, kind: &Bound<'_, PyType>, name: &str) -> PyResult<()> {
    let _guard = python_call();
    match value.is_instance(kind)? {
        true => Ok(()),
        false => {
            Err(PyTypeError::new_err(format!("{name} must be of type {}, not {}", kind.name()?, type_name(value))))
        }
    }
}

/// `(base, size)` as ints, checked like every range of this package.
#[pyfunction]
pub fn checked_range(base: Address, size: Size) -> PyResult<(u64, u64)> {
    range(base, size).map(|range| (range.base(), range.size()))
}
