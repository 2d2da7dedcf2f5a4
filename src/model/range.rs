//! A checked, half-open range of guest physical addresses.

use super::format::hex;
use super::invalid::Invalid;

/// The addresses `[base, base + size)`; its end is at most `2^64 - 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Range {
    base: u64,
    /// Never below `base`: every constructor sees to it, and all arithmetic here relies on it.
    end: u64,
}

impl Range {
    /// A range that may be empty.
    pub fn new(base: u64, size: u64) -> Result<Self, Invalid> {
        match base.checked_add(size) {
            Some(end) => Ok(Self { base, end }),
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
        Self { base, end: if end > base { end } else { base } }
    }

    /// The `size` bytes from `base` on, as far as there are addresses.
    #[must_use]
    pub const fn at(base: u64, size: u64) -> Self {
        Self { base, end: base.saturating_add(size) }
    }

    /// The first address.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// The number of bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.end.abs_diff(self.base)
    }

    /// The exclusive end.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// The address before the end, or 0 where there is none: the empty range at 0.
    #[must_use]
    pub const fn last_addr(&self) -> u64 {
        self.end.saturating_sub(1)
    }

    /// Whether the range has no addresses.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.base == self.end
    }

    /// Whether `addr` lies inside.
    #[must_use]
    pub const fn contains(&self, addr: u64) -> bool {
        addr >= self.base && addr < self.end
    }

    /// How far behind the base an address inside lies; `None` for one outside.
    #[must_use]
    pub const fn offset_of(&self, addr: u64) -> Option<u64> {
        if self.contains(addr) { addr.checked_sub(self.base) } else { None }
    }

    /// Whether all of `other` lies inside.
    #[must_use]
    pub const fn covers(&self, other: &Self) -> bool {
        other.base >= self.base && other.end <= self.end
    }

    /// Whether the two share an address.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        !self.intersection(other).is_empty()
    }

    /// The addresses that are in both; empty when there are none.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self::between(self.base.max(other.base), self.end.min(other.end))
    }

    /// The first `size` bytes, or all when there are not as many.
    #[must_use]
    pub fn take(&self, size: u64) -> Self {
        // The end cuts the sum in any case, so that saturating changes nothing.
        Self { base: self.base, end: self.base.saturating_add(size).min(self.end) }
    }

    /// The last `size` bytes, or all when there are not as many.
    #[must_use]
    pub fn last(&self, size: u64) -> Self {
        Self { base: self.end.saturating_sub(size).max(self.base), end: self.end }
    }

    /// All but the first `size` bytes; empty when there are not as many.
    #[must_use]
    pub fn skip(&self, size: u64) -> Self {
        Self { base: self.base.saturating_add(size).min(self.end), end: self.end }
    }

    /// With `gap` bytes more on both sides, as far as there are addresses.
    #[must_use]
    pub const fn widened(&self, gap: u64) -> Self {
        Self { base: self.base.saturating_sub(gap), end: self.end.saturating_add(gap) }
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "[{}, {})", hex(self.base), hex(self.end))
    }
}

/// Ranges by ascending base joined where they touch or overlap.
pub fn joined(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.dedup_by(|range, last| {
        let touches = last.end >= range.base;
        if touches {
            last.end = last.end.max(range.end);
        }
        touches
    });
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Range> {
        (0..6).flat_map(|base| (base..6).map(move |end| Range::between(base, end)))
    }

    #[test]
    fn a_range_may_end_at_the_last_address_and_not_beyond() {
        assert_eq!(Range::new(u64::MAX - 1, 1).unwrap().end(), u64::MAX);
        assert!(Range::new(u64::MAX, 1).is_err());
        assert!(Range::new(1, u64::MAX).is_err());
        assert_eq!(Range::between(5, 3), Range::new(5, 0).unwrap());
    }

    #[test]
    fn touching_ranges_do_not_overlap() {
        let (low, high) = (Range::new(0, 0x1000).unwrap(), Range::new(0x1000, 0x1000).unwrap());
        assert!(!low.overlaps(&high) && !high.overlaps(&low));
        assert!(low.overlaps(&Range::new(0xfff, 1).unwrap()));
        assert!(!low.overlaps(&Range::new(0x10, 0).unwrap()));
        assert_eq!(joined(vec![low, high]), vec![Range::new(0, 0x2000).unwrap()]);
    }

    #[test]
    fn a_range_is_its_addresses() {
        for range in all() {
            let inside: Vec<u64> = (0..8).filter(|addr| range.contains(*addr)).collect();
            assert_eq!(inside.len() as u64, range.size());
            assert_eq!(range.is_empty(), inside.is_empty());
            assert_eq!(range.last_addr(), inside.last().copied().unwrap_or(range.base().saturating_sub(1)));
            for addr in 0..8 {
                let position = inside.iter().position(|inside| *inside == addr);
                assert_eq!(range.offset_of(addr), position.map(|position| position as u64), "{addr} in {range}");
            }
        }
    }

    #[test]
    fn two_ranges_share_the_addresses_that_both_contain() {
        for (one, two) in all().flat_map(|one| all().map(move |two| (one, two))) {
            let shared = (0..8).filter(|addr| one.contains(*addr) && two.contains(*addr)).count();
            assert_eq!(one.intersection(&two).size(), shared as u64, "{one} {two}");
            assert_eq!(one.overlaps(&two), shared > 0, "{one} {two}");
            if !two.is_empty() {
                assert_eq!(one.covers(&two), shared as u64 == two.size(), "{one} {two}");
            }
        }
    }

    #[test]
    fn a_range_is_what_is_taken_and_what_is_skipped() {
        for range in all().chain([Range::between(u64::MAX - 3, u64::MAX)]) {
            for size in [0, 1, 2, 3, 9, u64::MAX] {
                let (taken, left) = (range.take(size), range.skip(size));
                assert_eq!((taken.base(), taken.end(), left.end()), (range.base(), left.base(), range.end()));
                assert_eq!(taken.size(), size.min(range.size()), "{range} {size}");
                assert_eq!(range.last(left.size()), left, "{range} {size}");
            }
        }
    }

    #[test]
    fn a_gap_ends_where_the_addresses_end() {
        assert_eq!(Range::between(2, u64::MAX - 2).widened(1), Range::between(1, u64::MAX - 1));
        assert_eq!(Range::between(2, u64::MAX - 2).widened(5), Range::between(0, u64::MAX));
        assert_eq!(Range::at(u64::MAX - 2, 2), Range::between(u64::MAX - 2, u64::MAX));
        assert_eq!(Range::at(u64::MAX - 2, 5), Range::between(u64::MAX - 2, u64::MAX));
    }

    #[test]
    fn joined_ranges_have_the_same_addresses_and_do_not_touch() {
        for (one, two) in all().flat_map(|one| all().map(move |two| (one, two))).filter(|(one, two)| one <= two) {
            let both = joined(vec![one, two]);
            for addr in 0..8 {
                let expected = one.contains(addr) || two.contains(addr);
                assert_eq!(both.iter().any(|range| range.contains(addr)), expected, "{addr} in {one} {two}");
            }
            assert!(both.len() == 1 || one.end() < two.base(), "{one} {two}");
        }
    }
}
