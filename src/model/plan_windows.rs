//! The places of all that a plan has round its RAM: firmware, a DAX window, and the addresses for memory that is plugged in later.

use super::allocator::{FitPolicy, Wanted, within, without};
use super::format::{hex, size as size_text};
use super::machine::MAX_PHYS_BITS;
use super::plan::{HOTPLUG_ALIGN, Hotplug, SpacePlan};
use super::range::{Range, joined};
use super::region::{Region, RegionType};
use super::source::Source;

/// DAX windows are mapped by the guest with huge pages.
const DAX_ALIGN: u64 = 2 << 20;

impl SpacePlan {
    pub(super) fn place_firmware(&mut self) {
        if !self.request.firmware {
            return;
        }
        let Some(range) = self.request.machine.firmware else {
            return self.problem(format!("the machine '{}' has no place for firmware", self.request.machine.name));
        };
        if let Some(ram) = self.regions.iter().find(|region| region.range.overlaps(&range)) {
            let message = format!("the firmware at {range} overlaps {ram}");
            self.problem(message);
        }
        let in_the_way = self.windows().find(|window| window.overlaps(&range));
        if let Some(window) = in_the_way {
            self.problem(format!("the firmware at {range} overlaps the window {window} for hotplug"));
        }
        self.add_named(RegionType::FirmwareMemory, range, "firmware", "where the machine starts to execute".into());
    }

    fn add_named(&mut self, region_type: RegionType, range: Range, name: &str, reason: String) {
        let region = Region::new(region_type, range, Source::default())
            .map(|region| Region { name: Some(name.into()), ..region });
        self.add(region, reason);
    }

    /// The lowest place above RAM that is aligned to huge pages.
    pub(super) fn place_dax_window(&mut self) {
        let Some(size) = self.request.dax_window else { return };
        if size == 0 || !size.is_multiple_of(DAX_ALIGN) {
            return self.problem(format!("dax_window has {} bytes: it needs a multiple of 2 MiB above 0", hex(size)));
        }
        if let Some(base) = self.request.dax_base {
            return self.place_dax_at(base, size);
        }
        let rooms = within(&self.layout.rooms(RegionType::DaxMemory), self.layout.mem_end(), u64::MAX);
        let wanted = Wanted { size, align: DAX_ALIGN, guard_gap: 0, policy: FitPolicy::First };
        let mut taken: Vec<Range> = self.regions.iter().map(|region| region.range).collect();
        taken.sort_unstable();
        match wanted.place(&rooms, &joined(taken)) {
            Ok(range) => {
                let reason = format!("the first {} above mem_end {}", size_text(size), hex(self.layout.mem_end()));
                self.add_named(RegionType::DaxMemory, range, "dax0", reason);
            }
            Err(error) => self.problem(format!("dax_window: {error}")),
        }
    }

    fn place_dax_at(&mut self, base: u64, size: u64) {
        let range = match Range::new(base, size) {
            Ok(range) if base.is_multiple_of(DAX_ALIGN) => range,
            _ => return self.problem(format!("dax_window at {}: a base is a multiple of 2 MiB", hex(base))),
        };
        if let Some(region) = self.regions.iter().find(|region| region.range.overlaps(&range)) {
            let message = format!("dax_window {range} overlaps {region}");
            self.problem(message);
        }
        self.add_named(RegionType::DaxMemory, range, "dax0", "where it was asked for".into());
    }

    /// Room behind all RAM and windows, and behind other such room.
    fn behind_ram(&self, size: u64) -> Option<Range> {
        // A window that reaches mem_end has no RAM behind it.
        let windows = self.layout.mmio_windows().iter().map(Range::end).filter(|end| *end < self.layout.mem_end());
        let plugged =
            self.hotplug_window.iter().chain(self.zone_windows.iter().map(|(_, window)| window)).map(Range::end);
        let low =
            self.regions.iter().map(|region| region.end()).chain(windows).chain(plugged).max().unwrap_or_default();
        let rooms = without(&[Range::between(low, self.layout.mem_end())], &self.holes);
        let wanted = Wanted { size, align: HOTPLUG_ALIGN, guard_gap: 0, policy: FitPolicy::First };
        wanted.place(&rooms, &[]).ok()
    }

    /// A window of its own for each zone that has room for more, in their order.
    pub(super) fn place_zone_windows(&mut self) {
        for (index, info) in self.request.numa_regions.clone().iter().enumerate() {
            let Some(size) = info.zone.hotplug_size else { continue };
            let (node, page_size) = (info.guest_numa_node_id.unwrap_or_default(), self.page_size(info));
            if size == 0 || !size.is_multiple_of(page_size) {
                let (size, page) = (hex(size), size_text(page_size));
                self.problem(format!("numa_regions[{index}] has hotplug_size {size}: it needs whole pages of {page}"));
                continue;
            }
            match self.behind_ram(size) {
                Some(window) => {
                    let name = info.zone.name.as_deref().map_or_else(|| format!("node{node}"), str::to_owned);
                    self.zone_windows.push((name, window));
                    self.numa_nodes.entry(node).or_default().hotplug_infos.push(window);
                }
                None => self.problem(format!(
                    "numa_regions[{index}]: hotplug_size {} does not fit below mem_end {} of the machine '{}'; {}",
                    size_text(size),
                    hex(self.layout.mem_end()),
                    self.request.machine.name,
                    self.more_room()
                )),
            }
        }
    }

    /// Behind all RAM and windows, with room to align each slot, as QEMU does it.
    pub(super) fn place_hotplug_window(&mut self, ram: Option<u64>) {
        let Some(hotplug) = self.request.hotplug else { return };
        let Hotplug { max_memory, slots } = hotplug;
        let most = self.request.machine.max_slots;
        if most == 0 {
            return self.problem(format!("hotplug: the machine '{}' has no DIMM slots", self.request.machine.name));
        }
        if slots == 0 || slots > most {
            self.problem(format!("hotplug has {slots} slots: it needs 1 to {most}"));
        }
        let Some(more) = max_memory.checked_sub(ram.unwrap_or(u64::MAX)).filter(|more| *more > 0) else {
            return self.problem(format!(
                "hotplug's max_memory {} is not above the {} that the machine begins with",
                size_text(max_memory),
                size_text(ram.unwrap_or(u64::MAX))
            ));
        };
        match ram.and_then(|ram| hotplug.window_size(ram)).and_then(|size| self.behind_ram(size)) {
            Some(window) => self.hotplug_window = Some(window),
            None => self.problem(format!(
                "hotplug: {} and {slots} slots do not fit below mem_end {} of the machine '{}'; {}",
                size_text(more),
                hex(self.layout.mem_end()),
                self.request.machine.name,
                self.more_room()
            )),
        }
    }

    /// The advice where addresses are too few, which holds for a machine by its name and for a `Machine`.
    pub(super) fn more_room(&self) -> &'static str {
        let machine = &self.request.machine;
        match (machine.phys_bits, machine.ram_limit() < machine.layout.phys_end()) {
            (..MAX_PHYS_BITS, _) => "use a Machine with more phys_bits or a higher mem_end",
            (_, true) => "no machine has more phys_bits: ask for less, or use a Machine with a higher mem_end",
            (_, false) => "no machine has more addresses: ask for less",
        }
    }

    /// RAM ends where the machine says, or behind what did not fit there; devices may lie above.
    pub(super) fn settle_mem_end(&mut self) {
        let ends = self.regions.iter().map(|region| region.end()).chain(self.windows().map(|window| window.end()));
        let reached = ends.max().unwrap_or_default().checked_next_multiple_of(HOTPLUG_ALIGN).unwrap_or(u64::MAX);
        let end = reached.min(self.layout.mem_end()).max(self.request.machine.layout.mem_end());
        self.layout = self.layout.clone().ending_at(end);
    }

    /// All addresses for memory that is plugged in later.
    pub fn windows(&self) -> impl Iterator<Item = Range> {
        self.hotplug_window.into_iter().chain(self.zone_windows.iter().map(|(_, window)| *window))
    }
}
