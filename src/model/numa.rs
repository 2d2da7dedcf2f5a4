//! The memory and processors of a guest's NUMA nodes.

use super::error::Result;
use super::invalid::Invalid;
use super::range::Range;

/// The unit of the original's sizes.
const MIB: u64 = 1 << 20;

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

/// Memory that a plan is asked for: so much of it, for a guest node, from a host node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NumaRegionInfo {
    /// The number of bytes.
    pub size: u64,
    /// The host's node that it should come from.
    pub host_numa_node_id: Option<u32>,
    /// The guest's node that it belongs to; 0 when not given.
    pub guest_numa_node_id: Option<u32>,
    /// The vCPUs of that node.
    pub vcpu_ids: Vec<u32>,
}

impl NumaRegionInfo {
    /// Refuses 0, and sizes that look like the original's MiB.
    pub fn check(&self) -> Result<()> {
        let message = match self.size {
            0 => "a NUMA region needs a size above 0".into(),
            size if size < MIB => format!("a NUMA region of {size} bytes: sizes are bytes, did you mean '{size}MiB'?"),
            _ => return Ok(()),
        };
        Err(Invalid::at(message, None, Some(self.size)).into())
    }
}
