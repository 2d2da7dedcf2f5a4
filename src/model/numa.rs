//! What a guest's NUMA nodes consist of.

use super::range::Range;

/// One guest NUMA node: its memory ranges and its vCPUs, in the order given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NumaNode {
    /// The memory of the node.
    pub region_infos: Vec<Range>,
    /// The vCPUs of the node.
    pub vcpu_ids: Vec<u32>,
}

/// Maps memory and vCPUs to NUMA node ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NumaIdTable {
    /// Node ids of the memory devices.
    pub memory: Vec<u32>,
    /// Node ids of the vCPUs.
    pub cpu: Vec<u32>,
}
