//! Many addresses at once.

use super::buffer::{Bytes, Output};
use super::map::{MappedMap, u64_of};
use super::mapping::usize_of;
use crate::model::error::Result;
use crate::model::map::upper_bound;

/// What look-ups need, apart from the map, so that they can go on without holding it.
#[derive(Debug)]
pub struct Translator {
    starts: Box<[u64]>,
    buckets: Buckets,
    /// Sizes and host addresses of the regions.
    regions: Box<[(u64, u64)]>,
}

/// The index of a region and the host address of a byte in it.
pub type Place = (u64, i64);

impl Translator {
    /// The regions of a map by ascending base.
    #[must_use]
    pub fn new(memory: &MappedMap) -> Self {
        let regions = memory.regions();
        let starts: Box<[u64]> = regions.iter().map(|region| region.meta.base()).collect();
        Self {
            buckets: Buckets::new(&starts),
            starts,
            regions: regions
                .iter()
                .map(|region| (region.meta.size(), region.mapping.host(0).addr().try_into().unwrap_or_default()))
                .collect(),
        }
    }

    /// The place of `address`; `hint` is the index that the last look-up ended with, which sorted addresses meet again.
    #[inline]
    fn place(&self, address: u64, hint: &mut usize) -> Option<Place> {
        if let Some(place) = self.place_in(address, *hint) {
            return Some(place);
        }
        *hint = self.buckets.upper_bound(&self.starts, address).checked_sub(1)?;
        self.place_in(address, *hint)
    }

    #[inline]
    fn place_in(&self, address: u64, index: usize) -> Option<Place> {
        let offset = address.checked_sub(*self.starts.get(index)?)?;
        let (size, host) = self.regions.get(index)?;
        if offset >= *size {
            return None;
        }
        Some((host.saturating_add(offset), i64::try_from(index).unwrap_or(i64::MAX)))
    }

    /// Writes the host address and the region's index of each address; where there is no memory, `(0, -1)`.
    ///
    /// Returns the first address without memory, at which it stops when `must_exist`.
    pub fn translate(
        &self,
        addresses: Bytes<'_>,
        hosts: &Output<'_>,
        indexes: &Output<'_>,
        must_exist: bool,
    ) -> Result<Option<u64>> {
        let mut hint = 0;
        let mut missing = None;
        for at in (0..addresses.size()).step_by(size_of::<u64>()) {
            let address = addresses.integer(at)?;
            let place = self.place(address, &mut hint);
            if place.is_none() && missing.is_none() {
                missing = Some(address);
                if must_exist {
                    break;
                }
            }
            let (host, index) = place.unwrap_or((0, -1));
            hosts.put(at, &host.to_ne_bytes())?;
            indexes.put(at, &index.to_ne_bytes())?;
        }
        Ok(missing)
    }
}

/// Narrows a search in sorted numbers: which of them lie in each of many equal parts of their range.
#[derive(Debug)]
struct Buckets {
    first: u64,
    shift: u32,
    /// How many of the numbers lie before each part.
    before: Box<[usize]>,
}

impl Buckets {
    /// About as many parts as there are numbers.
    fn new(sorted: &[u64]) -> Self {
        let first = sorted.first().copied().unwrap_or_default();
        let span = sorted.last().map_or(0, |last| last.saturating_sub(first));
        let wanted = u64_of(sorted.len()).next_power_of_two();
        let shift = span.checked_div(wanted).unwrap_or_default().checked_ilog2().map_or(0, |log| log.saturating_add(1));
        let parts = (span >> shift).saturating_add(2);
        let before =
            (0..parts).map(|part| sorted.partition_point(|number| (number.saturating_sub(first) >> shift) < part));
        Self { first, shift, before: before.collect() }
    }

    /// The number of `sorted`'s numbers that are not above `value`.
    #[inline]
    fn upper_bound(&self, sorted: &[u64], value: u64) -> usize {
        let Some(offset) = value.checked_sub(self.first) else { return 0 };
        let part = usize_of(offset >> self.shift);
        let bounds = self.before.get(part).zip(part.checked_add(1).and_then(|next| self.before.get(next)));
        match bounds {
            Some((from, to)) => sorted.get(*from..*to).map_or(0, |part| upper_bound(part, value)).saturating_add(*from),
            None => sorted.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_find_what_a_plain_search_finds() {
        let far = [0u64, 1, 2, 3, 1 << 40, (1 << 40) + 1, u64::MAX - 1];
        let even: Vec<u64> = (0..1000).map(|index| index * 0x1_0000).collect();
        for sorted in [&[] as &[u64], &[5], &far, &even] {
            let buckets = Buckets::new(sorted);
            for value in sorted
                .iter()
                .flat_map(|number| [number.saturating_sub(1), *number, number.saturating_add(1)])
                .chain([0, 7, u64::MAX])
            {
                assert_eq!(buckets.upper_bound(sorted, value), upper_bound(sorted, value), "{value:#x}");
            }
        }
    }
}
