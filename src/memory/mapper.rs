//! Maps regions one after the other: bound, advised, populated and locked as each asks.

use std::sync::Arc;

use super::kept::KeptMemory;
use super::prealloc;
use super::region::MappedRegion;
use super::section::Section;
use crate::model::alias;
use crate::model::error::Result;
use crate::model::interrupt::Interrupt;
use crate::model::range::Range;
use crate::model::region::MAP_POPULATE;
use crate::model::region::WindowSource;
use crate::model::region_map::RegionEntry;
use crate::model::room::Room;

/// Maps regions one after the other and tells how far it is.
#[allow(missing_debug_implementations, reason = "borrows a caller's trait object")]
pub struct Mapper<'a> {
    interrupt: &'a dyn Interrupt,
    /// From the bytes that are done to the bytes of all regions.
    left: Range,
}

impl<'a> Mapper<'a> {
    /// A mapper for regions of `total` bytes.
    pub fn new(interrupt: &'a dyn Interrupt, total: u64) -> Self {
        Self { interrupt, left: Range::between(0, total) }
    }

    /// Maps regions, those that show the same bytes on one storage; windows on a part that is kept are to be shown yet.
    pub fn map_all(&mut self, entries: &[RegionEntry]) -> Result<Vec<Arc<MappedRegion>>> {
        let shared = alias::shared_memories(entries)?;
        let mut mapped: Vec<Arc<MappedRegion>> = Vec::new();
        for entry in entries {
            let is_part = |whole: &&RegionEntry, entry: &RegionEntry| {
                whole.origin == entry.origin && whole.bytes().covers(&entry.bytes())
            };
            let kept = entry.window.as_ref().and_then(WindowSource::kept);
            let region = match shared.iter().find(|whole| is_part(whole, entry)) {
                _ if kept.is_some() => MappedRegion::showing(entry, &[], KeptMemory::downcast(kept.as_ref()))?,
                None => self.map(entry)?,
                Some(whole) => {
                    let there = mapped.iter().filter(|other| is_part(&whole, other.entry())).map(|other| &**other);
                    self.map_shared(entry, whole, &there.collect::<Vec<_>>())?
                }
            };
            mapped.add(Arc::new(region))?;
        }
        Ok(mapped)
    }

    fn map_shared(
        &mut self,
        entry: &RegionEntry,
        whole: &RegionEntry,
        there: &[&MappedRegion],
    ) -> Result<MappedRegion> {
        if there.is_empty() {
            return self.prepared(MappedRegion::map(entry, whole)?);
        }
        let region = MappedRegion::showing(entry, there, None)?;
        region.show()?;
        self.prepared(region)
    }

    /// Maps one region.
    pub fn map(&mut self, entry: &RegionEntry) -> Result<MappedRegion> {
        self.prepared(MappedRegion::map(entry, entry)?)
    }

    /// Sees to it that the pages that should be there from the beginning are.
    fn prepared(&mut self, region: MappedRegion) -> Result<MappedRegion> {
        let desc = region.desc();
        // Before any page is there: policy and advice decide where and how pages come.
        region.advise_all()?;
        let is_locked = desc.options.mlock == Some(true);
        if is_locked || desc.perm_flags & MAP_POPULATE != 0 {
            let (left, interrupt) = (self.left, self.interrupt);
            prealloc::populate(&[Section::whole(&region)], None, &mut |done| match left.skip(done) {
                // Report completion only once, after the last region is mapped and locked.
                left if left.is_empty() => interrupt.check(),
                left => interrupt.progress("populate", left.base(), left.end()),
            })?;
        }
        if is_locked {
            region.storage().lock(region.window().shown(), desc)?;
        }
        self.left = self.left.skip(desc.size());
        self.interrupt.progress("map", self.left.base(), self.left.end())?;
        Ok(region)
    }
}
