//! Memory as the first participant of a change: nobody may hold a region that leaves.
//!
//! It prepares, commits and finishes like a client, and is asked before all of them.

use std::sync::Arc;

use crate::memory::mapped_regions::MappedRegions;
use crate::memory::region::MappedRegion;
use crate::memory::source;
use crate::model::change::Change;
use crate::model::error::{Error, LeaseInfo, Result};
use crate::model::format::hex;
use crate::model::region::SharedRegion;
use crate::model::region_map::RegionEntry;

/// Regions that no one can lease while a change decides about them; dropped before [`commit`](Self::commit), all is as it was.
#[derive(Debug, Default)]
pub(super) struct MemoryParticipant {
    leaving: Vec<Arc<MappedRegion>>,
    /// Regions that stay and lose a protection, with the one that they will have.
    restricted: Vec<(Arc<MappedRegion>, i32)>,
    /// Regions that stay and gained a protection ahead of the publication, with the one they had.
    extended: Vec<(Arc<MappedRegion>, i32)>,
    /// Regions that stay and were advised ahead of the publication, with their new description.
    advised: Vec<(Arc<MappedRegion>, SharedRegion)>,
}

impl MemoryParticipant {
    /// Closes the regions that the change removes or restricts; a lease on any of them is a veto.
    pub(super) fn prepare(memory: &MappedRegions, change: &Change) -> Result<Self> {
        let mut participant = Self::default();
        // One after the other: a veto drops the participant, which opens those that were closed before it.
        for region in change.removed.iter().filter_map(|region| mapped(memory, region)) {
            close(region)?;
            participant.leaving.push(Arc::clone(region));
        }
        for (old, new) in &change.replaced {
            if let Some(region) = mapped(memory, old) {
                participant.redescribe(region, new)?;
            }
        }
        Ok(participant)
    }

    /// Closes every region of a memory.
    pub(super) fn prepare_all(memory: &MappedRegions) -> Result<Self> {
        let mut participant = Self::default();
        for region in memory.regions() {
            close(region)?;
            participant.leaving.push(Arc::clone(region));
        }
        Ok(participant)
    }

    /// A protection is widened before the publication and narrowed behind it: at any moment the pages allow at least what the
    /// description that readers see allows, so that no access faults which was not refused.
    fn redescribe(&mut self, region: &Arc<MappedRegion>, new: &SharedRegion) -> Result<()> {
        let (before, after) = (region.desc.prot_flags, new.prot_flags);
        // A view relies on the protection under which it was taken, so that its lease is a veto here too.
        if before & !after != 0 {
            close(region)?;
            self.restricted.push((Arc::clone(region), after));
        }
        // Each is noted before it is done: a failure half way is undone too.
        if after & !before != 0 {
            self.extended.push((Arc::clone(region), before));
            protect(region, before | after)?;
        }
        self.advised.push((Arc::clone(region), Arc::clone(new)));
        region.mapping.advise(Some(&region.desc), new)
    }

    /// The change is published: leases on regions that left are refused for good.
    pub(super) fn commit(&mut self) {
        self.extended.clear();
        self.advised.clear();
        for region in self.leaving.drain(..) {
            region.leases.finish();
        }
    }

    /// No reader is left in the old snapshot: protections can shrink.
    pub(super) fn finish(mut self) {
        for (region, prot_flags) in self.restricted.drain(..) {
            // If the kernel refuses, nothing is lost: accesses refuse what the new description forbids in any case.
            let _ = protect(&region, prot_flags);
            region.leases.reopen();
        }
    }
}

impl Drop for MemoryParticipant {
    fn drop(&mut self) {
        // There is nobody to tell of a failure here: the error that undoes the change is on its way already.
        for (region, prot_flags) in self.extended.drain(..) {
            let _ = protect(&region, prot_flags);
        }
        for (region, new) in self.advised.drain(..) {
            let _ = region.mapping.advise(Some(&new), &region.desc);
        }
        for region in self.leaving.iter().chain(self.restricted.iter().map(|(region, _)| region)) {
            region.leases.reopen();
        }
    }
}

fn mapped<'a>(memory: &'a MappedRegions, region: &RegionEntry) -> Option<&'a Arc<MappedRegion>> {
    memory.find(region.base()).filter(|mapped| mapped.id == region.id)
}

fn protect(region: &MappedRegion, prot_flags: i32) -> Result<()> {
    region.mapping.protect(prot_flags).map_err(|error| source::failed(&region.desc, "mprotect failed", &error))
}

fn close(region: &MappedRegion) -> Result<()> {
    region.leases.close().map_err(|leases| busy(&region.desc, leases))
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
        message: format!("{region} is in use by {}{more}: release it, or wait with timeout=", first.join(", ")),
        region: Arc::clone(region),
        leases,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::lease::Refused;
    use crate::memory::mapper::Mapper;
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
    fn mapped(prot_flags: i32) -> (Arc<RegionMap>, MappedRegions) {
        let layout = Layout::new(1 << 20, 0, 1 << 20, vec![]).unwrap();
        let map = RegionMap::from_regions(vec![region(0, prot_flags), region(1, prot_flags)], layout).unwrap();
        let with_memory = |region: &RegionEntry| {
            let mapping = Mapper::new(&Uninterrupted, region.size()).map(region).unwrap();
            Arc::new(MappedRegion::new(region, mapping))
        };
        let memory = map.regions().iter().map(with_memory).collect();
        (Arc::new(map), MappedRegions::new(Incarnation::unique(), false, memory))
    }

    fn lease(memory: &MappedRegions, index: usize) -> Result<crate::memory::lease::Lease, Refused> {
        let region = &memory.regions()[index];
        region.lease("view", region.desc.base(), 1, false)
    }

    fn removal(map: &Arc<RegionMap>) -> Change {
        let both = [0, 1].map(|page| MapOperation::Remove(RegionTarget::Base(page << 12)));
        ChangeRequest::of(&both).change_of(map).unwrap()
    }

    fn protecting(map: &Arc<RegionMap>, prot_flags: i32) -> Change {
        let replace = [MapOperation::Replace(RegionTarget::Base(0), region(0, prot_flags))];
        ChangeRequest::of(&replace).change_of(map).unwrap()
    }

    #[test]
    fn a_lease_on_one_region_is_a_veto_and_closes_none() {
        let (map, memory) = mapped(READ_WRITE);
        let held = lease(&memory, 1).unwrap();
        let Err(Error::Busy { message, leases, .. }) = MemoryParticipant::prepare(&memory, &removal(&map)) else {
            panic!()
        };
        assert!(leases.len() == 1 && message.contains("a view of 0x1 bytes at 0x1000"), "{message}");
        assert!(lease(&memory, 0).is_ok());
        drop(held);
        assert!(MemoryParticipant::prepare(&memory, &removal(&map)).is_ok());
    }

    #[test]
    fn what_leaves_is_closed_until_the_change_is_undone_or_for_good() {
        let (map, memory) = mapped(READ_WRITE);
        let participant = MemoryParticipant::prepare(&memory, &removal(&map)).unwrap();
        assert!(matches!(lease(&memory, 0), Err(Refused::Closing)));
        drop(participant);
        assert!(lease(&memory, 0).is_ok());
        let mut participant = MemoryParticipant::prepare_all(&memory).unwrap();
        participant.commit();
        assert!(matches!(lease(&memory, 0), Err(Refused::Closed)));
        participant.finish();
        assert!(matches!(lease(&memory, 1), Err(Refused::Closed)));
    }

    #[test]
    fn a_protection_shrinks_when_the_last_reader_has_left() {
        let (map, memory) = mapped(READ_WRITE);
        let mapping = &memory.regions()[0].mapping;
        let mut participant = MemoryParticipant::prepare(&memory, &protecting(&map, PROT_READ)).unwrap();
        participant.commit();
        assert_eq!(mapping.prot_flags(), READ_WRITE);
        assert!(matches!(lease(&memory, 0), Err(Refused::Closing)));
        participant.finish();
        assert_eq!(mapping.prot_flags(), PROT_READ);
        assert!(lease(&memory, 0).is_ok());
    }

    #[test]
    fn a_protection_grows_before_anyone_sees_it_and_shrinks_again_when_undone() {
        let (map, memory) = mapped(PROT_READ);
        let mapping = &memory.regions()[0].mapping;
        let held = lease(&memory, 0).unwrap();
        let participant = MemoryParticipant::prepare(&memory, &protecting(&map, READ_WRITE)).unwrap();
        assert_eq!(mapping.prot_flags(), READ_WRITE);
        drop(participant);
        assert_eq!(mapping.prot_flags(), PROT_READ);
        let mut participant = MemoryParticipant::prepare(&memory, &protecting(&map, READ_WRITE)).unwrap();
        participant.commit();
        participant.finish();
        assert_eq!(mapping.prot_flags(), READ_WRITE);
        drop(held);
    }
}
