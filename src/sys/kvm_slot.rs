//! A KVM memory slot: bytes of this process that a guest reads and writes.

use std::fmt::Debug;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use kvm_bindings::{KVM_MEM_GUEST_MEMFD, kvm_userspace_memory_region};

use super::host::page_size;
use super::kvm::Vm;
use super::span::Span;

/// Bytes at a host address that is theirs alone.
///
/// # Safety
/// The bytes stay mapped there, and nothing else comes to lie there, for as long as the value lives.
pub unsafe trait StableBytes: Debug + Send + Sync {
    /// The bytes, which others may write at any time.
    fn bytes(&self) -> *mut [u8];
}

/// A memory slot. Its bytes stay mapped for as long as the guest may touch them, even if KVM does not delete the slot.
#[derive(Debug)]
pub struct Slot {
    vm: Arc<Vm>,
    region: kvm_userspace_memory_region,
    bytes: Arc<dyn StableBytes>,
    guest_memfd: Option<OwnedFd>,
    /// Where KVM writes the log, once it was asked for: to map it takes longer than to read it.
    log: Option<GuardedWords>,
    /// Whether KVM has it.
    is_set: bool,
}

impl Slot {
    /// Shows bytes, whole pages, to the guest from `guest_phys_addr` on; private pages come from a guest_memfd.
    pub fn new(
        vm: &Arc<Vm>,
        (slot, flags): (u32, u32),
        guest_phys_addr: u64,
        bytes: Arc<dyn StableBytes>,
        guest_memfd: Option<OwnedFd>,
    ) -> Result<Self> {
        let flags = if guest_memfd.is_some() { flags | KVM_MEM_GUEST_MEMFD } else { flags };
        let at = bytes.bytes();
        let memory_size = u64::try_from(at.len()).map_err(Error::other)?;
        let userspace_addr = u64::try_from(at.addr()).map_err(Error::other)?;
        let region = kvm_userspace_memory_region { slot, flags, guest_phys_addr, memory_size, userspace_addr };
        let mut slot = Self { vm: Arc::clone(vm), region, bytes, guest_memfd, log: None, is_set: false };
        slot.set(flags)?;
        Ok(slot)
    }

    /// Sets it, again after a deletion or with other flags.
    pub fn set(&mut self, flags: u32) -> Result<()> {
        let region = kvm_userspace_memory_region { flags, ..self.region };
        // SAFETY: the slot keeps the bytes until KVM has deleted it, and they are where they were.
        unsafe { self.vm.set_slot(&region, self.guest_memfd.as_ref().map(AsFd::as_fd))? };
        // Noted only now: after a refusal the slot is what KVM still has.
        (self.region, self.is_set) = (region, true);
        Ok(())
    }

    /// Shows the bytes from another address on, in one step: KVM keeps what it has logged of them.
    pub fn relocate(&mut self, guest_phys_addr: u64) -> Result<()> {
        let before = std::mem::replace(&mut self.region.guest_phys_addr, guest_phys_addr);
        self.set(self.flags()).inspect_err(|_| self.region.guest_phys_addr = before)
    }

    /// The guest physical address of the first byte.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.region.guest_phys_addr
    }

    /// The number of bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.region.memory_size
    }

    /// Deletes it from KVM; [`set`](Self::set) brings it back.
    pub fn delete(&mut self) -> Result<()> {
        let nothing = kvm_userspace_memory_region { slot: self.id(), ..Default::default() };
        // SAFETY: no bytes, so no promise.
        unsafe { self.vm.set_slot(&nothing, None)? };
        // Only once KVM has let go: until then the drop below must keep the bytes.
        self.is_set = false;
        Ok(())
    }

    /// The number.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.region.slot
    }

    /// `KVM_MEM_*`.
    #[must_use]
    pub const fn flags(&self) -> u32 {
        self.region.flags
    }

    fn pages(&self) -> u64 {
        self.region.memory_size.div_ceil(page_size())
    }

    /// A word of the dirty log for each 64 pages; KVM forgets them, unless they are cleared by hand.
    ///
    /// Fails with `EFAULT` when KVM has a larger slot under the number: the machine's owner may have given it to another.
    pub fn dirty_log(&mut self) -> Result<Vec<u64>> {
        let words = usize::try_from(self.pages().div_ceil(u64::BITS.into())).map_err(Error::other)?;
        let mut log = self.log.take().map_or_else(|| GuardedWords::new(words), Ok)?;
        // KVM may have a smaller slot under the number, and leaves the rest as it is.
        log.clear();
        // SAFETY: the words end at an inaccessible page, and are the buffer's own.
        let read = unsafe { self.vm.dirty_log(self.id(), log.words.cast()) };
        let copy = read.and_then(|()| log.to_vec());
        self.log = Some(log);
        copy
    }

    /// Clears the pages whose bits are set: KVM takes a multiple of 64 pages, or all to the end, so the whole slot is given.
    pub fn clear_dirty_log(&self, bitmap: &[u64]) -> Result<()> {
        let pages = u32::try_from(self.pages()).map_err(Error::other)?;
        self.vm.clear_dirty_log(self.id(), pages, bitmap)
    }
}

/// Words that end where an inaccessible page begins: a kernel that writes more of them than asked for is stopped there.
#[derive(Debug)]
struct GuardedWords {
    words: *mut [u64],
    /// Keeps the words mapped.
    _span: Span,
}

impl GuardedWords {
    /// Zeroed words, one at least.
    fn new(count: usize) -> Result<Self> {
        let too_many = || Error::from(ErrorKind::OutOfMemory);
        let page = usize::try_from(page_size()).map_err(Error::other)?;
        let bytes = count.checked_mul(size_of::<u64>()).ok_or_else(too_many)?;
        let room = bytes.checked_next_multiple_of(page).ok_or_else(too_many)?;
        let span = Span::reserve(room.checked_add(page).ok_or_else(too_many)?)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: nothing has been mapped into the span before.
        let start = unsafe { span.map(0, room, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)? };
        // Whole words from the end of a page on, so they are aligned.
        let first = start.wrapping_add(room.saturating_sub(bytes)).cast();
        Ok(Self { words: std::ptr::slice_from_raw_parts_mut(first, count), _span: span })
    }

    fn clear(&mut self) {
        // SAFETY: mapped and writable as long as the span is, and nobody else's while no call is made.
        unsafe { &mut *self.words }.fill(0);
    }

    fn to_vec(&self) -> Result<Vec<u64>> {
        let mut copy = Vec::new();
        copy.try_reserve_exact(self.words.len()).map_err(|_| Error::from(ErrorKind::OutOfMemory))?;
        // SAFETY: mapped and readable as long as the span is, and written by the kernel only, in a call that has ended.
        copy.extend_from_slice(unsafe { &*self.words });
        Ok(copy)
    }
}

// SAFETY: the words are this buffer's alone, on whichever thread it is.
unsafe impl Send for GuardedWords {}
// SAFETY: through a shared buffer the words are only read.
unsafe impl Sync for GuardedWords {}

impl Drop for Slot {
    fn drop(&mut self) {
        // In a forked child the slot is the parent's.
        if self.is_set && self.vm.is_ours() && self.delete().is_err() {
            // The guest may still touch the bytes: better never unmapped than something else mapped in their place.
            std::mem::forget(Arc::clone(&self.bytes));
        }
    }
}
