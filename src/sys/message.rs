//! Messages that come over a Unix socket: their descriptors beside the bytes, and their sender as the kernel vouches for it.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};

use super::errno::{EAGAIN, EINTR};
use super::socket::MAX_DESCRIPTORS;

/// The sender of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Its process; 0 for one that this process's pid namespace has not.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl Credentials {
    /// Those of this process.
    #[must_use]
    pub fn own() -> Self {
        let (pid, uid, gid) = (rustix::process::getpid(), rustix::process::geteuid(), rustix::process::getegid());
        Self { pid: pid.as_raw_nonzero().get().unsigned_abs(), uid: uid.as_raw(), gid: gid.as_raw() }
    }
}

/// Bytes that have come, and what came beside them.
#[derive(Debug, Default)]
pub struct Received {
    /// The number of bytes; never 0.
    pub count: usize,
    /// The descriptors, close-on-exec.
    pub descriptors: Vec<File>,
    /// Whether more descriptors were sent than this process could take.
    pub is_cut: bool,
    /// The sender, on a socket with `SO_PASSCRED`.
    pub sender: Option<Credentials>,
}

/// Bytes for what comes beside the bytes: the headers of both kinds, the descriptors and the sender.
const BESIDE: usize = 128 + MAX_DESCRIPTORS * size_of::<i32>();

/// A length as the C library has it: they differ in its type.
fn length<T: TryFrom<usize> + Default>(size: usize) -> T {
    T::try_from(size).unwrap_or_default()
}

/// The same, back.
fn bytes_of(length: impl TryInto<usize>) -> usize {
    length.try_into().unwrap_or_default()
}

/// Room for it, aligned as its headers are.
#[repr(align(8))]
struct Beside([MaybeUninit<u8>; BESIDE]);

/// Receives what is there; `None` when nothing is, `UnexpectedEof` when the other side has closed.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Option<Received>> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut beside = Beside([MaybeUninit::uninit(); BESIDE]);
    // SAFETY: zeroes are a message without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    (message.msg_control, message.msg_controllen) = (beside.0.as_mut_ptr().cast(), length(BESIDE));
    // O_NONBLOCK belongs to the description, which its owner shares: each call asks for itself instead.
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the buffers live, and have as many bytes as is said.
    let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    if count < 0 {
        let error = Error::last_os_error();
        return if matches!(error.raw_os_error(), Some(EAGAIN | EINTR)) { Ok(None) } else { Err(error) };
    }
    // First, so that descriptors are closed whatever else came.
    // SAFETY: the kernel has filled the message in.
    let received = unsafe { taken(&message, count.unsigned_abs()) };
    if received.count == 0 {
        return Err(Error::new(ErrorKind::UnexpectedEof, "the other side has closed the connection"));
    }
    Ok(Some(received))
}

/// Takes over what came beside the bytes.
///
/// # Safety
/// `recvmsg` has filled the message in, and its buffers live.
unsafe fn taken(message: &libc::msghdr, count: usize) -> Received {
    let is_cut = message.msg_flags & libc::MSG_CTRUNC != 0;
    let mut received = Received { count, is_cut, ..Received::default() };
    // SAFETY: the caller's promise.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: the macros lead from header to header, each whole, and from each to its data.
        unsafe {
            let data = libc::CMSG_DATA(header);
            let size = bytes_of((*header).cmsg_len).saturating_sub(data.addr().abs_diff(header.addr()));
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    let numbers = (0..size.div_euclid(size_of::<i32>())).map(|index| data.cast::<i32>().add(index));
                    received.descriptors.extend(numbers.map(|number| File::from_raw_fd(number.read_unaligned())));
                }
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if size >= size_of::<libc::ucred>() => {
                    let libc::ucred { pid, uid, gid } = data.cast::<libc::ucred>().read_unaligned();
                    received.sender = Some(Credentials { pid: pid.unsigned_abs(), uid, gid });
                }
                _ => {}
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    received
}
