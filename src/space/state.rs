//! What readers see: the map, and the memory behind it.

use std::sync::Arc;

use crate::memory::mapped_regions::MappedRegions;
use crate::memory::region::MappedRegion;
use crate::model::change::Change;
use crate::model::error::{Error, Result};
use crate::model::ids::Incarnation;
use crate::model::int::index_sum;
use crate::model::region_map::{RegionEntry, RegionMap};

/// One state of an address space.
#[derive(Clone, Debug)]
pub struct SpaceState {
    /// The regions and their layout.
    pub map: Arc<RegionMap>,
    /// Their memory, when the space is mapped.
    pub memory: Option<Arc<MappedRegions>>,
}

impl SpaceState {
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

    /// The memory after a change; `map` gives the memory of regions that were added.
    ///
    /// Regions that stay are taken over with their mappings and leases, by whole runs between those that the change touches.
    pub fn memory_after(
        &self,
        change: &Change,
        mut map: impl FnMut(&RegionEntry) -> Result<Arc<MappedRegion>>,
    ) -> Result<Option<Arc<MappedRegions>>> {
        let Some(memory) = &self.memory else { return Ok(None) };
        let edits = MemoryEdit::of(change);
        if edits.is_empty() {
            return Ok(Some(Arc::clone(memory)));
        }
        let mut next = memory.successor();
        let mut reached = 0;
        for edit in edits {
            let at = memory.index_of(edit.region().base()).max(reached);
            next.keep(memory, reached..at);
            reached = at;
            if let MemoryEdit::Add(new) = edit {
                next.push(map(new)?);
            } else if let Some(old) = memory.regions().get(at) {
                reached = index_sum(at, 1);
                if let MemoryEdit::Replace(new) = edit {
                    next.push(Arc::new(old.described(Arc::clone(new))));
                }
            }
        }
        next.keep(memory, reached..memory.regions().len());
        Ok(Some(Arc::new(next.finish())))
    }
}

/// What a change does to one region that has memory.
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
