//! The operations on an integer in directly touched memory that nobody sees half done.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Does one operation and returns the value before it.
///
/// # Safety
/// `host` is valid for reading, and unless it is a load for writing, `size` bytes; they are only touched by copies and atomics. It is 1, 2, 4 or
/// 8, and `host` a multiple of it.
#[inline]
pub(super) unsafe fn apply(host: *mut u8, size: u64, operation: Operation, order: Ordering) -> u64 {
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
