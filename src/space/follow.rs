//! A space that follows another process's: it takes over the changes of that, and makes none.

use std::sync::Arc;

use super::following::Following;
use super::prepared::Prepared;
use super::proposal::Proposal;
use super::space::AddressSpace;
use super::state::{SpaceState, window_on};
use super::subscribe::WriterTurn;
use super::subscription::Subscription;
use crate::memory::mapped_regions::MappedRegions;
use crate::memory::region::MappedRegion;
use crate::model::change::Change;
use crate::model::error::{Error, Result};
use crate::model::ids::Incarnation;
use crate::model::interrupt::Interrupt;
use crate::model::region_map::{RegionEntry, RegionMap};

/// A change of the leader's, as a follower takes it over.
#[allow(missing_debug_implementations, reason = "has a closure")]
pub struct FollowedChange<'a> {
    /// The map behind it, at the leader's generation.
    pub after: RegionMap,
    /// Gives the memory of regions whose bytes were not here before.
    pub map: &'a mut dyn FnMut(&RegionEntry) -> Result<Arc<MappedRegion>>,
    /// The last to be asked: it waits for the leader's decision.
    pub word: Arc<Subscription>,
}

impl AddressSpace {
    /// A space that begins with a leader's map and memory.
    pub fn follower(map: RegionMap, regions: Vec<Arc<MappedRegion>>, following: Following) -> Result<Self> {
        regions.iter().try_for_each(|region| region.show())?;
        let memory = Arc::new(MappedRegions::new(Incarnation::unique(), regions)?);
        let generation = map.generation();
        let state = SpaceState { map: Arc::new(map), memory: Some(memory) };
        Ok(Self::beginning(state, generation, Some(Arc::new(following))))
    }

    /// Takes over a change of the leader's, or changes nothing. Called by the one thread that listens to the leader.
    pub fn follow(&self, followed: FollowedChange<'_>, interrupt: &dyn Interrupt) -> Result<()> {
        // As in a change of our own.
        let memory;
        let turn = self.take_turn(interrupt)?;
        let before = self.load_full();
        if before.memory.is_none() {
            drop(before);
            return self.follow_mapping(followed, &turn);
        }
        let FollowedChange { after, map, word } = followed;
        let change = Change::of_operations(&before.map, &Arc::new(after));
        memory = before.memory_after(&change, |region, old| match old {
            [] => map(region),
            old => window_on(region, old).map(Arc::new),
        })?;
        let (old, _) = self.publish_change(&turn, before, change, memory.as_ref(), Some(word))?;
        drop(turn);
        drop(old);
        Ok(())
    }

    /// The leader has closed its memory before, and maps it anew.
    fn follow_mapping(&self, followed: FollowedChange<'_>, turn: &WriterTurn<'_>) -> Result<()> {
        // One that was closed here follows no more.
        if self.following.as_ref().is_none_or(|following| following.is_over()) {
            return Err(self.over());
        }
        let map = Arc::new(followed.after);
        let with_memory = map.regions().iter().filter(|region| region.has_memory());
        let regions: Vec<_> = with_memory.map(followed.map).collect::<Result<_>>()?;
        regions.iter().try_for_each(|region| region.show())?;
        let memory = Arc::new(MappedRegions::new(Incarnation::unique(), regions)?);
        let mut participants = self.invite_to_memory(&map, &memory)?;
        let proposal = Proposal::new(Change::attach_all(&map), None, Some(Arc::clone(&memory)));
        participants.push((followed.word, Arc::new(proposal)));
        let prepared = Prepared::all(participants, turn)?;
        self.swap(SpaceState { map, memory: Some(memory) });
        prepared.commit_all();
        Ok(())
    }

    /// Takes over that the leader closes its memory; the map stays.
    pub fn follow_closing(&self, word: Arc<Subscription>, interrupt: &dyn Interrupt) -> Result<()> {
        self.close_asking(None, Some(word), interrupt)
    }

    /// Its leader, where it is a follower.
    #[must_use]
    pub const fn following(&self) -> Option<&Arc<Following>> {
        self.following.as_ref()
    }

    /// Follows its leader no more: who waits for changes is told, and the memory stays as it is.
    pub fn follow_no_more(&self) {
        // In a forked child it is the parent's.
        let Some(following) = self.following.as_ref().filter(|_| self.check_process().is_ok()) else { return };
        if !following.end_now() {
            return;
        }
        self.wake_waiters();
        // Refused only in a forked child, which follows nobody.
        if let Ok(clients) = self.clients() {
            clients.iter().for_each(|client| client.wake());
        }
    }

    /// Refuses changes where they are the leader's to make.
    pub(super) fn check_leads(&self) -> Result<()> {
        let Some(following) = &self.following else { return Ok(()) };
        let (leader, how) =
            (following.leader, String::from("change the leader's space, which its followers take over"));
        let message = format!("this space follows that of process {leader}, and can't be changed here: {how}");
        Err(Error::Unsupported { message, feature: "changes of a follower", how, region: None })
    }

    /// The leader's process, as long as it is followed.
    pub fn leader(&self) -> Option<u32> {
        self.following.as_ref().filter(|following| !following.is_over()).map(|following| following.leader)
    }

    /// The refusal of a wait for changes that will never come.
    pub(super) fn over(&self) -> Error {
        let leader = self.following.as_ref().map_or(0, |following| following.leader);
        let message = format!(
            "the leader, process {leader}, is followed no more: no change will come, and the memory stays as it is"
        );
        Error::Share { message }
    }
}
