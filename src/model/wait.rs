//! Waiting: state behind a lock that threads wait on, in slices between which the caller's [`Interrupt`] is asked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, PoisonError};
use std::time::{Duration, Instant};

use super::error::Interrupted;
use super::interrupt::Interrupt;
use super::lock::{Lock, LockGuard};

/// How long anything waits between two calls of [`Interrupt::check`].
pub const SLICE: Duration = Duration::from_millis(50);

/// When waiting ends; `None` stands for never.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// `timeout` from now; one that overflows the clock never comes.
    #[must_use]
    pub fn after(timeout: Option<Duration>) -> Self {
        Self(timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
    }

    /// How long to wait before looking again; `None` when the time is up.
    #[must_use]
    pub fn slice(&self) -> Option<Duration> {
        let Some(end) = self.0 else { return Some(SLICE) };
        let left = end.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| left.min(SLICE))
    }
}

/// State that threads wait on. Waking nobody costs no system call.
#[derive(Debug, Default)]
pub struct Monitor<T> {
    state: Lock<T>,
    changed: Condvar,
    waiting: AtomicUsize,
}

impl<T> Monitor<T> {
    /// Begins with a state.
    pub const fn new(state: T) -> Self {
        Self { state: Lock::new(state), changed: Condvar::new(), waiting: AtomicUsize::new(0) }
    }

    /// Locks the state.
    pub fn lock(&self) -> LockGuard<'_, T> {
        self.state.lock()
    }

    /// Wakes all who wait; call it after the state has changed under the lock, so that a waiter sees the change or is seen.
    pub fn notify(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.changed.notify_all();
        }
    }

    /// Waits at most `limit` while the state is `blocked`.
    pub fn wait<'a>(
        &'a self,
        state: LockGuard<'a, T>,
        limit: Duration,
        blocked: impl FnMut(&mut T) -> bool,
    ) -> LockGuard<'a, T> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let (state, _) = self.changed.wait_timeout_while(state, limit, blocked).unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        state
    }

    /// Waits while the state is `blocked`, up to a deadline; `None` when the time is up.
    pub fn wait_until(
        &self,
        deadline: Deadline,
        interrupt: &dyn Interrupt,
        mut blocked: impl FnMut(&mut T) -> bool,
    ) -> Result<Option<LockGuard<'_, T>>, Interrupted> {
        loop {
            let mut state = self.lock();
            if !blocked(&mut state) {
                return Ok(Some(state));
            }
            let Some(slice) = deadline.slice() else { return Ok(None) };
            let mut state = self.wait(state, slice, &mut blocked);
            if !blocked(&mut state) {
                return Ok(Some(state));
            }
            drop(state);
            interrupt.check()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::interrupt::Uninterrupted;

    /// Says stop the first time it is asked.
    struct Stop;

    impl Interrupt for Stop {
        fn check(&self) -> Result<(), Interrupted> {
            Err(Interrupted)
        }
    }

    #[test]
    fn a_deadline_comes_or_never_comes() {
        assert_eq!(Deadline::after(Some(Duration::ZERO)).slice(), None);
        for never in [None, Some(Duration::MAX)] {
            assert_eq!(Deadline::after(never).slice(), Some(SLICE));
        }
    }

    #[test]
    fn waiting_ends_with_the_state_the_time_or_an_interrupt() {
        let (monitor, never) = (Monitor::new(1), Deadline::after(None));
        let soon = Deadline::after(Some(Duration::from_millis(1)));
        assert_eq!(monitor.wait_until(soon, &Stop, |state| *state == 0).unwrap().map(|state| *state), Some(1));
        assert!(monitor.wait_until(soon, &Uninterrupted, |state| *state == 1).unwrap().is_none());
        assert!(monitor.wait_until(never, &Stop, |state| *state == 1).is_err());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                *monitor.lock() = 2;
                monitor.notify();
            });
            let state = monitor.wait_until(never, &Uninterrupted, |state| *state == 1).unwrap();
            assert_eq!(state.map(|state| *state), Some(2));
        });
    }
}
