//! Atomic operations on naturally aligned integers in memory that can't fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::access::{Access, Shape};
use super::section::Section;
use crate::model::error::{Error, Result};
use crate::model::format::hex;
use crate::model::invalid::Invalid;
use crate::model::region::{PROT_READ, PROT_WRITE};

/// A place of 1, 2, 4 or 8 bytes that an atomic operation may use for as long as the snapshot is held.
#[derive(Debug)]
pub struct Cell<'a> {
    verb: &'static str,
    section: Section<'a>,
}

impl<'a> Cell<'a> {
    /// The place, or why it can't be used atomically.
    pub fn new(access: &Access<'a>) -> Result<Self> {
        let (name, range) = (access.verb.name, access.range);
        let (address, size) = (range.base(), range.size());
        if ![1, 2, 4, 8].contains(&size) {
            let message = format!("{name} of {size} bytes: an atomic access has 1, 2, 4 or 8");
            return Err(Invalid::at(message, Some(address), Some(size)).into());
        }
        if !address.is_multiple_of(size) {
            let message = format!(
                "{name} of {size} bytes at {}: an atomic access needs an address that is a multiple of its size",
                hex(address)
            );
            return Err(Error::Misaligned { message, address: Some(address), size: Some(size), region: None });
        }
        let single = Access { verb: access.verb.shaped(Shape::Single), ..*access };
        let section = single.sections()?.pop().ok_or_else(|| access.unmapped(address))?;
        Ok(Self { verb: name, section })
    }

    /// A place that an atomic operation may use if its memory can't fault.
    pub(super) const fn of(section: Section<'a>) -> Self {
        Self { verb: "load", section }
    }

    /// The place in its region.
    pub(super) const fn section(&self) -> &Section<'a> {
        &self.section
    }

    /// Does one operation and returns the value before it.
    ///
    /// Values are the low bytes, little-endian. The order of a compare-exchange that fails is that of its load.
    pub fn apply(&self, operation: Operation, order: Ordering) -> Result<u64> {
        let bits = if operation == Operation::Load { PROT_READ } else { PROT_WRITE };
        // The path is held across the operation, for it may be the permit.
        let (path, host) = (self.section.path(bits), self.section.host());
        if !path.is_direct() {
            return Err(self.guarded());
        }
        // SAFETY: inside a mapping that can't fault meanwhile and is only touched by copies and atomics. As many bytes as `new` lets
        // pass, naturally aligned: a region that is touched directly begins with a page on both sides.
        let old = unsafe { apply(host, self.section.size(), operation, order) };
        if operation != Operation::Load {
            self.section.mark_dirty();
        }
        Ok(old)
    }

    /// The value, unless the memory may fault.
    pub(super) fn loaded(&self) -> Option<u64> {
        // As in `apply`.
        let (path, host) = (self.section.path(PROT_READ), self.section.host());
        // SAFETY: as there.
        path.is_direct().then(|| unsafe { apply(host, self.section.size(), Operation::Load, Ordering::Acquire) })
    }

    fn guarded(&self) -> Error {
        let (address, region) = (hex(self.section.address()), self.section.region().desc());
        Error::Unsupported {
            message: format!(
                "{} at {address}: {region} may fault, and atomics have no guarded form; use read_u* and write_u*",
                self.verb
            ),
            feature: "atomic access to guarded memory",
            how: "use read_u8..read_u64 and write_u8..write_u64".into(),
            region: Some(Arc::clone(region)),
        }
    }
}

/// # Safety
/// `host` is naturally aligned for 1, 2, 4 or 8 bytes that can't fault and are only touched by copies and atomics.
unsafe fn apply(host: *mut u8, size: u64, operation: Operation, order: Ordering) -> u64 {
    // SAFETY: the caller's promise.
    unsafe {
        match size {
            1 => u64::from(AtomicU8::from_ptr(host).apply(operation, order)),
            2 => u64::from(AtomicU16::from_ptr(host.cast()).apply(operation, order)),
            4 => u64::from(AtomicU32::from_ptr(host.cast()).apply(operation, order)),
            _ => AtomicU64::from_ptr(host.cast()).apply(operation, order),
        }
    }
}

/// An operation on an integer that nobody sees half done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Read it.
    Load,
    /// Write it, and forget what was there.
    Store(u64),
    /// Write it.
    Swap(u64),
    /// Add, wrapping.
    Add(u64),
    /// Subtract, wrapping.
    Subtract(u64),
    /// Bitwise and.
    And(u64),
    /// Bitwise or.
    Or(u64),
    /// Bitwise exclusive or.
    Xor(u64),
    /// Write the second if the first is there.
    CompareExchange(u64, u64),
}

/// An atomic integer of some width.
trait Integer {
    /// The integer.
    type Value: Into<u64>;
    fn apply(&self, operation: Operation, order: Ordering) -> Self::Value;
}

macro_rules! integer {
    ($($atomic:ty: $value:ty),*) => {$(
        impl Integer for $atomic {
            type Value = $value;

            #[inline]
            fn apply(&self, operation: Operation, order: Ordering) -> $value {
                #[allow(clippy::cast_possible_truncation, reason = "the low bytes are what is meant")]
                let low = |value: u64| value as $value;
                match operation {
                    Operation::Load => self.load(order),
                    Operation::Store(value) => {
                        self.store(low(value), order);
                        0
                    }
                    Operation::Swap(value) => self.swap(low(value), order),
                    Operation::Add(value) => self.fetch_add(low(value), order),
                    Operation::Subtract(value) => self.fetch_sub(low(value), order),
                    Operation::And(value) => self.fetch_and(low(value), order),
                    Operation::Or(value) => self.fetch_or(low(value), order),
                    Operation::Xor(value) => self.fetch_xor(low(value), order),
                    // Failing, it is a load alone: an order that releases would make it panic.
                    Operation::CompareExchange(expected, new) => self
                        .compare_exchange(low(expected), low(new), order, load_part(order))
                        .unwrap_or_else(|actual| actual),
                }
            }
        }
    )*};
}

integer!(AtomicU8: u8, AtomicU16: u16, AtomicU32: u32, AtomicU64: u64);

/// The part of an order that a load has.
const fn load_part(order: Ordering) -> Ordering {
    match order {
        Ordering::Release => Ordering::Relaxed,
        Ordering::AcqRel => Ordering::Acquire,
        other => other,
    }
}
