//! Many addresses at once.

use super::buffer::{Bytes, Output};
use super::mapped_regions::MappedRegions;
use crate::model::address_index::AddressIndex;
use crate::model::error::Result;

/// What look-ups need, apart from the map, so that they can go on without holding it.
#[derive(Debug)]
pub struct Translator {
    starts: AddressIndex,
    /// Sizes and host addresses of the regions.
    regions: Box<[(u64, u64)]>,
}

/// The index of a region and the host address of a byte in it.
pub type Place = (u64, i64);

impl Translator {
    /// The regions of a map by ascending base.
    #[must_use]
    pub fn new(memory: &MappedRegions) -> Self {
        let regions = memory.regions();
        Self {
            starts: AddressIndex::new(regions.iter().map(|region| region.desc.base()).collect()),
            regions: regions
                .iter()
                .map(|region| (region.desc.size(), region.mapping.host(0).addr().try_into().unwrap_or_default()))
                .collect(),
        }
    }

    /// The place of `address`; `hint` is the index that the last look-up ended with, which sorted addresses meet again.
    #[inline]
    fn place(&self, address: u64, hint: &mut usize) -> Option<Place> {
        if let Some(place) = self.place_in(address, *hint) {
            return Some(place);
        }
        *hint = self.starts.upper_bound(address).checked_sub(1)?;
        self.place_in(address, *hint)
    }

    #[inline]
    fn place_in(&self, address: u64, index: usize) -> Option<Place> {
        let offset = address.checked_sub(self.starts.get(index)?)?;
        let (size, host) = self.regions.get(index)?;
        if offset >= *size {
            return None;
        }
        Some((host.saturating_add(offset), i64::try_from(index).unwrap_or(i64::MAX)))
    }

    /// Writes the host address and the region's index of each address; where there is no memory, `(0, -1)`.
    ///
    /// Returns the first address without memory, at which it stops when `must_exist`.
    pub fn translate(
        &self,
        addresses: Bytes<'_>,
        hosts: &Output<'_>,
        indexes: &Output<'_>,
        must_exist: bool,
    ) -> Result<Option<u64>> {
        let mut hint = 0;
        let mut missing = None;
        for at in (0..addresses.size()).step_by(size_of::<u64>()) {
            let address = addresses.integer(at)?;
            let place = self.place(address, &mut hint);
            if place.is_none() && missing.is_none() {
                missing = Some(address);
                if must_exist {
                    break;
                }
            }
            let (host, index) = place.unwrap_or((0, -1));
            hosts.put(at, &host.to_ne_bytes())?;
            indexes.put(at, &index.to_ne_bytes())?;
        }
        Ok(missing)
    }
}
