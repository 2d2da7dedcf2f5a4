//! KVM: a memory slot of a virtual machine for each region with memory.
//!
//! The machine belongs to whoever made it; this keeps a duplicate of its descriptor. A slot is set before a region is published and
//! deleted before its memory goes. Where a removed region is in the way of an added one, or a region becomes read-only or writable,
//! KVM wants the old slot deleted first: for that moment the guest finds nothing there, so its processors must be paused.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::kvm_error::refused;
use super::kvm_table::{Entry, Numbers, State};
use crate::memory::region::MappedRegion;
use crate::memory::slot::Slot;
use crate::model::dirty::DirtyPages;
use crate::model::error::{Errno, Error, Result};
use crate::model::range::Range;
use crate::model::region::{PROT_READ, PROT_WRITE, SharedRegion};
use crate::space::client::Client;
use crate::space::proposal::Proposal;
use crate::sys::huge::page_size;
use crate::sys::kvm::{self, Vm};

const ENOSPC: i32 = 28;

/// How a virtual machine is attached.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
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
}

/// The memory slots of a virtual machine.
#[derive(Debug)]
pub struct Kvm {
    vm: Arc<Vm>,
    options: Options,
    state: Mutex<State>,
}

impl Kvm {
    /// Looks at a virtual machine; its slots are set when it is subscribed.
    pub fn new(vm_fd: RawFd, options: Options) -> Result<Self> {
        let vm = Vm::of(vm_fd).map_err(|error| no_machine(vm_fd, &error))?;
        let asked = |capability| vm.capability(capability).map_err(|error| no_machine(vm_fd, &error));
        let limit = asked(kvm::KVM_CAP_NR_MEMSLOTS)?;
        if options.guest_memfd && (asked(kvm::KVM_CAP_GUEST_MEMFD)? == 0 || asked(kvm::KVM_CAP_USER_MEMORY2)? == 0) {
            return Err(unsupported("guest_memfd", "a kernel and a type of virtual machine that have it"));
        }
        if options.manual_clear {
            vm.enable(kvm::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 1)
                .map_err(|_| unsupported("manual_clear", "a kernel that has KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2"))?;
        }
        let end = options.max_slots.map_or(limit, |most| limit.min(options.first_slot.saturating_add(most)));
        let numbers = Numbers { next: options.first_slot, end, returned: BTreeSet::new() };
        let state = State { slots: BTreeMap::new(), parked: Vec::new(), stuck: Vec::new(), numbers };
        Ok(Self { vm: Arc::new(vm), options, state: Mutex::new(state) })
    }

    /// Whether both are attached to one virtual machine, as far as the kernel tells.
    #[must_use]
    pub fn is_same_machine(&self, other: &Self) -> bool {
        self.vm.is_same(&other.vm)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_process(&self) -> Result<()> {
        if self.vm.is_ours() { Ok(()) } else { Err(Error::Forked) }
    }

    fn flags(&self, region: &SharedRegion) -> u32 {
        let log = if self.options.dirty_log { kvm::KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        if is_read_only(region) { log | kvm::KVM_MEM_READONLY } else { log }
    }

    fn guest_memfd(&self, region: &SharedRegion) -> Result<Option<OwnedFd>> {
        let is_ram = region.region_type == crate::model::region::RegionType::DefaultMemory;
        if !self.options.guest_memfd || !is_ram || is_read_only(region) {
            return Ok(None);
        }
        let created = self.vm.create_guest_memfd(region.size());
        created.map(Some).map_err(|error| refused(region, "a guest_memfd for", &error))
    }

    fn add(&self, state: &mut State, region: &Arc<MappedRegion>) -> Result<()> {
        let desc = &region.desc;
        let flags = self.flags(desc);
        if flags & kvm::KVM_MEM_READONLY != 0 && self.vm.capability(kvm::KVM_CAP_READONLY_MEM).unwrap_or(0) == 0 {
            return Err(unsupported("read-only memory", "a kernel that has KVM_CAP_READONLY_MEM"));
        }
        let guest_memfd = self.guest_memfd(desc)?;
        let id = state.numbers.take().ok_or_else(|| self.no_slot_left(desc, state))?;
        match Slot::new(&self.vm, id, flags, region, guest_memfd) {
            Ok(slot) => {
                state.slots.insert(desc.base(), Entry { slot, logged: Vec::new(), is_pending: false });
                Ok(())
            }
            Err(error) => {
                state.numbers.returned.insert(id);
                Err(refused(desc, &format!("slot {id} for"), &error))
            }
        }
    }

    fn no_slot_left(&self, region: &SharedRegion, state: &State) -> Error {
        let message = format!(
            "no memory slot is left for {region}: the {} from number {} to {} are in use",
            state.slots.len().saturating_add(state.parked.len()).saturating_add(state.stuck.len()),
            self.options.first_slot,
            state.numbers.end.saturating_sub(1)
        );
        Error::Backing { message, errno: Errno::Refused(ENOSPC), region: Some(Arc::clone(region)) }
    }

    fn redescribe(&self, state: &mut State, proposal: &Proposal, new: &SharedRegion) -> Result<()> {
        let (Some(entry), Some(region)) = (state.slots.get_mut(&new.base()), proposal.mapping(new)) else {
            return Ok(());
        };
        let (flags, read_only) = (entry.slot.flags(), kvm::KVM_MEM_READONLY);
        let wanted = if is_read_only(new) { flags | read_only } else { flags & !read_only };
        if flags != wanted {
            entry.suspend().map_err(|error| refused(new, "deleting the slot of", &error))?;
            if let Err(error) = entry.slot.set(wanted) {
                let _ = entry.slot.set(flags);
                return Err(refused(new, "a slot for", &error));
            }
        }
        entry.slot.describe(region);
        Ok(())
    }

    fn prepare_all(&self, proposal: &Proposal) -> Result<()> {
        let mut state = self.state();
        for region in proposal.removed_before() {
            if let Some(mut entry) = state.slots.remove(&region.base()) {
                let suspended = entry.suspend();
                match suspended {
                    Ok(()) => state.parked.push(entry),
                    Err(error) => {
                        state.slots.insert(region.base(), entry);
                        return Err(refused(region, "deleting the slot of", &error));
                    }
                }
            }
        }
        for (_, new) in &proposal.change.replaced {
            self.redescribe(&mut state, proposal, new)?;
        }
        let added = proposal.change.added.iter().filter(|region| region.has_memory());
        added.filter_map(|region| proposal.mapping(region)).try_for_each(|region| self.add(&mut state, region))
    }

    /// Undoes as much of a prepare as was done; the first error of it.
    fn undo(&self, proposal: &Proposal) -> Result<()> {
        let mut state = self.state();
        let mut result = Ok(());
        for region in proposal.change.added.iter().rev() {
            if state.slots.get(&region.base()).is_some_and(|entry| Arc::ptr_eq(entry.region(), region)) {
                result = result.and(state.delete(region));
            }
        }
        for (old, _) in proposal.change.replaced.iter().rev() {
            result = result.and(self.redescribe(&mut state, proposal, old));
        }
        while let Some(mut entry) = state.parked.pop() {
            let flags = entry.slot.flags();
            let restored = entry.slot.set(flags).map_err(|error| refused(entry.region(), "a slot for", &error));
            state.slots.insert(entry.region().base(), entry);
            result = result.and(restored);
        }
        result
    }

    /// The slot number of each region, by ascending base.
    #[must_use]
    pub fn base_to_slot(&self) -> Vec<(u64, u32)> {
        self.state().slots.iter().map(|(base, entry)| (*base, entry.slot.id())).collect()
    }

    /// The slot number of a region.
    pub fn slot_of(&self, region: &SharedRegion) -> Result<u32> {
        self.state().entry(region).map(|entry| entry.slot.id())
    }

    /// Switches the log of a region.
    pub fn set_dirty_log(&self, region: &SharedRegion, on: bool) -> Result<()> {
        self.check_process()?;
        let mut state = self.state();
        let entry = state.entry(region)?;
        let log = kvm::KVM_MEM_LOG_DIRTY_PAGES;
        let flags = if on { entry.slot.flags() | log } else { entry.slot.flags() & !log };
        if flags == entry.slot.flags() {
            return Ok(());
        }
        entry.slot.set(flags).map_err(|error| refused(region, "switching the dirty log of", &error))?;
        entry.is_pending = false;
        Ok(())
    }

    /// The pages that the guest wrote, of a region or of all that are logged; cleared, they are not told again.
    pub fn dirty_log(&self, region: Option<&SharedRegion>, clear: bool) -> Result<DirtyPages> {
        self.check_process()?;
        let mut state = self.state();
        match region {
            Some(region) => check_logging(state.entry(region)?)?,
            None if !self.options.dirty_log && state.logging(None).next().is_none() => {
                return Err(no_log("any region"));
            }
            None => {}
        }
        let mut pages = no_pages()?;
        for entry in state.logging(region) {
            entry.harvest().map_err(|error| refused(entry.region(), "reading the dirty log of", &error))?;
            pages.push_bitmap(entry.region().base(), &entry.logged);
            if clear {
                self.clear(entry, None)?;
            }
        }
        Ok(pages)
    }

    /// Marks pages as clean, so that only a later write makes them dirty again.
    pub fn clear_dirty_log(&self, pages: &DirtyPages) -> Result<()> {
        self.check_process()?;
        if pages.page_size() != page_size() {
            no_pages()?.union(pages)?;
        }
        self.state().logging(None).try_for_each(|entry| self.clear(entry, Some(pages)))
    }

    fn clear(&self, entry: &mut Entry, pages: Option<&DirtyPages>) -> Result<()> {
        let cleared = entry.clear(pages, self.options.manual_clear);
        cleared.map_err(|error| refused(entry.region(), "clearing the dirty log of", &error))
    }

    /// Makes pages private to the guest, or shared with the host.
    pub fn set_private(&self, range: Range, private: bool) -> Result<()> {
        self.check_process()?;
        let attribute = kvm::KVM_MEMORY_ATTRIBUTE_PRIVATE;
        let supported = self.vm.capability(kvm::KVM_CAP_MEMORY_ATTRIBUTES).unwrap_or(0);
        if u64::from(supported) & attribute == 0 {
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

    fn prepare(&self, proposal: &Arc<Proposal>) -> Result<()> {
        self.prepare_all(proposal).inspect_err(|_| {
            // The error that is returned is why; what was set is deleted, or stays with its memory.
            let _ = self.undo(proposal);
        })
    }

    fn commit(&self, proposal: &Arc<Proposal>) -> Result<()> {
        let mut state = self.state();
        for entry in std::mem::take(&mut state.parked) {
            state.numbers.returned.insert(entry.slot.id());
        }
        state.delete_all(proposal.removed_after())
    }

    fn rollback(&self, proposal: &Arc<Proposal>) -> Result<()> {
        self.undo(proposal)
    }

    fn leave(&self) -> Result<()> {
        let mut state = self.state();
        let regions: Vec<_> = state.slots.values().map(|entry| Arc::clone(entry.region())).collect();
        state.delete_all(regions.iter())
    }
}

/// Writes to it are exits; a window without any protection shows what is mapped into it.
fn is_read_only(region: &SharedRegion) -> bool {
    region.prot_flags & (PROT_READ | PROT_WRITE) == PROT_READ
}

fn no_pages() -> Result<DirtyPages> {
    DirtyPages::new(page_size(), vec!["kvm".into()])
}

fn check_logging(entry: &Entry) -> Result<()> {
    if entry.is_logging() {
        return Ok(());
    }
    Err(no_log(&entry.region().label()))
}

fn no_log(what: &str) -> Error {
    let how = String::from("call set_dirty_log(region, True), or attach with dirty_log=True");
    let message = format!("the guest's writes to {what} are not logged: {how}");
    Error::Unsupported { message, feature: "dirty log", how, region: None }
}

fn no_machine(vm_fd: RawFd, error: &io::Error) -> Error {
    let message = format!("file descriptor {vm_fd} is not a KVM virtual machine (KVM_CREATE_VM makes one): {error}");
    Error::Backing { message, errno: Errno::from(error), region: None }
}

fn unsupported(feature: &'static str, how: &str) -> Error {
    let message = format!("the virtual machine has no {feature}: it needs {how}");
    Error::Unsupported { message, feature, how: how.into(), region: None }
}
