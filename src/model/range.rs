//! A checked, half-open range of guest physical addresses.

use super::format::hex;
use super::invalid::Invalid;

/// The addresses `[base, base + size)`; its end is at most `2^64 - 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Range {
    base: u64,
    size: u64,
}

impl Range {
    /// A range that may be empty.
    pub fn new(base: u64, size: u64) -> Result<Self, Invalid> {
        match base.checked_add(size) {
            Some(_) => Ok(Self { base, size }),
            None => Err(Invalid::at(
                format!(
                    "the range of {} bytes at {} ends past 2^64 - 1, the highest end that is allowed",
                    hex(size),
                    hex(base)
                ),
                Some(base),
                Some(size),
            )),
        }
    }

    /// The range between two addresses; empty when `end` is not above `base`.
    #[must_use]
    pub const fn between(base: u64, end: u64) -> Self {
        Self { base, size: end.saturating_sub(base) }
    }

    /// The first address.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// The number of bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The exclusive end.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.base.saturating_add(self.size)
    }

    /// The address before the end, or 0 where there is none: the empty range at 0.
    #[must_use]
    pub const fn last_addr(&self) -> u64 {
        self.end().saturating_sub(1)
    }

    /// Whether the range has no addresses.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Whether `addr` lies inside.
    #[must_use]
    pub const fn contains(&self, addr: u64) -> bool {
        addr >= self.base && addr < self.end()
    }

    /// Whether all of `other` lies inside.
    #[must_use]
    pub const fn covers(&self, other: &Self) -> bool {
        other.base >= self.base && other.end() <= self.end()
    }

    /// Whether the two share an address.
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.base < other.end() && other.base < self.end() && self.size > 0 && other.size > 0
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "[{}, {})", hex(self.base), hex(self.end()))
    }
}

/// The sorted ranges joined where they touch.
pub fn joined(ranges: impl IntoIterator<Item = Range>) -> Vec<Range> {
    let mut result: Vec<Range> = Vec::new();
    for range in ranges {
        match result.last_mut() {
            Some(last) if last.end() == range.base => *last = Range::between(last.base, range.end()),
            _ => result.push(range),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_may_end_at_the_last_address_and_not_beyond() {
        assert_eq!(Range::new(u64::MAX - 1, 1).unwrap().end(), u64::MAX);
        assert!(Range::new(u64::MAX, 1).is_err());
        assert!(Range::new(1, u64::MAX).is_err());
    }

    #[test]
    fn the_last_address_lies_before_the_end() {
        for (base, size, last) in [(0x1000, 0x1000, 0x1fff), (5, 0, 4), (0, 0, 0)] {
            assert_eq!(Range::new(base, size).unwrap().last_addr(), last);
        }
    }

    #[test]
    fn touching_ranges_do_not_overlap() {
        let (low, high) = (Range::new(0, 0x1000).unwrap(), Range::new(0x1000, 0x1000).unwrap());
        assert!(!low.overlaps(&high) && !high.overlaps(&low));
        assert!(low.overlaps(&Range::new(0xfff, 1).unwrap()));
        assert!(!low.overlaps(&Range::new(0x10, 0).unwrap()));
        assert_eq!(joined([low, high]), vec![Range::new(0, 0x2000).unwrap()]);
    }
}
