//! Waiting for a descriptor, a bounded time.

use std::io::Result;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the descriptor.
    In,
    /// To the descriptor.
    Out,
}

/// Waits at most `limit` until the descriptor can be read or written without blocking; an interrupted wait ends early.
pub fn wait_ready(fd: impl AsFd, direction: Direction, limit: Duration) -> Result<bool> {
    let flags = match direction {
        Direction::In => PollFlags::IN,
        Direction::Out => PollFlags::OUT,
    };
    // A limit that no clock can hold is not a limit.
    let limit = Timespec::try_from(limit).ok();
    match poll(&mut [PollFd::new(&fd, flags)], limit.as_ref()) {
        Err(Errno::INTR) => Ok(false),
        ready => Ok(ready? > 0),
    }
}

/// Waits at most `limit` until one of some descriptors can be read, or its other side is gone; an interrupted wait ends early.
pub fn wait_any(fds: &[BorrowedFd<'_>], limit: Duration) -> Result<Vec<bool>> {
    let mut polled: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    match poll(&mut polled, Timespec::try_from(limit).ok().as_ref()) {
        Err(Errno::INTR) => Ok(vec![false; fds.len()]),
        ready => {
            ready?;
            Ok(polled.iter().map(|fd| !fd.revents().is_empty()).collect())
        }
    }
}
