//! Host addresses set aside for a mapping: aligned as asked, with inaccessible pages around.

use std::io::{Error, Result};

use super::errno;

/// Host addresses that nothing else is mapped into; unmapped, with all that was put there, when dropped.
#[derive(Debug)]
pub struct Span {
    start: *mut u8,
    size: usize,
}

// SAFETY: the addresses belong to this span alone, on whichever thread it is.
unsafe impl Send for Span {}
// SAFETY: nothing is done with the addresses through a shared span.
unsafe impl Sync for Span {}

impl Span {
    /// Sets inaccessible addresses aside.
    pub fn reserve(size: usize) -> Result<Self> {
        // No memory is promised for addresses that are only kept free.
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: the kernel chooses the place, so that nothing is replaced.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED { Err(Error::last_os_error()) } else { Ok(Self { start: start.cast(), size }) }
    }

    /// The first address.
    #[must_use]
    pub const fn start(&self) -> *mut u8 {
        self.start
    }

    /// Maps into the span, in place of what is there.
    ///
    /// # Safety
    /// No one relies on what was mapped there before.
    pub unsafe fn map(
        &self,
        offset: usize,
        size: usize,
        prot: i32,
        flags: i32,
        fd: i32,
        file_offset: u64,
    ) -> Result<*mut u8> {
        if offset.checked_add(size).is_none_or(|end| end > self.size) {
            return Err(errno::refusal(errno::EINVAL, "the range reaches out of the span"));
        }
        // SAFETY: the addresses are the span's, which gives them out as raw pointers only.
        unsafe { map_over(self.start.wrapping_add(offset), size, prot, flags, fd, file_offset) }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        // SAFETY: the addresses are ours, and whoever used them holds the span.
        let _ = unsafe { libc::munmap(self.start.cast(), self.size) };
    }
}

/// Maps at an address, in place of what is there.
///
/// # Safety
/// The range is the caller's, and no one relies on what is there.
unsafe fn map_over(host: *mut u8, size: usize, prot: i32, flags: i32, fd: i32, file_offset: u64) -> Result<*mut u8> {
    let offset =
        i64::try_from(file_offset).map_err(|_| errno::refusal(errno::EOVERFLOW, "no file has such an offset"))?;
    // Only MAP_FIXED takes the place itself; without it the address is a hint.
    // SAFETY: the caller's promise.
    let at = unsafe { libc::mmap(host.cast(), size, prot, flags | libc::MAP_FIXED, fd, offset) };
    if at == libc::MAP_FAILED { Err(Error::last_os_error()) } else { Ok(at.cast()) }
}

/// Replaces part of a mapping by a file, or by anonymous memory for `None`.
///
/// # Safety
/// The range lies in a mapping of the caller's, and no one relies on what is there.
pub unsafe fn replace(host: *mut u8, size: usize, prot: i32, flags: i32, file: Option<(i32, u64)>) -> Result<()> {
    let (fd, offset) = file.unwrap_or((-1, 0));
    // SAFETY: the caller's promise.
    unsafe { map_over(host, size, prot, flags, fd, offset) }.map(drop)
}
