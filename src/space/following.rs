//! The leader of a space, as its follower knows it.

use std::os::fd::{AsFd, BorrowedFd};

use crate::sys::event::Event;
use crate::sys::sync::{AtomicBool, Ordering};

/// The leader whose changes are those of a space.
#[derive(Debug)]
pub struct Following {
    pub(super) leader: u32,
    is_over: AtomicBool,
    /// Readable once it is over, for the thread that listens to the leader.
    end: Event,
}

impl Following {
    /// Begins to follow a process.
    pub fn new(leader: u32) -> std::io::Result<Self> {
        Ok(Self { leader, is_over: AtomicBool::new(false), end: Event::new()? })
    }

    /// Whether the leader's changes are not followed any more.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// It is over; `false` when it was already.
    pub(super) fn end_now(&self) -> bool {
        let is_first = !self.is_over.swap(true, Ordering::AcqRel);
        self.end.signal();
        is_first
    }

    /// A descriptor that is readable once it is over.
    pub fn end(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}
