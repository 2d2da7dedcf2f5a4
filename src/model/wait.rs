//! Waiting: state behind a lock that threads wait on, in slices between which the caller's [`Interrupt`] is asked.

use std::time::{Duration, Instant};

use super::error::Result;
use super::interrupt::Interrupt;
use crate::sys::fork::{Forked, Process};
use crate::sys::lock::{Lock, LockGuard, Signal};

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

/// State that threads wait on. In a forked child those that would change it may be missing: there nobody waits.
#[derive(Debug)]
pub struct Monitor<T> {
    state: Lock<T>,
    changed: Signal,
    process: Process,
}

impl<T: Default> Default for Monitor<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Monitor<T> {
    /// Begins with a state.
    pub fn new(state: T) -> Self {
        Self { state: Lock::new(state), changed: Signal::new(), process: Process::current() }
    }

    /// Whether this is the process that made it, and not a forked child.
    #[inline]
    pub fn is_in_its_process(&self) -> bool {
        self.process.is_current()
    }

    /// Locks the state.
    pub fn lock(&self) -> Result<LockGuard<'_, T>, Forked> {
        self.state.lock()
    }

    /// Changes the state and wakes all waiters.
    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> Result<R, Forked> {
        let result = change(&mut *self.lock()?);
        self.wake();
        Ok(result)
    }

    /// Wakes all waiters; call it after the state has changed under the lock.
    pub fn wake(&self) {
        self.changed.all();
    }

    /// Waits at most `limit` while the state is `blocked`; refused in a forked child.
    pub fn wait<'a>(
        &'a self,
        mut state: LockGuard<'a, T>,
        limit: Duration,
        mut blocked: impl FnMut(&mut T) -> bool,
    ) -> Result<LockGuard<'a, T>, Forked> {
        let end = Instant::now().checked_add(limit);
        while blocked(&mut state) {
            if !self.is_in_its_process() {
                return Err(Forked);
            }
            let left = end.map_or(limit, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break;
            }
            state = self.changed.wait(state, left)?;
        }
        Ok(state)
    }

    /// Waits while the state is `blocked`, up to a deadline; `None` when the time is up.
    pub fn wait_until(
        &self,
        deadline: Deadline,
        interrupt: &dyn Interrupt,
        mut blocked: impl FnMut(&mut T) -> bool,
    ) -> Result<Option<LockGuard<'_, T>>> {
        loop {
            let mut state = self.lock()?;
            if !blocked(&mut state) {
                return Ok(Some(state));
            }
            let Some(slice) = deadline.slice() else { return Ok(None) };
            let mut state = self.wait(state, slice, &mut blocked)?;
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
    use crate::model::error::{Error, Interrupted};
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
                drop(turn.unwrap());
                monitor.change(|count| *count += 1).unwrap();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| play(0));
            scope.spawn(|| play(1));
        });
        assert_eq!(*monitor.lock().unwrap(), ROUNDS);
        assert!(begin.elapsed() < SLICE * ROUNDS / 2, "{:?}", begin.elapsed());
    }

    #[test]
    fn a_wait_ends_when_its_time_is_up_or_its_caller_says_stop() {
        let monitor = Monitor::new(());
        let wait = |timeout, interrupt: &dyn Interrupt| {
            monitor.wait_until(Deadline::after(timeout), interrupt, |()| true).map(|state| state.is_some())
        };
        assert!(matches!(wait(Some(Duration::from_millis(1)), &Uninterrupted), Ok(false)));
        assert!(matches!(wait(None, &Stop), Err(Error::Interrupted)));
    }

    #[test]
    fn a_panic_of_another_thread_locks_nobody_out() {
        let monitor = Monitor::new(7);
        let holds = || {
            let _state = monitor.lock();
            panic!("with the lock");
        };
        std::thread::scope(|scope| assert!(scope.spawn(holds).join().is_err()));
        assert_eq!(*monitor.lock().unwrap(), 7);
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod proofs {
    use std::sync::Arc;

    use super::*;
    use crate::sys::sync::{prove, thread};

    /// Nothing but a wake-up ends a wait here.
    #[test]
    fn no_change_is_missed_by_who_waits_for_it() {
        prove(|| {
            let monitor = Arc::new(Monitor::new(0));
            let threads: Vec<_> = (0..3)
                .map(|turn| {
                    let monitor = Arc::clone(&monitor);
                    thread::spawn(move || {
                        let mut state = monitor.lock().unwrap();
                        while *state != turn {
                            state = monitor.wait(state, SLICE, |state| *state != turn).unwrap();
                        }
                        drop(state);
                        monitor.change(|state| *state += 1).unwrap();
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }
}
