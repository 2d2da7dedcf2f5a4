//! Values that are made when they are first wanted.
//!
//! `std::sync::OnceLock` and PyO3's `PyOnceLock` wait for the thread that makes the value, which a forked child does for ever when that
//! thread is its parent's. Nobody waits here: two threads may make the value at once, and the first one is kept.

use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A value that is set once.
#[derive(Debug)]
pub struct Once<T> {
    /// Null, or a box of ours.
    value: AtomicPtr<T>,
    _owned: PhantomData<T>,
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Once<T> {
    /// Begins without a value.
    pub const fn new() -> Self {
        Self { value: AtomicPtr::new(ptr::null_mut()), _owned: PhantomData }
    }
}

// The bound: a value that one thread makes is seen by all, and dropped by any.
impl<T: Send + Sync> Once<T> {
    /// The value, if there is one.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        // SAFETY: null, or a box that stays until this is dropped. Acquire: the value was made before it was stored.
        unsafe { self.value.load(Ordering::Acquire).as_ref() }
    }

    /// The value, which is made now if there is none.
    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        let Ok(value) = self.get_or_try_init(|| Ok::<_, std::convert::Infallible>(make()));
        value
    }

    /// The value, which is made now if there is none. An error leaves things as they are.
    #[inline]
    pub fn get_or_try_init<E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
        match self.get() {
            Some(value) => Ok(value),
            None => Ok(self.keep_first(make()?)),
        }
    }

    #[cold]
    fn keep_first(&self, value: T) -> &T {
        let made = Box::into_raw(Box::new(value));
        match self.value.compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: our box, which stays until this is dropped.
            Ok(_) => unsafe { &*made },
            Err(first) => {
                // SAFETY: the box was never shown to anyone.
                drop(unsafe { Box::from_raw(made) });
                // SAFETY: the box of whoever was first, which stays until this is dropped.
                unsafe { &*first }
            }
        }
    }
}

impl<T> Drop for Once<T> {
    fn drop(&mut self) {
        let value = *self.value.get_mut();
        if !value.is_null() {
            // SAFETY: a box of ours, and nobody refers to it any more.
            drop(unsafe { Box::from_raw(value) });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn the_first_value_is_kept_and_all_are_dropped() {
        let (once, value) = (Once::new(), Arc::new(()));
        assert!(once.get().is_none());
        assert_eq!(once.get_or_try_init(|| Err("none")).err(), Some("none"));
        let all: Vec<*const ()> = thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| Arc::as_ptr(once.get_or_init(|| Arc::clone(&value))).addr())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap() as *const ()).collect()
        });
        assert!(all.iter().all(|kept| *kept == Arc::as_ptr(&value)));
        assert_eq!(Arc::strong_count(&value), 2);
        drop(once);
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
