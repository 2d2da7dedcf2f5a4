//! Lengths in memory and 64-bit numbers: the same on every host that this builds for.

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
