//! Files that users give, by path or as objects: which of them are no more than their descriptor, and how much is left of them.

use std::fs::File;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyString};

use super::argument::{Argument, has, type_name, wanted};
use super::calls::python_call;
use super::convert::{CInt, Size, U64};
use super::import_once::{ImportOnce, interned};
use crate::model::error::{Errno, Error};
use crate::model::format::hex;
use crate::model::invalid::Invalid;
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
        if object.is_exact_instance_of::<PyInt>() {
            return Ok(Some(Self::Unbuffered));
        }
        let _guard = python_call();
        if object.getattr_opt("fileno")?.is_none() {
            return Ok(object.get_type().hasattr("__index__")?.then_some(Self::Unbuffered));
        }
        static UNBUFFERED: [(&str, &str, ImportOnce); 2] =
            [("io", "FileIO", ImportOnce::new()), ("socket", "socket", ImportOnce::new())];
        static BUFFERED: [(&str, &str, ImportOnce); 3] = [
            ("io", "BufferedWriter", ImportOnce::new()),
            ("io", "BufferedReader", ImportOnce::new()),
            ("io", "BufferedRandom", ImportOnce::new()),
        ];
        if place_of_class(object, &UNBUFFERED)?.is_some() {
            return Ok(Some(Self::Unbuffered));
        }
        let Some(place) = place_of_class(object, &BUFFERED)? else { return Ok(None) };
        let is_file = place_of_class(&object.getattr("raw")?, &UNBUFFERED)? == Some(0);
        Ok(is_file.then_some(Self::Buffered { is_writer: place == 0 }))
    }
}

/// The place of an object's own class, not one that it derives from, among some of Python's.
fn place_of_class(object: &Bound<'_, PyAny>, classes: &[(&str, &str, ImportOnce)]) -> PyResult<Option<usize>> {
    let _guard = python_call();
    for (place, (module, name, class)) in classes.iter().enumerate() {
        if object.get_type().is(class.import(object.py(), module, name)?) {
            return Ok(Some(place));
        }
    }
    Ok(None)
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
    Ok(UserFile { file: file.into(), identity, path: None })
}

/// A region's file, and what `look` finds out about it: the one that was given, or one that is opened at a path, for writing too if
/// `is_written`.
pub(super) fn region_file<T>(
    file: &Bound<'_, PyAny>,
    is_written: bool,
    look: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>,
) -> PyResult<(UserFile, T)> {
    // Duplicated first: that empties its buffer, and what is looked at is what is there then.
    let work = |file: &Bound<'_, PyAny>| Ok((user_file(file)?, look(file)?));
    let (user_file, found) = with_file(file, if is_written { "r+b" } else { "rb" }, work)?;
    Ok((UserFile { path: absolute_path(file)?, ..user_file }, found))
}

fn absolute_path(file: &Bound<'_, PyAny>) -> PyResult<Option<Arc<Path>>> {
    let _guard = python_call();
    if !is_path(file)? {
        return Ok(None);
    }
    let os = file.py().import(interned!(file.py(), "os"))?;
    let absolute = os.getattr("path")?.call_method1("abspath", (file,))?;
    let path: PathBuf = os.call_method1("fsdecode", (absolute,))?.extract()?;
    Ok(Some(path.into()))
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
    let fd = descriptor(object, "file")?;
    let duplicate = file::duplicate(fd).map_err(|error| Error::Backing {
        message: format!("file descriptor {fd} can't be duplicated: {error}"),
        errno: Errno::from(&error),
        region: None,
    });
    Ok(duplicate?)
}

/// An int descriptor, or that of anything with `fileno()`; borrowed.
pub(super) fn descriptor(object: &Bound<'_, PyAny>, name: &str) -> PyResult<RawFd> {
    if object.is_exact_instance_of::<PyInt>() {
        return Ok(object.extract::<CInt>().argument(name)?.0);
    }
    let _guard = python_call();
    let number = match object.getattr_opt("fileno")? {
        Some(fileno) => {
            let number = fileno.call0()?;
            // What that of a closed socket answers.
            if number.extract::<i32>().is_ok_and(|number| number == -1) {
                return Err(PyErr::from(Invalid::argument(format!("{name} is closed"))));
            }
            number.extract::<CInt>()
        }
        None if !has(object, "__index__")? => Err(wanted("an int, or an object with fileno(),", object)),
        None => object.extract(),
    };
    Ok(number.argument(name)?.0)
}

/// A descriptor, of an int or anything with `fileno()`; `name` is that of the parameter.
#[pyfunction]
pub fn checked_descriptor(value: &Bound<'_, PyAny>, name: &str) -> PyResult<RawFd> {
    descriptor(value, name)
}

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
    // Its path, not it: an object with `__index__` would be taken for a descriptor, and that would be closed.
    let path = file.py().import(interned!(file.py(), "os"))?.getattr("fspath")?.call1((file,))?;
    let opened = file.py().import(interned!(file.py(), "io"))?.getattr("FileIO")?.call1((path, mode))?;
    let result = work(&opened);
    let closed = opened.call_method0("close");
    result.and_then(|value| closed.map(|_| value))
}

/// Whether it is a str or an `os.PathLike`.
pub(super) fn is_path(file: &Bound<'_, PyAny>) -> PyResult<bool> {
    if file.is_exact_instance_of::<PyInt>() {
        return Ok(false);
    }
    let _guard = python_call();
    Ok(file.is_instance_of::<PyString>() || file.get_type().hasattr(interned!(file.py(), "__fspath__"))?)
}

/// The bytes of a file from its position on; `None` of one that does not tell, for it can't be sought, or has none as `/proc` shows them.
pub(super) fn rest(file: &Bound<'_, PyAny>) -> PyResult<Option<Size>> {
    let _guard = python_call();
    let tells = match file.getattr_opt("seekable")? {
        Some(seekable) => seekable.call0()?.is_truthy()?,
        None => file.hasattr("fileno")? || file.get_type().hasattr("__index__")?,
    };
    let Some((here, end)) = (if tells { sought(file)? } else { None }) else { return Ok(None) };
    Ok(Some(Size(end.saturating_sub(here))).filter(|rest| rest.0 > 0))
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
    sought(file)?.ok_or_else(|| {
        let message =
            "a file that can't be sought, as a pipe or a socket, doesn't tell how much is left of it: give size";
        Invalid::argument(message).into()
    })
}

/// The position and the end of a file that can be sought.
fn sought(file: &Bound<'_, PyAny>) -> PyResult<Option<(u64, u64)>> {
    let _guard = python_call();
    let file = match file.hasattr("seek")? {
        true => file.clone(),
        false => borrowed(file)?,
    };
    if !file.call_method0("seekable")?.is_truthy()? {
        return Ok(None);
    }
    let here = file.call_method0("tell")?;
    let end = file.call_method1("seek", (0, 2))?.extract::<U64>()?.0;
    file.call_method1("seek", (&here,))?;
    Ok(Some((here.extract::<U64>()?.0, end)))
}

/// A file object on somebody's descriptor, which stays open.
fn borrowed<'py>(file: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let _guard = python_call();
    let keywords = PyDict::new(file.py());
    keywords.set_item("closefd", false)?;
    let descriptor = descriptor(file, "file")?;
    file.py().import("io")?.getattr("FileIO")?.call((descriptor, "rb"), Some(&keywords))
}
