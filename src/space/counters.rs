//! Counts of what happens to a space.

use std::time::Duration;

use crate::model::error::Error;
use crate::model::journal::{self, Entry, Level};
use crate::sys::sync::{AtomicU64, Ordering};

/// Counts of events since the space was made. Each number is by itself, so that they need no order.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) refused: AtomicU64,
    /// Nanoseconds.
    pub(super) waited: AtomicU64,
    pub(super) faults: AtomicU64,
}

impl Counters {
    /// Counts a change that a lease or a client refused; other errors are the caller's own.
    pub(super) fn count_refusal(&self, error: &Error) {
        if matches!(error, Error::Busy { .. } | Error::Client { .. }) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            journal::note(Level::Warning, || format!("a change was refused: {error}"));
        }
    }

    pub(super) fn count_wait(&self, waited: Duration) {
        self.waited.fetch_add(u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Counts an access that failed, if its memory was at fault.
    pub(super) fn count_fault(&self, error: &Error) {
        if matches!(error, Error::Fault { .. }) {
            self.faults.fetch_add(1, Ordering::Relaxed);
            journal::keep(Entry { level: Level::Warning, text: error.to_string() });
        }
    }
}
