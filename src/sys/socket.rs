//! Messages with descriptors over a Unix socket that its owner may have made non-blocking: in steps of bounded time.

use std::fs::File;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    UCred, sockopt,
};
use rustix::process::{getegid, geteuid, getpid};

use super::errno;
use super::poll::{Direction, wait_ready};

/// The most descriptors in one message.
pub const MAX_DESCRIPTORS: usize = 64;

/// Sends as many bytes as there is room for, with descriptors beside the first of them; `None` when there is no room within `limit`.
///
/// One who introduces itself sends the name of this process too, for which the kernel vouches to the other side.
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    is_introduced: bool,
    limit: Duration,
) -> Result<Option<usize>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS), ScmCredentials(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Error::new(ErrorKind::InvalidInput, "too many descriptors in one message"));
    }
    if is_introduced {
        let own = UCred { pid: getpid(), uid: geteuid(), gid: getegid() };
        // There is room for it, as said above.
        beside.push(SendAncillaryMessage::ScmCredentials(own));
    }
    // O_NONBLOCK belongs to the description, which its owner shares: each call asks for itself instead.
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let mut attempt = || unless_transient(net::sendmsg(socket, &[IoSlice::new(bytes)], &mut beside, flags));
    // There nearly always is room: it is waited for only where there was none.
    match attempt()? {
        None if wait_ready(socket, Direction::Out, limit)? => attempt(),
        sent => Ok(sent),
    }
}

/// Sends as many bytes of some parts, one behind the other, as there is room for; `None` when there is no room within `limit`.
pub fn send_parts(socket: BorrowedFd<'_>, parts: &[IoSlice<'_>], limit: Duration) -> Result<Option<usize>> {
    if !wait_ready(socket, Direction::Out, limit)? {
        return Ok(None);
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    unless_transient(net::sendmsg(socket, parts, &mut SendAncillaryBuffer::default(), flags))
}

/// Ends both directions of a connection, whoever else has the socket.
pub fn shut(socket: BorrowedFd<'_>) -> Result<()> {
    Ok(net::shutdown(socket, net::Shutdown::Both)?)
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

/// The kinds of Unix sockets that carry messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    /// Bytes, in which messages follow each other.
    Stream,
    /// Messages, each whole.
    Packets,
    /// It waits for connections of one of these kinds.
    Listener,
}

/// The kind of a connected or listening Unix socket.
pub fn kind(socket: BorrowedFd<'_>) -> Result<SocketKind> {
    if sockopt::socket_acceptconn(socket)? {
        return Ok(SocketKind::Listener);
    }
    match sockopt::socket_type(socket)? {
        SocketType::STREAM => Ok(SocketKind::Stream),
        SocketType::SEQPACKET => Ok(SocketKind::Packets),
        _ => Err(errno::refusal(errno::EINVAL, "it is neither a stream nor a socket of packets")),
    }
}

/// Asks the kernel to say with what comes who has sent it, or not to.
pub fn ask_for_senders(socket: BorrowedFd<'_>, asks: bool) -> Result<()> {
    if sockopt::socket_domain(socket)? != AddressFamily::UNIX {
        return Err(errno::refusal(errno::EINVAL, "it is not a Unix socket, of which the kernel knows who sends"));
    }
    Ok(sockopt::set_socket_passcred(socket, asks)?)
}

/// A connection that waits to be taken, close-on-exec; `None` when none does.
pub fn accept(listener: BorrowedFd<'_>) -> Result<Option<File>> {
    if !wait_ready(listener, Direction::In, Duration::ZERO)? {
        return Ok(None);
    }
    unless_transient(net::accept_with(listener, SocketFlags::CLOEXEC)).map(|taken| taken.map(File::from))
}

/// `None` for a call that is made again: interrupted, or on a socket that is no longer ready.
fn unless_transient<T>(result: rustix::io::Result<T>) -> Result<Option<T>> {
    match result {
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        result => Ok(Some(result?)),
    }
}
