//! Waiting: state behind a lock that threads wait on, in slices between which the caller's [`Interrupt`] is asked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::Interrupted;
use super::interrupt::Interrupt;

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

/// Locks a mutex, also after a panic of a thread that held it: what our mutexes protect is never left half changed.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// State that threads wait on. Nothing is poisoned by a panic, and waking nobody costs no system call.
#[derive(Debug, Default)]
pub struct Monitor<T> {
    state: Mutex<T>,
    changed: Condvar,
    waiting: AtomicUsize,
}

impl<T> Monitor<T> {
    /// Begins with a state.
    pub const fn new(state: T) -> Self {
        Self { state: Mutex::new(state), changed: Condvar::new(), waiting: AtomicUsize::new(0) }
    }

    /// Locks the state.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        lock(&self.state)
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
        state: MutexGuard<'a, T>,
        limit: Duration,
        blocked: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'a, T> {
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
    ) -> Result<Option<MutexGuard<'_, T>>, Interrupted> {
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
