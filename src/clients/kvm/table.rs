//! The slots of a machine, by their addresses, the windows that they show, and the numbers that are left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::error::refused;
use super::slot::SlotEntry;
use crate::memory::region::MappedRegion;
use crate::model::error::{Errno, Error, Result};
use crate::model::format::hex;
use crate::model::range::Range;
use crate::model::region::SharedRegion;
use crate::model::region_map::RegionEntry;
use crate::model::runs::Run;
use crate::sys::errno::ENOSPC;

/// Slot numbers, given out lowest first.
#[derive(Debug)]
pub(super) struct SlotNumbers {
    all: std::ops::Range<u32>,
    unused: std::ops::Range<u32>,
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
    /// The regions that they show.
    pub(super) windows: BTreeMap<u64, Arc<MappedRegion>>,
    /// Steps of the change under way.
    pub(super) under_way: UnderWay,
    /// Those that KVM did not delete: they keep their numbers and their memory.
    stuck: Vec<SlotEntry>,
    pub(super) numbers: SlotNumbers,
    /// How often a guest found nothing where memory was and is, while a slot made way.
    pub(super) windows_opened: u64,
}

/// Steps of a change: those that were done to the slots, and those that are to be done yet.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    /// Slots that made way for others.
    pub(super) parked: Vec<SlotEntry>,
    /// Slots that were moved: from where, and to where.
    pub(super) moved: Vec<(u64, u64)>,
    /// The addresses of new slots.
    pub(super) added: Vec<u64>,
    /// The addresses of slots that go once it is published.
    pub(super) leaving: Vec<u64>,
}

/// The addresses of all that lies in a range, of a map by addresses.
fn overlapping<T>(map: &BTreeMap<u64, T>, range: Range, range_of: impl Fn(&T) -> Range) -> Vec<u64> {
    let before = map.range(..=range.base()).next_back();
    let behind = map.range(range.base()..range.end());
    let all = before.into_iter().chain(behind).filter(|(_, one)| range_of(one).overlaps(&range));
    let mut bases: Vec<u64> = all.map(|(base, _)| *base).collect();
    bases.dedup();
    bases
}

impl SlotTable {
    pub(super) fn new(numbers: SlotNumbers) -> Self {
        let (slots, windows, under_way) = (BTreeMap::new(), BTreeMap::new(), UnderWay::default());
        Self { slots, windows, under_way, stuck: Vec::new(), numbers, windows_opened: 0 }
    }

    /// The addresses of the slots that a range has.
    pub(super) fn slots_at(&self, range: Range) -> Vec<u64> {
        overlapping(&self.slots, range, SlotEntry::range)
    }

    /// The regions that a range has.
    pub(super) fn windows_at(&self, range: Range) -> Vec<Arc<MappedRegion>> {
        let bases = overlapping(&self.windows, range, |window| window.shown_at());
        bases.iter().filter_map(|base| self.windows.get(base).cloned()).collect()
    }

    /// The slots of a region, by their addresses.
    pub(super) fn slots_of(&self, region: &SharedRegion) -> Result<Vec<u64>> {
        let window = self.windows.get(&region.base()).filter(|window| window.desc() == region);
        let slots = window.map_or_else(Vec::new, |window| self.slots_at(window.shown_at()));
        if !slots.is_empty() {
            return Ok(slots);
        }
        Err(Error::Unmapped {
            message: format!("{region} has no memory slot"),
            address: Some(region.base()),
            size: Some(region.size()),
            region: Some(Arc::clone(region)),
        })
    }

    /// The slot that begins at an address, which it has.
    pub(super) fn slot(&mut self, base: u64) -> Result<&mut SlotEntry> {
        self.slots.get_mut(&base).ok_or_else(|| Error::Unmapped {
            message: format!("no memory slot begins at {}", hex(base)),
            address: Some(base),
            size: None,
            region: None,
        })
    }

    /// Forgets the windows of regions.
    pub(super) fn forget<'a>(&mut self, regions: impl Iterator<Item = &'a RegionEntry>) {
        for region in regions {
            if self.windows.get(&region.base()).is_some_and(|window| window.id() == region.id) {
                self.windows.remove(&region.base());
            }
        }
    }

    /// The slots whose log is on.
    pub(super) fn logging(&mut self) -> impl Iterator<Item = &mut SlotEntry> {
        self.slots.values_mut().filter(|entry| entry.is_logging())
    }

    /// The memory of a run that is in the table.
    pub(super) fn memory_of(&self, run: &Run) -> Option<MappedRegion> {
        self.windows_at(run.guest).first()?.run(run.guest)
    }

    /// Makes way: the slot's number stays taken and its log in the entry, so that a rollback sets it again as it was.
    pub(super) fn park(&mut self, base: u64) -> Result<()> {
        let Some(mut entry) = self.slots.remove(&base) else { return Ok(()) };
        if let Err(error) = entry.suspend() {
            let refusal = refused(&entry.region, "deleting the slot of", &error);
            self.slots.insert(base, entry);
            return Err(refusal);
        }
        self.windows_opened = self.windows_opened.saturating_add(1);
        self.under_way.parked.push(entry);
        Ok(())
    }

    /// Shows a slot from another address on.
    pub(super) fn relocate(&mut self, from: u64, to: u64) -> Result<()> {
        let Some(mut entry) = self.slots.remove(&from) else { return Ok(()) };
        let moved = entry.relocate(to).map_err(|error| refused(&entry.region, "moving the slot of", &error));
        let run = entry.run();
        self.slots.insert(entry.range().base(), entry);
        self.rename(&[run]);
        moved
    }

    /// Slots that stayed are told of by the names that their regions have now.
    pub(super) fn rename(&mut self, slots: &[Run]) {
        for slot in slots {
            let window = self.windows_at(slot.guest).first().map(|window| Arc::clone(window.desc()));
            if let (Some(entry), Some(desc)) = (self.slots.get_mut(&slot.guest.base()), window) {
                entry.region = desc;
            }
        }
    }

    /// A new slot takes over what those that made way, or go, have logged of its bytes.
    pub(super) fn inherit(&mut self, base: u64) {
        if let Some(entry) = self.slots.get_mut(&base) {
            self.under_way.parked.iter().for_each(|parked| entry.take_over(parked));
        }
    }

    /// The log of a slot that goes is handed over to new ones that show its bytes.
    pub(super) fn hand_over(&mut self, base: u64) -> Result<()> {
        let Some(mut old) = self.slots.remove(&base) else { return Ok(()) };
        let harvested = if old.is_logging() { old.harvest() } else { Ok(()) };
        let new = self.under_way.added.iter().chain(self.under_way.moved.iter().map(|(_, to)| to));
        for base in new {
            self.slots.get_mut(base).into_iter().for_each(|entry| entry.take_over(&old));
        }
        let refusal = harvested.map_err(|error| refused(&old.region, "reading the dirty log of", &error));
        self.slots.insert(base, old);
        refusal
    }

    /// Deletes slots, each whatever becomes of the others; the first error.
    pub(super) fn delete_all(&mut self, bases: impl IntoIterator<Item = u64>) -> Result<()> {
        let mut result = Ok(());
        for base in bases {
            // Deleted in any case: `and` keeps the first error.
            result = result.and(self.delete(base));
        }
        result
    }

    /// Deletes a slot. When KVM refuses, the guest may still touch the memory: the slot leaves the table and keeps it.
    fn delete(&mut self, base: u64) -> Result<()> {
        let Some(mut entry) = self.slots.remove(&base) else { return Ok(()) };
        let what = format!("deleting slot {} of", entry.id());
        let deleted = entry.delete().map_err(|error| refused(&entry.region, &what, &error));
        match deleted {
            Ok(()) => self.numbers.give_back(entry.id()),
            Err(_) => self.stuck.push(entry),
        }
        deleted
    }

    /// Undoes what the change has done, in reverse: what was added makes room for what was parked. The first error of it.
    pub(super) fn undo(&mut self) -> Result<()> {
        let UnderWay { parked, moved, added, .. } = std::mem::take(&mut self.under_way);
        let mut result = self.delete_all(added.into_iter().rev());
        for (from, to) in moved.into_iter().rev() {
            result = result.and(self.relocate(to, from));
        }
        for mut entry in parked.into_iter().rev() {
            let restored = entry.resume(entry.flags()).map_err(|error| refused(&entry.region, "a slot for", &error));
            self.slots.insert(entry.range().base(), entry);
            result = result.and(restored);
        }
        result
    }

    /// Does what the change has yet to do, once it is published. The first error of it.
    pub(super) fn settle(&mut self) -> Result<()> {
        let leaving = std::mem::take(&mut self.under_way.leaving);
        let handed = leaving.iter().try_for_each(|base| self.hand_over(*base));
        // Only now can others have their numbers: a rollback would have set them again.
        for entry in std::mem::take(&mut self.under_way).parked {
            self.numbers.give_back(entry.id());
        }
        handed.and(self.delete_all(leaving))
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
