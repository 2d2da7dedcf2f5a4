//! The steps of a change on the memory of a region that it removes, or to which it gives another description.

use super::discard;
use super::places::Ticket;
use super::region::MappedRegion;
use super::source::failed;
use crate::model::error::{LeaseInfo, Result};
use crate::model::range::Range;
use crate::model::region::SharedRegion;

/// Part of a region that no one can lease while a change decides about it; dropped undecided, it is open again.
#[derive(Debug)]
pub struct ClosedRegion {
    region: MappedRegion,
    part: Range,
    ticket: Ticket,
    is_gone: bool,
}

impl ClosedRegion {
    /// Closes some addresses of a region; leases on them veto that.
    pub fn close(region: &MappedRegion, range: Range) -> Result<Result<Self, Vec<LeaseInfo>>> {
        Ok(region.leases().narrowed(range).close()?.map(|ticket| Self {
            region: region.share(),
            part: region.part(range),
            ticket,
            is_gone: false,
        }))
    }

    /// The bytes are gone from there: leases on them are refused for good. They are to be given back behind the grace period.
    pub fn finish(mut self) -> UnseenBytes {
        self.is_gone = true;
        UnseenBytes { region: self.region.share(), part: self.part }
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

/// Bytes that have left a window, and that others may still show.
#[derive(Debug)]
pub struct UnseenBytes {
    region: MappedRegion,
    part: Range,
}

impl UnseenBytes {
    /// Gives those back that no window shows, where the rest of their storage stays.
    ///
    /// To be called when no reader is left in a snapshot that shows them, and under the turn: nobody may show them again meanwhile.
    pub fn give_back(self) {
        let places = self.region.storage().places();
        // A storage that nobody shows is unmapped as a whole, as soon as its last user lets go.
        if places.shows_any() && !places.shows(self.part) {
            discard::give_back(&self.region, self.part);
        }
    }
}

/// Bytes that a change is about to show in a window; dropped unpublished, nobody can lease them there.
#[derive(Debug)]
pub struct NextWindow {
    region: MappedRegion,
    /// The bytes that were not shown there before.
    part: Range,
    is_published: bool,
}

impl NextWindow {
    /// Shows the bytes of a region in its window that are not shown there yet, so that whoever sees the next map can lease them.
    pub fn show(region: &MappedRegion) -> Result<Vec<Self>> {
        let (storage, window) = (region.storage(), region.window());
        let missing = storage.places().show(&window)?;
        let next = |part| Self { region: region.share(), part, is_published: false };
        let all: Vec<Self> = missing.into_iter().map(next).collect();
        let prot_flags = region.desc().prot_flags;
        for next in &all {
            if !storage.has_protection(next.part, prot_flags) {
                // What was given back may be touched by nobody.
                // SAFETY: nothing is taken away from whoever can see the bytes.
                let allowed = unsafe { storage.protect(next.part, prot_flags) };
                allowed.map_err(|error| failed(region.desc(), "mprotect failed", &error))?;
            }
        }
        Ok(all)
    }

    /// The region is in the map of the space now.
    pub fn publish(mut self) {
        self.is_published = true;
    }
}

impl Drop for NextWindow {
    fn drop(&mut self) {
        if !self.is_published {
            self.region.storage().places().hide(&self.region.window(), self.part);
        }
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
