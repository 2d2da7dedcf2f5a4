//! A copy that may outlive the call that began it, because a userfaultfd handler does not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::lease::Lease;
use super::mapping::Mapping;

const RUNNING: u8 = 0;
const GIVEN_UP: u8 = 1;
const ENDED: u8 = 2;

/// What such a copy holds until it ends: the lease, so that nothing else can come to lie where it reads or writes.
#[derive(Debug)]
pub(super) struct AbandonedCopy {
    lease: Lease,
    state: Arc<AtomicU8>,
}

/// The caller's side.
#[derive(Debug)]
pub(super) struct CopyHandle(Arc<AtomicU8>);

impl AbandonedCopy {
    pub(super) fn new(lease: Lease) -> (Self, CopyHandle) {
        let state = Arc::new(AtomicU8::new(RUNNING));
        (Self { lease, state: Arc::clone(&state) }, CopyHandle(state))
    }
}

impl CopyHandle {
    /// Nobody waits any more: until the copy ends, the mapping counts as pending_copies.
    pub(super) fn give_up(&self, mapping: &Mapping) {
        if self.0.compare_exchange(RUNNING, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            mapping.pending_copies.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Drop for AbandonedCopy {
    fn drop(&mut self) {
        // When this comes before the addition the count wraps for a moment, which is not 0 either.
        if self.state.swap(ENDED, Ordering::AcqRel) == GIVEN_UP {
            self.lease.mapping().pending_copies.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
