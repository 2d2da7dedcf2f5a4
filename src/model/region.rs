//! A region: the description of a range of guest physical addresses.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;

use super::backing::BackingOptions;
use super::format;
use super::invalid::{Invalid, Kind};
use super::policy::{NumaPolicy, PolicyMode};
use super::quote::quoted;
use super::range::Range;
pub use super::region_type::*;
use super::source::{KeptBytes, Part, Source, SourceType};

/// The bytes that a window shows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ShownBytes {
    /// Those that a region brought.
    Region(SharedRegion),
    /// Those of a part that is kept.
    Part(Part),
}

/// A window: it brings no bytes, and shows those of others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WindowSource {
    /// Whose.
    pub of: ShownBytes,
    /// Where in them it begins.
    pub offset: u64,
}

impl WindowSource {
    /// The keeper of the bytes, if something but regions keeps them.
    #[must_use]
    pub fn kept(&self) -> Option<Arc<dyn KeptBytes>> {
        match &self.of {
            ShownBytes::Region(_) => None,
            ShownBytes::Part(part) => part.bytes.upgrade(),
        }
    }
}

/// The description of a range of guest physical addresses: an immutable value that owns no memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Region {
    /// A name that is unique in a space.
    pub name: Option<Box<str>>,
    /// Its meaning to the guest.
    pub region_type: RegionType,
    /// Its addresses; never empty.
    pub range: Range,
    /// The host's NUMA node that its memory should come from.
    pub host_numa_node_id: Option<u32>,
    /// The source of its bytes.
    pub source: Source,
    /// Whose bytes it shows; `None` for a region that brings its own.
    pub window: Option<WindowSource>,
    /// `mmap` flags.
    pub perm_flags: i32,
    /// `mmap` protection.
    pub prot_flags: i32,
    /// Plugged into a running machine.
    pub is_hotplug: bool,
    /// Anonymous memory.
    pub is_anonpage: bool,
    /// The options with which its memory is requested from the kernel.
    pub options: BackingOptions,
}

impl Region {
    /// A region with the defaults of its type and source.
    pub fn new(region_type: RegionType, range: Range, source: Source) -> Result<Self, Invalid> {
        let (perm_flags, mut prot_flags) = region_type.default_flags(&source);
        if source.reader.is_some() || source.buffer.as_ref().is_some_and(|buffer| !buffer.is_writable) {
            prot_flags &= !PROT_WRITE;
        }
        let region = Self {
            name: None,
            region_type,
            range,
            host_numa_node_id: None,
            perm_flags,
            prot_flags,
            is_hotplug: false,
            is_anonpage: source.source_type.is_some_and(SourceType::is_anonymous),
            options: BackingOptions::default(),
            source,
            window: None,
        };
        region.check()?;
        Ok(region)
    }

    /// Refuses a description that no region can have; every public way to make a region ends here.
    pub fn check(&self) -> Result<(), Invalid> {
        let checked = self
            .check_range()
            .and_then(|()| self.check_source())
            .and_then(|()| self.check_type())
            .and_then(|()| self.check_options());
        checked.map_err(|invalid| invalid.about(Some(self.base()), Some(self.size())))
    }

    fn check_range(&self) -> Result<(), Invalid> {
        if self.range.is_empty() {
            return Err(Invalid::number(format!("a region at {} needs a size above 0", format::hex(self.base()))));
        }
        if let Some(WindowSource { of: ShownBytes::Region(of), offset }) = &self.window
            && !Range::between(0, of.size()).covers(&Range::at(*offset, self.size()))
        {
            return Err(Invalid::number(format!(
                "{of} has no {} bytes from offset {} on",
                format::hex(self.size()),
                format::hex(*offset)
            )));
        }
        match &self.name {
            Some(name) if name.is_empty() || name.chars().any(char::is_control) => Err(Invalid::argument(format!(
                "{name} can't be a region's name: it is empty or has control characters",
                name = quoted(name)
            ))),
            _ => Ok(()),
        }
    }

    fn check_source(&self) -> Result<(), Invalid> {
        let Source { source_type, file, buffer, reader, .. } = &self.source;
        if self.source.is_adopted() && source_type.is_some() || file.is_some() && self.source.is_held() {
            let message = "file=, a buffer and mem_type= exclude each other: each of them is the source";
            return Err(Invalid::new(Kind::MemorySourceType, message));
        }
        match buffer {
            Some(buffer) if buffer.size != self.size() => Err(Invalid::number(format!(
                "a region over a buffer of {} bytes has as many, not {}",
                format::hex(buffer.size),
                format::hex(self.size())
            ))),
            Some(buffer) if !buffer.is_writable && self.prot_flags & PROT_WRITE != 0 => {
                Err(Invalid::argument("the buffer is read-only: a region over it has prot_flags \"r--\""))
            }
            _ if reader.is_some() && self.prot_flags & (PROT_WRITE | PROT_EXEC) != 0 => Err(Invalid::argument(
                "the bytes of a dump are read where they lie: a region of it has prot_flags \"r--\"",
            )),
            _ => Ok(()),
        }
    }

    /// Refuses what would have no effect: RAM and firmware have any source, which of them a buffer is there already; a DAX window has
    /// host addresses alone, a device no memory.
    fn check_type(&self) -> Result<(), Invalid> {
        let BackingOptions { alignment, guard_pages, may_block, trusted, .. } = self.options;
        let blocking = BackingOptions { may_block, ..BackingOptions::default() };
        let placement = BackingOptions { alignment, guard_pages, ..blocking.clone() };
        let given = BackingOptions { trusted, ..blocking };
        let bare = |source_type| Source { source_type: self.source.source_type.and(source_type), ..Source::default() };
        let (what, source, options) = match self.region_type {
            RegionType::DaxMemory => {
                ("a DAX window is addresses for files", bare(Some(SourceType::MmapAnonymous)), placement)
            }
            RegionType::DeviceMemory => ("a device region has no memory", bare(None), BackingOptions::default()),
            _ if self.source.is_held() => {
                let what =
                    if self.source.buffer.is_some() { "a buffer is mapped already" } else { "a dump is not mapped" };
                (what, Source { path: PathBuf::new(), ..self.source.clone() }, given)
            }
            RegionType::DefaultMemory | RegionType::FirmwareMemory => return Ok(()),
        };
        if self.source != source {
            let message = format!("{what}: leave mem_type=, mem_file_path=, file=, file_offset= and a buffer out");
            return Err(Invalid::new(Kind::MemorySourceType, message));
        }
        let idle = self.idle_arguments(&source, &options);
        if idle.is_empty() {
            return Ok(());
        }
        let but =
            "; a DAX window may have alignment, guard_pages or may_block, a buffer prot_flags=, may_block or trusted";
        Err(Invalid::argument(format!("{what}: leave {} out{but}", idle.join(" and "))))
    }

    /// The arguments that are given, although the type allows no more than these options of this source.
    fn idle_arguments(&self, source: &Source, options: &BackingOptions) -> Vec<&'static str> {
        let (perm_flags, prot_flags) = self.region_type.default_flags(source);
        let given = [
            ("perm_flags=", self.perm_flags != perm_flags),
            ("prot_flags=", self.prot_flags != prot_flags && !source.is_held()),
            ("host_numa_node_id=", self.host_numa_node_id.is_some()),
            ("backing= (page_size=, is_hugepage=, is_mergeable=)", self.options != *options),
        ];
        given.into_iter().filter_map(|(name, is_given)| is_given.then_some(name)).collect()
    }

    /// Refuses options that would have no effect on the source.
    fn check_options(&self) -> Result<(), Invalid> {
        let options = &self.options;
        options.check()?;
        if let Some(most) = options.max_size.filter(|most| *most < self.size()) {
            return Err(Invalid::number(format!(
                "max_size {} is less than the size {}",
                format::hex(most),
                format::hex(self.size())
            )));
        }
        if options.page_size.is_some() && !self.is_huge() {
            let sources = "\"hugeshmem\", \"hugemmap\" or \"hugetlbfs\"";
            return Err(Invalid::number(format!("page_size= goes with a huge mem_type: {sources}")));
        }
        let has_path = self.source.source_type == Some(SourceType::FileOnHugeTlbFs);
        let refusals = [
            (
                self.is_huge() && options.transparent_hugepage == Some(true),
                "transparent_hugepage= is for sources of small pages: this one takes huge pages from the pool",
            ),
            (
                options.max_size.is_some() && (self.source.is_adopted() || has_path || !self.has_memory()),
                "max_size= is for memory of our own: leave file=, a buffer and mem_file_path= out",
            ),
            (
                options.max_size.is_some() && (options.mlock == Some(true) || self.perm_flags & MAP_POPULATE != 0),
                "max_size= is for memory whose pages come when they are touched: leave MAP_POPULATE (mem_prealloc=) and mlock= out",
            ),
            (
                options.trusted == Some(true) && !self.source.is_adopted(),
                "trusted= goes with a file= or a buffer: nobody else has the memory of another source",
            ),
            (
                options.seals.is_some() && !self.is_memfd(),
                "seals= goes with a memfd: mem_type \"shmem\" or \"hugeshmem\"",
            ),
            (
                !has_path && !self.source.is_named() && !self.source.path.as_os_str().is_empty(),
                "mem_file_path= goes with mem_type \"hugetlbfs\", or alone for an ordinary file, not with another source",
            ),
            (
                !has_path && self.source.file.is_none() && !self.source.is_named() && self.source.file_offset != 0,
                "file_offset= goes with file= or mem_file_path=",
            ),
            (
                options.may_block == Some(true) && (options.mlock == Some(true) || self.perm_flags & MAP_POPULATE != 0),
                "may_block= is for memory whose pages somebody brings in when they are touched: leave MAP_POPULATE (mem_prealloc=) and mlock= out",
            ),
        ];
        let refusal = refusals.into_iter().find_map(|(is_idle, why)| is_idle.then_some(why));
        refusal.map_or(Ok(()), |why| Err(Invalid::argument(why)))
    }

    /// The bytes that its memory has: as many as it may grow to.
    #[must_use]
    pub fn memory_size(&self) -> u64 {
        self.options.max_size.unwrap_or_default().max(self.size())
    }

    /// Whether its source takes pages from the kernel's pool of huge pages.
    #[must_use]
    pub fn is_huge(&self) -> bool {
        self.source.source_type.is_some_and(SourceType::is_huge)
    }

    /// Whether huge pages are asked for: those of the pool by a huge source, else transparent ones.
    #[must_use]
    pub fn is_hugepage(&self) -> bool {
        self.options.transparent_hugepage.unwrap_or(self.is_huge())
    }

    /// Whether it is offered to kernel samepage merging.
    #[must_use]
    pub fn is_mergeable(&self) -> bool {
        self.options.ksm == Some(true)
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
        self.region_type != RegionType::DeviceMemory && self.source.elsewhere.is_none()
    }

    /// The source of the bytes when the space is mapped: the one given, or the default of the type and flags.
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
        self.source.file.is_some()
            || self.source.is_named()
            || self.effective_source().is_some_and(|source| !source.is_anonymous())
    }

    /// Whether `other` shows the same bytes at the same place, so that it can take this one's mapping over.
    #[must_use]
    pub fn has_backing_of(&self, other: &Self) -> bool {
        self.range == other.range
            && self.region_type == other.region_type
            && self.source == other.source
            && self.window == other.window
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

    /// The memory behind it, in a word: `shmem`, `file`, `-`.
    #[must_use]
    pub fn backing_word(&self) -> &'static str {
        match self.effective_source() {
            Some(_) if self.region_type == RegionType::DaxMemory => "reserved",
            Some(source) => source.as_str(),
            None if self.source.buffer.is_some() => "buffer",
            None if self.source.reader.is_some() => "dump",
            None if self.source.file.is_some() => "file",
            None => "-",
        }
    }
}

impl Display for Region {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn of(region_type: RegionType, source_type: Option<SourceType>) -> Region {
        let source = Source { source_type, ..Source::default() };
        Region::new(region_type, Range::between(0x1000, 0x3000), source).unwrap()
    }

    fn ram() -> Region {
        of(RegionType::DefaultMemory, None)
    }

    fn huge() -> Region {
        of(RegionType::DefaultMemory, Some(SourceType::MemFdOnHugeTlbFs))
    }

    fn with(region: Region, options: BackingOptions) -> Result<Region, String> {
        let region = Region { options, ..region };
        region.check().map(|()| region).map_err(|refused| refused.message)
    }

    #[test]
    fn types_read_back_in_any_case() {
        for region_type in RegionType::ALL {
            for text in [region_type.value(), region_type.name(), &region_type.name().to_lowercase()] {
                assert_eq!(RegionType::parse(text).unwrap(), region_type);
            }
        }
        let refused = RegionType::parse("rom").unwrap_err();
        assert_eq!(refused.kind, Kind::RegionType);
        assert_eq!(refused.message, r#"unknown region type "rom": use "ram", "device", "dax" or "firmware""#);
    }

    #[test]
    fn a_refusal_says_where_the_region_lies() {
        for region in [
            Region { name: Some("".into()), ..ram() },
            Region { name: Some("a\n".into()), ..ram() },
            Region { options: BackingOptions { page_size: Some(4096), ..BackingOptions::default() }, ..ram() },
        ] {
            let refused = region.check().unwrap_err();
            assert_eq!((refused.address, refused.size), (Some(0x1000), Some(0x2000)), "{refused}");
        }
        let empty = Region::new(RegionType::DefaultMemory, Range::between(8, 8), Source::default());
        assert_eq!(empty.unwrap_err().kind, Kind::Range);
    }

    #[test]
    fn the_hints_are_those_of_the_options() {
        let thp = |on| BackingOptions { transparent_hugepage: Some(on), ..BackingOptions::default() };
        assert!(!ram().is_hugepage() && huge().is_hugepage() && !ram().is_mergeable());
        assert!(with(ram(), thp(true)).unwrap().is_hugepage());
        assert!(!with(huge(), thp(false)).unwrap().is_hugepage());
        assert!(with(huge(), thp(true)).unwrap_err().contains("small pages"));
        let ksm = BackingOptions { ksm: Some(true), ..BackingOptions::default() };
        assert!(with(ram(), ksm).unwrap().is_mergeable());
    }

    #[test]
    fn options_go_with_the_source() {
        let sealed = BackingOptions { seals: Some(vec![]), ..BackingOptions::default() };
        assert!(with(ram(), sealed.clone()).is_ok());
        assert!(with(of(RegionType::DefaultMemory, Some(SourceType::MmapAnonymous)), sealed.clone()).is_err());
        assert!(with(of(RegionType::DeviceMemory, None), sealed).unwrap_err().contains("no memory"));
        let odd = BackingOptions { page_size: Some(3 << 20), ..BackingOptions::default() };
        assert!(with(huge(), odd).unwrap_err().contains("power of two"));
    }

    #[test]
    fn reserve_decides_about_noreserve_and_population_comes_later() {
        let flags = |reserve| {
            let options = BackingOptions { reserve, ..BackingOptions::default() };
            Region { options, perm_flags: MAP_SHARED | MAP_POPULATE | MAP_NORESERVE, ..ram() }.map_flags()
        };
        assert_eq!(flags(None), MAP_SHARED | MAP_NORESERVE);
        assert_eq!(flags(Some(true)), MAP_SHARED);
        assert_eq!(flags(Some(false)), MAP_SHARED | MAP_NORESERVE);
    }

    #[test]
    fn advice_may_change_under_a_kept_backing() {
        let old = ram();
        let advised = BackingOptions { ksm: Some(true), mlock: Some(true), ..BackingOptions::default() };
        let renamed = Region { name: Some("new".into()), prot_flags: PROT_READ, ..with(ram(), advised).unwrap() };
        assert!(renamed.has_backing_of(&old));
        let guarded = BackingOptions { guard_pages: Some(true), ..BackingOptions::default() };
        assert!(!with(ram(), guarded).unwrap().has_backing_of(&old));
        assert!(!of(RegionType::FirmwareMemory, None).has_backing_of(&old));
    }

    #[test]
    fn a_policy_without_nodes_is_for_the_regions_node() {
        let bind = NumaPolicy { mode: PolicyMode::Bind, nodes: Default::default(), strict: false };
        let options = BackingOptions { policy: Some(bind), ..BackingOptions::default() };
        let region = Region { host_numa_node_id: Some(3), options, ..ram() };
        assert_eq!(region.numa_policy().unwrap().to_string(), "bind:3");
        assert_eq!(Region { host_numa_node_id: Some(1), ..ram() }.numa_policy().unwrap().to_string(), "preferred:1");
        assert_eq!(ram().numa_policy(), None);
    }

    #[test]
    fn a_region_prints_as_in_python() {
        let named = Region { name: Some("low".into()), ..ram() };
        assert_eq!(named.to_string(), "'low' [0x1000, 0x3000)");
        assert_eq!(repr(&named), "AddressSpaceRegion('low' DEFAULT_MEMORY [0x1000, 0x3000) 8 KiB rw- shmem)");
        assert_eq!(
            repr(&of(RegionType::DeviceMemory, None)),
            "AddressSpaceRegion(DEVICE_MEMORY [0x1000, 0x3000) 8 KiB)"
        );
    }
}
