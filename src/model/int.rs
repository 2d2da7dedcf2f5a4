//! Lengths in memory and 64-bit numbers: the same numbers, since `lib.rs` builds for 64-bit hosts only.

/// A length as a 64-bit number.
#[inline]
#[must_use]
pub const fn u64_of(size: usize) -> u64 {
    size as u64
}

/// A 64-bit number as a length.
#[inline]
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "a usize has 64 bits")]
pub const fn usize_of(size: u64) -> usize {
    size as usize
}
