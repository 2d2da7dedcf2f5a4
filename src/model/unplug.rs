//! Requests for regions: the guest decides when it lets go of one, and only then is it removed.

use std::sync::Arc;
use std::time::Duration;

use super::error::Result;
use super::interrupt::Interrupt;
use super::region_map::RegionEntry;
use super::wait::{Deadline, Monitor};

/// The outcome of a request, or that there is none yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnplugState {
    /// The region is still there.
    Pending,
    /// The region was removed.
    Done,
    /// The request was withdrawn.
    Cancelled,
}

/// A request that a region be given up.
#[derive(Debug)]
pub struct UnplugRequest {
    /// The region as it was when it was asked for.
    pub region: RegionEntry,
    state: Monitor<UnplugState>,
}

impl UnplugRequest {
    fn new(region: RegionEntry) -> Self {
        Self { region, state: Monitor::new(UnplugState::Pending) }
    }

    /// The outcome so far.
    pub fn state(&self) -> Result<UnplugState> {
        Ok(*self.state.lock()?)
    }

    fn settle(&self, outcome: UnplugState) {
        // Refused only in a forked child, where the request is a copy that nobody waits for.
        let _ = self.state.change(|state| *state = outcome);
    }

    /// Waits until it is settled, up to a time (`None`: for ever), and gives the outcome by then.
    pub fn wait(&self, timeout: Option<Duration>, interrupt: &dyn Interrupt) -> Result<UnplugState> {
        let is_pending = |state: &mut UnplugState| *state == UnplugState::Pending;
        let settled = self.state.wait_until(Deadline::after(timeout), interrupt, is_pending)?;
        Ok(settled.map_or(UnplugState::Pending, |state| *state))
    }
}

/// The requests of a space that are not settled.
#[derive(Debug, Default)]
pub struct UnplugTable {
    pending: Vec<Arc<UnplugRequest>>,
}

impl UnplugTable {
    /// The requests that are not settled, oldest first.
    #[must_use]
    pub fn pending(&self) -> &[Arc<UnplugRequest>] {
        &self.pending
    }

    /// The request for a region: a new one, or the one that there is.
    pub fn request(&mut self, region: &RegionEntry) -> Arc<UnplugRequest> {
        if let Some(request) = self.pending.iter().find(|request| request.region.id == region.id) {
            return Arc::clone(request);
        }
        let request = Arc::new(UnplugRequest::new(region.clone()));
        self.pending.push(Arc::clone(&request));
        request
    }

    /// Withdraws a request; one that is settled is left alone.
    pub fn cancel(&mut self, request: &UnplugRequest) {
        self.settle(UnplugState::Cancelled, |other| std::ptr::eq(other, request));
    }

    /// Regions were removed: the requests for them are done.
    pub fn removed(&mut self, regions: &[RegionEntry]) {
        self.settle(UnplugState::Done, |request| regions.iter().any(|region| region.id == request.region.id));
    }

    fn settle(&mut self, outcome: UnplugState, is_meant: impl Fn(&UnplugRequest) -> bool) {
        // A settled request leaves the table with that, so that the first outcome stays when a withdrawal races the removal.
        self.pending.extract_if(.., |request| is_meant(request)).for_each(|request| request.settle(outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::interrupt::Uninterrupted;
    use crate::model::range::Range;
    use crate::model::region::{Region, RegionType};
    use crate::model::source::Source;

    fn region() -> RegionEntry {
        let range = Range::new(0, 0x1000).unwrap();
        RegionEntry::new(Arc::new(Region::new(RegionType::DefaultMemory, range, Source::default()).unwrap()))
    }

    #[test]
    fn a_region_is_asked_for_once() {
        let (mut table, region) = (UnplugTable::default(), region());
        let request = table.request(&region);
        assert!(Arc::ptr_eq(&request, &table.request(&region)));
        assert_eq!(table.pending().len(), 1);
    }

    #[test]
    fn the_removal_of_an_equal_region_settles_nothing() {
        let (mut table, old, new) = (UnplugTable::default(), region(), region());
        let (first, second) = (table.request(&old), table.request(&new));
        table.removed(std::slice::from_ref(&old));
        assert_eq!((first.state().unwrap(), second.state().unwrap()), (UnplugState::Done, UnplugState::Pending));
        assert!(Arc::ptr_eq(&table.pending()[0], &second));
    }

    #[test]
    fn the_first_outcome_counts() {
        let mut table = UnplugTable::default();
        let (region, other) = (region(), region());
        let (done, cancelled) = (table.request(&region), table.request(&other));
        table.removed(std::slice::from_ref(&region));
        table.cancel(&done);
        table.cancel(&cancelled);
        let again = table.request(&other);
        table.cancel(&cancelled);
        assert_eq!(again.state().unwrap(), UnplugState::Pending);
        table.removed(std::slice::from_ref(&other));
        assert_eq!((done.state().unwrap(), cancelled.state().unwrap()), (UnplugState::Done, UnplugState::Cancelled));
        assert!(table.pending().is_empty());
    }

    #[test]
    fn a_waiter_wakes_when_the_request_is_settled() {
        let (mut table, region) = (UnplugTable::default(), region());
        let request = table.request(&region);
        assert_eq!(request.wait(Some(Duration::ZERO), &Uninterrupted).unwrap(), UnplugState::Pending);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| request.wait(None, &Uninterrupted).unwrap());
            table.removed(std::slice::from_ref(&region));
            assert_eq!(waiter.join().unwrap(), UnplugState::Done);
        });
    }
}
