//! Files that users give, and which of them are no more than their descriptor.

use std::fs::File;
use std::os::fd::RawFd;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use super::calls::python_call;
use super::convert::{CInt, type_name};
use super::import_once::interned;
use crate::model::error::{Errno, Error};
use crate::model::source::UserFile;
use crate::sys::file;

/// A file whose bytes are those of its descriptor. Subclasses and wrappers may compress, count, encrypt or buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlainFile {
    /// An int, or an object of Python's that keeps nothing back: `FileIO`, `socket`.
    Unbuffered,
    /// An object of Python's with a buffer, which can be emptied; whether it is only for writing.
    Buffered { is_writer: bool },
}

impl PlainFile {
    /// The kind of an object, or `None` where its descriptor is not all that it is.
    pub(super) fn of(object: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let _guard = python_call();
        let py = object.py();
        if object.getattr_opt("fileno")?.is_none() {
            return Ok(object.get_type().hasattr("__index__")?.then_some(Self::Unbuffered));
        }
        let io = py.import(interned!(py, "io"))?;
        let is_exactly =
            |object: &Bound<'_, PyAny>, class: &str| Ok::<_, PyErr>(object.get_type().is(&io.getattr(class)?));
        let socket = py.import(interned!(py, "socket"))?.getattr("socket")?;
        if is_exactly(object, "FileIO")? || object.get_type().is(&socket) {
            return Ok(Some(Self::Unbuffered));
        }
        for class in ["BufferedReader", "BufferedWriter", "BufferedRandom"] {
            if is_exactly(object, class)? {
                let buffered = Self::Buffered { is_writer: class == "BufferedWriter" };
                return Ok(is_exactly(&object.getattr("raw")?, "FileIO")?.then_some(buffered));
            }
        }
        Ok(None)
    }
}

/// A file that the user gave for a region.
pub(super) fn user_file(object: &Bound<'_, PyAny>) -> PyResult<UserFile> {
    let _guard = python_call();
    match PlainFile::of(object)? {
        Some(PlainFile::Unbuffered) => {}
        // What was written is in the file before it is mapped.
        Some(PlainFile::Buffered { .. }) => drop(object.call_method0("flush")?),
        None => return Err(not_plain(object)),
    }
    let file = duplicate(object)?;
    let identity = file::identity(&file).map_err(|error| Error::Backing {
        message: format!("looking at the file failed: {error}"),
        errno: Errno::from(&error),
        region: None,
    })?;
    Ok(UserFile { file: file.into(), identity })
}

fn not_plain(object: &Bound<'_, PyAny>) -> PyErr {
    PyTypeError::new_err(format!(
        "file is of {}, whose bytes need not be those of a descriptor: give an int, or what open(path, \"r+b\") returns; of a \
         named temporary file give its .file",
        type_name(object)
    ))
}

/// Our own duplicate of an int descriptor, or of anything with `fileno()`.
pub(super) fn duplicate(object: &Bound<'_, PyAny>) -> PyResult<File> {
    let fd = descriptor(object)?;
    let duplicate = file::duplicate(fd).map_err(|error| Error::Backing {
        message: format!("file descriptor {fd} can't be duplicated: {error}"),
        errno: Errno::from(&error),
        region: None,
    });
    Ok(duplicate?)
}

/// An int descriptor, or that of anything with `fileno()`; borrowed.
pub(super) fn descriptor(object: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    let _guard = python_call();
    let number = match object.getattr_opt("fileno")? {
        Some(fileno) => fileno.call0()?.extract::<CInt>(),
        None => object.extract().map_err(|error: PyErr| match error.is_instance_of::<PyTypeError>(object.py()) {
            true => PyTypeError::new_err(format!("file must be an int or have fileno(), not {}", type_name(object))),
            false => error,
        }),
    };
    Ok(number?.0)
}
