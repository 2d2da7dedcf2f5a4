//! Reading, writing and copying bytes.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use super::{LONG, PyMemory, Verb, whole};
use crate::memory::access::{self, Access};
use crate::memory::buffer::{Bytes, Input, Output};
use crate::memory::copy;
use crate::memory::mapped_regions::Need;
use crate::memory::section::Section;
use crate::model::int::usize_of;
use crate::model::interrupt::Uninterrupted;
use crate::python::buffer;
use crate::python::convert::{self, Address, Byte, Size};
use crate::python::interrupt::detached;

/// Bytes that a search for the end of a string reads at a time.
const STRING_STEP: u64 = 256;

impl PyMemory {
    /// Short reads that one direct copy can do.
    #[inline]
    pub(super) fn read_direct<'py>(
        &self,
        py: Python<'py>,
        addr: Address,
        size: Size,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        if size.0 >= LONG {
            return Ok(None);
        }
        let snapshot = self.space.load();
        let Ok(memory) = snapshot.memory_of(self.incarnation) else { return Ok(None) };
        let Some(source) = memory.source(addr.0, usize_of(size.0)) else { return Ok(None) };
        buffer::new_bytes(py, size.0, |output| {
            source.copy_to(output);
            Ok(())
        })
        .map(Some)
    }

    pub(super) fn write_from(&self, py: Python<'_>, addr: Address, input: Bytes<'_>, force: bool) -> PyResult<()> {
        let size = Size::of(input.size());
        if size.0 < LONG && !force && self.with_memory(|_, memory| Ok(memory.write_direct(addr.0, input)))? {
            return Ok(());
        }
        let need = if force { Need::Any } else { Need::Write };
        let plan = self.plan(py, ("write", need), convert::range(addr, size)?)?;
        plan.run(py, None, |sections, _| access::write(sections, Input::Bytes(input), force))
    }

    /// Some bytes, all or none.
    fn read_part(&self, py: Python<'_>, verb: Verb, addr: Address, size: u64) -> PyResult<Vec<u8>> {
        let plan = self.plan(py, verb, convert::range(addr, Size(size))?)?;
        let mut bytes = vec![0; usize_of(size)];
        let output = Output::from(bytes.as_mut_slice());
        plan.run(py, None, |sections, _| access::read(sections, &output))?;
        Ok(bytes)
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
            && let Some(bytes) = self.read_direct(py, addr, size)?
        {
            return Ok(bytes);
        }
        let find = |access: &Access<'_>| if pad.is_some() { access.sections_with_holes() } else { access.sections() };
        let plan = self.plan_for(py, ("read", Need::Read), convert::range(addr, size)?, find)?;
        buffer::new_bytes(py, size.0, move |output| {
            plan.run(py, None, |sections, _| {
                if let Some(byte) = pad {
                    output.fill(byte.0);
                }
                access::read(sections, output)
            })
        })
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
        buffer::with_output(buffer, |output| {
            let size = Size::of(output.size());
            if size.0 < LONG && self.with_memory(|_, memory| Ok(memory.read_direct(addr.0, output)))? {
                return Ok(output.size());
            }
            let plan = self.plan(py, ("read", Need::Read), convert::range(addr, size)?)?;
            plan.run(py, None, |sections, _| access::read(sections, output))?;
            Ok(output.size())
        })
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
        buffer::with_input(data, |input| self.write_from(py, addr, input, force))
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
        let need = if force { Need::Any } else { Need::Write };
        let plan = self.plan(py, ("fill", need), convert::range(addr, size)?)?;
        plan.run(py, None, |sections, _| access::write(sections, Input::Fill(byte.0), force))
    }

    /// Copies `size` bytes inside the guest, as if through a buffer in between: the two ranges may overlap.
    ///
    /// `progress(p)` is called during copies from 4 MiB on. Raises as `read` and `write` do, and then nothing was copied; only a
    /// `MemoryFault` or an exception from `progress` stops it midway.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> memory = space.map_memory()
    /// >>> memory.write(0, b"abcdef")
    /// >>> memory.copy(2, 0, 4)
    /// >>> memory.read(0, 6)
    /// b'ababcd'
    #[pyo3(signature = (dst, src, size, *, progress=None))]
    fn copy(
        &self,
        py: Python<'_>,
        dst: Address,
        src: Address,
        size: Size,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let (from, to) = (convert::range(src, size)?, convert::range(dst, size)?);
        if size.0 == 0 {
            return Ok(());
        }
        let from = self.lease(py, ("copy", Need::Read), from, whole)?;
        let to = self.lease(py, ("copy", Need::Write), to, whole)?;
        if size.0 < LONG && !from.sections.iter().chain(&to.sections).any(Section::may_block) {
            return Ok(copy::copy(&from.sections, &to.sections, &Uninterrupted)?);
        }
        detached(py, progress, move |interrupt| copy::copy(&from.sections, &to.sections, interrupt))
    }

    /// The bytes up to a zero, without it; `max_size` bytes when there is none before.
    ///
    /// With `encoding` a `str`. What lies behind the zero is not touched. Raises as `read` does, when there is no memory before the
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
        let verb = ("read_c_string", Need::Read);
        let mut string = Vec::new();
        let mut at = addr.0;
        let mut left = max_size.0;
        while left > 0 {
            // Up to a multiple of the step: no page behind the one with the zero is touched.
            let step = STRING_STEP.saturating_sub(at % STRING_STEP).min(left).min(u64::MAX.saturating_sub(at)).max(1);
            let reach =
                self.with_access(verb, convert::range(Address(at), Size(step))?, |access| Ok(access.reach()))?;
            let size = if reach == 0 { step } else { reach };
            let part = self.read_part(py, verb, Address(at), size)?;
            if let Some(zero) = part.iter().position(|byte| *byte == 0) {
                string.extend(part.into_iter().take(zero));
                break;
            }
            string.extend(part);
            at = at.saturating_add(size);
            left = left.saturating_sub(size);
        }
        let bytes = PyBytes::new(py, &string).into_any();
        match encoding {
            Some(encoding) => bytes.call_method1("decode", (encoding,)),
            None => Ok(bytes),
        }
    }
}
