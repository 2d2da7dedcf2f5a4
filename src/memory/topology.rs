//! The NUMA nodes of a host, and the policy of memory that is mapped.

use std::collections::BTreeSet;

use crate::model::policy::{NumaPolicy, PolicyMode, Topology, parse_node_list};
use crate::sys::host::Host;
use crate::sys::numa;

/// The nodes that a host tells of; a kernel without NUMA has node 0.
#[must_use]
pub fn of(host: &Host) -> Topology {
    let read = |name: &str| parse_node_list(&host.node_list(name)?);
    let online = read("online").unwrap_or_else(|| BTreeSet::from([0]));
    let with_memory = read("has_memory").unwrap_or_else(|| online.clone());
    Topology { online, with_memory }
}

/// The CPUs of a node of this host.
#[must_use]
pub fn cpus_of(node: u32) -> BTreeSet<u32> {
    Host::default().cpu_list(node).and_then(|text| parse_node_list(&text)).unwrap_or_default()
}

/// The policy that the kernel has for an address, where it is one of ours.
#[must_use]
pub fn policy_at(host: *mut u8) -> Option<NumaPolicy> {
    /// The bits of the mode; its flags lie above.
    const MODE: i32 = 0xff;
    let (mode, nodes) = numa::policy_at(host).ok()?;
    Some(NumaPolicy { mode: PolicyMode::of_number(mode & MODE)?, nodes, strict: false })
}
