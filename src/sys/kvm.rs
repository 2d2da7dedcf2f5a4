//! The ioctls of a KVM virtual machine that are about memory.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

pub use kvm_bindings::{
    KVM_CAP_GUEST_MEMFD, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CAP_MEMORY_ATTRIBUTES, KVM_CAP_NR_MEMSLOTS,
    KVM_CAP_READONLY_MEM, KVM_CAP_USER_MEMORY2, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY,
    KVM_MEMORY_ATTRIBUTE_PRIVATE,
};
use kvm_bindings::{
    kvm_clear_dirty_log, kvm_clear_dirty_log__bindgen_ty_1, kvm_create_guest_memfd, kvm_dirty_log,
    kvm_dirty_log__bindgen_ty_1, kvm_enable_cap, kvm_memory_attributes, kvm_userspace_memory_region,
    kvm_userspace_memory_region2,
};
use rustix::ioctl::{Opcode, opcode};

use super::errno::{self, check};
use super::fork::Process;
use super::ioctl::request;

const KVM: u8 = 0xae;
const KVM_CHECK_EXTENSION: Opcode = opcode::none(KVM, 0x03);
const KVM_GET_DIRTY_LOG: Opcode = opcode::write::<kvm_dirty_log>(KVM, 0x42);
const KVM_SET_USER_MEMORY_REGION: Opcode = opcode::write::<kvm_userspace_memory_region>(KVM, 0x46);
const KVM_SET_USER_MEMORY_REGION2: Opcode = opcode::write::<kvm_userspace_memory_region2>(KVM, 0x49);
const KVM_ENABLE_CAP: Opcode = opcode::write::<kvm_enable_cap>(KVM, 0xa3);
const KVM_CLEAR_DIRTY_LOG: Opcode = opcode::read_write::<kvm_clear_dirty_log>(KVM, 0xc0);
const KVM_SET_MEMORY_ATTRIBUTES: Opcode = opcode::write::<kvm_memory_attributes>(KVM, 0xd2);
const KVM_CREATE_GUEST_MEMFD: Opcode = opcode::read_write::<kvm_create_guest_memfd>(KVM, 0xd4);

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
        // Asked before any ioctl: to a descriptor of another kind the same number may mean anything.
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

    /// `KVM_CHECK_EXTENSION`: 0 for what the machine does not have.
    pub fn capability(&self, capability: u32) -> Result<u32> {
        // SAFETY: the request takes a number, so the kernel touches no memory of ours.
        let value = check(unsafe { libc::ioctl(self.fd.as_raw_fd(), request(KVM_CHECK_EXTENSION), capability) })?;
        Ok(value.unsigned_abs())
    }

    /// `KVM_ENABLE_CAP` with one argument.
    pub fn enable(&self, cap: u32, argument: u64) -> Result<()> {
        let enable = kvm_enable_cap { cap, args: [argument, 0, 0, 0], ..Default::default() };
        // SAFETY: the request takes this structure, which points nowhere.
        unsafe { self.ioctl(KVM_ENABLE_CAP, &enable) }.map(drop)
    }

    /// `KVM_CREATE_GUEST_MEMFD`.
    pub fn create_guest_memfd(&self, size: u64) -> Result<OwnedFd> {
        let create = kvm_create_guest_memfd { size, ..Default::default() };
        // SAFETY: the request takes this structure, which points nowhere.
        let fd = unsafe { self.ioctl(KVM_CREATE_GUEST_MEMFD, &create) }?;
        // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// `KVM_SET_MEMORY_ATTRIBUTES`.
    pub fn set_attributes(&self, address: u64, size: u64, attributes: u64) -> Result<()> {
        let set = kvm_memory_attributes { address, size, attributes, flags: 0 };
        // SAFETY: the request takes this structure, which points nowhere.
        unsafe { self.ioctl(KVM_SET_MEMORY_ATTRIBUTES, &set) }.map(drop)
    }

    /// `KVM_SET_USER_MEMORY_REGION`, or its second form for a slot with a guest_memfd; a size of 0 deletes the slot.
    ///
    /// # Safety
    /// The guest reads and writes the bytes at `userspace_addr` until the slot is deleted: they stay mapped, for nothing else.
    pub(super) unsafe fn set_slot(
        &self,
        region: &kvm_userspace_memory_region,
        guest_memfd: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        // The older request wherever it will do, for every kernel has it.
        let Some(guest_memfd) = guest_memfd else {
            // SAFETY: the request takes this structure; its address is the caller's promise.
            return unsafe { self.ioctl(KVM_SET_USER_MEMORY_REGION, region) }.map(drop);
        };
        let kvm_userspace_memory_region { slot, flags, guest_phys_addr, memory_size, userspace_addr } = *region;
        let guest_memfd = guest_memfd.as_raw_fd().unsigned_abs();
        let region = kvm_userspace_memory_region2 {
            slot,
            flags,
            guest_phys_addr,
            memory_size,
            userspace_addr,
            guest_memfd,
            ..Default::default()
        };
        // SAFETY: as above.
        unsafe { self.ioctl(KVM_SET_USER_MEMORY_REGION2, &region) }.map(drop)
    }

    /// `KVM_GET_DIRTY_LOG`.
    ///
    /// # Safety
    /// KVM writes a bit for each page of the slot that *it* has under the number, upwards from `bitmap`: all from there up to an
    /// inaccessible page is the caller's to be overwritten.
    pub(super) unsafe fn dirty_log(&self, slot: u32, bitmap: *mut u64) -> Result<()> {
        let dirty_bitmap = kvm_dirty_log__bindgen_ty_1 { dirty_bitmap: bitmap.cast() };
        let get = kvm_dirty_log { slot, padding1: 0, __bindgen_anon_1: dirty_bitmap };
        // SAFETY: the request takes this structure; where the bitmap lies is the caller's promise.
        unsafe { self.ioctl(KVM_GET_DIRTY_LOG, &get) }.map(drop)
    }

    /// `KVM_CLEAR_DIRTY_LOG` of the pages of a slot whose bits are set, from its first on.
    pub(super) fn clear_dirty_log(&self, slot: u32, num_pages: u32, bitmap: &[u64]) -> Result<()> {
        if bitmap.len() < usize::try_from(num_pages.div_ceil(u64::BITS)).map_err(Error::other)? {
            return Err(errno::refusal(errno::EINVAL, "the bitmap has fewer bits than pages"));
        }
        let dirty_bitmap = kvm_clear_dirty_log__bindgen_ty_1 { dirty_bitmap: bitmap.as_ptr().cast_mut().cast() };
        let clear = kvm_clear_dirty_log { slot, num_pages, first_page: 0, __bindgen_anon_1: dirty_bitmap };
        // SAFETY: the request takes this structure, and the bitmap, which the kernel only reads, has a bit for each page.
        unsafe { self.ioctl(KVM_CLEAR_DIRTY_LOG, &clear) }.map(drop)
    }

    /// Calls with a structure that the kernel reads.
    ///
    /// # Safety
    /// The request takes a `T`, and what it points to is valid for what the kernel does there.
    unsafe fn ioctl<T>(&self, opcode: Opcode, argument: &T) -> Result<i32> {
        // SAFETY: the structure lives through the call; the rest is the caller's promise.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), request(opcode), std::ptr::from_ref(argument)) })
    }
}

/// The memory slots that a machine has by default (`KVM_CAP_NR_MEMSLOTS` of `/dev/kvm`); `None` without KVM.
#[must_use]
pub fn max_memory_slots() -> Option<u64> {
    let device = fs::File::open("/dev/kvm").ok()?;
    // SAFETY: the request takes a number, so the kernel touches no memory of ours.
    let value = check(unsafe { libc::ioctl(device.as_raw_fd(), request(KVM_CHECK_EXTENSION), KVM_CAP_NR_MEMSLOTS) });
    value.ok().map(|slots| u64::from(slots.unsigned_abs())).filter(|slots| *slots > 0)
}
