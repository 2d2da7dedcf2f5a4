//! Clients follow an address space: they may veto its changes, and are told of them.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::proposal::Proposal;
use super::turn::TurnGuard;
use crate::model::error::{Error, Result};
use crate::model::interrupt::Interrupt;
use crate::model::lock::Lock;
use crate::sys::event::Event;

/// A follower of every change: asked before it is published, told after.
///
/// Called in the writer's turn, without the interpreter's lock. Additions are made in `prepare` and removals in `commit`, so that
/// at any moment the guest has at least the memory that both maps have. The exception is a removed region that is in the way of an
/// added one ([`Proposal::removed_before`]): it must go in `prepare` already, and `rollback` puts it back.
pub trait Client: Send + Sync {
    /// The name in errors.
    fn name(&self) -> &str;

    /// Whether it can't follow a space without memory.
    fn needs_memory(&self) -> bool {
        false
    }

    /// Makes additions real and checks removals; an error undoes the whole change, and the client's own part is undone already.
    fn prepare(&self, proposal: &Arc<Proposal>) -> Result<()>;

    /// Makes removals real. The change is published: an error ends the subscription and changes nothing else.
    fn commit(&self, proposal: &Arc<Proposal>) -> Result<()>;

    /// Undoes [`prepare`](Self::prepare); an error ends the subscription.
    fn rollback(&self, proposal: &Arc<Proposal>) -> Result<()>;

    /// Lets go of everything, at the end of the subscription.
    fn leave(&self) -> Result<()> {
        Ok(())
    }

    /// Takes the error that ended the subscription; an error that it gives back is kept in the subscription and reported.
    fn failed(&self, error: Error) -> Option<Error> {
        Some(error)
    }

    /// Whether it has nothing to follow any more.
    fn is_over(&self) -> bool {
        false
    }
}

/// A client and how it fares.
pub struct Subscription {
    client: Arc<dyn Client>,
    name: Arc<str>,
    /// Whether the client was offered the regions that are there: not between the end of a memory, with which it saw all of them go,
    /// and the next one.
    has_seen_regions: AtomicBool,
    /// Set by an end from outside; the client itself may be over too, such as that of a device whose region is gone.
    over: AtomicBool,
    error: Lock<Option<Error>>,
    /// Made when it is first asked for.
    event: OnceLock<Event>,
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Subscription").field("client", &self.client.name()).finish_non_exhaustive()
    }
}

impl Subscription {
    pub(super) fn new(client: Arc<dyn Client>) -> Self {
        Self {
            name: client.name().into(),
            client,
            has_seen_regions: AtomicBool::new(true),
            over: AtomicBool::new(false),
            error: Lock::default(),
            event: OnceLock::new(),
        }
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> &dyn Client {
        &*self.client
    }

    /// Its name in errors.
    #[must_use]
    pub(super) const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The error that ended the subscription.
    #[must_use]
    pub fn error(&self) -> Option<Error> {
        self.error.lock().clone()
    }

    /// Whether the client follows no change any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire) || self.client.is_over()
    }

    /// The client follows no later change.
    pub fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// A descriptor that becomes readable with each change that was committed.
    pub fn event(&self) -> std::io::Result<RawFd> {
        if self.event.get().is_none() {
            // Of two threads that make one at the same time, the first is kept.
            let _ = self.event.set(Event::new()?);
        }
        self.event.get().map(Event::descriptor).ok_or_else(|| std::io::Error::other("no event"))
    }

    pub(super) fn has_seen_regions(&self) -> bool {
        self.has_seen_regions.load(Ordering::Acquire)
    }

    fn fail(&self, error: Error, interrupt: &dyn Interrupt) {
        // A client that failed no longer agrees with the space: asked about later changes, it would do harm.
        self.end();
        if let Some(error) = self.client.failed(error) {
            interrupt.report(self.client.name(), &error);
            *self.error.lock() = Some(error);
        }
    }
}

/// A client and the proposal that it is asked about.
pub(super) type Participant = (Arc<Subscription>, Arc<Proposal>);

/// Clients that prepared a change; those not committed are rolled back, in reverse.
pub(super) struct Prepared<'a> {
    turn: &'a TurnGuard<'a>,
    interrupt: &'a dyn Interrupt,
    done: Vec<Participant>,
}

impl<'a> Prepared<'a> {
    /// Asks each client in order of subscription; the first refusal undoes the others.
    ///
    /// A client that refused has undone its own part: it is not among those that are rolled back.
    pub(super) fn all(
        participants: Vec<Participant>,
        turn: &'a TurnGuard<'a>,
        interrupt: &'a dyn Interrupt,
    ) -> Result<Self> {
        let mut prepared = Self { turn, interrupt, done: Vec::with_capacity(participants.len()) };
        for (subscription, proposal) in participants {
            // Noted before the call: writers that wait name this client, and give up on one that never comes back.
            turn.enter(Some(&subscription.name), "prepare");
            subscription.client.prepare(&proposal)?;
            prepared.done.push((subscription, proposal));
        }
        turn.enter(None, "change");
        Ok(prepared)
    }

    /// Tells each client in order that the change is published, and returns those that failed at it.
    pub(super) fn commit(mut self) -> Vec<(Arc<Subscription>, Error)> {
        let mut failures = Vec::new();
        // Taken out first: from here on nothing is rolled back, for the change is published.
        for (subscription, proposal) in std::mem::take(&mut self.done) {
            self.turn.enter(Some(&subscription.name), "commit");
            // Before the client is told: whatever it answers, the regions are there for it, or gone.
            subscription.has_seen_regions.store(!proposal.ends_memory(), Ordering::Release);
            // The others are told whatever one of them answers, for the change is a fact.
            match subscription.client.commit(&proposal) {
                Ok(()) => subscription.event.get().map(Event::signal).unwrap_or_default(),
                Err(error) => failures.push((subscription, error)),
            }
        }
        self.turn.enter(None, "change");
        failures
    }

    /// [`commit`](Self::commit); a failure ends the subscription, which reports it.
    pub(super) fn commit_all(self) {
        let interrupt = self.interrupt;
        for (subscription, error) in self.commit() {
            subscription.fail(error, interrupt);
        }
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        // In reverse, so that a client finds those before it as they were when it was asked. A panic of a client comes here too.
        for (subscription, proposal) in self.done.iter().rev() {
            self.turn.enter(Some(&subscription.name), "rollback");
            if let Err(error) = subscription.client.rollback(proposal) {
                subscription.fail(error, self.interrupt);
            }
        }
        self.turn.enter(None, "change");
    }
}
