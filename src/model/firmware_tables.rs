//! The tables that tell a guest of its memory: E820, ACPI SRAT and SLIT, device-tree memory nodes.

use std::collections::BTreeMap;

use acpi_tables::Aml;
use acpi_tables::sdt::Sdt;
use acpi_tables::srat::{GenericInitiator, Handle, MemoryAffinity};
use vm_fdt::FdtWriter;

use super::allocator::without;
use super::error::Result;
use super::invalid::Invalid;
use super::machine::Arch;
use super::numa::NumaNode;
use super::range::{Range, joined};
use super::region::RegionType;
use super::region_map::RegionMap;
use super::reserved::{ReservedKind, ReservedRange};

const OEM: [u8; 6] = *b"DBSASP";
const OEM_TABLE: [u8; 8] = *b"DBSASMEM";
/// The header that all ACPI tables have.
const HEADER: u32 = 36;
/// From the EBDA to 1 MiB, where a PC has video memory and ROMs.
const BIOS_HOLE: Range = Range::between(0x9_fc00, 0x10_0000);
const E820_RAM: u32 = 1;
/// The distance of a node to itself, which the ACPI specification fixes.
const LOCAL: u8 = 10;

/// The E820 map: 20 bytes an entry, by ascending base. Memory that was plugged in is left out: the guest finds it by ACPI.
#[must_use]
pub fn e820(map: &RegionMap, has_bios_hole: bool) -> Vec<u8> {
    // A page that is free at two addresses would be given out twice.
    let (ram, mut reserved) = map.ram_once(|region| !region.is_hotplug);
    let mut ram = joined(ram);
    let firmware = map.regions().into_iter().filter(|region| region.region_type == RegionType::FirmwareMemory);
    reserved.extend(firmware.filter(|region| !region.is_hotplug).map(|region| region.range));
    if has_bios_hole {
        ram = without(&ram, &[BIOS_HOLE]);
        reserved.push(BIOS_HOLE);
    }
    reserved.sort_unstable();
    let kept: Vec<Range> = map.layout().reserved().iter().map(|reserved| reserved.range).collect();
    let mut entries: Vec<(Range, u32)> = without(&ram, &kept).into_iter().map(|range| (range, E820_RAM)).collect();
    let firmware = without(&joined(reserved), &kept).into_iter();
    entries.extend(firmware.map(|range| (range, ReservedKind::Reserved.e820_type())));
    entries.extend(map.layout().reserved().iter().map(|reserved| (reserved.range, reserved.kind.e820_type())));
    entries.sort_unstable();
    let bytes = |(range, kind): (Range, u32)| {
        [&range.base().to_le_bytes()[..], &range.size().to_le_bytes(), &kind.to_le_bytes()].concat()
    };
    entries.into_iter().flat_map(bytes).collect()
}

/// The SRAT: which vCPUs, which memory and which devices belong to which node. A window for more memory belongs to the last node.
#[must_use]
pub fn srat(nodes: &BTreeMap<u32, NumaNode>, hotplug_window: Option<Range>, arch: Arch) -> Vec<u8> {
    let mut entries = Vec::new();
    for (id, node) in nodes {
        node.vcpu_ids.iter().for_each(|vcpu| processor(&mut entries, *id, *vcpu, arch));
    }
    for (id, node) in nodes {
        for range in &node.region_infos {
            MemoryAffinity::new(*id, range.base(), range.size()).enabled().to_aml_bytes(&mut entries);
        }
    }
    for (id, window) in nodes.iter().flat_map(|(id, node)| node.hotplug_infos.iter().map(move |window| (*id, window))) {
        let memory = MemoryAffinity::new(id, window.base(), window.size()).enabled().hotpluggable();
        memory.to_aml_bytes(&mut entries);
    }
    if let Some(window) = hotplug_window {
        let last = nodes.keys().next_back().copied().unwrap_or_default();
        let memory = MemoryAffinity::new(last, window.base(), window.size()).enabled().hotpluggable();
        memory.to_aml_bytes(&mut entries);
    }
    for (id, node) in nodes {
        for device in &node.generic_initiators {
            let handle = Handle::new_pci(device.segment, device.bus, device.device, device.function);
            GenericInitiator::new(*id, handle).enabled().to_aml_bytes(&mut entries);
        }
    }
    let mut table = Sdt::new(*b"SRAT", HEADER, 3, OEM, OEM_TABLE, 1);
    // The specification keeps a 1 here for older systems, and 8 reserved bytes.
    table.append_slice(&1u32.to_le_bytes());
    table.append_slice(&[0; 8]);
    table.append_slice(&entries);
    table.update_checksum();
    table.as_slice().to_vec()
}

/// A processor's affinity: by local APIC id, by x2APIC id where that has no room, or by the ACPI id of its GIC interface.
fn processor(entries: &mut Vec<u8>, node: u32, vcpu: u32, arch: Arch) {
    const ENABLED: [u8; 4] = 1u32.to_le_bytes();
    let domain = node.to_le_bytes();
    let [low, second, third, high] = domain;
    match (arch, u8::try_from(vcpu)) {
        // 255 is the broadcast, not a processor.
        (Arch::X86_64, Ok(apic)) if apic < u8::MAX => {
            entries.extend([0, 16, low, apic]);
            entries.extend(ENABLED);
            entries.extend([0, second, third, high, 0, 0, 0, 0]);
        }
        (Arch::X86_64, _) => {
            entries.extend([2, 24, 0, 0]);
            entries.extend(domain);
            entries.extend(vcpu.to_le_bytes());
            entries.extend(ENABLED);
            entries.extend([0; 8]);
        }
        (Arch::Aarch64, _) => {
            entries.extend([3, 18]);
            entries.extend(domain);
            entries.extend(vcpu.to_le_bytes());
            entries.extend(ENABLED);
            entries.extend([0; 4]);
        }
    }
}

/// Refuses distances that are not a square, with 10 of a node to itself, and more to others.
fn check_distances(distances: &[Vec<u8>]) -> Result<()> {
    for (node, row) in distances.iter().enumerate() {
        if row.len() != distances.len() {
            return Err(Invalid::number(format!(
                "row {node} has {} distances, not {}: one for each node",
                row.len(),
                distances.len()
            ))
            .into());
        }
        for (other, distance) in row.iter().enumerate() {
            if (*distance == LOCAL) != (node == other) || *distance < LOCAL {
                let message = format!(
                    "the distance from node {node} to {other} is {distance}: 10 to itself, 11 to 255 to others"
                );
                return Err(Invalid::number(message).into());
            }
        }
    }
    Ok(())
}

/// The SLIT: how far each node is from each other, 10 for itself, 255 for out of reach.
pub fn slit(distances: &[Vec<u8>]) -> Result<Vec<u8>> {
    check_distances(distances)?;
    let count = u64::try_from(distances.len()).unwrap_or_default();
    let mut table = Sdt::new(*b"SLIT", HEADER, 1, OEM, OEM_TABLE, 1);
    table.append_slice(&count.to_le_bytes());
    table.append_slice(&distances.concat());
    table.update_checksum();
    Ok(table.as_slice().to_vec())
}

/// A flattened device tree of memory and reserved ranges alone, each range of memory with its node where `nodes` says one.
pub fn device_tree(map: &RegionMap, nodes: &BTreeMap<u32, NumaNode>, distances: &[Vec<u8>]) -> Result<Vec<u8>> {
    check_distances(distances)?;
    let written = write_tree(map, nodes, distances);
    written.map_err(|error| Invalid::argument(format!("the device tree can't be written: {error}")).into())
}

fn write_tree(
    map: &RegionMap,
    nodes: &BTreeMap<u32, NumaNode>,
    distances: &[Vec<u8>],
) -> std::result::Result<Vec<u8>, vm_fdt::Error> {
    let mut tree = FdtWriter::new()?;
    let root = tree.begin_node("")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    for (range, node) in memory_of(map, nodes) {
        let memory = tree.begin_node(&format!("memory@{:x}", range.base()))?;
        tree.property_string("device_type", "memory")?;
        tree.property_array_u64("reg", &[range.base(), range.size()])?;
        if let Some(node) = node {
            tree.property_u32("numa-node-id", node)?;
        }
        tree.end_node(memory)?;
    }
    write_reserved(&mut tree, map.layout().reserved())?;
    write_distances(&mut tree, distances)?;
    tree.end_node(root)?;
    tree.finish()
}

/// The distance of each node to each other: from, to, distance.
fn write_distances(tree: &mut FdtWriter, distances: &[Vec<u8>]) -> std::result::Result<(), vm_fdt::Error> {
    let rows = (0u32..).zip(distances);
    let entries = rows.flat_map(|(from, row)| (0u32..).zip(row).flat_map(move |(to, far)| [from, to, u32::from(*far)]));
    let matrix: Vec<u32> = entries.collect();
    if matrix.is_empty() {
        return Ok(());
    }
    let map = tree.begin_node("distance-map")?;
    tree.property_string("compatible", "numa-distance-map-v1")?;
    tree.property_array_u32("distance-matrix", &matrix)?;
    tree.end_node(map)
}

/// Persistent memory is a node of its own, as Linux binds it; the rest is reserved memory that the guest does not map.
fn write_reserved(tree: &mut FdtWriter, ranges: &[ReservedRange]) -> std::result::Result<(), vm_fdt::Error> {
    let (persistent, others): (Vec<&ReservedRange>, Vec<_>) =
        ranges.iter().partition(|reserved| reserved.kind == ReservedKind::Persistent);
    for reserved in persistent {
        let node = tree.begin_node(&format!("pmem@{:x}", reserved.range.base()))?;
        tree.property_string("compatible", "pmem-region")?;
        tree.property_array_u64("reg", &[reserved.range.base(), reserved.range.size()])?;
        tree.end_node(node)?;
    }
    if others.is_empty() {
        return Ok(());
    }
    let parent = tree.begin_node("reserved-memory")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    tree.property_null("ranges")?;
    for reserved in others {
        let node = tree.begin_node(&format!("{}@{:x}", reserved.kind.name(), reserved.range.base()))?;
        tree.property_array_u64("reg", &[reserved.range.base(), reserved.range.size()])?;
        tree.property_null("no-map")?;
        tree.end_node(node)?;
    }
    tree.end_node(parent)
}

/// RAM by ascending base with its guest node; touching ranges of one node are joined.
fn memory_of(map: &RegionMap, nodes: &BTreeMap<u32, NumaNode>) -> Vec<(Range, Option<u32>)> {
    let mut memory: Vec<(Range, Option<u32>)> = Vec::new();
    let persistent = |range: &Range| {
        let kept = map.layout().reserved().iter();
        kept.filter(|reserved| reserved.kind == ReservedKind::Persistent).any(|reserved| reserved.range.covers(range))
    };
    for range in map.ram_once(|_| true).0.into_iter().filter(|range| !persistent(range)) {
        let owner = |(_, node): &(&u32, &NumaNode)| node.region_infos.iter().any(|info| info.covers(&range));
        let node = nodes.iter().find(owner).map(|(id, _)| *id);
        match memory.last_mut() {
            Some((last, of)) if last.end() == range.base() && *of == node => {
                *last = Range::between(last.base(), range.end());
            }
            _ => memory.push((range, node)),
        }
    }
    memory
}
