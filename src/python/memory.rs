//! `GuestMemory`: the bytes behind an address space.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::Guard;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView, PyTuple};
use vm_memory::ByteValued;

use super::array;
use super::buffer::{self, PyGuestView};
use super::convert::{self, Address, Byte, Size};
use super::error::invalid;
use super::handle::Handle;
use super::interrupt::detached;
use super::mapping::PyMapping;
use super::region::PyRegion;
use crate::memory::access::{self, Access, HoldRefused};
use crate::memory::buffer::{Bytes, Input, Output};
use crate::memory::copy::Piece;
use crate::memory::integer::Cell;
use crate::memory::lease::Lease;
use crate::memory::map::{MappedMap, Need};
use crate::model::error::{Error, Result};
use crate::model::map::Map;
use crate::model::range::Range;
use crate::model::region::PROT_WRITE;
use crate::model::text;
use crate::space::snapshot::Snapshot;

/// From this size on a copy is done without the interpreter's lock, under leases instead of the snapshot.
const LONG: u64 = 4 << 20;

/// The bytes behind a mapped address space: a live handle that follows every later change and keeps its space alive.
///
/// Made by `AddressSpace.map_memory()`. Accesses may span touching regions and are all or nothing: a hole or a device region is
/// `UnmappedAddress`, a protection `AccessDenied`, both with the first bad address. Only a fault of the memory itself, such as a
/// truncated file, can stop one midway: `MemoryFault`, never a signal. Size 0 does nothing, anywhere. Copies from 4 MiB on release
/// the interpreter's lock. Used in `with`, or closed, all memory is unmapped; views and arrays on it refuse that with `RegionBusy`.
///
/// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
/// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
/// >>> memory = space.map_memory()
/// >>> memory.write_u32(0x1000, 0x12345678)
/// >>> memory.read(0x1000, 4)
/// b'xV4\x12'
#[pyclass(frozen, name = "GuestMemory", module = "dbs_address_space")]
#[derive(Debug)]
pub struct PyMemory {
    space: Handle,
    incarnation: u64,
}

/// An access that was found possible, and what keeps it so.
enum Plan {
    /// Nothing.
    Empty,
    /// A short one: the snapshot, for as long as the copy takes.
    Short(Vec<Piece>, Guard<Arc<Snapshot>>),
    /// A long one: leases, so that the interpreter and the snapshot can be let go.
    Long(Vec<Piece>, Vec<Lease>),
}

impl Plan {
    /// Does the work, and lets go of everything before an error becomes an exception: that runs Python code.
    fn run(self, py: Python<'_>, work: impl Fn(&[Piece]) -> Result<()> + Sync) -> PyResult<()> {
        let result = match &self {
            Self::Empty => Ok(()),
            Self::Short(pieces, _snapshot) => work(pieces),
            Self::Long(pieces, _leases) => py.detach(|| work(pieces)),
        };
        drop(self);
        Ok(result?)
    }
}

impl PyMemory {
    pub(super) const fn new(space: Handle, incarnation: u64) -> Self {
        Self { space, incarnation }
    }

    /// Runs `work` on one snapshot, which is let go before an error becomes an exception: that runs Python code.
    #[inline]
    fn with_memory<T>(&self, work: impl FnOnce(&Map, &MappedMap) -> Result<T>) -> PyResult<T> {
        let result = {
            let snapshot = self.space.load();
            snapshot.memory_of(self.incarnation).and_then(|memory| work(&snapshot.map, memory))
        };
        Ok(result?)
    }

    fn with_access<T>(
        &self,
        verb: &'static str,
        need: Need,
        range: Range,
        work: impl FnOnce(&Access<'_>) -> Result<T>,
    ) -> PyResult<T> {
        self.with_memory(|map, memory| work(&Access { map, memory, verb, need, range }))
    }

    fn plan(&self, py: Python<'_>, verb: &'static str, need: Need, range: Range, holes: bool) -> PyResult<Plan> {
        loop {
            match self.try_plan(verb, need, range, holes)? {
                Ok(plan) => return Ok(plan),
                Err(refused) => self.wait_settled(py, &refused)?,
            }
        }
    }

    fn wait_settled(&self, py: Python<'_>, refused: &HoldRefused) -> PyResult<()> {
        buffer::wait_settled(py, &self.space, &refused.region.leases, refused.region.meta.base())
    }

    /// A plan on the current snapshot; the inner error is a region that a change is deciding about.
    fn try_plan(
        &self,
        verb: &'static str,
        need: Need,
        range: Range,
        holes: bool,
    ) -> Result<std::result::Result<Plan, HoldRefused>> {
        let snapshot = self.space.load();
        let access = Access { map: &snapshot.map, memory: snapshot.memory_of(self.incarnation)?, verb, need, range };
        if range.is_empty() {
            return Ok(Ok(Plan::Empty));
        }
        let pieces = if holes { access.pieces_with_holes() } else { access.pieces() }?;
        if range.size() < LONG && !pieces.iter().any(Piece::may_block) {
            return Ok(Ok(Plan::Short(pieces, snapshot)));
        }
        Ok(access.hold(&pieces).map(|leases| Plan::Long(pieces, leases)))
    }

    fn write_from(&self, py: Python<'_>, addr: Address, input: Bytes<'_>, force: bool) -> PyResult<()> {
        let size = Size(u64::try_from(input.size()).unwrap_or(u64::MAX));
        if size.0 < LONG && !force && self.with_memory(|_, memory| Ok(memory.write_direct(addr.0, input)))? {
            return Ok(());
        }
        let need = if force { Need::Any } else { Need::Write };
        self.plan(py, "write", need, convert::range(addr, size)?, false)?
            .run(py, |pieces| access::write(pieces, Input::Bytes(input), force))
    }

    /// A little-endian integer.
    #[inline]
    fn load_value<T: ByteValued + Default>(&self, py: Python<'_>, addr: Address) -> PyResult<T> {
        match self.with_memory(|_, memory| Ok(memory.load_direct(addr.0)))? {
            Some(value) => Ok(value),
            None => self.load_slowly(py, addr),
        }
    }

    #[cold]
    fn load_slowly<T: ByteValued + Default>(&self, py: Python<'_>, addr: Address) -> PyResult<T> {
        let mut value = T::default();
        let output = Output::from(value.as_mut_slice());
        let range = convert::range(addr, Size(u64::try_from(output.size()).unwrap_or(u64::MAX)))?;
        self.plan(py, "read", Need::Read, range, false)?.run(py, |pieces| access::read(pieces, &output))?;
        Ok(value)
    }

    #[inline]
    fn store_value<T: ByteValued>(&self, py: Python<'_>, addr: Address, value: T) -> PyResult<()> {
        if self.with_memory(|_, memory| Ok(memory.store_direct(addr.0, value)))? {
            return Ok(());
        }
        self.write_from(py, addr, value.as_slice().into(), false)
    }

    /// An atomic operation on 1, 2, 4 or 8 naturally aligned bytes.
    fn with_cell<T>(
        &self,
        verb: &'static str,
        need: Need,
        addr: Address,
        size: Size,
        work: impl FnOnce(&Cell) -> T,
    ) -> PyResult<T> {
        if ![1, 2, 4, 8].contains(&size.0) {
            return Err(invalid(format!("{verb} of {} bytes: an atomic access has 1, 2, 4 or 8", size.0)));
        }
        self.with_access(verb, need, convert::range(addr, size)?, |access| Ok(work(&Cell::new(access)?)))
    }
}

/// An `Ordering` from its name, if the operation can have it.
fn ordering(name: &str, allowed: &[(&str, Ordering)]) -> PyResult<Ordering> {
    allowed.iter().find(|(known, _)| *known == name).map(|(_, ordering)| *ordering).ok_or_else(|| {
        let known: Vec<&str> = allowed.iter().map(|(known, _)| *known).collect();
        PyValueError::new_err(format!("order={name:?} can't be had here: use one of {}", known.join(", ")))
    })
}

/// An integer that fits its type.
#[inline]
fn narrow<T: TryFrom<u64>>(value: &Bound<'_, PyAny>) -> PyResult<T> {
    let bits = size_of::<T>().saturating_mul(8);
    let highest = u32::try_from(64usize.saturating_sub(bits))
        .ok()
        .and_then(|shift| u64::MAX.checked_shr(shift))
        .unwrap_or_default();
    let value = convert::unsigned(value.as_borrowed(), highest)?;
    T::try_from(value).map_err(|_| invalid(format!("{} does not fit", text::hex(value))))
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
        if size.0 < LONG && pad.is_none() {
            let snapshot = self.space.load();
            if let Ok(memory) = snapshot.memory_of(self.incarnation)
                && memory.is_direct(addr.0, size.0, Need::Read)
            {
                return buffer::new_bytes(py, size.0, |output| {
                    memory.read_direct(addr.0, output);
                    Ok(())
                });
            }
        }
        let plan = self.plan(py, "read", Need::Read, convert::range(addr, size)?, pad.is_some())?;
        buffer::new_bytes(py, size.0, |output| {
            plan.run(py, |pieces| {
                if let Some(byte) = pad {
                    output.fill(byte.0);
                }
                access::read(pieces, output)
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
            let size = Size(u64::try_from(output.size()).unwrap_or(u64::MAX));
            if size.0 < LONG && self.with_memory(|_, memory| Ok(memory.read_direct(addr.0, output)))? {
                return Ok(output.size());
            }
            let plan = self.plan(py, "read", Need::Read, convert::range(addr, size)?, false)?;
            plan.run(py, |pieces| access::read(pieces, output))?;
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
        let plan = self.plan(py, "fill", need, convert::range(addr, size)?, false)?;
        plan.run(py, |pieces| access::write(pieces, Input::Fill(byte.0), force))
    }

    /// Reads an unsigned integer of 1 byte at any address, little-endian unless `big`.
    ///
    /// Aligned reads of directly copied memory do not tear. Raises as `read` does.
    #[pyo3(signature = (addr, *, big=false))]
    fn read_u8(&self, py: Python<'_>, addr: Address, big: bool) -> PyResult<u8> {
        let value: u8 = self.load_value(py, addr)?;
        Ok(if big { value.swap_bytes() } else { value })
    }

    /// Writes an unsigned integer of 1 byte at any address, little-endian unless `big`.
    ///
    /// Aligned writes of directly copied memory do not tear. A value that does not fit is `InvalidAddressRange`; raises as `write` does.
    #[pyo3(signature = (addr, value, *, big=false))]
    fn write_u8(&self, py: Python<'_>, addr: Address, value: &Bound<'_, PyAny>, big: bool) -> PyResult<()> {
        let value: u8 = narrow(value)?;
        self.store_value(py, addr, if big { value.swap_bytes() } else { value })
    }

    /// Reads an unsigned integer of 2 bytes at any address, little-endian unless `big`.
    ///
    /// Aligned reads of directly copied memory do not tear. Raises as `read` does.
    #[pyo3(signature = (addr, *, big=false))]
    fn read_u16(&self, py: Python<'_>, addr: Address, big: bool) -> PyResult<u16> {
        let value: u16 = self.load_value(py, addr)?;
        Ok(if big { value.swap_bytes() } else { value })
    }

    /// Writes an unsigned integer of 2 bytes at any address, little-endian unless `big`.
    ///
    /// Aligned writes of directly copied memory do not tear. A value that does not fit is `InvalidAddressRange`; raises as `write` does.
    #[pyo3(signature = (addr, value, *, big=false))]
    fn write_u16(&self, py: Python<'_>, addr: Address, value: &Bound<'_, PyAny>, big: bool) -> PyResult<()> {
        let value: u16 = narrow(value)?;
        self.store_value(py, addr, if big { value.swap_bytes() } else { value })
    }

    /// Reads an unsigned integer of 4 bytes at any address, little-endian unless `big`.
    ///
    /// Aligned reads of directly copied memory do not tear. Raises as `read` does.
    #[pyo3(signature = (addr, *, big=false))]
    fn read_u32(&self, py: Python<'_>, addr: Address, big: bool) -> PyResult<u32> {
        let value: u32 = self.load_value(py, addr)?;
        Ok(if big { value.swap_bytes() } else { value })
    }

    /// Writes an unsigned integer of 4 bytes at any address, little-endian unless `big`.
    ///
    /// Aligned writes of directly copied memory do not tear. A value that does not fit is `InvalidAddressRange`; raises as `write` does.
    #[pyo3(signature = (addr, value, *, big=false))]
    fn write_u32(&self, py: Python<'_>, addr: Address, value: &Bound<'_, PyAny>, big: bool) -> PyResult<()> {
        let value: u32 = narrow(value)?;
        self.store_value(py, addr, if big { value.swap_bytes() } else { value })
    }

    /// Reads an unsigned integer of 8 bytes at any address, little-endian unless `big`.
    ///
    /// Aligned reads of directly copied memory do not tear. Raises as `read` does.
    #[pyo3(signature = (addr, *, big=false))]
    fn read_u64(&self, py: Python<'_>, addr: Address, big: bool) -> PyResult<u64> {
        let value: u64 = self.load_value(py, addr)?;
        Ok(if big { value.swap_bytes() } else { value })
    }

    /// Writes an unsigned integer of 8 bytes at any address, little-endian unless `big`.
    ///
    /// Aligned writes of directly copied memory do not tear. A value that does not fit is `InvalidAddressRange`; raises as `write` does.
    #[pyo3(signature = (addr, value, *, big=false))]
    fn write_u64(&self, py: Python<'_>, addr: Address, value: &Bound<'_, PyAny>, big: bool) -> PyResult<()> {
        let value: u64 = narrow(value)?;
        self.store_value(py, addr, if big { value.swap_bytes() } else { value })
    }

    /// Loads a naturally aligned little-endian integer of 1, 2, 4 or 8 bytes atomically.
    ///
    /// `order`: `"relaxed"`, `"acquire"` or `"seq_cst"`. Raises `Misaligned`, `Unsupported` on guarded memory, else as `read` does.
    #[pyo3(signature = (addr, size=Size(8), *, order="acquire"), text_signature = "($self, addr, size=8, *, order='acquire')")]
    fn load(&self, addr: Address, size: Size, order: &str) -> PyResult<u64> {
        let allowed = [("relaxed", Ordering::Relaxed), ("acquire", Ordering::Acquire), ("seq_cst", Ordering::SeqCst)];
        let order = ordering(order, &allowed)?;
        self.with_cell("load", Need::Read, addr, size, |cell| cell.load(order))
    }

    /// Stores a naturally aligned little-endian integer of 1, 2, 4 or 8 bytes atomically.
    ///
    /// `order`: `"relaxed"`, `"release"` or `"seq_cst"`. Raises `Misaligned`, `Unsupported` on guarded memory, else as `write` does.
    #[pyo3(signature = (addr, value, size=Size(8), *, order="release"), text_signature = "($self, addr, value, size=8, *, order='release')")]
    fn store(&self, addr: Address, value: &Bound<'_, PyAny>, size: Size, order: &str) -> PyResult<()> {
        let allowed = [("relaxed", Ordering::Relaxed), ("release", Ordering::Release), ("seq_cst", Ordering::SeqCst)];
        let order = ordering(order, &allowed)?;
        let value = match size.0 {
            1 => narrow::<u8>(value)?.into(),
            2 => narrow::<u16>(value)?.into(),
            4 => narrow::<u32>(value)?.into(),
            _ => narrow::<u64>(value)?,
        };
        self.with_cell("store", Need::Write, addr, size, |cell| cell.store(value, order))
    }

    /// A `memoryview` of a range inside one region, writable where the region is; it vetoes the region's removal.
    ///
    /// `writable=False` makes it read-only, `writable=True` on read-only memory is `AccessDenied`. A range that crosses a joint of
    /// two regions is `NotContiguous`. Memory that may fault under a touch (`mapping(addr).guarded`) is `Unsupported` unless
    /// `unguarded=True`: a fault then kills the process. Raises as `read` does.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> memory = space.map_memory()
    /// >>> with memory.view(0x10, 5) as view:
    /// ...     view[:] = b"hello"
    /// >>> memory.read(0x10, 5)
    /// b'hello'
    #[pyo3(signature = (addr, size, *, writable=None, unguarded=false))]
    fn view<'py>(
        &self,
        py: Python<'py>,
        addr: Address,
        size: Size,
        writable: Option<bool>,
        unguarded: bool,
    ) -> PyResult<Bound<'py, PyMemoryView>> {
        let range = convert::range(addr, size)?;
        if range.is_empty() {
            return PyGuestView::empty(py);
        }
        let need = if writable == Some(true) { Need::Write } else { Need::Read };
        loop {
            let held = self.with_access("view", need, range, |access| {
                let piece = access.single_piece()?;
                if piece.region.mapping.is_guarded() && !unguarded {
                    return Err(guarded_view(&piece.region.meta));
                }
                Ok(access.hold(std::slice::from_ref(&piece)).map(|leases| (piece, leases)))
            })?;
            match held {
                // Held until the view has a lease of its own, so that it shows the region as the snapshot described it.
                Ok((piece, _leases)) => {
                    let readonly = piece.region.meta.prot_flags & PROT_WRITE == 0 || writable == Some(false);
                    return PyGuestView::memoryview(py, &self.space, &piece, readonly);
                }
                Err(refused) => self.wait_settled(py, &refused)?,
            }
        }
    }

    /// A NumPy array over guest memory (the `numpy` extra), of any shape and dtype, structured ones included; strides are in bytes.
    ///
    /// The array is a view, not a copy: it vetoes the region's removal. `writable` and `unguarded` as for `view`, which also says
    /// what it raises; `ImportError` without NumPy.
    #[pyo3(signature = (addr, shape, dtype, *, strides=None, writable=None, unguarded=false))]
    #[allow(clippy::too_many_arguments, reason = "the keywords that users were promised")]
    fn array<'py>(
        &self,
        py: Python<'py>,
        addr: Address,
        shape: &Bound<'py, PyAny>,
        dtype: &Bound<'py, PyAny>,
        strides: Option<&Bound<'py, PyAny>>,
        writable: Option<bool>,
        unguarded: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let plan = array::Plan::new(py, shape, dtype, strides)?;
        plan.over(&self.view(py, addr, Size(plan.size()), writable, unguarded)?)
    }

    /// Whether every byte of a range has memory; protections play no part. `True` for size 0.
    fn check_range(&self, addr: Address, size: Size) -> PyResult<bool> {
        let range = convert::range(addr, size)?;
        self.with_access("check", Need::Any, range, |access| Ok(access.pieces().is_ok()))
    }

    /// The host address of a guest physical address, valid until its region is removed: nothing holds it.
    ///
    /// Raises `UnmappedAddress`, `NotMapped`.
    fn host_address(&self, addr: Address) -> PyResult<usize> {
        let range = convert::range(addr, Size(1))?;
        self.with_access("host_address", Need::Any, range, |access| {
            let piece = access.single_piece()?;
            Ok(piece.region.mapping.host(piece.offset).addr())
        })
    }

    /// The regions that have memory, by ascending base.
    #[getter]
    fn regions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let metas: Vec<_> =
            self.with_memory(|_, memory| Ok(memory.regions().iter().map(|region| Arc::clone(&region.meta)).collect()))?;
        PyTuple::new(py, metas.into_iter().map(PyRegion::from).collect::<Vec<_>>())
    }

    /// The `Mapping` of the region that holds `addr`. Raises `UnmappedAddress`, `NotMapped`.
    fn mapping(&self, addr: Address) -> PyResult<PyMapping> {
        let range = convert::range(addr, Size(1))?;
        self.with_access("mapping", Need::Any, range, |access| Ok(PyMapping::of(&access.single_piece()?.region)))
    }

    /// The `Mapping` of every region that has memory, by ascending base. Raises `NotMapped`.
    fn mappings<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let mappings: Vec<_> =
            self.with_memory(|_, memory| Ok(memory.regions().iter().map(PyMapping::of).collect()))?;
        PyTuple::new(py, mappings)
    }

    /// Unmaps everything; the space stays as a map, and `map_memory()` then makes new memory. Closing twice does nothing.
    ///
    /// Raises `RegionBusy` when a view or array holds a region, and then nothing is unmapped.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, None, |interrupt| self.space.close_memory(self.incarnation, interrupt))
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _type: &Bound<'_, PyAny>,
        _value: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        self.close(py).map(|()| false)
    }

    fn __repr__(&self) -> String {
        let snapshot = self.space.load();
        let Ok(memory) = snapshot.memory_of(self.incarnation) else { return "GuestMemory(closed)".into() };
        let size = memory.regions().iter().fold(0u64, |sum, region| sum.saturating_add(region.meta.size()));
        format!("GuestMemory({} regions, {})", memory.regions().len(), text::size(size))
    }

    #[allow(clippy::unused_self, reason = "a method for pickle")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err("cannot pickle GuestMemory: it is a handle on this process's mappings"))
    }
}

fn guarded_view(region: &crate::model::region::SharedRegion) -> Error {
    Error::Unsupported {
        message: format!(
            "view of {region}: a touch of this memory may fault and kill the process; read() and write() are safe, unguarded=True takes the risk"
        ),
        feature: "view of guarded memory",
        how: "pass unguarded=True".into(),
        region: Some(Arc::clone(region)),
    }
}
