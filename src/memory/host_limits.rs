//! The judgement whether the limits of a process, and of KVM, let it build a plan.

use super::plan_needs::{bytes, huge_regions, is_locked, pages};
use crate::model::format::size as size_text;
use crate::model::int::u64_of;
use crate::model::plan::SpacePlan;
use crate::model::region::RegionType;
use crate::sys::host::Host;

/// Every limit that the plan would exceed.
#[must_use]
pub fn problems(plan: &SpacePlan, host: &Host) -> Vec<String> {
    let mut problems = Vec::new();
    problems.extend(descriptor_problem(plan, host));
    problems.extend(mapping_problem(plan, host));
    problems.extend(lock_problem(plan, host));
    problems.extend(address_problem(plan, host));
    problems.extend(huge_group_problems(plan, host));
    problems.extend(slot_problem(plan, host));
    problems
}

fn descriptor_problem(plan: &SpacePlan, host: &Host) -> Option<String> {
    let files = plan.regions.iter().filter(|region| region.has_file()).count();
    let open = host.open_descriptors();
    let descriptors: usize = [files, open].iter().sum();
    let most = host.max_descriptors().filter(|most| u64_of(descriptors) > *most)?;
    Some(format!("{files} descriptors are needed beside {open}: raise RLIMIT_NOFILE ({most})"))
}

fn mapping_problem(plan: &SpacePlan, host: &Host) -> Option<String> {
    let guards = plan.regions.iter().filter(|region| region.options.guard_pages == Some(true)).count();
    // The guard pages on either side are mappings too.
    let mappings: usize = [plan.regions.len(), guards, guards].iter().sum();
    let there = host.mappings();
    let all: usize = [mappings, there].iter().sum();
    let most = host.max_mappings().filter(|most| u64_of(all) > *most)?;
    Some(format!("{mappings} mappings are needed beside {there}: raise vm.max_map_count ({most})"))
}

fn lock_problem(plan: &SpacePlan, host: &Host) -> Option<String> {
    let locked = bytes(plan.regions.iter().filter(|region| is_locked(region)));
    let limit = host.max_locked_memory().filter(|limit| locked > *limit)?;
    Some(format!("{} are to be locked: raise RLIMIT_MEMLOCK ({})", size_text(locked), size_text(limit)))
}

fn address_problem(plan: &SpacePlan, host: &Host) -> Option<String> {
    let (needed, used) = (bytes(plan.regions.iter()), host.address_space_used());
    let limit = host.max_address_space().filter(|limit| needed > limit.saturating_sub(used))?;
    let (needed, used, limit) = (size_text(needed), size_text(used), size_text(limit));
    Some(format!("{needed} are to be mapped beside {used}: raise RLIMIT_AS ({limit})"))
}

fn huge_group_problems(plan: &SpacePlan, host: &Host) -> Vec<String> {
    let short = |(page_size, regions): (u64, Vec<_>)| {
        let needed = pages(&regions, page_size).checked_mul(page_size)?;
        let left = host.cgroup_huge_left(page_size).filter(|left| needed > *left)?;
        let (needed, left, size) = (size_text(needed), size_text(left), size_text(page_size));
        Some(format!("{needed} of huge pages of {size} are needed, but only {left} are left in this process's cgroup"))
    };
    huge_regions(plan).into_iter().filter_map(short).collect()
}

fn slot_problem(plan: &SpacePlan, host: &Host) -> Option<String> {
    // A device is none of KVM's, and of the DIMMs to come each takes a slot.
    let regions = plan.regions.iter().filter(|region| region.region_type != RegionType::DeviceMemory).count();
    let dimms = plan.request.hotplug.map_or(0, |hotplug| hotplug.slots);
    let needed = u64_of(regions).checked_add(u64::from(dimms))?;
    let most = host.max_memory_slots().filter(|most| needed > *most)?;
    Some(format!("{needed} memory slots are needed, and KVM has {most}"))
}
