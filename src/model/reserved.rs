//! Ranges of a layout that are kept for ever: the guest is told of them, and nothing is placed there.

use super::error::Result;
use super::invalid::Invalid;
use super::range::Range;

/// The use that a reserved range has for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReservedKind {
    /// Not for memory.
    Reserved,
    /// RAM with ACPI tables, which the guest may use once it has read them.
    Acpi,
    /// RAM that firmware keeps while the guest sleeps.
    Nvs,
    /// Persistent memory.
    Persistent,
    /// Memory for a special purpose, which the guest hands out only where it is asked for.
    SoftReserved,
}

impl ReservedKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Reserved, Self::Acpi, Self::Nvs, Self::Persistent, Self::SoftReserved];

    /// Parses `"reserved"`, `"acpi"`, `"nvs"`, `"persistent"` or `"soft-reserved"`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        Invalid::named("kind of reserved range", text, Self::ALL.map(|kind| (kind.name(), kind)))
    }

    /// The name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Acpi => "acpi",
            Self::Nvs => "nvs",
            Self::Persistent => "persistent",
            Self::SoftReserved => "soft-reserved",
        }
    }

    /// Its type in an E820 map, as Linux numbers them.
    #[must_use]
    pub const fn e820_type(self) -> u32 {
        match self {
            Self::Reserved => 2,
            Self::Acpi => 3,
            Self::Nvs => 4,
            Self::Persistent => 7,
            Self::SoftReserved => 0xefff_ffff,
        }
    }
}

/// A reserved range. RAM may be put into one that has memory, by its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReservedRange {
    /// The addresses.
    pub range: Range,
    /// Their use.
    pub kind: ReservedKind,
}

impl std::fmt::Display for ReservedRange {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} ({})", self.range, self.kind.name())
    }
}
