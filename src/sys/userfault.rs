//! `userfaultfd(2)`: as far as it notes stores, by asynchronous write protection, which nobody answers (Linux 6.7); and as far as pages that
//! are missing are brought in when they are touched (Linux 6.6).

use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::ioctl::{Opcode, opcode};

use super::errno::{self, EAGAIN, EEXIST, ENOENT, check};
use super::fork::{Forked, Process};
use super::host::page_size;
use super::ioctl::request;
use super::poll::{Direction, wait_ready};

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

#[repr(C)]
struct Copy {
    to: u64,
    from: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

#[repr(C)]
struct Fill {
    range: Bytes,
    mode: u64,
    filled: i64,
}

const UFFD: u8 = 0xaa;
const UFFDIO_API: Opcode = opcode::read_write::<Api>(UFFD, 0x3f);
const UFFDIO_REGISTER: Opcode = opcode::read_write::<Register>(UFFD, 0x00);
const UFFDIO_UNREGISTER: Opcode = opcode::read::<Bytes>(UFFD, 0x01);
const UFFDIO_WRITEPROTECT: Opcode = opcode::read_write::<WriteProtect>(UFFD, 0x06);
const UFFDIO_WAKE: Opcode = opcode::read::<Bytes>(UFFD, 0x02);
const UFFDIO_COPY: Opcode = opcode::read_write::<Copy>(UFFD, 0x03);
const UFFDIO_ZEROPAGE: Opcode = opcode::read_write::<Fill>(UFFD, 0x04);
const UFFDIO_POISON: Opcode = opcode::read_write::<Fill>(UFFD, 0x08);
/// Of `/dev/userfaultfd`, for those who may open it.
const USERFAULTFD_IOC_NEW: Opcode = opcode::none(UFFD, 0x00);
const UFFD_API: u64 = 0xaa;
const REGISTER_MODE_MISSING: u64 = 1;
/// Of shared memory, and poison.
const MISSING_FEATURES: u64 = 1 << 5 | 1 << 14;
/// A message of the kernel: its kind at the start, the address of a fault behind two numbers.
const MESSAGE: usize = 32;
const PAGE_FAULT: u8 = 0x12;
const REMOVED: u8 = 0x15;
const UNMAPPED: u8 = 0x16;
/// Of a fault: somebody stores to a page that is there and protected, or touches one that the file has.
const NOT_MISSING: u8 = 2 | 4;
/// An address at which no process has registered memory: low, and behind the pages that the kernel keeps free.
const NOBODYS: usize = 64 << 10;
/// Of shared memory and huge pages, of pages that are not there yet, and without messages to answer.
const FEATURES: u64 = 1 << 12 | 1 << 13 | 1 << 15;
const REGISTER_MODE_WP: u64 = 1 << 1;
const WRITEPROTECT_MODE_WP: u64 = 1;
/// Faults of the kernel itself need no answer either, so that no privilege is needed.
const USER_MODE_ONLY: i32 = 1;

/// A message of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A touch of a missing page waits, at this host address.
    Missing(usize),
    /// Pages are given up, from a host address to another; whoever does that waits until this is read.
    Removed(usize, usize),
    /// Anything else.
    Other,
}

/// A userfaultfd, for the process that made it or was given it.
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
        Self::with_features(fd, FEATURES)
    }

    /// Opens one whose faults have to be answered, the kernel's own among them, as those of a guest are; `EPERM` where that takes a privilege.
    pub fn open_missing() -> Result<Self> {
        // SAFETY: takes flags, and returns a new descriptor.
        let opened = check(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) });
        let fd = match opened {
            Err(error) if errno::of(&error) == errno::EPERM => Self::from_device().map_err(|_| error)?,
            opened => i32::try_from(opened?).map_err(Error::other)?,
        };
        // SAFETY: the descriptor was just made, and is nobody else's.
        Self::with_features(unsafe { OwnedFd::from_raw_fd(fd) }, MISSING_FEATURES)
    }

    /// One that another process has made and registered for memory of its own, which it acts on.
    pub fn given(file: File) -> Result<Self> {
        // Without, the kernel says at once that there is something to read.
        rustix::fs::fcntl_setfl(&file, rustix::fs::fcntl_getfl(&file)? | OFlags::NONBLOCK)?;
        Ok(Self { fd: file.into(), process: Process::current() })
    }

    fn from_device() -> Result<i32> {
        let device = File::options().read(true).write(true).open("/dev/userfaultfd")?;
        // SAFETY: takes flags, and returns a new descriptor.
        check(unsafe {
            libc::ioctl(device.as_raw_fd(), request(USERFAULTFD_IOC_NEW), libc::O_CLOEXEC | libc::O_NONBLOCK)
        })
    }

    fn with_features(fd: OwnedFd, features: u64) -> Result<Self> {
        let userfault = Self { fd, process: Process::current() };
        // SAFETY: the argument of this request.
        unsafe { userfault.call(UFFDIO_API, &mut Api { api: UFFD_API, features, ioctls: 0 }) }?;
        Ok(userfault)
    }

    /// Whether this is the process that made it, and not a forked child.
    pub fn is_in_its_process(&self) -> bool {
        self.process.is_current()
    }

    /// Registers whole pages, so that a touch of one that is missing waits until it is there.
    pub fn register_missing(&self, host: *mut u8, size: usize) -> Result<()> {
        let mut register = Register { range: bytes(host, size)?, mode: REGISTER_MODE_MISSING, ioctls: 0 };
        // SAFETY: the argument of this request; the caller answers the faults.
        unsafe { self.call(UFFDIO_REGISTER, &mut register) }
    }

    /// The next message; `None` when there is none within `limit`.
    pub fn next_event(&self, limit: Duration) -> Result<Option<Event>> {
        if !wait_ready(&self.fd, Direction::In, limit)? {
            return Ok(None);
        }
        let mut message = [0; MESSAGE];
        match rustix::io::read(&self.fd, &mut message) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            read => read.map(|_| Some(event_of(&message))).map_err(Error::from),
        }
    }

    /// Whether the process whose memory it is has ended, or has begun another program.
    pub fn is_gone(&self) -> bool {
        let asked =
            self.zero(std::ptr::without_provenance_mut(NOBODYS), usize::try_from(page_size()).unwrap_or(NOBODYS));
        asked.is_err_and(|error| errno::of(&error) == errno::ESRCH)
    }

    /// Brings in whole pages that are missing, and wakes who waits for them; `EEXIST` when one is there.
    pub fn copy(&self, host: *mut u8, from: &[u8]) -> Result<()> {
        let Bytes { start: to, len } = bytes(host, from.len())?;
        let from = u64::try_from(from.as_ptr().addr()).map_err(Error::other)?;
        // SAFETY: the argument of this request; the kernel fills registered pages that are missing, and no others.
        unsafe { self.call(UFFDIO_COPY, &mut Copy { to, from, len, mode: 0, copied: 0 }) }
    }

    /// Brings in those of some pages that are missing, of `page` bytes each, and wakes who waits for any of them.
    ///
    /// `ENOENT` when some are not registered, behind all that are.
    pub fn copy_missing(&self, host: *mut u8, from: &[u8], page: usize) -> Result<()> {
        self.each_missing(host, from.len(), page, |offset, size| {
            self.copy(
                host.wrapping_add(offset),
                from.get(offset..).and_then(|rest| rest.get(..size)).unwrap_or_default(),
            )
        })
    }

    /// Makes a touch of those of some pages an error that are missing, as [`copy_missing`](Self::copy_missing).
    pub fn poison_missing(&self, host: *mut u8, size: usize, page: usize) -> Result<()> {
        self.each_missing(host, size, page, |offset, size| self.poison(host.wrapping_add(offset), size))
    }

    fn each_missing(
        &self,
        host: *mut u8,
        size: usize,
        page: usize,
        fill: impl Fn(usize, usize) -> Result<()>,
    ) -> Result<()> {
        match fill(0, size) {
            Err(error) if matches!(errno::of(&error), EEXIST | EAGAIN | ENOENT) => {}
            filled => return filled,
        }
        // Some are there, or protected otherwise than others, which the kernel does not fill together: page by page.
        let mut unregistered = Ok(());
        for offset in (0..size).step_by(page) {
            match fill(offset, page) {
                Err(error) if errno::of(&error) == EEXIST => {}
                Err(error) if errno::of(&error) == ENOENT => unregistered = Err(error),
                filled => filled?,
            }
        }
        self.wake(host, size)?;
        unregistered
    }

    /// Brings in pages of zeroes; as `copy`.
    pub fn zero(&self, host: *mut u8, size: usize) -> Result<()> {
        // SAFETY: the argument of this request, as above.
        unsafe { self.call(UFFDIO_ZEROPAGE, &mut Fill { range: bytes(host, size)?, mode: 0, filled: 0 }) }
    }

    /// Makes a touch of pages that are missing an error.
    fn poison(&self, host: *mut u8, size: usize) -> Result<()> {
        // SAFETY: the argument of this request, as above.
        unsafe { self.call(UFFDIO_POISON, &mut Fill { range: bytes(host, size)?, mode: 0, filled: 0 }) }
    }

    /// Wakes who waits for pages, to look again.
    pub fn wake(&self, host: *mut u8, size: usize) -> Result<()> {
        // SAFETY: the argument of this request.
        unsafe { self.call(UFFDIO_WAKE, &mut bytes(host, size)?) }
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

fn event_of(message: &[u8; MESSAGE]) -> Event {
    let number = |at: usize| {
        let bytes = message.get(at..).and_then(|rest| rest.first_chunk());
        bytes.copied().map(usize::from_le_bytes).unwrap_or_default()
    };
    let [kind, ..] = *message;
    match kind {
        PAGE_FAULT if message.get(8).is_some_and(|flags| flags & NOT_MISSING == 0) => Event::Missing(number(16)),
        REMOVED | UNMAPPED => Event::Removed(number(8), number(16)),
        _ => Event::Other,
    }
}

fn bytes(host: *mut u8, size: usize) -> Result<Bytes> {
    Ok(Bytes {
        start: u64::try_from(host.addr()).map_err(Error::other)?,
        len: u64::try_from(size).map_err(Error::other)?,
    })
}
