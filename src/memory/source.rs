//! Opens what a region's source names, and knows how safe it is to touch.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::model::backing::Seal;
use crate::model::error::{Errno, Error, Result};
use crate::model::format;
use crate::model::region::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_GROWSDOWN, MAP_HUGETLB, MAP_NORESERVE, MAP_PRIVATE, RegionType,
    SharedRegion,
};
use crate::model::source::{SourceType, UserBuffer};
use crate::sys::file::FileKind;
use crate::sys::{file, huge};

/// What `mmap` needs, and how the memory behaves.
#[derive(Clone, Debug)]
pub struct Backing {
    /// The file to map; `None` for anonymous memory.
    pub file: Option<Arc<File>>,
    /// Where in the file the region begins.
    pub offset: u64,
    /// Memory that someone else made, instead of a mapping of ours.
    pub buffer: Option<UserBuffer>,
    /// `mmap` flags, without `MAP_POPULATE`.
    pub flags: i32,
    /// Bytes a page.
    pub page_size: u64,
    /// Whether pages come from the huge page pool.
    pub is_huge: bool,
    /// Whether a touch may fault, so that every access goes through the kernel.
    pub guarded: bool,
    /// Whether the file can be read by `pread`.
    pub is_regular: bool,
    /// Whether a forked child does not get it.
    pub dontfork: bool,
}

/// Opens the backing of a region that has memory.
pub fn open(region: &SharedRegion) -> Result<Backing> {
    let page_size = page_size(region)?;
    if region.source.buffer.is_none() {
        check_alignment(region, page_size)?;
    }
    check_flags(region)?;
    let flags = region.map_flags();
    let small = Backing {
        file: None,
        offset: 0,
        buffer: None,
        flags,
        page_size,
        is_huge: false,
        guarded: region.region_type == RegionType::DaxMemory || huge::strict_overcommit(),
        is_regular: true,
        dontfork: region.options.dontfork == Some(true),
    };
    let pool = Backing { is_huge: true, guarded: flags & MAP_NORESERVE != 0, ..small.clone() };
    match region.effective_source() {
        None => open_adopted(region, small),
        Some(SourceType::MmapAnonymous) => Ok(Backing { flags: flags | MAP_ANONYMOUS, ..small }),
        Some(SourceType::MmapAnonymousHugeTlbFs) => {
            let flags = flags | MAP_ANONYMOUS | file::anonymous_huge_flags(page_size);
            Ok(Backing { flags, ..pool })
        }
        Some(SourceType::MemFdShared) => open_memfd(region, None, small),
        Some(SourceType::MemFdOnHugeTlbFs) => open_memfd(region, Some(page_size), pool),
        Some(SourceType::FileOnHugeTlbFs) => open_hugetlbfs(region, pool),
    }
}

/// A flag that moves or grows the mapping could lay it over memory that isn't ours; one that contradicts the source would have
/// memory taken for what it isn't, which could fault under a touch.
fn check_flags(region: &SharedRegion) -> Result<()> {
    let is_huge = region.effective_source().is_some_and(SourceType::is_huge);
    let refusals = [
        (MAP_FIXED | MAP_FIXED_NOREPLACE, true, "MAP_FIXED can't be asked for: the kernel chooses the host address"),
        (MAP_GROWSDOWN, true, "MAP_GROWSDOWN can't be asked for: a region has a fixed size"),
        (MAP_HUGETLB, !is_huge, "MAP_HUGETLB needs a huge mem_type: \"hugeshmem\", \"hugemmap\" or \"hugetlbfs\""),
        (MAP_ANONYMOUS, region.has_file(), "MAP_ANONYMOUS contradicts its file or memfd"),
    ];
    let refusal = refusals.iter().find(|(flags, refused, _)| *refused && region.perm_flags & flags != 0);
    refusal.map_or(Ok(()), |(.., why)| Err(refused(region, why, EINVAL)))
}

fn open_memfd(region: &SharedRegion, huge_page_size: Option<u64>, backing: Backing) -> Result<Backing> {
    let name = region.name.as_deref().map_or_else(|| format::hex(region.base()), str::to_owned);
    let memfd = file::memfd(&name, huge_page_size).map_err(|error| failed(region, "memfd_create failed", &error))?;
    let seals = region.options.seals.as_deref().unwrap_or(&DEFAULT_SEALS);
    let at_once = seals_before_mapping(seals);
    file::size_and_seal(&memfd, region.size(), bits(&at_once))
        .map_err(|error| failed(region, "sizing and sealing its memfd failed", &error))?;
    // Whoever is given the descriptor of a file that is not sealed can cut it.
    let guarded = backing.guarded || !seals.contains(&Seal::Shrink);
    Ok(Backing { file: Some(Arc::new(memfd)), guarded, ..backing })
}

/// A seal against future writing mappings, and the one against more seals, come after ours.
fn seals_before_mapping(seals: &[Seal]) -> Vec<Seal> {
    let waits = seals.contains(&Seal::FutureWrite);
    seals.iter().copied().filter(|seal| !waits || !matches!(seal, Seal::FutureWrite | Seal::Seal)).collect()
}

fn bits(seals: &[Seal]) -> i32 {
    seals.iter().fold(0, |bits, seal| bits | seal.number())
}

/// Adds the seals that had to wait for the mapping.
pub fn seal_mapped(region: &SharedRegion, backing: &Backing) -> Result<()> {
    match (&region.options.seals, &backing.file) {
        (Some(seals), Some(file)) if seals.contains(&Seal::FutureWrite) => {
            file::seal(file, bits(seals)).map_err(|error| failed(region, "sealing its memfd failed", &error))
        }
        _ => Ok(()),
    }
}

const DEFAULT_SEALS: [Seal; 3] = [Seal::Shrink, Seal::Grow, Seal::Seal];

/// What the user gave may be truncated, unmapped or protected by anyone: always guarded.
fn open_adopted(region: &SharedRegion, backing: Backing) -> Result<Backing> {
    match &region.source.buffer {
        Some(buffer) => Ok(Backing { buffer: Some(buffer.clone()), page_size: 1, guarded: true, ..backing }),
        None => open_user_file(region, backing),
    }
}

fn open_user_file(region: &SharedRegion, backing: Backing) -> Result<Backing> {
    let Some(user_file) = &region.source.file else { return Ok(backing) };
    let fail = |error: io::Error| failed(region, "looking at its file failed", &error);
    let kind = file::kind(&user_file.file).map_err(fail)?;
    check_length(region, kind)?;
    let is_regular = matches!(kind, FileKind::Regular(_));
    let huge_page_size = file::hugetlbfs_page_size(&user_file.file).map_err(fail)?;
    let page_size = huge_page_size.unwrap_or(backing.page_size);
    check_alignment(region, page_size)?;
    if huge_page_size.is_some() {
        check_offset(region, page_size)?;
    }
    Ok(Backing {
        page_size,
        is_huge: huge_page_size.is_some(),
        file: Some(Arc::clone(&user_file.file)),
        offset: region.source.file_offset,
        guarded: true,
        is_regular,
        ..backing
    })
}

fn check_length(region: &SharedRegion, kind: FileKind) -> Result<()> {
    let needed = region.source.file_offset.saturating_add(region.size());
    let (message, errno) = match kind {
        FileKind::Regular(length) if length < needed => (
            format!(
                "its file has {} bytes, offset and size need {}; extend it first",
                format::hex(length),
                format::hex(needed)
            ),
            EINVAL,
        ),
        FileKind::Directory => ("its file is a directory".into(), EISDIR),
        FileKind::Other => ("its file is a pipe or socket, which can't be mapped".into(), ENODEV),
        FileKind::Regular(_) | FileKind::Device => return Ok(()),
    };
    Err(refused(region, &message, errno))
}

/// A file that exists is used as it is; a new one is made, sized and unlinked, as the original does.
fn open_hugetlbfs(region: &SharedRegion, backing: Backing) -> Result<Backing> {
    let path = region.source.path.as_path();
    let fail = |error: io::Error| failed(region, &format!("opening {} failed", path.display()), &error);
    let (file, guarded) = match file::open_existing(path) {
        Ok(existing) => {
            require_hugetlbfs(region, path, &existing)?;
            check_length(region, file::kind(&existing).map_err(fail)?)?;
            (existing, true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (create_hugetlbfs(region, path)?, backing.guarded),
        Err(error) => return Err(fail(error)),
    };
    let page_size = file::hugetlbfs_page_size(&file).map_err(fail)?.unwrap_or(backing.page_size);
    Ok(Backing { file: Some(Arc::new(file)), offset: region.source.file_offset, page_size, guarded, ..backing })
}

fn create_hugetlbfs(region: &SharedRegion, path: &Path) -> Result<File> {
    let fail = |error: io::Error| failed(region, &format!("making {} failed", path.display()), &error);
    if path.as_os_str().is_empty() {
        return Err(refused(region, "\"hugetlbfs\" needs mem_file_path", ENOENT));
    }
    require_hugetlbfs(region, path, &file::open_directory(directory_of(path)).map_err(fail)?)?;
    let made = file::create_new(path).map_err(fail)?;
    let sized = made.set_len(region.source.file_offset.saturating_add(region.size()));
    std::fs::remove_file(path).and(sized).map_err(fail)?;
    Ok(made)
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn require_hugetlbfs(region: &SharedRegion, path: &Path, file: &File) -> Result<()> {
    match file::hugetlbfs_page_size(file) {
        Ok(Some(size)) => match region.options.page_size {
            Some(asked) if asked != size => {
                let message =
                    format!("{} has pages of {}, not {}", path.display(), format::size(size), format::size(asked));
                Err(refused(region, &message, EINVAL))
            }
            _ => check_alignment(region, size),
        },
        Ok(None) => {
            let message =
                format!("{} is not on a hugetlbfs mount (mount -t hugetlbfs none DIRECTORY makes one)", path.display());
            Err(refused(region, &message, EINVAL))
        }
        Err(error) => Err(failed(region, &format!("asking for the file system of {} failed", path.display()), &error)),
    }
}

/// Bytes a page of a region's source.
fn page_size(region: &SharedRegion) -> Result<u64> {
    if !region.effective_source().is_some_and(SourceType::is_huge) {
        return Ok(huge::page_size());
    }
    let sizes = huge::huge_page_sizes();
    let wanted = region.options.page_size.or_else(|| mount_page_size(region)).or_else(huge::default_huge_page_size);
    wanted.filter(|size| sizes.contains(size)).ok_or_else(|| {
        let asked = wanted.map_or_else(|| "any size".into(), format::size);
        let there: Vec<String> = sizes.iter().map(|size| format::size(*size)).collect();
        let message = format!("the host has no huge pages of {asked}; it has [{}]", there.join(", "));
        refused(region, &message, EINVAL)
    })
}

/// Bytes a page of the mount that a hugetlbfs path names; what is wrong with the path is told when it is opened.
fn mount_page_size(region: &SharedRegion) -> Option<u64> {
    if region.effective_source() != Some(SourceType::FileOnHugeTlbFs) {
        return None;
    }
    let directory = file::open_directory(directory_of(&region.source.path)).ok()?;
    file::hugetlbfs_page_size(&directory).ok().flatten()
}

fn check_alignment(region: &SharedRegion, page_size: u64) -> Result<()> {
    check_multiple(region, "base", region.base(), page_size)?;
    check_multiple(region, "size", region.size(), page_size)?;
    // A user's file may begin anywhere: it is mapped with what comes before it in the page.
    if region.source.is_adopted() { Ok(()) } else { check_offset(region, page_size) }
}

fn check_offset(region: &SharedRegion, page_size: u64) -> Result<()> {
    check_multiple(region, "file offset", region.source.file_offset, page_size)
}

fn check_multiple(region: &SharedRegion, what: &str, value: u64, page_size: u64) -> Result<()> {
    if value.is_multiple_of(page_size) {
        return Ok(());
    }
    Err(Error::Misaligned {
        message: format!(
            "cannot map {region}: its {what} {} is not a multiple of its page size {}",
            format::hex(value),
            format::hex(page_size)
        ),
        address: Some(region.base()),
        size: Some(region.size()),
        region: Some(Arc::clone(region)),
    })
}

/// Refuses, before anything is mapped, regions that together need more huge pages than there are.
pub fn check_pools<'a>(regions: impl Iterator<Item = &'a SharedRegion>) -> Result<()> {
    let mut pools = std::collections::BTreeMap::<u64, Demand<'_>>::new();
    for region in regions.filter(|region| takes_from_pool(region)) {
        let page_size = page_size(region)?;
        check_alignment(region, page_size)?;
        let demand = pools.entry(page_size).or_insert_with(|| Demand::on(page_size));
        demand.pages = demand.pages.saturating_add(region.size().div_ceil(page_size));
        if demand.pages > demand.available {
            demand.first_short.get_or_insert(region);
        }
    }
    let short = |(page_size, demand): (u64, Demand<'_>)| {
        demand.first_short.map(|region| pool_short(region, page_size, demand.pages))
    };
    pools.into_iter().find_map(short).map_or(Ok(()), Err)
}

/// What regions want of one pool of huge pages.
struct Demand<'a> {
    available: u64,
    pages: u64,
    /// The first region that finds the pool empty.
    first_short: Option<&'a SharedRegion>,
}

impl Demand<'_> {
    fn on(page_size: u64) -> Self {
        Self { available: huge::available_huge_pages(page_size), pages: 0, first_short: None }
    }
}

fn takes_from_pool(region: &SharedRegion) -> bool {
    let uses_existing_file =
        region.effective_source() == Some(SourceType::FileOnHugeTlbFs) && region.source.path.exists();
    region.effective_source().is_some_and(SourceType::is_huge)
        && region.map_flags() & MAP_NORESERVE == 0
        && !uses_existing_file
}

fn pool_short(region: &SharedRegion, page_size: u64, needed: u64) -> Error {
    let available = huge::available_huge_pages(page_size);
    let missing = needed.saturating_sub(available).max(1);
    let (size, pool) = (format::size(page_size), page_size / 1024);
    Error::HugePagesShort {
        message: format!(
            "cannot map {region}: {needed} huge pages of {size} are needed, {available} are free, {missing} are missing; \
             add {missing} to /sys/kernel/mm/hugepages/hugepages-{pool}kB/nr_hugepages (as root)"
        ),
        missing,
        page_size,
        region: Arc::clone(region),
    }
}

const ENOENT: i32 = 2;
const ENOMEM: i32 = 12;
const ENODEV: i32 = 19;
const EISDIR: i32 = 21;
const EINVAL: i32 = 22;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

/// The refusal of what the kernel was not asked for, with the error number that it would have answered.
fn refused(region: &SharedRegion, why: &str, errno: i32) -> Error {
    let message = format!("cannot map {region}: {why}");
    Error::Backing { message, errno: Errno::Refused(errno), region: Some(Arc::clone(region)) }
}

/// An error of the kernel's with what was asked and what to do.
pub fn failed(region: &SharedRegion, what: &str, error: &io::Error) -> Error {
    let advice = match error.raw_os_error().unwrap_or_default() {
        EMFILE => "; raise RLIMIT_NOFILE (ulimit -n, resource.setrlimit): each memfd takes a descriptor",
        ENFILE => "; raise fs.file-max",
        ENOMEM => "; too little memory, or too many mappings (vm.max_map_count)",
        _ => "",
    };
    Error::Backing {
        message: format!("cannot map {region}: {what}: {error}{advice}"),
        errno: Errno::from(error),
        region: Some(Arc::clone(region)),
    }
}

/// The refusal of memory that can't be copied safely.
pub fn special(region: &SharedRegion) -> Error {
    Error::Unsupported {
        message: format!(
            "cannot map {region}: its memory can't be read through process_vm_readv (pages of a device, or a memfd_secret), \
             so a fault of it could not be caught"
        ),
        feature: "guarded access to device pages and secret memory",
        how: "copy the bytes into a region of RAM, or use the file's own read and write".into(),
        region: Some(Arc::clone(region)),
    }
}

/// The error of a failed `mmap`: a pool that ran short between the check and the call is told apart.
pub fn mmap_failed(region: &SharedRegion, backing: &Backing, error: &io::Error) -> Error {
    let pages = region.size().div_ceil(backing.page_size);
    if backing.is_huge && error.raw_os_error() == Some(ENOMEM) && huge::available_huge_pages(backing.page_size) < pages
    {
        return pool_short(region, backing.page_size, pages);
    }
    failed(region, "mmap failed", error)
}

impl Backing {
    /// Whether writes stay in this process.
    #[must_use]
    pub const fn is_private(&self) -> bool {
        self.flags & MAP_PRIVATE != 0
    }

    /// Whether a forked child may find its pages gone: private huge pages can't be copied for it, shared ones can be punched
    /// by whoever the parent gives its descriptor to, and `dontfork` memory is not there.
    #[must_use]
    pub const fn guarded_after_fork(&self) -> bool {
        self.is_huge || self.dontfork
    }

    /// The bytes between the start of the page that the region begins in and the region.
    #[must_use]
    pub fn lead(&self) -> u64 {
        let start = self.buffer.as_ref().map_or(self.offset, |buffer| buffer.host.try_into().unwrap_or_default());
        start & huge::page_size().saturating_sub(1)
    }
}
