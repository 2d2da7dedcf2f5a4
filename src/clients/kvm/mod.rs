//! KVM: a memory slot of a virtual machine for each region with memory.
//!
//! The machine belongs to whoever made it; this keeps a duplicate of its descriptor. A slot is set before a region is published and
//! deleted before its memory goes. Where a removed region is in the way of an added one, or a region becomes read-only or writable,
//! KVM wants the old slot deleted first: for that moment the guest finds nothing there, so its processors must be paused.

mod error;
mod log;
mod slot;
mod table;

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

use self::error::{not_a_machine, not_logged, refused, unsupported};
use self::log::KvmLog;
use self::slot::SlotEntry;
use self::table::{SlotNumbers, SlotTable};
use super::partial_pages::PartialPages;
use crate::memory::dirty::WriteLog;
use crate::memory::region::MappedRegion;
use crate::model::dirty::DirtyPages;
use crate::model::error::{Errno, Error, Result};
use crate::model::interrupt::Interrupt;
use crate::model::range::Range;
use crate::model::region::{PROT_READ, PROT_WRITE, RegionType, SharedRegion};
use crate::model::region_map::RegionEntry;
use crate::space::client::Client;
use crate::space::proposal::Proposal;
use crate::sys::host::page_size;
use crate::sys::kvm::{self, Vm};
use crate::sys::lock::Lock;

/// How a virtual machine is attached.
#[derive(Clone, Copy, Debug, Default)]
pub struct KvmOptions {
    /// Log the guest's writes to every writable region from the beginning.
    pub dirty_log: bool,
    /// Let `KVM_CLEAR_DIRTY_LOG` say which pages are protected again, for the whole machine.
    pub manual_clear: bool,
    /// The lowest slot number to use; those below are the machine's owner's.
    pub first_slot: u32,
    /// How many slots to use at most.
    pub max_slots: Option<u32>,
    /// Give each region of RAM a guest_memfd for its private pages.
    pub guest_memfd: bool,
    /// The treatment of regions that begin or end inside a page.
    pub partial_pages: PartialPages,
}

/// The memory slots of a virtual machine.
#[derive(Debug)]
pub struct Kvm {
    vm: Arc<Vm>,
    options: KvmOptions,
    table: Arc<Lock<SlotTable>>,
}

impl Kvm {
    /// Looks at a virtual machine; its slots are set when it is subscribed.
    pub fn new(vm_fd: RawFd, options: KvmOptions) -> Result<Self> {
        let vm = Vm::of(vm_fd).map_err(|error| not_a_machine(vm_fd, &error))?;
        let has = |capability| vm.capability(capability).map_err(|error| not_a_machine(vm_fd, &error));
        let limit = has(kvm::KVM_CAP_NR_MEMSLOTS)?;
        if options.guest_memfd && (has(kvm::KVM_CAP_GUEST_MEMFD)? == 0 || has(kvm::KVM_CAP_USER_MEMORY2)? == 0) {
            return Err(unsupported("guest_memfd", "a kernel and a type of virtual machine that have it"));
        }
        if options.manual_clear {
            vm.enable(kvm::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 1)
                .map_err(|_| unsupported("manual_clear", "a kernel that has KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2"))?;
        }
        let end = options.max_slots.and_then(|most| options.first_slot.checked_add(most)).unwrap_or(limit);
        let numbers = SlotNumbers::new(options.first_slot, end.min(limit));
        Ok(Self { vm: Arc::new(vm), options, table: Arc::new(Lock::new(SlotTable::new(numbers))) })
    }

    /// Whether both are attached to one virtual machine, as far as the kernel tells.
    #[must_use]
    pub fn is_same_machine(&self, other: &Self) -> bool {
        self.vm.is_same(&other.vm)
    }

    /// In a forked child KVM answers nothing.
    fn check_process(&self) -> Result<()> {
        if self.vm.is_ours() { Ok(()) } else { Err(Error::Forked) }
    }

    fn flags(&self, region: &SharedRegion) -> u32 {
        let log = if self.options.dirty_log { kvm::KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        if is_read_only(region) { log | kvm::KVM_MEM_READONLY } else { log }
    }

    fn guest_memfd(&self, region: &SharedRegion, size: u64) -> Result<Option<OwnedFd>> {
        let is_ram = region.region_type == RegionType::DefaultMemory;
        if !self.options.guest_memfd || !is_ram || is_read_only(region) {
            return Ok(None);
        }
        let created = self.vm.create_guest_memfd(size);
        created.map(Some).map_err(|error| refused(region, "a guest_memfd for", &error))
    }

    fn add(&self, table: &mut SlotTable, region: &Arc<MappedRegion>, old: Option<&RegionEntry>) -> Result<()> {
        let desc = region.desc();
        let Some(whole) = self.options.partial_pages.of(region, "KVM")? else { return Ok(()) };
        if old.is_some() && self.options.guest_memfd {
            return Err(unsupported("regions that are cut, joined or moved", "a machine without guest_memfd=True"));
        }
        let log = kvm::KVM_MEM_LOG_DIRTY_PAGES;
        // Where the log was switched for the region alone, it stays so for what is made of it.
        let flags = old.map_or(self.flags(desc), |old| self.flags(desc) & !log | table.log_flag(old));
        if flags & kvm::KVM_MEM_READONLY != 0 && self.vm.capability(kvm::KVM_CAP_READONLY_MEM).unwrap_or(0) == 0 {
            return Err(unsupported("read-only memory", "a kernel that has KVM_CAP_READONLY_MEM"));
        }
        // Made first: what can fail before a number is taken need not give it back.
        let guest_memfd = self.guest_memfd(desc, whole.shown_at().size())?;
        let id = table.numbers.take().ok_or_else(|| table.no_slot_left(desc))?;
        let (log_table, by_hand) = (Arc::downgrade(&self.table), self.options.manual_clear);
        let log: Arc<dyn WriteLog> = Arc::new(KvmLog { table: log_table, region: region.id(), by_hand });
        region.storage().add_log(Arc::downgrade(&log))?;
        let entry = SlotEntry::new(&self.vm, (id, flags), whole, guest_memfd, log).map_err(|error| {
            table.numbers.give_back(id);
            refused(desc, &format!("slot {id} for"), &error)
        })?;
        table.slots.insert(desc.base(), entry);
        table.inherit(desc.base());
        Ok(())
    }

    /// Gives a region's slot a new description of the same memory.
    fn redescribe(table: &mut SlotTable, new: &RegionEntry) -> Result<()> {
        let Some(entry) = table.slots.get_mut(&new.base()) else { return Ok(()) };
        let (flags, read_only) = (entry.flags(), kvm::KVM_MEM_READONLY);
        let wanted = if is_read_only(new) { flags | read_only } else { flags & !read_only };
        if flags != wanted {
            // KVM changes a slot between read-only and writable only by deleting it and setting it anew.
            entry.suspend().map_err(|error| refused(new, "deleting the slot of", &error))?;
            if let Err(error) = entry.resume(wanted) {
                // Back to what it was, if KVM takes it; the first error is the one to tell.
                let _ = entry.resume(flags);
                return Err(refused(new, "a slot for", &error));
            }
        }
        // Also where the flags are the same: the slot is found by the description.
        entry.region = new.clone();
        Ok(())
    }

    /// Deletes the slots that are in the way and sets the new ones. KVM refuses a slot over the addresses of another (`EEXIST`), so
    /// the deletions come first; a removed region that is in nobody's way keeps its slot until `commit`.
    fn prepare_all(&self, proposal: &Proposal) -> Result<()> {
        let mut table = self.table.lock()?;
        for region in proposal.removed_before() {
            let Some(mut entry) = table.slots.remove(&region.base()) else { continue };
            let suspended = entry.suspend();
            if let Err(error) = suspended {
                table.slots.insert(region.base(), entry);
                return Err(refused(region, "deleting the slot of", &error));
            }
            // Its number stays taken, and its log in the entry: a rollback sets it again as it was.
            table.parked.push(entry);
        }
        proposal.change.replaced.iter().try_for_each(|(_, new)| Self::redescribe(&mut table, new))?;
        let added = proposal.change.added.iter().filter(|region| region.has_memory());
        added
            .filter_map(|region| proposal.mapping(region))
            .try_for_each(|region| self.add(&mut table, region, proposal.change.source_of(region.entry())))
    }

    /// Undoes as much of a prepare as was done, in reverse: what was added makes room for what was parked. The first error of it.
    fn undo(&self, proposal: &Proposal) -> Result<()> {
        let mut table = self.table.lock()?;
        let mut result = Ok(());
        for region in proposal.change.added.iter().rev() {
            // A region that was not added yet may have the base of one that is still there.
            if table.slots.get(&region.base()).is_some_and(|entry| entry.region.is(region)) {
                result = result.and(table.delete(region));
            }
        }
        for (old, _) in proposal.change.replaced.iter().rev() {
            result = result.and(Self::redescribe(&mut table, old));
        }
        while let Some(mut entry) = table.parked.pop() {
            let restored = entry.resume(entry.flags()).map_err(|error| refused(&entry.region, "a slot for", &error));
            table.slots.insert(entry.region.base(), entry);
            result = result.and(restored);
        }
        result
    }

    /// The slot number of each region, by ascending base.
    pub fn base_to_slot(&self) -> Result<Vec<(u64, u32)>> {
        Ok(self.table.lock()?.slots.iter().map(|(base, entry)| (*base, entry.id())).collect())
    }

    /// The addresses that the guest is shown, in ascending order.
    pub fn shown(&self) -> Result<Vec<Range>> {
        Ok(self.table.lock()?.slots.values().map(SlotEntry::range).collect())
    }

    /// The slot number of a region.
    pub fn slot_of(&self, region: &SharedRegion) -> Result<u32> {
        self.table.lock()?.entry(region).map(|entry| entry.id())
    }

    /// Switches the log of a region.
    pub fn set_dirty_log(&self, region: &SharedRegion, on: bool) -> Result<()> {
        self.check_process()?;
        let switched = self.table.lock()?.entry(region)?.set_logging(on);
        switched.map_err(|error| refused(region, "switching the dirty log of", &error))
    }

    /// The pages that the guest wrote, of a region or of all that are logged; cleared, they are not told again.
    pub fn dirty_log(&self, region: Option<&SharedRegion>, clear: bool) -> Result<DirtyPages> {
        self.check_process()?;
        let mut table = self.table.lock()?;
        match region {
            Some(region) if !table.entry(region)?.is_logging() => return Err(not_logged(&region.label())),
            None if !self.options.dirty_log && table.logging(None).next().is_none() => {
                return Err(not_logged("any region"));
            }
            _ => {}
        }
        let mut pages = no_pages()?;
        for entry in table.logging(region) {
            entry.harvest().map_err(|error| refused(&entry.region, "reading the dirty log of", &error))?;
            pages.push_bitmap(entry.range().base(), &entry.logged)?;
            if clear {
                entry.clear_all(self.options.manual_clear).map_err(|error| not_cleared(entry, &error))?;
            }
        }
        Ok(pages)
    }

    /// Marks pages as clean, so that only a later write makes them dirty again.
    pub fn clear_dirty_log(&self, pages: &DirtyPages) -> Result<()> {
        self.check_process()?;
        if pages.page_size() != page_size() {
            // The error of sets that can't be combined.
            no_pages()?.union(pages)?;
        }
        let by_hand = self.options.manual_clear;
        let clear = |entry: &mut SlotEntry| entry.clear(pages, by_hand).map_err(|error| not_cleared(entry, &error));
        self.table.lock()?.logging(None).try_for_each(clear)
    }

    /// Makes pages private to the guest, or shared with the host.
    pub fn set_private(&self, range: Range, private: bool) -> Result<()> {
        self.check_process()?;
        let attribute = u64::from(kvm::KVM_MEMORY_ATTRIBUTE_PRIVATE);
        let supported = self.vm.capability(kvm::KVM_CAP_MEMORY_ATTRIBUTES).unwrap_or(0);
        if supported & kvm::KVM_MEMORY_ATTRIBUTE_PRIVATE == 0 {
            return Err(unsupported("private memory", "a type of virtual machine that has it, such as SEV-SNP or TDX"));
        }
        let set = self.vm.set_attributes(range.base(), range.size(), if private { attribute } else { 0 });
        set.map_err(|error| Error::Backing {
            message: format!("KVM refused the attributes of {range}: {error}"),
            errno: Errno::from(&error),
            region: None,
        })
    }
}

impl Client for Kvm {
    fn name(&self) -> &str {
        "KVM"
    }

    fn needs_memory(&self) -> bool {
        true
    }

    fn prepare(&self, proposal: &Arc<Proposal>, _interrupt: &dyn Interrupt) -> Result<()> {
        self.prepare_all(proposal).inspect_err(|_| {
            // The error that is returned is why; a slot that KVM does not delete stays with its memory.
            let _ = self.undo(proposal);
        })
    }

    fn commit(&self, proposal: &Arc<Proposal>, _interrupt: &dyn Interrupt) -> Result<()> {
        let mut table = self.table.lock()?;
        // Only now can others have their numbers: a rollback would have set them again.
        for entry in std::mem::take(&mut table.parked) {
            table.numbers.give_back(entry.id());
        }
        for region in proposal.removed_after().filter(|region| proposal.change.shows_again(region)) {
            table.hand_over(region)?;
        }
        table.delete_all(proposal.removed_after().map(|region| &region.desc))
    }

    fn rollback(&self, proposal: &Arc<Proposal>, _interrupt: &dyn Interrupt) -> Result<()> {
        self.undo(proposal)
    }

    fn leave(&self, _interrupt: &dyn Interrupt) -> Result<()> {
        let mut table = self.table.lock()?;
        let regions: Vec<_> = table.slots.values().map(|entry| Arc::clone(&entry.region)).collect();
        table.delete_all(regions.iter())
    }
}

/// The guest's writes to it are exits; a window without any protection shows what is mapped into it.
fn is_read_only(region: &SharedRegion) -> bool {
    region.prot_flags & (PROT_READ | PROT_WRITE) == PROT_READ
}

fn not_cleared(entry: &SlotEntry, error: &io::Error) -> Error {
    refused(&entry.region, "clearing the dirty log of", error)
}

fn no_pages() -> Result<DirtyPages> {
    DirtyPages::new(page_size(), vec!["kvm".into()])
}
