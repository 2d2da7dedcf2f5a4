//! The dirty logs of a machine's slots: switched, read and cleared.

use super::Kvm;
use super::error::{not_logged, refused};
use super::slot::SlotEntry;
use super::table::SlotTable;
use crate::model::dirty::DirtyPages;
use crate::model::error::Result;
use crate::model::range::Range;
use crate::model::region::SharedRegion;
use crate::model::runs::{Run, SlotChanges};
use crate::sys::host::page_size;
use crate::sys::kvm;

impl Kvm {
    /// Switches the log of a region, between changes: a slot that shows others too is cut, in the steps of a change.
    pub fn set_dirty_log(&self, region: &SharedRegion, on: bool) -> Result<()> {
        self.check_process()?;
        let cuts = {
            let table = self.table.lock()?;
            let bases = table.slots_of(region)?;
            let mut cuts = bases.iter().filter_map(|base| table.slots.get(base));
            cuts.any(|entry| entry.is_logging() != on && !region.range.covers(&entry.range()))
        };
        if !cuts {
            return self.switch_log(region, on);
        }
        self.hold()?;
        self.switch_log(region, on).and(self.release())
    }

    fn switch_log(&self, region: &SharedRegion, on: bool) -> Result<()> {
        let mut table = self.table.lock()?;
        for base in table.slots_of(region)? {
            let entry = table.slot(base)?;
            if entry.is_logging() == on {
                continue;
            }
            if region.range.covers(&entry.range()) {
                let switched = entry.set_logging(on);
                switched.map_err(|error| refused(region, "switching the dirty log of", &error))?;
            } else {
                let run = entry.run();
                self.cut(&mut table, &run, region.range)?;
            }
        }
        Ok(())
    }

    /// Cuts a slot into pieces, of which that in a range has its log switched.
    fn cut(&self, table: &mut SlotTable, run: &Run, range: Range) -> Result<()> {
        let (inside, log) = (run.at_addresses(&range), kvm::KVM_MEM_LOG_DIRTY_PAGES);
        let below = Range::between(run.guest.base(), inside.guest.base());
        let above = Range::between(inside.guest.end(), run.guest.end());
        let around = [below, above].into_iter().filter(|part| !part.is_empty()).map(|part| run.at_addresses(&part));
        let added = around.chain([Run { flags: run.flags ^ log, ..inside }]).collect();
        let changes = SlotChanges { deleted_before: vec![run.guest.base()], added, ..SlotChanges::default() };
        match self.apply(table, &changes) {
            Ok(()) => table.settle(),
            Err(error) => table.undo().and(Err(error)),
        }
    }

    /// The pages that the guest wrote, of a region or of all that are logged; cleared, they are not told again.
    pub fn dirty_log(&self, region: Option<&SharedRegion>, clear: bool) -> Result<DirtyPages> {
        self.check_process()?;
        let mut table = self.table.lock()?;
        let bases: Vec<u64> = match region {
            Some(region) => table.slots_of(region)?,
            None => table.logging().map(|entry| entry.range().base()).collect(),
        };
        let range = region.map_or(Range::between(0, u64::MAX), |region| region.range);
        let is_off = |base: &u64| !table.slots.get(base).is_some_and(SlotEntry::is_logging);
        match region {
            Some(region) if bases.iter().any(is_off) => return Err(not_logged(&region.label())),
            None if !self.options.dirty_log && bases.is_empty() => return Err(not_logged("any region")),
            _ => {}
        }
        let mut pages = no_pages()?;
        for base in bases {
            let (entry, by_hand) = (table.slot(base)?, self.options.manual_clear);
            entry.harvest().map_err(|error| refused(&entry.region, "reading the dirty log of", &error))?;
            let written = entry.written(range);
            pages.push_bitmap(base, &written)?;
            if clear {
                let cleared = match range.covers(&entry.range()) {
                    true => entry.clear_all(by_hand),
                    false => {
                        let mut found = no_pages()?;
                        found.push_bitmap(base, &written)?;
                        entry.clear(&found, by_hand)
                    }
                };
                cleared.map_err(|error| refused(&entry.region, "clearing the dirty log of", &error))?;
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
        let clear = |entry: &mut SlotEntry| {
            entry.clear(pages, by_hand).map_err(|error| refused(&entry.region, "clearing the dirty log of", &error))
        };
        self.table.lock()?.logging().try_for_each(clear)
    }
}

fn no_pages() -> Result<DirtyPages> {
    DirtyPages::new(page_size(), vec!["kvm".into()])
}
