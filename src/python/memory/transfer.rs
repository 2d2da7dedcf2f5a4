//! Files: transfers between a descriptor and guest memory, and guest memory as a file.

use std::fs::File;

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;

use super::PyMemory;
use crate::memory::access::Verb;
use crate::memory::protection::Need;
use crate::memory::section::Section;
use crate::memory::transfer::Transfer;
use crate::model::error::Result;
use crate::model::range::Range;
use crate::model::region::{PROT_READ, PROT_WRITE};
use crate::python::calls::python_call;
use crate::python::convert::{self, Address, Size, U64};
use crate::sys::file;

/// A descriptor of the user's, and how to keep a Python file object in step with it.
struct Endpoint<'py> {
    file: File,
    /// A buffered file object, and its position: it may have read ahead.
    buffered: Option<(Bound<'py, PyAny>, u64)>,
}

impl<'py> Endpoint<'py> {
    fn new(object: &Bound<'py, PyAny>, needed: i32) -> PyResult<Self> {
        let _guard = python_call();
        let py = object.py();
        let io = py.import(intern!(py, "io"))?;
        if object.is_instance(&io.getattr("TextIOBase")?)? {
            return Err(PyTypeError::new_err("the file is open as text: open it in binary mode"));
        }
        let buffered = if object.is_instance(&io.getattr("BufferedIOBase")?)? {
            object.call_method0("flush")?;
            let is_seekable = object.call_method0("seekable")?.is_truthy()?;
            if !is_seekable && object.call_method0("readable")?.is_truthy()? {
                return Err(PyTypeError::new_err(
                    "the file is buffered and can't be sought, so bytes may wait in its buffer: give its .raw",
                ));
            }
            if is_seekable { Some((object.clone(), object.call_method0("tell")?.extract::<U64>()?.0)) } else { None }
        } else {
            None
        };
        let file = convert::duplicate(object)?;
        if file::protection(&file).is_ok_and(|there| there & needed == 0) {
            let what = if needed == PROT_READ { "reading" } else { "writing" };
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

const READ_FROM: Verb = Verb::new("read_from", Need::Write).slow();
const WRITE_TO: Verb = Verb::new("write_to", Need::Read).slow();

#[pymethods]
impl PyMemory {
    /// Reads `size` bytes of a file or socket straight into guest memory, and returns `size`.
    ///
    /// `file` is a descriptor or has `fileno()`; short reads, signals and non-blocking sockets are gone on with, and Ctrl-C ends the
    /// wait. Raises `PartialTransfer` with `.done` when the file ends or fails before; as `write` does, and then nothing was read.
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
    fn read_from(&self, py: Python<'_>, file: &Bound<'_, PyAny>, addr: Address, size: Size) -> PyResult<u64> {
        let range = convert::range(addr, size)?;
        let endpoint = Endpoint::new(file, PROT_READ)?;
        if size.0 > 0 {
            endpoint.transfer(py, self, (READ_FROM, range), |transfer, sections| transfer.read(sections))?;
        }
        Ok(size.0)
    }

    /// Writes `size` bytes of guest memory to a file or socket, and returns `size`.
    ///
    /// As `read_from`, the other way; memory that no one has written is sent as zeroes, and not allocated for it. Raises
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
        let endpoint = Endpoint::new(file, PROT_WRITE)?;
        if size.0 > 0 {
            endpoint.transfer(py, self, (WRITE_TO, range), |transfer, sections| transfer.write(sections))?;
        }
        Ok(size.0)
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
    #[pyo3(signature = (mode="rb", *, holes="error"))]
    fn open<'py>(slf: Bound<'py, Self>, mode: &str, holes: &str) -> PyResult<Bound<'py, PyAny>> {
        let _guard = python_call();
        let module = slf.py().import("dbs_address_space.guest_file")?;
        module.getattr("GuestFile")?.call1((slf, mode, holes))
    }
}
