//! Holding a region beyond the snapshot that it was found in.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Weak};

use super::dax_window::{DaxMapping, DaxWindow};
use super::held_lease::Writes;
use super::path::Touch;
use super::places::{Places, Refused, WindowLeases};
use super::region::MappedRegion;
use super::region_change;
use super::storage::Storage;
use super::window::Window;
use crate::model::range::Range;
use crate::model::region::SharedRegion;
use crate::model::region_map::RegionEntry;
use crate::sys::fork::Forked;

/// Keeps a region's memory mapped, and the region in its space, until it is dropped.
///
/// A lease that is taken while the snapshot is held that shows the region also keeps the protections of that snapshot: a change
/// that takes one away closes the region first, and opens it only when no reader is left in the snapshot.
#[derive(Debug)]
pub struct Lease {
    region: MappedRegion,
    /// The bytes that count as written when it ends, for they may have been written unseen.
    written: Option<Range>,
    slot: Option<usize>,
}

impl Lease {
    /// Takes a lease on part of a region, for `what`.
    ///
    /// `writes` says how it may be written, `is_nested` that the caller has a lease on the region already.
    pub(super) fn take(
        region: &MappedRegion,
        what: &'static str,
        range: Range,
        writes: Writes,
        is_nested: bool,
    ) -> Result<Self, Refused> {
        let slot = region.leases().enter(what, range, writes, is_nested)?;
        let written = (writes == Writes::Unseen).then(|| region.part(range));
        Ok(Self { region: region.share(), written, slot })
    }

    /// The region.
    pub const fn region(&self) -> &MappedRegion {
        &self.region
    }

    /// The host address where a range begins that lies in the region.
    pub fn host(&self, range: Range) -> *mut u8 {
        self.region.host(self.region.part(range))
    }

    /// Whether the memory has the protection bits all over a range, as long as the lease is held.
    pub fn allows(&self, range: Range, bits: i32) -> Result<bool, Forked> {
        self.region.allows(range, bits)
    }

    /// Whether dropping this lease unmaps the memory, which may take long.
    pub fn is_last_user(&self) -> bool {
        // A hint only: two last users at the same time both say no, and one of them unmaps all the same.
        let storage = self.region.shared_storage();
        Arc::strong_count(storage) == 1 || storage.places().is_abandoned(self.region.window().place())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some((written, dirty)) = self.written.zip(self.region.storage().dirty()) {
            // Before the lease goes: a drain of the region, once it is free, must find the pages.
            dirty.mark(written.base(), written.size());
        }
        if let Some(slot) = self.slot {
            let left = self.region.storage().places().leave(slot);
            left.into_iter().for_each(|part| region_change::give_up(&self.region, part));
        }
    }
}

/// A region that is remembered, and neither kept mapped nor kept in its space.
#[derive(Clone, Debug)]
pub struct WeakRegion {
    entry: RegionEntry,
    storage: Weak<Storage>,
    places: Arc<Places>,
    window: Window,
}

impl From<&MappedRegion> for WeakRegion {
    fn from(region: &MappedRegion) -> Self {
        let (storage, places) = (Arc::downgrade(region.shared_storage()), Arc::clone(region.storage().places()));
        Self { entry: region.entry().clone(), storage, places, window: region.window() }
    }
}

impl WeakRegion {
    /// The description that it had.
    pub const fn desc(&self) -> &SharedRegion {
        &self.entry.desc
    }

    /// Its leases.
    pub fn leases(&self) -> WindowLeases<'_> {
        self.places.through(self.window)
    }

    /// Whether both are the same memory, seen in the same window.
    pub fn is_memory_of(&self, other: &Self) -> bool {
        self.storage.ptr_eq(&other.storage) && self.window == other.window
    }

    /// Whether no touch of it can fault for as long as it is mapped and its protection stays.
    pub fn is_always_direct(&self) -> bool {
        self.storage.upgrade().is_some_and(|storage| storage.touch() == Touch::Always)
    }

    /// The region, if its memory is still there; kept for a moment, and not touched: that takes a lease.
    pub fn upgrade(&self) -> Option<MappedRegion> {
        Some(MappedRegion::of(self.entry.clone(), self.storage.upgrade()?, self.window))
    }

    /// Takes a lease on part of the region, if it is still there.
    pub fn lease(&self, what: &'static str, range: Range, writes: Writes) -> Result<Lease, Refused> {
        let storage = self.storage.upgrade().ok_or(Refused::Closed)?;
        let region = MappedRegion::of(self.entry.clone(), storage, self.window);
        Lease::take(&region, what, range, writes, false)
    }

    /// The storage's own descriptor, exported as by [`Storage::export_file`], if the memory is still there.
    pub fn export_descriptor(&self) -> Option<Option<RawFd>> {
        self.storage.upgrade().map(|storage| storage.export_file().map(|file| file.as_raw_fd()))
    }

    /// The files in it, when it is a DAX window that is still there.
    pub fn dax_mappings(&self) -> Result<Vec<DaxMapping>, Forked> {
        let storage = self.storage.upgrade();
        storage.as_ref().and_then(|storage| storage.dax_window()).map_or(Ok(Vec::new()), DaxWindow::mappings)
    }
}
