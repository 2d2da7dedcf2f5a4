//! Neighbours that a picture or table shows as one row, when there are more regions than rows.

use std::collections::HashSet;
use std::ops;

use super::pieces::Sublist;
use super::region::{Region, RegionType};
use super::region_map::RegionEntry;

/// The smallest run that folds while the looks are exact: fewer rows than that would not relieve anyone.
const LEAST: usize = 4;
/// Gaps up to this many bytes never part a run, however small its regions are.
const SMALL_GAP: u64 = 1 << 20;

/// The regions of one row, by index.
type Group = ops::Range<usize>;

/// The likeness of regions in one row; the coarser, the less is asked for.
#[derive(Clone, Copy)]
enum Look {
    Exact,
    TypeAndHotplug,
    Type,
}

#[derive(PartialEq)]
struct Seen {
    region_type: RegionType,
    is_hotplug: Option<bool>,
    memory: Option<(i32, &'static str, Option<u64>, Option<u32>)>,
}

impl Look {
    fn of(self, region: &Region) -> Seen {
        let memory = (region.prot_flags, region.backing_word(), region.options.page_size, region.host_numa_node_id);
        Seen {
            region_type: region.region_type,
            is_hotplug: (!matches!(self, Self::Type)).then_some(region.is_hotplug),
            memory: matches!(self, Self::Exact).then_some(memory),
        }
    }
}

/// At most `limit` groups, in order: whole runs of one look first, of coarser looks then, at last the nearest neighbours.
///
/// Nothing folds across an edge, such as the end of a window, so that there may be more. `edges` are in ascending order.
pub fn folded(regions: Sublist<'_, RegionEntry>, limit: usize, edges: &[u64]) -> Vec<Group> {
    let neighbours = Neighbours { regions, edges };
    let mut groups: Vec<Group> = (0..regions.len()).map(|index| index..index.saturating_add(1)).collect();
    for (look, least) in [(Look::Exact, LEAST), (Look::TypeAndHotplug, 2), (Look::Type, 2)] {
        if groups.len() > limit {
            groups = neighbours.runs(&groups, look, least);
        }
    }
    neighbours.nearest_joined(groups, limit)
}

struct Neighbours<'a> {
    regions: Sublist<'a, RegionEntry>,
    edges: &'a [u64],
}

impl Neighbours<'_> {
    /// The last region of one group and the first of the next.
    fn between(&self, low: &Group, high: &Group) -> Option<(&RegionEntry, &RegionEntry)> {
        Some((self.regions.sublist(low.clone()).last()?, self.regions.sublist(high.clone()).first()?))
    }

    fn are_parted(&self, low: &Region, high: &Region) -> bool {
        let next = self.edges.partition_point(|edge| *edge < low.end());
        self.edges.get(next).is_some_and(|edge| *edge <= high.base())
    }

    /// All runs, however many are wanted: half a run that is folded looks like a fault.
    fn runs(&self, groups: &[Group], look: Look, least: usize) -> Vec<Group> {
        let goes_on = |low: &Group, high: &Group| {
            self.between(low, high).is_some_and(|(low, high)| {
                let gap = high.base().saturating_sub(low.end());
                look.of(low) == look.of(high)
                    && gap <= SMALL_GAP.max(low.size()).max(high.size())
                    && !self.are_parted(low, high)
            })
        };
        let runs = groups.chunk_by(goes_on);
        runs.flat_map(|run| if run.len() < least { run.to_vec() } else { joined(run) }).collect()
    }

    /// Joins neighbours of one type before others, and those that span the least before wider ones.
    fn nearest_joined(&self, mut groups: Vec<Group>, limit: usize) -> Vec<Group> {
        while groups.len() > limit {
            let pairs = self.nearest_pairs(&groups, groups.len().saturating_sub(limit));
            if pairs.is_empty() {
                break;
            }
            groups = groups.chunk_by(|low, _| pairs.contains(&low.start)).flat_map(joined).collect();
        }
        groups
    }

    /// Up to so many pairs of neighbours, each by the first index of its lower group. No group is in two: all grow alike.
    fn nearest_pairs(&self, groups: &[Group], most: usize) -> HashSet<usize> {
        let neighbours = groups.iter().zip(groups.iter().skip(1));
        let mut joins: Vec<_> = neighbours.filter_map(|(low, high)| self.join(low, high)).collect();
        joins.sort_unstable();
        let (mut pairs, mut taken) = (HashSet::new(), HashSet::new());
        for (.., low, high) in joins {
            if pairs.len() < most && !taken.contains(&low) && !taken.contains(&high) {
                taken.extend([low, high]);
                pairs.insert(low);
            }
        }
        pairs
    }

    /// The cost of joining two groups, and the first index of each; nothing where an edge parts them.
    fn join(&self, low: &Group, high: &Group) -> Option<(bool, u64, usize, usize)> {
        let (last, next) = self.between(low, high)?;
        let (first, end) = (self.regions.get(low.start)?, self.regions.sublist(high.clone()).last()?);
        let cost =
            (last.region_type != next.region_type, end.end().saturating_sub(first.base()), low.start, high.start);
        (!self.are_parted(last, next)).then_some(cost)
    }
}

fn joined(run: &[Group]) -> Vec<Group> {
    let ends = run.first().zip(run.last());
    ends.map(|(first, last)| first.start..last.end).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::pieces::Pieces;
    use crate::model::range::Range;
    use crate::model::source::Source;

    const PAGE: u64 = 0x1000;

    fn region(region_type: RegionType, page: u64) -> RegionEntry {
        let range = Range::new(page << 12, PAGE).unwrap();
        RegionEntry::new(Arc::new(Region::new(region_type, range, Source::default()).unwrap()))
    }

    fn ends(regions: &[RegionEntry], limit: usize, edges: &[u64]) -> Vec<usize> {
        let regions: Pieces<_> = regions.iter().cloned().collect();
        folded(regions.all(), limit, edges).into_iter().map(|group| group.end).collect()
    }

    fn devices(pages: impl IntoIterator<Item = u64>) -> Vec<RegionEntry> {
        pages.into_iter().map(|page| region(RegionType::DeviceMemory, page)).collect()
    }

    #[test]
    fn what_fits_stays_as_it_is() {
        assert_eq!(ends(&devices(0..3), 3, &[]), [1, 2, 3]);
        assert!(folded(Sublist::default(), 0, &[]).is_empty());
    }

    #[test]
    fn whole_runs_fold_and_no_edge_is_crossed() {
        assert_eq!(ends(&devices(0..8), 6, &[]), [8]);
        assert_eq!(ends(&devices(0..8), 6, &[PAGE << 2]), [4, 8]);
        assert_eq!(ends(&devices(0..8), 1, &[PAGE]), [1, 8]);
    }

    #[test]
    fn at_last_the_nearest_neighbours_fold_those_of_one_type_first() {
        let mut regions = devices([0, 1000, 1001]);
        regions.push(region(RegionType::DefaultMemory, 1002));
        assert_eq!(ends(&regions, 3, &[]), [1, 3, 4]);
        assert_eq!(ends(&regions, 2, &[]), [3, 4]);
        assert_eq!(ends(&regions, 1, &[]), [4]);
        let types = [RegionType::DeviceMemory, RegionType::DefaultMemory];
        let alternating: Vec<_> = (0..16).zip(types.into_iter().cycle()).map(|(page, of)| region(of, page)).collect();
        assert_eq!(ends(&alternating, 4, &[]), [4, 8, 12, 16]);
    }
}
