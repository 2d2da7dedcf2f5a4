//! A region with its memory.

use std::sync::Arc;

use super::judge::Why;
use super::lease_table::LeaseTable;
use super::mapping::Mapping;
use crate::model::error::Result;
use crate::model::ids::RegionId;
use crate::model::int::usize_of;
use crate::model::invalid::Invalid;
use crate::model::range::Range;
use crate::model::region::SharedRegion;
use crate::model::region_map::RegionEntry;
use crate::sys::fork::Forked;
use crate::sys::kvm_slot::StableBytes;

/// A region of a mapped space.
///
/// Verbs see it as long as they hold the snapshot that it is in. Longer use needs a `Lease` on it,
/// a `WeakRegion`, which keeps nothing, or the `Arc` that the participants of a change hold by protocol.
#[derive(Debug)]
pub struct MappedRegion {
    entry: RegionEntry,
    mapping: Arc<Mapping>,
    leases: Arc<LeaseTable>,
}

impl MappedRegion {
    /// A region of a mapping that was made for its range.
    pub(super) const fn of(entry: RegionEntry, mapping: Arc<Mapping>, leases: Arc<LeaseTable>) -> Self {
        Self { entry, mapping, leases }
    }

    /// The same region once more, for what keeps it under a lease.
    pub(super) fn share(&self) -> Self {
        Self::of(self.entry.clone(), Arc::clone(&self.mapping), Arc::clone(&self.leases))
    }

    /// The same memory under another description of its range.
    pub(super) fn described(&self, entry: &RegionEntry) -> Result<Self> {
        if entry.range != self.desc().range {
            let message = format!("{} can't have the memory of {}, which is another range", entry.desc, self.desc());
            return Err(Invalid::at(message, Some(entry.base()), Some(entry.size())).into());
        }
        Ok(Self { entry: entry.clone(), ..self.share() })
    }

    /// The region, as it is described.
    pub const fn entry(&self) -> &RegionEntry {
        &self.entry
    }

    /// Which region of the space it is; a replacement of the description keeps it.
    pub const fn id(&self) -> RegionId {
        self.entry.id
    }

    /// Whether it is the memory of a region under that description.
    pub fn is(&self, entry: &RegionEntry) -> bool {
        self.id() == entry.id && Arc::ptr_eq(self.desc(), &entry.desc)
    }

    /// The description.
    pub const fn desc(&self) -> &SharedRegion {
        &self.entry.desc
    }

    /// The memory; a replacement of the description keeps it.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Its leases.
    pub const fn leases(&self) -> &Arc<LeaseTable> {
        &self.leases
    }

    pub(super) const fn shared_mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// The guest physical addresses.
    pub fn range(&self) -> Range {
        self.desc().range
    }

    /// The part of a range that lies in the region, counted from the region's start.
    pub fn part(&self, range: Range) -> Range {
        let part = self.range().intersection(&range);
        Range::between(part.base().abs_diff(self.range().base()), part.end().abs_diff(self.range().base()))
    }

    /// Why accesses go through the kernel; `None` when they don't.
    pub fn guarded_because(&self) -> Option<Why> {
        self.mapping.guarded_because()
    }

    /// The same for messages: `, for its file ...`, or nothing.
    pub fn why_guarded(&self) -> String {
        self.guarded_because().map_or_else(String::new, |why| format!(", for {why}"))
    }

    /// The first address in part of the region whose protection lacks some of the bits; in a DAX window it is that of the files.
    pub fn first_denied(&self, range: Range, bits: i32) -> Result<Option<u64>, Forked> {
        match self.mapping.window() {
            Some(window) if bits != 0 => {
                let offset = window.first_denied(self.part(range), bits)?;
                Ok(offset.map(|offset| self.range().skip(offset).base()))
            }
            _ => Ok((self.desc().prot_flags & bits != bits).then_some(range.base())),
        }
    }

    /// In a DAX window, the protection of the file that is mapped at an address.
    pub(super) fn window_prot_flags(&self, address: u64) -> Option<Option<i32>> {
        let place = self.range().offset_of(address)?;
        Some(self.mapping.window()?.prot_flags(place).unwrap_or_default())
    }
}

// SAFETY: the mapping is unmapped when the last region that shares it is dropped, and a buffer is kept by its backing. What a DAX window
// maps over a part of itself is the same bytes to whoever looks.
unsafe impl StableBytes for MappedRegion {
    fn bytes(&self) -> *mut [u8] {
        std::ptr::slice_from_raw_parts_mut(self.mapping.host(0), usize_of(self.range().size()))
    }
}
