//! What [`super::kvm`] knows of a machine's slots: their numbers, and what KVM has logged of each.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use super::kvm_error::refused;
use crate::memory::slot::Slot;
use crate::model::dirty::DirtyPages;
use crate::model::error::{Error, Result};
use crate::model::region::SharedRegion;
use crate::sys::kvm;

/// One region's slot, and what KVM has logged.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) slot: Slot,
    /// A bit for each page.
    pub(super) logged: Vec<u64>,
    /// Whether `logged` has pages that nobody has taken yet.
    pub(super) is_pending: bool,
}

impl Entry {
    pub(super) fn region(&self) -> &SharedRegion {
        self.slot.region().desc()
    }

    pub(super) const fn is_logging(&self) -> bool {
        self.slot.flags() & kvm::KVM_MEM_LOG_DIRTY_PAGES != 0
    }

    /// Takes over what KVM has logged.
    pub(super) fn harvest(&mut self) -> io::Result<()> {
        if !self.is_pending {
            self.slot.dirty_log(&mut self.logged)?;
            self.is_pending = true;
            return Ok(());
        }
        let mut more = Vec::new();
        self.slot.dirty_log(&mut more)?;
        self.logged.iter_mut().zip(more).for_each(|(logged, more)| *logged |= more);
        Ok(())
    }

    /// Makes pages clean: all that are pending, or those of them that are given.
    pub(super) fn clear(&mut self, pages: Option<&DirtyPages>, by_hand: bool) -> io::Result<()> {
        if !self.is_pending {
            return Ok(());
        }
        let Some(pages) = pages else {
            if by_hand && self.logged.iter().any(|word| *word != 0) {
                self.slot.clear_dirty_log(&self.logged)?;
            }
            self.is_pending = false;
            return Ok(());
        };
        let mut wanted = pages.bitmap(self.region().range);
        wanted.iter_mut().zip(&self.logged).for_each(|(wanted, logged)| *wanted &= logged);
        if by_hand && wanted.iter().any(|word| *word != 0) {
            self.slot.clear_dirty_log(&wanted)?;
        }
        self.logged.iter_mut().zip(wanted).for_each(|(logged, wanted)| *logged &= !wanted);
        Ok(())
    }

    /// Deletes the slot for a while, without losing what it logged.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        if self.is_logging() {
            self.harvest()?;
        }
        self.slot.delete()
    }
}

/// Slot numbers, given out lowest first.
#[derive(Debug)]
pub(super) struct Numbers {
    pub(super) next: u32,
    pub(super) end: u32,
    pub(super) returned: BTreeSet<u32>,
}

impl Numbers {
    pub(super) fn take(&mut self) -> Option<u32> {
        self.returned.pop_first().or_else(|| {
            let number = self.next;
            self.next = number.checked_add(1).filter(|_| number < self.end)?;
            Some(number)
        })
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) slots: BTreeMap<u64, Entry>,
    /// Slots that made way for others in the change under way.
    pub(super) parked: Vec<Entry>,
    /// Slots that could not be deleted, and keep their memory.
    pub(super) stuck: Vec<Slot>,
    pub(super) numbers: Numbers,
}

impl State {
    pub(super) fn entry(&mut self, region: &SharedRegion) -> Result<&mut Entry> {
        let entry = self.slots.get_mut(&region.base()).filter(|entry| entry.region() == region);
        entry.ok_or_else(|| Error::Unmapped {
            message: format!("{region} has no memory slot"),
            address: Some(region.base()),
            size: Some(region.size()),
            region: Some(Arc::clone(region)),
        })
    }

    pub(super) fn logging(&mut self, region: Option<&SharedRegion>) -> impl Iterator<Item = &mut Entry> {
        let wanted =
            move |entry: &&mut Entry| entry.is_logging() && region.is_none_or(|region| entry.region() == region);
        self.slots.values_mut().filter(wanted)
    }

    /// Deletes the slots of regions, each whatever becomes of the others; the first error.
    pub(super) fn delete_all<'a>(&mut self, regions: impl Iterator<Item = &'a SharedRegion>) -> Result<()> {
        let mut result = Ok(());
        for region in regions {
            result = result.and(self.delete(region));
        }
        result
    }

    /// Deletes a region's slot; when KVM refuses, it stays with its memory, out of the table.
    pub(super) fn delete(&mut self, region: &SharedRegion) -> Result<()> {
        let Some(mut entry) = self.slots.remove(&region.base()) else { return Ok(()) };
        match entry.slot.delete() {
            Ok(()) => {
                self.numbers.returned.insert(entry.slot.id());
                Ok(())
            }
            Err(error) => {
                let refused = refused(region, &format!("deleting slot {} of", entry.slot.id()), &error);
                self.stuck.push(entry.slot);
                Err(refused)
            }
        }
    }
}
