//! A condition variable that makes no system call when nobody waits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, MutexGuard, PoisonError};
use std::time::Duration;

/// Who rings changes the state under the mutex first, so a waiter either sees the change or is seen.
#[derive(Debug, Default)]
pub(super) struct Bell {
    condvar: Condvar,
    waiting: AtomicUsize,
}

impl Bell {
    /// Waits at most `limit` for as long as the state is `blocked`.
    pub(super) fn wait_while<'a, T>(
        &self,
        state: MutexGuard<'a, T>,
        limit: Duration,
        blocked: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'a, T> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let waited = self.condvar.wait_timeout_while(state, limit, blocked);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        state
    }

    /// Wakes one who waits.
    pub(super) fn ring(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.condvar.notify_one();
        }
    }

    /// Wakes all who wait.
    pub(super) fn ring_all(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.condvar.notify_all();
        }
    }
}
