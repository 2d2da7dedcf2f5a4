//! What is mapped into a DAX window.

use crate::model::lock::{Lock, LockGuard};
use std::collections::BTreeMap;

/// A part of a file in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DaxMapping {
    /// Where in the window it begins.
    pub offset: u64,
    /// The number of bytes.
    pub size: u64,
    /// Where in the file it begins.
    pub file_offset: u64,
    /// Its protection.
    pub prot_flags: i32,
    /// Device and inode of the file.
    pub file: (u64, u64),
}

impl DaxMapping {
    pub(super) const fn end(&self) -> u64 {
        self.offset.saturating_add(self.size)
    }

    /// The part from `offset` to `end`.
    pub(super) fn part(&self, offset: u64, end: u64) -> Self {
        let file_offset = self.file_offset.saturating_add(offset.saturating_sub(self.offset));
        Self { offset, size: end.saturating_sub(offset), file_offset, ..*self }
    }
}

/// What is mapped into a window.
#[derive(Debug, Default)]
pub struct Window {
    sections: Lock<BTreeMap<u64, DaxMapping>>,
}

impl Window {
    pub(super) fn lock(&self) -> LockGuard<'_, BTreeMap<u64, DaxMapping>> {
        self.sections.lock()
    }

    /// The sections by ascending offset.
    #[must_use]
    pub fn sections(&self) -> Vec<DaxMapping> {
        self.lock().values().copied().collect()
    }

    /// The first offset from `offset` to `end` at which no section has all of the protection bits.
    #[must_use]
    pub fn first_denied(&self, offset: u64, end: u64, bits: i32) -> Option<u64> {
        let sections = self.lock();
        let mut at = offset;
        while at < end {
            match sections.range(..=at).next_back() {
                Some((_, section)) if at < section.end() && section.prot_flags & bits == bits => at = section.end(),
                _ => return Some(at),
            }
        }
        None
    }
}
