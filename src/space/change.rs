//! The way from one snapshot to the next: all of it, or nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::memory_participant::MemoryParticipant;
use super::prepared::{Participant, Prepared};
use super::proposal::Proposal;
use super::space::AddressSpace;
use super::state::SpaceState;
use super::subscribe::WriterTurn;
use crate::memory::lease::Leases;
use crate::memory::mapped_regions::MappedRegions;
use crate::memory::mapper::Mapper;
use crate::memory::region::MappedRegion;
use crate::memory::source;
use crate::model::change::{Change, Operation, Replay, Target};
use crate::model::error::{Error, Result};
use crate::model::interrupt::Interrupt;
use crate::model::region::{Region, SharedRegion};
use crate::model::region_map::RegionMap;

/// Memory mapped before the turn was taken, by the identity of its description.
type Ahead = HashMap<*const Region, Arc<MappedRegion>>;

impl AddressSpace {
    /// Applies the operations to the current map and publishes the result once, or changes nothing.
    ///
    /// Must be called without the interpreter's lock. Mapping is done before the turn is taken, so that a slow one delays nobody.
    pub fn change(
        &self,
        operations: &[Operation],
        if_generation: Option<u64>,
        interrupt: &dyn Interrupt,
    ) -> Result<Arc<RegionMap>> {
        self.change_within(None, operations, if_generation, interrupt)
    }

    /// [`change`](Self::change) for the holder of a reservation, who alone may insert there.
    pub(super) fn change_within(
        &self,
        reservation: Option<u64>,
        operations: &[Operation],
        if_generation: Option<u64>,
        interrupt: &dyn Interrupt,
    ) -> Result<Arc<RegionMap>> {
        self.check_process()?;
        let mut ahead = self.map_ahead(reservation, operations, if_generation, interrupt)?;
        let turn = self.take_turn(interrupt)?;
        let before = self.load_full();
        check_generation(&before.map, if_generation)?;
        let change = next_change(&before.map, operations)?;
        self.reservations().check(&change.added, reservation)?;
        let memory = before.memory_after(&change, |region| match ahead.remove(&Arc::as_ptr(region)) {
            Some(mapped) => Ok(mapped),
            None => map_one(region, interrupt),
        })?;
        let participant = before
            .memory
            .as_ref()
            .map(|memory| MemoryParticipant::of(memory, &change))
            .transpose()?
            .unwrap_or_default();
        let proposal = Arc::new(Proposal::new(change, before.memory.clone(), memory.clone()));
        let after = SpaceState { map: Arc::clone(&proposal.change.after), memory };
        drop(before);
        let old = self.publish(turn, self.participants(&proposal), participant, after)?;
        self.unplugs().removed(&proposal.change.removed);
        drop((old, ahead));
        Ok(Arc::clone(&proposal.change.after))
    }

    /// Asks the clients, swaps, tells the clients, and waits until no reader is left in the old snapshot, which it returns.
    fn publish(
        &self,
        turn: WriterTurn<'_>,
        participants: Vec<Participant>,
        mut participant: MemoryParticipant,
        after: SpaceState,
    ) -> Result<SpaceState> {
        let prepared = Prepared::all(participants, &turn)?;
        let old = self.swap(after);
        participant.publish();
        prepared.commit_all();
        let old = wait_for_readers(old);
        participant.settle();
        Ok(old)
    }

    /// The clients that know the regions, each with the proposal.
    fn participants(&self, proposal: &Arc<Proposal>) -> Vec<Participant> {
        let clients = self.clients();
        let know_regions =
            clients.iter().filter(|subscription| subscription.has_seen_regions() && subscription.is_following());
        know_regions.map(|subscription| (Arc::clone(subscription), Arc::clone(proposal))).collect()
    }

    /// Validates on the current map, so that an overlap costs no mapping, and maps what is added.
    fn map_ahead(
        &self,
        reservation: Option<u64>,
        operations: &[Operation],
        if_generation: Option<u64>,
        interrupt: &dyn Interrupt,
    ) -> Result<Ahead> {
        let (map, is_mapped) = {
            let snapshot = self.load();
            (Arc::clone(&snapshot.map), snapshot.memory.is_some())
        };
        if !is_mapped {
            return Ok(Ahead::new());
        }
        check_generation(&map, if_generation)?;
        let added = added_by(&map, operations)?;
        self.reservations().check(&added, reservation)?;
        let added: Vec<&SharedRegion> = added.iter().filter(|region| region.has_memory()).collect();
        let mapped = map_all(&added, interrupt)?;
        Ok(mapped.into_iter().map(|region| (Arc::as_ptr(&region.desc), region)).collect())
    }

    /// Maps all regions; a space that is mapped already is left as it is. Returns which `map_memory` made the memory.
    pub fn map_memory(&self, interrupt: &dyn Interrupt) -> Result<u64> {
        let turn = self.take_turn(interrupt)?;
        let (map, memory) = (self.map(), self.load().memory.clone());
        if let Some(memory) = memory {
            return Ok(memory.incarnation());
        }
        let regions: Vec<&SharedRegion> = map.regions().iter().filter(|region| region.has_memory()).collect();
        let memory = Arc::new(self.new_memory(map_all(&regions, interrupt)?));
        let prepared = Prepared::all(self.invite_to_memory(&map, &memory), &turn)?;
        let incarnation = memory.incarnation();
        self.swap_quietly(SpaceState { map, memory: Some(memory) });
        prepared.commit_all();
        Ok(incarnation)
    }

    /// Begins or ends the marking of our own writes; every write that begins after it has returned is marked, or is not.
    pub fn track_writes(&self, incarnation: u64, is_tracked: bool, interrupt: &dyn Interrupt) -> Result<()> {
        let _turn = self.take_turn(interrupt)?;
        let before = self.load_full();
        let regions = before.memory_of(incarnation)?.regions().to_vec();
        let memory = Some(Arc::new(MappedRegions::new(incarnation, is_tracked, regions)));
        let old = self.swap_quietly(SpaceState { map: Arc::clone(&before.map), memory });
        drop(before);
        wait_for_readers(old);
        Ok(())
    }

    /// Who has seen the regions sees them taken out and put back, now with memory; who saw them go sees them arrive.
    fn invite_to_memory(&self, map: &Arc<RegionMap>, memory: &Arc<MappedRegions>) -> Vec<Participant> {
        let proposal = |change| Arc::new(Proposal::new(change, None, Some(Arc::clone(memory))));
        let (remap, attach_all) = (proposal(Change::remap(map)), proposal(Change::attach_all(map)));
        let offer_for = |has_seen_regions: bool| if has_seen_regions { &remap } else { &attach_all };
        let clients = self.clients();
        let present = clients.iter().filter(|subscription| subscription.is_following());
        present.map(|client| (Arc::clone(client), Arc::clone(offer_for(client.has_seen_regions())))).collect()
    }

    /// Unmaps all regions, unless one is leased. A memory that is closed already stays so.
    pub fn close_memory(&self, incarnation: u64, interrupt: &dyn Interrupt) -> Result<()> {
        let turn = self.take_turn(interrupt)?;
        let before = self.load_full();
        let Ok(memory) = before.memory_of(incarnation) else { return Ok(()) };
        let participant = MemoryParticipant::of_all(memory)?;
        let proposal = Arc::new(Proposal::new(Change::detach_all(&before.map), before.memory.clone(), None));
        let after = SpaceState { map: Arc::clone(&before.map), memory: None };
        drop(before);
        self.publish(turn, self.participants(&proposal), participant, after).map(drop)
    }

    /// Removes a region; while it is leased, waits up to `timeout` (`None`: for ever) without the turn, and tries again, looking
    /// it up anew each time.
    ///
    /// `when_busy` is called once, before the first wait or the refusal.
    pub fn remove(
        &self,
        target: &Target,
        timeout: Option<Duration>,
        interrupt: &dyn Interrupt,
        when_busy: &dyn Fn(),
    ) -> Result<Arc<RegionMap>> {
        let removal = [Operation::Remove(target.clone())];
        let deadline = crate::model::wait::Deadline::after(timeout);
        let mut result = self.change(&removal, None, interrupt);
        if matches!(result, Err(Error::Busy { .. })) {
            when_busy();
            result = self.change(&removal, None, interrupt);
        }
        let mut drains = true;
        while matches!(result, Err(Error::Busy { .. })) {
            let Some(slice) = deadline.slice() else { break };
            match self.leases_of(target) {
                Some(leases) if drains => leases.drain(slice),
                Some(leases) => leases.wait_free(slice),
                None => {}
            }
            // An access that takes long must not be the end of all others.
            drains = !drains;
            interrupt.check()?;
            result = self.change(&removal, None, interrupt);
        }
        result
    }

    fn leases_of(&self, target: &Target) -> Option<Arc<Leases>> {
        let snapshot = self.load();
        let region = target.find(&snapshot.map).ok()?;
        snapshot.memory.as_ref()?.find(region.base()).map(|region| Arc::clone(&region.leases))
    }
}

/// The regions that operations add to a map, if it takes them; for one operation without making the next map.
fn added_by(map: &Arc<RegionMap>, operations: &[Operation]) -> Result<Vec<SharedRegion>> {
    match operations {
        [Operation::Insert(region)] => map.place_of(region).map(|_| vec![Arc::clone(region)]),
        [Operation::Remove(_) | Operation::Replace(..)] => Ok(vec![]),
        _ => next_change(map, operations).map(|change| change.added),
    }
}

fn next_change(map: &Arc<RegionMap>, operations: &[Operation]) -> Result<Change> {
    let mut replay = Replay::all(map, operations)?;
    replay.map = replay.map.at_generation(map.generation().saturating_add(1));
    Ok(Change::of_replay(map, replay))
}

fn check_generation(map: &RegionMap, expected: Option<u64>) -> Result<()> {
    match expected {
        Some(expected) if expected != map.generation() => {
            Err(Error::GenerationChanged { expected, actual: map.generation() })
        }
        _ => Ok(()),
    }
}

fn map_all(regions: &[&SharedRegion], interrupt: &dyn Interrupt) -> Result<Vec<Arc<MappedRegion>>> {
    source::check_pools(regions.iter().copied())?;
    let total = regions.iter().fold(0u64, |sum, region| sum.saturating_add(region.size()));
    let mut mapper = Mapper::new(interrupt, total);
    regions.iter().map(|region| Ok(Arc::new(MappedRegion::new(Arc::clone(region), mapper.map(region)?)))).collect()
}

fn map_one(region: &SharedRegion, interrupt: &dyn Interrupt) -> Result<Arc<MappedRegion>> {
    source::check_pools(std::iter::once(region))?;
    let mapping = Mapper::new(interrupt, region.size()).map(region)?;
    Ok(Arc::new(MappedRegion::new(Arc::clone(region), mapping)))
}

/// The grace period: readers hold a snapshot for one short access, and what leaves must see the last of them out.
fn wait_for_readers(mut old: Arc<SpaceState>) -> SpaceState {
    let mut pause = Duration::from_micros(1);
    loop {
        match Arc::try_unwrap(old) {
            Ok(snapshot) => return snapshot,
            Err(still_read) => old = still_read,
        }
        std::thread::sleep(pause);
        pause = pause.saturating_mul(2).min(Duration::from_millis(1));
    }
}
