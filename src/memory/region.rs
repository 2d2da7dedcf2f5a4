//! A region with its memory: what vm-memory sees of it.

use std::sync::Arc;

use vm_memory::bitmap::BS;
use vm_memory::guest_memory::{Error as GuestMemoryError, Result as GuestMemoryResult};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryRegion, GuestMemoryRegionBytes, GuestUsize, MemoryRegionAddress, VolatileSlice,
};

use super::dirty::DirtySource;
use super::lease::{Lease, Leases, Refused};
use super::mapping::Mapping;
use crate::model::error::LeaseInfo;
use crate::model::ids::RegionId;
use crate::model::range::Range;
use crate::model::region::{PROT_READ, PROT_WRITE, SharedRegion};
use crate::model::region_map::RegionEntry;

/// What a lease is called while a DAX window is being changed.
pub const DAX_LEASE: &str = "change of a DAX window";

/// A region of a mapped space.
#[derive(Clone, Debug)]
pub struct MappedRegion {
    /// Which region of the space it is; a replacement of the description keeps it.
    pub id: RegionId,
    /// The description.
    pub desc: SharedRegion,
    /// The memory; a replacement of the description keeps it.
    pub mapping: Arc<Mapping>,
    /// Who holds it.
    pub leases: Arc<Leases>,
}

impl MappedRegion {
    /// A region that no one holds yet.
    #[must_use]
    pub fn new(region: &RegionEntry, mapping: Mapping) -> Self {
        let desc = SharedRegion::clone(&region.desc);
        Self { id: region.id, desc, mapping: Arc::new(mapping), leases: Arc::default() }
    }

    /// Whether it is the memory of a region under that description.
    #[must_use]
    pub fn is(&self, region: &RegionEntry) -> bool {
        self.id == region.id && Arc::ptr_eq(&self.desc, &region.desc)
    }

    /// The same memory under a new description.
    #[must_use]
    pub fn described(&self, desc: SharedRegion) -> Self {
        Self { desc, ..self.clone() }
    }

    /// The first address from `address` to `end` whose protection lacks some of the bits; in a DAX window it is that of the files.
    #[must_use]
    pub fn first_denied(&self, address: u64, end: u64, bits: i32) -> Option<u64> {
        let base = self.desc.base();
        match self.mapping.window() {
            Some(window) if bits != 0 => {
                let offset = window.first_denied(address.saturating_sub(base), end.saturating_sub(base), bits)?;
                Some(base.saturating_add(offset))
            }
            _ => (self.desc.prot_flags & bits != bits).then_some(address),
        }
    }

    /// Holds part of the region; what may be written unseen counts as written for as long as it is held.
    pub fn lease(&self, what: &'static str, address: u64, size: u64, is_writable: bool) -> Result<Lease, Refused> {
        let info = LeaseInfo { what, address, size, is_writable };
        self.leases.take(&self.mapping, address.saturating_sub(self.desc.base()), info)
    }
}

impl DirtySource for MappedRegion {
    /// What is held for writing counts as written each time.
    fn drain(&self, found: &mut dyn FnMut(Range)) {
        let Some(dirty) = self.mapping.dirty() else { return };
        for info in self.leases.held().iter().filter(|info| info.is_writable) {
            dirty.mark(info.address.saturating_sub(self.desc.base()), info.size);
        }
        dirty.drain(&mut |pages| found(Range::between(pages.base(), pages.end().min(self.desc.size()))));
    }
}

impl GuestMemoryRegion for MappedRegion {
    type B = ();

    fn len(&self) -> GuestUsize {
        self.desc.size()
    }

    fn start_addr(&self) -> GuestAddress {
        GuestAddress(self.desc.base())
    }

    fn bitmap(&self) -> BS<'_, Self::B> {}

    fn get_host_address(&self, addr: MemoryRegionAddress) -> GuestMemoryResult<*mut u8> {
        if addr.0 < self.desc.size() {
            Ok(self.mapping.host(addr.0))
        } else {
            Err(GuestMemoryError::InvalidBackendAddress)
        }
    }

    fn file_offset(&self) -> Option<&FileOffset> {
        self.mapping.file_offset()
    }

    /// Only memory that can be touched without a fault is given out as a slice.
    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> GuestMemoryResult<VolatileSlice<'_, BS<'_, Self::B>>> {
        let touchable =
            self.desc.prot_flags & (PROT_READ | PROT_WRITE) == PROT_READ | PROT_WRITE && !self.mapping.is_guarded();
        if !touchable {
            return Err(GuestMemoryError::HostAddressNotAvailable);
        }
        self.mapping.slice(offset.0, count).map_err(GuestMemoryError::from)
    }

    fn is_hugetlbfs(&self) -> Option<bool> {
        Some(self.mapping.backing().is_huge)
    }
}

impl GuestMemoryRegionBytes for MappedRegion {}
