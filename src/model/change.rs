//! What a change does to a map, and how one map differs from another.

use std::sync::Arc;

use super::error::Result;
use super::region::SharedRegion;
use super::region_map::RegionMap;

/// Which region of a map is meant; looked up in the map that is being changed.
#[derive(Clone, Debug)]
pub enum Target {
    /// The region that starts at an address.
    Base(u64),
    /// The region of that name.
    Name(Box<str>),
    /// The region that equals this one.
    Region(SharedRegion),
}

impl Target {
    /// The region that is meant, in one map.
    pub fn find<'a>(&self, map: &'a RegionMap) -> Result<&'a SharedRegion> {
        match self {
            Self::Base(base) => map.at_base(*base),
            Self::Name(name) => map.at_name(name),
            Self::Region(region) => map.equal_to(region),
        }
    }
}

/// One step of a change, which can be replayed on a newer map.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Add a region.
    Insert(SharedRegion),
    /// Take out a region.
    Remove(Target),
    /// Put the second in the place of the first.
    Replace(Target, SharedRegion),
}

/// Operations applied to a map.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The map behind them.
    pub map: RegionMap,
    /// For each region that replaced another: itself, and the one that it stands for in the map before.
    origins: Vec<(SharedRegion, SharedRegion)>,
}

impl Replay {
    /// Begins with a map.
    #[must_use]
    pub fn on(map: RegionMap) -> Self {
        Self { map, origins: Vec::new() }
    }

    /// Applies all operations, or fails at the first that the map refuses.
    pub fn all<'a>(map: &RegionMap, operations: impl IntoIterator<Item = &'a Operation>) -> Result<Self> {
        let mut replay = Self::on(map.clone());
        operations.into_iter().try_for_each(|operation| replay.apply(operation))?;
        Ok(replay)
    }

    /// Applies one operation, or changes nothing.
    pub fn apply(&mut self, operation: &Operation) -> Result<()> {
        self.map = match operation {
            Operation::Insert(region) => self.map.insert(region)?,
            Operation::Remove(target) => self.map.remove(target.find(&self.map)?)?,
            Operation::Replace(target, new) => {
                let old = Arc::clone(target.find(&self.map)?);
                let map = self.map.replace(&old, new)?;
                let first = origin(&self.origins, &old).map_or(old, Arc::clone);
                self.origins.push((Arc::clone(new), first));
                map
            }
        };
        Ok(())
    }
}

fn origin<'a>(origins: &'a [(SharedRegion, SharedRegion)], region: &SharedRegion) -> Option<&'a SharedRegion> {
    origins.iter().rev().find(|(new, _)| Arc::ptr_eq(new, region)).map(|(_, first)| first)
}

/// How `after` differs from `before`.
#[derive(Clone, Debug)]
pub struct Change {
    /// The map before.
    pub before: Arc<RegionMap>,
    /// The map behind it.
    pub after: Arc<RegionMap>,
    /// Regions only in `after`.
    pub added: Vec<SharedRegion>,
    /// Regions only in `before`.
    pub removed: Vec<SharedRegion>,
    /// Regions that kept range and backing and changed otherwise.
    pub replaced: Vec<(SharedRegion, SharedRegion)>,
}

impl Change {
    /// Compares two maps region by region, by value.
    #[must_use]
    pub fn between(before: &Arc<RegionMap>, after: &Arc<RegionMap>) -> Self {
        Self::by(before, after, |old, new| Arc::ptr_eq(old, new) || old == new, |old, new| new.has_backing_of(old))
    }

    /// Compares by identity: a region taken out and put back counts as removed and added, for its memory is new; only what
    /// the operations replaced is a replacement.
    #[must_use]
    pub fn of_replay(before: &Arc<RegionMap>, replay: Replay) -> Self {
        let Replay { map, origins } = replay;
        let replaces = |old: &SharedRegion, new: &SharedRegion| {
            origin(&origins, new).is_some_and(|origin| Arc::ptr_eq(origin, old))
        };
        Self::by(before, &Arc::new(map), Arc::ptr_eq, replaces)
    }

    fn by(
        before: &Arc<RegionMap>,
        after: &Arc<RegionMap>,
        same: impl Fn(&SharedRegion, &SharedRegion) -> bool,
        replaces: impl Fn(&SharedRegion, &SharedRegion) -> bool,
    ) -> Self {
        let (mut added, mut removed, mut replaced) = (Vec::new(), Vec::new(), Vec::new());
        let (before_middle, after_middle) = trimmed(before.regions(), after.regions());
        let mut old = before_middle.iter().peekable();
        for new in after_middle {
            while let Some(gone) = old.next_if(|old| old.base() < new.base()) {
                removed.push(Arc::clone(gone));
            }
            match old.next_if(|old| old.base() == new.base()) {
                Some(old) if same(old, new) => {}
                Some(old) if replaces(old, new) => replaced.push((Arc::clone(old), Arc::clone(new))),
                there => {
                    removed.extend(there.cloned());
                    added.push(Arc::clone(new));
                }
            }
        }
        removed.extend(old.cloned());
        Self { before: Arc::clone(before), after: Arc::clone(after), added, removed, replaced }
    }

    /// The attach_all of every region of a map.
    #[must_use]
    pub fn attach_all(map: &Arc<RegionMap>) -> Self {
        Self {
            before: Arc::new(map.without_regions()),
            after: Arc::clone(map),
            added: map.regions().to_vec(),
            removed: vec![],
            replaced: vec![],
        }
    }

    /// The detach_all of every region of a map that itself stays.
    #[must_use]
    pub fn detach_all(map: &Arc<RegionMap>) -> Self {
        let (before, after) = (Arc::clone(map), Arc::clone(map));
        Self { before, after, added: vec![], removed: map.regions().to_vec(), replaced: vec![] }
    }

    /// The regions of a map get new memory: each is taken out and put back.
    #[must_use]
    pub fn remap(map: &Arc<RegionMap>) -> Self {
        Self { before: Arc::clone(map), removed: map.regions().to_vec(), ..Self::attach_all(map) }
    }

    /// Whether a removed region shares an address with an added one.
    #[must_use]
    pub fn is_in_the_way(&self, removed: &SharedRegion) -> bool {
        let behind = self.added.partition_point(|added| added.end() <= removed.base());
        self.added.get(behind).is_some_and(|added| added.range.overlaps(&removed.range))
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.replaced.is_empty()
    }
}

/// Both without the regions at their start and at their end that they share.
fn trimmed<'a>(before: &'a [SharedRegion], after: &'a [SharedRegion]) -> (&'a [SharedRegion], &'a [SharedRegion]) {
    let is_shared = |(old, new): &(&SharedRegion, &SharedRegion)| Arc::ptr_eq(old, new);
    let head = before.iter().zip(after).take_while(is_shared).count();
    let (before, after) = (before.get(head..).unwrap_or_default(), after.get(head..).unwrap_or_default());
    let tail = before.iter().rev().zip(after.iter().rev()).take_while(is_shared).count();
    let without = |regions: &'a [SharedRegion]| regions.get(..regions.len().saturating_sub(tail)).unwrap_or_default();
    (without(before), without(after))
}

impl std::fmt::Display for Change {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut lines: Vec<(u64, String)> = Vec::new();
        lines.extend(self.removed.iter().map(|region| (region.base(), format!("- {}", super::region::repr(region)))));
        lines.extend(self.added.iter().map(|region| (region.base(), format!("+ {}", super::region::repr(region)))));
        for (old, new) in &self.replaced {
            lines.push((old.base(), format!("~ {} -> {}", super::region::repr(old), super::region::repr(new))));
        }
        lines.sort_by_key(|(base, _)| *base);
        let text: Vec<String> = lines.into_iter().map(|(_, line)| line).collect();
        formatter.write_str(&text.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::error::Error;
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

    fn names<'a>(regions: impl IntoIterator<Item = &'a SharedRegion>) -> Vec<&'a str> {
        regions.into_iter().filter_map(|region| region.name.as_deref()).collect()
    }

    fn replayed(before: &Arc<RegionMap>, operations: &[Operation]) -> Change {
        Change::of_replay(before, Replay::all(before, operations).unwrap())
    }

    #[test]
    fn a_target_is_looked_up_in_the_map_at_hand() {
        let (low, high) = (region(0, "low"), region(0x1000, "high"));
        let map = map(&[&low, &high]);
        for target in [Target::Base(0x1000), Target::Name("high".into()), Target::Region(region(0x1000, "high"))] {
            assert!(Arc::ptr_eq(target.find(&map).unwrap(), &high));
        }
        for target in [Target::Base(0x1800), Target::Name("none".into()), Target::Region(region(0x1000, "other"))] {
            assert!(matches!(target.find(&map), Err(Error::Unmapped { .. } | Error::UnknownName { .. })));
        }
    }

    #[test]
    fn a_region_put_back_is_new_and_one_replaced_is_kept() {
        let (gone, kept, renamed) = (region(0, "gone"), region(0x1000, "kept"), region(0x1000, "renamed"));
        let before = map(&[&gone, &kept]);
        let change = replayed(
            &before,
            &[
                Operation::Remove(Target::Base(0)),
                Operation::Insert(region(0, "gone")),
                Operation::Replace(Target::Name("kept".into()), region(0x1000, "between")),
                Operation::Replace(Target::Name("between".into()), Arc::clone(&renamed)),
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
        let change = replayed(
            &before,
            &[
                Operation::Insert(region(0x1000, "new")),
                Operation::Replace(Target::Base(0x1000), region(0x1000, "newer")),
                Operation::Remove(Target::Name("newer".into())),
            ],
        );
        assert!(change.is_empty(), "{change}");
    }

    #[test]
    fn a_replaced_region_that_is_removed_is_the_one_of_before() {
        let low = region(0, "low");
        let before = map(&[&low]);
        let renamed = region(0, "renamed");
        let operations = [Operation::Replace(Target::Base(0), renamed), Operation::Remove(Target::Base(0))];
        let change = replayed(&before, &operations);
        assert!(Arc::ptr_eq(&change.removed[0], &low));
        assert!(change.replaced.is_empty());
    }

    #[test]
    fn a_refused_operation_changes_nothing() {
        let before = map(&[&region(0, "low")]);
        let mut replay = Replay::on((*before).clone());
        for refused in [Operation::Insert(region(0x800, "over")), Operation::Remove(Target::Base(0x800))] {
            assert!(replay.apply(&refused).is_err());
            assert_eq!(replay.map, *before);
        }
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
