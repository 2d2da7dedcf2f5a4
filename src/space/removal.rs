//! Taking memory away that others may hold: at once, or as soon as they let it go.

use std::sync::Arc;
use std::time::Duration;

use super::memory_participant::MemoryParticipant;
use super::proposal::Proposal;
use super::space::AddressSpace;
use super::state::SpaceState;
use super::subscription::Subscription;
use crate::memory::lease::WeakRegion;
use crate::memory::mapped_regions::MappedRegions;
use crate::model::change::{Change, ChangeRequest, MapOperation, RegionTarget};
use crate::model::error::{Error, Result};
use crate::model::ids::Incarnation;
use crate::model::interrupt::Interrupt;
use crate::model::region::SharedRegion;
use crate::model::region_map::RegionMap;
use crate::model::wait::Deadline;

/// A caller's way with leases that are in the way.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long they are waited for; `None`: for ever.
    pub timeout: Option<Duration>,
    /// Called once, before the first wait or the refusal: it may free leases.
    pub when_busy: fn(),
}

impl AddressSpace {
    /// Removes a region; while it is leased, waits and tries again.
    ///
    /// It looks the region up anew each time: another writer may have replaced or removed it.
    pub fn remove(
        &self,
        target: &RegionTarget,
        patience: Patience,
        interrupt: &dyn Interrupt,
    ) -> Result<Arc<RegionMap>> {
        let removal = [MapOperation::Remove(target.clone())];
        self.until_free(patience, interrupt, || self.decided(&ChangeRequest::of(&removal), interrupt))
    }

    /// Unmaps all regions; while one is leased, waits and tries again. A memory that is closed already stays so.
    pub fn close_memory(&self, incarnation: Incarnation, patience: Patience, interrupt: &dyn Interrupt) -> Result<()> {
        self.until_free(patience, interrupt, || self.close_free_memory(incarnation, interrupt))
    }

    fn close_free_memory(&self, incarnation: Incarnation, interrupt: &dyn Interrupt) -> Result<()> {
        // The leader of one that follows may be silent in the midst of a change, which has the turn.
        if self.following().is_some() && self.turn().try_take(interrupt)?.is_none() {
            self.follow_no_more();
        }
        self.close_asking(Some(incarnation), None, interrupt)?;
        self.follow_no_more();
        Ok(())
    }

    /// Closes one memory, or the one that is there; a follower's leader has the last word.
    pub(super) fn close_asking(
        &self,
        incarnation: Option<Incarnation>,
        word: Option<Arc<Subscription>>,
        interrupt: &dyn Interrupt,
    ) -> Result<()> {
        let turn = self.take_turn(interrupt)?;
        let before = self.load_full();
        let is_meant = |memory: &&MappedRegions| incarnation.is_none_or(|meant| memory.incarnation() == meant);
        let Some(memory) = before.memory().filter(is_meant) else { return Ok(()) };
        let participant = MemoryParticipant::prepare_all(memory)?;
        let proposal = Arc::new(Proposal::new(Change::detach_all(&before.map), before.memory.clone(), None));
        let after = SpaceState { map: Arc::clone(&before.map), memory: None };
        // As in a change: the publication waits for all who have this snapshot.
        drop(before);
        let mut participants = self.participants(&proposal)?;
        participants.extend(word.map(|word| (word, Arc::clone(&proposal))));
        let old = self.publish(&turn, participants, participant, after)?;
        drop(turn);
        drop(old);
        Ok(())
    }

    /// Tries until no lease is in the way. It waits without the turn.
    fn until_free<T>(
        &self,
        patience: Patience,
        interrupt: &dyn Interrupt,
        attempt: impl Fn() -> Result<T>,
    ) -> Result<T> {
        let deadline = Deadline::after(patience.timeout);
        // Before the attempt: what is let go behind it ends the wait.
        let mut released = self.released()?;
        let mut result = attempt();
        if busy_region(&result).is_some() {
            (patience.when_busy)();
            result = attempt();
        }
        let mut drains = true;
        while let Some(region) = busy_region(&result) {
            let Some(slice) = deadline.slice() else { break };
            // Asked before the wait, not behind it: what the wait has cleared is to be removed before anyone comes back.
            interrupt.check()?;
            // Leases that follow or overlap each other for ever would starve the removal: every second slice keeps new ones out. Not every
            // one, or one long access would stop all others for as long as it takes.
            match self.remembered(region) {
                _ if is_held_elsewhere(&result) => self.wait_released(released, slice)?,
                Some(region) if drains => region.leases().drain(slice)?,
                Some(region) => region.leases().wait_free(slice)?,
                None => {}
            }
            drains = !drains;
            released = self.released()?;
            result = attempt();
        }
        // Once, however often it was tried.
        result.inspect_err(|error| self.counters().count_refusal(error))
    }

    /// How often other processes have let something go.
    fn released(&self) -> Result<u64> {
        Ok(*self.releases.lock()?)
    }

    fn wait_released(&self, before: u64, slice: Duration) -> Result<()> {
        self.releases.wait(self.releases.lock()?, slice, |count| *count == before)?;
        Ok(())
    }

    /// Another process has let something go.
    pub fn note_release(&self) {
        // Refused only in a forked child, where nobody waits.
        let _ = self.releases.change(|count| *count = count.wrapping_add(1));
    }

    fn remembered(&self, region: &SharedRegion) -> Option<WeakRegion> {
        self.load().memory()?.find(region.base()).map(WeakRegion::from)
    }
}

fn is_held_elsewhere<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::Busy { leases, .. }) if leases.iter().any(|lease| lease.pid.is_some()))
}

const fn busy_region<T>(result: &Result<T>) -> Option<&SharedRegion> {
    match result {
        Err(Error::Busy { region, .. }) => Some(region),
        _ => None,
    }
}
