//! A region: the description of a range of guest physical addresses.

use std::sync::Arc;

use super::backing::BackingOptions;
use super::format;
use super::invalid::{Invalid, Kind};
use super::policy::{NumaPolicy, PolicyMode};
use super::range::Range;
use super::source::{Source, SourceType};

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

/// What a region is to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
        let known =
            Self::ALL.into_iter().find(|t| text.eq_ignore_ascii_case(t.value()) || text.eq_ignore_ascii_case(t.name()));
        known.ok_or_else(|| {
            Invalid::text(
                Kind::RegionType,
                format!("unknown region type {text:?}: use \"ram\", \"device\", \"dax\" or \"firmware\""),
            )
        })
    }

    /// The `mmap` flags and protection of a region of this type and source that asks for nothing else.
    #[must_use]
    pub fn default_flags(self, source: &Source) -> (i32, i32) {
        let anonymous = MAP_PRIVATE | MAP_ANONYMOUS;
        match self {
            Self::DeviceMemory => (0, PROT_NONE),
            Self::DaxMemory => (anonymous | MAP_NORESERVE, PROT_NONE),
            Self::FirmwareMemory if source.file.is_some() => (MAP_PRIVATE, PROT_READ | PROT_WRITE),
            Self::FirmwareMemory if source.source_type.is_none() => (anonymous, PROT_READ | PROT_WRITE),
            Self::FirmwareMemory | Self::DefaultMemory => match source.source_type {
                Some(source) if source.is_anonymous() => (anonymous, PROT_READ | PROT_WRITE),
                _ => (MAP_SHARED, PROT_READ | PROT_WRITE),
            },
        }
    }
}

/// The description of a range of guest physical addresses: an immutable value that owns no memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Region {
    /// A name that is unique in a space.
    pub name: Option<Box<str>>,
    /// What it is to the guest.
    pub region_type: RegionType,
    /// Where it lies; never empty.
    pub range: Range,
    /// The host's NUMA node that its memory should come from.
    pub host_numa_node_id: Option<u32>,
    /// Which bytes it shows.
    pub source: Source,
    /// `mmap` flags.
    pub perm_flags: i32,
    /// `mmap` protection.
    pub prot_flags: i32,
    /// Huge pages: those of the pool for a huge source, transparent ones for the others.
    pub is_hugepage: bool,
    /// Plugged into a running machine.
    pub is_hotplug: bool,
    /// Anonymous memory.
    pub is_anonpage: bool,
    /// Offered to kernel samepage merging.
    pub is_mergeable: bool,
    /// The rest of what is asked of the kernel; its `page_size`, `transparent_hugepage` and `ksm` agree with the fields above.
    pub options: BackingOptions,
}

impl Region {
    /// A region with the defaults of its type and source.
    pub fn new(region_type: RegionType, range: Range, source: Source) -> Result<Self, Invalid> {
        let (perm_flags, prot_flags) = region_type.default_flags(&source);
        let region = Self {
            name: None,
            region_type,
            range,
            host_numa_node_id: None,
            perm_flags,
            prot_flags,
            is_hugepage: source.source_type.is_some_and(SourceType::is_huge),
            is_hotplug: false,
            is_anonpage: source.source_type.is_some_and(SourceType::is_anonymous),
            is_mergeable: false,
            options: BackingOptions { page_size: source.page_size, ..BackingOptions::default() },
            source,
        };
        region.check()?;
        Ok(region)
    }

    /// Whether the description is one that a region can have; every public way to make a region ends here.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.range.is_empty() {
            return Err(self.invalid(format!("a region at {} needs a size above 0", format::hex(self.base()))));
        }
        if let Some(name) = &self.name
            && (name.is_empty() || name.chars().any(char::is_control))
        {
            return Err(
                self.invalid(format!("{name:?} can't be a region's name: it is empty or has control characters"))
            );
        }
        self.check_source()?;
        self.check_options()
    }

    /// Takes the options over, so that they and the fields that say the same agree.
    #[must_use]
    pub fn with_options(mut self, options: BackingOptions) -> Self {
        self.source.page_size = options.page_size;
        self.is_mergeable = options.ksm == Some(true);
        if !self.is_huge() {
            self.is_hugepage = options.transparent_hugepage == Some(true);
        }
        self.options = options;
        self
    }

    /// Takes options over that say the same as the arguments given, where both say something.
    pub fn with_agreeing(self, options: &BackingOptions, is_hugepage: Option<bool>) -> Result<Self, Invalid> {
        let is_hugepage = is_hugepage.filter(|_| !self.is_huge());
        let differs = |argument: Option<bool>, option: Option<bool>| argument.zip(option).is_some_and(|(a, b)| a != b);
        let page_sizes = self.source.page_size.zip(options.page_size);
        let what = if page_sizes.is_some_and(|(argument, option)| argument != option) {
            "page_size"
        } else if differs(self.is_mergeable.then_some(true), options.ksm) {
            "is_mergeable and ksm"
        } else if differs(is_hugepage, options.transparent_hugepage) {
            "is_hugepage and transparent_hugepage"
        } else {
            let options = BackingOptions {
                page_size: options.page_size.or(self.source.page_size),
                ksm: options.ksm.or(self.is_mergeable.then_some(true)),
                transparent_hugepage: options.transparent_hugepage.or(is_hugepage.filter(|on| *on)),
                ..options.clone()
            };
            return Ok(self.with_options(options));
        };
        Err(self.invalid(format!("{what} differ between the region's arguments and backing=")))
    }

    /// Takes the fields over into the options that say the same.
    #[must_use]
    pub fn with_agreeing_options(mut self) -> Self {
        let agree = |flag: bool, option: Option<bool>| if flag { Some(true) } else { option.filter(|on| !on) };
        self.options.page_size = self.source.page_size;
        self.options.ksm = agree(self.is_mergeable, self.options.ksm);
        self.options.transparent_hugepage = if self.is_huge() {
            self.options.transparent_hugepage
        } else {
            agree(self.is_hugepage, self.options.transparent_hugepage)
        };
        self
    }

    fn is_huge(&self) -> bool {
        self.source.source_type.is_some_and(SourceType::is_huge)
    }

    fn check_options(&self) -> Result<(), Invalid> {
        let options = &self.options;
        let refusal = if self.is_huge() && options.transparent_hugepage.is_some() {
            "transparent_hugepage= is for sources of small pages: this one takes huge pages from the pool"
        } else if !self.has_memory() && *options != BackingOptions::default() {
            "a device region has no memory that options could be for"
        } else if options.seals.is_some() && !self.is_memfd() {
            "seals= goes with a memfd: mem_type \"shmem\" or \"hugeshmem\""
        } else {
            return Ok(());
        };
        Err(self.invalid(refusal.into()))
    }

    fn is_memfd(&self) -> bool {
        matches!(self.effective_source(), Some(SourceType::MemFdShared | SourceType::MemFdOnHugeTlbFs))
    }

    /// The flags that `mmap` is given: `MAP_POPULATE` is done later, and `reserve` decides about `MAP_NORESERVE`.
    #[must_use]
    pub const fn map_flags(&self) -> i32 {
        let flags = self.perm_flags & !MAP_POPULATE;
        match self.options.reserve {
            Some(true) => flags & !MAP_NORESERVE,
            Some(false) => flags | MAP_NORESERVE,
            None => flags,
        }
    }

    /// The NUMA policy of its memory: the one asked for, on the region's node where it names none, or preferring that node.
    #[must_use]
    pub fn numa_policy(&self) -> Option<NumaPolicy> {
        let node = self.host_numa_node_id;
        let Some(mut policy) = self.options.policy.clone() else { return node.map(NumaPolicy::preferring) };
        if policy.nodes.is_empty() && policy.mode != PolicyMode::Default {
            policy.nodes.extend(node);
        }
        Some(policy)
    }

    fn check_source(&self) -> Result<(), Invalid> {
        let Source { source_type, file, buffer, page_size, .. } = &self.source;
        if self.source.is_adopted() && source_type.is_some() || file.is_some() && buffer.is_some() {
            return Err(Invalid::text(
                Kind::MemorySourceType,
                "a file, a buffer and mem_type= exclude each other: each of them is the source",
            ));
        }
        if let Some(buffer) = buffer.as_ref().filter(|buffer| buffer.size != self.size()) {
            return Err(self.invalid(format!(
                "a region over a buffer of {} bytes has as many, not {}",
                format::hex(buffer.size),
                format::hex(self.size())
            )));
        }
        match page_size {
            Some(_) if !source_type.is_some_and(SourceType::is_huge) => Err(self
                .invalid("page_size= goes with a huge mem_type: \"hugeshmem\", \"hugemmap\" or \"hugetlbfs\"".into())),
            Some(size) if !size.is_power_of_two() => {
                Err(self.invalid(format!("page_size {} is not a power of two", format::hex(*size))))
            }
            _ => Ok(()),
        }
    }

    fn invalid(&self, message: String) -> Invalid {
        Invalid::at(message, Some(self.base()), Some(self.size()))
    }

    /// The first address.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.range.base()
    }

    /// The number of bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.range.size()
    }

    /// The exclusive end.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.range.end()
    }

    /// Whether a mapped space gives it memory.
    #[must_use]
    pub fn has_memory(&self) -> bool {
        self.region_type != RegionType::DeviceMemory
    }

    /// Where the bytes come from when the space is mapped: the source given, or the default of the type and flags.
    #[must_use]
    pub fn effective_source(&self) -> Option<SourceType> {
        match self.source.source_type {
            _ if !self.has_memory() || self.source.is_adopted() => None,
            None if self.perm_flags & MAP_ANONYMOUS != 0 => Some(SourceType::MmapAnonymous),
            None => Some(SourceType::MemFdShared),
            given => given,
        }
    }

    /// Whether it is or will be backed by a file.
    #[must_use]
    pub fn has_file(&self) -> bool {
        self.source.file.is_some() || self.effective_source().is_some_and(|source| !source.is_anonymous())
    }

    /// Whether `other` shows the same bytes at the same place, so that it can take this one's mapping over.
    #[must_use]
    pub fn has_backing_of(&self, other: &Self) -> bool {
        self.range == other.range
            && self.region_type == other.region_type
            && self.source == other.source
            && self.perm_flags == other.perm_flags
            && self.options.maps_like(&other.options)
    }

    /// `'name' [0x0, 0x1000)`, for messages.
    #[must_use]
    pub fn label(&self) -> String {
        match &self.name {
            Some(name) => format!("'{name}' {}", self.range),
            None => format!("{} {}", self.region_type.value(), self.range),
        }
    }

    /// What is behind it, in a word: `shmem`, `file`, `-`.
    #[must_use]
    pub fn backing_word(&self) -> &'static str {
        match self.effective_source() {
            Some(_) if self.region_type == RegionType::DaxMemory => "reserved",
            Some(source) => source.as_str(),
            None if self.source.buffer.is_some() => "buffer",
            None if self.source.file.is_some() => "file",
            None => "-",
        }
    }
}

impl std::fmt::Display for Region {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.label())
    }
}

/// The form that Python prints: `AddressSpaceRegion('ram-low' DEFAULT_MEMORY [0x0, 0xc000_0000) 3 GiB rw- shmem)`.
#[must_use]
pub fn repr(region: &Region) -> String {
    let name = region.name.as_ref().map(|name| format!("'{name}' ")).unwrap_or_default();
    let memory = if region.has_memory() {
        format!(" {} {}", format::protection(region.prot_flags), region.backing_word())
    } else {
        String::new()
    };
    let (type_name, range, size) = (region.region_type.name(), region.range, format::size(region.size()));
    format!("AddressSpaceRegion({name}{type_name} {range} {size}{memory})")
}

/// Regions are shared between snapshots, handles and errors.
pub type SharedRegion = Arc<Region>;
