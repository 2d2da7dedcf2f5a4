//! KVM: memory slots of a virtual machine for runs of regions that show the bytes of one memory.
//!
//! The machine belongs to whoever made it; this keeps a duplicate of its descriptor. A slot is set before a region is published and
//! deleted before its memory goes. A region that is cut, joined or renamed keeps its slot, and one that moves to a free range takes it along. Where a
//! removed region is in the way of an added one, or part of a slot becomes read-only or writable, KVM wants the old slot deleted first: for that moment
//! the guest finds nothing there, so its processors must be paused, which [`Quiesce`] does.

mod dirty_log;
mod error;
mod log;
mod shown;
mod slot;
mod table;

use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

use self::error::{not_a_machine, refused, unsupported};
use self::log::KvmLog;
use self::shown::{is_reachable, is_read_only, run_of};
use self::slot::SlotEntry;
use self::table::{SlotNumbers, SlotTable};
use super::partial_pages::PartialPages;
use crate::memory::dirty::WriteLog;
use crate::memory::region::MappedRegion;
use crate::model::error::{Errno, Error, Result};
use crate::model::interrupt::Interrupt;
use crate::model::invalid::Invalid;
use crate::model::range::{Range, joined};
use crate::model::region::{RegionType, SharedRegion};
use crate::model::runs::{self, Run, SlotChanges};
use crate::space::client::Client;
use crate::space::proposal::Proposal;
use crate::sys::host::page_size;
use crate::sys::kvm::{self, Vm};
use crate::sys::lock::Lock;
use crate::sys::once::Once;
use crate::sys::sync::{AtomicBool, Ordering};

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
    /// Give each slot of RAM a guest_memfd for its private pages.
    pub guest_memfd: bool,
    /// The treatment of regions that begin or end inside a page.
    pub partial_pages: PartialPages,
    /// The most bytes a slot, which is cut at multiples of it from the start of its memory on; whole pages.
    pub slot_size: Option<u64>,
}

/// Holds the guest's processors while a slot makes way for others.
pub trait Quiesce: Send + Sync {
    /// They stop; an error refuses the change.
    fn enter(&self) -> Result<()>;

    /// They go on.
    fn leave(&self) -> Result<()>;
}

/// The memory slots of a virtual machine.
#[allow(missing_debug_implementations, reason = "has a caller's trait object")]
pub struct Kvm {
    vm: Arc<Vm>,
    options: KvmOptions,
    quiesce: Once<Box<dyn Quiesce>>,
    /// Whether the processors are held by the change under way.
    is_quiet: AtomicBool,
    table: Arc<Lock<SlotTable>>,
}

impl Kvm {
    /// Looks at a virtual machine; its slots are set when it is subscribed.
    pub fn new(vm_fd: RawFd, options: KvmOptions) -> Result<Self> {
        if options.slot_size.is_some_and(|size| size == 0 || !size.is_multiple_of(page_size())) {
            return Err(Invalid::number("slot_size is a multiple of the page size, above 0").into());
        }
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
        Ok(Self {
            vm: Arc::new(vm),
            options,
            quiesce: Once::new(),
            is_quiet: AtomicBool::new(false),
            table: Arc::new(Lock::new(SlotTable::new(numbers))),
        })
    }

    /// Has the guest's processors held while a slot makes way.
    pub fn hold_by(&self, quiesce: Box<dyn Quiesce>) {
        self.quiesce.get_or_init(|| quiesce);
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

    const fn log_flag(&self) -> u32 {
        if self.options.dirty_log { kvm::KVM_MEM_LOG_DIRTY_PAGES } else { 0 }
    }

    fn guest_memfd(&self, memory: &MappedRegion, size: u64) -> Result<Option<OwnedFd>> {
        let is_ram = memory.desc().region_type == RegionType::DefaultMemory;
        if !self.options.guest_memfd || !is_ram || is_read_only(memory.desc()) {
            return Ok(None);
        }
        let created = self.vm.create_guest_memfd(size);
        created.map(Some).map_err(|error| refused(memory.desc(), "a guest_memfd for", &error))
    }

    fn add(&self, table: &mut SlotTable, run: &Run) -> Result<()> {
        let Some(memory) = table.memory_of(run) else { return Ok(()) };
        let desc = Arc::clone(memory.desc());
        if run.flags & kvm::KVM_MEM_READONLY != 0 && self.vm.capability(kvm::KVM_CAP_READONLY_MEM).unwrap_or(0) == 0 {
            return Err(unsupported("read-only memory", "a kernel that has KVM_CAP_READONLY_MEM"));
        }
        // The private pages of a slot are its own: no other shows them.
        let mut others = table.slots.values().chain(&table.under_way.parked);
        if self.options.guest_memfd && others.any(|other| other.run().shares_bytes(run)) {
            let how = "a machine without guest_memfd=True";
            return Err(unsupported("bytes that are seen twice, moved or protected in part", how));
        }
        // Made first: what can fail before a number is taken need not give it back.
        let guest_memfd = self.guest_memfd(&memory, run.guest.size())?;
        let id = table.numbers.take().ok_or_else(|| table.no_slot_left(&desc))?;
        let (log_table, by_hand) = (Arc::downgrade(&self.table), self.options.manual_clear);
        let log: Arc<dyn WriteLog> = Arc::new(KvmLog { table: log_table, slot: id, by_hand });
        let logged = memory.storage().add_log(Arc::downgrade(&log));
        logged.inspect_err(|_| table.numbers.give_back(id))?;
        let entry = SlotEntry::new(&self.vm, (id, run.flags), memory, guest_memfd, log).map_err(|error| {
            table.numbers.give_back(id);
            refused(&desc, &format!("slot {id} for"), &error)
        })?;
        table.slots.insert(run.guest.base(), entry);
        table.under_way.added.push(run.guest.base());
        table.inherit(run.guest.base());
        Ok(())
    }

    /// The slots that a change may concern, and the runs of what is shown at their addresses and at new ones.
    fn concerned(&self, table: &SlotTable, proposal: &Proposal) -> (Vec<Run>, Vec<Run>) {
        let change = &proposal.change;
        let new = || change.added.iter().chain(change.replaced.iter().map(|(_, new)| new));
        let old = change.removed.iter().chain(change.replaced.iter().map(|(old, _)| old));
        let mut bases: Vec<u64> = old.flat_map(|region| table.slots_at(region.range)).collect();
        bases.sort_unstable();
        bases.dedup();
        let slots: Vec<Run> = bases.iter().filter_map(|base| table.slots.get(base)).map(SlotEntry::run).collect();
        let mut ranges: Vec<Range> =
            slots.iter().map(|slot| slot.guest).chain(new().map(|region| region.range)).collect();
        ranges.sort_unstable();
        let ranges = joined(ranges);
        let mut windows: Vec<_> = ranges.iter().flat_map(|range| table.windows_at(*range)).collect();
        windows.sort_unstable_by_key(|window| window.range().base());
        windows.dedup_by_key(|window| window.range().base());
        let log = kvm::KVM_MEM_LOG_DIRTY_PAGES;
        let shown = windows.iter().flat_map(|window| runs::flagged(run_of(window), &slots, log, self.log_flag()));
        // A window may reach into slots that stay as they are.
        let shown = runs::joined(shown.flat_map(|run| run.within(&ranges)).collect());
        (slots, shown)
    }

    fn changes(&self, table: &SlotTable, proposal: &Proposal) -> (Vec<Run>, SlotChanges) {
        let (slots, shown) = self.concerned(table, proposal);
        let moves: Vec<_> = proposal.change.moved().map(|(old, new)| (old.range, new.base())).collect();
        let changes = runs::changes(&slots, &shown, &moves, self.options.slot_size);
        (slots, changes)
    }

    /// Deletes the slots that are in the way, moves others and sets the new ones. KVM refuses a slot over the addresses of another
    /// (`EEXIST`), so the deletions come first; a slot that is in nobody's way stays until `commit`.
    fn prepare_all(&self, proposal: &Proposal) -> Result<()> {
        let opens = {
            let mut table = self.table.lock()?;
            self.show(&mut table, proposal)?;
            !self.changes(&table, proposal).1.deleted_before.is_empty()
        };
        if opens {
            self.hold()?;
            self.is_quiet.store(true, Ordering::Relaxed);
        }
        let mut table = self.table.lock()?;
        // Anew: a log may have been switched meanwhile, which cuts slots.
        let (slots, changes) = self.changes(&table, proposal);
        self.apply(&mut table, &changes)?;
        table.rename(&slots);
        Ok(())
    }

    /// Does what has to be done before a publication.
    fn apply(&self, table: &mut SlotTable, changes: &SlotChanges) -> Result<()> {
        changes.deleted_before.iter().try_for_each(|base| table.park(*base))?;
        for (from, to) in &changes.moved {
            table.relocate(*from, *to)?;
            table.under_way.moved.push((*from, *to));
        }
        changes.added.iter().try_for_each(|run| self.add(table, run))?;
        table.under_way.leaving.clone_from(&changes.deleted_after);
        Ok(())
    }

    /// The processors stop. Called without the table's lock: what is called may look at the slots.
    fn hold(&self) -> Result<()> {
        self.quiesce.get().map_or(Ok(()), |quiesce| quiesce.enter())
    }

    fn release(&self) -> Result<()> {
        self.quiesce.get().map_or(Ok(()), |quiesce| quiesce.leave())
    }

    /// The processors go on, if the change holds them.
    fn resume(&self) -> Result<()> {
        if self.is_quiet.swap(false, Ordering::Relaxed) { self.release() } else { Ok(()) }
    }

    /// Brings the windows of the table to what they are behind a change: whole pages each.
    fn show(&self, table: &mut SlotTable, proposal: &Proposal) -> Result<()> {
        let change = &proposal.change;
        table.forget(change.removed.iter().chain(change.replaced.iter().map(|(old, _)| old)));
        let new = change.added.iter().chain(change.replaced.iter().map(|(_, new)| new));
        for mapped in new.filter_map(|region| proposal.mapping(region)).filter(|mapped| is_reachable(mapped.desc())) {
            if let Some(whole) = self.options.partial_pages.of(mapped, "KVM")? {
                table.windows.insert(mapped.range().base(), Arc::new(whole));
            }
        }
        Ok(())
    }

    /// Brings them to what they were before it.
    fn hide(&self, table: &mut SlotTable, proposal: &Proposal) {
        let change = &proposal.change;
        table.forget(change.added.iter().chain(change.replaced.iter().map(|(_, new)| new)));
        let old = change.removed.iter().chain(change.replaced.iter().map(|(old, _)| old));
        let before = old.filter_map(|region| proposal.mapping_before(region));
        for mapped in before.filter(|mapped| is_reachable(mapped.desc())) {
            // It was taken when it came.
            if let Ok(Some(whole)) = self.options.partial_pages.of(mapped, "KVM") {
                table.windows.insert(mapped.range().base(), Arc::new(whole));
            }
        }
    }

    /// Undoes as much of a prepare as was done. The first error of it.
    fn undo(&self, proposal: &Proposal) -> Result<()> {
        let undone = {
            let mut table = self.table.lock()?;
            self.hide(&mut table, proposal);
            table.undo()
        };
        undone.and(self.resume())
    }

    /// The slot number of each region, by ascending base.
    pub fn base_to_slot(&self) -> Result<Vec<(u64, u32)>> {
        let table = self.table.lock()?;
        let slot_at = |window: &Arc<MappedRegion>| {
            let base = *table.slots_at(window.shown_at()).first()?;
            Some((window.range().base(), table.slots.get(&base)?.id()))
        };
        Ok(table.windows.values().filter_map(slot_at).collect())
    }

    /// The addresses that the guest is shown, in ascending order.
    pub fn shown(&self) -> Result<Vec<Range>> {
        Ok(self.table.lock()?.slots.values().map(SlotEntry::range).collect())
    }

    /// The slot number of a region; of several, that of its first byte.
    pub fn slot_of(&self, region: &SharedRegion) -> Result<u32> {
        let mut table = self.table.lock()?;
        let first = table.slots_of(region)?.first().copied().unwrap_or_default();
        table.slot(first).map(|entry| entry.id())
    }

    /// How often a slot made way for others, so that the guest found nothing for a moment where memory was and is.
    pub fn windows(&self) -> Result<u64> {
        Ok(self.table.lock()?.windows_opened)
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

    fn commit(&self, _proposal: &Arc<Proposal>, _interrupt: &dyn Interrupt) -> Result<()> {
        let settled = self.table.lock()?.settle();
        settled.and(self.resume())
    }

    fn rollback(&self, proposal: &Arc<Proposal>, _interrupt: &dyn Interrupt) -> Result<()> {
        self.undo(proposal)
    }

    fn leave(&self, _interrupt: &dyn Interrupt) -> Result<()> {
        let mut table = self.table.lock()?;
        let slots: Vec<u64> = table.slots.keys().copied().collect();
        table.windows.clear();
        table.delete_all(slots)
    }
}
