//! Files that a caller gives by their path or as an object, and how much of them is left.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::calls::python_call;
use super::convert::{self, Size, U64};
use crate::model::format::hex;
use crate::model::invalid::Invalid;

/// Runs `work` on a file: on the object that was given, or on one that is opened for a path, and closed behind it.
pub(super) fn with_file<T>(
    file: &Bound<'_, PyAny>,
    mode: &str,
    work: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>,
) -> PyResult<T> {
    let _guard = python_call();
    if !is_path(file)? {
        return work(file);
    }
    let opened = file.py().import(intern!(file.py(), "io"))?.getattr("FileIO")?.call1((file, mode))?;
    let result = work(&opened);
    let closed = opened.call_method0("close");
    result.and_then(|value| closed.map(|_| value))
}

/// Whether it is a str or an `os.PathLike`.
pub(super) fn is_path(file: &Bound<'_, PyAny>) -> PyResult<bool> {
    let _guard = python_call();
    Ok(file.is_instance_of::<PyString>() || file.get_type().hasattr(intern!(file.py(), "__fspath__"))?)
}

/// The bytes of a file from its position on.
pub(super) fn rest(file: &Bound<'_, PyAny>) -> PyResult<Size> {
    let _guard = python_call();
    let (here, end) = position_and_end(file)?;
    Ok(Size(end.saturating_sub(here)))
}

/// The bytes of a file from an offset on, of which there must be some.
pub(super) fn rest_from(file: &Bound<'_, PyAny>, offset: Size) -> PyResult<Size> {
    let _guard = python_call();
    let (_, end) = position_and_end(file)?;
    match end.checked_sub(offset.0) {
        Some(0) | None => {
            let message = format!("the file has {} bytes: none from offset {} on", hex(end), hex(offset.0));
            Err(Invalid::at(message, None, Some(0)).into())
        }
        Some(rest) => Ok(Size(rest)),
    }
}

fn position_and_end(file: &Bound<'_, PyAny>) -> PyResult<(u64, u64)> {
    let _guard = python_call();
    let file = match file.hasattr("seek")? {
        true => file.clone(),
        false => borrowed(file)?,
    };
    if !file.call_method0("seekable")?.is_truthy()? {
        let message =
            "a file that can't be sought, as a pipe or a socket, doesn't tell how much is left of it: give size";
        return Err(Invalid::argument(message).into());
    }
    let here = file.call_method0("tell")?;
    let end = file.call_method1("seek", (0, 2))?.extract::<U64>()?.0;
    file.call_method1("seek", (&here,))?;
    Ok((here.extract::<U64>()?.0, end))
}

/// A file object on somebody's descriptor, which stays open.
fn borrowed<'py>(file: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let _guard = python_call();
    let keywords = PyDict::new(file.py());
    keywords.set_item("closefd", false)?;
    let descriptor = convert::descriptor(file)?;
    file.py().import("io")?.getattr("FileIO")?.call((descriptor, "rb"), Some(&keywords))
}
