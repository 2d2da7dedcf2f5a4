//! The judgement whether the NUMA nodes of a host have what a plan binds to them.

use std::collections::BTreeSet;

use super::plan_needs::{bound_nodes, bytes, huge_regions, is_populated, pages};
use super::topology;
use crate::model::format::size as size_text;
use crate::model::plan::SpacePlan;
use crate::model::policy::node_list;
use crate::model::region::SharedRegion;
use crate::sys::host::Host;

/// Nodes that are not there or have no memory, and nodes with less than is bound to them.
#[must_use]
pub fn problems(plan: &SpacePlan, host: &Host) -> Vec<String> {
    let nodes = topology::of(host);
    let refusal = |region: &SharedRegion| Some(format!("{region}: {}", nodes.refusal(&region.numa_policy()?.nodes)?));
    let mut problems: Vec<String> = plan.regions.iter().filter_map(refusal).collect();
    let bindings: BTreeSet<BTreeSet<u32>> = plan.regions.iter().filter_map(bound_nodes).collect();
    for nodes in bindings {
        problems.extend(memory_problem(plan, host, &nodes));
        problems.extend(pool_problems(plan, host, &nodes));
    }
    problems
}

/// Whether all memory of a region must come from these nodes, or from some of them.
fn is_within(region: &SharedRegion, nodes: &BTreeSet<u32>) -> bool {
    bound_nodes(region).is_some_and(|bound| bound.is_subset(nodes))
}

fn memory_problem(plan: &SpacePlan, host: &Host, nodes: &BTreeSet<u32>) -> Option<String> {
    let regions = plan.regions.iter().filter(|region| is_populated(region) && is_within(region, nodes));
    let needed = bytes(regions);
    let left = sum(nodes, |node| host.available_node_memory(node)).filter(|left| needed > *left)?;
    let (needed, nodes, left) = (size_text(needed), node_list(nodes), size_text(left));
    Some(format!("{needed} must be populated on NUMA node {nodes} at build time, but only {left} are available there"))
}

fn pool_problems(plan: &SpacePlan, host: &Host, nodes: &BTreeSet<u32>) -> Vec<String> {
    let short = |(page_size, mut regions): (u64, Vec<&SharedRegion>)| {
        regions.retain(|region| is_within(region, nodes));
        let needed = pages(&regions, page_size);
        let free = sum(nodes, |node| host.free_huge_pages_on(node, page_size))?;
        let missing = needed.checked_sub(free).filter(|missing| *missing > 0)?;
        let path = host.node_huge_page_pool(*nodes.first()?, page_size);
        Some(format!(
            "{needed} huge pages of {} are needed on NUMA node {}, {free} are free: add {missing} to {}",
            size_text(page_size),
            node_list(nodes),
            path.display()
        ))
    };
    huge_regions(plan).into_iter().filter_map(short).collect()
}

/// The sum over nodes; `None` where one does not tell.
fn sum(nodes: &BTreeSet<u32>, of: impl Fn(u32) -> Option<u64>) -> Option<u64> {
    nodes.iter().try_fold(0u64, |sum, node| sum.checked_add(of(*node)?))
}
