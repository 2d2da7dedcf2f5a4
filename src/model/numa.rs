//! The memory and processors of a guest's NUMA nodes.

use std::path::PathBuf;

use super::error::Result;
use super::invalid::Invalid;
use super::pci_address::PciAddress;
use super::policy::NumaPolicy;
use super::range::Range;
use super::source::SourceType;

/// The unit of the original's sizes.
const MIB: u64 = 1 << 20;

/// One guest NUMA node: its memory ranges, vCPUs and devices, in the order given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NumaNode {
    /// The memory of the node.
    pub region_infos: Vec<Range>,
    /// The vCPUs of the node.
    pub vcpu_ids: Vec<u32>,
    /// Addresses for memory that is plugged into the node later.
    pub hotplug_infos: Vec<Range>,
    /// The PCI devices of the node that access memory as processors do, which ACPI calls generic initiators.
    pub generic_initiators: Vec<PciAddress>,
}

/// Maps memory and vCPUs to NUMA node ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NumaIdTable {
    /// Node ids of the memory devices.
    pub memory: Vec<u32>,
    /// Node ids of the vCPUs.
    pub cpu: Vec<u32>,
}

/// Choices for one part of a machine's memory; `None` for what all parts have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Zone {
    /// Where its bytes come from.
    pub source_type: Option<SourceType>,
    /// For `hugetlbfs`: the path, to which the number of each region is added.
    pub path: Option<PathBuf>,
    /// An ordinary file, or a directory for one that has no name.
    pub file: Option<PathBuf>,
    /// Whether what is written to the memory is written to the file.
    pub shared: Option<bool>,
    /// Addresses for memory that is plugged in later.
    pub hotplug_size: Option<u64>,
    /// The size of its huge pages.
    pub page_size: Option<u64>,
    /// The nodes of the host.
    pub policy: Option<NumaPolicy>,
    /// Whether all its pages are there from the beginning.
    pub prefault: Option<bool>,
    /// The name of its first region, from which the names of the others are made.
    pub name: Option<Box<str>>,
}

/// Memory that a plan is asked for: so much of it, for a guest node, from a host node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NumaRegionInfo {
    /// The number of bytes.
    pub size: u64,
    /// The host's node that it should come from.
    pub host_numa_node_id: Option<u32>,
    /// The guest's node that it belongs to; 0 when not given.
    pub guest_numa_node_id: Option<u32>,
    /// The vCPUs of that node.
    pub vcpu_ids: Vec<u32>,
    /// The generic initiators of that node.
    pub generic_initiators: Vec<PciAddress>,
    /// Its own choices.
    pub zone: Zone,
}

impl NumaRegionInfo {
    /// Refuses sizes that look like the original's MiB, 0 where no guest node is named that has no memory, and two sources.
    pub fn check(&self) -> Result<()> {
        let Zone { source_type, path, file, shared, page_size, .. } = &self.zone;
        if file.is_some() && (source_type.is_some() || path.is_some() || page_size.is_some()) {
            let message = "file= is the source of the memory: leave mem_type=, mem_file_path= and page_size= out";
            return Err(Invalid::argument(message).into());
        }
        if file.is_none() && shared.is_some() {
            return Err(Invalid::argument("shared= says what becomes of a file: it goes with file=").into());
        }
        let message = match self.size {
            0 if self.guest_numa_node_id.is_some() => return Ok(()),
            0 => "a NUMA region needs a size above 0; a guest node without memory needs its guest_numa_node_id".into(),
            size if size < MIB => format!("a NUMA region of {size} bytes: sizes are bytes, did you mean '{size}MiB'?"),
            _ => return Ok(()),
        };
        Err(Invalid::at(message, None, Some(self.size)).into())
    }
}
