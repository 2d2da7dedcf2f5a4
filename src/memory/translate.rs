//! Many addresses at once.

use super::buffer::{BLOCK, Bytes, Output};
use super::mapped_regions::MappedRegions;
use super::region::MappedRegion;
use crate::model::address_index::AddressIndex;
use crate::model::error::Result;
use crate::model::int::u64_of;
use crate::model::interrupt::{Interrupt, STEP};

/// A copy of what look-ups need of the map, so that they go on without holding it.
#[derive(Debug)]
pub struct Translator {
    starts: AddressIndex,
    /// Sizes and host addresses of the regions.
    regions: Box<[(u64, u64)]>,
}

/// The host address of a byte, and the index of its region.
type HostIndex = (u64, i64);

impl Translator {
    /// The regions of a map by ascending base.
    pub fn new(memory: &MappedRegions) -> Self {
        let host = |region: &MappedRegion| region.start().addr().try_into().unwrap_or_default();
        Self {
            starts: AddressIndex::new(memory.regions().map(|region| region.desc().base()).collect()),
            regions: memory.regions().map(|region| (region.desc().size(), host(region))).collect(),
        }
    }

    /// Finds `address`; `hint` is the index that the last look-up ended with, which sorted addresses meet again.
    #[inline]
    fn find(&self, address: u64, hint: &mut usize) -> Option<HostIndex> {
        if let Some(found) = self.find_in(address, *hint) {
            return Some(found);
        }
        *hint = self.starts.upper_bound(address).checked_sub(1)?;
        self.find_in(address, *hint)
    }

    #[inline]
    fn find_in(&self, address: u64, index: usize) -> Option<HostIndex> {
        let offset = address.checked_sub(self.starts.get(index)?)?;
        let (size, host) = self.regions.get(index)?;
        if offset >= *size {
            return None;
        }
        Some((host.checked_add(offset)?, i64::try_from(index).ok()?))
    }

    /// Writes the host address and the region's index of each address; where there is no memory, `(0, -1)`.
    ///
    /// When `must_exist`, it stops at the first address without memory, and returns that.
    pub fn translate(
        &self,
        addresses: Bytes<'_>,
        [hosts, indexes]: &[Output<'_>; 2],
        must_exist: bool,
        interrupt: &dyn Interrupt,
    ) -> Result<Option<u64>> {
        let mut hint = 0;
        let (mut block, mut found) = ([0; BLOCK], ([0; BLOCK], [0; BLOCK]));
        for at in (0..addresses.size()).step_by(size_of_val(&block)) {
            let block = addresses.integers(at, &mut block)?;
            for (address, (host, index)) in block.iter().zip(found.0.iter_mut().zip(&mut found.1)) {
                (*host, *index) = match self.find(*address, &mut hint) {
                    Some((host, index)) => (host, index.cast_unsigned()),
                    None if must_exist => return Ok(Some(*address)),
                    None => (0, u64::MAX),
                };
            }
            hosts.put_integers(at, found.0.get(..block.len()).unwrap_or_default())?;
            indexes.put_integers(at, found.1.get(..block.len()).unwrap_or_default())?;
            if u64_of(at).is_multiple_of(STEP) {
                interrupt.check()?;
            }
        }
        Ok(None)
    }
}
