//! A client's membership in a space, from the first offer until it has left.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::client::Client;
use super::proposal::Proposal;
use crate::model::error::{Error, Result};
use crate::model::interrupt::Interrupt;
use crate::model::lock::{Lock, LockGuard};
use crate::sys::event::Event;

/// The maker of a subscription, who is told how it ends: in the turn, without the interpreter's lock.
pub trait Subscriber: Send + Sync {
    /// The client failed where nothing can be undone. It follows no later change, and keeps what it holds until it leaves.
    fn failed(&self, error: Error);

    /// The client has left, and holds nothing.
    fn left(&self);
}

/// How far a subscription is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// The client has not yet taken what is there.
    New,
    Following,
    /// The client is to leave as soon as the change under way is decided.
    Leaving,
    Failed,
    Left,
}

/// A client's membership in a space.
pub struct Subscription {
    client: Arc<dyn Client>,
    subscriber: Box<dyn Subscriber>,
    name: Arc<str>,
    status: Lock<Status>,
    /// Whether the client was offered the regions that are there.
    has_seen_regions: AtomicBool,
    /// Made when it is first asked for.
    event: OnceLock<Event>,
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Subscription").field("client", &self.client.name()).finish_non_exhaustive()
    }
}

impl Subscription {
    /// A membership that begins with [`AddressSpace::subscribe`](super::AddressSpace::subscribe).
    #[must_use]
    pub fn new(client: Arc<dyn Client>, subscriber: Box<dyn Subscriber>) -> Self {
        Self {
            name: client.name().into(),
            client,
            subscriber,
            status: Lock::new(Status::New),
            has_seen_regions: AtomicBool::new(true),
            event: OnceLock::new(),
        }
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> &dyn Client {
        &*self.client
    }

    /// The client's name in errors.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether the client follows later changes.
    #[must_use]
    pub fn is_following(&self) -> bool {
        *self.status() == Status::Following && !self.client.is_over()
    }

    /// A descriptor that becomes readable with each change that was committed.
    pub fn event(&self) -> std::io::Result<RawFd> {
        if self.event.get().is_none() {
            // Of two threads that make one at the same time, the first is kept.
            let _ = self.event.set(Event::new()?);
        }
        self.event.get().map(Event::descriptor).ok_or_else(|| std::io::Error::other("no event"))
    }

    fn status(&self) -> LockGuard<'_, Status> {
        self.status.lock()
    }

    pub(super) fn begin(&self) {
        *self.status() = Status::Following;
    }

    /// Lets the client leave when the turn ends.
    pub(super) fn leave_later(&self) {
        let mut status = self.status();
        if *status != Status::Left {
            *status = Status::Leaving;
        }
    }

    /// Whether the client is to leave now that nothing is being decided: it was told to, or has nothing to follow any more.
    ///
    /// A client that failed waits until it is told to: its slots may be all that a guest which still runs has.
    pub(super) fn is_leaving(&self) -> bool {
        let status = *self.status();
        status == Status::Leaving || (status == Status::Following && self.client.is_over())
    }

    /// Lets the client leave, in the turn; it does so once. [`has_ended`](Self::has_ended) must follow.
    pub(super) fn leave(&self, interrupt: &dyn Interrupt) -> Result<()> {
        // The lock ends with this statement: a client that leaves may ask for the status.
        let before = std::mem::replace(&mut *self.status(), Status::Left);
        if before == Status::Left { Ok(()) } else { self.client.leave(interrupt) }
    }

    /// Tells the subscriber that the client has left.
    pub(super) fn has_ended(&self) {
        self.subscriber.left();
    }

    /// Ends the subscription after an error that can't be returned to anyone.
    pub(super) fn fail(&self, error: Error) {
        // A client that failed no longer agrees with the space: asked about later changes, it would do harm.
        let mut status = self.status();
        // One that was told to leave does so all the same.
        if *status == Status::Following {
            *status = Status::Failed;
        }
        drop(status);
        self.subscriber.failed(error);
    }

    /// Whether the client was offered the regions that are there.
    pub(super) fn has_seen_regions(&self) -> bool {
        self.has_seen_regions.load(Ordering::Acquire)
    }

    /// Tells the client that a change is published.
    pub(super) fn commit(&self, proposal: &Arc<Proposal>, interrupt: &dyn Interrupt) -> Result<()> {
        // Before the client is told: whatever it answers, the regions are there for it, or gone.
        self.has_seen_regions.store(!proposal.ends_memory(), Ordering::Release);
        self.client.commit(proposal, interrupt)?;
        if let Some(event) = self.event.get() {
            event.signal();
        }
        Ok(())
    }
}
