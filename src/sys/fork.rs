//! Whether this process is a forked child of the one that made an object.

use std::sync::Once;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

static EPOCH: AtomicU32 = AtomicU32::new(0);
/// The process id, asked once a process; 0 when not asked yet.
static PID: AtomicI32 = AtomicI32::new(0);
static HOOK: Once = Once::new();

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

/// The process that made an object, told apart from its forked children by a counter that they bump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(u32);

impl Process {
    /// The process that runs.
    #[must_use]
    pub fn current() -> Self {
        // A hook can't be removed again, so the process registers one.
        HOOK.call_once(|| {
            // SAFETY: the hook only writes atomics, which is allowed between fork and exec.
            let _ = unsafe { libc::pthread_atfork(Some(before), None, Some(in_child)) };
        });
        Self(EPOCH.load(Ordering::Relaxed))
    }

    /// Whether the running process is still the one of [`current`](Self::current).
    #[inline]
    #[must_use]
    pub fn is_current(self) -> bool {
        // Relaxed: the counter changes only in a child, before fork returns there.
        EPOCH.load(Ordering::Relaxed) == self.0
    }
}

/// How many times this process, or the one that it was forked from, was forked since it first asked for its [`Process`].
#[must_use]
pub fn count() -> u32 {
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
    let _ = Process::current();
    // SAFETY: takes nothing, gives an integer.
    let pid = unsafe { libc::getpid() };
    // Two threads may get here at once, and store the same number.
    PID.store(pid, Ordering::Relaxed);
    pid
}
