//! Taking over the map and the memory of a space that nobody else has seen.

use std::sync::Arc;

use super::change::map_one;
use super::space::AddressSpace;
use crate::model::change::Change;
use crate::model::error::{Error, Result};
use crate::model::ids::Generation;
use crate::model::interrupt::Interrupt;
use crate::model::region_map::RegionMap;

impl AddressSpace {
    /// Publishes all regions of another space with their memory as one change, of which the clients are asked; the other is dropped then.
    ///
    /// This space has no regions, and is still at a generation. An unmapped one is mapped. Refused, nothing has changed but that.
    pub fn adopt(&self, other: &Self, generation: Generation, interrupt: &dyn Interrupt) -> Result<Arc<RegionMap>> {
        self.check_process()?;
        self.map_memory(interrupt)?;
        let memory;
        let turn = self.take_turn(interrupt)?;
        let (before, given) = (self.load_full(), other.load_full());
        let actual = before.map.generation();
        if actual != generation {
            return Err(Error::GenerationChanged { expected: generation, actual });
        }
        let after = RegionMap::clone(&given.map).at_generation(actual.next());
        let change = Change::of_operations(&before.map, &Arc::new(after));
        self.reservations()?.check(&change.claims(), None)?;
        let given = given.memory.clone();
        memory = before.memory_after(&change, |entry, _| {
            let there = given.as_ref().and_then(|given| given.for_participant(entry.base()));
            there.map_or_else(|| map_one(entry, &*turn), |region| Ok(Arc::clone(region)))
        })?;
        let (old, after) = self.publish_change(&turn, before, change, memory.as_ref(), None)?;
        drop(turn);
        drop(old);
        Ok(after)
    }
}
