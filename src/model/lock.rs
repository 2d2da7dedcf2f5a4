//! The locks of this crate: `tests/python/test_layers.py` keeps any other from it. A panic of a thread that holds one leaves it usable, since
//! no change of what they protect can stop halfway.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

/// A locked state.
pub type LockGuard<'a, T> = MutexGuard<'a, T>;

/// State that one thread at a time looks at.
#[derive(Debug, Default)]
pub struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    /// Begins with a state.
    pub const fn new(state: T) -> Self {
        Self(Mutex::new(state))
    }

    /// Waits until nobody else has the state.
    pub fn lock(&self) -> LockGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, unless somebody else has it.
    pub fn try_lock(&self) -> Option<LockGuard<'_, T>> {
        match self.0.try_lock() {
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Ok(guard) => Some(guard),
        }
    }

    /// The state of a lock that nobody else knows.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

/// State that many threads may look at, or one may change.
#[derive(Debug, Default)]
pub struct SharedLock<T>(RwLock<T>);

/// A state that is looked at.
pub type SharedGuard<'a, T> = RwLockReadGuard<'a, T>;

impl<T> SharedLock<T> {
    /// The state, unless somebody changes it, or waits to.
    pub fn try_read(&self) -> Option<SharedGuard<'_, T>> {
        match self.0.try_read() {
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Ok(guard) => Some(guard),
        }
    }

    /// Waits until nobody else has the state.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
