//! Notes of inner events, for who wants to read them: written where they happen, and told where Python code may run.

use std::fmt::Display;
// Not those that `make proofs` plays: it plays many scenes at once, and a static is in all of them.
use std::sync::atomic::{AtomicU8, Ordering};

use crate::sys::lock::Lock;

/// How much an entry matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Each step: a slot that was set.
    Debug,
    /// Each change.
    Info,
    /// A change that was refused, memory that faults.
    Warning,
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How much it matters.
    pub level: Level,
    /// A sentence.
    pub text: String,
}

impl Level {
    /// The number that the level has in Python's `logging`.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Debug => 10,
            Self::Info => 20,
            Self::Warning => 30,
        }
    }
}

/// The number from which on entries are read: nothing else is written. A hint, so that it needs no order.
static READ_FROM: AtomicU8 = AtomicU8::new(NOBODY);
/// Nobody reads.
pub const NOBODY: u8 = u8::MAX;
static ENTRIES: Lock<Vec<Entry>> = Lock::new(Vec::new());
/// Where nobody comes to tell them, the oldest entries are enough.
const MOST: usize = 1 << 10;

/// Says from which number on entries are read.
pub fn read_from(number: u8) {
    READ_FROM.store(number, Ordering::Relaxed);
}

/// Notes what happened, if somebody reads.
#[inline]
pub fn note<T: Display>(level: Level, text: impl FnOnce() -> T) {
    if level.number() >= READ_FROM.load(Ordering::Relaxed) {
        keep(Entry { level, text: text().to_string() });
    }
}

/// Keeps an entry about what is rare enough to be written whether or not somebody reads.
#[cold]
pub fn keep(entry: Entry) {
    // A forked child that can't have the lock has nothing to tell.
    if let Ok(mut entries) = ENTRIES.lock()
        && entries.len() < MOST
    {
        entries.push(entry);
    }
}

/// Takes all that was noted and not told yet.
#[must_use]
pub fn taken() -> Vec<Entry> {
    ENTRIES.lock().map(|mut entries| std::mem::take(&mut *entries)).unwrap_or_default()
}
