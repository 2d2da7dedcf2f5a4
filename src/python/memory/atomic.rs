//! Atomic operations on naturally aligned integers.

use crate::model::quote::quoted;
use std::sync::atomic::Ordering;

use pyo3::prelude::*;

use super::PyMemory;
use crate::memory::access::{Access, Verb};
use crate::memory::atomic::Cell;
use crate::memory::operation::Operation;
use crate::memory::protection::Need;
use crate::model::int::usize_of;
use crate::model::invalid::Invalid;
use crate::python::argument::Argument;
use crate::python::convert::{self, Address, Size, narrow};

/// The orders that an operation can have, by name.
type Orders = [(&'static str, Ordering)];

const LOADS: &Orders = &[("relaxed", Ordering::Relaxed), ("acquire", Ordering::Acquire), ("seq_cst", Ordering::SeqCst)];
const STORES: &Orders =
    &[("relaxed", Ordering::Relaxed), ("release", Ordering::Release), ("seq_cst", Ordering::SeqCst)];
const CHANGES: &Orders = &[
    ("relaxed", Ordering::Relaxed),
    ("acquire", Ordering::Acquire),
    ("release", Ordering::Release),
    ("acq_rel", Ordering::AcqRel),
    ("seq_cst", Ordering::SeqCst),
];

/// An `Ordering` from its name, if the operation can have it.
fn ordering(name: &str, allowed: &Orders) -> PyResult<Ordering> {
    allowed.iter().find(|(known, _)| *known == name).map(|(_, ordering)| *ordering).ok_or_else(|| {
        let known: Vec<&str> = allowed.iter().map(|(known, _)| *known).collect();
        let message = format!(
            "order={name} is not an order of this access: use one of {}",
            known.join(", "),
            name = quoted(name)
        );
        Invalid::argument(message).into()
    })
}

/// An integer of `size` bytes.
pub(super) fn operand(value: &Bound<'_, PyAny>, size: Size, name: &str) -> PyResult<u64> {
    let value = value.as_borrowed();
    let operand = || {
        Ok(match size.0 {
            1 => narrow::<u8>(value)?.into(),
            2 => narrow::<u16>(value)?.into(),
            4 => narrow::<u32>(value)?.into(),
            _ => narrow::<u64>(value)?,
        })
    };
    operand().argument(name)
}

impl PyMemory {
    fn atomic(
        &self,
        verb: &'static str,
        need: Need,
        (addr, size): (Address, Size),
        operation: Operation,
        order: Ordering,
    ) -> PyResult<u64> {
        let range = convert::range(addr, size)?;
        let verb = Verb::new(verb, need);
        self.short(|map, memory| Cell::new(&Access { map, memory, verb, range })?.apply(operation, order))
    }
}

#[pymethods]
impl PyMemory {
    /// Loads a naturally aligned little-endian integer of 1, 2, 4 or 8 bytes atomically.
    ///
    /// `order`: `"relaxed"`, `"acquire"` or `"seq_cst"`. Raises `Misaligned`, `Unsupported` on guarded memory, else as `read` does.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> space.map_memory().load(8)
    /// 0
    #[pyo3(signature = (addr, size=Size(8), *, order="acquire"), text_signature = "($self, addr, size=8, *, order='acquire')")]
    fn load(&self, addr: Address, size: Size, order: &str) -> PyResult<u64> {
        let order = ordering(order, LOADS)?;
        match self.short(|_, memory| Ok(memory.load_direct(addr.0, usize_of(size.0), order)))? {
            Some(value) => Ok(value),
            None => self.atomic("load", Need::Read, (addr, size), Operation::Load, order),
        }
    }

    /// Stores a naturally aligned little-endian integer of 1, 2, 4 or 8 bytes atomically.
    ///
    /// `order`: `"relaxed"`, `"release"` or `"seq_cst"`. Raises `Misaligned`, `Unsupported` on guarded memory, else as `write` does.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> space.map_memory().store(8, 1)
    #[pyo3(signature = (addr, value, size=Size(8), *, order="release"), text_signature = "($self, addr, value, size=8, *, order='release')")]
    fn store(&self, addr: Address, value: &Bound<'_, PyAny>, size: Size, order: &str) -> PyResult<()> {
        let order = ordering(order, STORES)?;
        let value = operand(value, size, "value")?;
        if self.short(|_, memory| Ok(memory.store_direct(addr.0, usize_of(size.0), value, order)))? {
            return Ok(());
        }
        self.atomic("store", Need::Write, (addr, size), Operation::Store(value), order).map(drop)
    }

    /// Writes `new` if `expected` is there, atomically; returns what was there, so the write was done when that is `expected`.
    ///
    /// Operands and errors as for `swap`. When it fails, the order is that of its load.
    ///
    /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    /// >>> memory = space.map_memory()
    /// >>> memory.compare_exchange(8, 0, 5), memory.compare_exchange(8, 0, 6)
    /// (0, 5)
    #[pyo3(signature = (addr, expected, new, size=Size(8), *, order="seq_cst"), text_signature = "($self, addr, expected, new, size=8, *, order='seq_cst')")]
    fn compare_exchange(
        &self,
        addr: Address,
        expected: &Bound<'_, PyAny>,
        new: &Bound<'_, PyAny>,
        size: Size,
        order: &str,
    ) -> PyResult<u64> {
        let order = ordering(order, CHANGES)?;
        let operation = Operation::CompareExchange(operand(expected, size, "expected")?, operand(new, size, "new")?);
        self.atomic("compare_exchange", Need::ReadWrite, (addr, size), operation, order)
    }
}

macro_rules! change {
    ($name:ident, $operation:ident, $does:literal, $after:literal) => {
        #[pymethods]
        impl PyMemory {
            #[doc = concat!($does, " atomically, and returns what was there.")]
            ///
            /// The integer is little-endian, has 1, 2, 4 or 8 bytes and is naturally aligned. `order`: `"relaxed"`, `"acquire"`,
            /// `"release"`, `"acq_rel"` or `"seq_cst"`. Raises `Misaligned`, `Unsupported` on guarded memory, `InvalidAddressRange` for
            /// a value that does not fit, else as `write` does.
            ///
            /// >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
            /// >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
            /// >>> memory = space.map_memory()
            /// >>> memory.write_u8(3, 0b1100)
            #[doc = concat!(">>> memory.", stringify!($name), "(3, 0b1010, 1), memory.read_u8(3)")]
            #[doc = concat!("(12, ", $after, ")")]
            #[pyo3(signature = (addr, value, size=Size(8), *, order="seq_cst"), text_signature = "($self, addr, value, size=8, *, order='seq_cst')")]
            fn $name(&self, addr: Address, value: &Bound<'_, PyAny>, size: Size, order: &str) -> PyResult<u64> {
                let order = ordering(order, CHANGES)?;
                let operation = Operation::$operation(operand(value, size, "value")?);
                self.atomic(stringify!($name), Need::ReadWrite, (addr, size), operation, order)
            }
        }
    };
}

change!(swap, Swap, "Writes `value`", "10");
change!(fetch_add, Add, "Adds `value`, wrapping,", "22");
change!(fetch_sub, Subtract, "Subtracts `value`, wrapping,", "2");
change!(fetch_and, And, "Does a bitwise and with `value`", "8");
change!(fetch_or, Or, "Does a bitwise or with `value`", "14");
change!(fetch_xor, Xor, "Does a bitwise exclusive or with `value`", "6");
