//! The addresses below 1 TiB that the IOMMUs of AMD keep for HyperTransport, and the place that QEMU gives to RAM because of them.

use super::layout::Layout;
use super::machine::Machine;
use super::range::Range;
use super::reserved::{ReservedKind, ReservedRange};

const GIB: u64 = 1 << 30;

/// The last 12 GiB below 1 TiB: no device can reach memory there.
pub const HYPER_TRANSPORT: ReservedRange =
    ReservedRange { range: Range::between(0xfd_0000_0000, 1 << 40), kind: ReservedKind::Reserved };

/// The addresses that RAM leaves out, when it or the PCI devices behind it would reach the range: all from 4 GiB to 1 TiB.
#[must_use]
pub fn relocation(machine: &Machine, layout: &Layout, ram: u64, plugged: Option<u64>) -> Option<Range> {
    let window = layout.mmio_windows().first()?;
    let below = Range::between(layout.mem_start(), window.base()).size();
    let end = window.end().saturating_add(ram.saturating_sub(below));
    let end = plugged.map_or(end, |size| rounded(end).saturating_add(size));
    let devices_end = rounded(end).saturating_add(machine.pci_hole64_size?);
    (devices_end > HYPER_TRANSPORT.range.base()).then(|| Range::between(window.end(), HYPER_TRANSPORT.range.end()))
}

fn rounded(end: u64) -> u64 {
    end.checked_next_multiple_of(GIB).unwrap_or(u64::MAX)
}
