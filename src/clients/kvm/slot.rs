//! A slot, with what KVM has logged of it.

use std::io::{ErrorKind, Result};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::memory::dirty::WriteLog;
use crate::memory::region::MappedRegion;
use crate::model::dirty::DirtyPages;
use crate::model::int::usize_of;
use crate::model::journal::{self, Level};
use crate::model::range::Range;
use crate::model::region::SharedRegion;
use crate::model::runs::Run;
use crate::sys::host::page_size;
use crate::sys::kvm::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, Vm};
use crate::sys::kvm_slot::Slot;

/// Pages a word of a log.
const WORD: u64 = 64;

/// The word of a page in a log that begins at a byte, and its bit there.
fn bit_of(byte: u64, start: u64) -> (usize, u64) {
    let page = byte.abs_diff(start).checked_div(page_size()).unwrap_or_default();
    (usize_of(page / WORD), 1 << (page % WORD))
}

/// The slot of a run, and what KVM has logged.
#[derive(Debug)]
pub(super) struct SlotEntry {
    slot: Slot,
    /// The first region that it shows, as it is described now.
    pub(super) region: SharedRegion,
    /// A bit for each page that the guest wrote.
    logged: Vec<u64>,
    /// Whether `logged` has pages that are not cleared yet.
    is_pending: bool,
    /// Whose memory it is: others who follow the guest's writes are told of what is read from the log.
    memory: Arc<MappedRegion>,
    /// For those who ask by themselves.
    _log: Arc<dyn WriteLog>,
}

impl SlotEntry {
    /// Sets a slot for whole pages.
    pub(super) fn new(
        vm: &Arc<Vm>,
        (id, flags): (u32, u32),
        memory: MappedRegion,
        guest_memfd: Option<OwnedFd>,
        log: Arc<dyn WriteLog>,
    ) -> Result<Self> {
        // Kept without a lease, as a participant of the change may: the slot is deleted when the region goes.
        let (region, memory) = (Arc::clone(memory.desc()), Arc::new(memory));
        let bytes: Arc<MappedRegion> = Arc::clone(&memory);
        let slot = Slot::new(vm, (id, flags), memory.shown_at().base(), bytes, guest_memfd)?;
        journal::note(Level::Debug, || format!("KVM slot {id} shows {region}, with flags {flags:#x}"));
        Ok(Self { slot, region, logged: Vec::new(), is_pending: false, memory, _log: log })
    }

    /// The slot's number.
    pub(super) const fn id(&self) -> u32 {
        self.slot.id()
    }

    /// `KVM_MEM_*`.
    pub(super) const fn flags(&self) -> u32 {
        self.slot.flags()
    }

    pub(super) const fn is_logging(&self) -> bool {
        self.flags() & KVM_MEM_LOG_DIRTY_PAGES != 0
    }

    /// The run that it shows, with the flags that matter.
    pub(super) fn run(&self) -> Run {
        let part = self.memory.window().shown();
        let flags = self.flags() & (KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY);
        Run { guest: self.range(), storage: self.memory.storage().id(), at: part.base(), flags }
    }

    /// The guest physical addresses.
    pub(super) const fn range(&self) -> Range {
        Range::at(self.slot.base(), self.slot.size())
    }

    /// Shows it from another address on; the log stays.
    pub(super) fn relocate(&mut self, base: u64) -> Result<()> {
        self.slot.relocate(base)
    }

    /// Switches the log while the slot stays; what was logged is forgotten.
    pub(super) fn set_logging(&mut self, on: bool) -> Result<()> {
        if on != self.is_logging() {
            if self.is_logging() {
                // For those who follow the guest; for the machine's owner it is forgotten.
                self.harvest()?;
            }
            self.slot.set(self.flags() ^ KVM_MEM_LOG_DIRTY_PAGES)?;
            self.is_pending = false;
        }
        Ok(())
    }

    /// Deletes the slot, to set it again with other flags or to make way, without losing what it logged.
    pub(super) fn suspend(&mut self) -> Result<()> {
        // KVM throws the log away with the slot.
        if self.is_logging() {
            self.harvest()?;
        }
        self.slot.delete()
    }

    /// Sets the slot again, with flags.
    pub(super) fn resume(&mut self, flags: u32) -> Result<()> {
        self.slot.set(flags)
    }

    /// Deletes the slot and its log.
    pub(super) fn delete(&mut self) -> Result<()> {
        if self.is_logging() {
            // For those who follow the guest. Without it the slot must go all the same.
            let _ = self.harvest();
        }
        journal::note(Level::Debug, || format!("KVM slot {} shows {} no more", self.id(), self.region));
        self.slot.delete()
    }

    /// Adds what KVM has logged since the last time to `logged`.
    pub(super) fn harvest(&mut self) -> Result<()> {
        // KVM clears its log as it is read, unless that is done by hand: a page that nobody has cleared stays in ours.
        let more = self.slot.dirty_log()?;
        self.memory.note_guest_writes(&more)?;
        if !self.is_pending {
            self.logged = more;
            self.is_pending = true;
            return Ok(());
        }
        self.logged.iter_mut().zip(more).for_each(|(logged, more)| *logged |= more);
        Ok(())
    }

    /// Takes over what another slot has logged of bytes that both show.
    pub(super) fn take_over(&mut self, other: &Self) {
        let (mine, theirs) = (self.run().bytes(), other.run().bytes());
        let bytes = mine.intersection(&theirs);
        if !self.run().shares_bytes(&other.run()) || !other.is_pending || !self.is_logging() {
            return;
        }
        if !self.is_pending {
            self.logged = vec![0; usize_of(mine.size().div_ceil(page_size()).div_ceil(WORD))];
            self.is_pending = true;
        }
        let pages = (bytes.base()..bytes.end()).step_by(usize_of(page_size()));
        for page in pages {
            let (from, to) = (bit_of(page, theirs.base()), bit_of(page, mine.base()));
            let is_dirty = other.logged.get(from.0).is_some_and(|word| word & from.1 != 0);
            if let Some(word) = self.logged.get_mut(to.0).filter(|_| is_dirty) {
                *word |= to.1;
            }
        }
    }

    /// The pages that the guest wrote at some addresses, of what was harvested: a bit for each of the slot.
    pub(super) fn written(&self, range: Range) -> Vec<u64> {
        let (slot, mut written) = (self.range(), self.logged.clone());
        if !range.covers(&slot) {
            let pages = (slot.base()..slot.end()).step_by(usize_of(page_size()));
            for (word, bit) in pages.filter(|page| !range.contains(*page)).map(|page| bit_of(page, slot.base())) {
                written.get_mut(word).into_iter().for_each(|word| *word &= !bit);
            }
        }
        written
    }

    /// Makes all pages clean; `by_hand` when KVM does not do it as its log is read.
    pub(super) fn clear_all(&mut self, by_hand: bool) -> Result<()> {
        if by_hand && self.is_pending {
            self.clear_by_hand(&self.logged)?;
        }
        self.is_pending = false;
        Ok(())
    }

    /// Brings what the guest wrote up to now to those who follow it. What is logged for the machine's owner stays.
    pub(super) fn sync(&mut self, by_hand: bool) -> Result<()> {
        self.harvest()?;
        if by_hand { self.clear_by_hand(&self.logged) } else { Ok(()) }
    }

    /// Brings what the guest wrote up to now to those who follow it; it stays in KVM's log, and for the machine's owner nothing changes.
    pub(super) fn look(&mut self) -> Result<()> {
        Ok(self.memory.note_guest_writes(&self.slot.dirty_log()?)?)
    }

    /// Makes the pages of a part of the storage clean for KVM, after the owner of the machine has them: whoever asks looks at them behind it.
    pub(super) fn forget(&mut self, part: Range) -> Result<()> {
        self.harvest()?;
        // Of a region of several slots, those of this one.
        let (base, seen) = (self.range().base(), self.memory.window().guest_of(part).intersection(&self.range()));
        let mut pages = vec![0; self.logged.len()];
        for page in (seen.base()..seen.end()).step_by(usize_of(page_size())) {
            let (word, bit) = bit_of(page, base);
            if let Some(word) = pages.get_mut(word) {
                *word |= bit;
            }
        }
        self.slot.clear_dirty_log(&pages)
    }

    fn clear_by_hand(&self, pages: &[u64]) -> Result<()> {
        if pages.iter().all(|word| *word == 0) {
            return Ok(());
        }
        self.slot.clear_dirty_log(pages)?;
        // Once more: a page that the guest wrote again since the log was read has just been cleared unseen.
        Ok(self.memory.note_guest_writes(pages)?)
    }

    /// Makes those of the pages clean that were harvested: KVM must not be told to forget one that nobody has seen.
    pub(super) fn clear(&mut self, pages: &DirtyPages, by_hand: bool) -> Result<()> {
        if !self.is_pending {
            return Ok(());
        }
        let mut cleared = pages.bitmap(self.range()).map_err(|_| ErrorKind::OutOfMemory)?;
        cleared.iter_mut().zip(&self.logged).for_each(|(cleared, logged)| *cleared &= logged);
        if by_hand {
            self.clear_by_hand(&cleared)?;
        }
        self.logged.iter_mut().zip(cleared).for_each(|(logged, cleared)| *logged &= !cleared);
        Ok(())
    }
}
