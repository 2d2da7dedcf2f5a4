//! Messages with descriptors over a Unix socket that its owner may have made non-blocking.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::errno;
use super::poll::{Direction, wait_ready};

/// The most descriptors in one message.
pub const MAX_DESCRIPTORS: usize = 8;

/// Sends all bytes, with descriptors beside the first of them, or fails with `ETIMEDOUT` at the deadline, if there is one.
pub fn send(
    socket: BorrowedFd<'_>,
    mut bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    deadline: Option<Instant>,
) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Error::new(ErrorKind::InvalidInput, "too many descriptors in one message"));
    }
    while !bytes.is_empty() {
        wait(socket, Direction::Out, deadline)?;
        // O_NONBLOCK belongs to the description, which its owner shares: each call asks for itself instead.
        let sent = net::sendmsg(socket, &[IoSlice::new(bytes)], &mut beside, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        if let Some(sent) = unless_transient(sent)? {
            // They have gone with the first bytes.
            beside.clear();
            bytes = bytes.get(sent..).unwrap_or_default();
        }
    }
    Ok(())
}

/// Fills the buffer, or fails with `ETIMEDOUT` at the deadline and with `UnexpectedEof` when the other side has closed.
pub fn receive(socket: BorrowedFd<'_>, mut buffer: &mut [u8], deadline: Option<Instant>) -> Result<()> {
    while !buffer.is_empty() {
        wait(socket, Direction::In, deadline)?;
        // No reply brings descriptors; without room for them the kernel closes any that come.
        match unless_transient(net::recv(socket, &mut *buffer, RecvFlags::DONTWAIT))? {
            Some((0, _)) => {
                return Err(Error::new(ErrorKind::UnexpectedEof, "the other side has closed the connection"));
            }
            Some((count, _)) => buffer = buffer.get_mut(count..).unwrap_or_default(),
            None => {}
        }
    }
    Ok(())
}

/// `None` for a call that is made again: interrupted, or on a socket that is no longer ready.
fn unless_transient<T>(result: rustix::io::Result<T>) -> Result<Option<T>> {
    match result {
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        result => Ok(Some(result?)),
    }
}

/// Waits until the socket is ready, at most until the deadline.
fn wait(socket: BorrowedFd<'_>, direction: Direction, deadline: Option<Instant>) -> Result<()> {
    loop {
        let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return Err(errno::refusal(errno::ETIMEDOUT, "the other side does not answer"));
        }
        if wait_ready(socket, direction, left)? {
            return Ok(());
        }
    }
}
