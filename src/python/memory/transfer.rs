//! Files: transfers between a descriptor and guest memory, and guest memory as a file.

use std::fs::File;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::PyMemory;
use super::stream::{Method, READ_FROM, WRITE_TO, Wanted};
use crate::memory::access::{Access, Verb};
use crate::memory::protection::Need;
use crate::memory::section::Section;
use crate::memory::transfer::Transfer;
use crate::model::error::Result;
use crate::model::range::Range;
use crate::model::region::{PROT_READ, PROT_WRITE};
use crate::python::argument::Argument;
use crate::python::callback;
use crate::python::calls::python_call;
use crate::python::convert::{self, Address, Size, U64};
use crate::python::file::{self as file_object, PlainFile};
use crate::python::import_once::interned;
use crate::python::keywords;
use crate::sys::file;

/// How the bytes of a file are moved.
enum Endpoint<'py> {
    /// By its descriptor: of an int, and of an object whose bytes are those of its descriptor.
    Descriptor(Descriptor<'py>),
    /// By its `readinto`, `read` or `write`, for only they know what becomes of the bytes.
    Stream(Method<'py>),
}

impl<'py> Endpoint<'py> {
    fn new(object: &Bound<'py, PyAny>, methods: &[&'static str], needed: i32) -> PyResult<Self> {
        let _guard = python_call();
        if let Some(file) = descriptor_is_all(object)? {
            return Descriptor::new(object, file, needed).map(Self::Descriptor);
        }
        if object.is_instance(&object.py().import(interned!(object.py(), "io"))?.getattr("TextIOBase")?)? {
            return Err(PyTypeError::new_err("the file is open as text: open it in binary mode"));
        }
        for method in methods {
            if let Some(move_bytes) = object.getattr_opt(*method)? {
                callback::check(&move_bytes, method)?;
                return Ok(Self::Stream((method, move_bytes)));
            }
        }
        let (class, methods) = (object.get_type().name()?, methods.join("() or "));
        Err(PyTypeError::new_err(format!(
            "{class} is not a file, for it has no {methods}(): give its descriptor, an int"
        )))
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
    ) -> PyResult<u64> {
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
            None => return transferred.map(|()| done),
        };
        transferred.and(sought.map(|_| done))
    }
}

impl PyMemory {
    /// The addresses that a file is read to: of so many bytes, or of what is left of it; one that does not tell may have as many as can
    /// be written from there on.
    fn wanted(&self, file: &Bound<'_, PyAny>, addr: Address, size: Option<Size>) -> PyResult<Wanted> {
        if let Some(size) = size.map_or_else(|| file_object::rest(file), |size| Ok(Some(size)))? {
            return Ok(Wanted { range: convert::range(addr, size)?, is_open: false });
        }
        let reach = |range| self.short(|map, memory| Ok(Access { map, memory, verb: READ_FROM, range }.reach()));
        let size = reach(Range::between(addr.0, u64::MAX))?;
        // With nothing to write to, a byte is asked for, and its refusal is the error.
        Ok(Wanted { range: convert::range(addr, Size(size.max(1)))?, is_open: true })
    }
}

#[pymethods]
impl PyMemory {
    /// Reads `size` bytes of a file or socket straight into guest memory, and returns their number; all that is left of it by default.
    ///
    /// `file` is a path, a descriptor or a file object. The descriptor is used of ints, sockets and what `open()` gives; any other object, such
    /// as `io.BytesIO` or one that decompresses, is read by its `readinto`, or its `read`, and what that raises comes out. Short reads, signals and
    /// non-blocking sockets are gone on with, and Ctrl-C ends the wait. A pipe, a socket or another file that does not tell how much is left of it is
    /// read to its end where `size` is left out, and all memory from `addr` to the next hole is in use meanwhile. Raises `TypeError` for what is not a file,
    /// `PartialTransfer` with `.done` when the file ends or fails before, or the memory ends before the file; as `write` does, and then nothing was read.
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
            let endpoint = Endpoint::new(file, &["readinto", "read"], PROT_READ).argument("file")?;
            let wanted = self.wanted(file, addr, size)?;
            let Wanted { range, is_open } = wanted;
            match endpoint {
                _ if range.is_empty() => Ok(0),
                Endpoint::Stream(method) => self.read_stream(py, &method, &wanted),
                Endpoint::Descriptor(file) => file.transfer(py, self, (READ_FROM, range), |transfer, sections| {
                    if is_open { transfer.read_to_end(sections) } else { transfer.read(sections) }
                }),
            }
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
            match Endpoint::new(file, &["write"], PROT_WRITE).argument("file")? {
                _ if range.is_empty() => Ok(0),
                Endpoint::Stream(write) => self.write_stream(py, &write, range),
                Endpoint::Descriptor(file) => {
                    file.transfer(py, self, (WRITE_TO, range), |transfer, sections| transfer.write(sections))
                }
            }
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
