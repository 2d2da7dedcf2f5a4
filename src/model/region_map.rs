//! The immutable map: sorted regions and the layout that they were checked against.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::address_index::AddressIndex;
use super::allocator::without;
use super::error::{Error, Result};
use super::format::hex;
use super::ids::{Generation, Origin, RegionId};
use super::int::index_sum;
use super::invalid::Invalid;
use super::layout::Layout;
use super::pieces::{Pieces, Sublist};
use super::range::{Range, joined};
use super::region::{RegionType, SharedRegion};

/// A region in a map: its description, which may be in other maps too, and the id that it was given when it was inserted.
///
/// Regions that are equal, or even the same object, are different ones when they were inserted at different times: only the id tells
/// whether memory can be kept.
#[derive(Clone, Debug)]
pub struct RegionEntry {
    /// Which region of the map this is; a replacement of the description keeps it.
    pub id: RegionId,
    /// The description.
    pub desc: SharedRegion,
    /// The insertion that its bytes came with.
    pub origin: Origin,
    /// The offset at which its bytes begin in those of the insertion.
    pub at: u64,
}

impl RegionEntry {
    /// A region about to be inserted, under an id of its own.
    #[must_use]
    pub fn new(desc: SharedRegion) -> Self {
        Self { id: RegionId::unique(), desc, origin: Origin::unique(), at: 0 }
    }

    /// Whether both are the same region under the same description.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.id == other.id && Arc::ptr_eq(&self.desc, &other.desc)
    }

    /// Whether both show the same bytes wherever their addresses are the same.
    #[must_use]
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.origin == other.origin && self.base().wrapping_sub(self.at) == other.base().wrapping_sub(other.at)
    }

    /// The bytes that it shows, counted from the first of its insertion.
    #[must_use]
    pub fn bytes(&self) -> Range {
        Range::at(self.at, self.size())
    }
}

impl std::ops::Deref for RegionEntry {
    type Target = SharedRegion;

    #[inline]
    fn deref(&self) -> &SharedRegion {
        &self.desc
    }
}

impl std::fmt::Display for RegionEntry {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.desc.fmt(formatter)
    }
}

/// The map that Python calls `AddressSpaceBase`: it never keeps memory alive.
///
/// Maps are equal when layout and descriptions are; neither generation nor ids count.
#[derive(Clone, Debug)]
pub struct RegionMap {
    generation: Generation,
    layout: Arc<Layout>,
    regions: Arc<Pieces<RegionEntry>>,
    /// The regions' bases, apart from them so that a search touches few cache lines.
    starts: Arc<AddressIndex>,
    /// The regions that have a name, by name.
    names: Arc<Pieces<SharedRegion>>,
}

impl PartialEq for RegionMap {
    fn eq(&self, other: &Self) -> bool {
        // Not the generation: a map is the same whoever published it.
        self.layout == other.layout && self.descriptions().eq(other.descriptions())
    }
}

impl Eq for RegionMap {}

impl Hash for RegionMap {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.layout.hash(state);
        self.descriptions().for_each(|region| region.hash(state));
    }
}

impl RegionMap {
    /// A map without regions, at generation 0.
    #[must_use]
    pub fn empty(layout: Layout) -> Self {
        Self::of(Arc::new(layout), Pieces::default(), Box::default(), Arc::default())
    }

    /// A map of regions in any order, at generation 0.
    pub fn from_regions(regions: Vec<SharedRegion>, layout: Layout) -> Result<Self> {
        let has_windows = regions.iter().any(|region| region.window.is_some());
        let map = Self::empty(layout).with_entries(regions.into_iter().map(RegionEntry::new).collect())?;
        if has_windows { map.with_windows() } else { Ok(map) }
    }

    /// The map whose windows show bytes of the other regions.
    fn with_windows(&self) -> Result<Self> {
        let others = self.regions().iter().filter(|region| region.window.is_none());
        let starts = others.clone().map(|region| region.base()).collect();
        let others = Self::of(Arc::clone(&self.layout), others.cloned().collect(), starts, Arc::default());
        let regions = self.regions().iter().map(|region| others.resolved(region)).collect::<Result<_>>()?;
        Ok(Self { regions: Arc::new(regions), ..self.clone() })
    }

    /// A map of these regions, in any order, with this one's layout.
    fn with_entries(&self, mut entries: Vec<RegionEntry>) -> Result<Self> {
        entries.sort_by_key(|entry| entry.base());
        let regions: Vec<SharedRegion> = entries.iter().map(|entry| Arc::clone(&entry.desc)).collect();
        regions.iter().try_for_each(|region| self.layout.check_region(region))?;
        check_neighbours(&regions)?;
        let names = by_name(&regions)?;
        let starts = regions.iter().map(|region| region.base()).collect();
        Ok(Self::of(Arc::clone(&self.layout), entries.into_iter().collect(), starts, Arc::new(names)))
    }

    /// The map without some regions, and with others in any order.
    pub fn edited(&self, gone: &HashSet<RegionId>, new: Vec<RegionEntry>) -> Result<Self> {
        let kept = self.regions().iter().filter(|region| !gone.contains(&region.id));
        self.with_entries(kept.cloned().chain(new).collect())
    }

    /// A map with this one's layout alone.
    #[must_use]
    pub fn without_regions(&self) -> Self {
        Self::of(Arc::clone(&self.layout), Pieces::default(), Box::default(), Arc::default())
    }

    fn of(
        layout: Arc<Layout>,
        regions: Pieces<RegionEntry>,
        starts: Box<[u64]>,
        names: Arc<Pieces<SharedRegion>>,
    ) -> Self {
        let (regions, starts) = (Arc::new(regions), Arc::new(AddressIndex::new(starts)));
        Self { generation: Generation::default(), layout, regions, starts, names }
    }

    /// The map with `count` regions from `index` on taken out and `new` in their place.
    fn spliced(&self, index: usize, count: usize, new: &[RegionEntry]) -> Self {
        let regions = self.regions.spliced(index, count, new);
        let new_starts = new.iter().map(|region| region.base());
        let (before, rest) = self.starts.sorted().split_at_checked(index).unwrap_or_default();
        let starts = before.iter().copied().chain(new_starts).chain(rest.iter().skip(count).copied());
        let gone = self.regions().sublist(index..index_sum(index, count));
        Self::of(Arc::clone(&self.layout), regions, starts.collect(), self.names_after(gone, new))
    }

    fn names_after(&self, gone: Sublist<'_, RegionEntry>, new: &[RegionEntry]) -> Arc<Pieces<SharedRegion>> {
        let named = |region: &&RegionEntry| region.name.is_some();
        let mut names = Arc::clone(&self.names);
        for region in gone.into_iter().filter(named) {
            names = Arc::new(names.spliced(name_index(&names, region.name.as_deref()), 1, &[]));
        }
        for region in new.iter().filter(named) {
            names = Arc::new(names.spliced(name_index(&names, region.name.as_deref()), 0, &[Arc::clone(region)]));
        }
        names
    }

    /// The same map as the `generation`th that a space published.
    #[must_use]
    pub fn at_generation(mut self, generation: Generation) -> Self {
        self.generation = generation;
        self
    }

    /// 0 for a new or detached map, one more for each that a space published.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// The layout that every region keeps.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The regions by ascending base.
    #[must_use]
    pub fn regions(&self) -> Sublist<'_, RegionEntry> {
        self.regions.all()
    }

    fn descriptions(&self) -> impl Iterator<Item = &SharedRegion> {
        self.regions().iter().map(|region| &region.desc)
    }

    /// The index of the region that holds `addr`.
    #[inline]
    #[must_use]
    pub fn find_index(&self, addr: u64) -> Option<usize> {
        // Regions are disjoint: only the last one that does not begin behind the address can hold it.
        let index = self.starts.upper_bound(addr).checked_sub(1)?;
        self.regions.get(index).is_some_and(|region| addr < region.end()).then_some(index)
    }

    /// The region that holds `addr`.
    #[inline]
    #[must_use]
    pub fn find(&self, addr: u64) -> Option<&RegionEntry> {
        self.regions.get(self.find_index(addr)?)
    }

    /// The region that holds `addr`, or an error that names its neighbours.
    pub fn get(&self, addr: u64) -> Result<&RegionEntry> {
        self.find(addr).ok_or_else(|| self.unmapped(addr, &format!("no region holds {}", hex(addr))))
    }

    /// The region named `name`.
    #[must_use]
    pub fn find_name(&self, name: &str) -> Option<&RegionEntry> {
        let named = self.names.get(name_index(&self.names, Some(name)))?;
        self.find(named.base()).filter(|region| region.name.as_deref() == Some(name))
    }

    /// The region that starts at `base`; an address inside a region is an error that names it.
    pub fn at_base(&self, base: u64) -> Result<&RegionEntry> {
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

    /// The region named `name`, or an error.
    pub fn at_name(&self, name: &str) -> Result<&RegionEntry> {
        self.find_name(name).ok_or_else(|| Error::UnknownName { name: name.into() })
    }

    /// The region here that equals `region`.
    pub fn equal_to(&self, region: &SharedRegion) -> Result<&RegionEntry> {
        let here = self.find(region.base());
        here.filter(|here| here.desc == *region).ok_or_else(|| Error::Unmapped {
            message: match here {
                Some(other) => format!("{region} is not in the space: {other} is there, and it differs"),
                None => format!("{region} is not in the space"),
            },
            address: Some(region.base()),
            size: Some(region.size()),
            region: here.map(|here| Arc::clone(here)),
        })
    }

    /// The very region that was inserted as `region`, which may be described otherwise by now.
    pub fn inserted(&self, region: &RegionEntry) -> Result<&RegionEntry> {
        let here = self.find(region.base());
        // It may have been moved.
        let found = here.filter(|here| here.id == region.id);
        let found = found.or_else(|| self.regions().iter().find(|here| here.id == region.id));
        found.ok_or_else(|| Error::Unmapped {
            message: match here {
                Some(other) => format!("{region} was removed; {other} is there now, and another region"),
                None => format!("{region} was removed"),
            },
            address: Some(region.base()),
            size: Some(region.size()),
            region: here.map(|here| Arc::clone(here)),
        })
    }

    /// An error about an address in a hole: `message`, completed with the regions before and behind it.
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
    pub fn insert(&self, region: &RegionEntry) -> Result<Self> {
        Ok(self.spliced(self.insertion_index(region)?, 0, std::slice::from_ref(region)))
    }

    /// The index at which a region can be inserted, or why it can't be.
    pub fn insertion_index(&self, region: &SharedRegion) -> Result<usize> {
        self.layout.check_region(region)?;
        let index = self.starts.upper_bound(region.base());
        // Regions are disjoint: one that overlaps neither neighbour overlaps none.
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
        // `equal_to` has just found it.
        let index = self.find_index(region.base()).unwrap_or_default();
        Ok(self.spliced(index, 1, &[]))
    }

    /// A new map with `new` in the place of `old`, under its id: the same range and backing, other name, protection, node or hints.
    pub fn replace(&self, old: &SharedRegion, new: &SharedRegion) -> Result<Self> {
        let old_entry = self.equal_to(old)?.clone();
        if !new.has_backing_of(old) {
            return Err(Invalid::at(
                format!(
                    "cannot replace {old} by {new}: range, type and backing must stay the same; a transaction can remove \
                     one and insert the other, but the bytes are lost with the memory: read() them before, if they matter"
                ),
                Some(new.base()),
                Some(new.size()),
            )
            .into());
        }
        // `equal_to` has just found it.
        let index = self.find_index(old.base()).unwrap_or_default();
        // Its own name may stay.
        self.check_name(new, Some(old_entry.id))?;
        Ok(self.spliced(index, 1, &[RegionEntry { desc: Arc::clone(new), ..old_entry }]))
    }

    /// A new map with others in the place of `count` regions from one on, whose addresses they share.
    #[must_use]
    pub fn reshaped(&self, first: &RegionEntry, count: usize, new: &[RegionEntry]) -> Self {
        self.spliced(self.starts.lower_bound(first.base()), count, new)
    }

    fn check_name(&self, region: &SharedRegion, except: Option<RegionId>) -> Result<()> {
        match region.name.as_deref().and_then(|name| self.find_name(name)) {
            Some(conflict) if Some(conflict.id) != except => Err(duplicate(region, conflict)),
            _ => Ok(()),
        }
    }

    /// The regions that share an address with `range`.
    #[must_use]
    pub fn overlapping(&self, range: Range) -> Sublist<'_, RegionEntry> {
        let first = self.find_index(range.base()).unwrap_or_else(|| self.starts.upper_bound(range.base()));
        let end = if range.is_empty() { first } else { self.starts.lower_bound(range.end()) };
        self.regions().sublist(first..end)
    }

    /// The ranges covered by regions of a type (of all types for `None`), touching ones joined.
    #[must_use]
    pub fn ranges(&self, region_type: Option<RegionType>) -> Vec<Range> {
        let wanted = self.regions().iter().filter(|region| region_type.is_none_or(|t| region.region_type == t));
        joined(wanted.map(|region| region.range).collect())
    }

    /// The ranges between `low` and `high` that no region covers.
    #[must_use]
    pub fn gaps(&self, low: u64, high: u64) -> Vec<Range> {
        let bounds = Range::between(low, high);
        let taken: Vec<Range> = self.overlapping(bounds).iter().map(|region| region.range).collect();
        without(&[bounds], &taken)
    }

    /// The highest inclusive address of a region that is not DAX, as the original computes it.
    #[must_use]
    pub fn last_addr(&self) -> u64 {
        let last = self.regions().iter().rev().find(|region| region.region_type != RegionType::DaxMemory);
        last.map_or(self.layout.mem_start(), |region| region.range.last_addr().max(self.layout.mem_start()))
    }

    /// The bytes of RAM.
    #[must_use]
    pub fn ram_size(&self) -> u64 {
        let ram = self.regions().iter().filter(|region| region.region_type == RegionType::DefaultMemory);
        // Disjoint ranges have no more bytes than there are addresses.
        ram.map(|region| region.size()).sum()
    }
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

/// Those that have a name, by name; an error when two have one.
fn by_name(regions: &[SharedRegion]) -> Result<Pieces<SharedRegion>> {
    let mut named: Vec<_> = regions.iter().filter(|region| region.name.is_some()).collect();
    // Stable: of two that have one name, the error names the lower as the one that is there.
    named.sort_by_key(|region| &region.name);
    match named.windows(2).find(|pair| matches!(pair, [low, high] if low.name == high.name)) {
        Some([conflict, region]) => Err(duplicate(region, conflict)),
        _ => Ok(named.into_iter().cloned().collect()),
    }
}

/// Where a region of that name is among those by name, or would be.
fn name_index(names: &Pieces<SharedRegion>, name: Option<&str>) -> usize {
    names.partition_point(|region| region.name.as_deref() < name)
}

fn duplicate(region: &SharedRegion, conflict: &SharedRegion) -> Error {
    Error::DuplicateName { region: Arc::clone(region), conflict: Arc::clone(conflict) }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "tests, whose numbers are small")]
mod tests {
    use super::*;
    use crate::model::region::Region;
    use crate::model::source::Source;

    fn region(base: u64, size: u64) -> SharedRegion {
        let range = Range::new(base, size).unwrap();
        Arc::new(Region::new(RegionType::DefaultMemory, range, Source::default()).unwrap())
    }

    fn ids<'a>(regions: impl IntoIterator<Item = &'a RegionEntry>) -> Vec<RegionId> {
        regions.into_iter().map(|region| region.id).collect()
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
            assert_eq!(ids(map.find(addr)), ids(here), "{addr}");
            assert_eq!(map.gaps(0, 50).iter().any(|gap| gap.contains(addr)), here.is_none(), "{addr}");
            assert_eq!(map.ranges(None).iter().any(|range| range.contains(addr)), here.is_some(), "{addr}");
        }
    }

    #[test]
    fn overlapping_is_every_region_with_an_address_in_the_range() {
        let map = map(&[(0, 10), (10, 5), (20, 1), (40, 2)]);
        for (base, end) in (0..50).flat_map(|base| (base..50).map(move |end| (base, end))) {
            let range = Range::between(base, end);
            let expected = map.regions().iter().filter(|region| region.range.overlaps(&range));
            assert_eq!(ids(map.overlapping(range)), ids(expected), "{range}");
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
            match map.insert(&RegionEntry::new(region(base, size))) {
                Err(Error::Overlap { conflict: other, .. }) => assert_eq!(other.base(), conflict),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(map.insert(&RegionEntry::new(region(0x2000, 0x1000))).unwrap().regions().len(), 3);
    }

    #[test]
    fn a_region_keeps_its_id_through_the_changes_of_others() {
        let before = map(&[(0, 10), (20, 10), (40, 10)]);
        let [low, middle, high] = ids(before.regions()).try_into().unwrap();
        let after = before.remove(&region(20, 10)).unwrap();
        assert_eq!(ids(after.regions()), [low, high]);
        let again = after.insert(&RegionEntry::new(region(20, 10))).unwrap();
        assert!(again == before && again.regions()[1].id != middle);
        let named = Arc::new(Region { name: Some("named".into()), ..(*region(20, 10)).clone() });
        let replaced = before.replace(&region(20, 10), &named).unwrap();
        assert_eq!(ids(replaced.regions()), [low, middle, high]);
        assert!(Arc::ptr_eq(&replaced.regions()[1], &named));
    }

    #[test]
    fn a_refusal_changes_nothing_and_names_what_is_there() {
        let map = map(&[(0, 10), (20, 10)]);
        for (refused, why) in [
            (map.remove(&region(30, 1)), "is not in the space"),
            (map.remove(&region(0, 5)), "it differs"),
            (map.replace(&region(0, 10), &region(0, 5)), "must stay the same"),
            (map.at_base(5).map(|_| map.clone()), "which starts at 0x0"),
            (map.get(15).map(|_| map.clone()), "the region before is ram [0x0, 0xa); the next is ram [0x14, 0x1e)"),
        ] {
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn a_name_leads_to_its_region_after_every_change() {
        let named = |at: u64, name: u64| {
            Arc::new(Region { name: Some(format!("r{}", name * 7919 % 200).into()), ..(*region(at * 10, 5)).clone() })
        };
        let mut map = map(&[(5000, 1)]);
        for at in 0..200 {
            map = map.insert(&RegionEntry::new(named(at, at))).unwrap();
        }
        for at in (0..200).step_by(3) {
            map = map.remove(&named(at, at)).unwrap().insert(&RegionEntry::new(named(at + 200, at))).unwrap();
        }
        for at in (1..200).step_by(3) {
            map = map.replace(&named(at, at), &region(at * 10, 5)).unwrap();
        }
        let all = RegionMap::from_regions(map.descriptions().cloned().collect(), map.layout().clone()).unwrap();
        for map in [map, all] {
            let names: Vec<&str> = map.descriptions().filter_map(|region| region.name.as_deref()).collect();
            assert_eq!(names.len(), 133);
            assert!(names.iter().copied().all(|name| map.find_name(name).unwrap().name.as_deref() == Some(name)));
            let other = (0..250).map(|name| format!("r{name}")).filter(|other| !names.contains(&other.as_str()));
            assert!(other.map(|name| map.find_name(&name)).all(|found| found.is_none()));
        }
    }

    #[test]
    fn names_are_unique_and_free_again_with_their_region() {
        let named = |base: u64, name: &str| Arc::new(Region { name: Some(name.into()), ..(*region(base, 1)).clone() });
        let map = map(&[]).insert(&RegionEntry::new(named(0, "a"))).unwrap();
        assert!(matches!(map.insert(&RegionEntry::new(named(5, "a"))), Err(Error::DuplicateName { .. })));
        let map = map.replace(&named(0, "a"), &named(0, "b")).unwrap();
        assert_eq!(map.insert(&RegionEntry::new(named(5, "a"))).unwrap().at_name("b").unwrap().base(), 0);
    }
}
