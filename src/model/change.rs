//! Changes of a map: the steps that a writer asks for, and the difference between two maps.

use std::sync::Arc;

use super::allocator::without;
use super::cut::{cut, joined, moved};
use super::error::{Error, Result};
use super::grow::{check_growth, grown, neighbour};
use super::ids::{Generation, Origin, RegionId, ReservationId};
use super::interrupt::Interrupt;
use super::pieces::Sublist;
use super::protect::protected;
use super::range::Range;
use super::region::{SharedRegion, ShownBytes};
use super::region_map::{RegionEntry, RegionMap};
use super::source::KeptBytes;

/// Which region of a map is meant; looked up in the map that is being changed.
#[derive(Clone, Debug)]
pub enum RegionTarget {
    /// The region that starts at an address.
    Base(u64),
    /// The region of that name.
    Name(Box<str>),
    /// The region that equals this one.
    Region(SharedRegion),
    /// This very region, however it is described by now.
    Inserted(RegionEntry),
    /// This very region, described as it is here.
    Unchanged(RegionEntry),
}

impl RegionTarget {
    /// The region that is meant, in one map.
    pub fn find<'a>(&self, map: &'a RegionMap) -> Result<&'a RegionEntry> {
        match self {
            Self::Base(base) => map.at_base(*base),
            Self::Name(name) => map.at_name(name),
            Self::Region(region) => map.equal_to(region),
            Self::Inserted(region) => map.inserted(region),
            Self::Unchanged(region) => map.equal_to(region).and_then(|_| map.inserted(region)),
        }
    }
}

/// One step of a change, which can be replayed on a newer map.
#[derive(Clone, Debug)]
pub enum MapOperation {
    /// Add a region. It has its id before it is in any map, so that memory mapped for it beforehand is found again.
    Insert(RegionEntry),
    /// Take out a region.
    Remove(RegionTarget),
    /// Put the second in the place of the first, which keeps id and memory.
    Replace(RegionTarget, SharedRegion),
    /// Cut a region in two at an address; the upper part gets the id.
    Split(RegionTarget, u64, RegionId),
    /// Make two neighbours one region again.
    Join(RegionTarget, RegionTarget),
    /// Show a region at another base.
    Move(RegionTarget, u64),
    /// Show more of a region's memory behind it, so that it has as many bytes.
    Grow(RegionTarget, u64),
    /// Protect a range otherwise; the ids are for the upper parts where that cuts regions.
    Protect(Range, i32, [RegionId; 2]),
}

impl MapOperation {
    /// An insertion under an id of its own.
    pub fn insert(region: impl Into<SharedRegion>) -> Self {
        Self::Insert(RegionEntry::new(region.into()))
    }

    /// Makes a region as large: in its own memory, where that has room, or by a neighbour with the rest.
    pub fn growth(map: &RegionMap, region: &RegionEntry, size: u64) -> Result<Self> {
        check_growth(region, size)?;
        match region.options.max_size {
            Some(_) => Ok(Self::Grow(RegionTarget::Unchanged(region.clone()), size)),
            None => Ok(Self::insert(neighbour(map, region, size)?)),
        }
    }

    /// Another protection of a range, under ids of its own for what it cuts.
    #[must_use]
    pub fn protect(range: Range, prot_flags: i32) -> Self {
        Self::Protect(range, prot_flags, [RegionId::unique(), RegionId::unique()])
    }

    /// Whether it inserts a window on a part that somebody keeps.
    #[must_use]
    pub fn shows_part(&self) -> bool {
        let Self::Insert(region) = self else { return false };
        region.window.as_ref().is_some_and(|window| matches!(window.of, ShownBytes::Part(_)))
    }

    /// The map behind the operation.
    pub fn apply(&self, map: &RegionMap) -> Result<RegionMap> {
        match self {
            Self::Insert(region) => map.insert(&map.resolved(region)?),
            Self::Remove(target) => map.remove(target.find(map)?),
            Self::Replace(target, new) => map.replace(target.find(map)?, new),
            Self::Split(target, at, upper) => {
                let region = target.find(map)?;
                Ok(map.reshaped(region, 1, &cut(region, *at, *upper)?))
            }
            Self::Join(lower, upper) => {
                let lower = lower.find(map)?;
                Ok(map.reshaped(lower, 2, &[joined(lower, upper.find(map)?)?]))
            }
            Self::Move(target, base) => {
                let region = target.find(map)?;
                map.remove(region)?.insert(&moved(region, *base)?)
            }
            Self::Grow(target, size) => grown(map, target.find(map)?, *size),
            Self::Protect(range, prot_flags, upper) => protected(map, *range, *prot_flags, *upper),
        }
    }

    /// The map behind all operations, or the error of the first that is refused.
    fn apply_all(operations: &[Self], map: &RegionMap, interrupt: &dyn Interrupt) -> Result<RegionMap> {
        operations.iter().enumerate().try_fold(map.clone(), |map, (index, operation)| {
            // Only between two: what is done at once need not be stopped.
            if index > 0 {
                interrupt.check()?;
            }
            operation.apply(&map)
        })
    }
}

/// A writer's request: operations, and the conditions under which they may be done.
#[derive(Clone, Copy, Debug)]
pub struct ChangeRequest<'a> {
    /// The steps, applied in order, all or none.
    pub operations: &'a [MapOperation],
    /// The generation that the space must be at; any for `None`.
    pub if_generation: Option<Generation>,
    /// The reservation into which regions may be inserted, beside addresses that nobody has reserved.
    pub reservation: Option<ReservationId>,
    /// A map, and what the operations make of it: they need not be done again while it is the newest.
    pub known: Option<(&'a Arc<RegionMap>, &'a RegionMap)>,
}

impl<'a> ChangeRequest<'a> {
    /// Operations without a condition.
    #[must_use]
    pub const fn of(operations: &'a [MapOperation]) -> Self {
        Self { operations, if_generation: None, reservation: None, known: None }
    }

    /// Refuses a map that is not of the generation asked for.
    pub fn check_generation(&self, map: &RegionMap) -> Result<()> {
        let actual = map.generation();
        match self.if_generation {
            Some(expected) if expected != actual => Err(Error::GenerationChanged { expected, actual }),
            _ => Ok(()),
        }
    }

    /// The change of a map that the operations make, with the map behind it at the next generation.
    pub fn change_of(&self, map: &Arc<RegionMap>, interrupt: &dyn Interrupt) -> Result<Change> {
        self.check_generation(map)?;
        let after = match self.known.filter(|(before, _)| Arc::ptr_eq(before, map)) {
            Some((_, after)) => after.clone(),
            None => MapOperation::apply_all(self.operations, map, interrupt)?,
        };
        let after = after.at_generation(map.generation().next());
        Ok(Change::of_operations(map, &Arc::new(after)))
    }

    /// The regions whose memory the operations add to a map; for a single operation, found without making the next map.
    pub fn added_to(&self, map: &Arc<RegionMap>, interrupt: &dyn Interrupt) -> Result<Vec<RegionEntry>> {
        self.check_generation(map)?;
        match self.operations {
            [MapOperation::Insert(region)] if region.window.is_none() => {
                map.insertion_index(region).map(|_| vec![region.clone()])
            }
            [MapOperation::Remove(_) | MapOperation::Replace(..)] => Ok(vec![]),
            // Only all steps together tell: a later one may take out what an earlier one added.
            _ => self.change_of(map, interrupt).map(|change| change.arriving().cloned().collect()),
        }
    }
}

/// How `after` differs from `before`.
#[derive(Clone, Debug)]
pub struct Change {
    /// The map before.
    pub before: Arc<RegionMap>,
    /// The map behind it.
    pub after: Arc<RegionMap>,
    /// Regions only in `after`.
    pub added: Vec<RegionEntry>,
    /// Regions only in `before`.
    pub removed: Vec<RegionEntry>,
    /// Regions that kept range and backing and changed otherwise.
    pub replaced: Vec<(RegionEntry, RegionEntry)>,
    /// Whether added regions show bytes of removed ones; in most changes none does, and nobody need look.
    reshapes: bool,
}

impl Change {
    /// Compares any two maps region by region, by value.
    #[must_use]
    pub fn between(before: &Arc<RegionMap>, after: &Arc<RegionMap>) -> Self {
        let same = |old: &RegionEntry, new: &RegionEntry| Arc::ptr_eq(old, new) || old.desc == new.desc;
        Self::by(before, after, same, |old, new| new.has_backing_of(old))
    }

    /// Compares a map with one that operations made of it, by id.
    ///
    /// A region that was taken out and put back counts as removed and added, however equal it is, for its memory is new. A region
    /// whose description was replaced, once or many times, keeps its id and counts as replaced.
    #[must_use]
    pub fn of_operations(before: &Arc<RegionMap>, after: &Arc<RegionMap>) -> Self {
        Self::by(before, after, RegionEntry::is, |old, new| old.id == new.id && old.range == new.range)
    }

    fn by(
        before: &Arc<RegionMap>,
        after: &Arc<RegionMap>,
        same: impl Fn(&RegionEntry, &RegionEntry) -> bool,
        replaces: impl Fn(&RegionEntry, &RegionEntry) -> bool,
    ) -> Self {
        let (mut added, mut removed, mut replaced) = (Vec::new(), Vec::new(), Vec::new());
        let (before_middle, after_middle) = trimmed(before.regions(), after.regions(), &same);
        let mut old = before_middle.iter().peekable();
        for new in after_middle {
            // Both ascend by base: whatever begins before the next new region is in the old map alone.
            while let Some(gone) = old.next_if(|old| old.base() < new.base()) {
                removed.push(gone.clone());
            }
            match old.next_if(|old| old.base() == new.base()) {
                Some(old) if same(old, new) => {}
                Some(old) if replaces(old, new) => replaced.push((old.clone(), new.clone())),
                there => {
                    removed.extend(there.cloned());
                    added.push(new.clone());
                }
            }
        }
        removed.extend(old.cloned());
        let reshapes = shares_origin(&removed, &added);
        Self { reshapes, before: Arc::clone(before), after: Arc::clone(after), added, removed, replaced }
    }

    /// Every region of a map arrives.
    #[must_use]
    pub fn attach_all(map: &Arc<RegionMap>) -> Self {
        Self {
            // Nothing was there as far as a client knows that is shown the map for the first time.
            before: Arc::new(map.without_regions()),
            after: Arc::clone(map),
            added: map.regions().to_vec(),
            removed: vec![],
            replaced: vec![],
            reshapes: false,
        }
    }

    /// Every region of a map leaves, and the map itself stays.
    #[must_use]
    pub fn detach_all(map: &Arc<RegionMap>) -> Self {
        let (before, after) = (Arc::clone(map), Arc::clone(map));
        Self { before, after, added: vec![], removed: map.regions().to_vec(), replaced: vec![], reshapes: false }
    }

    /// The regions of a map get new memory: each is taken out and put back.
    #[must_use]
    pub fn remap(map: &Arc<RegionMap>) -> Self {
        Self { before: Arc::clone(map), removed: map.regions().to_vec(), ..Self::attach_all(map) }
    }

    /// The removed region whose bytes an added one shows first, when it was cut, joined or moved.
    #[must_use]
    pub fn source_of(&self, added: &RegionEntry) -> Option<&RegionEntry> {
        let is_source = |old: &&RegionEntry| old.origin == added.origin && old.bytes().contains(added.at);
        self.removed.iter().filter(|_| self.reshapes).find(is_source)
    }

    /// The added regions that bring memory of their own.
    pub fn arriving(&self) -> impl Iterator<Item = &RegionEntry> {
        self.added.iter().filter(|added| self.brings_memory(added))
    }

    /// Whether an added region brings memory of its own, and shows none that is there.
    #[must_use]
    pub fn brings_memory(&self, added: &RegionEntry) -> bool {
        self.source_of(added).is_none() && !self.is_shown_before(added)
    }

    /// Whether an added window shows bytes that are there.
    fn is_shown_before(&self, added: &RegionEntry) -> bool {
        let Some(window) = &added.window else { return false };
        let shows = |old: &RegionEntry| old.origin == added.origin && old.bytes().overlaps(&added.bytes());
        matches!(window.of, ShownBytes::Part(_)) || self.before.regions().iter().any(shows)
    }

    /// Keepers of the bytes of added windows.
    #[must_use]
    pub fn kept_parts(&self) -> Vec<Arc<dyn KeptBytes>> {
        self.added.iter().filter_map(|added| added.window.as_ref()?.kept()).collect()
    }

    /// Regions that are seen at another base: each as it was and as it is.
    pub fn moved(&self) -> impl Iterator<Item = (&RegionEntry, &RegionEntry)> {
        let pair = |old| self.added.iter().find(|new| is_moved(old, new)).map(|new| (old, new));
        self.removed.iter().filter(|_| self.reshapes).filter_map(pair)
    }

    /// Regions that were cut where they are: each with its parts that are still there.
    pub fn cut(&self) -> impl Iterator<Item = (&RegionEntry, Vec<&RegionEntry>)> {
        let is_part = |old: &RegionEntry, new: &RegionEntry| new.agrees_with(old) && old.range.covers(&new.range);
        let parts = move |old| self.added.iter().filter(|new| is_part(old, new)).collect::<Vec<_>>();
        let all = self.removed.iter().filter(|_| self.reshapes).map(move |old| (old, parts(old)));
        all.filter(|(old, parts)| parts.first().is_some_and(|part| part.size() < old.size()))
    }

    /// The added regions that take addresses which they, or what they were cut from, did not have.
    #[must_use]
    pub fn claims(&self) -> Vec<RegionEntry> {
        if !self.reshapes {
            return self.added.clone();
        }
        let had = |added: &RegionEntry| {
            let agreeing = self.removed.iter().filter(|old| old.agrees_with(added)).map(|old| old.range);
            without(&[added.range], &agreeing.collect::<Vec<_>>()).is_empty()
        };
        self.added.iter().filter(|added| !had(added)).cloned().collect()
    }

    /// The addresses at which bytes of a removed region are no longer seen.
    #[must_use]
    pub fn left_of(&self, removed: &RegionEntry) -> Vec<Range> {
        if !self.reshapes {
            return vec![removed.range];
        }
        let stays = self.added.iter().filter(|added| added.agrees_with(removed)).map(|added| added.range);
        without(&[removed.range], &stays.collect::<Vec<_>>())
    }

    /// Whether a removed region goes on under its id, cut, joined or moved.
    #[must_use]
    pub fn goes_on(&self, removed: &RegionEntry) -> bool {
        self.added.iter().filter(|_| self.reshapes).any(|added| added.id == removed.id)
    }

    /// Whether a removed region shares an address with an added one.
    #[must_use]
    pub fn is_in_the_way(&self, removed: &RegionEntry) -> bool {
        // Added regions are sorted and disjoint: the first that ends behind the removed one's base is the only one that can reach it
        // from below, and if it begins behind the removed one's end, so do all others.
        let behind = self.added.partition_point(|added| added.end() <= removed.base());
        self.added.get(behind).is_some_and(|added| added.range.overlaps(&removed.range))
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.replaced.is_empty()
    }
}

fn is_moved(old: &RegionEntry, new: &RegionEntry) -> bool {
    old.id == new.id && old.size() == new.size() && old.bytes() == new.bytes() && old.base() != new.base()
}

fn shares_origin(removed: &[RegionEntry], added: &[RegionEntry]) -> bool {
    let mut origins: Vec<Origin> = removed.iter().map(|region| region.origin).collect();
    origins.sort_unstable();
    added.iter().any(|region| origins.binary_search(&region.origin).is_ok())
}

/// Both without the regions at their start and at their end that are the same: a change in a large map touches few regions.
fn trimmed<'a>(
    before: Sublist<'a, RegionEntry>,
    after: Sublist<'a, RegionEntry>,
    same: impl Fn(&RegionEntry, &RegionEntry) -> bool,
) -> (Sublist<'a, RegionEntry>, Sublist<'a, RegionEntry>) {
    let is_same = |(old, new): &(&RegionEntry, &RegionEntry)| same(old, new);
    let start = before.iter().zip(after).take_while(is_same).count();
    let (before, after) = (before.sublist(start..before.len()), after.sublist(start..after.len()));
    let end = before.iter().rev().zip(after.iter().rev()).take_while(is_same).count();
    let without_end = |rest: Sublist<'a, RegionEntry>| rest.sublist(0..rest.len().saturating_sub(end));
    (without_end(before), without_end(after))
}

impl std::fmt::Display for Change {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut lines: Vec<(u64, String)> = Vec::new();
        lines.extend(self.removed.iter().map(|region| (region.base(), format!("- {}", super::region::repr(region)))));
        lines.extend(self.added.iter().map(|region| (region.base(), format!("+ {}", super::region::repr(region)))));
        for (old, new) in &self.replaced {
            lines.push((old.base(), format!("~ {} -> {}", super::region::repr(old), super::region::repr(new))));
        }
        // Stable: at one base the removed region stands before the added one.
        lines.sort_by_key(|(base, _)| *base);
        let text: Vec<String> = lines.into_iter().map(|(_, line)| line).collect();
        formatter.write_str(&text.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::interrupt::Uninterrupted;
    use crate::model::layout::Layout;
    use crate::model::range::Range;
    use crate::model::region::{Region, RegionType};
    use crate::model::source::Source;

    fn region(base: u64, name: &str) -> SharedRegion {
        let range = Range::new(base, 0x1000).unwrap();
        let region = Region::new(RegionType::DefaultMemory, range, Source::default()).unwrap();
        Arc::new(Region { name: Some(name.into()), ..region })
    }

    fn map(regions: &[&SharedRegion]) -> Arc<RegionMap> {
        let regions = regions.iter().copied().cloned().collect();
        Arc::new(RegionMap::from_regions(regions, Layout::new(1 << 46, 0, 1 << 45, vec![]).unwrap()).unwrap())
    }

    fn names(regions: &[RegionEntry]) -> Vec<&str> {
        regions.iter().filter_map(|region| region.name.as_deref()).collect()
    }

    fn changed(before: &Arc<RegionMap>, operations: &[MapOperation]) -> Change {
        Change::of_operations(before, &Arc::new(MapOperation::apply_all(operations, before, &Uninterrupted).unwrap()))
    }

    #[test]
    fn a_target_is_looked_up_in_the_map_at_hand() {
        let (low, high) = (region(0, "low"), region(0x1000, "high"));
        let map = map(&[&low, &high]);
        for target in [
            RegionTarget::Base(0x1000),
            RegionTarget::Name("high".into()),
            RegionTarget::Region(region(0x1000, "high")),
        ] {
            assert!(Arc::ptr_eq(target.find(&map).unwrap(), &high));
        }
        for target in [
            RegionTarget::Base(0x1800),
            RegionTarget::Name("none".into()),
            RegionTarget::Region(region(0x1000, "other")),
        ] {
            assert!(matches!(target.find(&map), Err(Error::Unmapped { .. } | Error::UnknownName { .. })));
        }
    }

    #[test]
    fn a_region_put_back_is_new_and_one_replaced_is_kept() {
        let (gone, kept, renamed) = (region(0, "gone"), region(0x1000, "kept"), region(0x1000, "renamed"));
        let before = map(&[&gone, &kept]);
        let change = changed(
            &before,
            &[
                MapOperation::Remove(RegionTarget::Base(0)),
                MapOperation::insert(region(0, "gone")),
                MapOperation::Replace(RegionTarget::Name("kept".into()), region(0x1000, "between")),
                MapOperation::Replace(RegionTarget::Name("between".into()), Arc::clone(&renamed)),
            ],
        );
        assert_eq!((names(&change.removed), names(&change.added)), (vec!["gone"], vec!["gone"]));
        let [(old, new)] = change.replaced.as_slice() else { panic!("{change}") };
        assert!(Arc::ptr_eq(old, &kept) && Arc::ptr_eq(new, &renamed));
        assert!(Change::between(&before, &map(&[&gone, &kept])).is_empty());
    }

    #[test]
    fn a_region_that_came_and_went_is_no_difference() {
        let before = map(&[&region(0, "low")]);
        let change = changed(
            &before,
            &[
                MapOperation::insert(region(0x1000, "new")),
                MapOperation::Replace(RegionTarget::Base(0x1000), region(0x1000, "newer")),
                MapOperation::Remove(RegionTarget::Name("newer".into())),
            ],
        );
        assert!(change.is_empty(), "{change}");
    }

    #[test]
    fn a_replaced_region_that_is_removed_is_the_one_of_before() {
        let low = region(0, "low");
        let before = map(&[&low]);
        let renamed = region(0, "renamed");
        let operations =
            [MapOperation::Replace(RegionTarget::Base(0), renamed), MapOperation::Remove(RegionTarget::Base(0))];
        let change = changed(&before, &operations);
        assert!(Arc::ptr_eq(&change.removed[0], &low));
        assert!(change.replaced.is_empty());
    }

    #[test]
    fn the_same_region_put_back_is_another_under_another_id() {
        let low = region(0, "low");
        let before = map(&[&low]);
        let change =
            changed(&before, &[MapOperation::Remove(RegionTarget::Base(0)), MapOperation::insert(Arc::clone(&low))]);
        assert_eq!((names(&change.removed), names(&change.added)), (vec!["low"], vec!["low"]));
        assert!(Arc::ptr_eq(&change.removed[0], &change.added[0]));
        assert_ne!(change.removed[0].id, change.added[0].id);
        assert_eq!(change.before, change.after);
    }

    #[test]
    fn a_replacement_keeps_the_id_and_one_undone_is_no_difference() {
        let low = region(0, "low");
        let before = map(&[&low]);
        let there = MapOperation::Replace(RegionTarget::Base(0), region(0, "renamed"));
        let back = MapOperation::Replace(RegionTarget::Base(0), Arc::clone(&low));
        let change = changed(&before, std::slice::from_ref(&there));
        let [(old, new)] = change.replaced.as_slice() else { panic!("{change}") };
        assert_eq!(old.id, new.id);
        assert!(changed(&before, &[there, back]).is_empty());
    }

    #[test]
    fn the_first_refused_operation_is_the_error() {
        let before = map(&[&region(0, "low")]);
        for refused in [MapOperation::insert(region(0x800, "over")), MapOperation::Remove(RegionTarget::Base(0x800))] {
            let operations = [MapOperation::insert(region(0x2000, "fits")), refused];
            assert!(MapOperation::apply_all(&operations, &before, &Uninterrupted).is_err());
        }
        assert_eq!(before.regions().len(), 1);
    }

    #[test]
    fn a_difference_prints_in_address_order() {
        let (low, high) = (region(0, "low"), region(0x2000, "high"));
        let after = map(&[&region(0x1000, "middle"), &region(0x2000, "renamed")]);
        let text = Change::between(&map(&[&low, &high]), &after).to_string();
        let signs: Vec<char> = text.lines().filter_map(|line| line.chars().next()).collect();
        assert_eq!(signs, ['-', '+', '~']);
        assert!(text.contains("'high' DEFAULT_MEMORY [0x2000, 0x3000)") && text.contains("-> "), "{text}");
    }

    fn ram(base: u64, size: u64) -> SharedRegion {
        let range = Range::new(base, size).unwrap();
        Arc::new(Region::new(RegionType::DefaultMemory, range, Source::default()).unwrap())
    }

    #[test]
    fn only_a_removed_region_under_an_added_one_is_in_the_way() {
        let layout = Layout::new(1 << 46, 0, 1 << 45, vec![]).unwrap();
        let removed = [ram(0, 0x1000), ram(0x2000, 0x1000), ram(0x5000, 0x4000)];
        let added = [ram(0x1000, 0x1000), ram(0x8000, 0x1000)];
        let map =
            |regions: &[SharedRegion]| Arc::new(RegionMap::from_regions(regions.to_vec(), layout.clone()).unwrap());
        let change = Change::between(&map(&removed), &map(&added));
        assert_eq!(
            change.removed.iter().map(|old| change.is_in_the_way(old)).collect::<Vec<_>>(),
            [false, false, true]
        );
        let remap = Change::remap(&map(&removed));
        assert!(remap.removed.iter().all(|old| remap.is_in_the_way(old)));
        assert!(Change::attach_all(&map(&removed)).before.regions().is_empty());
    }
}
