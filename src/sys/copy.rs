//! Copies through the kernel: memory that is gone is an error number, never a signal.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::AsRawFd;

use super::errno;

/// How far a copy came, and what stopped it.
#[derive(Debug)]
pub struct Stopped {
    /// Bytes that were copied.
    pub completed: usize,
    /// The kernel's error; `None` when the file ended.
    pub error: Option<Error>,
}

impl Stopped {
    /// Whether the kernel has no such call, as in gVisor and user-mode QEMU, or a seccomp filter forbids it.
    fn is_refused(&self) -> bool {
        matches!(self.error.as_ref().and_then(Error::raw_os_error), Some(libc::ENOSYS | libc::EPERM))
    }
}

/// Copies `size` bytes from our own address `from` to our own address `to` by `process_vm_readv(2)`, or else through a pipe.
///
/// # Safety
/// `to` is valid for writing `size` bytes; `from` may be anything.
pub unsafe fn read_guarded(from: *const u8, to: *mut u8, size: usize) -> std::result::Result<(), Stopped> {
    let copied = repeat(size, |done, rest| {
        let local = libc::iovec { iov_base: to.wrapping_add(done).cast(), iov_len: rest };
        let remote = libc::iovec { iov_base: from.wrapping_add(done).cast_mut().cast(), iov_len: rest };
        // SAFETY: the local side is the caller's promise; the kernel checks the remote side.
        unsafe { libc::process_vm_readv(super::fork::pid(), &raw const local, 1, &raw const remote, 1, 0) }
    });
    match copied {
        // A refusal comes before the first byte, so the pipe starts over.
        // SAFETY: the target is the caller's promise.
        Err(stopped) if stopped.is_refused() => unsafe { pipe(from, to, size, from.addr()) },
        copied => copied,
    }
}

/// Copies `size` bytes from our own address `from` to our own address `to` by `process_vm_writev(2)`, or else through a pipe.
///
/// # Safety
/// `from` is valid for reading `size` bytes; the caller may overwrite what is at `to`, if anything.
pub unsafe fn write_guarded(to: *mut u8, from: *const u8, size: usize) -> std::result::Result<(), Stopped> {
    let copied = repeat(size, |done, rest| {
        let local = libc::iovec { iov_base: from.wrapping_add(done).cast_mut().cast(), iov_len: rest };
        let remote = libc::iovec { iov_base: to.wrapping_add(done).cast(), iov_len: rest };
        // SAFETY: the local side is the caller's promise; the kernel checks the remote side.
        unsafe { libc::process_vm_writev(super::fork::pid(), &raw const local, 1, &raw const remote, 1, 0) }
    });
    match copied {
        // SAFETY: the caller's promise.
        Err(stopped) if stopped.is_refused() => unsafe { pipe(from, to, size, to.addr()) },
        copied => copied,
    }
}

/// Copies through a pipe, whose ends the kernel fills and empties with the same checks; `guarded` is the side that may fault.
///
/// # Safety
/// Whatever lies at `to` is memory that the caller may overwrite.
unsafe fn pipe(from: *const u8, to: *mut u8, size: usize, guarded: usize) -> std::result::Result<(), Stopped> {
    // An empty pipe always takes as much at once; and no fault lies within a page, so that a part is copied whole or not at all.
    const PART: usize = 4096;
    let (reader, writer) = std::io::pipe().map_err(|error| Stopped { completed: 0, error: Some(error) })?;
    repeat(size, |done, rest| {
        let part = rest.min(PART.saturating_sub(guarded.wrapping_add(done) % PART));
        // SAFETY: the kernel checks the source.
        let sent = unsafe { libc::write(writer.as_raw_fd(), from.wrapping_add(done).cast(), part) };
        let Ok(sent) = usize::try_from(sent) else { return sent };
        // SAFETY: the kernel checks the target, which the caller gives to be overwritten.
        unsafe { libc::read(reader.as_raw_fd(), to.wrapping_add(done).cast(), sent) }
    })
}

/// Reads `size` bytes at `offset` of a file by `pread(2)`, which allocates no page for a hole.
///
/// # Safety
/// `to` is valid for writing `size` bytes.
pub unsafe fn read_file(file: &File, offset: u64, to: *mut u8, size: usize) -> std::result::Result<(), Stopped> {
    repeat(size, |done, rest| {
        let position =
            u64::try_from(done).ok().and_then(|done| offset.checked_add(done)).and_then(|p| i64::try_from(p).ok());
        // Nothing lies behind the highest offset: the same as the end of the file.
        let Some(position) = position else { return 0 };
        // SAFETY: the buffer is the caller's promise.
        unsafe { libc::pread(file.as_raw_fd(), to.wrapping_add(done).cast(), rest, position) }
    })
}

/// Writes `size` bytes at `offset` of a file by `pwrite(2)`, from memory that may be gone.
pub fn write_file(file: &File, offset: u64, from: *const u8, size: usize) -> std::result::Result<(), Stopped> {
    repeat(size, |done, rest| {
        let position =
            u64::try_from(done).ok().and_then(|done| offset.checked_add(done)).and_then(|p| i64::try_from(p).ok());
        let Some(position) = position else { return 0 };
        // SAFETY: the kernel checks the source.
        unsafe { libc::pwrite(file.as_raw_fd(), from.wrapping_add(done).cast(), rest, position) }
    })
}

/// Whether two stretches of memory have the same bytes, of which others may write some meanwhile.
///
/// # Safety
/// Both are valid for reading `size` bytes.
#[must_use]
pub unsafe fn are_equal(one: *const u8, other: *const u8, size: usize) -> bool {
    // SAFETY: the caller's promise. A call out of Rust: what races with it is a byte's value, which no compiler assumes anything about.
    unsafe { libc::memcmp(one.cast(), other.cast(), size) == 0 }
}

/// Calls `step(done, rest)` until nothing is left; interrupted calls are made again.
fn repeat(size: usize, step: impl Fn(usize, usize) -> isize) -> std::result::Result<(), Stopped> {
    let mut completed = 0usize;
    while completed < size {
        match usize::try_from(step(completed, size.saturating_sub(completed))) {
            // Only a file answers 0, at its end.
            Ok(0) => return Err(Stopped { completed, error: None }),
            // At most the rest each time, so that nothing saturates.
            Ok(count) => completed = completed.saturating_add(count),
            Err(_) => {
                let error = Error::last_os_error();
                if error.kind() != ErrorKind::Interrupted {
                    return Err(Stopped { completed, error: Some(error) });
                }
            }
        }
    }
    Ok(())
}

/// The file's length now, to explain a fault.
pub fn length(file: &File) -> Result<u64> {
    file.metadata().map(|metadata| metadata.len())
}

/// How memory that someone else made can be reached.
#[derive(Debug)]
pub enum Reach {
    /// By `process_vm_readv` and `process_vm_writev`.
    Guarded,
    /// The kernel copies it for `write(2)` but not for `process_vm_readv`: pages of a device, or a `memfd_secret`.
    Special,
    /// Not at all.
    None(Error),
}

/// Tries to read the byte at a host address.
#[must_use]
pub fn probe(address: usize) -> Reach {
    let from = std::ptr::with_exposed_provenance(address);
    let mut byte = 0u8;
    // SAFETY: the target is one byte; the kernel checks the source.
    match unsafe { read_guarded(from, &raw mut byte, 1) } {
        Ok(()) => Reach::Guarded,
        Err(Stopped { error, .. }) => {
            let error = error.unwrap_or_else(|| errno::refusal(errno::EFAULT, "not all of it was copied"));
            // Only a second way of reading tells special pages from missing ones.
            if errno::of(&error) == errno::EFAULT && is_readable(from) {
                return Reach::Special;
            }
            Reach::None(error)
        }
    }
}

/// Whether the kernel can copy a byte from an address into a pipe.
fn is_readable(from: *const u8) -> bool {
    // `_reader` stays open, or the write would be EPIPE.
    let Ok((_reader, writer)) = std::io::pipe() else { return false };
    // SAFETY: the kernel checks the source.
    unsafe { libc::write(writer.as_raw_fd(), from.cast(), 1) == 1 }
}
