//! Bytes between a descriptor and memory, without a copy in between.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the descriptor.
    In,
    /// To the descriptor.
    Out,
}

/// Whether a call on the descriptor may wait, for want of `O_NONBLOCK`.
#[must_use]
pub fn is_blocking(file: &File) -> bool {
    // SAFETY: takes an integer.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) & libc::O_NONBLOCK == 0 }
}

/// Waits at most `limit` until the descriptor can be read or written without blocking; an interrupted wait ends early.
pub fn wait_ready(file: &File, direction: Direction, limit: Duration) -> Result<bool> {
    let events = match direction {
        Direction::In => libc::POLLIN,
        Direction::Out => libc::POLLOUT,
    };
    let mut poll = libc::pollfd { fd: file.as_raw_fd(), events, revents: 0 };
    let milliseconds = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one entry, which lives through the call.
    match unsafe { libc::poll(&raw mut poll, 1, milliseconds) } {
        0 => Ok(false),
        1.. => Ok(true),
        _ => match Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EINTR) => Ok(false),
            error => Err(error),
        },
    }
}

/// Reads at most `size` bytes to an address, from the descriptor's position or from `at`; 0 at the end of the file.
///
/// # Safety
/// Whatever lies at `to` is memory that the caller may overwrite; the kernel checks that it is there.
pub unsafe fn read(file: &File, at: Option<u64>, to: *mut u8, size: usize) -> Result<usize> {
    // SAFETY: the caller's promise.
    count(unsafe {
        match at {
            None => libc::read(file.as_raw_fd(), to.cast(), size),
            Some(at) => libc::pread(file.as_raw_fd(), to.cast(), size, offset(at)?),
        }
    })
}

/// Writes at most all of `bytes`, at the descriptor's position or at `at`.
pub fn write(file: &File, at: Option<u64>, bytes: &[u8]) -> Result<usize> {
    // SAFETY: the bytes live through the call.
    count(unsafe {
        match at {
            None => libc::write(file.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()),
            Some(at) => libc::pwrite(file.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), offset(at)?),
        }
    })
}

fn offset(at: u64) -> Result<i64> {
    i64::try_from(at).map_err(|_| Error::new(ErrorKind::InvalidInput, "no file has such an offset"))
}

fn count(result: isize) -> Result<usize> {
    usize::try_from(result).map_err(|_| Error::last_os_error())
}
