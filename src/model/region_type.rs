//! The type of a region, its meaning to the guest, and the `mmap` flags and protection that follow from it.

use std::fmt::Display;

use super::invalid::{Invalid, Kind};
use super::quote::quoted;
use super::source::Source;

/// `mmap`'s `MAP_SHARED`.
pub const MAP_SHARED: i32 = 0x1;
/// `mmap`'s `MAP_PRIVATE`.
pub const MAP_PRIVATE: i32 = 0x2;
/// `mmap`'s `MAP_FIXED`.
pub const MAP_FIXED: i32 = 0x10;
/// `mmap`'s `MAP_ANONYMOUS`.
pub const MAP_ANONYMOUS: i32 = 0x20;
/// `mmap`'s `MAP_GROWSDOWN`.
pub const MAP_GROWSDOWN: i32 = 0x100;
/// `mmap`'s `MAP_NORESERVE`.
pub const MAP_NORESERVE: i32 = 0x4000;
/// `mmap`'s `MAP_POPULATE`.
pub const MAP_POPULATE: i32 = 0x8000;
/// `mmap`'s `MAP_HUGETLB`.
pub const MAP_HUGETLB: i32 = 0x4_0000;
/// `mmap`'s `MAP_FIXED_NOREPLACE`.
pub const MAP_FIXED_NOREPLACE: i32 = 0x10_0000;
/// `mmap`'s `PROT_NONE`.
pub const PROT_NONE: i32 = 0;
/// `mmap`'s `PROT_READ`.
pub const PROT_READ: i32 = 1;
/// `mmap`'s `PROT_WRITE`.
pub const PROT_WRITE: i32 = 2;
/// `mmap`'s `PROT_EXEC`.
pub const PROT_EXEC: i32 = 4;

/// The meaning of a region to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::enum_variant_names, reason = "the original's names")]
pub enum RegionType {
    /// The guest's RAM.
    DefaultMemory,
    /// Registers of a device: no memory behind it.
    DeviceMemory,
    /// A window into which files are mapped.
    DaxMemory,
    /// Firmware, usually below 4 GiB.
    FirmwareMemory,
}

impl RegionType {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::DefaultMemory, Self::DeviceMemory, Self::DaxMemory, Self::FirmwareMemory];

    /// The value of the Python enum: `"ram"`, `"device"`, `"dax"`, `"firmware"`.
    #[must_use]
    pub const fn value(self) -> &'static str {
        match self {
            Self::DefaultMemory => "ram",
            Self::DeviceMemory => "device",
            Self::DaxMemory => "dax",
            Self::FirmwareMemory => "firmware",
        }
    }

    /// The member name of the Python enum.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DefaultMemory => "DEFAULT_MEMORY",
            Self::DeviceMemory => "DEVICE_MEMORY",
            Self::DaxMemory => "DAX_MEMORY",
            Self::FirmwareMemory => "FIRMWARE_MEMORY",
        }
    }

    /// Parses a value or a member name, in any case.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let is_it = |t: &Self| text.eq_ignore_ascii_case(t.value()) || text.eq_ignore_ascii_case(t.name());
        Self::ALL.into_iter().find(is_it).ok_or_else(|| Self::unknown(quoted(text)))
    }

    /// The refusal of anything else, `shown` as a message quotes it.
    #[must_use]
    pub fn unknown(shown: impl Display) -> Invalid {
        Invalid::unknown(Kind::RegionType, "region type", shown, Self::ALL.map(Self::value))
    }

    /// The `mmap` flags and protection of a region of this type and source that asks for nothing else.
    #[must_use]
    pub fn default_flags(self, source: &Source) -> (i32, i32) {
        let anonymous = MAP_PRIVATE | MAP_ANONYMOUS;
        match self {
            Self::DeviceMemory => (0, PROT_NONE),
            // Only addresses, over which files are mapped later.
            Self::DaxMemory => (anonymous | MAP_NORESERVE, PROT_NONE),
            Self::FirmwareMemory if source.file.is_some() || source.is_named() => (MAP_PRIVATE, PROT_READ | PROT_WRITE),
            Self::FirmwareMemory if source.source_type.is_none() => (anonymous, PROT_READ | PROT_WRITE),
            Self::FirmwareMemory | Self::DefaultMemory => match source.source_type {
                Some(source) if source.is_anonymous() => (anonymous, PROT_READ | PROT_WRITE),
                _ => (MAP_SHARED, PROT_READ | PROT_WRITE),
            },
        }
    }
}
