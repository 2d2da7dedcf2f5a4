//! The needs that the regions of a plan have of a host.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::plan::SpacePlan;
use crate::model::policy::PolicyMode;
use crate::model::region::{MAP_NORESERVE, MAP_POPULATE, SharedRegion};
use crate::model::source::SourceType;

/// The bytes of regions of one plan, which are disjoint and lie below 2^52.
#[must_use]
pub fn bytes<'a>(regions: impl Iterator<Item = &'a SharedRegion>) -> u64 {
    regions.map(|region| region.size()).sum()
}

/// Whether its memory is locked.
#[must_use]
pub fn is_locked(region: &SharedRegion) -> bool {
    region.options.mlock == Some(true)
}

/// Whether all its pages must be there when it is built, and come from small ones.
#[must_use]
pub fn is_populated(region: &SharedRegion) -> bool {
    let is_small = !region.effective_source().is_some_and(SourceType::is_huge);
    is_small && (region.perm_flags & MAP_POPULATE != 0 || is_locked(region))
}

/// The regions that take pages from a pool when they are built, by the size of those pages.
#[must_use]
pub fn huge_regions(plan: &SpacePlan) -> BTreeMap<u64, Vec<&SharedRegion>> {
    let mut needed = BTreeMap::<u64, Vec<&SharedRegion>>::new();
    for region in plan.regions.iter().filter(|region| region.map_flags() & MAP_NORESERVE == 0) {
        if let Some(page_size) = region.options.page_size {
            needed.entry(page_size).or_default().push(region);
        }
    }
    needed
}

/// The pages of a size that regions have.
#[must_use]
pub fn pages(regions: &[&SharedRegion], page_size: u64) -> u64 {
    regions.iter().map(|region| region.size().div_ceil(page_size)).sum()
}

/// The nodes that a plan may take a region's memory from, and no others.
#[must_use]
pub fn bound_nodes(region: &SharedRegion) -> Option<BTreeSet<u32>> {
    let policy = region.numa_policy().filter(|policy| policy.mode == PolicyMode::Bind)?;
    Some(policy.nodes).filter(|nodes| !nodes.is_empty())
}
