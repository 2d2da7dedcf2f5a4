//! Writers take turns: a token rather than a mutex guard, so that waiting for it can be interrupted and re-entry is refused.

use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use crate::model::error::{Error, Result};
use crate::model::interrupt::Interrupt;
use crate::model::wait::{Monitor, SLICE};

/// How long one call of a client is waited for: a client that waits for a thread which waits for the turn never comes back.
pub const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Owner {
    thread: ThreadId,
    client: Option<Arc<str>>,
    phase: &'static str,
    since: Instant,
}

/// The right to publish the next snapshot.
#[derive(Debug, Default)]
pub struct Turn(Monitor<Option<Owner>>);

/// A turn taken; dropping it lets the next writer in.
#[derive(Debug)]
pub struct TurnGuard<'a> {
    turn: &'a Turn,
}

impl Turn {
    /// Waits for the turn; must be called without the interpreter's lock. A thread that has it already is refused at once.
    pub fn take(&self, interrupt: &dyn Interrupt) -> Result<TurnGuard<'_>> {
        let thread = thread::current().id();
        loop {
            let owner = self.0.lock();
            if let Some(owner) = owner.as_ref().filter(|owner| owner.thread == thread) {
                return Err(Error::Reentrant { message: owner.refusal() });
            }
            let mut owner = self.0.wait(owner, SLICE, |owner| owner.is_some());
            owner.as_ref().map_or(Ok(()), Owner::check_client_timeout)?;
            if owner.is_none() {
                *owner = Some(Owner { thread, client: None, phase: "change", since: Instant::now() });
                return Ok(TurnGuard { turn: self });
            }
            drop(owner);
            interrupt.check()?;
        }
    }

    /// Refuses to wait longer for a client that does not come back.
    pub fn check_client_timeout(&self) -> Result<()> {
        self.0.lock().as_ref().map_or(Ok(()), Owner::check_client_timeout)
    }

    /// Whether the running thread has the turn.
    #[must_use]
    pub fn is_mine(&self) -> bool {
        self.0.lock().as_ref().is_some_and(|owner| owner.thread == thread::current().id())
    }
}

impl Owner {
    fn refusal(&self) -> String {
        format!(
            "a change from inside a change: this thread is in the {}; make it after that has returned",
            self.whereabouts()
        )
    }

    fn whereabouts(&self) -> String {
        let client = self.client.as_ref().map(|name| format!(" of client {name:?}"));
        format!("{}{} since {:.1} s", self.phase, client.unwrap_or_default(), self.since.elapsed().as_secs_f64())
    }

    fn check_client_timeout(&self) -> Result<()> {
        if self.client.is_none() || self.since.elapsed() < CLIENT_TIMEOUT {
            return Ok(());
        }
        let message = format!(
            "another change is in the {}, and this one will not wait for it any longer: nothing was changed; \
             a client must not wait for a thread that changes the space or takes what is being removed",
            self.whereabouts()
        );
        Err(Error::Client { message, raised: None })
    }
}

impl TurnGuard<'_> {
    /// Notes which client is being asked, for the errors of others.
    pub(super) fn enter(&self, client: Option<&Arc<str>>, phase: &'static str) {
        if let Some(owner) = self.turn.0.lock().as_mut() {
            owner.client = client.cloned();
            owner.phase = phase;
            owner.since = Instant::now();
        }
    }
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        *self.turn.0.lock() = None;
        self.turn.0.notify();
    }
}
