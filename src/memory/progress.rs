//! The progress of long work.

use crate::model::error::Interrupted;
use crate::model::interrupt::Interrupt;

/// Counts bytes, and tells the caller's [`Interrupt`] of them.
#[allow(missing_debug_implementations, reason = "borrows a caller's trait object")]
pub struct Progress<'a> {
    stage: &'static str,
    done: u64,
    total: u64,
    interrupt: &'a dyn Interrupt,
}

impl<'a> Progress<'a> {
    pub(super) const fn new(stage: &'static str, total: u64, interrupt: &'a dyn Interrupt) -> Self {
        Self::at(stage, 0, total, interrupt)
    }

    /// The progress of work that was begun before.
    pub const fn at(stage: &'static str, done: u64, total: u64, interrupt: &'a dyn Interrupt) -> Self {
        Self { stage, done, total, interrupt }
    }

    /// The bytes that are done.
    pub(super) const fn done(&self) -> u64 {
        self.done
    }

    /// Adds to the bytes that are done; `Err` when the work should stop.
    pub(super) fn advance(&mut self, size: u64) -> Result<(), Interrupted> {
        self.done = self.done.saturating_add(size);
        self.interrupt.progress(self.stage, self.done, self.total)
    }
}

/// Each question whether to go on tells how far the work is.
impl Interrupt for Progress<'_> {
    fn check(&self) -> Result<(), Interrupted> {
        self.interrupt.progress(self.stage, self.done, self.total)
    }
}
