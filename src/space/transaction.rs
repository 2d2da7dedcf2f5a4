//! Many changes, one publication, or none.

use std::sync::Arc;

use super::space::AddressSpace;
use crate::model::change::{ChangeRequest, MapOperation, RegionTarget};
use crate::model::error::Result;
use crate::model::ids::{Generation, RegionId};
use crate::model::interrupt::Interrupt;
use crate::model::range::Range;
use crate::model::region::SharedRegion;
use crate::model::region_map::RegionMap;

/// Operations checked one by one on a private map; no lock is held while it is open.
#[derive(Debug)]
pub struct Transaction {
    before: Arc<RegionMap>,
    staged: RegionMap,
    operations: Vec<MapOperation>,
    if_generation: Option<Generation>,
}

impl Transaction {
    /// Begins on the current map, which must be at `if_generation` when that is given.
    pub fn begin(space: &AddressSpace, if_generation: Option<Generation>) -> Result<Self> {
        space.check_process()?;
        space.check_leads()?;
        let map = space.map();
        ChangeRequest { if_generation, ..ChangeRequest::of(&[]) }.check_generation(&map)?;
        Ok(Self { staged: (*map).clone(), before: map, operations: Vec::new(), if_generation })
    }

    /// The private map.
    #[must_use]
    pub const fn staged(&self) -> &RegionMap {
        &self.staged
    }

    /// Stages an insertion.
    pub fn insert(&mut self, region: impl Into<SharedRegion>) -> Result<()> {
        self.stage(MapOperation::insert(region))
    }

    /// Stages a removal.
    pub fn remove(&mut self, target: &RegionTarget) -> Result<()> {
        let target = self.found(target)?;
        self.stage(MapOperation::Remove(target))
    }

    /// Stages a replacement.
    pub fn replace(&mut self, old: &RegionTarget, new: impl Into<SharedRegion>) -> Result<()> {
        let old = self.found(old)?;
        self.stage(MapOperation::Replace(old, new.into()))
    }

    /// Stages a cut at an address.
    pub fn split(&mut self, target: &RegionTarget, at: u64) -> Result<()> {
        let target = self.found(target)?;
        self.stage(MapOperation::Split(target, at, RegionId::unique()))
    }

    /// Stages a union of two neighbours.
    pub fn join(&mut self, lower: &RegionTarget, upper: &RegionTarget) -> Result<()> {
        let operation = MapOperation::Join(self.found(lower)?, self.found(upper)?);
        self.stage(operation)
    }

    /// Stages a move to another base.
    pub fn relocate(&mut self, target: &RegionTarget, base: u64) -> Result<()> {
        let target = self.found(target)?;
        self.stage(MapOperation::Move(target, base))
    }

    /// Stages a growth.
    pub fn grow(&mut self, target: &RegionTarget, size: u64) -> Result<()> {
        let operation = MapOperation::growth(&self.staged, target.find(&self.staged)?, size)?;
        self.stage(operation)
    }

    /// Stages another protection of a range.
    pub fn protect(&mut self, range: Range, prot_flags: i32) -> Result<()> {
        self.stage(MapOperation::protect(range, prot_flags))
    }

    /// The replay on a newer map must mean the region that is here now, whatever others put at its base or under its name.
    fn found(&self, target: &RegionTarget) -> Result<RegionTarget> {
        target.find(&self.staged).map(|region| RegionTarget::Unchanged(region.clone()))
    }

    fn stage(&mut self, operation: MapOperation) -> Result<()> {
        // Applied before it is noted: one that is refused is not replayed.
        self.staged = operation.apply(&self.staged)?;
        self.operations.push(operation);
        Ok(())
    }

    /// Publishes once; `None` when nothing was staged. When the map has changed meanwhile, everything is replayed on the newest.
    pub fn publish(self, space: &AddressSpace, interrupt: &dyn Interrupt) -> Result<Option<Arc<RegionMap>>> {
        // Operations that cancel each other out are published, though: clients and waiters were promised one change for each exit.
        if self.operations.is_empty() {
            return Ok(None);
        }
        // A part may have been closed since a region was staged that shows it.
        let known =
            Some((&self.before, &self.staged)).filter(|_| !self.operations.iter().any(MapOperation::shows_part));
        let request = ChangeRequest { if_generation: self.if_generation, known, ..ChangeRequest::of(&self.operations) };
        space.change(&request, interrupt).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::error::Error;
    use crate::model::interrupt::Uninterrupted;
    use crate::model::layout::Layout;
    use crate::model::region::{Region, RegionType};
    use crate::model::source::Source;

    fn space() -> AddressSpace {
        AddressSpace::with_map(RegionMap::empty(Layout::new(1 << 46, 0, 1 << 45, vec![]).unwrap()))
    }

    fn ram(base: u64) -> Region {
        Region::new(RegionType::DefaultMemory, Range::new(base, 0x1000).unwrap(), Source::default()).unwrap()
    }

    #[test]
    fn nothing_staged_is_nothing_published() {
        let space = space();
        let transaction = Transaction::begin(&space, Some(Generation(0))).unwrap();
        assert!(transaction.publish(&space, &Uninterrupted).unwrap().is_none());
        assert_eq!(space.map().generation(), Generation(0));
    }

    #[test]
    fn what_is_staged_is_seen_by_nobody_until_it_is_published() {
        let space = space();
        let mut transaction = Transaction::begin(&space, None).unwrap();
        transaction.insert(ram(0)).unwrap();
        assert!(transaction.insert(ram(0x800)).is_err());
        assert_eq!((transaction.staged().regions().len(), space.map().regions().len()), (1, 0));
        space.insert(ram(0x1000), &Uninterrupted).unwrap();
        let published = transaction.publish(&space, &Uninterrupted).unwrap().unwrap();
        assert_eq!((published.generation().0, published.regions().len()), (2, 2));
    }

    #[test]
    fn a_removal_means_the_region_that_was_staged() {
        let space = space();
        space.insert(ram(0), &Uninterrupted).unwrap();
        let mut transaction = Transaction::begin(&space, None).unwrap();
        transaction.remove(&RegionTarget::Base(0)).unwrap();
        let newer = Region { name: Some("newer".into()), ..ram(0) };
        space.replace(RegionTarget::Base(0), newer, &Uninterrupted).unwrap();
        assert!(matches!(transaction.publish(&space, &Uninterrupted), Err(Error::Unmapped { .. })));
        assert_eq!(space.map().at_name("newer").unwrap().base(), 0);
    }

    #[test]
    fn a_passed_generation_is_refused_at_the_begin_and_at_the_end() {
        let space = space();
        let mut transaction = Transaction::begin(&space, Some(Generation(0))).unwrap();
        transaction.insert(ram(0)).unwrap();
        space.insert(ram(0), &Uninterrupted).unwrap();
        for refused in [
            transaction.publish(&space, &Uninterrupted).map(drop),
            Transaction::begin(&space, Some(Generation(0))).map(drop),
        ] {
            assert!(matches!(
                refused,
                Err(Error::GenerationChanged { expected: Generation(0), actual: Generation(1) })
            ));
        }
    }
}
