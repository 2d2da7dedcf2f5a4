//! Reading, writing and copying bytes.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use super::PyMemory;
use super::run::is_long_copy;
use crate::memory::access::{self, Access, Shape, Verb};
use crate::memory::buffer::{Bytes, Input, Output};
use crate::memory::protection::Need;
use crate::model::int::{u64_of, usize_of};
use crate::model::range::Range;
use crate::model::room::{self, Room};
use crate::python::buffer;
use crate::python::calls::python_call;
use crate::python::convert::{self, Address, Byte, Size};

/// Bytes that a search for the end of a string reads at a time.
const STRING_STEP: u64 = 256;

pub(super) const READ: Verb = Verb::new("read", Need::Read);
const READ_C_STRING: Verb = Verb::new("read_c_string", Need::Read);

/// A verb that writes. One that is forced needs no protection; it may wait for others that lift one, so it is long whatever its size.
const fn writing(name: &'static str, force: bool) -> Verb {
    if force { Verb::new(name, Need::Nothing).slow() } else { Verb::new(name, Need::Write) }
}

impl PyMemory {
    /// Bytes that one direct copy can read.
    #[inline]
    pub(super) fn bytes_direct<'py>(
        &self,
        py: Python<'py>,
        addr: Address,
        size: Size,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let bytes = self.direct(size.0, |memory| {
            let bytes = memory.direct_bytes(addr.0, usize_of(size.0))?;
            Some(buffer::new_bytes(py, size.0, |output| {
                bytes.copy_to(output, 0);
                Ok(())
            }))
        });
        bytes?.transpose()
    }

    /// The bytes of a range; what the verb leaves out is `pad`.
    pub(super) fn bytes_of<'py>(
        &self,
        py: Python<'py>,
        verb: Verb,
        range: Range,
        pad: Option<Byte>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        if is_long_copy(range.size()) {
            // Refused before the result is allocated: `read(0, 1 << 45)` is an `UnmappedAddress`, not a `MemoryError`.
            self.short(|map, memory| Access { map, memory, verb, range }.sections().map(drop))?;
        }
        buffer::new_bytes(py, range.size(), |output| {
            self.run(py, [(verb, &[range])], None, |[sections], interrupt| {
                if let Some(byte) = pad {
                    // First: the new object's bytes are whatever was in the heap, and holes are not written again.
                    output.fill(byte.0, interrupt)?;
                }
                access::read(sections, output, interrupt)
            })
        })
    }

    /// The first bytes of a range, as many as can be read; the reason when there are none.
    fn string_part(&self, py: Python<'_>, range: Range) -> PyResult<Vec<u8>> {
        let verb = READ_C_STRING;
        let reach = self.short(|map, memory| Ok(Access { map, memory, verb, range }.reach()))?;
        // With nothing to read, the whole range is asked for, and its refusal is the error.
        let range = if reach == 0 { range } else { range.take(reach) };
        self.run(py, [(verb, &[range])], None, |[sections], interrupt| {
            let mut bytes = room::zeroed(usize_of(range.size()))?;
            access::read(sections, &Output::from(bytes.as_mut_slice()), interrupt).map(|()| bytes)
        })
    }

    /// Fills an output with the bytes at an address.
    #[inline]
    pub(super) fn read_to(&self, py: Python<'_>, addr: Address, output: &Output<'_>) -> PyResult<()> {
        let size = Size::of(output.size());
        match self.direct(size.0, |memory| memory.read_direct(addr.0, output).then_some(()))? {
            Some(()) => Ok(()),
            None => self.read_slowly(py, convert::range(addr, size)?, output),
        }
    }

    #[cold]
    pub(super) fn read_slowly(&self, py: Python<'_>, range: Range, output: &Output<'_>) -> PyResult<()> {
        self.run(py, [(READ, &[range])], None, |[sections], interrupt| access::read(sections, output, interrupt))
    }

    /// Writes an input at an address.
    #[inline]
    pub(super) fn write_from(&self, py: Python<'_>, addr: Address, input: Bytes<'_>, force: bool) -> PyResult<()> {
        let size = Size::of(input.size());
        if !force && self.direct(size.0, |memory| memory.write_direct(addr.0, input).then_some(()))?.is_some() {
            return Ok(());
        }
        self.write_slowly(py, writing("write", force), convert::range(addr, size)?, Input::Bytes(input))
    }

    #[cold]
    fn write_slowly(&self, py: Python<'_>, verb: Verb, range: Range, input: Input<'_>) -> PyResult<()> {
        let force = verb.need == Need::Nothing;
        self.run(py, [(verb, &[range])], None, |[sections], interrupt| access::write(sections, input, force, interrupt))
    }
}

#[pymethods]
impl PyMemory {
    /// The bytes of a range.
    ///
    /// `pad=byte` fills what has no memory (holes and device regions) instead of refusing it. Raises `UnmappedAddress`,
    /// `AccessDenied`, `MemoryFault`, `NotMapped` after `close()`.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> space.map_memory().read(0xffe, 4, pad=0xff)
    /// b'\x00\x00\xff\xff'
    #[pyo3(signature = (addr, size, *, pad=None))]
    fn read<'py>(
        &self,
        py: Python<'py>,
        addr: Address,
        size: Size,
        pad: Option<Byte>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        if pad.is_none()
            && let Some(bytes) = self.bytes_direct(py, addr, size)?
        {
            return Ok(bytes);
        }
        let verb = if pad.is_some() { READ.shaped(Shape::Mapped) } else { READ };
        self.bytes_of(py, verb, convert::range(addr, size)?, pad)
    }

    /// Reads as many bytes as a writable, contiguous buffer has into it, and returns how many that are.
    ///
    /// Raises as `read` does; `TypeError` for a read-only buffer, `BufferError` for one that isn't contiguous.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> space.map_memory().read_into(0, bytearray(16))
    /// 16
    fn read_into(&self, py: Python<'_>, addr: Address, buffer: &Bound<'_, PyAny>) -> PyResult<usize> {
        buffer::with_output(buffer, "buffer", |output| self.read_to(py, addr, output).map(|()| output.size()))
    }

    /// Writes the bytes of any contiguous bytes-like object.
    ///
    /// `force=True` writes through a protection, to load a ROM (by `mprotect`, copy, restore), not into a hole or a device region.
    /// Raises as `read` does; `TypeError` for `str`.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> rom = AddressSpaceRegion.create_firmware_region(0, "4KiB", "r-x", name="rom")
    /// >>> memory = AddressSpace.from_regions([rom], AddressSpaceLayout(1 << 46, 0, 1 << 45)).map_memory()
    /// >>> memory.write(0, b"bios", force=True)
    /// >>> memory.read(0, 4)
    /// b'bios'
    #[pyo3(signature = (addr, data, *, force=false))]
    fn write(&self, py: Python<'_>, addr: Address, data: &Bound<'_, PyAny>, force: bool) -> PyResult<()> {
        buffer::with_input(data, "data", |input| self.write_from(py, addr, input, force))
    }

    /// Sets every byte of a range to `byte`.
    ///
    /// Raises as `write` does; `force` as there.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> space.map_memory().fill(0, "4KiB", 0xcc)
    #[pyo3(signature = (addr, size, byte=Byte(0), *, force=false), text_signature = "($self, addr, size, byte=0, *, force=False)")]
    fn fill(&self, py: Python<'_>, addr: Address, size: Size, byte: Byte, force: bool) -> PyResult<()> {
        self.write_slowly(py, writing("fill", force), convert::range(addr, size)?, Input::Fill(byte.0))
    }

    /// Fills part of one region with zeroes, and nothing that has taken its place.
    fn _fill_part(&self, py: Python<'_>, region: &Bound<'_, PyAny>, offset: Size, size: Size) -> PyResult<()> {
        let (verb, range) = self.part_of(writing("fill", false), region, offset, size)?;
        self.write_slowly(py, verb, range, Input::Fill(0))
    }

    /// The bytes up to a zero, without it; `max_size` bytes when there is none before.
    ///
    /// With `encoding` a `str`. Memory behind the zero is not touched. Raises as `read` does, when there is no memory before the
    /// zero; `UnicodeDecodeError`.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> memory = space.map_memory()
    /// >>> memory.write(0, b"Linux version\0")
    /// >>> memory.read_c_string(0), memory.read_c_string(6, 4, encoding="ascii")
    /// (b'Linux version', 'vers')
    #[pyo3(signature = (addr, max_size=Size(4096), *, encoding=None), text_signature = "($self, addr, max_size=4096, *, encoding=None)")]
    fn read_c_string<'py>(
        &self,
        py: Python<'py>,
        addr: Address,
        max_size: Size,
        encoding: Option<&Bound<'py, PyString>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _guard = python_call();
        let mut string = Vec::new();
        let mut left = Range::between(addr.0, u64::MAX).take(max_size.0);
        while u64_of(string.len()) < max_size.0 {
            py.check_signals()?;
            // Refuses what lies behind the last address.
            convert::range(Address(left.base()), Size(1))?;
            // Up to a multiple of the step: no page behind the one with the zero is touched.
            let step = left.take(STRING_STEP.abs_diff(left.base() % STRING_STEP));
            let part = self.string_part(py, step)?;
            if let Some(zero) = part.iter().position(|byte| *byte == 0) {
                string.add_all(part.into_iter().take(zero))?;
                break;
            }
            left = left.skip(u64_of(part.len()));
            string.add_all(part)?;
        }
        let bytes = buffer::copied(py, &string)?.into_any();
        match encoding {
            Some(encoding) => bytes.call_method1("decode", (encoding,)),
            None => Ok(bytes),
        }
    }
}
