//! Asking for a region back: the guest decides when it lets go, and only then is it removed.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use super::space::AddressSpace;
use crate::model::change::Target;
use crate::model::error::Result;
use crate::model::interrupt::Interrupt;
use crate::model::region::SharedRegion;
use crate::model::wait::{Deadline, Monitor};

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
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
    pub region: SharedRegion,
    state: Monitor<State>,
}

impl UnplugRequest {
    /// What became of it.
    #[must_use]
    pub fn state(&self) -> State {
        *self.state.lock()
    }

    fn settle(&self, state: State) {
        let mut current = self.state.lock();
        if *current == State::Pending {
            *current = state;
        }
        drop(current);
        self.state.notify();
    }

    /// Waits until it is settled, up to a time (`None`: for ever), and gives what became of it.
    pub fn wait(&self, timeout: Option<Duration>, interrupt: &dyn Interrupt) -> Result<State> {
        let pending = |state: &mut State| *state == State::Pending;
        Ok(self.state.wait_until(Deadline::after(timeout), interrupt, pending)?.map_or(State::Pending, |state| *state))
    }
}

/// The requests of a space that are not settled.
#[derive(Debug, Default)]
pub(super) struct UnplugRequests(Monitor<Vec<Arc<UnplugRequest>>>);

impl UnplugRequests {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<UnplugRequest>>> {
        self.0.lock()
    }

    /// Regions were removed: requests for them are done.
    pub(super) fn removed(&self, regions: &[SharedRegion]) {
        let is_removed = |request: &UnplugRequest| regions.iter().any(|region| region.range == request.region.range);
        self.lock().retain(|request| {
            let done = is_removed(request);
            if done {
                request.settle(State::Done);
            }
            !done
        });
    }
}

impl AddressSpace {
    /// Asks for a region: whoever drives the guest sees the request, and removes the region when the guest has let go.
    pub fn request_unplug(&self, target: &Target) -> Result<Arc<UnplugRequest>> {
        self.check_process()?;
        let mut requests = self.unplugs().lock();
        let map = self.map();
        let region = target.find(&map)?;
        if let Some(request) = requests.iter().find(|request| request.region.range == region.range) {
            return Ok(Arc::clone(request));
        }
        let request = Arc::new(UnplugRequest { region: Arc::clone(region), state: Monitor::new(State::Pending) });
        requests.push(Arc::clone(&request));
        Ok(request)
    }

    /// Withdraws a request; one that is settled is left alone.
    pub fn cancel_unplug(&self, request: &Arc<UnplugRequest>) {
        self.unplugs().lock().retain(|other| !Arc::ptr_eq(other, request));
        request.settle(State::Cancelled);
    }

    /// The requests that are pending, oldest first.
    #[must_use]
    pub fn unplug_requests(&self) -> Vec<Arc<UnplugRequest>> {
        self.unplugs().lock().clone()
    }
}
