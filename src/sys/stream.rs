//! Bytes between a descriptor and memory, without a copy in between.

use std::fs::File;
use std::io::{Result, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{FileType, fstat};
use rustix::net::{SendFlags, send};

use super::errno::{self, check};

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

/// Writes at most all of `bytes`, at the descriptor's position or at `at`, to one that is ready to be written.
///
/// It never waits for a reader: a signal that comes just before a call that waits would be forgotten until the reader comes.
pub fn write(mut file: &File, at: Option<u64>, bytes: &[u8]) -> Result<usize> {
    if let Some(at) = at {
        return file.write_at(bytes, at);
    }
    match FileType::from_raw_mode(fstat(file)?.st_mode) {
        FileType::RegularFile | FileType::BlockDevice => file.write(bytes),
        FileType::Socket => Ok(send(file, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?),
        // A pipe that is ready has room for so many.
        _ => file.write(bytes.get(..libc::PIPE_BUF).unwrap_or(bytes)),
    }
}
