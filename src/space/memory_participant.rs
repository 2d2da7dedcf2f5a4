//! Memory as the first participant of a change: what leaves must be held by no one.

use std::sync::Arc;

use crate::memory::mapped_regions::MappedRegions;
use crate::memory::region::MappedRegion;
use crate::memory::region_change::{ClosedRegion, NextDescription};
use crate::model::change::Change;
use crate::model::error::{Error, LeaseInfo, Result};
use crate::model::format::hex;
use crate::model::region::SharedRegion;

/// Regions that no one can lease while a change decides about them, and those that get another description; dropped undecided, all
/// are again what they were.
#[derive(Debug, Default)]
pub(super) struct MemoryParticipant {
    leaving: Vec<ClosedRegion>,
    /// Regions that stay and lose a protection.
    restricted: Vec<(ClosedRegion, i32)>,
    described: Vec<NextDescription>,
}

impl MemoryParticipant {
    /// Closes what the change removes or restricts; a lease on any of them is a veto.
    pub(super) fn of(memory: &MappedRegions, change: &Change) -> Result<Self> {
        let mut participant = Self::default();
        for region in change.removed.iter().filter_map(|region| mapped(memory, region)) {
            participant.leaving.push(close(region)?);
        }
        for (old, new) in &change.replaced {
            if let Some(region) = mapped(memory, old) {
                participant.redescribe(region, new)?;
            }
        }
        Ok(participant)
    }

    /// Closes every region of a memory.
    pub(super) fn of_all(memory: &MappedRegions) -> Result<Self> {
        let leaving = memory.regions().map(close).collect::<Result<_>>()?;
        Ok(Self { leaving, ..Self::default() })
    }

    fn redescribe(&mut self, region: &MappedRegion, new: &SharedRegion) -> Result<()> {
        if region.desc().prot_flags & !new.prot_flags != 0 {
            self.restricted.push((close(region)?, new.prot_flags));
        }
        self.described.push(NextDescription::prepare(region, new)?);
        Ok(())
    }

    /// The change is published: leases on what left are refused for good.
    pub(super) fn publish(&mut self) {
        self.described.drain(..).for_each(NextDescription::publish);
        self.leaving.drain(..).for_each(ClosedRegion::finish);
    }

    /// No reader is left in the old snapshot: protections can shrink.
    pub(super) fn settle(self) {
        self.restricted.into_iter().for_each(|(region, prot_flags)| region.restrict(prot_flags));
    }
}

fn mapped<'a>(memory: &'a MappedRegions, region: &SharedRegion) -> Option<&'a MappedRegion> {
    memory.find(region.base()).filter(|mapped| Arc::ptr_eq(mapped.desc(), region))
}

fn close(region: &MappedRegion) -> Result<ClosedRegion> {
    ClosedRegion::close(region).map_err(|leases| busy(region.desc(), leases))
}

fn busy(region: &SharedRegion, leases: Vec<LeaseInfo>) -> Error {
    let first: Vec<String> = leases
        .iter()
        .take(3)
        .map(|lease| format!("a {} of {} bytes at {}", lease.what, hex(lease.size), hex(lease.address)))
        .collect();
    let more = leases.len().saturating_sub(first.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Error::Busy {
        message: format!("{region} is in use by {}{more}: release it, or wait with timeout=", first.join(", ")),
        region: Arc::clone(region),
        leases,
    }
}
