//! Memory as the first participant of a change: nobody may hold a region that leaves.
//!
//! It prepares, commits and finishes like a client, and is asked before all of them.

use std::sync::Arc;

use crate::memory::kept::KeptMemory;
use crate::memory::mapped_regions::MappedRegions;
use crate::memory::places::Veto;
use crate::memory::region::MappedRegion;
use crate::memory::region_change::{ClosedRegion, GoneBytes, NextDescription, NextWindow};
use crate::model::change::Change;
use crate::model::error::{Error, LeaseInfo, Result};
use crate::model::format::hex;
use crate::model::range::Range;
use crate::model::region::{PROT_READ, PROT_WRITE, SharedRegion};
use crate::model::region_map::RegionEntry;

/// Regions that no one can lease while a change decides about them, and those that get another description; dropped before
/// [`commit`](Self::commit), all are as they were.
#[derive(Debug, Default)]
pub(super) struct MemoryParticipant {
    leaving: Vec<ClosedRegion>,
    /// Bytes that have left, until nobody can see them any more.
    gone: Vec<GoneBytes>,
    /// Windows on memory that was there, at new addresses or with another protection.
    windows: Vec<NextWindow>,
    /// Parts that stay and lose a protection: leases that need it must not be taken meanwhile.
    restricted: Vec<ClosedRegion>,
    described: Vec<NextDescription>,
}

impl MemoryParticipant {
    /// Closes what the change takes away from an address, or restricts; a lease on any of it is a veto. Bytes that are cut where they are
    /// seen stay open, and those that are joined again.
    pub(super) fn prepare(memory: &MappedRegions, after: &MappedRegions, change: &Change) -> Result<Self> {
        let mut participant = Self::default();
        // One after the other: a veto drops the participant, which opens those that were closed before it.
        for region in change.removed.iter().filter_map(|region| mapped(memory, region)) {
            for range in change.left_of(region.entry()) {
                participant.leaving.push(close(region, range, Veto::All)?);
            }
            for new in change.added.iter().filter(|added| added.agrees_with(region.entry())) {
                participant.restrict(region, new)?;
                participant.unite(region, mapped(after, new))?;
            }
        }
        for region in change.added.iter().filter_map(|region| mapped(after, region)) {
            participant.windows.push(NextWindow::show(region)?);
        }
        for (old, new) in &change.replaced {
            if let Some((region, next)) = mapped(memory, old).zip(mapped(after, new)) {
                participant.redescribe(region, next)?;
            }
        }
        Ok(participant)
    }

    /// Closes every region of a memory.
    pub(super) fn prepare_all(memory: &MappedRegions) -> Result<Self> {
        let close = |region: &MappedRegion| close(region, region.range(), Veto::All);
        Ok(Self { leaving: memory.regions().map(close).collect::<Result<_>>()?, ..Self::default() })
    }

    /// A protection is widened before the publication and narrowed behind it: at any moment the pages allow at least what the
    /// description that readers see allows, so that no access faults which was not refused.
    fn redescribe(&mut self, region: &MappedRegion, next: &MappedRegion) -> Result<()> {
        self.restrict(region, next.entry())?;
        if region.desc().prot_flags != next.desc().prot_flags {
            self.windows.push(NextWindow::show(next)?);
        }
        self.described.push(NextDescription::prepare(region, next.desc())?);
        Ok(())
    }

    /// Closes a region that is joined with another to whose side it was moved: its bytes leave their place for that one's.
    fn unite(&mut self, region: &MappedRegion, next: Option<&MappedRegion>) -> Result<()> {
        let next = next.filter(|next| next.window().place() != region.window().place());
        let range = next.map(|next| next.range().intersection(&region.range())).filter(|range| !range.is_empty());
        self.leaving.extend(range.map(|range| close(region, range, Veto::All)).transpose()?);
        Ok(())
    }

    /// Closes the addresses of a region at which the next loses a protection, to those who need it.
    fn restrict(&mut self, region: &MappedRegion, next: &RegionEntry) -> Result<()> {
        let lost = region.desc().prot_flags & !next.prot_flags;
        let range = region.range().intersection(&next.range);
        if range.is_empty() || lost & (PROT_READ | PROT_WRITE) == 0 {
            return Ok(());
        }
        let veto = if lost & PROT_READ == 0 { Veto::Writers } else { Veto::All };
        self.restricted.push(close(region, range, veto)?);
        Ok(())
    }

    /// The change will be published, whatever comes.
    pub(super) fn decide(&mut self) {
        self.windows.iter_mut().for_each(NextWindow::publish);
    }

    /// The change is published: leases on regions that left are refused for good.
    pub(super) fn commit(&mut self) {
        self.described.drain(..).for_each(NextDescription::publish);
        self.gone.extend(self.leaving.drain(..).map(ClosedRegion::finish));
    }

    /// No reader is left in the old snapshot: protections can shrink. Bytes that nobody sees go with what is returned, which may take long.
    pub(super) fn finish(self) -> Vec<KeptMemory> {
        let gone = self.gone.into_iter().map(GoneBytes::settle).collect();
        self.windows.iter().for_each(NextWindow::settle);
        // Only now are they open again.
        drop(self.restricted);
        gone
    }
}

fn mapped<'a>(memory: &'a MappedRegions, region: &RegionEntry) -> Option<&'a MappedRegion> {
    memory.find(region.base()).filter(|mapped| mapped.id() == region.id)
}

fn close(region: &MappedRegion, range: Range, veto: Veto) -> Result<ClosedRegion> {
    ClosedRegion::close(region, range, veto)?.map_err(|leases| busy(region.desc(), leases))
}

fn busy(region: &SharedRegion, leases: Vec<LeaseInfo>) -> Error {
    let first: Vec<String> = leases
        .iter()
        .take(3)
        .map(|lease| format!("a {} of {} bytes at {}", lease.what, hex(lease.size), hex(lease.address)))
        .collect();
    let more = match leases.iter().skip(first.len()).count() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Error::Busy {
        message: format!(
            "{region} is in use by {}{more}: release it; remove_region() and close() wait for that with timeout=",
            first.join(", ")
        ),
        region: Arc::clone(region),
        leases,
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::{SpaceState, window_on};
    use super::*;
    use crate::memory::held_lease::Writes;
    use crate::memory::lease::{Lease, WeakRegion};
    use crate::memory::mapper::Mapper;
    use crate::memory::places::Refused;
    use crate::model::change::{ChangeRequest, MapOperation, RegionTarget};
    use crate::model::ids::Incarnation;
    use crate::model::interrupt::Uninterrupted;
    use crate::model::layout::Layout;
    use crate::model::range::Range;
    use crate::model::region::{PROT_READ, PROT_WRITE, Region, RegionType};
    use crate::model::region_map::RegionMap;
    use crate::model::source::Source;

    const READ_WRITE: i32 = PROT_READ | PROT_WRITE;

    fn region(page: u64, prot_flags: i32) -> SharedRegion {
        let region = Region::new(RegionType::DefaultMemory, Range::at(page << 12, 1 << 12), Source::default()).unwrap();
        Arc::new(Region { prot_flags, ..region })
    }

    /// Two regions with their memory.
    fn mapped(prot_flags: i32) -> (Arc<RegionMap>, Arc<MappedRegions>) {
        let layout = Layout::new(1 << 20, 0, 1 << 20, vec![]).unwrap();
        let map = RegionMap::from_regions(vec![region(0, prot_flags), region(1, prot_flags)], layout).unwrap();
        let with_memory =
            |region: &RegionEntry| Arc::new(Mapper::new(&Uninterrupted, region.size()).map(region).unwrap());
        let memory = map.regions().iter().map(with_memory).collect();
        (Arc::new(map), Arc::new(MappedRegions::new(Incarnation::unique(), memory).unwrap()))
    }

    fn lease(memory: &MappedRegions, index: usize) -> Result<Lease, Refused> {
        let region = memory.regions().nth(index).unwrap();
        WeakRegion::from(region).lease("view", region.range().take(1), Writes::Unseen)
    }

    fn prepare(memory: &Arc<MappedRegions>, change: &Change) -> Result<MemoryParticipant> {
        let before = SpaceState { map: Arc::clone(&change.before), memory: Some(Arc::clone(memory)) };
        let after = before.memory_after(change, |region, there| window_on(region, there).map(Arc::new))?.unwrap();
        MemoryParticipant::prepare(memory, &after, change)
    }

    fn removal(map: &Arc<RegionMap>) -> Change {
        let both = [0, 1].map(|page| MapOperation::Remove(RegionTarget::Base(page << 12)));
        ChangeRequest::of(&both).change_of(map, &Uninterrupted).unwrap()
    }

    fn protecting(map: &Arc<RegionMap>, prot_flags: i32) -> Change {
        let replace = [MapOperation::Replace(RegionTarget::Base(0), region(0, prot_flags))];
        ChangeRequest::of(&replace).change_of(map, &Uninterrupted).unwrap()
    }

    #[test]
    fn a_lease_on_one_region_is_a_veto_and_closes_none() {
        let (map, memory) = mapped(READ_WRITE);
        let held = lease(&memory, 1).unwrap();
        let Err(Error::Busy { message, leases, .. }) = prepare(&memory, &removal(&map)) else { panic!() };
        assert!(leases.len() == 1 && message.contains("a view of 0x1 bytes at 0x1000"), "{message}");
        assert!(lease(&memory, 0).is_ok());
        drop(held);
        assert!(prepare(&memory, &removal(&map)).is_ok());
    }

    #[test]
    fn what_leaves_is_closed_until_the_change_is_undone_or_for_good() {
        let (map, memory) = mapped(READ_WRITE);
        let participant = prepare(&memory, &removal(&map)).unwrap();
        assert!(matches!(lease(&memory, 0), Err(Refused::Closing)));
        drop(participant);
        assert!(lease(&memory, 0).is_ok());
        let mut participant = MemoryParticipant::prepare_all(&memory).unwrap();
        participant.decide();
        participant.commit();
        assert!(matches!(lease(&memory, 0), Err(Refused::Closed)));
        participant.finish();
        assert!(matches!(lease(&memory, 1), Err(Refused::Closed)));
    }

    #[test]
    fn a_protection_shrinks_when_the_last_reader_has_left() {
        let (map, memory) = mapped(READ_WRITE);
        let prot_flags = || {
            let region = memory.regions().next().unwrap();
            let has = |bits| if region.storage().has_protection(region.window().shown(), bits) { bits } else { 0 };
            has(PROT_READ) | has(PROT_WRITE)
        };
        let mut participant = prepare(&memory, &protecting(&map, PROT_READ)).unwrap();
        participant.decide();
        participant.commit();
        assert_eq!(prot_flags(), READ_WRITE);
        assert!(matches!(lease(&memory, 0), Err(Refused::Closing)));
        participant.finish();
        assert_eq!(prot_flags(), PROT_READ);
        assert!(lease(&memory, 0).is_ok());
    }

    #[test]
    fn a_protection_grows_before_anyone_sees_it_and_shrinks_again_when_undone() {
        let (map, memory) = mapped(PROT_READ);
        let prot_flags = || {
            let region = memory.regions().next().unwrap();
            let has = |bits| if region.storage().has_protection(region.window().shown(), bits) { bits } else { 0 };
            has(PROT_READ) | has(PROT_WRITE)
        };
        let held = lease(&memory, 0).unwrap();
        let participant = prepare(&memory, &protecting(&map, READ_WRITE)).unwrap();
        assert_eq!(prot_flags(), READ_WRITE);
        drop(participant);
        assert_eq!(prot_flags(), PROT_READ);
        let mut participant = prepare(&memory, &protecting(&map, READ_WRITE)).unwrap();
        participant.decide();
        participant.commit();
        participant.finish();
        assert_eq!(prot_flags(), READ_WRITE);
        drop(held);
    }
}
