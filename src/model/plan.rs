//! From "so much memory on these nodes" to regions with addresses, without a look at the host.
//!
//! A [`SpacePlan`] is a pure function of its [`PlanRequest`]: the same everywhere and at any time. It finds every problem at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::backing::BackingOptions;
use super::error::{Error, Result};
use super::format::{hex, size as size_text};
use super::hyper_transport::{self, HYPER_TRANSPORT};
use super::interrupt::Interrupt;
use super::invalid::Invalid;
use super::layout::Layout;
use super::machine::Machine;
use super::numa::{NumaNode, NumaRegionInfo, Zone};
use super::policy::PolicyMode;
use super::ram_cursor::RamCursor;
use super::range::{Range, joined};
use super::region::{MAP_POPULATE, MAP_PRIVATE, MAP_SHARED, Region, RegionType, SharedRegion};
use super::source::{Source, SourceType};

const SMALL_PAGE: u64 = 4096;
/// The size of huge pages that a request leaves open: a plan looks at no host, and this is the default of nearly all.
const HUGE_PAGE: u64 = 2 << 20;
/// The alignment of QEMU's device memory, and of each slot of it.
pub(super) const HOTPLUG_ALIGN: u64 = 1 << 30;

/// A window for memory that is plugged in later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hotplug {
    /// All memory that the machine can have, including the memory that it begins with.
    pub max_memory: u64,
    /// How many DIMMs can be plugged in.
    pub slots: u32,
}

impl Hotplug {
    /// The bytes of the window beside so much RAM, with room to align each slot.
    pub(super) fn window_size(self, ram: u64) -> Option<u64> {
        let more = self.max_memory.checked_sub(ram)?;
        u64::from(self.slots).checked_mul(HOTPLUG_ALIGN)?.checked_add(more)
    }
}

/// The memory that a machine should have, as a user asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlanRequest {
    /// Where things may lie.
    pub machine: Machine,
    /// The memory, in the order of its addresses.
    pub numa_regions: Vec<NumaRegionInfo>,
    /// Where its bytes come from.
    pub source_type: SourceType,
    /// For `hugetlbfs`: the path, to which each region's number is added.
    pub path: PathBuf,
    /// Whether all pages are there from the beginning.
    pub prealloc: bool,
    /// Whether there is a firmware region.
    pub firmware: bool,
    /// The size of a DAX window.
    pub dax_window: Option<u64>,
    /// Its base, where it is not the first place above RAM.
    pub dax_base: Option<u64>,
    /// A window for more memory.
    pub hotplug: Option<Hotplug>,
    /// Whether RAM keeps clear of AMD's HyperTransport range, as QEMU has it for AMD's vCPUs.
    pub amd_1tb_relocation: bool,
    /// How the memory is to be had.
    pub options: BackingOptions,
}

/// The memory that a plan takes from a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanCost {
    /// Bytes of RAM and firmware.
    pub size: u64,
    /// Bytes of which every page is there from the beginning.
    pub preallocated: u64,
    /// Pages by their size.
    pub pages: BTreeMap<u64, u64>,
    /// Bytes by host node; `None` for memory that may come from any.
    pub nodes: BTreeMap<Option<u32>, u64>,
}

/// Regions with addresses, and everything that is known about them.
#[derive(Clone, Debug)]
pub struct SpacePlan {
    /// The request.
    pub request: PlanRequest,
    /// The bounds for this much memory.
    pub layout: Layout,
    /// RAM, then firmware and DAX window.
    pub regions: Vec<SharedRegion>,
    /// Why each region is where it is and as large as it is.
    pub reasons: Vec<String>,
    /// The guest's nodes.
    pub numa_nodes: BTreeMap<u32, NumaNode>,
    /// The addresses for memory that is plugged in later.
    pub hotplug_window: Option<Range>,
    /// The same for the memory of one zone, with its name.
    pub zone_windows: Vec<(String, Range)>,
    /// The memory that it takes from a host.
    pub cost: PlanCost,
    /// Everything that is wrong; such a plan can be looked at, not built.
    pub problems: Vec<String>,
    /// Where RAM can't lie; sorted and joined.
    pub(super) holes: Vec<Range>,
}

impl SpacePlan {
    /// The plan for a request, which may have millions of regions.
    pub fn of(request: PlanRequest, interrupt: &dyn Interrupt) -> Result<Self> {
        let ram = total(&request);
        // A problem is noted where it is found and the rest is planned all the same, with the best guess: a user wants to hear of all
        // problems at once, not of one after each try.
        let layout =
            request.machine.layout_for(ram.unwrap_or(u64::MAX)).unwrap_or_else(|_| request.machine.layout.clone());
        let layout = layout.ending_at(request.machine.ram_limit());
        let mut plan = Self {
            layout,
            regions: vec![],
            reasons: vec![],
            numa_nodes: BTreeMap::new(),
            hotplug_window: None,
            zone_windows: vec![],
            cost: PlanCost::default(),
            problems: vec![],
            holes: vec![],
            request,
        };
        plan.check_request();
        plan.check_sizes(interrupt)?;
        plan.check_vcpus(interrupt)?;
        plan.check_generic_initiators(interrupt)?;
        plan.find_holes(ram);
        plan.place_ram(interrupt)?;
        plan.place_hotplug_window(ram);
        plan.place_zone_windows();
        plan.settle_mem_end();
        plan.place_firmware();
        plan.place_dax_window();
        plan.check_names();
        plan.count_cost();
        Ok(plan)
    }

    /// `Err` with all problems when there are any.
    pub fn check(&self) -> Result<()> {
        if self.problems.is_empty() { Ok(()) } else { Err(Error::InvalidPlan { problems: self.problems.clone() }) }
    }

    pub(super) fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    fn source_of(&self, info: &NumaRegionInfo) -> SourceType {
        info.zone.source_type.unwrap_or(self.request.source_type)
    }

    pub(super) fn page_size(&self, info: &NumaRegionInfo) -> u64 {
        let asked = info.zone.page_size.or(self.request.options.page_size);
        if info.zone.file.is_none() && self.source_of(info).is_huge() { asked.unwrap_or(HUGE_PAGE) } else { SMALL_PAGE }
    }

    fn path_of<'a>(&'a self, info: &'a NumaRegionInfo) -> &'a Path {
        info.zone.path.as_ref().unwrap_or(&self.request.path)
    }

    fn check_request(&mut self) {
        if self.request.numa_regions.is_empty() {
            self.problem("numa_regions is empty: a machine needs memory".into());
        }
        if total(&self.request).is_none() {
            self.problem("the sizes of numa_regions add up to more than 2^64 - 1 bytes".into());
        }
        let lacks_path = |info: &NumaRegionInfo| {
            let has_source = info.zone.file.is_some() || self.source_of(info) != SourceType::FileOnHugeTlbFs;
            !has_source && self.path_of(info) == Path::new("")
        };
        if self.request.numa_regions.iter().any(lacks_path) {
            self.problem("mem_type \"hugetlbfs\" needs mem_file_path, a path on a hugetlbfs mount".into());
        }
    }

    fn check_sizes(&mut self, interrupt: &dyn Interrupt) -> Result<()> {
        for (index, info) in self.request.numa_regions.iter().enumerate() {
            interrupt.check()?;
            let page_size = self.page_size(info);
            if !info.size.is_multiple_of(page_size) {
                let (size, page) = (hex(info.size), size_text(page_size));
                let problem = format!("numa_regions[{index}] has {size} bytes, not a multiple of its page size {page}");
                self.problems.push(problem);
            }
        }
        Ok(())
    }

    fn check_vcpus(&mut self, interrupt: &dyn Interrupt) -> Result<()> {
        let mut nodes = BTreeMap::<u32, u32>::new();
        let mut problems = BTreeSet::new();
        let max = self.request.machine.max_vcpus;
        for info in &self.request.numa_regions {
            let node = info.guest_numa_node_id.unwrap_or_default();
            for vcpu in &info.vcpu_ids {
                interrupt.check()?;
                match nodes.insert(*vcpu, node) {
                    Some(other) if other != node => {
                        problems.insert(format!("vCPU {vcpu} is in the guest nodes {other} and {node}"))
                    }
                    Some(_) => problems.insert(format!("vCPU {vcpu} is twice in the guest node {node}")),
                    _ if *vcpu >= max => problems.insert(format!(
                        "vCPU {vcpu} of guest node {node}: the machine '{}' has {max}, counted from 0",
                        self.request.machine.name
                    )),
                    _ => false,
                };
            }
        }
        self.problems.extend(problems);
        Ok(())
    }

    /// A device may be in several nodes, as one that can be shared out is; in each it is once.
    fn check_generic_initiators(&mut self, interrupt: &dyn Interrupt) -> Result<()> {
        let (mut seen, mut problems) = (BTreeSet::new(), BTreeSet::new());
        for info in &self.request.numa_regions {
            let node = info.guest_numa_node_id.unwrap_or_default();
            for device in &info.generic_initiators {
                interrupt.check()?;
                if !seen.insert((node, *device)) {
                    problems.insert(format!("the PCI device {device} is twice in the guest node {node}"));
                }
            }
        }
        self.problems.extend(problems);
        Ok(())
    }

    fn find_holes(&mut self, ram: Option<u64>) {
        let relocation = if self.request.amd_1tb_relocation { self.relocation(ram) } else { None };
        let reserved = self.layout.reserved().iter().map(|reserved| reserved.range);
        let mut holes: Vec<Range> = self.layout.mmio_windows().iter().copied().chain(reserved).collect();
        holes.extend(relocation);
        holes.sort_unstable();
        self.holes = joined(holes);
    }

    /// As QEMU does it: the range is reserved on every machine that reaches it.
    fn relocation(&mut self, ram: Option<u64>) -> Option<Range> {
        let machine = &self.request.machine;
        if machine.pci_hole64_size.is_none_or(|size| size == 0) {
            let name = &machine.name;
            self.problem(format!(
                "amd_1tb_relocation: the machine '{name}' has no 64-bit PCI hole, as pc and q35 have"
            ));
            return None;
        }
        let plugged = self.request.hotplug.and_then(|hotplug| hotplug.window_size(ram?));
        let relocation = hyper_transport::relocation(machine, &self.layout, ram?, plugged);
        if HYPER_TRANSPORT.range.end() <= self.layout.phys_end() {
            let reserved = [self.layout.reserved(), &[HYPER_TRANSPORT]].concat();
            match self.layout.clone().with_reserved(reserved) {
                Ok(layout) => self.layout = layout,
                Err(error) => self.problem(format!("amd_1tb_relocation: {error}")),
            }
        }
        relocation
    }

    fn place_ram(&mut self, interrupt: &dyn Interrupt) -> Result<()> {
        let bounds = Range::between(self.layout.mem_start(), self.layout.mem_end());
        let mut cursor = RamCursor::new(bounds, self.holes.clone(), self.request.machine.min_split);
        let infos = self.request.numa_regions.clone();
        for (index, info) in infos.iter().enumerate() {
            interrupt.check()?;
            let node = info.guest_numa_node_id.unwrap_or_default();
            let (mut found, page_size) = (Vec::new(), self.page_size(info));
            self.align(&mut cursor, index, info);
            if let Err(left) = cursor.take(info.size, page_size, &mut found) {
                let ends = hex(self.layout.mem_end());
                self.problem(format!(
                    "numa_regions[{index}]: {} of its {} do not fit below mem_end {ends} of the machine '{}'; {}",
                    size_text(left),
                    size_text(info.size),
                    self.request.machine.name,
                    self.more_room()
                ));
            }
            let mut offset = 0;
            for (part, (range, reason)) in found.into_iter().enumerate() {
                self.add_ram(range, info, (part, offset), format!("guest node {node}: {reason}"));
                add(&mut offset, range.size());
            }
            let guest = self.numa_nodes.entry(node).or_default();
            guest.vcpu_ids.extend(&info.vcpu_ids);
            guest.generic_initiators.extend(&info.generic_initiators);
        }
        Ok(())
    }

    /// RAM of whole pages begins at one: what would have to be left out before it is a problem.
    fn align(&mut self, cursor: &mut RamCursor, index: usize, info: &NumaRegionInfo) {
        let page_size = self.page_size(info);
        let odd = if info.size == 0 { None } else { cursor.align(page_size) };
        if let Some((less, more)) = odd.filter(|_| index > 0) {
            let (page, less, more) = (size_text(page_size), size_text(less), size_text(more));
            self.problem(format!(
                "numa_regions[{index}] has pages of {page} and would not begin at one: give the memory before it {less} more or {more} less"
            ));
        }
    }

    /// The source of a region: the part of its zone's file at an offset, or one of its own.
    fn source(&self, info: &NumaRegionInfo, offset: u64) -> Source {
        if let Some(file) = &info.zone.file {
            return Source { path: file.clone(), file_offset: offset, ..Source::default() };
        }
        let source_type = self.source_of(info);
        let mut path = self.path_of(info).as_os_str().to_owned();
        // A file each: regions of one file would show the same bytes.
        if source_type == SourceType::FileOnHugeTlbFs {
            path.push(self.regions.len().to_string());
        }
        Source { source_type: Some(source_type), path: path.into(), ..Source::default() }
    }

    fn add_ram(&mut self, range: Range, info: &NumaRegionInfo, (part, offset): (usize, u64), reason: String) {
        let (request, zone) = (&self.request, &info.zone);
        let (index, source) = (self.regions.len(), self.source(info, offset));
        let huge_page = source.source_type.is_some_and(SourceType::is_huge).then(|| self.page_size(info));
        // What all have does not reach a zone of another source.
        let is_another = zone.source_type.is_some() || zone.file.is_some();
        let small_page = zone.page_size.or(request.options.page_size.filter(|_| !is_another));
        let region = Region::new(RegionType::DefaultMemory, range, source).and_then(|mut region| {
            let policy = zone.policy.clone().or_else(|| request.options.policy.clone());
            region.options = BackingOptions { page_size: huge_page.or(small_page), policy, ..request.options.clone() };
            region.name = Some(name_of(zone, part, index).into());
            region.host_numa_node_id = info.host_numa_node_id;
            region.perm_flags |= if zone.prefault.unwrap_or(request.prealloc) { MAP_POPULATE } else { 0 };
            if zone.shared == Some(false) {
                region.perm_flags ^= MAP_SHARED | MAP_PRIVATE;
            }
            region.check().map(|()| region)
        });
        self.numa_nodes.entry(info.guest_numa_node_id.unwrap_or_default()).or_default().region_infos.push(range);
        self.add(region, reason);
    }

    pub(super) fn add(&mut self, region: Result<Region, Invalid>, reason: String) {
        match region {
            Ok(region) => {
                let region = Arc::new(region);
                if let Err(error) = self.layout.check_region(&region) {
                    self.problem(error.to_string());
                }
                self.regions.push(region);
                self.reasons.push(reason);
            }
            Err(error) => {
                let message = error.to_string();
                // Many regions have the same in a row, once each: to look through all would take their square.
                if self.problems.last() != Some(&message) {
                    self.problem(message);
                }
            }
        }
    }

    fn check_names(&mut self) {
        let mut names = BTreeSet::new();
        let twice = self.regions.iter().find(|region| !names.insert(&region.name));
        if let Some(problem) = twice.map(|region| format!("two regions have the name of {region}: give each its own")) {
            self.problem(problem);
        }
    }

    fn count_cost(&mut self) {
        let cost = &mut self.cost;
        for region in self.regions.iter().filter(|region| region.region_type != RegionType::DaxMemory) {
            let size = region.size();
            let page_size = region.options.page_size.unwrap_or(SMALL_PAGE);
            add(&mut cost.size, size);
            add(cost.pages.entry(page_size).or_default(), size.div_ceil(page_size));
            add(cost.nodes.entry(node_of(region)).or_default(), size);
            if region.perm_flags & MAP_POPULATE != 0 || region.options.mlock == Some(true) {
                add(&mut cost.preallocated, size);
            }
        }
    }
}

/// The one node that a region's memory should come from; `None` where it may come from any, or from several.
fn node_of(region: &Region) -> Option<u32> {
    let policy = region.numa_policy().filter(|policy| policy.mode != PolicyMode::Default && policy.nodes.len() == 1)?;
    policy.nodes.first().copied()
}

/// The name of a part of a zone: its own, with a number from the second on, or that of the region.
fn name_of(zone: &Zone, part: usize, index: usize) -> String {
    match (&zone.name, part) {
        (None, _) => format!("ram{index}"),
        (Some(name), 0) => name.to_string(),
        (Some(name), part) => format!("{name}-{part}"),
    }
}

/// Capped: the regions of a plan with problems may overlap, and have more bytes than there are addresses.
fn add(sum: &mut u64, value: u64) {
    *sum = sum.saturating_add(value);
}

fn total(request: &PlanRequest) -> Option<u64> {
    request.numa_regions.iter().try_fold(0u64, |sum, info| sum.checked_add(info.size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::interrupt::Uninterrupted;
    use crate::model::reserved::{ReservedKind, ReservedRange};

    const MIB: u64 = 1 << 20;

    fn of(request: PlanRequest) -> SpacePlan {
        SpacePlan::of(request, &Uninterrupted).unwrap()
    }

    fn plan(machine: &str, sizes: &[u64]) -> SpacePlan {
        let info = |size: &u64| NumaRegionInfo { size: *size, ..NumaRegionInfo::default() };
        of(PlanRequest {
            machine: Machine::named(machine, None, None).unwrap(),
            numa_regions: sizes.iter().map(info).collect(),
            source_type: SourceType::MemFdShared,
            path: PathBuf::new(),
            prealloc: false,
            firmware: false,
            dax_window: None,
            dax_base: None,
            hotplug: None,
            amd_1tb_relocation: false,
            options: BackingOptions::default(),
        })
    }

    fn ranges(plan: &SpacePlan) -> Vec<(u64, u64)> {
        plan.regions.iter().map(|region| (region.base(), region.size())).collect()
    }

    #[test]
    fn ram_is_split_as_the_original_splits_it() {
        let low = (0, 0xc000_0000);
        for (sizes, expected) in [
            (vec![128], vec![(0, 0x800_0000)]),
            (vec![3072], vec![low]),
            (vec![4096], vec![low, (0x1_0000_0000, 0x4000_0000)]),
            (vec![2944, 1024], vec![(0, 0xb800_0000), (0xb800_0000, 0x800_0000), (0x1_0000_0000, 0x3800_0000)]),
            (vec![2945, 1024], vec![(0, 0xb810_0000), (0x1_0000_0000, 0x4000_0000)]),
        ] {
            let sizes: Vec<u64> = sizes.iter().map(|size| size * MIB).collect();
            let plan = plan("dragonball", &sizes);
            assert_eq!(ranges(&plan), expected);
            assert_eq!(plan.problems, Vec::<String>::new());
            assert_eq!(plan.reasons.len(), plan.regions.len());
        }
    }

    #[test]
    fn what_does_not_fit_is_a_problem_and_not_a_panic() {
        for sizes in [vec![], vec![1 << 46], vec![u64::MAX, u64::MAX], vec![u64::MAX - 4095]] {
            assert!(!plan("q35", &sizes).problems.is_empty());
        }
    }

    #[test]
    fn ram_adds_up_and_keeps_clear_of_holes_and_of_itself() {
        for machine in ["dragonball", "pc", "q35", "microvm", "virt"] {
            for sizes in [vec![64], vec![2047, 1025], vec![3071, 1, 4096], vec![1, 1 << 18], vec![130; 60]] {
                let sizes: Vec<u64> = sizes.iter().map(|size| size * MIB).collect();
                let plan = plan(machine, &sizes);
                assert_eq!(plan.problems, Vec::<String>::new(), "{machine} {sizes:?}");
                assert_eq!(plan.regions.iter().map(|region| region.size()).sum::<u64>(), sizes.iter().sum::<u64>());
                assert_eq!(plan.cost.size, sizes.iter().sum::<u64>());
                assert!(plan.regions.iter().all(|region| region.base() % SMALL_PAGE == 0));
                assert!(plan.regions.iter().zip(&plan.regions[1..]).all(|(low, high)| low.end() <= high.base()));
                let holes = plan.layout.mmio_windows();
                assert!(!holes.iter().any(|hole| plan.regions.iter().any(|region| region.range.overlaps(hole))));
                let of_node: u64 = plan.numa_nodes.values().flat_map(|node| &node.region_infos).map(Range::size).sum();
                assert_eq!(of_node, plan.cost.size);
            }
        }
    }

    #[test]
    fn a_dax_window_keeps_clear_of_reserved_ranges() {
        let request = plan("q35", &[64 * MIB]).request;
        let end = request.machine.layout.mem_end();
        let reserved = [Range::at(end, 2 * MIB), Range::at(end + 2 * MIB, 6 * MIB)];
        let reserved = reserved.map(|range| ReservedRange { range, kind: ReservedKind::Persistent });
        let machine = request.machine.with_reserved(reserved.to_vec()).unwrap();
        let plan = of(PlanRequest { machine, dax_window: Some(2 * MIB), ..request });
        assert_eq!(plan.problems, Vec::<String>::new());
        assert_eq!(plan.regions.last().unwrap().range, Range::at(end + 8 * MIB, 2 * MIB));
    }

    #[test]
    fn the_hotplug_window_lies_behind_all_ram_and_has_room_to_align_each_slot() {
        let hotplug = |max_memory, slots| {
            let request = plan("q35", &[4096 * MIB]).request;
            of(PlanRequest { hotplug: Some(Hotplug { max_memory, slots }), ..request })
        };
        let plan = hotplug(6144 * MIB, 3);
        let window = plan.hotplug_window.unwrap();
        assert!(window.base().is_multiple_of(HOTPLUG_ALIGN));
        assert!(plan.regions.iter().all(|region| region.end() <= window.base()));
        assert_eq!(window.size(), 2048 * MIB + 3 * HOTPLUG_ALIGN);
        for (max_memory, slots) in [(4096 * MIB, 1), (6144 * MIB, 0), (6144 * MIB, 257), (u64::MAX, 256)] {
            assert!(!hotplug(max_memory, slots).problems.is_empty(), "{max_memory} {slots}");
        }
    }
}
