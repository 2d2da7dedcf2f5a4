//! Many changes, one publication, or none.

use std::sync::Arc;

use super::space::AddressSpace;
use crate::model::change::{Operation, Replay, Target};
use crate::model::error::{Error, Result};
use crate::model::interrupt::Interrupt;
use crate::model::map::Map;
use crate::model::region::Region;

/// Operations checked one by one on a private map; no lock is held while it is open.
#[derive(Debug)]
pub struct Transaction {
    replay: Replay,
    operations: Vec<Operation>,
    if_generation: Option<u64>,
}

impl Transaction {
    /// Begins on the current map, which must be at `if_generation` when that is given.
    pub fn begin(space: &AddressSpace, if_generation: Option<u64>) -> Result<Self> {
        space.check_process()?;
        let map = space.map();
        if let Some(expected) = if_generation.filter(|expected| *expected != map.generation()) {
            return Err(Error::GenerationChanged { expected, actual: map.generation() });
        }
        Ok(Self { replay: Replay::on((*map).clone()), operations: Vec::new(), if_generation })
    }

    /// The private map.
    #[must_use]
    pub const fn staged(&self) -> &Map {
        &self.replay.map
    }

    /// Stages an insertion.
    pub fn insert(&mut self, region: &Region) -> Result<()> {
        self.stage(Operation::Insert(Arc::new(region.clone())))
    }

    /// Stages a removal.
    pub fn remove(&mut self, target: &Target) -> Result<()> {
        let target = self.found(target)?;
        self.stage(Operation::Remove(target))
    }

    /// Stages a replacement.
    pub fn replace(&mut self, old: &Target, new: &Region) -> Result<()> {
        let old = self.found(old)?;
        self.stage(Operation::Replace(old, Arc::new(new.clone())))
    }

    /// The replay must mean the region that is here now, whatever others put in its place.
    fn found(&self, target: &Target) -> Result<Target> {
        target.find(self.staged()).map(|region| Target::Region(Arc::clone(region)))
    }

    fn stage(&mut self, operation: Operation) -> Result<()> {
        self.replay.apply(&operation)?;
        self.operations.push(operation);
        Ok(())
    }

    /// Replays everything on the newest map and publishes once; `None` when nothing was staged.
    pub fn publish(self, space: &AddressSpace, interrupt: &dyn Interrupt) -> Result<Option<Arc<Map>>> {
        if self.operations.is_empty() {
            return Ok(None);
        }
        space.change(&self.operations, self.if_generation, interrupt).map(Some)
    }
}
