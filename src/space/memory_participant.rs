//! Memory as the first participant of a change: nobody may hold what leaves.
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
    /// Regions that stay and were advised ahead of the publication, with what they are to become.
    advised: Vec<(Arc<MappedRegion>, SharedRegion)>,
}

impl MemoryParticipant {
    /// Closes what the change removes or restricts; a lease on any of them is a veto.
    pub(super) fn prepare(memory: &MappedRegions, change: &Change) -> Result<Self> {
        let mut participant = Self::default();
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

    /// The change is published: leases on what left are refused for good.
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
            // Whatever the kernel answers, accesses already refuse what the description forbids.
            let _ = protect(&region, prot_flags);
            region.leases.reopen();
        }
    }
}

impl Drop for MemoryParticipant {
    fn drop(&mut self) {
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
