//! The immutable snapshot: sorted regions and the layout they were checked against.

use std::sync::Arc;

use super::address_index::AddressIndex;
use super::error::{Error, Result};
use super::format::hex;
use super::invalid::Invalid;
use super::layout::Layout;
use super::range::{Range, joined};
use super::region::{RegionType, SharedRegion};

/// What Python calls `AddressSpaceBase`: it never keeps memory alive.
#[derive(Clone, Debug)]
pub struct RegionMap {
    generation: u64,
    layout: Arc<Layout>,
    regions: Arc<[SharedRegion]>,
    /// The regions' bases, apart from them so that a search touches few cache lines.
    starts: Arc<AddressIndex>,
}

impl PartialEq for RegionMap {
    fn eq(&self, other: &Self) -> bool {
        self.layout == other.layout && self.regions == other.regions
    }
}

impl Eq for RegionMap {}

impl RegionMap {
    /// A map without regions, at generation 0.
    #[must_use]
    pub fn empty(layout: Layout) -> Self {
        Self { generation: 0, layout: Arc::new(layout), regions: Arc::new([]), starts: Arc::default() }
    }

    /// A map of regions in any order, at generation 0.
    pub fn from_regions(mut regions: Vec<SharedRegion>, layout: Layout) -> Result<Self> {
        regions.iter().try_for_each(|region| layout.check_region(region))?;
        regions.sort_by_key(|region| region.base());
        check_neighbours(&regions)?;
        check_names(&regions)?;
        let starts = regions.iter().map(|region| region.base()).collect();
        Ok(Self::empty(layout).with_regions(regions.into(), starts))
    }

    /// A map with this one's layout alone.
    #[must_use]
    pub fn without_regions(&self) -> Self {
        Self { generation: 0, layout: Arc::clone(&self.layout), regions: Arc::new([]), starts: Arc::default() }
    }

    fn with_regions(&self, regions: Arc<[SharedRegion]>, starts: Box<[u64]>) -> Self {
        Self { generation: 0, layout: Arc::clone(&self.layout), regions, starts: Arc::new(AddressIndex::new(starts)) }
    }

    /// The map with `count` regions from `index` on taken out and `new` in their place.
    fn spliced(&self, index: usize, count: usize, new: Option<&SharedRegion>) -> Self {
        let start = new.map(|region| region.base());
        let regions = spliced(&self.regions, index, count, new).collect();
        self.with_regions(regions, spliced(self.starts.sorted(), index, count, start.as_ref()).collect())
    }

    /// The same map as the `generation`th that a space published.
    #[must_use]
    pub fn at_generation(mut self, generation: u64) -> Self {
        self.generation = generation;
        self
    }

    /// 0 for a new or detached map, one more for each that a space published.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The layout that every region keeps.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The regions by ascending base.
    #[must_use]
    pub fn regions(&self) -> &[SharedRegion] {
        &self.regions
    }

    /// The index of the region that holds `addr`.
    #[inline]
    #[must_use]
    pub fn find_index(&self, addr: u64) -> Option<usize> {
        let index = self.starts.upper_bound(addr).checked_sub(1)?;
        self.regions.get(index).is_some_and(|region| addr < region.end()).then_some(index)
    }

    /// The region that holds `addr`.
    #[inline]
    #[must_use]
    pub fn find(&self, addr: u64) -> Option<&SharedRegion> {
        self.regions.get(self.find_index(addr)?)
    }

    /// The region that holds `addr`, or an error that names its neighbours.
    pub fn get(&self, addr: u64) -> Result<&SharedRegion> {
        self.find(addr).ok_or_else(|| self.unmapped(addr, &format!("no region holds {}", hex(addr))))
    }

    /// The index of the region named `name`.
    #[must_use]
    pub fn find_name(&self, name: &str) -> Option<usize> {
        self.regions.iter().position(|region| region.name.as_deref() == Some(name))
    }

    /// The region that starts at `base`; an address inside a region is an error that names it.
    pub fn at_base(&self, base: u64) -> Result<&SharedRegion> {
        match self.find(base) {
            Some(region) if region.base() == base => Ok(region),
            Some(region) => Err(Error::Unmapped {
                message: format!(
                    "no region starts at {}: it lies inside {region}, which starts at {}",
                    hex(base),
                    hex(region.base())
                ),
                address: Some(base),
                size: None,
                region: Some(Arc::clone(region)),
            }),
            None => Err(self.unmapped(base, &format!("no region starts at {}", hex(base)))),
        }
    }

    /// The region named `name`.
    pub fn at_name(&self, name: &str) -> Result<&SharedRegion> {
        let found = self.find_name(name).and_then(|index| self.regions.get(index));
        found.ok_or_else(|| Error::UnknownName { name: name.into() })
    }

    /// The region here that equals `region`.
    pub fn equal_to(&self, region: &SharedRegion) -> Result<&SharedRegion> {
        let here = self.find(region.base());
        here.filter(|here| *here == region).ok_or_else(|| Error::Unmapped {
            message: match here {
                Some(other) => format!("{region} is not in the space: {other} is there, and it differs"),
                None => format!("{region} is not in the space"),
            },
            address: Some(region.base()),
            size: Some(region.size()),
            region: here.cloned(),
        })
    }

    /// `message`, completed with the regions before and behind a hole.
    #[must_use]
    pub fn unmapped(&self, addr: u64, message: &str) -> Error {
        let behind = self.starts.upper_bound(addr);
        let before = behind.checked_sub(1).and_then(|index| self.regions.get(index));
        let next = self.regions.get(behind);
        let mut message = message.to_owned();
        for (word, region) in [("the region before is", before), ("the next is", next)] {
            if let Some(region) = region {
                message.push_str(&format!("; {word} {region}"));
            }
        }
        Error::Unmapped { message, address: Some(addr), size: None, region: None }
    }

    /// A new map with one region more.
    pub fn insert(&self, region: &SharedRegion) -> Result<Self> {
        Ok(self.spliced(self.place_of(region)?, 0, Some(region)))
    }

    /// The index at which a region can be inserted, or why it can't be.
    pub fn place_of(&self, region: &SharedRegion) -> Result<usize> {
        self.layout.check_region(region)?;
        let index = self.starts.upper_bound(region.base());
        let before = index.checked_sub(1).and_then(|before| self.regions.get(before));
        for neighbour in before.into_iter().chain(self.regions.get(index)) {
            check_overlap(region, neighbour)?;
        }
        self.check_name(region, None)?;
        Ok(index)
    }

    /// A new map without the region that equals `region`.
    pub fn remove(&self, region: &SharedRegion) -> Result<Self> {
        self.equal_to(region)?;
        let index = self.find_index(region.base()).unwrap_or_default();
        Ok(self.spliced(index, 1, None))
    }

    /// A new map with `new` in the place of `old`: the same range and backing, other name, protection, node or hints.
    pub fn replace(&self, old: &SharedRegion, new: &SharedRegion) -> Result<Self> {
        self.equal_to(old)?;
        if !new.has_backing_of(old) {
            return Err(Invalid::at(
                format!(
                    "cannot replace {old} by {new}: range, type and backing must stay the same; \
                     remove one and insert the other in a transaction"
                ),
                Some(new.base()),
                Some(new.size()),
            )
            .into());
        }
        let index = self.find_index(old.base()).unwrap_or_default();
        self.check_name(new, Some(index))?;
        Ok(self.spliced(index, 1, Some(new)))
    }

    fn check_name(&self, region: &SharedRegion, except: Option<usize>) -> Result<()> {
        let taken = region.name.as_deref().and_then(|name| self.find_name(name)).filter(|index| Some(*index) != except);
        match taken.and_then(|index| self.regions.get(index)) {
            Some(conflict) => Err(duplicate(region, conflict)),
            None => Ok(()),
        }
    }

    /// The regions that share an address with `range`.
    #[must_use]
    pub fn overlapping(&self, range: Range) -> &[SharedRegion] {
        let first = self.starts.upper_bound(range.base());
        let first = first
            .checked_sub(1)
            .filter(|index| self.regions.get(*index).is_some_and(|r| r.end() > range.base()))
            .unwrap_or(first);
        let end = self.starts.lower_bound(range.end());
        if range.is_empty() { &[] } else { self.regions.get(first..end).unwrap_or_default() }
    }

    /// The ranges covered by regions of a type (of all types for `None`), touching ones joined.
    #[must_use]
    pub fn ranges(&self, region_type: Option<RegionType>) -> Vec<Range> {
        let wanted = self.regions.iter().filter(|region| region_type.is_none_or(|t| region.region_type == t));
        joined(wanted.map(|region| region.range))
    }

    /// The ranges between `low` and `high` that no region covers.
    #[must_use]
    pub fn gaps(&self, low: u64, high: u64) -> Vec<Range> {
        let mut gaps = Vec::new();
        let mut reached = low;
        for region in self.overlapping(Range::between(low, high)) {
            gaps.push(Range::between(reached, region.base()));
            reached = reached.max(region.end());
        }
        gaps.push(Range::between(reached, high));
        gaps.retain(|gap| !gap.is_empty());
        gaps
    }

    /// The highest inclusive address of a region that is not DAX, as the original computes it.
    #[must_use]
    pub fn last_addr(&self) -> u64 {
        let last = self.regions.iter().rev().find(|region| region.region_type != RegionType::DaxMemory);
        last.map_or(self.layout.mem_start(), |region| region.range.last_addr().max(self.layout.mem_start()))
    }

    /// The bytes of RAM.
    #[must_use]
    pub fn ram_size(&self) -> u64 {
        let ram = self.regions.iter().filter(|region| region.region_type == RegionType::DefaultMemory);
        ram.fold(0, |sum: u64, region| sum.saturating_add(region.size()))
    }
}

/// The items with `count` from `index` on taken out and `new` in their place.
fn spliced<'a, T: Clone>(
    items: &'a [T],
    index: usize,
    count: usize,
    new: Option<&'a T>,
) -> impl Iterator<Item = T> + use<'a, T> {
    let (head, tail) = (items.get(..index), items.get(index.saturating_add(count)..));
    let (head, tail) = (head.unwrap_or_default(), tail.unwrap_or_default());
    head.iter().chain(new).chain(tail).cloned()
}

fn check_neighbours(regions: &[SharedRegion]) -> Result<()> {
    regions.iter().zip(regions.iter().skip(1)).try_for_each(|(low, high)| check_overlap(high, low))
}

fn check_overlap(region: &SharedRegion, other: &SharedRegion) -> Result<()> {
    if region.range.overlaps(&other.range) {
        return Err(Error::Overlap { region: Arc::clone(region), conflict: Arc::clone(other) });
    }
    Ok(())
}

fn check_names(regions: &[SharedRegion]) -> Result<()> {
    let mut seen = std::collections::HashMap::new();
    for region in regions {
        if let Some(name) = &region.name
            && let Some(conflict) = seen.insert(name, region)
        {
            return Err(duplicate(region, conflict));
        }
    }
    Ok(())
}

fn duplicate(region: &SharedRegion, conflict: &SharedRegion) -> Error {
    Error::DuplicateName { region: Arc::clone(region), conflict: Arc::clone(conflict) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::region::Region;
    use crate::model::source::Source;

    fn region(base: u64, size: u64) -> SharedRegion {
        let range = Range::new(base, size).unwrap();
        Arc::new(Region::new(RegionType::DefaultMemory, range, Source::default()).unwrap())
    }

    fn map(ranges: &[(u64, u64)]) -> RegionMap {
        let regions = ranges.iter().map(|(base, size)| region(*base, *size)).collect();
        RegionMap::from_regions(regions, Layout::new(1 << 46, 0, 1 << 45, vec![]).unwrap()).unwrap()
    }

    #[test]
    fn every_address_is_found_or_is_in_a_gap() {
        let map = map(&[(40, 2), (0, 10), (10, 5), (20, 1)]);
        for addr in 0..50 {
            let here = map.regions().iter().find(|region| region.range.contains(addr));
            assert_eq!(map.find(addr), here, "{addr}");
            assert_eq!(map.gaps(0, 50).iter().any(|gap| gap.contains(addr)), here.is_none(), "{addr}");
            assert_eq!(map.ranges(None).iter().any(|range| range.contains(addr)), here.is_some(), "{addr}");
        }
    }

    #[test]
    fn overlapping_is_every_region_with_an_address_in_the_range() {
        let map = map(&[(0, 10), (10, 5), (20, 1), (40, 2)]);
        for (base, end) in (0..50).flat_map(|base| (base..50).map(move |end| (base, end))) {
            let range = Range::between(base, end);
            let expected: Vec<_> = map.regions().iter().filter(|region| region.range.overlaps(&range)).collect();
            assert_eq!(map.overlapping(range).iter().collect::<Vec<_>>(), expected, "{range}");
        }
    }

    #[test]
    fn gaps_are_cut_at_both_bounds() {
        let map = map(&[(10, 10)]);
        let gaps = |low, high| map.gaps(low, high).iter().map(|gap| (gap.base(), gap.end())).collect::<Vec<_>>();
        assert_eq!(gaps(0, 30), [(0, 10), (20, 30)]);
        assert_eq!(gaps(5, 25), [(5, 10), (20, 25)]);
        assert!(gaps(12, 18).is_empty() && gaps(30, 5).is_empty());
    }

    #[test]
    fn insert_refuses_an_overlap_with_either_neighbour() {
        let map = map(&[(0x1000, 0x1000), (0x3000, 0x1000)]);
        for (base, size, conflict) in
            [(0x1fff, 1, 0x1000), (0x2000, 0x1001, 0x3000), (0x1000, 1, 0x1000), (0, 0x9000, 0x1000)]
        {
            match map.insert(&region(base, size)) {
                Err(Error::Overlap { conflict: other, .. }) => assert_eq!(other.base(), conflict),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(map.insert(&region(0x2000, 0x1000)).unwrap().regions().len(), 3);
    }
}
