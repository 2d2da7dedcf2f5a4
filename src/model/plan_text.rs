//! A plan as text for people.

use std::collections::BTreeSet;

use super::columns;
use super::error::Result;
use super::format::{hex, size as size_text};
use super::interrupt::Interrupt;
use super::numa::NumaNode;
use super::pci_address::PciAddress;
use super::plan::SpacePlan;
use super::policy::node_list;
use super::range::Range;
use super::region::{MAP_POPULATE, Region};

/// The machine, its nodes, each region with its source, its policy and the reason for its place, the cost, and every problem.
pub fn text(plan: &SpacePlan, interrupt: &dyn Interrupt) -> Result<String> {
    let (machine, layout) = (&plan.request.machine, &plan.layout);
    let (name, bits, end) = (&machine.name, machine.phys_bits, hex(layout.mem_end()));
    let machine = [format!("machine '{name}': {bits} bits, RAM below {end}")].into_iter();
    let reserved = layout.reserved().iter().map(|reserved| format!("reserved: {reserved}"));
    let nodes = plan.numa_nodes.iter().map(|(id, node)| format!("guest node {id}: {}", node_text(node)));
    let regions = plan.regions.iter().zip(&plan.reasons);
    let regions = regions.map(|(region, reason)| format!("{region} {}: {reason}", region_text(region)));
    let window = plan.hotplug_window.iter().map(|window| format!("hotplug {window} {}", size_text(window.size())));
    let zones = plan.zone_windows.iter();
    let zones = zones.map(|(name, window)| format!("hotplug of '{name}' {window} {}", size_text(window.size())));
    let problems = plan.problems.iter().map(|problem| format!("problem: {problem}"));
    let results = window.chain(zones).chain(cost_lines(plan)).chain(problems);
    columns::joined(machine.chain(reserved).chain(nodes).chain(regions).chain(results), interrupt)
}

fn node_text(node: &NumaNode) -> String {
    let size = node.region_infos.iter().map(Range::size).fold(0, u64::saturating_add);
    let vcpus: BTreeSet<u32> = node.vcpu_ids.iter().copied().collect();
    let vcpus = if vcpus.is_empty() { "no vCPUs".into() } else { format!("vCPUs {}", node_list(&vcpus)) };
    let mut text = format!("{}, {vcpus}", size_text(size));
    if !node.generic_initiators.is_empty() {
        let devices: Vec<String> = node.generic_initiators.iter().map(PciAddress::to_string).collect();
        text.push_str(&format!(", generic initiators {}", devices.join(" ")));
    }
    text
}

fn region_text(region: &Region) -> String {
    let mut text = format!("{} {}", size_text(region.size()), region.backing_word());
    let page_size = region.options.page_size.map(|size| format!("pages of {}", size_text(size)));
    let policy = region.numa_policy().map(|policy| format!("policy {policy}"));
    let populated = (region.perm_flags & MAP_POPULATE != 0).then(|| "populated by build()".to_owned());
    for part in [page_size, policy, populated].into_iter().flatten() {
        text.push_str(", ");
        text.push_str(&part);
    }
    text
}

fn cost_lines(plan: &SpacePlan) -> impl Iterator<Item = String> {
    let pages = plan.cost.pages.iter().map(|(size, count)| format!("{count} pages of {}", size_text(*size)));
    let of_node = |(node, size): (&Option<u32>, &u64)| Some(format!("{} of host node {}", size_text(*size), (*node)?));
    pages.chain(plan.cost.nodes.iter().filter_map(of_node))
}
