//! A client's membership in a space, from the first offer until it has left.

use std::os::fd::RawFd;
use std::sync::Arc;

use super::client::Client;
use super::proposal::Proposal;
use crate::model::error::{Error, Result};
use crate::model::interrupt::Interrupt;
use crate::model::journal::{self, Level};
use crate::sys::event::Event;
use crate::sys::once::Once;
use crate::sys::sync::{AtomicBool, AtomicU8, Ordering};

/// The maker of a subscription, who is told how it ends: in the turn, without the interpreter's lock.
pub trait Subscriber: Send + Sync {
    /// The client failed where nothing can be undone. It follows no later change, and keeps what it holds until it leaves.
    fn failed(&self, error: Error);

    /// The client has left, and holds nothing.
    fn left(&self);
}

/// How far a subscription is: the client has not yet taken what is there.
const NEW: u8 = 0;
const FOLLOWING: u8 = 1;
/// The client is to leave as soon as the change under way is decided.
const LEAVING: u8 = 2;
const FAILED: u8 = 3;
const LEFT: u8 = 4;

/// A client's membership in a space.
pub struct Subscription {
    client: Arc<dyn Client>,
    subscriber: Box<dyn Subscriber>,
    name: Arc<str>,
    /// One of the above.
    status: AtomicU8,
    /// Whether the client was offered the regions that are there.
    has_seen_regions: AtomicBool,
    /// Made when it is first asked for.
    event: Once<Event>,
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
            status: AtomicU8::new(NEW),
            has_seen_regions: AtomicBool::new(true),
            event: Once::new(),
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

    /// Whether the client writes where nobody in this process sees it.
    pub fn writes_unseen(&self) -> bool {
        self.client.writes_unseen()
    }

    /// Whether the client follows later changes.
    #[must_use]
    pub fn is_following(&self) -> bool {
        self.status.load(Ordering::Acquire) == FOLLOWING && !self.client.is_over()
    }

    /// A descriptor that becomes readable with each change that was committed.
    pub fn event(&self) -> std::io::Result<RawFd> {
        self.event.get_or_try_init(Event::new).map(Event::descriptor)
    }

    /// Makes the descriptor readable, if anybody has it.
    pub(super) fn wake(&self) {
        if let Some(event) = self.event.get() {
            event.signal();
        }
    }

    pub(super) fn begin(&self) {
        // One that was told to leave meanwhile does so.
        let _ = self.status.compare_exchange(NEW, FOLLOWING, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Lets the client leave when the turn ends.
    pub(super) fn leave_later(&self) {
        // One that has left stays so.
        let later = |status| (status != LEFT).then_some(LEAVING);
        let _ = self.status.fetch_update(Ordering::AcqRel, Ordering::Acquire, later);
    }

    /// Whether the client is to leave now that nothing is being decided: it was told to, or has nothing to follow any more.
    ///
    /// A client that failed waits until it is told to: its slots may be all that a guest which still runs has.
    pub(super) fn is_leaving(&self) -> bool {
        let status = self.status.load(Ordering::Acquire);
        status == LEAVING || (status == FOLLOWING && self.client.is_over())
    }

    /// Lets the client leave, in the turn; it does so once. [`has_ended`](Self::has_ended) must follow.
    pub(super) fn leave(&self, interrupt: &dyn Interrupt) -> Result<()> {
        let before = self.status.swap(LEFT, Ordering::AcqRel);
        if before == LEFT { Ok(()) } else { self.client.leave(interrupt) }
    }

    /// Tells the subscriber that the client has left.
    pub(super) fn has_ended(&self) {
        self.subscriber.left();
    }

    /// Ends the subscription after an error that can't be returned to anyone.
    pub(super) fn fail(&self, error: Error) {
        // A client that failed no longer agrees with the space: asked about later changes, it would do harm.
        // One that was told to leave does so all the same.
        let _ = self.status.compare_exchange(FOLLOWING, FAILED, Ordering::AcqRel, Ordering::Acquire);
        journal::note(Level::Warning, || format!("{} failed, and follows no more: {error}", self.name));
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
        self.wake();
        Ok(())
    }
}
