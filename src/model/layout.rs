//! The rules of an address space: where RAM, devices and firmware may lie.

use super::allocator::without;
use super::error::{Error, Result};
use super::format::hex;
use super::invalid::Invalid;
use super::range::{Range, joined};
use super::region::{Region, RegionType, SharedRegion};
use super::reserved::{ReservedKind, ReservedRange};

/// How many I/O ports an x86 processor has.
const PORTS: u64 = 1 << 16;

/// The bounds that every region of a space must keep. All ends are exclusive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    phys_end: u64,
    mem_start: u64,
    mem_end: u64,
    mmio_windows: Box<[Range]>,
    reserved: Box<[ReservedRange]>,
}

impl Layout {
    /// A layout with `mem_start <= mem_end <= phys_end` and disjoint windows below `phys_end`.
    pub fn new(phys_end: u64, mem_start: u64, mem_end: u64, mut mmio_windows: Vec<Range>) -> Result<Self> {
        if mem_start > mem_end || mem_end > phys_end {
            let (start, end, phys) = (hex(mem_start), hex(mem_end), hex(phys_end));
            let message = format!("a layout needs mem_start <= mem_end <= phys_end, not {start}, {end}, {phys}");
            return Err(Invalid::at(message, Some(mem_start), Some(mem_end.saturating_sub(mem_start))).into());
        }
        // Sorted, so that equal layouts are equal values in whatever order the windows came.
        mmio_windows.sort_unstable();
        check_ranges("MMIO window", &mmio_windows, phys_end)?;
        Ok(Self { phys_end, mem_start, mem_end, mmio_windows: mmio_windows.into(), reserved: Box::default() })
    }

    /// The layout of x86's I/O ports, where devices only may lie.
    #[must_use]
    pub fn of_ports() -> Self {
        Self { phys_end: PORTS, mem_start: 0, mem_end: 0, mmio_windows: Box::default(), reserved: Box::default() }
    }

    /// Whether this is the layout of I/O ports.
    #[must_use]
    pub const fn is_of_ports(&self) -> bool {
        self.phys_end == PORTS && self.mem_end == 0
    }

    /// The same layout with other reserved ranges: disjoint, below `phys_end`.
    pub fn with_reserved(self, mut reserved: Vec<ReservedRange>) -> Result<Self> {
        reserved.sort_unstable();
        let ranges: Vec<Range> = reserved.iter().map(|reserved| reserved.range).collect();
        check_ranges("reserved range", &ranges, self.phys_end)?;
        Ok(Self { reserved: reserved.into(), ..self })
    }

    /// The exclusive end of the guest physical address space.
    #[must_use]
    pub const fn phys_end(&self) -> u64 {
        self.phys_end
    }

    /// Where RAM may begin.
    #[must_use]
    pub const fn mem_start(&self) -> u64 {
        self.mem_start
    }

    /// The exclusive end of RAM, where devices may begin.
    #[must_use]
    pub const fn mem_end(&self) -> u64 {
        self.mem_end
    }

    /// Where devices may lie below `mem_end` and RAM may not; sorted.
    #[must_use]
    pub const fn mmio_windows(&self) -> &[Range] {
        &self.mmio_windows
    }

    /// The ranges that are kept for ever, in which nothing is placed; sorted.
    #[must_use]
    pub const fn reserved(&self) -> &[ReservedRange] {
        &self.reserved
    }

    /// The same layout with another end of RAM, as far as its addresses allow.
    #[must_use]
    pub fn ending_at(self, mem_end: u64) -> Self {
        let mem_end = mem_end.min(self.phys_end).max(self.mem_start);
        Self { mem_end, ..self }
    }

    /// `Err` with the reason when the layout does not allow the region.
    pub fn check_region(&self, region: &SharedRegion) -> Result<()> {
        self.refusal(region).map_or(Ok(()), |reason| Err(Error::Layout { region: SharedRegion::clone(region), reason }))
    }

    /// The sorted ranges in which a region of a type may be placed.
    #[must_use]
    pub fn rooms(&self, region_type: RegionType) -> Vec<Range> {
        let rooms = match region_type {
            _ if self.is_of_ports() && region_type != RegionType::DeviceMemory => return Vec::new(),
            RegionType::DefaultMemory => without(&[Range::between(self.mem_start, self.mem_end)], &self.mmio_windows),
            RegionType::DeviceMemory | RegionType::DaxMemory => self.device_rooms(),
            RegionType::FirmwareMemory => return vec![Range::between(0, self.phys_end)],
        };
        let reserved: Vec<Range> = self.reserved.iter().map(|reserved| reserved.range).collect();
        without(&rooms, &reserved)
    }

    /// The windows and the part above `mem_end`, joined, for a window may reach over `mem_end`.
    fn device_rooms(&self) -> Vec<Range> {
        let above = Range::between(self.mem_end, self.phys_end);
        let mut rooms = self.mmio_windows.to_vec();
        rooms.extend((!above.is_empty()).then_some(above));
        rooms.sort_unstable();
        joined(rooms)
    }

    fn refusal(&self, region: &Region) -> Option<String> {
        let in_the_way = self.reserved.iter().find(|reserved| reserved.range.overlaps(&region.range));
        match in_the_way.filter(|_| region.region_type != RegionType::FirmwareMemory) {
            Some(reserved) if self.may_hold(reserved, region) => None,
            Some(reserved) => Some(format!("reaches into {reserved}, which is reserved for ever")),
            None => self.refusal_elsewhere(region),
        }
    }

    /// Whether a region was meant to lie in a reserved range: memory in one of memory, a device in a part of an MMIO window.
    fn may_hold(&self, reserved: &ReservedRange, region: &Region) -> bool {
        let is_for_it = match (region.region_type, reserved.kind) {
            (RegionType::DefaultMemory, kind) => kind != ReservedKind::Reserved,
            (RegionType::DaxMemory, kind) => kind == ReservedKind::Persistent,
            _ => self.mmio_windows.iter().any(|window| window.covers(&reserved.range)),
        };
        is_for_it && reserved.range.covers(&region.range)
    }

    fn refusal_elsewhere(&self, region: &Region) -> Option<String> {
        if self.is_of_ports() && region.region_type != RegionType::DeviceMemory {
            return Some("is memory: I/O ports are of devices only".into());
        }
        match region.region_type {
            RegionType::DefaultMemory => self.ram_refusal(region),
            RegionType::DeviceMemory | RegionType::DaxMemory => self.device_refusal(region),
            RegionType::FirmwareMemory => exceeds(region, "phys_end", self.phys_end),
        }
    }

    fn ram_refusal(&self, region: &Region) -> Option<String> {
        if region.base() < self.mem_start {
            return Some(format!("begins below mem_start {}", hex(self.mem_start)));
        }
        let window = self.mmio_windows.iter().find(|window| window.overlaps(&region.range));
        exceeds(region, "mem_end", self.mem_end)
            .or_else(|| window.map(|window| format!("reaches into the MMIO window {window}, where RAM can't lie")))
    }

    /// A device lies wholly in the windows and the part above `mem_end`, taken together.
    fn device_refusal(&self, region: &Region) -> Option<String> {
        if self.device_rooms().iter().any(|room| room.covers(&region.range)) {
            return None;
        }
        exceeds(region, "phys_end", self.phys_end).or_else(|| {
            let windows: Vec<String> = self.mmio_windows.iter().map(ToString::to_string).collect();
            let windows = if windows.is_empty() {
                String::new()
            } else {
                format!(" or in an MMIO window ({})", windows.join(", "))
            };
            Some(format!("must lie between mem_end {} and phys_end {}{windows}", hex(self.mem_end), hex(self.phys_end)))
        })
    }
}

fn exceeds(region: &Region, name: &str, limit: u64) -> Option<String> {
    let over = region.end().checked_sub(limit).filter(|over| *over > 0)?;
    // One byte too far is nearly always a layout given by inclusive ends, as the original crate has them.
    let inclusive = if over == 1 {
        format!(
            "; layout ends are exclusive, {} looks like an inclusive last address: give {}",
            hex(limit),
            hex(region.end())
        )
    } else {
        String::new()
    };
    Some(format!("ends {} bytes past {name} {}{inclusive}", hex(over), hex(limit)))
}

fn check_ranges(what: &str, ranges: &[Range], phys_end: u64) -> Result<()> {
    for window in ranges {
        if window.is_empty() || window.end() > phys_end {
            let message = format!("the {what} {window} is empty or ends past phys_end {}", hex(phys_end));
            return Err(Invalid::at(message, Some(window.base()), Some(window.size())).into());
        }
    }
    for (low, high) in ranges.iter().zip(ranges.iter().skip(1)) {
        if low.overlaps(high) {
            let message = format!("the {what}s {low} and {high} overlap");
            return Err(Invalid::at(message, Some(high.base()), Some(high.size())).into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::source::Source;

    fn verdict(layout: &Layout, region_type: RegionType, base: u64, size: u64) -> bool {
        let range = Range::new(base, size).unwrap();
        layout.check_region(&Arc::new(Region::new(region_type, range, Source::default()).unwrap())).is_ok()
    }

    #[test]
    fn the_originals_boundary_table_holds() {
        let layout = Layout::new(0x1_0000_0000, 0x1000_0000, 0x2000_0000, vec![]).unwrap();
        for (region_type, base, size, valid) in [
            (RegionType::DefaultMemory, 0x1000_0000, 0x1000_0000, true),
            (RegionType::DefaultMemory, 0x1000_0000, 0x1000_0001, false),
            (RegionType::DeviceMemory, 0x2000_0000, 0xe000_0000, true),
            (RegionType::DeviceMemory, 0x2000_0000, 0xe000_0001, false),
            (RegionType::DeviceMemory, 0x1fff_ffff, 1, false),
            (RegionType::FirmwareMemory, 0, 0x1_0000_0000, true),
            (RegionType::FirmwareMemory, 0x2_0000_0000, 0x1000, false),
        ] {
            assert_eq!(verdict(&layout, region_type, base, size), valid, "{region_type:?} {base:x} {size:x}");
        }
    }

    #[test]
    fn windows_hold_devices_and_no_ram() {
        let window = Range::new(0xc000_0000, 0x4000_0000).unwrap();
        let layout = Layout::new(1 << 46, 0, 1 << 45, vec![window]).unwrap();
        assert!(verdict(&layout, RegionType::DeviceMemory, 0xfee0_0000, 0x1000));
        assert!(!verdict(&layout, RegionType::DeviceMemory, 0xffff_f000, 0x2000));
        assert!(!verdict(&layout, RegionType::DefaultMemory, 0xbfff_f000, 0x2000));
        assert!(verdict(&layout, RegionType::DefaultMemory, 0x1_0000_0000, 0x1000));
    }

    #[test]
    fn order_and_windows_are_enforced() {
        assert!(Layout::new(1, 3, 2, vec![]).is_err());
        let (one, two) = (Range::new(0, 0x2000).unwrap(), Range::new(0x1000, 0x1000).unwrap());
        assert!(Layout::new(0x1_0000, 0, 0x8000, vec![one, two]).is_err());
        assert!(Layout::new(0x1_0000, 0, 0x8000, vec![Range::new(0x1_0000, 1).unwrap()]).is_err());
    }

    #[test]
    fn a_region_may_lie_in_the_rooms_of_its_type_and_nowhere_else() {
        let windows = vec![Range::between(11, 14), Range::between(6, 8)];
        let layout = Layout::new(20, 4, 12, windows).unwrap();
        for region_type in RegionType::ALL {
            let rooms = layout.rooms(region_type);
            assert!(rooms.iter().zip(rooms.iter().skip(1)).all(|(low, high)| low.end() < high.base()), "{rooms:?}");
            for (base, end) in (0..22).flat_map(|base| (base + 1..23).map(move |end| (base, end))) {
                let fits = rooms.iter().any(|room| room.covers(&Range::between(base, end)));
                assert_eq!(verdict(&layout, region_type, base, end - base), fits, "{region_type:?} {base} {end}");
            }
        }
    }
}
