//! File objects whose bytes only their own methods know: what they bring is copied into guest memory, and the other way.

use pyo3::exceptions::{PyOSError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyInt, PyMemoryView, PySlice};

use super::PyMemory;
use crate::memory::access::Verb;
use crate::memory::buffer::{Bytes, Output};
use crate::memory::protection::Need;
use crate::model::error::{Errno, Error};
use crate::model::format::hex;
use crate::model::int::{u64_of, usize_of};
use crate::model::interrupt::Uninterrupted;
use crate::model::range::Range;
use crate::python::argument::type_name;
use crate::python::calls::{self, python_call};
use crate::python::convert::{Address, U64};
use crate::python::import_once::interned;
use crate::python::{buffer, callback};
use crate::sys::errno::{EAGAIN, EIO, ENOSPC};

pub(super) const READ_FROM: Verb = Verb::new("read_from", Need::Write).slow();
pub(super) const WRITE_TO: Verb = Verb::new("write_to", Need::Read).slow();
const WRITE_PART: Verb = Verb::new("write_to", Need::Read);
/// The most bytes that a file object is asked for at a time.
const STEP: u64 = 1 << 20;

/// A method of a file object, and its name.
pub(super) type Method<'py> = (&'static str, Bound<'py, PyAny>);

/// The addresses that a file is read to.
pub(super) struct Wanted {
    pub(super) range: Range,
    /// Whether the file may end before they do.
    pub(super) is_open: bool,
}

impl PyMemory {
    /// Calls `step` for the bytes that are left of a range, until it has moved all of them, or the file has ended where it `may_end`;
    /// returns how many were moved.
    fn stream(
        &self,
        py: Python<'_>,
        (verb, range): (Verb, Range),
        may_end: bool,
        mut step: impl FnMut(Range) -> PyResult<Option<u64>>,
    ) -> PyResult<u64> {
        let _guard = python_call();
        // The file's own code runs meanwhile, which may take long: the region stays, and nothing that was checked is checked in vain.
        let held = self.lease(py, (verb, &[range]))?;
        let mut left = range;
        while !left.is_empty() {
            let done = range.size().saturating_sub(left.size());
            let moved = step(left.take(STEP)).map_err(|error| noted(py, error, verb.name, done, range.size()))?;
            match moved {
                Some(count) if count > 0 => left = left.skip(count),
                Some(_) if may_end => break,
                moved => return Err(stopped(verb, moved.is_none(), done, range.size()).into()),
            }
            py.check_signals()?;
        }
        calls::detach(py, || drop(held));
        Ok(range.size().saturating_sub(left.size()))
    }

    pub(super) fn read_stream(&self, py: Python<'_>, method: &Method<'_>, wanted: &Wanted) -> PyResult<u64> {
        let _guard = python_call();
        let (range, reader) = (wanted.range, Reader::new(py, method, wanted.range.size().min(STEP))?);
        let done = self.stream(py, (READ_FROM, range), wanted.is_open, |part| {
            let Some(bytes) = reader.read(part.size())? else { return Ok(None) };
            self.write_from(py, Address(part.base()), Bytes::from(bytes.as_bytes()), false)?;
            Ok(Some(u64_of(bytes.as_bytes().len())))
        })?;
        if wanted.is_open && done == range.size() && reader.read(1)?.is_none_or(|more| !more.as_bytes().is_empty()) {
            let message =
                format!("{}: the memory ended before the file did, after {} bytes", READ_FROM.name, hex(done));
            return Err(Error::Partial { message, errno: Errno::Refused(ENOSPC), done, size: done }.into());
        }
        Ok(done)
    }

    pub(super) fn write_stream(&self, py: Python<'_>, write: &Method<'_>, range: Range) -> PyResult<u64> {
        let _guard = python_call();
        let (_, write) = write;
        let raw = py.import(interned!(py, "io"))?.getattr("RawIOBase")?;
        let is_raw = write.getattr_opt("__self__")?.is_some_and(|file| file.is_instance(&raw).unwrap_or(false));
        self.stream(py, (WRITE_TO, range), false, |part| {
            let bytes = buffer::new_bytes(py, part.size(), |output| {
                self.run(py, [(WRITE_PART, &[part])], None, |[sections], _| {
                    sections.iter().try_for_each(|section| section.scan(output))
                })
            })?;
            let answer = write.call1((bytes,))?;
            // A raw file says so that it would block; other writers that say nothing took all.
            if answer.is_none() && !is_raw { Ok(Some(part.size())) } else { count(&answer, part.size()) }
        })
    }
}

/// A file object that is read.
struct Reader<'a, 'py> {
    method: &'a Bound<'py, PyAny>,
    /// The buffer that `readinto` fills; `read` brings its own.
    buffer: Option<Bound<'py, PyByteArray>>,
}

impl<'a, 'py> Reader<'a, 'py> {
    fn new(py: Python<'py>, (name, method): &'a Method<'py>, most: u64) -> PyResult<Self> {
        // Zeroes, for the file's own code sees it before it has filled it.
        let zeroes = |[output]: [Output<'_>; 1]| Ok(output.fill(0, &Uninterrupted)?);
        let fills = *name == "readinto";
        let made = fills.then(|| buffer::new_bytearrays(py, usize_of(most), zeroes)).transpose()?;
        Ok(Self { method, buffer: made.map(|[buffer]| buffer) })
    }

    /// At most so many bytes, none at the end of the file; `None` when it would block.
    fn read(&self, most: u64) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let _guard = python_call();
        let py = self.method.py();
        let Some(buffer) = &self.buffer else {
            let answer = self.method.call1((most,))?;
            return if answer.is_none() { Ok(None) } else { bytes_of(&answer, most).map(Some) };
        };
        let whole = PyMemoryView::from(buffer.as_any())?;
        let first = |count: u64| whole.get_item(PySlice::new(py, 0, isize::try_from(count)?, 1));
        let Some(count) = count(&self.method.call1((first(most)?,))?, most)? else { return Ok(None) };
        Ok(Some(first(count)?.call_method0("tobytes")?.cast_into::<PyBytes>()?))
    }
}

/// The bytes that a `read` has brought.
fn bytes_of<'py>(answer: &Bound<'py, PyAny>, most: u64) -> PyResult<Bound<'py, PyBytes>> {
    let _guard = python_call();
    callback::answer(answer.clone(), "the file")?;
    let Ok(bytes) = PyMemoryView::from(answer).and_then(|view| view.call_method0("tobytes")) else {
        let message = format!("the file's read() gives {}, not bytes: open it in binary mode", type_name(answer));
        return Err(PyTypeError::new_err(message));
    };
    let bytes = bytes.cast_into::<PyBytes>()?;
    count(PyInt::new(answer.py(), bytes.as_bytes().len()).as_any(), most)?;
    Ok(bytes)
}

/// The bytes that a file object says it moved; `None` when it would block.
fn count(answer: &Bound<'_, PyAny>, asked: u64) -> PyResult<Option<u64>> {
    if answer.is_none() {
        return Ok(None);
    }
    callback::answer(answer.clone(), "the file")?;
    let count = answer.extract::<U64>().ok().map(|count| count.0).filter(|count| *count <= asked);
    let wrong = || PyOSError::new_err(format!("the file says that it moved {answer} bytes of {asked}"));
    count.map(Some).ok_or_else(wrong)
}

fn stopped(verb: Verb, would_block: bool, done: u64, size: u64) -> Error {
    let (why, errno) = if would_block { ("the file would block", EAGAIN) } else { ("the file ended", EIO) };
    let message = format!("{}: {why} after {} of {} bytes", verb.name, hex(done), hex(size));
    Error::Partial { message, errno: Errno::Refused(errno), done, size }
}

/// An exception of a file object passes, with a note on how far it came.
fn noted(py: Python<'_>, error: PyErr, verb: &str, done: u64, size: u64) -> PyErr {
    let _guard = python_call();
    let note = format!("{verb}: after {} of {} bytes", hex(done), hex(size));
    let _ = error.value(py).call_method1("add_note", (note,));
    error
}
