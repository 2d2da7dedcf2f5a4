//! The judgement whether a host can build a plan.

use std::collections::BTreeMap;

use super::topology;
use crate::model::format::size as size_text;
use crate::model::int::u64_of;
use crate::model::plan::SpacePlan;
use crate::model::region::{MAP_NORESERVE, MAP_POPULATE, SharedRegion};
use crate::model::source::SourceType;
use crate::sys::host::Host;

/// Addresses of a process: 47 bits on x86_64, and as many are used on aarch64 unless more are asked for.
const HOST_ADDRESSES: u64 = 1 << 47;

/// Everything that stands in the way of building the plan on a host now.
#[must_use]
pub fn problems(plan: &SpacePlan, host: &Host) -> Vec<String> {
    let mut problems = numa_problems(plan, host);
    problems.extend(pool_problems(plan, host));
    problems.extend(memory_problems(plan, host));
    problems.extend(limit_problems(plan, host));
    problems
}

/// The bytes of regions of one plan, which are disjoint and lie below 2^52.
fn bytes<'a>(regions: impl Iterator<Item = &'a SharedRegion>) -> u64 {
    regions.map(|region| region.size()).sum()
}

fn is_locked(region: &SharedRegion) -> bool {
    region.options.mlock == Some(true)
}

fn numa_problems(plan: &SpacePlan, host: &Host) -> Vec<String> {
    let nodes = topology::of(host);
    let refusal = |region: &SharedRegion| Some(format!("{region}: {}", nodes.refusal(&region.numa_policy()?.nodes)?));
    plan.regions.iter().filter_map(refusal).collect()
}

fn pool_problems(plan: &SpacePlan, host: &Host) -> Vec<String> {
    let mut needed = BTreeMap::<u64, Vec<&SharedRegion>>::new();
    for region in plan.regions.iter().filter(|region| region.map_flags() & MAP_NORESERVE == 0) {
        if let Some(page_size) = region.options.page_size {
            needed.entry(page_size).or_default().push(region);
        }
    }
    let short = |(page_size, regions): (u64, Vec<&SharedRegion>)| {
        let size = size_text(page_size);
        let Some(free) = host.available_huge_pages(page_size) else {
            return Some(format!("the host has no huge pages of {size}"));
        };
        let pages: u64 = regions.iter().map(|region| region.size().div_ceil(page_size)).sum();
        let missing = pages.checked_sub(free).filter(|missing| *missing > 0)?;
        let path = host.huge_page_pool(page_size);
        Some(format!("{pages} huge pages of {size} are needed, {free} are free: add {missing} to {}", path.display()))
    };
    needed.into_iter().filter_map(short).collect()
}

fn memory_problems(plan: &SpacePlan, host: &Host) -> Vec<String> {
    let mut problems = Vec::new();
    let total = bytes(plan.regions.iter());
    if total >= HOST_ADDRESSES {
        problems.push(format!("{} do not fit into the addresses of a process", size_text(total)));
    }
    let is_small = |region: &&SharedRegion| !region.effective_source().is_some_and(SourceType::is_huge);
    let at_once = |region: &&SharedRegion| region.perm_flags & MAP_POPULATE != 0 || is_locked(region);
    let needed = bytes(plan.regions.iter().filter(is_small).filter(at_once));
    let left = [
        (host.available_memory(), "on the host"),
        (host.cgroup_memory_left(), "in this process's cgroup (memory.max)"),
    ];
    for (left, place) in left {
        if let Some(left) = left.filter(|left| needed > *left) {
            let (needed, left) = (size_text(needed), size_text(left));
            problems.push(format!("{needed} must be populated at build time, but only {left} are available {place}"));
        }
    }
    problems
}

fn limit_problems(plan: &SpacePlan, host: &Host) -> Vec<String> {
    let mut problems = Vec::new();
    let files = plan.regions.iter().filter(|region| region.has_file()).count();
    let open = host.open_descriptors();
    let descriptors: usize = [files, open].iter().sum();
    if let Some(most) = host.max_descriptors().filter(|most| u64_of(descriptors) > *most) {
        problems.push(format!("{files} descriptors are needed beside {open}: raise RLIMIT_NOFILE ({most})"));
    }
    let guards = plan.regions.iter().filter(|region| region.options.guard_pages == Some(true)).count();
    // The guard pages on either side are mappings too.
    let mappings = [plan.regions.len(), guards, guards].iter().sum();
    if let Some(most) = host.max_mappings().filter(|most| u64_of(mappings) > *most) {
        problems.push(format!("{mappings} mappings are needed: raise vm.max_map_count ({most})"));
    }
    let locked = bytes(plan.regions.iter().filter(|region| is_locked(region)));
    if let Some(limit) = host.max_locked_memory().filter(|limit| locked > *limit) {
        let (locked, limit) = (size_text(locked), size_text(limit));
        problems.push(format!("{locked} are to be locked: raise RLIMIT_MEMLOCK ({limit})"));
    }
    problems
}
