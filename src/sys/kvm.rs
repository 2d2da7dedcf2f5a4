//! The ioctls of a KVM virtual machine that are about memory, with the structures of `<linux/kvm.h>` under their names there.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::fork::Process;
use super::ioctl::{io, iow, iowr, with_number, with_struct};

/// Guest writes are logged.
pub const KVM_MEM_LOG_DIRTY_PAGES: u32 = 1;
/// Guest writes are exits.
pub const KVM_MEM_READONLY: u32 = 1 << 1;
/// Private pages come from a guest_memfd.
pub const KVM_MEM_GUEST_MEMFD: u32 = 1 << 2;
/// Pages are private to the guest.
pub const KVM_MEMORY_ATTRIBUTE_PRIVATE: u64 = 1 << 3;

/// `KVM_CAP_NR_MEMSLOTS`.
pub const KVM_CAP_NR_MEMSLOTS: u64 = 10;
/// `KVM_CAP_READONLY_MEM`.
pub const KVM_CAP_READONLY_MEM: u64 = 81;
/// `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`.
pub const KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: u32 = 168;
/// `KVM_CAP_USER_MEMORY2`.
pub const KVM_CAP_USER_MEMORY2: u64 = 231;
/// `KVM_CAP_MEMORY_ATTRIBUTES`.
pub const KVM_CAP_MEMORY_ATTRIBUTES: u64 = 233;
/// `KVM_CAP_GUEST_MEMFD`.
pub const KVM_CAP_GUEST_MEMFD: u64 = 234;

const KVM: u32 = 0xae;
const KVM_CHECK_EXTENSION: u32 = io(KVM, 0x03);
const KVM_GET_DIRTY_LOG: u32 = iow::<KvmDirtyLog>(KVM, 0x42);
const KVM_SET_USER_MEMORY_REGION: u32 = iow::<KvmUserspaceMemoryRegion>(KVM, 0x46);
const KVM_SET_USER_MEMORY_REGION2: u32 = iow::<KvmUserspaceMemoryRegion2>(KVM, 0x49);
const KVM_ENABLE_CAP: u32 = iow::<KvmEnableCap>(KVM, 0xa3);
const KVM_CLEAR_DIRTY_LOG: u32 = iowr::<KvmClearDirtyLog>(KVM, 0xc0);
const KVM_SET_MEMORY_ATTRIBUTES: u32 = iow::<KvmMemoryAttributes>(KVM, 0xd2);
const KVM_CREATE_GUEST_MEMFD: u32 = iowr::<KvmCreateGuestMemfd>(KVM, 0xd4);

#[repr(C)]
struct KvmUserspaceMemoryRegion {
    slot: u32,
    flags: u32,
    guest_phys_addr: u64,
    memory_size: u64,
    userspace_addr: u64,
}

#[repr(C)]
struct KvmUserspaceMemoryRegion2 {
    region: KvmUserspaceMemoryRegion,
    guest_memfd_offset: u64,
    guest_memfd: u32,
    pad1: u32,
    pad2: [u64; 14],
}

#[repr(C)]
struct KvmDirtyLog {
    slot: u32,
    padding1: u32,
    dirty_bitmap: u64,
}

#[repr(C)]
struct KvmClearDirtyLog {
    slot: u32,
    num_pages: u32,
    first_page: u64,
    dirty_bitmap: u64,
}

#[repr(C)]
struct KvmEnableCap {
    cap: u32,
    flags: u32,
    args: [u64; 4],
    pad: [u8; 64],
}

#[repr(C)]
struct KvmMemoryAttributes {
    address: u64,
    size: u64,
    attributes: u64,
    flags: u64,
}

#[repr(C)]
struct KvmCreateGuestMemfd {
    size: u64,
    flags: u64,
    reserved: [u64; 6],
}

/// A memory slot to be set.
#[derive(Clone, Copy, Debug)]
pub struct MemorySlot<'a> {
    /// Its number.
    pub id: u32,
    /// `KVM_MEM_*`.
    pub flags: u32,
    /// The first guest physical address.
    pub base: u64,
    /// Bytes, whole pages; 0 deletes the slot.
    pub size: u64,
    /// The host address of the first byte.
    pub host: usize,
    /// Where private pages come from.
    pub guest_memfd: Option<BorrowedFd<'a>>,
}

/// A virtual machine: a duplicate of its owner's descriptor.
#[derive(Debug)]
pub struct Vm {
    fd: OwnedFd,
    process: Process,
}

impl Vm {
    /// Duplicates a descriptor and checks that it is a KVM virtual machine (`ErrorKind::InvalidInput`).
    pub fn of(fd: RawFd) -> Result<Self> {
        let fd = OwnedFd::from(super::file::duplicate(fd)?);
        let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        if link.as_os_str() != "anon_inode:kvm-vm" {
            return Err(Error::new(ErrorKind::InvalidInput, format!("it is {}", link.display())));
        }
        Ok(Self { fd, process: Process::current() })
    }

    /// Whether the running process is the one that attached it; in a forked child KVM answers nothing but EIO.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.process.is_current()
    }

    /// Whether both are descriptors of one machine (`kcmp(2)`); `false` where the kernel does not tell.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        const KCMP_FILE: i32 = 0;
        let process = std::process::id();
        let (mine, theirs) = (self.fd.as_raw_fd(), other.fd.as_raw_fd());
        // SAFETY: takes five integers.
        unsafe { libc::syscall(libc::SYS_kcmp, process, process, KCMP_FILE, mine, theirs) == 0 }
    }

    /// `KVM_CHECK_EXTENSION`.
    pub fn capability(&self, capability: u64) -> Result<u32> {
        let value = with_number(self.fd.as_fd(), KVM_CHECK_EXTENSION, capability)?;
        Ok(u32::try_from(value).unwrap_or_default())
    }

    /// `KVM_ENABLE_CAP` with one argument.
    pub fn enable(&self, cap: u32, argument: u64) -> Result<()> {
        let request = KvmEnableCap { cap, flags: 0, args: [argument, 0, 0, 0], pad: [0; 64] };
        // SAFETY: the request takes this structure, which points nowhere.
        unsafe { with_struct(self.fd.as_fd(), KVM_ENABLE_CAP, &request) }.map(drop)
    }

    /// `KVM_SET_USER_MEMORY_REGION`, or its second form for a slot with a guest_memfd.
    ///
    /// # Safety
    /// The guest reads and writes `size` bytes at `host` until the slot is deleted: they stay mapped, for nothing else.
    pub unsafe fn set_slot(&self, slot: &MemorySlot<'_>) -> Result<()> {
        let region = KvmUserspaceMemoryRegion {
            slot: slot.id,
            flags: slot.flags,
            guest_phys_addr: slot.base,
            memory_size: slot.size,
            userspace_addr: u64::try_from(slot.host).map_err(Error::other)?,
        };
        let Some(guest_memfd) = slot.guest_memfd else {
            // SAFETY: the request takes this structure; its address is the caller's promise.
            return unsafe { with_struct(self.fd.as_fd(), KVM_SET_USER_MEMORY_REGION, &region) }.map(drop);
        };
        let guest_memfd = u32::try_from(guest_memfd.as_raw_fd()).map_err(Error::other)?;
        let region = KvmUserspaceMemoryRegion2 { region, guest_memfd_offset: 0, guest_memfd, pad1: 0, pad2: [0; 14] };
        // SAFETY: as above.
        unsafe { with_struct(self.fd.as_fd(), KVM_SET_USER_MEMORY_REGION2, &region) }.map(drop)
    }

    /// Deletes a slot.
    pub fn delete_slot(&self, id: u32) -> Result<()> {
        let nothing = MemorySlot { id, flags: 0, base: 0, size: 0, host: 0, guest_memfd: None };
        // SAFETY: no bytes, so no promise.
        unsafe { self.set_slot(&nothing) }
    }

    /// `KVM_GET_DIRTY_LOG`.
    ///
    /// # Safety
    /// The bitmap has a bit for each page of the slot, in whole words.
    pub unsafe fn dirty_log(&self, slot: u32, bitmap: &mut [u64]) -> Result<()> {
        let dirty_bitmap = u64::try_from(bitmap.as_mut_ptr().addr()).map_err(Error::other)?;
        let request = KvmDirtyLog { slot, padding1: 0, dirty_bitmap };
        // SAFETY: the request takes this structure; that the bitmap is long enough is the caller's promise.
        unsafe { with_struct(self.fd.as_fd(), KVM_GET_DIRTY_LOG, &request) }.map(drop)
    }

    /// `KVM_CLEAR_DIRTY_LOG` of the pages whose bits are set, from `first_page` (a multiple of 64) on.
    pub fn clear_dirty_log(&self, slot: u32, first_page: u64, num_pages: u32, bitmap: &[u64]) -> Result<()> {
        let bits = u64::try_from(bitmap.len()).map_err(Error::other)?.saturating_mul(64);
        if bits < u64::from(num_pages) {
            return Err(Error::new(ErrorKind::InvalidInput, "the bitmap has fewer bits than pages"));
        }
        let dirty_bitmap = u64::try_from(bitmap.as_ptr().addr()).map_err(Error::other)?;
        let request = KvmClearDirtyLog { slot, num_pages, first_page, dirty_bitmap };
        // SAFETY: the request takes this structure, and the bitmap has a bit for each page.
        unsafe { with_struct(self.fd.as_fd(), KVM_CLEAR_DIRTY_LOG, &request) }.map(drop)
    }

    /// `KVM_CREATE_GUEST_MEMFD`.
    pub fn create_guest_memfd(&self, size: u64) -> Result<OwnedFd> {
        let request = KvmCreateGuestMemfd { size, flags: 0, reserved: [0; 6] };
        // SAFETY: the request takes this structure, which points nowhere.
        let fd = unsafe { with_struct(self.fd.as_fd(), KVM_CREATE_GUEST_MEMFD, &request) }?;
        // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// `KVM_SET_MEMORY_ATTRIBUTES`.
    pub fn set_attributes(&self, address: u64, size: u64, attributes: u64) -> Result<()> {
        let request = KvmMemoryAttributes { address, size, attributes, flags: 0 };
        // SAFETY: the request takes this structure, which points nowhere.
        unsafe { with_struct(self.fd.as_fd(), KVM_SET_MEMORY_ATTRIBUTES, &request) }.map(drop)
    }
}
