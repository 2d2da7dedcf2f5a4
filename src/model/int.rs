//! Lengths in memory and 64-bit numbers, the same on every host that this builds for; and sums of indexes.

/// A length as a 64-bit number.
#[inline]
#[must_use]
pub fn u64_of(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}

/// A 64-bit number as a length.
#[inline]
#[must_use]
pub fn usize_of(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// An index into a slice and a length within it, whose sum no slice is long enough to overflow.
#[inline]
#[must_use]
pub const fn index_sum(index: usize, length: usize) -> usize {
    debug_assert!(index.checked_add(length).is_some());
    index.wrapping_add(length)
}
