//! What clients are shown of a change: the maps, and the host side of every region.

use std::sync::Arc;

use crate::memory::mapped_regions::MappedRegions;
use crate::memory::region::MappedRegion;
use crate::model::change::Change;
use crate::model::region::SharedRegion;

/// A change with the memory before and behind it.
#[derive(Debug)]
pub struct Proposal {
    /// What differs.
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
    #[must_use]
    pub fn mapping(&self, region: &SharedRegion) -> Option<&Arc<MappedRegion>> {
        let sides = [&self.after, &self.before].map(|side| side.as_ref()?.for_participant(region.base()));
        let same = |mapped: &&Arc<MappedRegion>| Arc::ptr_eq(mapped.desc(), region);
        let equal = |mapped: &&Arc<MappedRegion>| mapped.desc() == region;
        sides.into_iter().flatten().find(same).or_else(|| sides.into_iter().flatten().find(equal))
    }

    /// Whether there is memory at all.
    #[must_use]
    pub const fn has_memory(&self) -> bool {
        self.before.is_some() || self.after.is_some()
    }

    /// Whether the memory is closed, with which every region leaves the clients' sight.
    #[must_use]
    pub const fn ends_memory(&self) -> bool {
        self.before.is_some() && self.after.is_none()
    }

    /// Whether regions that were there without memory get it, which changes no map.
    #[must_use]
    pub fn renews_memory(&self) -> bool {
        self.before.is_none() && self.after.is_some() && !self.change.removed.is_empty()
    }

    /// The removed regions that are in the way of an added one, so that they must go first.
    pub fn removed_before(&self) -> impl DoubleEndedIterator<Item = &SharedRegion> {
        self.change.removed.iter().filter(|region| self.change.is_in_the_way(region))
    }

    /// The other removed regions, which go once the change is published.
    pub fn removed_after(&self) -> impl Iterator<Item = &SharedRegion> {
        self.change.removed.iter().filter(|region| !self.change.is_in_the_way(region))
    }
}
