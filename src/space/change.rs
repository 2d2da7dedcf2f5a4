//! The way from one snapshot to the next: all of it, or nothing.
//!
//! [`AddressSpace::change`] is the protocol. Readers, leases and clients rely on the order of its steps.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::memory_participant::MemoryParticipant;
use super::prepared::{Participant, Prepared};
use super::proposal::Proposal;
use super::space::AddressSpace;
use super::state::{SpaceState, window_on};
use super::subscribe::WriterTurn;
use super::subscription::Subscription;
use crate::memory::huge_pools;
use crate::memory::kept::KeptMemory;
use crate::memory::mapped_regions::MappedRegions;
use crate::memory::mapper::Mapper;
use crate::memory::region::MappedRegion;
use crate::memory::region_change::NextWindow;
use crate::model::change::{Change, ChangeRequest};
use crate::model::error::Result;
use crate::model::ids::{Incarnation, RegionId};
use crate::model::interrupt::Interrupt;
use crate::model::journal::{self, Level};
use crate::model::region_map::{RegionEntry, RegionMap};
use crate::sys::sync::thread;

/// Memory mapped before the turn was taken.
type MappedAhead = HashMap<RegionId, Arc<MappedRegion>>;

/// The snapshot before a change, and bytes that nobody sees any more.
pub(super) type Old = (SpaceState, Vec<KeptMemory>);

impl AddressSpace {
    /// Applies the operations to the current map and publishes the result once, or changes nothing. Returns the published map.
    ///
    /// Must be called without the interpreter's lock: the writer whose turn it is takes that lock to call a client, and would wait for
    /// ever for a thread that holds it and waits for the turn.
    pub fn change(&self, request: &ChangeRequest<'_>, interrupt: &dyn Interrupt) -> Result<Arc<RegionMap>> {
        self.decided(request, interrupt).inspect_err(|error| self.counters().count_refusal(error))
    }

    /// [`change`](Self::change) for who tries again: a refusal is not counted.
    pub(super) fn decided(&self, request: &ChangeRequest<'_>, interrupt: &dyn Interrupt) -> Result<Arc<RegionMap>> {
        self.check_process()?;
        self.check_leads()?;
        // Mapping may take minutes: done before the turn is taken, it delays no other writer, and can be interrupted at no cost.
        let mut ahead = self.map_ahead(request, interrupt)?;
        // Before the turn, so that it goes behind it: after a refusal, unmapping takes long and may call the owner of a buffer.
        let (memory, kept);
        let turn = self.take_turn(interrupt)?;
        // Loaded inside the turn: nobody else publishes from here on. The checks made ahead were made on a map that may be gone, so
        // all of them are made again.
        let before = self.load_full();
        let change = request.change_of(&before.map, &*turn)?;
        self.reservations()?.check(&change.claims(), request.reservation)?;
        // Until windows show them: their owner may let go at any time.
        kept = change.kept_parts();
        if before.memory.is_some()
            && change.arriving().any(|region| region.has_memory() && !ahead.contains_key(&region.id))
        {
            // The space was mapped since, so that there was nothing to map ahead.
            ahead = mapped_by_id(change.arriving(), &*turn)?;
        }
        memory = before.memory_after(&change, |region, there| match ahead.remove(&region.id) {
            Some(mapped) if there.is_empty() => Ok(mapped),
            _ => window_on(region, there).map(Arc::new),
        })?;
        let (old, after) = self.publish_change(&turn, before, change, memory.as_ref(), None)?;
        drop(turn);
        // Unmapping gigabytes and giving bytes back takes long: only now, when the next writer has the turn.
        drop((old, ahead, kept));
        Ok(after)
    }

    /// Publishes a change that is mapped, and gives what was before it, which is dropped without the turn, and the map behind it.
    /// `word` is asked last.
    pub(super) fn publish_change(
        &self,
        turn: &WriterTurn<'_>,
        before: Arc<SpaceState>,
        change: Change,
        memory: Option<&Arc<MappedRegions>>,
        word: Option<Arc<Subscription>>,
    ) -> Result<(Old, Arc<RegionMap>)> {
        // Leases are closed before any client is asked: a client that made room for a change can't be told that a view forbids it.
        let both = before.memory.as_ref().zip(memory);
        let participant = both.map(|(memory, after)| MemoryParticipant::prepare(memory, after, &change));
        let participant = participant.transpose()?.unwrap_or_default();
        let proposal = Arc::new(Proposal::new(change, before.memory.clone(), memory.cloned()));
        let after = SpaceState { map: Arc::clone(&proposal.change.after), memory: memory.cloned() };
        // The publication waits until nobody has this snapshot, we included.
        drop(before);
        let mut participants = self.participants(&proposal)?;
        participants.extend(word.map(|word| (word, Arc::clone(&proposal))));
        let old = self.publish(turn, participants, participant, after)?;
        self.forget_unplugs(&proposal.change);
        let change = &proposal.change;
        journal::note(Level::Info, || format!("generation {}: {change}", change.after.generation()));
        Ok((old, Arc::clone(&proposal.change.after)))
    }

    /// Tells those who wait for a region to be unplugged that it has gone.
    fn forget_unplugs(&self, change: &Change) {
        // Refused only in a forked child, where nobody waits for a request.
        if let Ok(mut unplugs) = self.unplugs() {
            let gone: Vec<_> = change.removed.iter().filter(|region| !change.goes_on(region)).cloned().collect();
            unplugs.removed(&gone);
        }
    }

    /// Asks the clients, swaps, tells the clients, and waits until no reader is left in the old snapshot, which it returns,
    /// with the bytes that nobody sees any more: both are dropped without the turn.
    ///
    /// An error before the swap drops `prepared`, which rolls the clients back in reverse, and then `participant`, which opens the
    /// leases again; behind the swap nothing can fail.
    pub(super) fn publish(
        &self,
        turn: &WriterTurn<'_>,
        participants: Vec<Participant>,
        mut participant: MemoryParticipant,
        after: SpaceState,
    ) -> Result<Old> {
        let prepared = Prepared::all(participants, turn)?;
        participant.decide();
        let old = self.swap(after);
        // The views that wait for the outcome learn it before the clients, which may take long.
        participant.commit();
        prepared.commit_all();
        // The turn is kept until protections have shrunk, for the next change may widen them again.
        let old = self.wait_for_readers(old);
        let gone = participant.finish();
        Ok((old, gone))
    }

    /// The clients that know the regions which are there: those that saw them go with the memory hear of no change until it is back.
    pub(super) fn participants(&self, proposal: &Arc<Proposal>) -> Result<Vec<Participant>> {
        let clients = self.clients()?;
        let asked = clients.iter().filter(|client| client.has_seen_regions() && client.is_following());
        Ok(asked.map(|client| (Arc::clone(client), Arc::clone(proposal))).collect())
    }

    /// Checks a request on the current map, so that an overlap costs no mapping, and maps the regions that it adds.
    fn map_ahead(&self, request: &ChangeRequest<'_>, interrupt: &dyn Interrupt) -> Result<MappedAhead> {
        let (map, is_mapped) = {
            let snapshot = self.load();
            (Arc::clone(&snapshot.map), snapshot.memory.is_some())
        };
        if !is_mapped {
            return Ok(MappedAhead::new());
        }
        let added = request.added_to(&map, interrupt)?;
        self.reservations()?.check(&added, request.reservation)?;
        mapped_by_id(&added, interrupt)
    }

    /// Maps all regions; a space that is mapped already is left as it is. Returns which `map_memory` made the memory.
    pub fn map_memory(&self, interrupt: &dyn Interrupt) -> Result<Incarnation> {
        // As in a change.
        let memory;
        // Mapped under the turn, other than there: a region that came meanwhile would have no memory.
        let turn = self.take_turn(interrupt)?;
        // Two loads, and one snapshot: nobody else has the turn.
        let (map, mapped) = (self.map(), self.load().memory.clone());
        if let Some(mapped) = mapped {
            return Ok(mapped.incarnation());
        }
        self.check_leads()?;
        let incarnation = Incarnation::unique();
        memory = Arc::new(MappedRegions::new(incarnation, map_all(map.regions(), &*turn)?)?);
        let kept = memory.regions().filter(|region| region.is_on_kept_part()).map(NextWindow::show);
        let mut windows: Vec<NextWindow> = kept.collect::<Result<_>>()?;
        let prepared = Prepared::all(self.invite_to_memory(&map, &memory)?, &turn)?;
        windows.iter_mut().for_each(NextWindow::publish);
        self.swap_quietly(SpaceState { map, memory: Some(Arc::clone(&memory)) });
        prepared.commit_all();
        Ok(incarnation)
    }

    /// Clients that know the regions get them as removed and added, since the mapping is new; clients that saw them go, when the memory
    /// was closed, get them as added only.
    pub(super) fn invite_to_memory(
        &self,
        map: &Arc<RegionMap>,
        memory: &Arc<MappedRegions>,
    ) -> Result<Vec<Participant>> {
        let proposal = |change| Arc::new(Proposal::new(change, None, Some(Arc::clone(memory))));
        let (remap, attach_all) = (proposal(Change::remap(map)), proposal(Change::attach_all(map)));
        let proposal_for = |client: &Subscription| if client.has_seen_regions() { &remap } else { &attach_all };
        let clients = self.clients()?;
        let present = clients.iter().filter(|subscription| subscription.is_following());
        Ok(present.map(|client| (Arc::clone(client), Arc::clone(proposal_for(client)))).collect())
    }

    /// The grace period: waits until the last reader has left the old snapshot, so that no late write reaches memory that leaves with it.
    ///
    /// Readers hold a snapshot for one short access and never while they wait, so that this ends soon; polling costs them nothing.
    pub(super) fn wait_for_readers(&self, mut old: Arc<SpaceState>) -> SpaceState {
        const LONGEST_PAUSE: Duration = Duration::from_millis(1);
        let mut pause = Duration::from_micros(1);
        loop {
            // The swap has made a count of each guard that was taken before it: without readers one share is left.
            match Arc::try_unwrap(old) {
                Ok(snapshot) => return snapshot,
                // Some of the readers of a forked child's, a client of which forked it in this change, are its parent's.
                Err(still_read) if self.check_process().is_err() => return SpaceState::clone(&still_read),
                Err(still_read) => old = still_read,
            }
            self.counters().count_wait(pause);
            thread::sleep(pause);
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }
}

fn mapped_by_id<'a>(
    regions: impl IntoIterator<Item = &'a RegionEntry>,
    interrupt: &dyn Interrupt,
) -> Result<MappedAhead> {
    let mapped = map_all(regions, interrupt)?;
    Ok(mapped.into_iter().map(|region| (region.id(), region)).collect())
}

/// Maps those of the regions that have memory.
fn map_all<'a>(
    regions: impl IntoIterator<Item = &'a RegionEntry>,
    interrupt: &dyn Interrupt,
) -> Result<Vec<Arc<MappedRegion>>> {
    let regions: Vec<_> = regions.into_iter().filter(|region| region.has_memory()).cloned().collect();
    huge_pools::check_pools(regions.iter().map(|region| &region.desc))?;
    // Regions of one map are disjoint: together they have no more bytes than there are addresses.
    Mapper::new(interrupt, regions.iter().map(|region| region.size()).sum()).map_all(&regions)
}

pub(super) fn map_one(region: &RegionEntry, interrupt: &dyn Interrupt) -> Result<Arc<MappedRegion>> {
    huge_pools::check_pools(std::iter::once(&region.desc))?;
    Mapper::new(interrupt, region.size()).map(region).map(Arc::new)
}
