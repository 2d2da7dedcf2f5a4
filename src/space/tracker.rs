//! Following the writes to all memory of a space, whatever is plugged meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::space::AddressSpace;
use super::state::SpaceState;
use crate::memory::dirty::PAGE;
use crate::memory::following;
use crate::memory::lease::WeakRegion;
use crate::memory::region::MappedRegion;
use crate::memory::tracking::Consumer;
use crate::model::dirty::DirtyPages;
use crate::model::error::{Error, Result};
use crate::model::ids::{ConsumerId, Generation, Incarnation};
use crate::model::interrupt::Interrupt;
use crate::model::range::Range;
use crate::model::region::RegionType;
use crate::model::room::{self, Room};
use crate::model::tracking::TrackingMode;

/// The pages that a tracker found, and the map that they belong to.
#[derive(Debug)]
pub struct Collected {
    /// The pages.
    pub pages: DirtyPages,
    /// The generation of the map.
    pub generation: Generation,
}

/// The names of those that write to memory by mappings of other processes.
pub const UNSEEN_WRITERS: [&str; 3] = ["vhost-user", "share", "leader"];

impl AddressSpace {
    /// Begins to follow the writes to all memory, for one consumer: all that begin once this has returned are found.
    pub fn start_tracking(
        &self,
        incarnation: Incarnation,
        consumer: Consumer,
        interrupt: &dyn Interrupt,
    ) -> Result<()> {
        let _turn = self.take_turn(interrupt)?;
        self.check_logs(incarnation, consumer.mode)?;
        let started = self.set_consumers(incarnation, |consumers| consumers.push(consumer));
        started.inspect_err(|_| self.forget(incarnation, consumer.id))
    }

    /// Ends it.
    pub fn stop_tracking(&self, incarnation: Incarnation, id: ConsumerId, interrupt: &dyn Interrupt) -> Result<()> {
        let _turn = self.take_turn(interrupt)?;
        self.set_consumers(incarnation, |consumers| consumers.retain(|consumer| consumer.id != id))?;
        // Behind the grace period: a writer that marks for it has left.
        self.forget(incarnation, id);
        Ok(())
    }

    /// Publishes the memory with other consumers; called with the turn.
    pub(super) fn set_consumers(&self, incarnation: Incarnation, edit: impl FnOnce(&mut Vec<Consumer>)) -> Result<()> {
        let before = self.load_full();
        let memory = before.memory_of(incarnation)?;
        let mut consumers = memory.consumers().to_vec();
        edit(&mut consumers);
        let memory = Some(Arc::new(memory.followed(consumers.into())?));
        let old = self.swap_quietly(SpaceState { map: Arc::clone(&before.map), memory });
        drop(before);
        // A writer that is still in the old snapshot marks as it did before.
        self.wait_for_readers(old);
        Ok(())
    }

    /// Publishes the memory as it is, when more of it may be touched directly than before.
    pub fn republish(&self, incarnation: Incarnation, interrupt: &dyn Interrupt) -> Result<()> {
        let _turn = self.take_turn(interrupt)?;
        self.set_consumers(incarnation, |_| ())
    }

    /// Takes a consumer from all memory that is there; memory that has gone takes it along.
    ///
    /// Called with the turn: a tracker that starts meanwhile would lose the watch that it has just found.
    pub(super) fn forget(&self, incarnation: Incarnation, id: ConsumerId) {
        let snapshot = self.load();
        let Ok(memory) = snapshot.memory_of(incarnation) else { return };
        // Refused in a forked child only, where nobody follows.
        memory.regions().for_each(|region| _ = region.storage().unfollow(id));
    }

    /// A log that nobody keeps would find nothing.
    pub(super) fn check_logs(&self, incarnation: Incarnation, mode: TrackingMode) -> Result<()> {
        if mode != TrackingMode::Kvm {
            return Ok(());
        }
        let snapshot = self.load_full();
        for region in snapshot.memory_of(incarnation)?.regions().filter(|region| is_ram(region)) {
            if !region.storage().has_log()? {
                let how = "space.attach_kvm(vm, dirty_log=True)";
                return Err(Error::Unsupported {
                    message: format!("no KVM machine logs the writes to {}: call {how} first", region.desc()),
                    feature: "kvm",
                    how: how.into(),
                    region: Some(Arc::clone(region.desc())),
                });
            }
        }
        Ok(())
    }

    /// The pages that were written since the last time, or since the beginning; a look keeps them for the next time.
    ///
    /// No page is lost when it fails.
    pub fn collect(
        &self,
        incarnation: Incarnation,
        id: ConsumerId,
        (page_size, is_look): (u64, bool),
        interrupt: &dyn Interrupt,
    ) -> Result<Collected> {
        self.check_process()?;
        let (generation, regions) = self.followed_regions(incarnation)?;
        let (mut found, mut sources, mut is_exact) = (Vec::new(), BTreeSet::<&str>::new(), true);
        // What has gone meanwhile takes its pages along.
        let mut there = room::collected(regions.iter().filter_map(WeakRegion::upgrade))?;
        there.sort_unstable_by_key(|region| region.storage().id());
        // Each storage once: what the first of its windows took, the next would not find.
        let mut storages = there.chunk_by(|one, next| one.storage().id() == next.storage().id());
        let collected = storages.try_for_each(|windows| {
            interrupt.check()?;
            if let Some(region) = windows.first() {
                sources.extend(source_names(region, id)?);
                is_exact &= region.is_tracked_exactly(id)?;
            }
            following::written(windows, id, is_look, &mut |pages| found.add(pages))
        });
        let sources = sources.iter().map(|name| (*name).into()).collect();
        match collected.and_then(|()| pages_of(&found, page_size, sources)) {
            Ok(pages) => Ok(Collected { pages: pages.with_exactness(is_exact), generation }),
            Err(error) => {
                put_back(&regions, id, &found)?;
                Err(error)
            }
        }
    }

    /// Gives pages back that could not be used: they are found the next time. Those of regions that have gone are left out.
    pub fn put_back(&self, incarnation: Incarnation, id: ConsumerId, pages: &[Range]) -> Result<()> {
        self.check_process()?;
        put_back(&self.followed_regions(incarnation)?.1, id, pages)
    }

    /// The names of those who see the writes for a consumer, and whether all of them are exact.
    pub fn observers(&self, incarnation: Incarnation, id: ConsumerId) -> Result<(BTreeSet<&'static str>, bool)> {
        let (mut names, mut is_exact) = (BTreeSet::new(), true);
        for region in self.followed_regions(incarnation)?.1.iter().filter_map(WeakRegion::upgrade) {
            names.extend(source_names(&region, id)?);
            is_exact &= region.is_tracked_exactly(id)?;
        }
        Ok((names, is_exact))
    }

    /// Whether a KVM machine logs some of the memory.
    pub fn is_logged(&self, incarnation: Incarnation) -> Result<bool> {
        let regions = self.followed_regions(incarnation)?.1;
        let mut there = regions.iter().filter_map(WeakRegion::upgrade);
        there.try_fold(false, |is_logged, region| Ok(is_logged || region.storage().has_log()?))
    }

    /// Refuses while a client follows that writes to the memory by mappings of another process.
    ///
    /// `how` says what to give for it, and what follows from that.
    pub fn refuse_unseen_writers(&self, how: impl FnOnce(&str) -> String) -> Result<()> {
        let clients = self.clients()?;
        let unseen = clients.iter().find(|client| client.is_following() && client.writes_unseen());
        // A follower's memory is written by its leader, and by all who follow that.
        let leader = || self.following.as_ref().map(|_| "leader");
        let Some(unseen) = unseen.map(|client| &**client.name()).or_else(leader) else { return Ok(()) };
        let how = how(unseen);
        Err(Error::Unsupported {
            message: format!("{unseen} writes to the memory by mappings of its own, which no source sees: give {how}"),
            feature: "tracking beside a back-end",
            how,
            region: None,
        })
    }

    /// Whether the memory of one `map_memory` is still there.
    pub fn has_incarnation(&self, incarnation: Incarnation) -> bool {
        self.load().memory_of(incarnation).is_ok()
    }

    /// The largest page of the memory that is there.
    pub fn largest_page(&self, incarnation: Incarnation) -> Result<u64> {
        let snapshot = self.load();
        let sizes = snapshot.memory_of(incarnation)?.regions().map(|region| region.storage().page_size());
        Ok(sizes.fold(PAGE, u64::max))
    }

    fn followed_regions(&self, incarnation: Incarnation) -> Result<(Generation, Vec<WeakRegion>)> {
        let snapshot = self.load();
        let mut regions = Vec::new();
        regions.add_all(snapshot.memory_of(incarnation)?.regions().map(WeakRegion::from))?;
        Ok((snapshot.map.generation(), regions))
    }
}

fn is_ram(region: &MappedRegion) -> bool {
    region.desc().region_type == RegionType::DefaultMemory
}

/// The names of those who see the writes to a region for a consumer.
fn source_names(region: &MappedRegion, id: ConsumerId) -> Result<&'static [&'static str]> {
    let is_logged = region.storage().has_log()?;
    Ok(region.observer(id)?.map_or(&[], |observer| observer.sources(is_logged)))
}

/// Whole pages that hold all of the ranges.
pub fn pages_of(found: &[Range], page_size: u64, sources: Vec<String>) -> Result<DirtyPages> {
    let mut pages = Vec::new();
    pages.add_all(found.iter().map(|range| {
        let end = range.end().checked_next_multiple_of(page_size).unwrap_or(u64::MAX);
        Range::between(range.base() & !page_size.saturating_sub(1), end)
    }))?;
    DirtyPages::new(page_size, sources)?.with_ranges(pages)
}

fn put_back(regions: &[WeakRegion], id: ConsumerId, pages: &[Range]) -> Result<()> {
    for region in regions.iter().filter_map(WeakRegion::upgrade) {
        let overlapping = pages.iter().filter(|pages| pages.overlaps(&region.range()));
        overlapping.map(|pages| region.part(*pages)).try_for_each(|part| region.put_back(id, part))?;
    }
    Ok(())
}
