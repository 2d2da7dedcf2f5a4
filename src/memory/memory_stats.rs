//! Reads back from the kernel what it really gave.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::region::MappedRegion;
use super::section::Section;
use super::source_error::failed;
use super::topology;
use crate::model::error::Result;
use crate::model::int::{u64_of, usize_of};
use crate::model::policy::{NumaPolicy, PolicyMode};
use crate::model::region::SharedRegion;
use crate::sys::host::page_size;
use crate::sys::numa;
use crate::sys::smaps::{self, Smaps};

/// The number of pages of a region that are looked at for their node, at the most.
const SAMPLES: usize = 1024;

/// The state of one region's memory.
#[derive(Clone, Debug)]
pub struct MemoryStats {
    /// The region.
    pub region: SharedRegion,
    /// The kernel's sums.
    pub sums: Smaps,
    /// The policy that the kernel has for it.
    pub policy: Option<NumaPolicy>,
    /// Sampled pages that are there, by their node.
    pub nodes: BTreeMap<u32, u64>,
}

/// The nodes of a region's sampled pages, beside the policy that was asked for.
#[derive(Clone, Debug)]
pub struct NumaPlacement {
    /// The region.
    pub region: SharedRegion,
    /// The policy that was asked for.
    pub policy: Option<NumaPolicy>,
    /// Pages that were looked at.
    pub sampled: u64,
    /// Of these, pages that are there, by their node.
    pub nodes: BTreeMap<u32, u64>,
    /// Of these, pages on a node that the policy does not name.
    pub misplaced: u64,
}

/// The state of each section's region, from one look at `/proc/self/smaps`.
pub fn effective(sections: &[Section<'_>]) -> Result<Vec<MemoryStats>> {
    let ranges: Vec<(usize, usize)> = sections.iter().map(|section| addresses(section.region())).collect();
    let Some(first) = sections.first() else { return Ok(Vec::new()) };
    let sums = smaps::read(&ranges);
    let sums = sums.map_err(|error| failed(first.region().desc(), "reading /proc/self/smaps failed", &error))?;
    sections.iter().zip(sums).map(|(section, sums)| effective_region(section.region(), sums)).collect()
}

fn addresses(region: &MappedRegion) -> (usize, usize) {
    let (host, size) = region.pages();
    (host.addr(), size)
}

fn effective_region(region: &MappedRegion, mut sums: Smaps) -> Result<MemoryStats> {
    let (host, size) = region.pages();
    if sums.reaches_out {
        // The kernel joined the mapping with a neighbour. mincore counts our pages alone;
        // no call does so for the rest, which is only bounded.
        let resident = smaps::resident(host, size, usize_of(page_size()));
        sums.resident = u64_of(resident.map_err(|error| failed(region.desc(), "mincore failed", &error))?);
        sums.huge = sums.huge.min(sums.resident);
        sums.locked = sums.locked.min(region.desc().size());
    }
    let policy = topology::policy_at(host);
    Ok(MemoryStats { region: Arc::clone(region.desc()), sums, policy, nodes: sample(region)?.1 })
}

/// The nodes of the pages of each section's region.
pub fn placements(sections: &[Section<'_>]) -> Result<Vec<NumaPlacement>> {
    sections.iter().map(|section| placement(section.region())).collect()
}

fn placement(region: &MappedRegion) -> Result<NumaPlacement> {
    let policy = region.desc().numa_policy().filter(|policy| policy.mode != PolicyMode::Default);
    let (sampled, nodes) = sample(region)?;
    let is_misplaced =
        |node: u32| policy.as_ref().is_some_and(|policy| !policy.nodes.is_empty() && !policy.allows(node));
    let misplaced = nodes.iter().filter(|(node, _)| is_misplaced(**node)).map(|(_, pages)| *pages).sum();
    Ok(NumaPlacement { region: Arc::clone(region.desc()), policy, sampled, nodes, misplaced })
}

/// The number of pages that were looked at, evenly spread over the region, and of those that are there the number on each node.
fn sample(region: &MappedRegion) -> Result<(u64, BTreeMap<u32, u64>)> {
    let (host, size) = region.pages();
    let pages = (0..size).step_by(usize_of(region.storage().page_size()));
    let every = pages.len().div_ceil(SAMPLES).max(1);
    let hosts: Vec<*mut u8> = pages.step_by(every).map(|offset| host.wrapping_add(offset)).collect();
    let found = numa::nodes_of(&hosts).map_err(|error| failed(region.desc(), "move_pages failed", &error))?;
    let mut found: Vec<u32> = found.into_iter().flatten().collect();
    found.sort_unstable();
    let alike = found.chunk_by(|one, next| one == next);
    Ok((u64_of(hosts.len()), alike.filter_map(|pages| Some((*pages.first()?, u64_of(pages.len())))).collect()))
}
