//! Descriptors: memfds and their seals, duplicates, lengths, holes, file systems.

use std::fs::File;
use std::io::{IoSliceMut, Result};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, MemfdFlags, OFlags, SealFlags, SeekFrom, fallocate, fcntl_add_seals, fcntl_get_seals,
    fcntl_getfl, linkat,
};
use rustix::io::{Errno, ReadWriteFlags};

use super::errno;

/// The kernel's limit for a memfd's name.
const NAME_MAX: usize = 249;

/// A sealable memfd, close-on-exec; of huge pages when `huge_page_size` is given (`Some(0)`: the host's default).
pub fn memfd(name: &str, huge_page_size: Option<u64>) -> Result<File> {
    // The name only shows in /proc: a long one is cut, between characters, rather than refused.
    let end = (0..=NAME_MAX).rev().find(|end| name.is_char_boundary(*end)).unwrap_or_default();
    let name = name.get(..end).unwrap_or(name);
    let huge = huge_page_size
        .map_or(MemfdFlags::empty(), |size| MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(page_size_flag(size)));
    Ok(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | huge)?.into())
}

/// log2 of a page size, where `memfd_create` and `mmap` expect it; 0 stands for the default size.
fn page_size_flag(size: u64) -> u32 {
    size.checked_ilog2().map_or(0, |log| log << libc::MAP_HUGE_SHIFT)
}

/// `mmap` flags for anonymous memory of huge pages of a size.
#[must_use]
pub fn anonymous_huge_flags(page_size: u64) -> i32 {
    // From 4 GiB pages on the flag reaches the sign bit.
    libc::MAP_HUGETLB | page_size_flag(page_size).cast_signed()
}

/// Gives a memfd its length and its seals.
pub fn size_and_seal(file: &File, size: u64, seals: u32) -> Result<()> {
    // In this order: a seal against growing would forbid the sizing.
    file.set_len(size)?;
    seal(file, seals)
}

/// Adds seals to a memfd.
pub fn seal(file: &File, seals: u32) -> Result<()> {
    Ok(fcntl_add_seals(file, SealFlags::from_bits_retain(seals))?)
}

/// The seal against more seals.
pub const SEAL_SEAL: u32 = SealFlags::SEAL.bits();
/// The seal against becoming shorter.
pub const SEAL_SHRINK: u32 = SealFlags::SHRINK.bits();
/// The seals against any change of length or contents.
pub const SEAL_ALL: u32 =
    SealFlags::SHRINK.bits() | SealFlags::GROW.bits() | SealFlags::WRITE.bits() | SealFlags::SEAL.bits();

/// The seals of a file; `None` of one that can have none.
#[must_use]
pub fn seals(file: &File) -> Option<u32> {
    fcntl_get_seals(file).ok().map(|seals| seals.bits())
}

/// The number of bytes.
pub fn length(file: &File) -> Result<u64> {
    file.metadata().map(|metadata| metadata.len())
}

/// A duplicate of a descriptor that this process has open, of the file with a device and inode.
#[must_use]
pub fn open_here(file: (u64, u64)) -> Option<File> {
    let is_it = |path: &Path| path.metadata().is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == file);
    let numbers = std::fs::read_dir("/proc/self/fd").ok()?.filter_map(|entry| {
        let path = entry.ok()?.path();
        is_it(&path).then(|| path.file_name()?.to_str()?.parse().ok())?
    });
    // Another thread may have put another file in its place: the duplicate is asked again.
    let duplicates = numbers.filter_map(|number| duplicate(number).ok());
    duplicates.into_iter().find(|duplicate| identity(duplicate).is_ok_and(|found| found == file))
}

/// Our own close-on-exec duplicate of a descriptor that the caller keeps.
pub fn duplicate(fd: RawFd) -> Result<File> {
    if fd < 0 {
        return Err(errno::refusal(errno::EBADF, "no descriptor is negative"));
    }
    // SAFETY: only borrowed for the call; the kernel answers EBADF when it isn't open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed.try_clone_to_owned().map(File::from)
}

/// Device and inode: the same for every descriptor of a file.
pub fn identity(file: &File) -> Result<(u64, u64)> {
    file.metadata().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// The kinds of files, as far as mapping them is concerned.
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
    const HUGETLBFS_MAGIC: i128 = 0x9584_58f6;
    let stat = rustix::fs::fstatfs(file)?;
    // The type of `f_type` differs between architectures and C libraries.
    Ok((i128::from(stat.f_type) == HUGETLBFS_MAGIC).then(|| u64::try_from(stat.f_bsize).unwrap_or_default()))
}

/// The first position from `position` on that has data, skipping holes; `None` when only holes follow. A file
/// that can't tell has data everywhere.
#[must_use]
pub fn next_data(file: &File, position: u64) -> Option<u64> {
    match rustix::fs::seek(file, SeekFrom::Data(position)) {
        Err(Errno::NXIO) => None,
        data => Some(data.unwrap_or(position)),
    }
}

/// Calls `found` with the start and the end of each run of data between two positions, ascending. One walk over all of them costs as
/// much as the file has runs.
pub fn data_runs(file: &File, start: u64, end: u64, found: &mut dyn FnMut(u64, u64)) {
    let mut position = start;
    while let Some(data) = next_data(file, position).filter(|data| *data < end) {
        let hole = rustix::fs::seek(file, SeekFrom::Hole(data)).unwrap_or(end).min(end);
        found(data, hole);
        // A file that was cut meanwhile has its end here.
        position = hole.max(data.saturating_add(1));
    }
}

/// Frees a range of a file; what is read there afterwards is zero.
pub fn punch_hole(file: &File, offset: u64, size: u64) -> Result<()> {
    // The kernel refuses to punch without KEEP_SIZE.
    Ok(fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, size)?)
}

/// The file through a description of our own, whose position nobody else uses.
pub fn reopen(file: &File) -> Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The protection that a shared mapping of the descriptor can have: `PROT_READ` (1), `PROT_WRITE` (2).
pub fn protection(file: &File) -> Result<i32> {
    let mode = fcntl_getfl(file)? & OFlags::ACCMODE;
    Ok(match mode {
        OFlags::RDONLY => libc::PROT_READ,
        OFlags::WRONLY => libc::PROT_WRITE,
        _ => libc::PROT_READ | libc::PROT_WRITE,
    })
}

/// Whether every write goes to the end of the file (`O_APPEND`).
#[must_use]
pub fn appends(file: &File) -> bool {
    fcntl_getfl(file).is_ok_and(|flags| flags.contains(OFlags::APPEND))
}

/// Reads bytes that are in memory; `false` where a disk or a server would have to be waited for, or may have to.
pub fn read_at_once(file: &File, bytes: &mut [u8], position: u64) -> bool {
    let size = bytes.len();
    let read = rustix::io::preadv2(file, &mut [IoSliceMut::new(bytes)], position, ReadWriteFlags::NOWAIT);
    read.is_ok_and(|count| count == size)
}

/// Opens a file that exists, for reading and writing.
pub fn open_existing(path: &Path) -> Result<File> {
    File::options().read(true).write(true).open(path)
}

/// Opens an ordinary file, for reading alone where nothing may be written to it.
pub fn open_ordinary(path: &Path, is_writable: bool) -> Result<File> {
    // With the flag a FIFO is opened at once, and told apart later: opening it to read would wait for a writer.
    File::options().read(true).write(is_writable).custom_flags(libc::O_NONBLOCK).open(path)
}

/// The mode of files of guest memory, which are for no other user to read.
pub const PRIVATE: u32 = 0o600;

/// Makes a file that must not exist yet, which others may use as far as `mode` says.
pub fn create_new(path: &Path, mode: u32) -> Result<File> {
    File::options().read(true).write(true).create_new(true).mode(mode).open(path)
}

/// Makes a file in a directory that has no name, and ends with its last descriptor; others may use it as far as `mode` says.
pub fn create_unnamed(directory: &Path, mode: u32) -> Result<File> {
    File::options().read(true).write(true).custom_flags(libc::O_TMPFILE).mode(mode).open(directory)
}

/// Where such a file is seen as long as this process has it; an error without `/proc`.
pub fn place_of(file: &File) -> Result<PathBuf> {
    let place = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    place.symlink_metadata().map(|_| place)
}

/// Gives a file that is seen at a place a name, which must not be taken.
pub fn give_name(place: &Path, name: &Path) -> Result<()> {
    Ok(linkat(CWD, place, CWD, name, AtFlags::SYMLINK_FOLLOW)?)
}

/// Opens a file to read it; of a pipe, it does not wait for who writes.
pub fn open_to_read(path: &Path) -> Result<File> {
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Waits until the names in the directory of a file are on the disk.
pub fn sync_directory_of(path: &Path) -> Result<()> {
    open_directory(directory_of(path))?.sync_all()
}

/// The directory that a file is in.
pub fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The bytes that the file system of a path has left for this user.
pub fn room_of(path: &Path) -> Result<u64> {
    let status = rustix::fs::statvfs(path)?;
    Ok(status.f_bavail.saturating_mul(status.f_frsize))
}

/// Opens a directory, to ask about its file system.
pub fn open_directory(path: &Path) -> Result<File> {
    // With the flag a path to something else is refused: opening a FIFO would wait for a writer.
    File::options().read(true).custom_flags(libc::O_DIRECTORY).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_size_is_told_by_its_logarithm() {
        assert_eq!(anonymous_huge_flags(0), libc::MAP_HUGETLB);
        for (size, flag) in
            [(2 << 20, libc::MAP_HUGE_2MB), (1 << 30, libc::MAP_HUGE_1GB), (16 << 30, libc::MAP_HUGE_16GB)]
        {
            assert_eq!(anonymous_huge_flags(size), libc::MAP_HUGETLB | flag);
        }
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let file = memfd(&"ä".repeat(200), None).unwrap();
        let name = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        assert_eq!(name.to_str().unwrap(), format!("/memfd:{} (deleted)", "ä".repeat(124)));
    }
}
