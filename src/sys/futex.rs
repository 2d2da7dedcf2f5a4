//! Sleeping until a word changes.

use std::time::Duration;

use rustix::event::Timespec;
use rustix::thread::futex::{self, Flags};

use super::sync::AtomicU32;

/// Sleeps while the word is `expected`, at most `limit`; may end for no reason.
pub(super) fn wait(word: &AtomicU32, expected: u32, limit: Option<Duration>) {
    // A time beyond what the kernel counts is as good as none.
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    // Whatever it answers, the caller looks at the word.
    let _ = futex::wait(word, Flags::PRIVATE, expected, limit.as_ref());
}

/// Wakes one that sleeps.
pub(super) fn wake_one(word: &AtomicU32) {
    // It fails for no word that there is.
    let _ = futex::wake(word, Flags::PRIVATE, 1);
}

/// Wakes all that sleep.
pub(super) fn wake_all(word: &AtomicU32) {
    let _ = futex::wake(word, Flags::PRIVATE, u32::MAX >> 1);
}
