//! Unpacked blocks of a dump that were used a short time ago.

use crate::model::int::usize_of;
use crate::sys::lock::Lock;

/// Blocks of at most 64 KiB that are kept: 16 MiB.
const SLOTS: u64 = 256;

/// A block, and its number.
type Slot = Option<(u64, Vec<u8>)>;

/// The blocks by the lowest bits of their numbers, so that blocks in a row have different places.
#[derive(Debug, Default)]
pub(super) struct BlockCache(Lock<Vec<Slot>>);

impl BlockCache {
    /// Gives a block to `take`: one that is kept, or that `unpack` makes. A forked child keeps none that its parent was about to.
    pub(super) fn with<T, E>(
        &self,
        number: u64,
        unpack: impl FnOnce() -> Result<Vec<u8>, E>,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, E> {
        let slot = usize_of(number % SLOTS);
        if let Ok(slots) = self.0.lock()
            && let Some(Some((kept, block))) = slots.get(slot)
            && *kept == number
        {
            return Ok(take(block));
        }
        let block = unpack()?;
        let taken = take(&block);
        if let Ok(mut slots) = self.0.lock() {
            slots.resize_with(usize_of(SLOTS), || None);
            if let Some(slot) = slots.get_mut(slot) {
                *slot = Some((number, block));
            }
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_unpacked_once_until_another_takes_its_place() {
        let (cache, unpacked) = (BlockCache::default(), std::cell::RefCell::new(Vec::new()));
        for number in [1, 1, 2, 1, 1 + SLOTS, 1] {
            let unpack = || -> Result<Vec<u8>, ()> {
                unpacked.borrow_mut().push(number);
                Ok(number.to_le_bytes().to_vec())
            };
            assert_eq!(cache.with(number, unpack, <[u8]>::to_vec), Ok(number.to_le_bytes().to_vec()));
        }
        assert_eq!(*unpacked.borrow(), [1, 2, 1 + SLOTS, 1]);
    }
}
