//! Files: transfers between a descriptor and guest memory, and guest memory as a file.

use std::fs::File;

use pyo3::exceptions::{PyOSError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMemoryView, PySlice};

use super::PyMemory;
use crate::memory::access::{Access, Verb};
use crate::memory::buffer::{Bytes, Output};
use crate::memory::protection::Need;
use crate::memory::section::Section;
use crate::memory::transfer::Transfer;
use crate::model::error::{Errno, Error, Result};
use crate::model::format::hex;
use crate::model::int::usize_of;
use crate::model::interrupt::Uninterrupted;
use crate::model::range::Range;
use crate::model::region::{PROT_READ, PROT_WRITE};
use crate::python::argument::Argument;
use crate::python::calls::{self, python_call};
use crate::python::convert::{self, Address, Size, U64};
use crate::python::file::{self as file_object, PlainFile};
use crate::python::import_once::interned;
use crate::python::keywords;
use crate::python::{buffer, callback};
use crate::sys::errno::{EAGAIN, EIO};
use crate::sys::file;

/// The most bytes that a file object is asked for at a time.
const STEP: u64 = 1 << 20;

/// How the bytes of a file are moved.
enum Endpoint<'py> {
    /// By its descriptor: of an int, and of an object whose bytes are those of its descriptor.
    Descriptor(Descriptor<'py>),
    /// By its `readinto` or `write`, for only they know what becomes of the bytes.
    Stream(Bound<'py, PyAny>),
}

impl<'py> Endpoint<'py> {
    fn new(object: &Bound<'py, PyAny>, method: &str, needed: i32) -> PyResult<Self> {
        let _guard = python_call();
        if let Some(file) = descriptor_is_all(object)? {
            return Descriptor::new(object, file, needed).map(Self::Descriptor);
        }
        if object.is_instance(&object.py().import(interned!(object.py(), "io"))?.getattr("TextIOBase")?)? {
            return Err(PyTypeError::new_err("the file is open as text: open it in binary mode"));
        }
        let Some(move_bytes) = object.getattr_opt(method)? else {
            let class = object.get_type().name()?;
            return Err(PyTypeError::new_err(format!(
                "{class} is not a file, for it has no {method}(): give its descriptor, an int"
            )));
        };
        callback::check(&move_bytes, method)?;
        Ok(Self::Stream(move_bytes))
    }
}

/// The file, where reads and writes of its descriptor are those of the object.
fn descriptor_is_all(object: &Bound<'_, PyAny>) -> PyResult<Option<PlainFile>> {
    let _guard = python_call();
    let file = PlainFile::of(object)?;
    // Bytes may wait in the buffer of one that can't be sought and is read.
    let is_reader = file == Some(PlainFile::Buffered { is_writer: false });
    if is_reader && !object.call_method0("seekable")?.is_truthy()? { Ok(None) } else { Ok(file) }
}

/// A descriptor of the user's, and how to keep a Python file object in step with it.
struct Descriptor<'py> {
    file: File,
    /// A buffered file object, and its position: it may have read ahead.
    buffered: Option<(Bound<'py, PyAny>, u64)>,
}

impl<'py> Descriptor<'py> {
    fn new(object: &Bound<'py, PyAny>, kind: PlainFile, needed: i32) -> PyResult<Self> {
        let _guard = python_call();
        let buffered = if matches!(kind, PlainFile::Buffered { .. }) {
            // Before the position is asked for: bytes in Python's buffer come first in the file.
            object.call_method0("flush")?;
            let is_seekable = object.call_method0("seekable")?.is_truthy()?;
            if is_seekable { Some((object.clone(), object.call_method0("tell")?.extract::<U64>()?.0)) } else { None }
        } else {
            None
        };
        let file = file_object::duplicate(object)?;
        if file::protection(&file).is_ok_and(|there| there & needed == 0) {
            let what = if needed == PROT_READ { "reading" } else { "writing" };
            let io = object.py().import(interned!(object.py(), "io"))?;
            let error = io.getattr("UnsupportedOperation")?.call1((format!("the file is not open for {what}"),))?;
            return Err(PyErr::from_value(error));
        }
        Ok(Self { file, buffered })
    }

    /// Moves the bytes of a range; however far it comes, the file object stands behind the bytes that were moved.
    fn transfer(
        &self,
        py: Python<'_>,
        memory: &PyMemory,
        (verb, range): (Verb, Range),
        work: impl FnOnce(&mut Transfer<'_>, &[Section<'_>]) -> Result<()> + Send,
    ) -> PyResult<()> {
        let _guard = python_call();
        let (endpoint, at) = (&self.file, self.buffered.as_ref().map(|(_, position)| *position));
        let mut done = 0;
        let transferred = memory.run(py, [(verb, &[range])], None, |[sections], interrupt| {
            let mut transfer = Transfer::new(verb.name, endpoint, at, range.size(), interrupt);
            let result = work(&mut transfer, sections);
            done = transfer.done();
            result
        });
        // Also after a failure: Python's position then lies behind the bytes that were transferred.
        let sought = match &self.buffered {
            Some((object, _)) if verb.need == Need::Read && file::appends(endpoint) => {
                object.call_method1("seek", (0, 2))
            }
            Some((object, position)) => object.call_method1("seek", (position.saturating_add(done),)),
            None => return transferred,
        };
        transferred.and(sought.map(drop))
    }
}

impl PyMemory {
    /// Calls `step` for the bytes that are left of a range, until it has moved all of them.
    fn stream(
        &self,
        py: Python<'_>,
        (verb, range): (Verb, Range),
        mut step: impl FnMut(Range) -> PyResult<Option<u64>>,
    ) -> PyResult<()> {
        let _guard = python_call();
        // The file's own code runs meanwhile, which may take long: the region stays, and nothing that was checked is checked in vain.
        let held = self.lease(py, (verb, &[range]))?;
        let mut left = range;
        while !left.is_empty() {
            let done = range.size().saturating_sub(left.size());
            let moved = step(left.take(STEP)).map_err(|error| noted(py, error, verb.name, done, range.size()))?;
            match moved {
                Some(count) if count > 0 => left = left.skip(count),
                moved => return Err(stopped(verb, moved.is_none(), done, range.size()).into()),
            }
            py.check_signals()?;
        }
        calls::detach(py, || drop(held));
        Ok(())
    }

    fn read_stream(&self, py: Python<'_>, readinto: &Bound<'_, PyAny>, range: Range) -> PyResult<()> {
        let _guard = python_call();
        // Zeroes, for the file's own code sees it before it has filled it.
        let zeroes = |[output]: [Output<'_>; 1]| Ok(output.fill(0, &Uninterrupted)?);
        let [buffer] = buffer::new_bytearrays(py, usize_of(range.size().min(STEP)), zeroes)?;
        self.stream(py, (READ_FROM, range), |part| {
            let whole = PyMemoryView::from(buffer.as_any())?;
            let view = whole.get_item(PySlice::new(py, 0, isize::try_from(part.size())?, 1))?;
            let Some(count) = count(&readinto.call1((view,))?, part.size())? else { return Ok(None) };
            let bytes = buffer.to_vec();
            let read = Bytes::from(bytes.get(..usize_of(count)).unwrap_or_default());
            self.write_from(py, Address(part.base()), read, false)?;
            Ok(Some(count))
        })
    }

    fn write_stream(&self, py: Python<'_>, write: &Bound<'_, PyAny>, range: Range) -> PyResult<()> {
        let _guard = python_call();
        let raw = py.import(interned!(py, "io"))?.getattr("RawIOBase")?;
        let is_raw = write.getattr_opt("__self__")?.is_some_and(|file| file.is_instance(&raw).unwrap_or(false));
        self.stream(py, (WRITE_TO, range), |part| {
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

const READ_FROM: Verb = Verb::new("read_from", Need::Write).slow();
const WRITE_TO: Verb = Verb::new("write_to", Need::Read).slow();
const WRITE_PART: Verb = Verb::new("write_to", Need::Read);

#[pymethods]
impl PyMemory {
    /// Reads `size` bytes of a file or socket straight into guest memory, and returns their number; all that is left of it by default.
    ///
    /// `file` is a path, a descriptor or a file object. The descriptor is used of ints, sockets and what `open()` gives; any other object, such
    /// as `io.BytesIO` or one that decompresses, is read by its `readinto`, and what that raises comes out. Short reads, signals and
    /// non-blocking sockets are gone on with, and Ctrl-C ends the wait. Raises `TypeError` for what is neither, `PartialTransfer` with `.done` when the file ends or fails before; as `write` does, and then nothing was read.
    ///
    /// >>> import tempfile
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> memory = space.map_memory()
    /// >>> with tempfile.TemporaryFile() as file:
    /// ...     _ = file.write(b"kernel"), file.seek(0)
    /// ...     memory.read_from(file, 0x100, 6)
    /// 6
    /// >>> memory.read(0x100, 6)
    /// b'kernel'
    #[pyo3(signature = (file, addr, size=None))]
    fn read_from(&self, py: Python<'_>, file: &Bound<'_, PyAny>, addr: Address, size: Option<Size>) -> PyResult<u64> {
        file_object::with_file(file, "rb", |file| {
            let endpoint = Endpoint::new(file, "readinto", PROT_READ).argument("file")?;
            let size = size.map_or_else(|| file_object::rest(file), Ok)?;
            let range = convert::range(addr, size)?;
            match endpoint {
                _ if range.is_empty() => {}
                Endpoint::Stream(readinto) => self.read_stream(py, &readinto, range)?,
                Endpoint::Descriptor(file) => {
                    file.transfer(py, self, (READ_FROM, range), |transfer, sections| transfer.read(sections))?;
                }
            }
            Ok(size.0)
        })
    }

    /// Writes `size` bytes of guest memory to a file or socket, and returns `size`.
    ///
    /// As `read_from`, the other way, by the object's `write`; a path is created, or its old bytes go; memory that no one has written is sent as zeroes, and not allocated for it. Raises
    /// `PartialTransfer` with `.done`; as `read` does, and then nothing was written.
    ///
    /// >>> import tempfile
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> with tempfile.TemporaryFile() as file:
    /// ...     _ = space.map_memory().write_to(file, 0, "4KiB")
    /// ...     file.tell()
    /// 4096
    fn write_to(&self, py: Python<'_>, file: &Bound<'_, PyAny>, addr: Address, size: Size) -> PyResult<u64> {
        let range = convert::range(addr, size)?;
        if file_object::is_path(file)? {
            // Before the file at the path loses its old bytes.
            self.short(|map, memory| Access { map, memory, verb: WRITE_TO, range }.sections().map(drop))?;
        }
        file_object::with_file(file, "wb", |file| {
            match Endpoint::new(file, "write", PROT_WRITE).argument("file")? {
                _ if range.is_empty() => {}
                Endpoint::Stream(write) => self.write_stream(py, &write, range)?,
                Endpoint::Descriptor(file) => {
                    file.transfer(py, self, (WRITE_TO, range), |transfer, sections| transfer.write(sections))?;
                }
            }
            Ok(size.0)
        })
    }

    /// Guest physical memory as an unbuffered binary file: positions are addresses.
    ///
    /// `mode`: `"rb"`, or `"r+b"` to write too. A read stops short before what can't be read, and raises as `read` does when it begins
    /// there; with `holes="zero"` holes and device regions read as zeroes. The file ends behind the last region that has
    /// memory; it holds no region. `io.BufferedReader(memory.open())` makes small reads fast.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0x1000, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> space.map_memory().write(0x1ffc, b"tail")
    /// >>> with space.memory.open() as file:
    /// ...     file.seek(-4, 2), file.read(100)
    /// (8188, b'tail')
    #[pyo3(signature = (mode="rb", *, holes="error", **others),
        text_signature = "($self, mode='rb', *, holes='error')")]
    fn open<'py>(
        slf: Bound<'py, Self>,
        mode: &str,
        holes: &str,
        others: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        keywords::refuse_of::<Self>("open", others)?;
        let _guard = python_call();
        let module = slf.py().import("dbs_address_space.guest_file")?;
        module.getattr("GuestFile")?.call1((slf, mode, holes))
    }
}
