//! The locks of this crate: `tests/python/test_layers.py` keeps any other from it.
//!
//! A lock's word says which process holds it. A fork leaves a lock taken whose holder is a thread of the parent: the child, where that
//! thread is not, sees that, and is told so instead of waiting for ever or using what the thread was in the midst of changing. A panic of
//! a thread that holds one leaves it usable, since no change of what they protect can stop halfway.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use super::fork::{Forked, epoch};
use super::futex;
use super::sync::{AtomicU32, Ordering, spin_loop};

/// Looks at a taken lock before the thread sleeps: most are held for less time than that takes.
const SPINS: u32 = if cfg!(feature = "shuttle") { 1 } else { 100 };
/// In the word beside the holder: somebody sleeps.
const SLEEPERS: u32 = 1;

/// The word of a lock that this process holds.
fn held_here() -> u32 {
    epoch() << 1
}

/// State that one thread at a time looks at.
#[derive(Default)]
pub struct Lock<T> {
    /// 0 for a free lock; else the holder's process, and whether somebody sleeps.
    word: AtomicU32,
    state: UnsafeCell<T>,
}

// SAFETY: the state is lent to one thread at a time, which may as well be given it.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> std::fmt::Debug for Lock<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Lock").finish_non_exhaustive()
    }
}

impl<T> Lock<T> {
    /// Begins with a state.
    pub const fn new(state: T) -> Self {
        Self { word: AtomicU32::new(0), state: UnsafeCell::new(state) }
    }

    /// Waits until nobody else has the state; refused where a thread of the parent process had it at the fork.
    #[inline]
    pub fn lock(&self) -> Result<LockGuard<'_, T>, Forked> {
        self.try_lock().map_or_else(|| self.lock_slowly(), Ok)
    }

    /// The state, unless somebody else has it.
    #[inline]
    pub fn try_lock(&self) -> Option<LockGuard<'_, T>> {
        // Acquire: what the last holder did comes before what this one does.
        let taken = self.word.compare_exchange(0, held_here(), Ordering::Acquire, Ordering::Relaxed);
        taken.is_ok().then(|| self.guard())
    }

    #[cold]
    fn lock_slowly(&self) -> Result<LockGuard<'_, T>, Forked> {
        let mut seen = self.spin();
        let mut mine = held_here();
        loop {
            if seen == 0 {
                match self.word.compare_exchange(0, mine, Ordering::Acquire, Ordering::Relaxed) {
                    Ok(_) => return Ok(self.guard()),
                    Err(other) => seen = other,
                }
                continue;
            }
            if seen & !SLEEPERS != held_here() {
                return Err(Forked);
            }
            let marked = seen | SLEEPERS;
            if seen == marked || self.word.compare_exchange(seen, marked, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            {
                futex::wait(&self.word, marked, None);
                // Others may sleep still, and only one is woken: whoever has slept wakes the next.
                mine = held_here() | SLEEPERS;
            }
            seen = self.spin();
        }
    }

    /// Looks again for a moment while the lock is held and nobody sleeps.
    fn spin(&self) -> u32 {
        for _ in 0..SPINS {
            let seen = self.word.load(Ordering::Relaxed);
            if seen != held_here() {
                return seen;
            }
            spin_loop();
        }
        self.word.load(Ordering::Relaxed)
    }

    const fn guard(&self) -> LockGuard<'_, T> {
        LockGuard { lock: self, _this_thread: PhantomData }
    }

    /// The state of a lock that nobody else knows.
    pub const fn get_mut(&mut self) -> &mut T {
        self.state.get_mut()
    }
}

/// A locked state.
#[derive(Debug)]
pub struct LockGuard<'a, T> {
    lock: &'a Lock<T>,
    _this_thread: PhantomData<*const ()>,
}

impl<T> Deref for LockGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: nobody else has the state while this guard is there.
        unsafe { &*self.lock.state.get() }
    }
}

impl<T> DerefMut for LockGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the guard itself is borrowed once.
        unsafe { &mut *self.lock.state.get() }
    }
}

impl<T> Drop for LockGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // Release: what was done here comes before what the next holder does.
        if self.lock.word.swap(0, Ordering::Release) & SLEEPERS != 0 {
            futex::wake_one(&self.lock.word);
        }
    }
}

/// Tells threads that wait beside a lock that its state has changed.
#[derive(Debug, Default)]
pub struct Signal {
    /// Counts the signals.
    count: AtomicU32,
    /// The threads that wait; some of a forked child's may be its parent's, which costs it system calls and no more.
    waiting: AtomicU32,
}

impl Signal {
    /// Begins without a waiter.
    pub const fn new() -> Self {
        Self { count: AtomicU32::new(0), waiting: AtomicU32::new(0) }
    }

    /// Wakes all that wait; call it after the state has changed under the lock. It costs no system call when there is nobody.
    pub fn all(&self) {
        // Relaxed will do, for the lock orders it: a waiter that locked before the change was counted before it, and one that locks
        // behind it sees the change and does not wait.
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.count.fetch_add(1, Ordering::Relaxed);
            futex::wake_all(&self.count);
        }
    }

    /// Lets the state go, and takes it again behind a signal, at most `limit` later, or for no reason.
    pub fn wait<'a, T>(&self, state: LockGuard<'a, T>, limit: Duration) -> Result<LockGuard<'a, T>, Forked> {
        let lock = state.lock;
        // Under the lock still: whoever changes the state next finds this waiter counted, and the count that it was counted at.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let count = self.count.load(Ordering::Relaxed);
        drop(state);
        futex::wait(&self.count, count, Some(limit));
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        lock.lock()
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod proofs {
    use std::sync::Arc;

    use super::*;
    use crate::sys::sync::{prove, thread};

    #[test]
    fn one_thread_has_the_state_and_none_sleeps_for_ever() {
        prove(|| {
            let lock = Arc::new(Lock::new((0, false)));
            let threads: Vec<_> = (0..3)
                .map(|_| {
                    let lock = Arc::clone(&lock);
                    thread::spawn(move || {
                        for _ in 0..2 {
                            let mut state = lock.lock().unwrap();
                            assert!(!std::mem::replace(&mut state.1, true));
                            thread::yield_now();
                            *state = (state.0 + 1, false);
                        }
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(lock.lock().unwrap().0, 6);
        });
    }
}
