//! Everything that can happen to a small map: what holds for all of it is likely to hold for large ones.
//!
//! The addresses are six pages, a model is an array of six cells, and nothing is chosen: all maps, all operations, all pairs of them.

#![allow(clippy::arithmetic_side_effects, clippy::cast_possible_truncation, reason = "tests, whose numbers are small")]

use std::sync::Arc;

use super::address_index::AddressIndex;
use super::allocator::{FitPolicy, Wanted};
use super::change::{Change, MapOperation, RegionTarget};
use super::dirty::DirtyPages;
use super::ids::{Origin, RegionId};
use super::layout::Layout;
use super::range::Range;
use super::region::{Region, RegionType};
use super::region_map::{RegionEntry, RegionMap};
use super::source::Source;

const PAGES: u64 = 6;
const PAGE: u64 = 0x1000;

/// The content of a page of a map: which region it is of, and which byte of which insertion it shows.
type Cell = Option<(RegionId, Origin, u64)>;
type Cells = [Cell; PAGES as usize];

fn spans(pages: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..pages).flat_map(move |first| (first + 1..=pages).map(move |end| (first, end)))
}

fn entry((first, end): (u64, u64)) -> RegionEntry {
    let range = Range::between(first * PAGE, end * PAGE);
    RegionEntry::new(Arc::new(Region::new(RegionType::DefaultMemory, range, Source::default()).unwrap()))
}

/// Every map of up to four regions in the pages.
fn all_maps() -> Vec<RegionMap> {
    let layout = Layout::new(PAGES * PAGE, 0, PAGES * PAGE, vec![]).unwrap();
    let mut maps = vec![RegionMap::empty(layout)];
    let mut checked = 0;
    while let Some(map) = maps.get(checked).cloned() {
        let reached = map.regions().last().map_or(0, |last| last.end() / PAGE);
        if map.regions().len() < 4 {
            let behind = spans(PAGES).filter(|(first, _)| *first >= reached);
            maps.extend(behind.map(|span| map.insert(&entry(span)).unwrap()));
        }
        checked += 1;
    }
    maps
}

fn cells(map: &RegionMap) -> Cells {
    let mut cells = [None; PAGES as usize];
    for region in map.regions() {
        for page in 0..region.size() / PAGE {
            let cell = &mut cells[(region.base() / PAGE + page) as usize];
            assert!(cell.is_none(), "two regions in a page");
            *cell = Some((region.id, region.origin, region.at / PAGE + page));
        }
    }
    cells
}

/// Every operation that one might ask of a map, those that must be refused among them.
fn all_operations(map: &RegionMap) -> Vec<MapOperation> {
    let mut operations: Vec<_> = spans(PAGES).map(|span| MapOperation::Insert(entry(span))).collect();
    let target = |region: &RegionEntry| RegionTarget::Inserted(region.clone());
    for region in map.regions() {
        operations.push(MapOperation::Remove(target(region)));
        operations.push(MapOperation::Remove(RegionTarget::Base(region.base())));
        let pages = 0..=PAGES;
        operations.extend(pages.clone().map(|at| MapOperation::Split(target(region), at * PAGE, RegionId::unique())));
        operations.extend(pages.map(|base| MapOperation::Move(target(region), base * PAGE)));
        operations.extend(map.regions().iter().map(|other| MapOperation::Join(target(region), target(other))));
    }
    operations
}

/// The cells behind an operation, by moving single pages about; none if it must be refused.
fn expected(before: &Cells, operation: &MapOperation, map: &RegionMap) -> Option<Cells> {
    let mut after = *before;
    let pages_of = |target: &RegionTarget| -> Vec<usize> {
        let id = target.find(map).unwrap().id;
        (0..before.len()).filter(|page| before[*page].is_some_and(|cell| cell.0 == id)).collect()
    };
    match operation {
        MapOperation::Insert(region) => {
            for page in region.base() / PAGE..region.end() / PAGE {
                let cell = &mut after[page as usize];
                if cell.is_some() {
                    return None;
                }
                *cell = Some((region.id, region.origin, page - region.base() / PAGE));
            }
        }
        MapOperation::Remove(target) => pages_of(target).into_iter().for_each(|page| after[page] = None),
        MapOperation::Replace(..) | MapOperation::Grow(..) | MapOperation::Protect(..) => {
            unreachable!("not asked for here")
        }
        MapOperation::Split(target, at, upper) => {
            let (pages, at) = (pages_of(target), (at / PAGE) as usize);
            if at <= pages[0] || at > pages[pages.len() - 1] {
                return None;
            }
            for page in pages.into_iter().filter(|page| *page >= at) {
                after[page].as_mut().unwrap().0 = *upper;
            }
        }
        MapOperation::Join(lower, upper) => {
            let (lower, upper) = (pages_of(lower), pages_of(upper));
            let (last, first) = (lower[lower.len() - 1], upper[0]);
            let (below, above) = (before[last].unwrap(), before[first].unwrap());
            if last + 1 != first || below.1 != above.1 || below.2 + 1 != above.2 {
                return None;
            }
            upper.into_iter().for_each(|page| after[page].as_mut().unwrap().0 = below.0);
        }
        MapOperation::Move(target, base) => {
            let (pages, base) = (pages_of(target), (base / PAGE) as usize);
            pages.iter().for_each(|page| after[*page] = None);
            for (index, page) in pages.iter().enumerate() {
                let cell = after.get_mut(base + index)?;
                if cell.is_some() {
                    return None;
                }
                *cell = before[*page];
            }
        }
    }
    Some(after)
}

/// Does the operation, and compares map and change with what moving pages gives.
fn apply(map: &RegionMap, operation: &MapOperation) -> Option<RegionMap> {
    let before = cells(map);
    let (after, expected) = (operation.apply(map), expected(&before, operation, map));
    assert_eq!(after.as_ref().ok().map(cells), expected, "{operation:?} on {map:?}");
    let after = after.ok()?;
    check_queries(&after);
    check_change(map, &after);
    Some(after)
}

fn check_queries(map: &RegionMap) {
    let cells = cells(map);
    for addr in (0..=PAGES * PAGE).step_by(PAGE as usize).flat_map(|addr| [addr.saturating_sub(1), addr]) {
        let cell = cells.get((addr / PAGE) as usize).copied().flatten();
        assert_eq!(map.find(addr).map(|region| region.id), cell.map(|cell| cell.0));
    }
    for (first, end) in spans(PAGES) {
        let shown = map.overlapping(Range::between(first * PAGE, end * PAGE));
        let mut ids: Vec<_> = cells[first as usize..end as usize].iter().flatten().map(|cell| cell.0).collect();
        ids.dedup();
        assert_eq!(shown.iter().map(|region| region.id).collect::<Vec<_>>(), ids);
    }
    let free: u64 = map.gaps(0, PAGES * PAGE).iter().map(|gap| gap.size() / PAGE).sum();
    assert_eq!(free, cells.iter().filter(|cell| cell.is_none()).count() as u64);
}

/// A change names each page that appears or goes, and no page that shows the same byte before and after.
fn check_change(before: &RegionMap, after: &RegionMap) {
    let change = Change::of_operations(&Arc::new(before.clone()), &Arc::new(after.clone()));
    let (old, new) = (cells(before), cells(after));
    let byte = |cell: Cell| cell.map(|(_, origin, at)| (origin, at));
    for (page, (old, new)) in old.into_iter().zip(new).enumerate() {
        let addr = page as u64 * PAGE;
        let leaves = change.removed.iter().any(|region| region.range.contains(addr));
        let comes = change.added.iter().any(|region| region.range.contains(addr));
        assert!(!leaves || old.is_some());
        assert!(!comes || new.is_some());
        assert!(byte(old) == byte(new) || leaves == old.is_some() && comes == new.is_some(), "{addr:#x} of {change}");
    }
}

#[test]
fn all_pairs_of_operations_on_all_maps() {
    let (maps, mut applied) = (all_maps(), 0);
    for map in &maps {
        check_queries(map);
        for first in all_operations(map) {
            let Some(between) = apply(map, &first) else { continue };
            // All that follows a cut or a move, which is where regions share an origin; one in seven of the rest.
            let is_whole = matches!(first, MapOperation::Split(..) | MapOperation::Move(..));
            for (number, second) in all_operations(&between).iter().enumerate() {
                if is_whole || number % 7 == 0 {
                    apply(&between, second);
                    applied += 1;
                }
            }
        }
    }
    assert_eq!(maps.len(), 1 + 21 + 70 + 84 + 45);
    assert!(applied > 50_000, "{applied}");
}

#[test]
fn all_indexes_of_up_to_four_starts_in_twelve_places() {
    let mut checked = 0;
    for scale in [1, PAGE, 1 << 60] {
        for set in (0_u32..1 << 12).filter(|set| set.count_ones() <= 4) {
            let starts: Box<[u64]> = (0..12).filter(|bit| set >> bit & 1 == 1).map(|bit| bit * scale).collect();
            let index = AddressIndex::new(starts.clone());
            for addr in (0..12).flat_map(|place| [place * scale, place * scale + scale / 2, u64::MAX]) {
                assert_eq!(index.upper_bound(addr), starts.iter().filter(|start| **start <= addr).count());
                assert_eq!(index.lower_bound(addr), starts.iter().filter(|start| **start < addr).count());
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 3 * 794 * 36);
}

#[test]
fn all_requests_for_room_in_all_maps() {
    let room = Range::between(0, PAGES * PAGE);
    for map in all_maps() {
        let taken: Vec<Range> = map.regions().iter().map(|region| region.range).collect();
        for (size, align, gap) in (1..=PAGES)
            .flat_map(|size| [1, 2, 4].map(move |align| (size, align)))
            .flat_map(|(size, align)| (0..=1).map(move |gap| (size, align, gap)))
        {
            let fits = |first: u64| {
                let (low, high) = ((first * PAGE).saturating_sub(gap * PAGE), (first + size + gap) * PAGE);
                first.is_multiple_of(align)
                    && taken.iter().all(|range| range.intersection(&Range::between(low, high)).is_empty())
            };
            let places: Vec<u64> = (0..=PAGES - size).filter(|first| fits(*first)).collect();
            for (policy, place) in [(FitPolicy::First, places.first()), (FitPolicy::Last, places.last())] {
                let wanted = Wanted { size: size * PAGE, align: align * PAGE, guard_gap: gap * PAGE, policy };
                let found = wanted.place(&[room], &taken).ok().map(|range| range.base() / PAGE);
                assert_eq!(found.as_ref(), place, "{wanted:?} in {taken:?}");
            }
        }
    }
}

#[test]
fn all_pairs_of_dirty_sets_of_eight_pages() {
    // Across the joint of two words of a bitmap.
    let base = 60 * PAGE;
    let set = |bits: u64| {
        let mut pages = DirtyPages::new(PAGE, vec![]).unwrap();
        pages.push_bitmap(base, &[bits]).unwrap();
        pages
    };
    let bits = |pages: &DirtyPages| {
        (0..8).filter(|page| pages.contains(base + page * PAGE)).map(|page| 1 << page).sum::<u64>()
    };
    for one in 0..256_u64 {
        assert_eq!(set(one).count(), u64::from(one.count_ones()));
        for other in 0..256_u64 {
            let (left, right) = (set(one), set(other));
            assert_eq!(bits(&left.union(&right).unwrap()), one | other);
            assert_eq!(bits(&left.intersection(&right).unwrap()), one & other);
            assert_eq!(bits(&left.difference(&right).unwrap()), one & !other);
        }
    }
}
