//! A lease as the storage notes it.

use std::time::{Duration, Instant};

use super::window::Window;
use crate::model::error::LeaseInfo;
use crate::model::ids::Place;
use crate::model::range::Range;

/// A view or pin of this age does not end soon. One that does may take that long on a busy machine.
pub(super) const LASTING: Duration = Duration::from_secs(1);

/// Whether the lease is a view or a pin, through which a user touches the memory, and not one of our verbs.
pub(super) fn is_users(lease: &LeaseInfo) -> bool {
    matches!(lease.what, "view" | "pin")
}

/// How bytes may be written under a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// Not at all.
    Never,
    /// By a verb, which marks what it has written.
    Marked,
    /// By who knows the address, seen by nobody.
    Unseen,
}

/// A lease on part of a storage, taken through a place.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldLease {
    pub(super) what: &'static str,
    pub(super) place: Place,
    pub(super) part: Range,
    pub(super) writes: Writes,
    pub(super) since: Instant,
}

impl HeldLease {
    /// Whether a drain would wait for it in vain, and new leases for the drain.
    pub(super) fn is_lasting(&self, window: &Window) -> bool {
        is_users(&self.info(window)) && self.since.elapsed() >= LASTING
    }

    /// The lease as it is told, at the addresses that its bytes have by now.
    pub(super) fn info(&self, window: &Window) -> LeaseInfo {
        let address = window.guest_of(self.part).base();
        let is_writable = self.writes == Writes::Unseen;
        LeaseInfo { what: self.what, address, size: self.part.size(), is_writable, pid: None }
    }
}
