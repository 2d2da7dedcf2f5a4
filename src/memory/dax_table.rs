//! What is mapped into a DAX window.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A part of a file in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DaxPiece {
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

impl DaxPiece {
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
    pieces: Mutex<BTreeMap<u64, DaxPiece>>,
}

impl Window {
    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, DaxPiece>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pieces by ascending offset.
    #[must_use]
    pub fn pieces(&self) -> Vec<DaxPiece> {
        self.lock().values().copied().collect()
    }

    /// The first offset from `offset` to `end` at which no piece has all of the protection bits.
    #[must_use]
    pub fn first_denied(&self, offset: u64, end: u64, bits: i32) -> Option<u64> {
        let pieces = self.lock();
        let mut at = offset;
        while at < end {
            match pieces.range(..=at).next_back() {
                Some((_, piece)) if at < piece.end() && piece.prot_flags & bits == bits => at = piece.end(),
                _ => return Some(at),
            }
        }
        None
    }
}
