//! Sleeping until a word changes.

#[cfg(not(feature = "shuttle"))]
mod chosen {
    use std::time::Duration;

    use rustix::event::Timespec;
    use rustix::thread::futex::{self, Flags};

    use crate::sys::sync::AtomicU32;

    /// Sleeps while the word is `expected`, at most `limit`; may end for no reason.
    pub fn wait(word: &AtomicU32, expected: u32, limit: Option<Duration>) {
        // A time beyond what the kernel counts is as good as none.
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        // Whatever it answers, the caller looks at the word.
        let _ = futex::wait(word, Flags::PRIVATE, expected, limit.as_ref());
    }

    /// Wakes one that sleeps.
    pub fn wake_one(word: &AtomicU32) {
        // It fails for no word that there is.
        let _ = futex::wake(word, Flags::PRIVATE, 1);
    }

    /// Wakes all that sleep.
    pub fn wake_all(word: &AtomicU32) {
        let _ = futex::wake(word, Flags::PRIVATE, u32::MAX >> 1);
    }
}

/// The kernel's part, as `make proofs` plays it: no sleep ends because its time is up, so that a wake-up which is lost is a deadlock.
#[cfg(feature = "shuttle")]
mod chosen {
    use std::time::Duration;

    use shuttle::sync::mpsc::{Sender, channel};

    use crate::sys::sync::{AtomicU32, Ordering, PlayedMutex};

    shuttle::lazy_static! {
        /// Those that sleep, by the address of their word.
        static ref SLEEPERS: PlayedMutex<Vec<(usize, Sender<()>)>> = PlayedMutex::default();
    }

    fn address(word: &AtomicU32) -> usize {
        std::ptr::from_ref(word).addr()
    }

    pub fn wait(word: &AtomicU32, expected: u32, _limit: Option<Duration>) {
        let Ok(mut sleepers) = SLEEPERS.lock() else { return };
        if word.load(Ordering::SeqCst) == expected {
            let (waker, woken) = channel();
            sleepers.push((address(word), waker));
            drop(sleepers);
            let _ = woken.recv();
        }
    }

    fn wake(word: &AtomicU32, most: usize) {
        let Ok(mut sleepers) = SLEEPERS.lock() else { return };
        let meant = |(slept, _): &mut (usize, Sender<()>)| *slept == address(word);
        sleepers.extract_if(.., meant).take(most).for_each(|(_, waker)| {
            let _ = waker.send(());
        });
    }

    pub fn wake_one(word: &AtomicU32) {
        wake(word, 1);
    }

    pub fn wake_all(word: &AtomicU32) {
        wake(word, usize::MAX);
    }
}

pub(super) use chosen::*;
