//! The judgement whether a host can build a plan and run it: its processors, its memory, its huge pages. Limits are in `host_limits`.

use super::plan_needs::{bytes, huge_regions, is_populated, pages};
use super::{host_files, host_limits, host_nodes};
use crate::model::format::{hex, size as size_text};
use crate::model::plan::SpacePlan;
use crate::model::region::{RegionType, SharedRegion};
use crate::model::source::SourceType;
use crate::sys::host::Host;

/// Addresses of a process: 47 bits on x86_64, and as many are used on aarch64 unless more are asked for.
const HOST_ADDRESSES: u64 = 1 << 47;

/// Everything that stands in the way of building the plan on a host now, and of running it.
#[must_use]
pub fn problems(plan: &SpacePlan, host: &Host) -> Vec<String> {
    let mut problems = host_nodes::problems(plan, host);
    problems.extend(pool_problems(plan, host));
    problems.extend(memory_problems(plan, host));
    problems.extend(processor_problems(plan, host));
    problems.extend(host_limits::problems(plan, host));
    problems.extend(host_files::problems(plan, host));
    problems
}

fn pool_problems(plan: &SpacePlan, host: &Host) -> Vec<String> {
    let short = |(page_size, regions): (u64, Vec<&SharedRegion>)| {
        let size = size_text(page_size);
        let Some(free) = host.available_huge_pages(page_size) else {
            let there: Vec<String> = host.huge_page_sizes().into_iter().map(size_text).collect();
            return Some(format!("the host has no huge pages of {size}; it has [{}]", there.join(", ")));
        };
        let pages = pages(&regions, page_size);
        let missing = pages.checked_sub(free).filter(|missing| *missing > 0)?;
        let path = host.huge_page_pool(page_size);
        Some(format!("{pages} huge pages of {size} are needed, {free} are free: add {missing} to {}", path.display()))
    };
    huge_regions(plan).into_iter().filter_map(short).collect()
}

fn memory_problems(plan: &SpacePlan, host: &Host) -> Vec<String> {
    let mut problems = Vec::new();
    let total = bytes(plan.regions.iter());
    if total >= HOST_ADDRESSES {
        problems.push(format!("{} do not fit into the addresses of a process", size_text(total)));
    }
    let needed = bytes(plan.regions.iter().filter(|region| is_populated(region)));
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
    problems.extend(overcommitted(plan, host));
    problems
}

/// Memory that the guest may touch and the host does not have; under strict overcommit, also what can't be promised.
fn overcommitted(plan: &SpacePlan, host: &Host) -> Option<String> {
    let has_bytes = |region: &&SharedRegion| region.region_type != RegionType::DaxMemory;
    let total = bytes(plan.regions.iter().filter(has_bytes));
    let there = host.total_memory().filter(|there| total > there.saturating_add(host.total_swap()));
    if let Some(there) = there {
        return Some(format!("{} on a host of {}: overcommitted", size_text(total), size_text(there)));
    }
    let promised = |region: &&SharedRegion| {
        is_populated(region) || region.effective_source() == Some(SourceType::MmapAnonymous) && has_bytes(region)
    };
    let promised = bytes(plan.regions.iter().filter(promised));
    let left = host.commit_left().filter(|left| host.has_strict_overcommit() == Some(true) && promised > *left)?;
    let (promised, left) = (size_text(promised), size_text(left));
    Some(format!("{promised} must be committed, but only {left} can be (vm.overcommit_memory=2, CommitLimit)"))
}

fn processor_problems(plan: &SpacePlan, host: &Host) -> Vec<String> {
    let mut problems = Vec::new();
    let (machine, theirs) = (&plan.request.machine, host.architecture());
    if let Some((ours, theirs)) = machine.arch.zip(theirs).filter(|(ours, theirs)| ours.name() != theirs) {
        let (name, ours) = (&machine.name, ours.name());
        problems.push(format!("the machine '{name}' is {ours}, the host is {theirs}: KVM can't run it"));
        return problems;
    }
    let ends = plan.regions.iter().map(|region| region.end()).chain(plan.windows().map(|window| window.end()));
    let end = ends.max().unwrap_or_default();
    if let Some(limit) = host.guest_physical_end().filter(|limit| end > *limit) {
        let (end, limit) = (hex(end), hex(limit));
        problems.push(format!(
            "the plan reaches up to {end}, but a guest of this host only to {limit}: give fewer phys_bits"
        ));
    }
    problems
}
