//! Whether this process is a forked child of the one that made an object, or that took a lock.

use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

/// 0 until the hook is there; each fork bumps it in the child.
static EPOCH: AtomicU32 = AtomicU32::new(0);
/// The process id, asked once a process; 0 when not asked yet.
static PID: AtomicI32 = AtomicI32::new(0);

/// The refusal of something whose other half is a thread of the parent, which is not in this forked child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forked;

impl From<Forked> for std::io::Error {
    fn from(_: Forked) -> Self {
        Self::new(std::io::ErrorKind::WouldBlock, "locked by a thread of the parent process")
    }
}

/// How often this process was about to be forked.
static FORKS: AtomicU32 = AtomicU32::new(0);

extern "C" fn before() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

extern "C" fn in_child() {
    // Relaxed, for a child begins with this one thread.
    PID.store(0, Ordering::Relaxed);
    EPOCH.fetch_add(1, Ordering::Relaxed);
}

/// The number of this process, which none that it was forked from has; never 0.
#[inline]
pub(super) fn epoch() -> u32 {
    // Relaxed: it changes only in a child, before fork returns there.
    match EPOCH.load(Ordering::Relaxed) {
        0 => first_epoch(),
        epoch => epoch,
    }
}

#[cold]
fn first_epoch() -> u32 {
    // Two threads that come here at once register two hooks, which bump the number twice. It is a new one all the same.
    // SAFETY: the hook only writes atomics, which is allowed between fork and exec.
    let _ = unsafe { libc::pthread_atfork(Some(before), None, Some(in_child)) };
    // Behind the hook: nothing is marked with a number that a child would find unchanged.
    let _ = EPOCH.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed);
    EPOCH.load(Ordering::Relaxed)
}

/// The process that made an object, told apart from its forked children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(u32);

impl Process {
    /// The process that runs.
    #[must_use]
    pub fn current() -> Self {
        Self(epoch())
    }

    /// Whether the running process is still the one of [`current`](Self::current).
    #[inline]
    #[must_use]
    pub fn is_current(self) -> bool {
        epoch() == self.0
    }
}

/// How many times this process, or the one that it was forked from, was forked since it first asked.
#[must_use]
pub fn count() -> u32 {
    // Nothing is counted before the hook is there.
    let _ = epoch();
    FORKS.load(Ordering::Relaxed)
}

/// The id of this process, without a system call for each question.
#[must_use]
pub fn pid() -> i32 {
    let known = PID.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    // A child forgets the id only once the hook is there.
    let _ = epoch();
    // SAFETY: takes nothing, gives an integer.
    let pid = unsafe { libc::getpid() };
    // Two threads may get here at once, and store the same number.
    PID.store(pid, Ordering::Relaxed);
    pid
}
