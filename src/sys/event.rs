//! `eventfd(2)`: a descriptor that becomes readable.

use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A counter that select, poll and asyncio can wait for; reading it takes it back to 0.
#[derive(Debug)]
pub struct Event(OwnedFd);

impl Event {
    /// A close-on-exec, non-blocking event at 0.
    pub fn new() -> Result<Self> {
        // SAFETY: takes two integers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The descriptor, which stays ours.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Makes it readable.
    pub fn signal(&self) {
        let one = 1u64;
        // SAFETY: writes the eight bytes of the number. It can only fail when the counter is full, and then it is readable.
        let _ = unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
    }
}
