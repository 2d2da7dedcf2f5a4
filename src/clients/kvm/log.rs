//! The log of one slot, for those who follow the writes to its memory.

use std::sync::Weak;

use super::error::refused;
use super::slot::SlotEntry;
use super::table::SlotTable;
use crate::memory::dirty::WriteLog;
use crate::model::error::Result;
use crate::model::range::Range;
use crate::sys::lock::Lock;

/// The log that KVM keeps of a guest's writes to the bytes of a slot.
#[derive(Debug)]
pub(super) struct KvmLog {
    pub(super) table: Weak<Lock<SlotTable>>,
    pub(super) slot: u32,
    /// Whether KVM clears its log only when it is told to.
    pub(super) by_hand: bool,
}

impl KvmLog {
    /// Calls `work` with the slot, if it is there and logs.
    fn with_slot(&self, work: &dyn Fn(&mut SlotEntry) -> std::io::Result<()>) -> Result<()> {
        let Some(table) = self.table.upgrade() else { return Ok(()) };
        let mut table = table.lock()?;
        let mut entries = table.logging().filter(|entry| entry.id() == self.slot);
        entries.try_for_each(|entry| {
            work(entry).map_err(|error| refused(&entry.region, "reading the dirty log of", &error))
        })
    }
}

impl WriteLog for KvmLog {
    fn is_on(&self) -> Result<bool> {
        let Some(table) = self.table.upgrade() else { return Ok(false) };
        let is_on = table.lock()?.logging().any(|entry| entry.id() == self.slot);
        Ok(is_on)
    }

    fn sync(&self) -> Result<()> {
        self.with_slot(&|entry| entry.sync(self.by_hand))
    }

    fn keeps(&self) -> bool {
        self.by_hand
    }

    fn look(&self) -> Result<()> {
        self.with_slot(&SlotEntry::look)
    }

    fn forget(&self, part: Range) -> Result<()> {
        self.with_slot(&|entry| entry.forget(part))
    }
}
