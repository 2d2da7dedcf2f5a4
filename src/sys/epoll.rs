//! `epoll(7)`: many descriptors that one thread waits for, while others add them and take them out.

use std::io::Result;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

/// How many descriptors one wait tells of.
const AT_ONCE: usize = 32;

/// The descriptors, each under a number. It can be waited for in another one itself.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Epoll {
    /// None yet.
    pub fn new() -> Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Waits for a descriptor too, from here on.
    pub fn add(&self, fd: impl AsFd, number: u64) -> Result<()> {
        Ok(epoll::add(&self.0, fd, EventData::new_u64(number), EventFlags::IN)?)
    }

    /// Waits for a descriptor, or not for a while.
    pub fn heed(&self, fd: impl AsFd, number: u64, heeds: bool) -> Result<()> {
        let events = if heeds { EventFlags::IN } else { EventFlags::empty() };
        Ok(epoll::modify(&self.0, fd, EventData::new_u64(number), events)?)
    }

    /// Forgets a descriptor. A forked child may have it open, so that closing it would not do.
    pub fn remove(&self, fd: impl AsFd) -> Result<()> {
        Ok(epoll::delete(&self.0, fd)?)
    }

    /// Waits at most `limit` until some can be read, and gives their numbers; an interrupted wait ends early.
    pub fn wait(&self, limit: Duration) -> Result<Vec<u64>> {
        let mut events = [MaybeUninit::<Event>::uninit(); AT_ONCE];
        match epoll::wait(&self.0, &mut events, Timespec::try_from(limit).ok().as_ref()) {
            Err(Errno::INTR) => Ok(vec![]),
            ready => Ok(ready?.0.iter().map(|event| event.data.u64()).collect()),
        }
    }
}
