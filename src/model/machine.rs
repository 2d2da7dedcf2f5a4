//! Machines: where each puts its RAM, and the windows and reserved ranges in the way.

use super::error::Result;
use super::format::hex;
use super::invalid::Invalid;
use super::layout::Layout;
use super::quote::quoted;
use super::range::Range;
use super::reserved::ReservedRange;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const END_OF_32_BITS: u64 = 1 << 32;
/// The widest guest physical addresses that x86_64 and aarch64 have.
pub const MAX_PHYS_BITS: u32 = 52;
/// The most slots that ACPI can describe and QEMU allows.
const MAX_SLOTS: u32 = 256;

/// A processor architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

impl Arch {
    /// Parses `"x86_64"` or `"aarch64"`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        Invalid::named("architecture", text, [Self::X86_64, Self::Aarch64].map(|arch| (arch.name(), arch)))
    }

    /// The name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}

/// The address map of a kind of machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    /// The name.
    pub name: Box<str>,
    /// The architecture of its processors; `None` where nothing hangs on it.
    pub arch: Option<Arch>,
    /// Bits of a guest physical address.
    pub phys_bits: u32,
    /// Bounds, MMIO windows and reserved ranges.
    pub layout: Layout,
    /// Below a hole, less than this much is left unused rather than made a region.
    pub min_split: u64,
    /// Where the RAM below the first window ends when it does not all fit there; the window then begins here.
    pub split_end: Option<u64>,
    /// The bytes behind all RAM that 64-bit PCI devices need. RAM that does not fit below the layout's `mem_end` may reach up to there;
    /// without, `mem_end` is fixed.
    pub pci_hole64_size: Option<u64>,
    /// Where firmware lies.
    pub firmware: Option<Range>,
    /// The number of vCPUs that it can have.
    pub max_vcpus: u32,
    /// The number of DIMM slots that it can have.
    pub max_slots: u32,
}

impl Machine {
    /// A machine with a layout, nothing reserved, no minimal split and no firmware.
    pub fn new(name: &str, phys_bits: u32, mem: Range, mmio_windows: Vec<Range>) -> Result<Self> {
        if name.is_empty() || name.chars().any(char::is_control) {
            let message =
                format!("{name} can't be a machine's name: it is empty or has control characters", name = quoted(name));
            return Err(Invalid::argument(message).into());
        }
        let layout = Layout::new(phys_end(phys_bits)?, mem.base(), mem.end(), mmio_windows)?;
        let name = name.into();
        Ok(Self {
            name,
            arch: None,
            phys_bits,
            layout,
            min_split: 0,
            split_end: None,
            pci_hole64_size: None,
            firmware: None,
            max_vcpus: 255,
            max_slots: MAX_SLOTS,
        })
    }

    /// The machine with reserved ranges in its layout.
    pub fn with_reserved(self, reserved: Vec<ReservedRange>) -> Result<Self> {
        Ok(Self { layout: self.layout.with_reserved(reserved)?, ..self })
    }

    /// Refuses windows that a machine can't have; every public way to make one ends here.
    pub fn checked(self) -> Result<Self> {
        let phys_end = self.layout.phys_end();
        if let Some(window) = self.firmware.filter(|window| window.is_empty() || window.end() > phys_end) {
            let message = format!("the window {window} is empty or ends past phys_end {}", hex(phys_end));
            return Err(Invalid::at(message, Some(window.base()), Some(window.size())).into());
        }
        if let Some(end) = self.split_end {
            let first = self.layout.mmio_windows().first();
            if first.is_none_or(|window| end > window.base() || end < self.layout.mem_start()) {
                let message = format!("split_end {} must lie between mem_start and the first MMIO window", hex(end));
                return Err(Invalid::at(message, Some(end), None).into());
            }
        }
        Ok(self)
    }

    /// A machine by its name; `arch` and `phys_bits` are its own where they are not given.
    pub fn named(name: &str, arch: Option<Arch>, phys_bits: Option<u32>) -> Result<Self> {
        let only = match name {
            "pc" | "q35" | "microvm" => Some(Arch::X86_64),
            "virt" => Some(Arch::Aarch64),
            "dragonball" => None,
            _ => {
                let known = "\"dragonball\", \"pc\", \"q35\", \"microvm\", \"virt\", or a Machine of your own";
                return Err(
                    Invalid::argument(format!("unknown machine {name}: use {known}", name = quoted(name))).into()
                );
            }
        };
        if let (Some(arch), Some(only)) = (arch, only)
            && arch != only
        {
            return Err(Invalid::argument(format!(
                "the machine {name} is {}, not {}",
                only.name(),
                arch.name(),
                name = quoted(name)
            ))
            .into());
        }
        let arch = arch.or(only).unwrap_or(Arch::X86_64);
        let bits = phys_bits.unwrap_or(if arch == Arch::Aarch64 { 40 } else { 46 });
        check_phys_bits(bits)?;
        let machine = match (name, arch) {
            ("pc", _) => qemu_pc(name, bits, (0xe000_0000, 0xc000_0000), 2 * GIB),
            ("q35", _) => qemu_pc(name, bits, (0xb000_0000, 0x8000_0000), 32 * GIB),
            ("microvm", _) => qemu_pc(name, bits, (0xc000_0000, 0xc000_0000), 0),
            ("virt", _) => qemu_virt(bits),
            (_, Arch::X86_64) => dragonball_x86_64(bits),
            (_, Arch::Aarch64) => dragonball_aarch64(bits),
        }?;
        Self { arch: Some(arch), ..machine }.checked()
    }

    /// The exclusive end of all RAM that the machine can have.
    #[must_use]
    pub fn ram_limit(&self) -> u64 {
        let behind = self.pci_hole64_size.map(|size| self.layout.phys_end().saturating_sub(size));
        behind.unwrap_or_default().max(self.layout.mem_end())
    }

    /// The layout for so much RAM: the first window widens when the RAM does not fit below it.
    pub fn layout_for(&self, ram: u64) -> Result<Layout> {
        let windows = self.layout.mmio_windows();
        let Some((first, end)) = windows
            .first()
            .zip(self.split_end)
            .filter(|(first, _)| ram >= Range::between(self.layout.mem_start(), first.base()).size())
        else {
            return Ok(self.layout.clone());
        };
        let mut windows = windows.to_vec();
        if let Some(window) = windows.first_mut() {
            *window = Range::between(end, first.end());
        }
        let reserved = self.layout.reserved().to_vec();
        Layout::new(self.layout.phys_end(), self.layout.mem_start(), self.layout.mem_end(), windows)?
            .with_reserved(reserved)
    }
}

fn phys_end(phys_bits: u32) -> Result<u64> {
    check_phys_bits(phys_bits)?;
    Ok(1 << phys_bits)
}

fn check_phys_bits(phys_bits: u32) -> Result<()> {
    match phys_bits {
        1..=MAX_PHYS_BITS => Ok(()),
        _ => {
            Err(Invalid::number(format!("phys_bits is {phys_bits}: it must lie between 1 and {MAX_PHYS_BITS}")).into())
        }
    }
}

/// The addresses of a machine's RAM, unless there are none with so few bits.
fn ram(name: &str, bits: u32, start: u64, end: u64) -> Result<Range> {
    let ram = Range::between(start, end);
    if ram.is_empty() {
        let message =
            format!("phys_bits is {bits}: too few for the machine '{name}', whose RAM begins at {}", hex(start));
        return Err(Invalid::number(message).into());
    }
    Ok(ram)
}

/// RAM up to half of the address space, as the original; PCI devices lie above. Machines of QEMU go beyond when they need to.
const fn half(phys_bits: u32) -> u64 {
    (1u64 << phys_bits) / 2
}

fn dragonball_x86_64(bits: u32) -> Result<Machine> {
    let machine =
        Machine::new("dragonball", bits, Range::between(0, half(bits)), vec![Range::between(3 * GIB, END_OF_32_BITS)])?;
    let firmware = Some(Range::between(0xff00_0000, END_OF_32_BITS));
    Ok(Machine { min_split: 128 * MIB, firmware, max_vcpus: 254, ..machine })
}

/// The original has 2^40 addresses and keeps the last 32 GiB of them for devices.
fn dragonball_aarch64(bits: u32) -> Result<Machine> {
    let devices = Range::between(0, phys_end(bits)?).last(32 * GIB);
    let mem = ram("dragonball", bits, 2 * GIB, devices.base())?;
    let machine = Machine::new("dragonball", bits, mem, vec![Range::between(GIB, 2 * GIB)])?;
    Ok(Machine { min_split: 128 * MIB, max_vcpus: 254, ..machine })
}

/// RAM that reaches `highest` is cut at `split_end`, and the rest continues at 4 GiB.
fn qemu_pc(name: &str, bits: u32, (highest, split_end): (u64, u64), pci_hole64: u64) -> Result<Machine> {
    let window = Range::between(highest, END_OF_32_BITS);
    // QEMU has no hole for a guest of 32 bits.
    let pci_hole64 = if bits <= 32 { 0 } else { pci_hole64 };
    let limit = phys_end(bits)?.saturating_sub(pci_hole64);
    if limit < END_OF_32_BITS {
        let message = format!("phys_bits is {bits}: too few for the machine '{name}' and its 64-bit PCI hole");
        return Err(Invalid::number(message).into());
    }
    let machine = Machine::new(name, bits, Range::between(0, half(bits).min(limit)), vec![window])?;
    let firmware = if name == "microvm" { END_OF_32_BITS - (64 << 10) } else { END_OF_32_BITS - (256 << 10) };
    let firmware = Some(Range::between(firmware, END_OF_32_BITS));
    let max_vcpus = if name == "pc" { 255 } else { 288 };
    let max_slots = if name == "microvm" { 0 } else { machine.max_slots };
    Ok(Machine {
        split_end: Some(split_end),
        pci_hole64_size: Some(pci_hole64),
        firmware,
        max_vcpus,
        max_slots,
        ..machine
    })
}

/// Devices and flash lie below 1 GiB, RAM begins there. High PCI windows that find no room behind it are left out, as QEMU does.
fn qemu_virt(bits: u32) -> Result<Machine> {
    let mem = ram("virt", bits, GIB, half(bits))?;
    let machine = Machine::new("virt", bits, mem, vec![Range::between(0, GIB)])?;
    Ok(Machine { firmware: Some(Range::between(0, 64 * MIB)), pci_hole64_size: Some(0), max_vcpus: 512, ..machine })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_originals_constants_hold() {
        let layout = Machine::named("dragonball", None, None).unwrap().layout;
        assert_eq!((layout.mem_start(), layout.mem_end(), layout.phys_end()), (0, 1 << 45, 1 << 46));
        let layout = Machine::named("dragonball", Some(Arch::Aarch64), None).unwrap().layout;
        assert_eq!((layout.mem_start(), layout.mem_end(), layout.phys_end()), (2 << 30, 0xf8_0000_0000, 1 << 40));
    }

    #[test]
    fn a_window_widens_only_when_ram_does_not_fit_below_it() {
        let q35 = Machine::named("q35", None, None).unwrap();
        assert_eq!(q35.layout_for(0xafff_f000).unwrap().mmio_windows().first().unwrap().base(), 0xb000_0000);
        assert_eq!(q35.layout_for(0xb000_0000).unwrap().mmio_windows().first().unwrap().base(), 0x8000_0000);
    }

    #[test]
    fn every_machine_has_room_for_ram_at_any_width_or_says_what_it_needs() {
        for (name, bits) in ["dragonball", "pc", "q35", "microvm", "virt"]
            .into_iter()
            .flat_map(|name| (0..60).map(move |bits| (name, bits)))
        {
            for arch in [Arch::X86_64, Arch::Aarch64] {
                match Machine::named(name, Some(arch), Some(bits)) {
                    Ok(Machine { layout, .. }) => {
                        assert_eq!(layout.phys_end(), 1 << bits);
                        assert!(layout.mem_start() < layout.mem_end(), "{name} {bits}");
                    }
                    Err(error) => {
                        let text = error.to_string();
                        assert!(!(36..=MAX_PHYS_BITS).contains(&bits) || text.contains(name), "{text}");
                    }
                }
            }
        }
    }

    #[test]
    fn reserved_ranges_and_splits_must_fit_the_layout() {
        let machine =
            || Machine::new("mine", 40, Range::between(0, 1 << 39), vec![Range::between(GIB, 2 * GIB)]).unwrap();
        let reserving = |range| {
            let reserved = ReservedRange { range, kind: crate::model::reserved::ReservedKind::Acpi };
            machine().with_reserved(vec![reserved]).is_ok()
        };
        assert!(reserving(Range::between(0, 1 << 40)));
        assert!(!reserving(Range::between(5, 5)) && !reserving(Range::between(0, (1 << 40) + 1)));
        let splitting = |end| Machine { split_end: Some(end), ..machine() }.checked().is_ok();
        assert!(splitting(GIB) && splitting(0) && !splitting(GIB + 1));
        assert!(Machine::new("", 40, Range::between(0, 1), vec![]).is_err());
    }
}
