//! The steps of a change on the memory of a region that it removes, cuts, joins or moves, or to which it gives another description.

use std::sync::Arc;

use super::kept::KeptMemory;
use super::places::{Ticket, Veto};
use super::region::MappedRegion;
use super::source_error::failed;
use crate::model::error::{LeaseInfo, Result};
use crate::model::range::Range;
use crate::model::region::SharedRegion;

/// Part of a region on which no one can take a lease of a kind while a change decides about it; dropped undecided, it is open again.
#[derive(Debug)]
pub struct ClosedRegion {
    region: MappedRegion,
    part: Range,
    ticket: Ticket,
    is_gone: bool,
}

impl ClosedRegion {
    /// Closes some addresses of a region; leases of that kind on them veto it.
    pub fn close(region: &MappedRegion, range: Range, veto: Veto) -> Result<Result<Self, Vec<LeaseInfo>>> {
        Ok(region.leases().narrowed(range).close(veto)?.map(|ticket| Self {
            region: region.share(),
            part: region.part(range),
            ticket,
            is_gone: false,
        }))
    }

    /// The bytes are gone from there: leases on them are refused for good.
    pub fn finish(mut self) -> GoneBytes {
        self.is_gone = true;
        // Before they are hidden, for readers are in older snapshots yet.
        let kept = KeptMemory::of(self.region.shared_storage(), self.part);
        GoneBytes { region: self.region.share(), part: self.part, kept }
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
pub struct GoneBytes {
    region: MappedRegion,
    part: Range,
    kept: KeptMemory,
}

impl GoneBytes {
    /// Nothing is allowed through the window any more; dropped, what comes back gives the bytes back that nobody else shows.
    ///
    /// To be called when no reader is left in a snapshot that shows them.
    pub fn settle(self) -> KeptMemory {
        forbid(&self.region, self.part);
        self.kept
    }
}

/// Lets a region go whose space is gone: at once, or with the last lease on it.
pub fn abandon(region: &MappedRegion) {
    let (storage, window) = (region.shared_storage(), region.window());
    // One that nobody else has goes as a whole.
    if Arc::strong_count(storage) > 1 && storage.places().abandon(window.place(), window.shown()) {
        give_up(region, window.shown());
    }
}

/// Nothing is allowed any more through the place of a region whose space is gone; bytes go that nobody else shows.
pub(super) fn give_up(region: &MappedRegion, part: Range) {
    // Other processes that were let go keep what they have.
    let kept = region.storage().is_unexported().then(|| KeptMemory::of(region.shared_storage(), part));
    forbid(region, part);
    drop(kept);
}

/// Forbids everything through a region's place, in a part where no one holds a lease, and no reader is left.
fn forbid(region: &MappedRegion, part: Range) {
    let storage = region.storage();
    let (place, pages) = (region.window().place(), |part| storage.own_pages_of(part));
    // SAFETY: as said. A page that the kernel keeps wider harms nobody.
    let _ = unsafe { storage.protection().allow(place, part, &[], pages) };
    let _ = storage.protection().grant(place, part, &[]);
}

/// A window that a change is about to publish, under whatever description; dropped unpublished, all is as it was.
#[derive(Debug)]
pub struct NextWindow {
    region: MappedRegion,
    /// Parts that were not seen through its place before.
    new: Vec<Range>,
    /// The protection that was allowed there.
    before: Vec<(Range, i32)>,
    is_published: bool,
}

impl NextWindow {
    /// Lets bytes be seen through a place, so that whoever sees the next map can lease them.
    ///
    /// What the description allows is allowed from now on, beside what was; nobody uses it before it is published.
    pub fn show(region: &MappedRegion) -> Result<Self> {
        let (window, places) = (region.window(), region.storage().places());
        let before = region.allowed()?;
        let new = places.show(window.place(), window.shown());
        let next = Self { region: region.share(), new, before, is_published: false };
        let flags = region.desc().prot_flags;
        let together = next.new.iter().map(|part| (*part, flags));
        let together = together.chain(next.before.iter().map(|(part, before)| (*part, before | flags)));
        // SAFETY: nothing is taken away.
        let added = unsafe { region.allow(&together.collect::<Vec<_>>()) };
        added.map_err(|error| failed(region.desc(), "mprotect failed", &error))?;
        Ok(next)
    }

    /// Nothing can keep the region out of the map of the space any more. Before it is there: who finds it there can lease what it allows.
    pub fn publish(&mut self) {
        self.region.grant();
        self.is_published = true;
    }

    /// Takes away what its description does not allow.
    ///
    /// To be called when no reader is left in a snapshot that allows more: short accesses hold no lease.
    pub fn settle(&self) {
        let parts = [(self.region.window().shown(), self.region.desc().prot_flags)];
        // SAFETY: no one holds a lease that needs more, and no reader is left, as said above. Whatever the kernel answers, accesses
        // already refuse what the description forbids.
        let _ = unsafe { self.region.allow(&parts) };
    }
}

impl Drop for NextWindow {
    fn drop(&mut self) {
        if self.is_published {
            return;
        }
        let (place, places) = (self.region.window().place(), self.region.storage().places());
        self.new.iter().for_each(|part| places.hide(place, *part));
        // SAFETY: no description that allows more was published.
        let _ = unsafe { self.region.allow(&self.before) };
    }
}

/// A region whose pages already are bound and advised as its next description asks; dropped unpublished, they are again what they were.
#[derive(Debug)]
pub struct NextDescription {
    region: MappedRegion,
    new: SharedRegion,
    is_published: bool,
}

impl NextDescription {
    /// Binds and advises the pages.
    pub fn prepare(region: &MappedRegion, new: &SharedRegion) -> Result<Self> {
        let next = Self { region: region.share(), new: SharedRegion::clone(new), is_published: false };
        region.advise(Some(region.desc()), new)?;
        Ok(next)
    }

    /// The description is the one of the space now.
    pub fn publish(mut self) {
        self.is_published = true;
    }
}

impl Drop for NextDescription {
    fn drop(&mut self) {
        if !self.is_published {
            // There is nobody to tell of an advice that can't be taken back.
            let _ = self.region.advise(Some(&self.new), self.region.desc());
        }
    }
}
