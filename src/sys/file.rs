//! Descriptors: memfds and their seals, duplicates, lengths, file systems.

use std::ffi::CString;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;
/// The kernel's limit for a memfd's name.
const NAME_MAX: usize = 249;

/// A sealable memfd, close-on-exec; of huge pages when `huge_page_size` is given (`Some(0)`: the host's default).
pub fn memfd(name: &str, huge_page_size: Option<u64>) -> Result<File> {
    let end = (0..=NAME_MAX).rev().find(|end| name.is_char_boundary(*end)).unwrap_or_default();
    let name = CString::new(name.get(..end).unwrap_or(name))?;
    let huge = huge_page_size.map_or(0, |size| libc::MFD_HUGETLB | page_size_flag(size));
    // SAFETY: the name is a C string that lives through the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | huge) };
    if fd < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// log2 of a page size, where `memfd_create` and `mmap` expect it; 0 stands for the default size.
#[must_use]
pub fn page_size_flag(size: u64) -> u32 {
    size.checked_ilog2().map_or(0, |log| log << libc::MAP_HUGE_SHIFT)
}

/// Gives a memfd its length and its seals.
pub fn size_and_seal(file: &File, size: u64, seals: i32) -> Result<()> {
    file.set_len(size)?;
    seal(file, seals)
}

/// Adds seals to a memfd.
pub fn seal(file: &File, seals: i32) -> Result<()> {
    // SAFETY: takes two integers.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })
}

/// Our own close-on-exec duplicate of a descriptor that the caller keeps.
pub fn duplicate(fd: RawFd) -> Result<File> {
    if fd < 0 {
        return Err(Error::new(ErrorKind::InvalidInput, "no descriptor is negative"));
    }
    // SAFETY: only borrowed for the call; the kernel answers EBADF when it isn't open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed.try_clone_to_owned().map(File::from)
}

/// Device and inode: the same for every descriptor of a file.
pub fn identity(file: &File) -> Result<(u64, u64)> {
    file.metadata().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// What a file is, as far as mapping it is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file or memfd with its length.
    Regular(u64),
    /// A device, which has no length to check.
    Device,
    /// A directory.
    Directory,
    /// A pipe or socket.
    Other,
}

/// The kind of an open file.
pub fn kind(file: &File) -> Result<FileKind> {
    let metadata = file.metadata()?;
    let file_type = metadata.file_type();
    Ok(if file_type.is_file() {
        FileKind::Regular(metadata.len())
    } else if file_type.is_dir() {
        FileKind::Directory
    } else if file_type.is_block_device() || file_type.is_char_device() {
        FileKind::Device
    } else {
        FileKind::Other
    })
}

/// The page size of the hugetlbfs that the file lies on; `None` when it lies on another file system.
pub fn hugetlbfs_page_size(file: &File) -> Result<Option<u64>> {
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the kernel fills the buffer, which is as large as it expects.
    check(unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: filled by the call that succeeded.
    let stat = unsafe { stat.assume_init() };
    let is_hugetlbfs = i128::from(stat.f_type) == i128::from(HUGETLBFS_MAGIC);
    Ok(is_hugetlbfs.then(|| u64::try_from(stat.f_bsize).unwrap_or_default()))
}

/// The first position from `position` on that has data, skipping holes; `None` when only holes follow. A file
/// that can't tell has data everywhere.
#[must_use]
pub fn next_data(file: &File, position: u64) -> Option<u64> {
    // SAFETY: takes integers.
    let found = unsafe { libc::lseek(file.as_raw_fd(), i64::try_from(position).ok()?, libc::SEEK_DATA) };
    match u64::try_from(found) {
        Ok(data) => Some(data),
        Err(_) if Error::last_os_error().raw_os_error() == Some(libc::ENXIO) => None,
        Err(_) => Some(position),
    }
}

/// The first position from `position` on that has no data, or the end of the file.
#[must_use]
pub fn next_hole(file: &File, position: u64) -> Option<u64> {
    // SAFETY: takes integers.
    u64::try_from(unsafe { libc::lseek(file.as_raw_fd(), i64::try_from(position).ok()?, libc::SEEK_HOLE) }).ok()
}

/// The file through a description of our own, whose position nobody else uses.
pub fn reopen(file: &File) -> Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The protection that a shared mapping of the descriptor can have: `PROT_READ` (1), `PROT_WRITE` (2).
pub fn protection(file: &File) -> Result<i32> {
    // SAFETY: takes an integer.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    check(flags)?;
    Ok(match flags & libc::O_ACCMODE {
        libc::O_RDONLY => libc::PROT_READ,
        libc::O_WRONLY => libc::PROT_WRITE,
        _ => libc::PROT_READ | libc::PROT_WRITE,
    })
}

/// Whether every write goes to the end of the file (`O_APPEND`).
#[must_use]
pub fn appends(file: &File) -> bool {
    // SAFETY: takes an integer.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    flags >= 0 && flags & libc::O_APPEND != 0
}

/// Opens a file that exists, for reading and writing.
pub fn open_existing(path: &Path) -> Result<File> {
    File::options().read(true).write(true).open(path)
}

/// Makes a file that must not exist yet.
pub fn create_new(path: &Path) -> Result<File> {
    File::options().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Opens a directory, to ask about its file system.
pub fn open_directory(path: &Path) -> Result<File> {
    File::options().read(true).custom_flags(libc::O_DIRECTORY).open(path)
}

/// `Err` with errno for a negative result.
pub(super) fn check(result: i32) -> Result<()> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// `mmap` flags for anonymous memory of huge pages of a size.
#[must_use]
pub fn anonymous_huge_flags(page_size: u64) -> i32 {
    libc::MAP_HUGETLB | i32::try_from(page_size_flag(page_size)).unwrap_or_default()
}
