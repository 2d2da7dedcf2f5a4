//! The snapshot that readers see: the map, and the memory behind it.

use std::sync::Arc;

use crate::memory::kept::KeptMemory;
use crate::memory::mapped_regions::MappedRegions;
use crate::memory::region::MappedRegion;
use crate::model::change::Change;
use crate::model::error::{Error, Result};
use crate::model::ids::Incarnation;
use crate::model::int::index_sum;
use crate::model::region::WindowSource;
use crate::model::region_map::{RegionEntry, RegionMap};

/// One state of an address space.
#[derive(Clone, Debug)]
pub struct SpaceState {
    /// The regions and their layout.
    pub map: Arc<RegionMap>,
    /// Their memory, when the space is mapped. The `Arc` outlives the snapshot without a lease: only a change may keep it, and for a
    /// moment the look of who waits for a value.
    pub(super) memory: Option<Arc<MappedRegions>>,
}

impl SpaceState {
    /// The memory, when the space is mapped.
    #[must_use]
    pub fn memory(&self) -> Option<&MappedRegions> {
        self.memory.as_deref()
    }

    /// The memory of one `map_memory`, which `close` ends.
    #[inline]
    pub fn memory_of(&self, incarnation: Incarnation) -> Result<&MappedRegions> {
        match &self.memory {
            Some(memory) if memory.incarnation() == incarnation => Ok(memory),
            _ => Err(Error::NotMapped {
                message: "this guest memory was closed: call map_memory() on the address space for a new one".into(),
            }),
        }
    }

    /// The memory after a change; `map` gives the memory of regions that were added, which may show bytes of some that are there.
    ///
    /// Regions that stay are taken over with their mappings and leases, by whole runs between those that the change touches.
    pub fn memory_after(
        &self,
        change: &Change,
        mut map: impl FnMut(&RegionEntry, &[&MappedRegion]) -> Result<Arc<MappedRegion>>,
    ) -> Result<Option<Arc<MappedRegions>>> {
        let Some(memory) = &self.memory else { return Ok(None) };
        let edits = MemoryEdit::of(change);
        // Devices alone: the same object stays, and with it every cache of its layout.
        if edits.is_empty() {
            return Ok(Some(Arc::clone(memory)));
        }
        let mut next = memory.successor();
        let mut reached = 0;
        for edit in edits {
            // A new region may have the base of one that has just gone, and that must not be kept after all.
            let at = memory.index_of(edit.region().base()).max(reached);
            next.keep(memory, reached..at);
            reached = at;
            if let MemoryEdit::Add(new) = edit {
                next.push(map(new, &shown_by(memory, change, new))?)?;
            } else if let Some(old) = memory.get(at) {
                reached = index_sum(at, 1);
                if let MemoryEdit::Replace(new) = edit {
                    next.describe(old, new)?;
                }
            }
        }
        next.keep(memory, reached..memory.regions().len());
        Ok(Some(Arc::new(next.finish())))
    }
}

/// The regions that show bytes of an added one before a change; none for one that brings its own.
fn shown_by<'a>(memory: &'a MappedRegions, change: &Change, new: &RegionEntry) -> Vec<&'a MappedRegion> {
    let shows = |old: &RegionEntry| old.origin == new.origin && old.bytes().overlaps(&new.bytes());
    match &new.window {
        _ if change.brings_memory(new) => vec![],
        Some(_) => memory.regions().filter(|region| shows(region.entry())).collect(),
        None => {
            let mapped = |old: &RegionEntry| memory.find(old.base()).filter(|mapped| mapped.id() == old.id);
            change.removed.iter().filter(|old| shows(old)).filter_map(mapped).collect()
        }
    }
}

/// The region that shows bytes of others, or of a part that is kept.
pub(super) fn window_on(new: &RegionEntry, there: &[&MappedRegion]) -> Result<MappedRegion> {
    let kept = new.window.as_ref().and_then(WindowSource::kept);
    MappedRegion::showing(new, there, KeptMemory::downcast(kept.as_ref()))
}

/// One step from the memory before a change to the memory behind it.
enum MemoryEdit<'a> {
    Remove(&'a RegionEntry),
    /// The new description of memory that stays.
    Replace(&'a RegionEntry),
    Add(&'a RegionEntry),
}

impl<'a> MemoryEdit<'a> {
    const fn region(&self) -> &'a RegionEntry {
        let (Self::Remove(region) | Self::Replace(region) | Self::Add(region)) = self;
        region
    }

    /// Those of a change by ascending base; of two at one base, the region that goes comes first.
    fn of(change: &'a Change) -> Vec<Self> {
        let removed = change.removed.iter().map(Self::Remove);
        let replaced = change.replaced.iter().map(|(_, new)| Self::Replace(new));
        let added = change.added.iter().map(Self::Add);
        let all = removed.chain(replaced).chain(added);
        let mut edits: Vec<_> = all.filter(|edit| edit.region().has_memory()).collect();
        // Stable, so that the order above holds where bases are equal.
        edits.sort_by_key(|edit| edit.region().base());
        edits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::mapper::Mapper;
    use crate::model::change::{ChangeRequest, MapOperation, RegionTarget};
    use crate::model::interrupt::Uninterrupted;
    use crate::model::layout::Layout;
    use crate::model::range::Range;
    use crate::model::region::{Region, RegionType, SharedRegion};
    use crate::model::source::Source;

    fn region(page: u64, name: &str) -> Region {
        let region_type = if name == "uart" { RegionType::DeviceMemory } else { RegionType::DefaultMemory };
        let region = Region::new(region_type, Range::at(page << 12, 1 << 12), Source::default()).unwrap();
        Region { name: Some(name.into()), ..region }
    }

    fn map(region: &RegionEntry) -> Result<Arc<MappedRegion>> {
        Mapper::new(&Uninterrupted, region.size()).map(region).map(Arc::new)
    }

    /// A mapped state of four regions of RAM at even pages, and a device behind them.
    fn state() -> SpaceState {
        let names = ["a", "b", "c", "d"];
        let ram = names.into_iter().zip([0, 2, 4, 6]).map(|(name, page)| region(page, name));
        let regions: Vec<SharedRegion> = ram.chain([region(16, "uart")]).map(Arc::new).collect();
        let layout = Layout::new(32 << 12, 0, 16 << 12, vec![]).unwrap();
        let before = Arc::new(RegionMap::from_regions(regions, layout).unwrap());
        let ram = before.regions().iter().filter(|region| region.has_memory());
        let memory =
            MappedRegions::new(Incarnation::unique(), ram.map(|region| map(region).unwrap()).collect()).unwrap();
        SpaceState { map: before, memory: Some(Arc::new(memory)) }
    }

    fn after(state: &SpaceState, operations: &[MapOperation]) -> (Change, Arc<MappedRegions>) {
        let change = ChangeRequest::of(operations).change_of(&state.map, &Uninterrupted).unwrap();
        let memory = state.memory_after(&change, |region, _| map(region)).unwrap().unwrap();
        let ids = |map: &RegionMap| map.regions().iter().filter(|r| r.has_memory()).map(|r| r.id).collect::<Vec<_>>();
        assert_eq!(memory.regions().map(MappedRegion::id).collect::<Vec<_>>(), ids(&change.after));
        assert!(memory.regions().all(|mapped| change.after.find(mapped.desc().base()).is_some_and(|r| mapped.is(r))));
        (change, memory)
    }

    #[test]
    fn regions_that_stay_keep_their_memory_and_new_ones_have_their_own() {
        let state = state();
        let old = state.memory.clone().unwrap();
        let (_, new) = after(
            &state,
            &[
                MapOperation::Remove(RegionTarget::Base(0)),
                MapOperation::insert(region(1, "between")),
                MapOperation::Replace(RegionTarget::Name("b".into()), Arc::new(region(2, "renamed"))),
                MapOperation::Remove(RegionTarget::Name("c".into())),
                MapOperation::insert(region(4, "c")),
                MapOperation::insert(region(8, "last")),
            ],
        );
        let [_, b, c, d] = old.regions().collect::<Vec<_>>()[..] else { panic!() };
        let [_, renamed, put_back, kept, _] = new.regions().collect::<Vec<_>>()[..] else { panic!() };
        assert!(std::ptr::eq(d, kept));
        let has_memory_of = |one: &MappedRegion, other: &MappedRegion| {
            (one.storage().id() == other.storage().id(), one.window() == other.window())
        };
        assert_eq!(has_memory_of(b, renamed), (true, true));
        assert_eq!(has_memory_of(c, put_back), (false, false));
        assert_eq!(new.incarnation(), old.incarnation());
    }

    #[test]
    fn a_larger_region_may_take_the_place_of_many() {
        let operations = [0, 2, 4].map(|page| MapOperation::Remove(RegionTarget::Base(page << 12)));
        let mut large = region(0, "large");
        large.range = Range::at(0, 5 << 12);
        let (_, memory) = after(&state(), &[&operations[..], &[MapOperation::insert(large)]].concat());
        assert_eq!(memory.regions().map(|region| region.desc().size() >> 12).collect::<Vec<_>>(), [5, 1]);
    }

    #[test]
    fn a_change_of_devices_alone_keeps_the_memory_as_it_is() {
        let state = state();
        let (change, memory) = after(&state, &[MapOperation::Remove(RegionTarget::Name("uart".into()))]);
        assert!(Arc::ptr_eq(&memory, state.memory.as_ref().unwrap()));
        assert_eq!(change.removed.len(), 1);
    }

    #[test]
    fn memory_is_found_by_its_incarnation() {
        let state = state();
        let incarnation = state.memory.as_ref().unwrap().incarnation();
        assert!(state.memory_of(incarnation).is_ok());
        assert!(matches!(state.memory_of(Incarnation::unique()), Err(Error::NotMapped { .. })));
        assert!(SpaceState { memory: None, ..state }.memory_of(incarnation).is_err());
    }
}
