//! Messages with descriptors over a Unix socket that its owner may have made non-blocking: in steps of bounded time.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::poll::{Direction, wait_ready};

/// The most descriptors in one message.
pub const MAX_DESCRIPTORS: usize = 8;

/// Sends as many bytes as there is room for, with descriptors beside the first of them; `None` when there is no room within `limit`.
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    limit: Duration,
) -> Result<Option<usize>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Error::new(ErrorKind::InvalidInput, "too many descriptors in one message"));
    }
    if !wait_ready(socket, Direction::Out, limit)? {
        return Ok(None);
    }
    // O_NONBLOCK belongs to the description, which its owner shares: each call asks for itself instead.
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    unless_transient(net::sendmsg(socket, &[IoSlice::new(bytes)], &mut beside, flags))
}

/// Receives bytes into a buffer that is not empty; `None` when there are none within `limit`, `UnexpectedEof` when the other side has closed.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], limit: Duration) -> Result<Option<usize>> {
    if !wait_ready(socket, Direction::In, limit)? {
        return Ok(None);
    }
    // No reply brings descriptors; without room for them the kernel closes any that come.
    match unless_transient(net::recv(socket, buffer, RecvFlags::DONTWAIT))? {
        Some((0, _)) => Err(Error::new(ErrorKind::UnexpectedEof, "the other side has closed the connection")),
        received => Ok(received.map(|(count, _)| count)),
    }
}

/// `None` for a call that is made again: interrupted, or on a socket that is no longer ready.
fn unless_transient<T>(result: rustix::io::Result<T>) -> Result<Option<T>> {
    match result {
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        result => Ok(Some(result?)),
    }
}
