//! Giving pages back to the host.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::AsRawFd;

use super::file::check;

/// Frees a range of a file; what is read there afterwards is zero (`fallocate(2)`, `FALLOC_FL_PUNCH_HOLE`).
pub fn punch_hole(file: &File, offset: u64, size: u64) -> Result<()> {
    let number =
        |value| i64::try_from(value).map_err(|_| Error::new(ErrorKind::InvalidInput, "no file has such an offset"));
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: takes a descriptor and integers.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, number(offset)?, number(size)?) })
}

/// Drops private anonymous pages, locked ones too; what is read there afterwards is zero.
///
/// # Safety
/// The range lies in a private anonymous mapping of the caller's, who does not need the contents.
pub unsafe fn drop_pages(host: *mut u8, size: usize) -> Result<()> {
    // SAFETY: the caller's promise.
    let result = check(unsafe { libc::madvise(host.cast(), size, libc::MADV_DONTNEED) });
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            // SAFETY: the caller's promise.
            check(unsafe { libc::madvise(host.cast(), size, libc::MADV_DONTNEED_LOCKED) })
        }
        result => result,
    }
}

/// Frees pages of shared anonymous memory.
///
/// # Safety
/// The range lies in a shared anonymous mapping of the caller's, who does not need the contents.
pub unsafe fn remove_pages(host: *mut u8, size: usize) -> Result<()> {
    // SAFETY: the caller's promise.
    check(unsafe { libc::madvise(host.cast(), size, libc::MADV_REMOVE) })
}
