//! The slots of a machine, by the base of their regions, and the numbers that are left.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::error::refused;
use super::slot::SlotEntry;
use crate::model::error::{Errno, Error, Result};
use crate::model::region::SharedRegion;
use crate::model::region_map::RegionEntry;
use crate::sys::errno::ENOSPC;
use crate::sys::kvm::KVM_MEM_LOG_DIRTY_PAGES;

/// Slot numbers, given out lowest first.
#[derive(Debug)]
pub(super) struct SlotNumbers {
    all: Range<u32>,
    unused: Range<u32>,
    returned: BTreeSet<u32>,
}

impl SlotNumbers {
    pub(super) const fn new(first: u32, end: u32) -> Self {
        Self { all: first..end, unused: first..end, returned: BTreeSet::new() }
    }

    /// The lowest number that is free.
    pub(super) fn take(&mut self) -> Option<u32> {
        self.returned.pop_first().or_else(|| self.unused.next())
    }

    pub(super) fn give_back(&mut self, number: u32) {
        self.returned.insert(number);
    }
}

/// The slots that KVM has, or had a moment ago.
#[derive(Debug)]
pub(super) struct SlotTable {
    pub(super) slots: BTreeMap<u64, SlotEntry>,
    /// Those that made way for others in the change under way.
    pub(super) parked: Vec<SlotEntry>,
    /// Those that KVM did not delete: they keep their numbers and their memory.
    stuck: Vec<SlotEntry>,
    pub(super) numbers: SlotNumbers,
}

impl SlotTable {
    pub(super) const fn new(numbers: SlotNumbers) -> Self {
        Self { slots: BTreeMap::new(), parked: Vec::new(), stuck: Vec::new(), numbers }
    }

    /// The slot of a region.
    pub(super) fn entry(&mut self, region: &SharedRegion) -> Result<&mut SlotEntry> {
        let entry = self.slots.get_mut(&region.base()).filter(|entry| entry.region.desc == *region);
        entry.ok_or_else(|| Error::Unmapped {
            message: format!("{region} has no memory slot"),
            address: Some(region.base()),
            size: Some(region.size()),
            region: Some(Arc::clone(region)),
        })
    }

    /// The slots whose log is on, of one region or of all.
    pub(super) fn logging(&mut self, region: Option<&SharedRegion>) -> impl Iterator<Item = &mut SlotEntry> {
        let is_wanted = move |entry: &SlotEntry| region.is_none_or(|region| entry.region.desc == *region);
        self.slots.values_mut().filter(move |entry| entry.is_logging() && is_wanted(entry))
    }

    /// The log flag of a region's slot, also of one that made way.
    pub(super) fn log_flag(&self, region: &RegionEntry) -> u32 {
        let mut all = self.slots.values().chain(&self.parked);
        all.find(|entry| entry.region.is(region)).map_or(0, |entry| entry.flags() & KVM_MEM_LOG_DIRTY_PAGES)
    }

    /// A slot takes over what those that made way have logged of the bytes that it shows now.
    pub(super) fn inherit(&mut self, base: u64) {
        if let Some(entry) = self.slots.get_mut(&base) {
            self.parked.iter().for_each(|parked| entry.take_over(parked));
        }
    }

    /// The log of a region's slot goes over to those that show its bytes from now on.
    pub(super) fn hand_over(&mut self, region: &RegionEntry) -> Result<()> {
        let Some(mut old) = self.slots.remove(&region.base()) else { return Ok(()) };
        let harvested = if old.is_logging() { old.harvest() } else { Ok(()) };
        self.slots.values_mut().for_each(|entry| entry.take_over(&old));
        self.slots.insert(region.base(), old);
        harvested.map_err(|error| refused(region, "reading the dirty log of", &error))
    }

    /// Deletes the slots of regions, each whatever becomes of the others; the first error.
    pub(super) fn delete_all<'a>(&mut self, regions: impl Iterator<Item = &'a SharedRegion>) -> Result<()> {
        let mut result = Ok(());
        for region in regions {
            // Deleted in any case: `and` keeps the first error.
            result = result.and(self.delete(region));
        }
        result
    }

    /// Deletes a region's slot. When KVM refuses, the guest may still touch the memory: the slot leaves the table and keeps it.
    pub(super) fn delete(&mut self, region: &SharedRegion) -> Result<()> {
        let Some(mut entry) = self.slots.remove(&region.base()) else { return Ok(()) };
        let deleted =
            entry.delete().map_err(|error| refused(region, &format!("deleting slot {} of", entry.id()), &error));
        match deleted {
            Ok(()) => self.numbers.give_back(entry.id()),
            Err(_) => self.stuck.push(entry),
        }
        deleted
    }

    /// The error of a region for which no number is left.
    pub(super) fn no_slot_left(&self, region: &SharedRegion) -> Error {
        let SlotNumbers { all, .. } = &self.numbers;
        let (count, first) = (all.len(), all.start);
        let message =
            format!("no memory slot is left for {region}: the {count} with numbers from {first} on are in use");
        Error::Backing { message, errno: Errno::Refused(ENOSPC), region: Some(Arc::clone(region)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_number_is_given_out_and_none_beyond_the_last() {
        let mut numbers = SlotNumbers::new(5, 8);
        assert_eq!([numbers.take(), numbers.take(), numbers.take(), numbers.take()], [Some(5), Some(6), Some(7), None]);
        numbers.give_back(7);
        numbers.give_back(5);
        assert_eq!([numbers.take(), numbers.take(), numbers.take()], [Some(5), Some(7), None]);
        assert_eq!(SlotNumbers::new(9, 8).take(), None);
        assert_eq!(SlotNumbers::new(u32::MAX, u32::MAX).take(), None);
    }
}
