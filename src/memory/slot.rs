//! A KVM memory slot, which shows a region's memory to a guest.

use std::io::{Error, Result};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::region::MappedRegion;
use crate::sys::huge::page_size;
use crate::sys::kvm::{KVM_MEM_GUEST_MEMFD, MemorySlot, Vm};

const BITS: u64 = 64;

/// The memory of a region in a slot: it stays mapped for as long as the guest may touch it, even if the slot can't be deleted.
#[derive(Debug)]
pub struct Slot {
    vm: Arc<Vm>,
    id: u32,
    flags: u32,
    region: Arc<MappedRegion>,
    guest_memfd: Option<OwnedFd>,
    /// Whether KVM has it.
    is_set: bool,
}

impl Slot {
    /// Sets a slot.
    pub fn new(
        vm: &Arc<Vm>,
        id: u32,
        flags: u32,
        region: &Arc<MappedRegion>,
        guest_memfd: Option<OwnedFd>,
    ) -> Result<Self> {
        let flags = if guest_memfd.is_some() { flags | KVM_MEM_GUEST_MEMFD } else { flags };
        let (vm, region) = (Arc::clone(vm), Arc::clone(region));
        let mut slot = Self { vm, id, flags, region, guest_memfd, is_set: false };
        slot.set(flags)?;
        Ok(slot)
    }

    /// Sets it, again after a deletion or with other flags.
    pub fn set(&mut self, flags: u32) -> Result<()> {
        let request = MemorySlot {
            id: self.id,
            flags,
            base: self.region.desc().base(),
            size: self.region.desc().size(),
            host: self.region.mapping().host(0).addr(),
            guest_memfd: self.guest_memfd.as_ref().map(AsFd::as_fd),
        };
        // SAFETY: the slot keeps the mapping, which is the guest's memory, until KVM has deleted it.
        unsafe { self.vm.set_slot(&request)? };
        (self.flags, self.is_set) = (flags, true);
        Ok(())
    }

    /// Deletes it from KVM; [`set`](Self::set) brings it back.
    pub fn delete(&mut self) -> Result<()> {
        self.vm.delete_slot(self.id)?;
        self.is_set = false;
        Ok(())
    }

    /// The number.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// `KVM_MEM_*`.
    #[must_use]
    pub const fn flags(&self) -> u32 {
        self.flags
    }

    /// The region that it shows.
    #[must_use]
    pub const fn region(&self) -> &Arc<MappedRegion> {
        &self.region
    }

    /// The same memory under a new description.
    pub fn describe(&mut self, region: &Arc<MappedRegion>) {
        self.region = Arc::clone(region);
    }

    fn pages(&self) -> u64 {
        self.region.desc().size().checked_div(page_size()).unwrap_or_default()
    }

    /// Fills `bitmap` with a word of the dirty log for each 64 pages; KVM forgets them, unless they are cleared by hand.
    pub fn dirty_log(&self, bitmap: &mut Vec<u64>) -> Result<()> {
        bitmap.resize(usize::try_from(self.pages().div_ceil(BITS)).map_err(Error::other)?, 0);
        // SAFETY: a bit for each page of the slot, in whole words.
        unsafe { self.vm.dirty_log(self.id, bitmap) }
    }

    /// Clears the pages whose bits are set. KVM takes a multiple of 64 pages, or all to the end.
    pub fn clear_dirty_log(&self, bitmap: &[u64]) -> Result<()> {
        let pages = u32::try_from(self.pages()).map_err(Error::other)?;
        self.vm.clear_dirty_log(self.id, 0, pages, bitmap)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.is_set && self.vm.is_ours() && self.delete().is_err() {
            // The guest may still touch it: better never unmapped than something else mapped in its place.
            std::mem::forget(Arc::clone(&self.region));
        }
    }
}
