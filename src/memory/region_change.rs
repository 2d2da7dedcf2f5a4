//! The steps of a change on the memory of a region that it removes, or to which it gives another description.

use super::places::Ticket;
use super::region::MappedRegion;
use super::source::failed;
use crate::model::error::{LeaseInfo, Result};
use crate::model::region::SharedRegion;

/// A region that no one can lease while a change decides about it; dropped undecided, it is open again.
#[derive(Debug)]
pub struct ClosedRegion {
    region: MappedRegion,
    ticket: Ticket,
    is_gone: bool,
}

impl ClosedRegion {
    /// Closes a region; leases on it veto that.
    pub fn close(region: &MappedRegion) -> Result<Result<Self, Vec<LeaseInfo>>> {
        Ok(region.leases().close()?.map(|ticket| Self { region: region.share(), ticket, is_gone: false }))
    }

    /// The region is gone: leases on it are refused for good.
    pub fn finish(mut self) {
        self.is_gone = true;
    }

    /// Takes away what `prot_flags` lacks, and opens the region.
    ///
    /// To be called when no reader is left in a snapshot that allows more: short accesses hold no lease.
    pub fn restrict(self, prot_flags: i32) {
        // SAFETY: no one holds a lease, and no reader is left, as said above. Whatever the kernel answers, accesses already refuse
        // what the description forbids.
        let _ = unsafe { self.region.protect(prot_flags) };
    }
}

impl Drop for ClosedRegion {
    fn drop(&mut self) {
        let places = self.region.storage().places();
        if self.is_gone { places.finish(self.ticket) } else { places.reopen(self.ticket) }
    }
}

/// A region whose pages already are what its next description asks for; dropped unpublished, they are again what they were.
#[derive(Debug)]
pub struct NextDescription {
    region: MappedRegion,
    new: SharedRegion,
    is_published: bool,
}

impl NextDescription {
    /// Adds the protections of a description, which nobody uses before it is published, and its binding and advice.
    pub fn prepare(region: &MappedRegion, new: &SharedRegion) -> Result<Self> {
        let next = Self { region: region.share(), new: SharedRegion::clone(new), is_published: false };
        let before = region.desc();
        if next.adds_protection() {
            // SAFETY: nothing is taken away.
            let added = unsafe { region.protect(before.prot_flags | new.prot_flags) };
            added.map_err(|error| failed(before, "mprotect failed", &error))?;
        }
        region.advise(Some(before), new)?;
        Ok(next)
    }

    fn adds_protection(&self) -> bool {
        self.new.prot_flags & !self.region.desc().prot_flags != 0
    }

    /// The description is the one of the space now.
    pub fn publish(mut self) {
        self.is_published = true;
    }
}

impl Drop for NextDescription {
    fn drop(&mut self) {
        if self.is_published {
            return;
        }
        let (region, old) = (&self.region, self.region.desc());
        if self.adds_protection() {
            // SAFETY: no description that allows more was published.
            let _ = unsafe { region.protect(old.prot_flags) };
        }
        // There is nobody to tell of an advice that can't be taken back.
        let _ = region.advise(Some(&self.new), old);
    }
}
