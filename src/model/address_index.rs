//! Sorted start addresses, and a fast way to find the last one that is not above an address.

use super::int::{index_sum, u64_of, usize_of};

/// The starts of regions, with an index that narrows a search to the few that lie near.
///
/// The index cuts the range of the starts into equal parts, about as many as there are starts, and knows how many lie before each.
#[derive(Debug)]
pub struct AddressIndex {
    sorted: Box<[u64]>,
    /// The first start: parts are counted from there, so that memory far up has as many as memory at 0.
    first: u64,
    /// The size of a part as a power of two.
    shift: u32,
    /// How many starts lie before each part; half as wide as an index, for a look-up reads it from the cache or waits.
    before: Box<[u32]>,
}

impl Default for AddressIndex {
    fn default() -> Self {
        Self::new(Box::new([]))
    }
}

impl AddressIndex {
    /// An index of starts in ascending order.
    #[must_use]
    pub fn new(sorted: Box<[u64]>) -> Self {
        let first = sorted.first().copied().unwrap_or_default();
        let span = sorted.last().map_or(0, |last| last.abs_diff(first));
        // The smallest shift that leaves no more parts than starts, rounded up to a power of two.
        let parts_wanted = u64_of(sorted.len()).next_power_of_two();
        let shift = (0..u64::BITS).find(|shift| span >> shift < parts_wanted).unwrap_or_default();
        let before = counts(&sorted, first, shift, span >> shift);
        Self { sorted, first, shift, before }
    }

    /// All starts in ascending order.
    #[must_use]
    pub fn sorted(&self) -> &[u64] {
        &self.sorted
    }

    /// The start at an index.
    #[inline]
    #[must_use]
    pub fn get(&self, index: usize) -> Option<u64> {
        self.sorted.get(index).copied()
    }

    /// The number of starts that are not above `addr`.
    #[inline]
    #[must_use]
    pub fn upper_bound(&self, addr: u64) -> usize {
        let Some(offset) = addr.checked_sub(self.first) else { return 0 };
        let part = usize_of(offset >> self.shift);
        let bounds = self.before.get(part).zip(part.checked_add(1).and_then(|next| self.before.get(next)));
        // Behind the last part there are no starts.
        let Some((from, to)) = bounds else { return self.sorted.len() };
        let (from, to) = (index(*from), index(*to));
        let near = self.sorted.get(from..to).unwrap_or_default();
        index_sum(from, near.partition_point(|start| *start <= addr))
    }

    /// The number of starts that are below `addr`.
    #[must_use]
    pub fn lower_bound(&self, addr: u64) -> usize {
        self.sorted.partition_point(|start| *start < addr)
    }
}

/// How many starts lie before each part, and before the end of the last one. Two plain loops: they run for every change of a map.
fn counts(sorted: &[u64], first: u64, shift: u32, last_part: u64) -> Box<[u32]> {
    let mut counts = vec![0_u32; index_sum(usize_of(last_part), 2)].into_boxed_slice();
    for start in sorted {
        let part = usize_of(start.abs_diff(first) >> shift);
        if let Some(count) = counts.get_mut(index_sum(part, 1)) {
            *count = count.saturating_add(1);
        }
    }
    counts.iter_mut().fold(0_u32, |before, count| {
        *count = count.saturating_add(before);
        *count
    });
    counts
}

#[inline]
fn index(count: u32) -> usize {
    usize_of(count.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_finds_what_a_plain_search_finds() {
        let far = [0u64, 1, 2, 3, 1 << 40, (1 << 40) + 1, u64::MAX - 1];
        let even: Vec<u64> = (1..1000).map(|index| index * 0x1_0000).collect();
        let clustered: Vec<u64> = (0..100).chain((0..100).map(|index| (1 << 45) + index * 0x1000)).collect();
        for sorted in [&[] as &[u64], &[0], &[5], &far, &even, &clustered] {
            let starts = AddressIndex::new(sorted.into());
            let near = sorted.iter().flat_map(|start| [start.saturating_sub(1), *start, start.saturating_add(1)]);
            for addr in near.chain([0, 7, 1 << 63, u64::MAX]) {
                assert_eq!(starts.upper_bound(addr), sorted.partition_point(|start| *start <= addr), "{addr:#x}");
                assert_eq!(starts.lower_bound(addr), sorted.partition_point(|start| *start < addr), "{addr:#x}");
            }
        }
    }
}
