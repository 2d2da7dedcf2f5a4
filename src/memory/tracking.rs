//! The consumers of a storage, who want to know which of its pages were written, and those who see the writes.

use std::result::Result;
use std::sync::{Arc, Weak};

use super::dirty::{DirtyBitmap, WriteLog};
use super::watch::Watch;
use crate::model::ids::ConsumerId;
use crate::model::tracking::{Observer, TrackingMode};
use crate::sys::fork::Forked;
use crate::sys::lock::Lock;
use crate::sys::once::Once;
use crate::sys::sync::{AtomicBool, Ordering};

/// One who wants to know, wherever in a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Which one.
    pub id: ConsumerId,
    /// The way in which it wants them to be seen.
    pub mode: TrackingMode,
    /// Whether pages that are not there yet are watched too, so that a page that is only read does not count as written.
    pub is_exact: bool,
}

/// A consumer of one storage, with pages of its own: what one takes, the others still find.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) id: ConsumerId,
    pub(super) observer: Observer,
    pub(super) is_exact: bool,
    pub(super) pages: Arc<DirtyBitmap>,
}

/// All consumers of a storage, and all that see writes to it.
#[derive(Debug, Default)]
pub(super) struct Tracking {
    pub(super) followers: Lock<Vec<Follower>>,
    /// Our own writes, from the first time on when somebody wants them.
    pub(super) bitmap: Once<DirtyBitmap>,
    pub(super) is_marking: AtomicBool,
    pub(super) watch: Lock<Option<Arc<Watch>>>,
    /// Clients that log what a guest writes.
    pub(super) logs: Lock<Vec<Weak<dyn WriteLog>>>,
}

impl Tracking {
    /// The bitmap of our own writes, while somebody wants them.
    pub(super) fn bitmap(&self) -> Option<&DirtyBitmap> {
        self.bitmap.get().filter(|_| self.is_marking.load(Ordering::Acquire))
    }

    /// Tells the followers of some observers of written pages.
    pub(super) fn note(&self, concerns: impl Fn(Observer) -> bool, tell: &dyn Fn(&DirtyBitmap)) -> Result<(), Forked> {
        let followers = self.followers.lock()?;
        followers.iter().filter(|follower| concerns(follower.observer)).for_each(|follower| tell(&follower.pages));
        Ok(())
    }

    pub(super) fn has(&self, concerns: impl Fn(Observer) -> bool) -> Result<bool, Forked> {
        Ok(self.followers.lock()?.iter().any(|follower| concerns(follower.observer)))
    }

    pub(super) fn find(&self, id: ConsumerId) -> Result<Option<(Observer, Arc<DirtyBitmap>)>, Forked> {
        let followers = self.followers.lock()?;
        let follower = followers.iter().find(|follower| follower.id == id);
        Ok(follower.map(|follower| (follower.observer, Arc::clone(&follower.pages))))
    }

    /// Tells the others who see our own writes of pages that one of the consumers put back.
    pub(super) fn note_restored(&self, id: ConsumerId, tell: &dyn Fn(&DirtyBitmap)) -> Result<(), Forked> {
        let followers = self.followers.lock()?;
        let others = followers.iter().filter(|other| other.id != id && sees_ours(other.observer));
        others.for_each(|other| tell(&other.pages));
        Ok(())
    }

    /// Whether the kernel watches for that consumer alone, so that pages may be left unprotected for it.
    pub(super) fn is_alone(&self, id: ConsumerId) -> Result<bool, Forked> {
        let followers = self.followers.lock()?;
        Ok(followers.iter().all(|other| other.id == id || other.observer != Observer::Pagemap))
    }

    pub(super) fn watch(&self) -> Result<Option<Arc<Watch>>, Forked> {
        Ok(self.watch.lock()?.clone())
    }
}

pub(super) const fn sees_ours(observer: Observer) -> bool {
    matches!(observer, Observer::Api | Observer::Kvm)
}

pub(super) fn sees_guest(observer: Observer) -> bool {
    observer == Observer::Kvm
}
