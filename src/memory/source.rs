//! Opens what a region's source names, and knows how safe it is to touch.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::judge::{self, Facts, Why};
use super::shadow::Shadow;
use crate::model::backing::Seal;
use crate::model::error::{Errno, Error, Result};
use crate::model::format;
use crate::model::int::{u64_of, usize_of};
use crate::model::region::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_GROWSDOWN, MAP_HUGETLB, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED,
    RegionType, SharedRegion,
};
use crate::model::source::{Source, SourceType, UserBuffer, UserReader};
use crate::sys::errno::{self, EINVAL, EISDIR, EMFILE, ENFILE, ENODEV, ENOENT, ENOMEM, EOVERFLOW};
use crate::sys::file::{self, FileKind};
use crate::sys::host::{Host, page_size as small_page_size};
use crate::sys::smaps::{self, Shown};

/// Everything that `mmap` needs, and that decides how the memory may be touched.
#[derive(Clone, Debug, Default)]
pub(super) struct Backing {
    /// The file to map; `None` for anonymous memory.
    pub file: Option<Arc<File>>,
    /// The offset in the file, or in pages of our own, at which the region begins.
    pub offset: u64,
    /// The shadow of which it has private copies: its file is that one's, and nobody else's to see.
    pub shadow: Option<Arc<Shadow>>,
    /// Memory that someone else made, instead of a mapping of ours.
    pub buffer: Option<UserBuffer>,
    /// Bytes that are read when they are asked for: what is mapped are addresses alone.
    pub reader: Option<UserReader>,
    /// `mmap` flags, without `MAP_POPULATE`.
    pub flags: i32,
    /// Bytes a page.
    pub page_size: u64,
    /// Whether pages come from the huge page pool.
    pub is_huge: bool,
    /// Whether the file can be read by `pread(2)`.
    pub is_regular: bool,
    /// Whether files are mapped into it while it is in use.
    pub is_window: bool,
    /// Whether the file or the buffer was there before the region, so that others may take its pages away.
    pub is_foreign: bool,
    /// Why a touch of its file or buffer may fault; `None` when none can, or when it has neither.
    pub judged: Option<Why>,
    /// Whether the user vouches for the file or buffer.
    pub is_trusted: bool,
    /// Whether the host has `vm.overcommit_memory=2`.
    pub is_overcommit_strict: bool,
    /// Whether a forked child does not get it.
    pub is_dontfork: bool,
    /// Whether an access may wait for a userfaultfd handler, which must not be waited for without end.
    pub has_fault_handler: bool,
    /// Whether an access may wait for a disk, or for whoever answers its faults: then it is made without the interpreter's lock.
    pub may_block: bool,
}

/// The host's answer, or its last one while the process has no descriptor to ask with; before the first answer, memory counts as unsafe.
fn is_overcommit_strict() -> bool {
    static LAST: AtomicBool = AtomicBool::new(true);
    if let Some(is_strict) = Host::default().has_strict_overcommit() {
        LAST.store(is_strict, Ordering::Relaxed);
    }
    LAST.load(Ordering::Relaxed)
}

/// Private copies of the pages of a shadow.
pub(super) fn copies_of(shadow: &Arc<Shadow>) -> Backing {
    Backing {
        file: Some(Arc::clone(shadow.file())),
        shadow: Some(Arc::clone(shadow)),
        flags: MAP_PRIVATE | MAP_NORESERVE,
        page_size: small_page_size(),
        is_regular: true,
        is_overcommit_strict: is_overcommit_strict(),
        ..Backing::default()
    }
}

/// Opens the backing of a region that has memory.
pub(super) fn open(region: &SharedRegion) -> Result<Backing> {
    let page_size = page_size(region)?;
    check_alignment(region, page_size)?;
    check_flags(region)?;
    let flags = region.map_flags();
    let small = Backing {
        flags,
        page_size,
        // A guest's page is one of the host's, also where the region begins inside one: clients that show pages have it so.
        offset: region.base() & !page_mask(),
        is_window: region.region_type == RegionType::DaxMemory,
        is_overcommit_strict: is_overcommit_strict(),
        is_dontfork: region.options.dontfork == Some(true),
        has_fault_handler: region.options.may_block == Some(true),
        may_block: region.options.may_block == Some(true),
        ..Backing::default()
    };
    let pool = Backing { is_huge: true, ..small.clone() };
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

/// The bits of `mmap` flags that say whether the mapping is shared: a number of the kernel's, of which it knows more than two.
const MAP_TYPE: i32 = 0xf;

/// Refuses flags that could lay the mapping over memory that isn't ours, and those that contradict the source: memory of another kind
/// than the source says could fault under a touch, or not be what its file shows.
fn check_flags(region: &SharedRegion) -> Result<()> {
    let (flags, is_huge) = (region.perm_flags, region.effective_source().is_some_and(SourceType::is_huge));
    let refusals = [
        (
            !matches!(flags & MAP_TYPE, MAP_SHARED | MAP_PRIVATE),
            "MAP_SHARED or MAP_PRIVATE must be asked for, and not both",
        ),
        (
            flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0,
            "MAP_FIXED can't be asked for: the kernel chooses the host address",
        ),
        (flags & MAP_GROWSDOWN != 0, "MAP_GROWSDOWN can't be asked for: a region has a fixed size"),
        (
            flags & MAP_HUGETLB != 0 && !is_huge,
            "MAP_HUGETLB needs a huge mem_type: \"hugeshmem\", \"hugemmap\" or \"hugetlbfs\"",
        ),
        (flags & MAP_ANONYMOUS != 0 && region.has_file(), "MAP_ANONYMOUS contradicts its file or memfd"),
    ];
    let refusal = refusals.into_iter().find_map(|(is_refused, why)| is_refused.then_some(why));
    refusal.map_or(Ok(()), |why| Err(refused(region, why, EINVAL)))
}

fn open_memfd(region: &SharedRegion, huge_page_size: Option<u64>, backing: Backing) -> Result<Backing> {
    let name = region.name.as_deref().map_or_else(|| format::hex(region.base()), str::to_owned);
    let memfd = file::memfd(&name, huge_page_size).map_err(|error| failed(region, "memfd_create failed", &error))?;
    let seals = region.options.seals.as_deref().unwrap_or(&DEFAULT_SEALS);
    let at_once = seals_before_mapping(seals);
    let length = backing.offset.saturating_add(region.memory_size());
    file::size_and_seal(&memfd, length, bits(&at_once))
        .map_err(|error| failed(region, "sizing and sealing its memfd failed", &error))?;
    // Its huge pages nobody can take away who was not given the descriptor, which the gate sees to.
    let judged = judge::judge(&memfd, length, backing.facts()).filter(|why| *why != Why::HugePages);
    Ok(Backing { file: Some(Arc::new(memfd)), is_regular: true, judged, ..backing })
}

/// The seals that our own mapping can be made under: a seal against future writing mappings would forbid it, and one against more
/// seals would forbid that seal.
fn seals_before_mapping(seals: &[Seal]) -> Vec<Seal> {
    let waits = seals.contains(&Seal::FutureWrite);
    seals.iter().copied().filter(|seal| !waits || !matches!(seal, Seal::FutureWrite | Seal::Seal)).collect()
}

fn bits(seals: &[Seal]) -> u32 {
    seals.iter().fold(0, |bits, seal| bits | seal.number())
}

/// Adds the seals that had to wait for the mapping.
pub(super) fn seal_mapped(region: &SharedRegion, backing: &Backing) -> Result<()> {
    match (&region.options.seals, &backing.file) {
        (Some(seals), Some(file)) if seals.contains(&Seal::FutureWrite) => {
            file::seal(file, bits(seals)).map_err(|error| failed(region, "sealing its memfd failed", &error))
        }
        _ => Ok(()),
    }
}

const DEFAULT_SEALS: [Seal; 3] = [Seal::Shrink, Seal::Grow, Seal::Seal];

fn open_adopted(region: &SharedRegion, backing: Backing) -> Result<Backing> {
    let is_trusted = region.options.trusted == Some(true);
    let backing = Backing { is_foreign: true, is_trusted, ..backing };
    let opened = match &region.source {
        Source { buffer: Some(buffer), .. } => open_buffer(buffer, backing),
        Source { reader: Some(reader), .. } => {
            return Ok(Backing { reader: Some(reader.clone()), may_block: true, ..backing });
        }
        _ => open_user_file(region, backing)?,
    };
    // What can't fault is memory as any other; a guarded access may wait for a disk.
    let may_block = opened.may_block || opened.has_fault_handler || opened.judged.is_some();
    Ok(Backing { may_block, ..opened })
}

fn open_buffer(buffer: &UserBuffer, backing: Backing) -> Backing {
    let shown = smaps::shown(buffer.host, usize_of(buffer.size)).ok();
    let any = |is_it: fn(&Shown) -> bool| shown.iter().flatten().any(is_it);
    Backing {
        has_fault_handler: backing.has_fault_handler || any(|part| part.has_fault_handler),
        is_dontfork: any(|part| part.is_dontfork),
        judged: judge::judge_buffer(buffer, shown.as_deref(), backing.facts()),
        buffer: Some(buffer.clone()),
        // A buffer begins and ends anywhere.
        page_size: 1,
        ..backing
    }
}

fn open_user_file(region: &SharedRegion, backing: Backing) -> Result<Backing> {
    let file = match &region.source.file {
        Some(user_file) => Arc::clone(&user_file.file),
        None if region.source.is_named() => Arc::new(open_named(region)?),
        None => return Ok(backing),
    };
    let fail = |error: io::Error| failed(region, "looking at its file failed", &error);
    let kind = file::kind(&file).map_err(fail)?;
    check_length(region, kind)?;
    let is_regular = matches!(kind, FileKind::Regular(_));
    let huge_page_size = file::hugetlbfs_page_size(&file).map_err(fail)?;
    let page_size = huge_page_size.unwrap_or(backing.page_size);
    check_alignment(region, page_size)?;
    Ok(Backing {
        page_size,
        is_huge: huge_page_size.is_some(),
        judged: judge::judge(&file, file_end(region)?, backing.facts()),
        file: Some(file),
        offset: region.source.file_offset,
        is_regular,
        ..backing
    })
}

/// The ordinary file at a region's path, as long as it is; for a directory, a new one in it without a name.
fn open_named(region: &SharedRegion) -> Result<File> {
    let path = region.source.path.as_path();
    let fail = |error: io::Error| failed(region, &format!("opening {} failed", path.display()), &error);
    if !path.is_dir() {
        return file::open_ordinary(path, region.perm_flags & MAP_PRIVATE == 0).map_err(fail);
    }
    let length = file_end(region)?;
    let made = file::create_unnamed(path).map_err(fail)?;
    made.set_len(length).map_err(fail)?;
    Ok(made)
}

fn check_length(region: &SharedRegion, kind: FileKind) -> Result<()> {
    let needed = file_end(region)?;
    let (message, errno) = match kind {
        FileKind::Regular(length) if length < needed => {
            let (length, needed) = (format::hex(length), format::hex(needed));
            (format!("its file has {length} bytes, offset and size need {needed}; extend it first"), EINVAL)
        }
        FileKind::Directory => ("its file is a directory".into(), EISDIR),
        FileKind::Other => ("its file is a pipe or socket, which can't be mapped".into(), ENODEV),
        FileKind::Regular(_) | FileKind::Device => return Ok(()),
    };
    Err(refused(region, &message, errno))
}

/// The end of a region in its file.
fn file_end(region: &SharedRegion) -> Result<u64> {
    let end = region.source.file_offset.checked_add(region.size());
    end.ok_or_else(|| refused(region, "its file offset and size together exceed 2^64", EOVERFLOW))
}

/// A file that exists is used as it is; a new one is made, sized and unlinked, as the original does.
fn open_hugetlbfs(region: &SharedRegion, backing: Backing) -> Result<Backing> {
    let path = region.source.path.as_path();
    let fail = |error: io::Error| failed(region, &format!("opening {} failed", path.display()), &error);
    let (file, is_foreign) = match file::open_existing(path) {
        // Others may have it open, and cut or punch it.
        Ok(existing) => {
            require_hugetlbfs(region, path, &existing)?;
            check_length(region, file::kind(&existing).map_err(fail)?)?;
            (existing, true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (create_hugetlbfs(region, path)?, false),
        Err(error) => return Err(fail(error)),
    };
    let page_size = file::hugetlbfs_page_size(&file).map_err(fail)?.unwrap_or(backing.page_size);
    let end = file_end(region)?;
    let judged = judge::judge(&file, end, backing.facts()).filter(|_| is_foreign);
    let (file, offset) = (Some(Arc::new(file)), region.source.file_offset);
    Ok(Backing { file, offset, page_size, is_regular: true, is_foreign, judged, ..backing })
}

fn create_hugetlbfs(region: &SharedRegion, path: &Path) -> Result<File> {
    let fail = |error: io::Error| failed(region, &format!("making {} failed", path.display()), &error);
    if path.as_os_str().is_empty() {
        return Err(refused(region, "\"hugetlbfs\" needs mem_file_path", ENOENT));
    }
    // The folder is asked first, so that nothing is made on another file system.
    require_hugetlbfs(region, path, &file::open_directory(directory_of(path)).map_err(fail)?)?;
    let length = file_end(region)?;
    let made = file::create_new(path).map_err(fail)?;
    let sized = made.set_len(length);
    // Unlinked whatever came of the size: a failure leaves no file behind.
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
        return Ok(small_page_size());
    }
    let host = Host::default();
    let sizes = host.huge_page_sizes();
    let default = || host.default_huge_page_size();
    let wanted = region.options.page_size.or_else(|| mount_page_size(region)).or_else(default);
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

/// Huge pages, and those of a DAX window, over which files are mapped, are shown whole. Small ones are mapped with what comes before the
/// region and behind it.
fn check_alignment(region: &SharedRegion, page_size: u64) -> Result<()> {
    if page_size == small_page_size() && region.region_type != RegionType::DaxMemory {
        return Ok(());
    }
    check_multiple(region, "base", region.base(), page_size)?;
    check_multiple(region, "size", region.size(), page_size)?;
    check_multiple(region, "max_size", region.memory_size(), page_size)?;
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
    let mut pools = BTreeMap::<u64, Vec<&SharedRegion>>::new();
    for region in regions.filter(|region| takes_from_pool(region)) {
        let page_size = page_size(region)?;
        check_alignment(region, page_size)?;
        pools.entry(page_size).or_default().push(region);
    }
    pools.into_iter().try_for_each(|(page_size, regions)| check_pool(page_size, &regions))
}

/// Refuses regions that together need more pages of one size than there are, naming the first that finds the pool empty.
fn check_pool(page_size: u64, regions: &[&SharedRegion]) -> Result<()> {
    let pages = |region: &SharedRegion| region.memory_size().div_ceil(page_size);
    let mut left = Host::default().available_huge_pages(page_size);
    let is_short = |region: &&&SharedRegion| {
        // Counted down, so that the error names the first region for which the pool has nothing left.
        left = left.and_then(|left| left.checked_sub(pages(region)));
        left.is_none()
    };
    match regions.iter().find(is_short) {
        Some(first) => Err(pool_short(first, page_size, regions.iter().map(|region| pages(region)).sum())),
        None => Ok(()),
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
    let host = Host::default();
    let available = host.available_huge_pages(page_size).unwrap_or_default();
    // The pool may have grown since it was too small, but at least one page was missing then.
    let missing = needed.saturating_sub(available).max(1);
    let (size, pool) = (format::size(page_size), host.huge_page_pool(page_size));
    Error::HugePagesShort {
        message: format!(
            "cannot map {region}: {needed} huge pages of {size} are needed, {available} are free, {missing} are missing; \
             add {missing} to {} (as root)",
            pool.display()
        ),
        missing,
        page_size,
        region: Arc::clone(region),
    }
}

/// An error of the kernel's with what was asked and what to do.
pub fn failed(region: &SharedRegion, what: &str, error: &io::Error) -> Error {
    let advice = match errno::of(error) {
        EMFILE => "; raise RLIMIT_NOFILE (ulimit -n, resource.setrlimit): each memfd takes a descriptor",
        ENFILE => "; raise fs.file-max",
        ENOMEM => "; too little memory, or too many mappings (vm.max_map_count)",
        _ => "",
    };
    let message = format!("{region}: {what}: {error}{advice}");
    Error::Backing { message, errno: Errno::from(error), region: Some(Arc::clone(region)) }
}

/// A refusal of our own, with the number that the kernel would have for it.
fn refused(region: &SharedRegion, why: &str, errno: i32) -> Error {
    let message = format!("cannot map {region}: {why}");
    Error::Backing { message, errno: Errno::Refused(errno), region: Some(Arc::clone(region)) }
}

/// The refusal of memory that can't be copied safely.
pub(super) fn special(region: &SharedRegion) -> Error {
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
pub(super) fn mmap_failed(region: &SharedRegion, backing: &Backing, error: &io::Error) -> Error {
    let pages = region.memory_size().div_ceil(backing.page_size);
    let is_short = |available: Option<u64>| available.is_none_or(|available| available < pages);
    if backing.is_huge
        && errno::of(error) == ENOMEM
        && is_short(Host::default().available_huge_pages(backing.page_size))
    {
        return pool_short(region, backing.page_size, pages);
    }
    failed(region, "mmap failed", error)
}

/// The bits of an address that say which page of the host it is in.
fn page_mask() -> u64 {
    small_page_size().wrapping_neg()
}

impl Backing {
    const fn facts(&self) -> Facts {
        Facts { is_trusted: self.is_trusted, is_overcommit_strict: self.is_overcommit_strict }
    }

    /// Whether writes stay in this process.
    pub(super) const fn is_private(&self) -> bool {
        self.flags & MAP_PRIVATE != 0
    }

    /// Whether the pool keeps pages for it from the moment on when it is mapped.
    pub(super) const fn is_reserved(&self) -> bool {
        self.flags & MAP_NORESERVE == 0
    }

    /// The file and where in it the region begins, if the file shows what the memory shows and can be read: whoever answers faults brings
    /// pages that the file does not have.
    pub(super) fn shown_file(&self) -> Option<(&File, u64)> {
        let file = self.file.as_ref().filter(|_| self.is_regular && !self.is_private() && !self.has_fault_handler)?;
        Some((file, self.offset))
    }

    /// Whether the kernel tells bytes of its file that were written from others; a file of huge pages is all data to it.
    pub(super) fn has_holes(&self) -> bool {
        self.shown_file().is_some() && !self.is_huge
    }

    /// The bytes between the start of the page that the region begins in and the region.
    pub(super) fn lead(&self) -> u64 {
        let start = self.buffer.as_ref().map_or(self.offset, |buffer| u64_of(buffer.host));
        start & !page_mask()
    }

    /// The start, in its file, of the page that the region begins in.
    pub(super) fn page_offset(&self) -> u64 {
        self.offset & page_mask()
    }
}
