//! The way back from host addresses to the regions that show them.

#![allow(clippy::disallowed_methods, reason = "as many as there are regions")]

use crate::model::range::Range;

/// The regions of a map by host address. Several may show the same bytes.
#[derive(Debug)]
pub(super) struct HostIndex(Box<[HostRange]>);

#[derive(Debug)]
struct HostRange {
    hosts: Range,
    /// Where the last of this and all before it ends.
    furthest: u64,
    index: usize,
}

impl HostIndex {
    /// The host addresses of each region, by its index.
    pub(super) fn new(hosts: impl Iterator<Item = Range>) -> Self {
        let ranges = hosts.enumerate().map(|(index, hosts)| HostRange { hosts, furthest: 0, index });
        let mut ranges: Vec<HostRange> = ranges.collect();
        ranges.sort_unstable_by_key(|range| range.hosts.base());
        let mut furthest = 0;
        for range in &mut ranges {
            furthest = range.hosts.end().max(furthest);
            range.furthest = furthest;
        }
        Self(ranges.into())
    }

    /// The indexes of the regions that show a host address, and its offset in each.
    pub(super) fn at(&self, host: u64) -> impl Iterator<Item = (usize, u64)> {
        let begun = self.0.partition_point(|range| range.hosts.base() <= host);
        let begun = self.0.get(..begun).unwrap_or_default().iter().rev();
        let near = begun.take_while(move |range| range.furthest > host);
        near.filter_map(move |range| Some((range.index, range.hosts.offset_of(host)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_show_a_byte_are_found() {
        let hosts = [(0x5000, 0x3000), (0x1000, 0x8000), (0x2000, 0x1000), (0xa000, 0x1000), (0x5000, 0x1000)];
        let ranges = hosts.map(|(base, size)| Range::at(base, size));
        let index = HostIndex::new(ranges.into_iter());
        for host in (0..0xc000).step_by(0x800) {
            let mut found: Vec<_> = index.at(host).collect();
            found.sort_unstable();
            let shows = |(at, range): (usize, &Range)| range.contains(host).then(|| (at, host - range.base()));
            assert_eq!(found, ranges.iter().enumerate().filter_map(shows).collect::<Vec<_>>(), "{host:#x}");
        }
    }
}
