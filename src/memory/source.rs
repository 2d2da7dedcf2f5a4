//! Opens what a region's source names, and knows how safe it is to touch.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::huge_pools::{check_alignment, page_size, pool_short};
use super::judge::{self, Facts, Why};
use super::shadow::Shadow;
use super::source_error::{failed, refused};
use crate::model::backing::Seal;
use crate::model::error::{Error, Result};
use crate::model::format;
use crate::model::int::{u64_of, usize_of};
use crate::model::region::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_GROWSDOWN, MAP_HUGETLB, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED,
    RegionType, SharedRegion,
};
use crate::model::source::{Source, SourceType, UserBuffer, UserReader};
use crate::sys::errno::{self, EINVAL, EISDIR, ENODEV, ENOENT, ENOMEM, EOVERFLOW};
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
    let made = file::create_unnamed(path, file::PRIVATE).map_err(fail)?;
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
    require_hugetlbfs(region, path, &file::open_directory(file::directory_of(path)).map_err(fail)?)?;
    let length = file_end(region)?;
    let made = file::create_new(path, file::PRIVATE).map_err(fail)?;
    let sized = made.set_len(length);
    // Unlinked whatever came of the size: a failure leaves no file behind.
    std::fs::remove_file(path).and(sized).map_err(fail)?;
    Ok(made)
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
