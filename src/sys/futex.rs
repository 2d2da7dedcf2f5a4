//! Sleeping until a word changes: one of ours, or words that other processes share.

use std::io::Error;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::errno::{self, EINTR, ETIMEDOUT};

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

/// The most words that one thread sleeps on.
pub const MOST_WORDS: usize = 128;

/// `FUTEX2_SIZE_U32`: the kernel has no other size.
const SIZE_U32: u32 = 2;
const NANOSECONDS: u64 = 1_000_000_000;

/// A word that other processes may change, and the value that it is slept on with; the kernel's `struct futex_waitv`.
///
/// Only the kernel looks at the address, which may be anybody's or nobody's by now. Aligned to its own size.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Word {
    expected: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

impl Word {
    /// The word at an address; none where the kernel takes none.
    #[must_use]
    pub fn new(address: *const u8, expected: u32) -> Option<Self> {
        let address = address.cast::<u32>();
        address.is_aligned().then(|| Self {
            expected: expected.into(),
            address: u64::try_from(address.addr()).unwrap_or(u64::MAX),
            flags: SIZE_U32,
            reserved: 0,
        })
    }
}

/// The reason for which a sleep on words ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A word changed or somebody woke it, a signal came, or the time is up: look at the words again.
    Awake,
    /// A signal came.
    Signal,
}

/// Sleeps until one of at most [`MOST_WORDS`] words changes and somebody wakes it, or at most `limit`; may end for no reason.
///
/// Where the kernel can't sleep on the words, it sleeps for all of the time.
pub fn wait_any(words: &[Word], limit: Duration) -> Ended {
    let result = match words {
        [] => Err(Error::from_raw_os_error(errno::EINVAL)),
        [word] => wait_one(word, limit),
        // Before Linux 5.16, and in some sandboxes, there is no sleep on several: one is better than none.
        [first, ..] => wait_several(words, limit).or_else(|error| match errno::of(&error) {
            libc::ENOSYS | libc::EPERM => wait_one(first, limit),
            _ => Err(error),
        }),
    };
    match result.map_err(|error| errno::of(&error)) {
        Ok(()) | Err(libc::EAGAIN | ETIMEDOUT) => Ended::Awake,
        Err(EINTR) => Ended::Signal,
        // Read-only anonymous memory has no futexes, and memory that is gone neither: a second look must not come at once.
        Err(_) => {
            std::thread::sleep(limit);
            Ended::Awake
        }
    }
}

fn wait_one(word: &Word, limit: Duration) -> std::io::Result<()> {
    let timeout = timespec(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX));
    // SAFETY: the kernel checks the address; the time is this function's.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.address,
            libc::FUTEX_WAIT,
            word.expected,
            std::ptr::from_ref(&timeout),
            0,
            0,
        )
    };
    errno::check(result).map(drop)
}

fn wait_several(words: &[Word], limit: Duration) -> std::io::Result<()> {
    let count = words.len().min(MOST_WORDS);
    // An end, not a duration.
    let end = now().saturating_add(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX));
    let end = timespec(end);
    // SAFETY: as many words as it is told of; the kernel checks the addresses in them.
    let result = unsafe {
        let clock = libc::CLOCK_MONOTONIC;
        libc::syscall(libc::SYS_futex_waitv, words.as_ptr(), count, 0, std::ptr::from_ref(&end), clock)
    };
    errno::check(result).map(drop)
}

/// The monotonic clock, in nanoseconds.
fn now() -> u64 {
    let mut time = timespec(0);
    // SAFETY: the kernel writes there. The clock is there, so it does not fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0).saturating_mul(NANOSECONDS).saturating_add(nanoseconds.unwrap_or(0))
}

fn timespec(nanoseconds: u64) -> libc::timespec {
    // Both fit: the quotient of a u64 and the remainder.
    let part = |value: u64| value.try_into().unwrap_or(0);
    libc::timespec { tv_sec: part(nanoseconds / NANOSECONDS), tv_nsec: part(nanoseconds % NANOSECONDS) }
}

/// Wakes all who sleep on a word, in any process: how many.
pub fn wake_shared(word: &Word) -> std::io::Result<u64> {
    // SAFETY: the kernel checks the address.
    let woken = unsafe { libc::syscall(libc::SYS_futex, word.address, libc::FUTEX_WAKE, i32::MAX) };
    errno::check(woken).map(|woken| u64::try_from(woken).unwrap_or(0))
}

/// A word of ours that ends the sleep of a thread which sleeps on others too.
#[derive(Debug, Default)]
pub struct Bell(AtomicU32);

impl Bell {
    /// Ends the sleep under way, and the next one unless it is cleared before.
    pub fn ring(&self) {
        self.0.store(1, Ordering::SeqCst);
        // The word is there, so it does not fail.
        let _ = self.word().as_ref().map(wake_shared);
    }

    /// Forgets that it was rung: what is looked at from here on is what a ring would have told of.
    pub fn clear(&self) {
        self.0.store(0, Ordering::SeqCst);
    }

    /// Whether it was rung.
    #[must_use]
    pub fn is_rung(&self) -> bool {
        self.0.load(Ordering::SeqCst) != 0
    }

    /// The word to sleep on while it was not rung.
    #[must_use]
    pub fn word(&self) -> Option<Word> {
        Word::new(self.0.as_ptr().cast(), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn word(value: &AtomicU32, expected: u32) -> Word {
        Word::new(value.as_ptr().cast(), expected).unwrap()
    }

    #[test]
    fn who_expects_another_value_does_not_sleep() {
        let values = [AtomicU32::new(1), AtomicU32::new(2)];
        assert_eq!(wait_any(&[word(&values[0], 0)], LONG), Ended::Awake);
        assert_eq!(wait_any(&[word(&values[0], 1), word(&values[1], 0)], LONG), Ended::Awake);
    }

    #[test]
    fn a_bell_wakes_who_sleeps_on_many_words() {
        let (bell, values) = (Bell::default(), [const { AtomicU32::new(0) }; MOST_WORDS - 1]);
        let words: Vec<_> = bell.word().into_iter().chain(values.iter().map(|value| word(value, 0))).collect();
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| wait_any(&words, LONG));
            bell.ring();
            assert_eq!(sleeper.join().unwrap(), Ended::Awake);
        });
        assert!(bell.is_rung());
        bell.clear();
        assert!(!bell.is_rung());
    }

    #[test]
    fn where_nobody_can_sleep_the_time_passes_all_the_same() {
        let begin = std::time::Instant::now();
        let limit = Duration::from_millis(2);
        for words in [&[][..], &[Word::new(std::ptr::null(), 0).unwrap()]] {
            assert_eq!(wait_any(words, limit), Ended::Awake);
        }
        assert!(begin.elapsed() >= limit * 2);
        assert!(Word::new(std::ptr::without_provenance(2), 0).is_none());
        assert!(wake_shared(&Word::new(std::ptr::null(), 0).unwrap()).is_err());
    }
}
