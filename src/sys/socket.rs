//! Messages with descriptors over a Unix socket that its owner may have made non-blocking.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

/// The most descriptors in one message.
pub const MAX_DESCRIPTORS: usize = 8;

/// Sends all bytes, with descriptors beside the first of them, or fails with `TimedOut` at the deadline.
pub fn send(socket: BorrowedFd<'_>, mut bytes: &[u8], mut descriptors: &[RawFd], deadline: Instant) -> Result<()> {
    while !bytes.is_empty() {
        wait(socket, libc::POLLOUT, deadline)?;
        let sent = match send_some(socket, bytes, descriptors) {
            Err(error) if is_transient(&error) => continue,
            sent => sent?,
        };
        descriptors = &[];
        bytes = bytes.get(sent..).unwrap_or_default();
    }
    Ok(())
}

fn send_some(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[RawFd]) -> Result<usize> {
    let size = u32::try_from(size_of_val(descriptors)).map_err(Error::other)?;
    let mut control = [0u64; 8];
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero is a valid header: no name, no parts, no control data.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if !descriptors.is_empty() {
        // SAFETY: only computes a length.
        let space = unsafe { libc::CMSG_SPACE(size) };
        header.msg_controllen = usize::try_from(space).map_err(Error::other)?;
        if descriptors.len() > MAX_DESCRIPTORS || header.msg_controllen > size_of_val(&control) {
            return Err(Error::new(ErrorKind::InvalidInput, "too many descriptors in one message"));
        }
        header.msg_control = control.as_mut_ptr().cast();
        // SAFETY: the buffer is aligned as a control header and has room for one with all descriptors, as just checked.
        unsafe {
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = usize::try_from(libc::CMSG_LEN(size)).map_err(Error::other)?;
            let data = libc::CMSG_DATA(first).cast::<RawFd>();
            std::ptr::copy_nonoverlapping(descriptors.as_ptr(), data, descriptors.len());
        }
    }
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the header points to buffers that live through the call.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags) };
    usize::try_from(sent).map_err(|_| Error::last_os_error())
}

/// Fills the buffer, or fails with `TimedOut` at the deadline and with `UnexpectedEof` when the other side has closed.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], deadline: Instant) -> Result<()> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        wait(socket, libc::POLLIN, deadline)?;
        // SAFETY: the kernel writes no more than the buffer has.
        let got = unsafe { libc::recv(socket.as_raw_fd(), rest.as_mut_ptr().cast(), rest.len(), libc::MSG_DONTWAIT) };
        match usize::try_from(got).map_err(|_| Error::last_os_error()) {
            Ok(0) => return Err(Error::new(ErrorKind::UnexpectedEof, "the other side has closed the connection")),
            Ok(got) => filled = filled.saturating_add(got),
            Err(error) if is_transient(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_transient(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn wait(socket: BorrowedFd<'_>, events: i16, deadline: Instant) -> Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::new(ErrorKind::TimedOut, "the other side does not answer"));
        }
        let mut waiting = libc::pollfd { fd: socket.as_raw_fd(), events, revents: 0 };
        let milliseconds = left.saturating_add(Duration::from_micros(999)).as_millis();
        let milliseconds = i32::try_from(milliseconds).unwrap_or(i32::MAX);
        // SAFETY: one entry, which lives through the call.
        match unsafe { libc::poll(&raw mut waiting, 1, milliseconds) } {
            0 => {}
            ready if ready > 0 => return Ok(()),
            _ => match Error::last_os_error() {
                error if is_transient(&error) => {}
                error => return Err(error),
            },
        }
    }
}
