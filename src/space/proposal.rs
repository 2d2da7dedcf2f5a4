//! A change as clients are shown it: the maps, and the host side of every region.

use std::sync::Arc;

use crate::memory::mapped_regions::MappedRegions;
use crate::memory::region::MappedRegion;
use crate::model::change::Change;
use crate::model::region_map::RegionEntry;

/// A change with the memory before and behind it.
#[derive(Debug)]
pub struct Proposal {
    /// The difference between the maps.
    pub change: Change,
    before: Option<Arc<MappedRegions>>,
    after: Option<Arc<MappedRegions>>,
}

impl Proposal {
    pub(super) const fn new(
        change: Change,
        before: Option<Arc<MappedRegions>>,
        after: Option<Arc<MappedRegions>>,
    ) -> Self {
        Self { change, before, after }
    }

    /// The host side of an added, kept or removed region; an added one has it before anything is published.
    ///
    /// A replaced region has one under each description: it is the same memory.
    #[must_use]
    pub fn mapping(&self, region: &RegionEntry) -> Option<&Arc<MappedRegion>> {
        // Looked for on both sides, for a region that was taken out and put back has the same base, and another id.
        let sides = [&self.after, &self.before].map(|side| side.as_ref()?.for_participant(region.base()));
        sides.into_iter().flatten().find(|mapped| mapped.is(region))
    }

    /// The host side that a kept or removed region had before the change.
    #[must_use]
    pub fn mapping_before(&self, region: &RegionEntry) -> Option<&Arc<MappedRegion>> {
        let mapped = self.before.as_ref()?.for_participant(region.base());
        mapped.filter(|mapped| mapped.is(region))
    }

    /// Whether there is memory at all.
    #[must_use]
    pub const fn has_memory(&self) -> bool {
        self.before.is_some() || self.after.is_some()
    }

    /// Whether the memory is closed, so that clients lose sight of every region.
    #[must_use]
    pub const fn ends_memory(&self) -> bool {
        self.before.is_some() && self.after.is_none()
    }

    /// Whether regions that were there without memory get it; the map stays as it is.
    #[must_use]
    pub fn renews_memory(&self) -> bool {
        self.before.is_none() && self.after.is_some() && !self.change.removed.is_empty()
    }

    /// The removed regions that are in the way of an added one, so that they must go first.
    pub fn removed_before(&self) -> impl DoubleEndedIterator<Item = &RegionEntry> {
        self.change.removed.iter().filter(|region| self.change.is_in_the_way(region))
    }

    /// The other removed regions, which go once the change is published.
    pub fn removed_after(&self) -> impl Iterator<Item = &RegionEntry> {
        self.change.removed.iter().filter(|region| !self.change.is_in_the_way(region))
    }
}
