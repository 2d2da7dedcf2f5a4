//! The log of one slot, for those who follow the writes to its memory.

use std::sync::Weak;

use super::error::refused;
use super::table::SlotTable;
use crate::memory::dirty::WriteLog;
use crate::model::error::Result;
use crate::sys::lock::Lock;

/// The log that KVM keeps of a guest's writes to the bytes of a slot.
#[derive(Debug)]
pub(super) struct KvmLog {
    pub(super) table: Weak<Lock<SlotTable>>,
    pub(super) slot: u32,
    /// Whether KVM clears its log only when it is told to.
    pub(super) by_hand: bool,
}

impl WriteLog for KvmLog {
    fn is_on(&self) -> Result<bool> {
        let Some(table) = self.table.upgrade() else { return Ok(false) };
        let is_on = table.lock()?.logging().any(|entry| entry.id() == self.slot);
        Ok(is_on)
    }

    fn sync(&self) -> Result<()> {
        let Some(table) = self.table.upgrade() else { return Ok(()) };
        let mut table = table.lock()?;
        let mut entries = table.logging().filter(|entry| entry.id() == self.slot);
        entries.try_for_each(|entry| {
            entry.sync(self.by_hand).map_err(|error| refused(&entry.region, "reading the dirty log of", &error))
        })
    }
}
