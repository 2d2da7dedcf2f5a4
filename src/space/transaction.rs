//! Many changes, one publication, or none.

use std::sync::Arc;

use super::space::AddressSpace;
use crate::model::change::{Operation, Replay, Target};
use crate::model::error::{Error, Result};
use crate::model::interrupt::Interrupt;
use crate::model::region::Region;
use crate::model::region_map::RegionMap;

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
    pub const fn staged(&self) -> &RegionMap {
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
    pub fn publish(self, space: &AddressSpace, interrupt: &dyn Interrupt) -> Result<Option<Arc<RegionMap>>> {
        if self.operations.is_empty() {
            return Ok(None);
        }
        space.change(&self.operations, self.if_generation, interrupt).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::interrupt::Uninterrupted;
    use crate::model::layout::Layout;
    use crate::model::range::Range;
    use crate::model::region::RegionType;
    use crate::model::source::Source;

    fn space() -> AddressSpace {
        AddressSpace::new(Layout::new(1 << 46, 0, 1 << 45, vec![]).unwrap())
    }

    fn ram(base: u64) -> Region {
        Region::new(RegionType::DefaultMemory, Range::new(base, 0x1000).unwrap(), Source::default()).unwrap()
    }

    #[test]
    fn nothing_staged_is_nothing_published() {
        let space = space();
        let transaction = Transaction::begin(&space, Some(0)).unwrap();
        assert!(transaction.publish(&space, &Uninterrupted).unwrap().is_none());
        assert_eq!(space.map().generation(), 0);
    }

    #[test]
    fn what_is_staged_is_seen_by_nobody_until_it_is_published() {
        let space = space();
        let mut transaction = Transaction::begin(&space, None).unwrap();
        transaction.insert(&ram(0)).unwrap();
        assert!(transaction.insert(&ram(0x800)).is_err());
        assert_eq!((transaction.staged().regions().len(), space.map().regions().len()), (1, 0));
        space.insert(&ram(0x1000), &Uninterrupted).unwrap();
        let published = transaction.publish(&space, &Uninterrupted).unwrap().unwrap();
        assert_eq!((published.generation(), published.regions().len()), (2, 2));
    }

    #[test]
    fn a_removal_means_the_region_that_was_staged() {
        let space = space();
        space.insert(&ram(0), &Uninterrupted).unwrap();
        let mut transaction = Transaction::begin(&space, None).unwrap();
        transaction.remove(&Target::Base(0)).unwrap();
        let newer = Region { name: Some("newer".into()), ..ram(0) };
        space.replace(&Target::Base(0), &newer, &Uninterrupted).unwrap();
        assert!(matches!(transaction.publish(&space, &Uninterrupted), Err(Error::Unmapped { .. })));
        assert_eq!(space.map().at_name("newer").unwrap().base(), 0);
    }

    #[test]
    fn a_passed_generation_is_refused_at_the_begin_and_at_the_end() {
        let space = space();
        let mut transaction = Transaction::begin(&space, Some(0)).unwrap();
        transaction.insert(&ram(0)).unwrap();
        space.insert(&ram(0), &Uninterrupted).unwrap();
        for refused in
            [transaction.publish(&space, &Uninterrupted).map(drop), Transaction::begin(&space, Some(0)).map(drop)]
        {
            assert!(matches!(refused, Err(Error::GenerationChanged { expected: 0, actual: 1 })));
        }
    }
}
