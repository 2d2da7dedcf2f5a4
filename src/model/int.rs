//! Lengths in memory and 64-bit numbers: the same numbers, since `lib.rs` builds for 64-bit hosts only; and sums of indexes.

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

/// An index into a slice and a length within it, whose sum no slice is long enough to overflow.
#[inline]
#[must_use]
pub const fn index_sum(index: usize, length: usize) -> usize {
    debug_assert!(index.checked_add(length).is_some());
    index.wrapping_add(length)
}
