//! Waiting: state behind a lock that threads wait on, in slices between which the caller's [`Interrupt`] is asked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, PoisonError};
use std::time::{Duration, Instant};

use super::error::Interrupted;
use super::interrupt::Interrupt;
use super::lock::{Lock, LockGuard};

/// The longest wait between two calls of [`Interrupt::check`]: Ctrl-C may take as long.
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

    /// The time to wait before looking again; `None` when the time is up.
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

    /// Wakes all waiters; call it after the state has changed under the lock, so that a waiter sees the change or is seen.
    pub fn notify(&self) {
        // Relaxed will do, for the lock orders it: a waiter that locked before the change was counted before it, and one that locks
        // behind it sees the change and does not wait.
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
        // Under the lock still: the next thread to change the state finds this waiter counted.
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
            // The check may run a user's code, which may come back to this very state.
            drop(state);
            interrupt.check()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::interrupt::Uninterrupted;

    /// Says stop at the first question.
    struct Stop;

    impl Interrupt for Stop {
        fn check(&self) -> Result<(), Interrupted> {
            Err(Interrupted)
        }
    }

    #[test]
    fn a_deadline_comes_in_slices_or_never() {
        let slice = |timeout| Deadline::after(timeout).slice();
        assert_eq!(slice(None), Some(SLICE));
        assert_eq!(slice(Some(Duration::MAX)), Some(SLICE));
        assert_eq!(slice(Some(Duration::from_secs(100))), Some(SLICE));
        assert_eq!(slice(Some(Duration::ZERO)), None);
        assert!(slice(Some(Duration::from_millis(20))).is_none_or(|slice| slice <= Duration::from_millis(20)));
    }

    /// A wake-up that is lost costs a slice: all of them would take 50 seconds.
    #[test]
    fn a_notification_wakes_the_waiter() {
        const ROUNDS: u32 = 1000;
        let (monitor, begin) = (Monitor::new(0u32), Instant::now());
        let play = |parity: u32| {
            for _ in 0..ROUNDS / 2 {
                let turn = monitor.wait_until(Deadline::after(None), &Uninterrupted, |count| *count % 2 != parity);
                *turn.unwrap().unwrap() += 1;
                monitor.notify();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| play(0));
            scope.spawn(|| play(1));
        });
        assert_eq!(*monitor.lock(), ROUNDS);
        assert!(begin.elapsed() < SLICE * ROUNDS / 2, "{:?}", begin.elapsed());
    }

    #[test]
    fn a_wait_ends_when_its_time_is_up_or_its_caller_says_stop() {
        let monitor = Monitor::new(());
        let wait = |timeout, interrupt: &dyn Interrupt| {
            monitor.wait_until(Deadline::after(timeout), interrupt, |()| true).map(|state| state.is_some())
        };
        assert_eq!(wait(Some(Duration::from_millis(1)), &Uninterrupted), Ok(false));
        assert_eq!(wait(None, &Stop), Err(Interrupted));
    }

    #[test]
    fn a_panic_of_another_thread_locks_nobody_out() {
        let monitor = Monitor::new(7);
        let holds = || {
            let _state = monitor.lock();
            panic!("with the lock");
        };
        std::thread::scope(|scope| assert!(scope.spawn(holds).join().is_err()));
        assert_eq!(*monitor.lock(), 7);
    }
}
