//! Writers take turns: a token rather than a mutex guard, so that waiting for it can be interrupted and re-entry is refused.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use crate::model::error::{Error, Result};
use crate::model::interrupt::Interrupt;

/// How long anything waits between two looks at the caller's [`Interrupt`].
pub const SLICE: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct Owner {
    thread: ThreadId,
    client: Option<String>,
    phase: &'static str,
    since: Instant,
}

/// The right to publish the next snapshot.
#[derive(Debug, Default)]
pub struct Turn {
    owner: Mutex<Option<Owner>>,
    free: Condvar,
}

/// A turn taken; dropping it lets the next writer in.
#[derive(Debug)]
pub struct TurnGuard<'a> {
    turn: &'a Turn,
}

impl Turn {
    fn lock(&self) -> MutexGuard<'_, Option<Owner>> {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn; must be called without the interpreter's lock. A thread that has it already is refused at once.
    pub fn take(&self, interrupt: &dyn Interrupt) -> Result<TurnGuard<'_>> {
        let thread = thread::current().id();
        loop {
            let owner = self.lock();
            if let Some(owner) = owner.as_ref().filter(|owner| owner.thread == thread) {
                return Err(Error::Reentrant { message: owner.refusal() });
            }
            let (mut owner, _) = self
                .free
                .wait_timeout_while(owner, SLICE, |owner| owner.is_some())
                .unwrap_or_else(PoisonError::into_inner);
            if owner.is_none() {
                *owner = Some(Owner { thread, client: None, phase: "change", since: Instant::now() });
                return Ok(TurnGuard { turn: self });
            }
            drop(owner);
            interrupt.check()?;
        }
    }

    /// Whether the running thread has the turn.
    #[must_use]
    pub fn is_mine(&self) -> bool {
        self.lock().as_ref().is_some_and(|owner| owner.thread == thread::current().id())
    }
}

impl Owner {
    fn refusal(&self) -> String {
        let who = self.client.as_deref().map_or_else(String::new, |client| format!(" of client {client:?}"));
        let seconds = self.since.elapsed().as_secs_f64();
        format!(
            "a change from inside a change: this thread is in the {}{who} since {seconds:.1} s; make it after that has returned",
            self.phase
        )
    }
}

impl TurnGuard<'_> {
    /// Notes which client is being asked, for the errors of others.
    pub fn enter(&self, client: Option<&str>, phase: &'static str) {
        if let Some(owner) = self.turn.lock().as_mut() {
            owner.client = client.map(str::to_owned);
            owner.phase = phase;
        }
    }
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        *self.turn.lock() = None;
        self.turn.free.notify_one();
    }
}

/// When waiting ends; `None` stands for never.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// `timeout` from now; one too long to be told from for ever is for ever.
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
