//! Bytes between a descriptor and memory, without a copy in between.

use std::fs::File;
use std::io::{Result, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{OFlags, fcntl_getfl};

use super::errno::{self, check};

/// Whether a call on the descriptor may wait, for want of `O_NONBLOCK`.
#[must_use]
pub fn is_blocking(file: &File) -> bool {
    fcntl_getfl(file).is_ok_and(|flags| !flags.contains(OFlags::NONBLOCK))
}

/// Reads at most `size` bytes to an address, from the descriptor's position or from `at`; 0 at the end of the file.
///
/// # Safety
/// The caller may overwrite what is at `to`, if anything: the kernel checks that it is there.
pub unsafe fn read(file: &File, at: Option<u64>, to: *mut u8, size: usize) -> Result<usize> {
    let at = at
        .map(i64::try_from)
        .transpose()
        .map_err(|_| errno::refusal(errno::EOVERFLOW, "no file has such an offset"))?;
    // Not `Read::read`: a slice would promise that the bytes are there.
    // SAFETY: the caller's promise.
    let count = check(unsafe {
        match at {
            None => libc::read(file.as_raw_fd(), to.cast(), size),
            Some(at) => libc::pread(file.as_raw_fd(), to.cast(), size, at),
        }
    })?;
    Ok(count.unsigned_abs())
}

/// Writes at most all of `bytes`, at the descriptor's position or at `at`.
pub fn write(mut file: &File, at: Option<u64>, bytes: &[u8]) -> Result<usize> {
    match at {
        None => file.write(bytes),
        Some(at) => file.write_at(bytes, at),
    }
}
