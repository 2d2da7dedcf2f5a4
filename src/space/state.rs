//! What readers see: the map, and the memory behind it.

use std::sync::Arc;

use crate::memory::mapped_regions::MappedRegions;
use crate::memory::region::MappedRegion;
use crate::model::change::Change;
use crate::model::error::{Error, Result};
use crate::model::region::SharedRegion;
use crate::model::region_map::RegionMap;

/// One state of an address space.
#[derive(Clone, Debug)]
pub struct SpaceState {
    /// The regions and their layout.
    pub map: Arc<RegionMap>,
    /// Their memory, when the space is mapped. What is shared here outlives the snapshot without a lease: only a change may keep it.
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
    pub fn memory_of(&self, incarnation: u64) -> Result<&MappedRegions> {
        match &self.memory {
            Some(memory) if memory.incarnation() == incarnation => Ok(memory),
            _ => Err(Error::NotMapped {
                message: "this guest memory was closed: call map_memory() on the address space for a new one".into(),
            }),
        }
    }

    /// The memory after a change; `map` gives the memory of regions that were added.
    pub fn memory_after(
        &self,
        change: &Change,
        mut map: impl FnMut(&SharedRegion) -> Result<Arc<MappedRegion>>,
    ) -> Result<Option<Arc<MappedRegions>>> {
        let Some(memory) = &self.memory else { return Ok(None) };
        if !touches_memory(change) {
            return Ok(Some(Arc::clone(memory)));
        }
        let mut next = memory.successor();
        let mut reached = 0;
        for edit in edits(change) {
            let at = memory.index_of(edit.base()).max(reached);
            next.keep(memory, reached..at);
            reached = at;
            if let Some(old) = edit.old.and_then(|_| memory.regions().nth(at)) {
                reached = at.saturating_add(1);
                if let Some(new) = edit.new {
                    next.describe(old, new)?;
                }
            } else if let Some(new) = edit.new {
                next.push(map(new)?);
            }
        }
        next.keep(memory, reached..memory.regions().len());
        Ok(Some(Arc::new(next.finish())))
    }
}

/// A region that goes, one that comes, or one that takes the place and the memory of another.
struct Edit<'a> {
    old: Option<&'a SharedRegion>,
    new: Option<&'a SharedRegion>,
}

impl Edit<'_> {
    fn base(&self) -> u64 {
        self.old.or(self.new).map_or(0, |region| region.base())
    }
}

/// What a change does to regions that have memory, by ascending base; what goes before what comes.
fn edits(change: &Change) -> Vec<Edit<'_>> {
    let removed = change.removed.iter().map(|old| Edit { old: Some(old), new: None });
    let added = change.added.iter().map(|new| Edit { old: None, new: Some(new) });
    let replaced = change.replaced.iter().map(|(old, new)| Edit { old: Some(old), new: Some(new) });
    let has_memory = |edit: &Edit<'_>| edit.old.or(edit.new).is_some_and(|region| region.has_memory());
    let mut edits: Vec<_> = removed.chain(added).chain(replaced).filter(has_memory).collect();
    edits.sort_by_key(Edit::base);
    edits
}

fn touches_memory(change: &Change) -> bool {
    let touched = change.added.iter().chain(&change.removed).chain(change.replaced.iter().map(|(_, new)| new));
    touched.into_iter().any(|region| region.has_memory())
}
