//! The way from one snapshot to the next: all of it, or nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::client::Prepared;
use super::departure::Departures;
use super::snapshot::Snapshot;
use super::space::AddressSpace;
use super::turn::TurnGuard;
use crate::memory::lease::Leases;
use crate::memory::map::MappedMap;
use crate::memory::mapping::Mapper;
use crate::memory::region::MappedRegion;
use crate::memory::source;
use crate::model::change::{Change, Operation, Replay, Target};
use crate::model::error::{Error, Result};
use crate::model::interrupt::Interrupt;
use crate::model::map::Map;
use crate::model::region::{Region, SharedRegion};

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
    ) -> Result<Arc<Map>> {
        self.check_process()?;
        let mut ahead = self.map_ahead(operations, if_generation, interrupt)?;
        let turn = self.turn().take(interrupt)?;
        let before = self.load_full();
        check_generation(&before.map, if_generation)?;
        let change = next_change(&before.map, operations)?;
        let memory = before.memory_after(&change, |region| match ahead.remove(&Arc::as_ptr(region)) {
            Some(mapped) => Ok(mapped),
            None => map_one(region, interrupt),
        })?;
        let departures =
            before.memory.as_ref().map(|memory| Departures::of(memory, &change)).transpose()?.unwrap_or_default();
        let after = Snapshot { map: Arc::clone(&change.after), memory };
        drop(before);
        let old = self.publish(turn, &change, departures, after)?;
        drop((old, ahead));
        Ok(change.after)
    }

    /// Asks the clients, swaps, tells the clients, and waits until no reader is left in the old snapshot, which it returns.
    fn publish(
        &self,
        turn: TurnGuard<'_>,
        change: &Change,
        mut departures: Departures,
        after: Snapshot,
    ) -> Result<Snapshot> {
        let clients = self.clients().clone();
        let prepared = Prepared::all(&clients, change, &turn)?;
        let old = self.swap(after);
        departures.publish();
        prepared.commit();
        let old = wait_for_readers(old);
        departures.settle();
        Ok(old)
    }

    /// Validates on the current map, so that an overlap costs no mapping, and maps what is added.
    fn map_ahead(
        &self,
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
        let added = next_change(&map, operations)?.added;
        let added: Vec<&SharedRegion> = added.iter().filter(|region| region.has_memory()).collect();
        let mapped = map_all(&added, interrupt)?;
        Ok(mapped.into_iter().map(|region| (Arc::as_ptr(&region.meta), region)).collect())
    }

    /// Maps all regions; a space that is mapped already is left as it is. Returns which `map_memory` made the memory.
    pub fn map_memory(&self, interrupt: &dyn Interrupt) -> Result<u64> {
        self.check_process()?;
        let _turn = self.turn().take(interrupt)?;
        let snapshot = self.load_full();
        if let Some(memory) = &snapshot.memory {
            return Ok(memory.incarnation());
        }
        let regions: Vec<&SharedRegion> = snapshot.map.regions().iter().filter(|region| region.has_memory()).collect();
        let memory = self.new_memory(map_all(&regions, interrupt)?);
        let incarnation = memory.incarnation();
        self.swap_quietly(Snapshot { map: Arc::clone(&snapshot.map), memory: Some(Arc::new(memory)) });
        Ok(incarnation)
    }

    /// Begins or ends the marking of our own writes; every write that begins after it has returned is marked, or is not.
    pub fn track_writes(&self, incarnation: u64, is_tracked: bool, interrupt: &dyn Interrupt) -> Result<()> {
        self.check_process()?;
        let _turn = self.turn().take(interrupt)?;
        let before = self.load_full();
        let regions = before.memory_of(incarnation)?.regions().to_vec();
        let memory = Some(Arc::new(MappedMap::new(incarnation, is_tracked, regions)));
        let old = self.swap_quietly(Snapshot { map: Arc::clone(&before.map), memory });
        drop(before);
        wait_for_readers(old);
        Ok(())
    }

    /// Unmaps all regions, unless one is leased. A memory that is closed already stays so.
    pub fn close_memory(&self, incarnation: u64, interrupt: &dyn Interrupt) -> Result<()> {
        self.check_process()?;
        let turn = self.turn().take(interrupt)?;
        let before = self.load_full();
        let Ok(memory) = before.memory_of(incarnation) else { return Ok(()) };
        let departures = Departures::of_all(memory)?;
        let change = Change {
            before: Arc::clone(&before.map),
            after: Arc::clone(&before.map),
            removed: before.map.regions().to_vec(),
            added: vec![],
            replaced: vec![],
        };
        let after = Snapshot { map: Arc::clone(&before.map), memory: None };
        drop(before);
        self.publish(turn, &change, departures, after).map(drop)
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
    ) -> Result<Arc<Map>> {
        let removal = [Operation::Remove(target.clone())];
        let deadline = super::turn::Deadline::after(timeout);
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

fn next_change(map: &Arc<Map>, operations: &[Operation]) -> Result<Change> {
    let mut replay = Replay::all(map, operations)?;
    replay.map = replay.map.at_generation(map.generation().saturating_add(1));
    Ok(Change::of_replay(map, replay))
}

fn check_generation(map: &Map, expected: Option<u64>) -> Result<()> {
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
fn wait_for_readers(mut old: Arc<Snapshot>) -> Snapshot {
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
