//! `eventfd(2)`: a descriptor that becomes readable.

use std::io::Result;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::event::{EventfdFlags, eventfd};

/// A counter that select, poll and asyncio can wait for; reading it takes it back to 0.
#[derive(Debug)]
pub struct Event(OwnedFd);

impl Event {
    /// A close-on-exec, non-blocking event at 0.
    pub fn new() -> Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// The descriptor, which stays ours.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Makes it readable.
    pub fn signal(&self) {
        // The write can only fail when the counter is full, and then it is readable.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}
