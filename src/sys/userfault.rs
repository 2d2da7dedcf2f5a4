//! `userfaultfd(2)`, as far as it notes stores: asynchronous write protection, which nobody answers (Linux 6.7).

use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::ioctl::{Opcode, opcode};

use super::errno::check;
use super::fork::{Forked, Process};
use super::ioctl::request;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Bytes {
    start: u64,
    len: u64,
}

#[repr(C)]
struct Register {
    range: Bytes,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct WriteProtect {
    range: Bytes,
    mode: u64,
}

const UFFD: u8 = 0xaa;
const UFFDIO_API: Opcode = opcode::read_write::<Api>(UFFD, 0x3f);
const UFFDIO_REGISTER: Opcode = opcode::read_write::<Register>(UFFD, 0x00);
const UFFDIO_UNREGISTER: Opcode = opcode::read::<Bytes>(UFFD, 0x01);
const UFFDIO_WRITEPROTECT: Opcode = opcode::read_write::<WriteProtect>(UFFD, 0x06);
const UFFD_API: u64 = 0xaa;
/// Of shared memory and huge pages, of pages that are not there yet, and without messages to answer.
const FEATURES: u64 = 1 << 12 | 1 << 13 | 1 << 15;
const REGISTER_MODE_WP: u64 = 1 << 1;
const WRITEPROTECT_MODE_WP: u64 = 1;
/// Faults of the kernel itself need no answer either, so that no privilege is needed.
const USER_MODE_ONLY: i32 = 1;

/// A userfaultfd of the process that made it.
#[derive(Debug)]
pub struct Userfault {
    fd: OwnedFd,
    process: Process,
}

impl Userfault {
    /// Opens one that notes stores; `EINVAL` where the kernel has not these features, `EPERM` or `ENOSYS` where it is forbidden.
    pub fn open() -> Result<Self> {
        // SAFETY: takes flags, and returns a new descriptor.
        let fd = check(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | USER_MODE_ONLY) })?;
        let fd = i32::try_from(fd).map_err(Error::other)?;
        // SAFETY: the descriptor was just made, and is nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let userfault = Self { fd, process: Process::current() };
        // SAFETY: the argument of this request.
        unsafe { userfault.call(UFFDIO_API, &mut Api { api: UFFD_API, features: FEATURES, ioctls: 0 }) }?;
        Ok(userfault)
    }

    /// Registers whole pages of one mapping; `EBUSY` when another one has them, `EINVAL` where they can't be watched.
    pub fn register(&self, host: *mut u8, size: usize) -> Result<()> {
        let mut register = Register { range: bytes(host, size)?, mode: REGISTER_MODE_WP, ioctls: 0 };
        // SAFETY: the argument of this request; nobody has to answer a fault.
        unsafe { self.call(UFFDIO_REGISTER, &mut register) }
    }

    /// Ends what [`register`](Self::register) began.
    pub fn unregister(&self, host: *mut u8, size: usize) -> Result<()> {
        // SAFETY: the argument of this request.
        unsafe { self.call(UFFDIO_UNREGISTER, &mut bytes(host, size)?) }
    }

    /// Protects whole pages: what is stored to them from then on is found by a scan. Of shared memory also those that are not there.
    pub fn protect(&self, host: *mut u8, size: usize) -> Result<()> {
        let mut protect = WriteProtect { range: bytes(host, size)?, mode: WRITEPROTECT_MODE_WP };
        // SAFETY: the argument of this request; the kernel lets every store through.
        unsafe { self.call(UFFDIO_WRITEPROTECT, &mut protect) }
    }

    /// # Safety
    /// The argument is the one of the request.
    unsafe fn call<T>(&self, code: Opcode, argument: &mut T) -> Result<()> {
        // In a forked child the descriptor still acts on the parent.
        if !self.process.is_current() {
            return Err(Forked.into());
        }
        // SAFETY: the caller's promise.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), request(code), std::ptr::from_mut(argument)) }).map(drop)
    }
}

fn bytes(host: *mut u8, size: usize) -> Result<Bytes> {
    Ok(Bytes {
        start: u64::try_from(host.addr()).map_err(Error::other)?,
        len: u64::try_from(size).map_err(Error::other)?,
    })
}
