//! `ioctl(2)` on descriptors of ours.

use std::io::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd};

/// The request number of `_IO(kind, number)`.
pub(super) const fn io(kind: u32, number: u32) -> u32 {
    kind << 8 | number
}

/// The request number of `_IOW(kind, number, T)`.
pub(super) const fn iow<T>(kind: u32, number: u32) -> u32 {
    1 << 30 | size::<T>() << 16 | io(kind, number)
}

/// The request number of `_IOWR(kind, number, T)`.
pub(super) const fn iowr<T>(kind: u32, number: u32) -> u32 {
    3 << 30 | size::<T>() << 16 | io(kind, number)
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "the kernel's structures are small, and try_from is not a const function"
)]
const fn size<T>() -> u32 {
    size_of::<T>() as u32
}

/// Calls with a number as the argument.
pub(super) fn with_number(fd: BorrowedFd<'_>, request: u32, number: u64) -> Result<i32> {
    // SAFETY: the request takes a number, so the kernel touches no memory of ours.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request.into(), number) })
}

/// Calls with a structure that the kernel reads.
///
/// # Safety
/// The request takes a `T`, and what it points to is valid for what the kernel does there.
pub(super) unsafe fn with_struct<T>(fd: BorrowedFd<'_>, request: u32, argument: &T) -> Result<i32> {
    // SAFETY: the structure lives through the call; the rest is the caller's promise.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request.into(), std::ptr::from_ref(argument)) })
}

fn check(result: i32) -> Result<i32> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}
