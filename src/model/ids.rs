//! The numbers that tell regions, maps, memories and reservations apart: a type each, so that none is taken for another.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::fork;

/// A number that nothing else of its kind has in this process, and that is never used again.
macro_rules! unique_id {
    ($(#[doc = $doc:literal])+ $name:ident) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// The next one.
            #[must_use]
            pub fn unique() -> Self {
                static NEXT: AtomicU64 = AtomicU64::new(0);
                // Relaxed: the numbers only have to differ, in whatever order.
                Self(NEXT.fetch_add(1, Ordering::Relaxed))
            }
        }
    };
}

/// Ids that other processes are told of.
macro_rules! numbered {
    ($($name:ident),+) => {
        $(impl $name {
            /// The number, for other processes.
            #[must_use]
            pub const fn number(self) -> u64 {
                self.0
            }
        })+
    };
}

numbered!(RegionId, StorageId);

unique_id! {
    /// Identifies a region from its insertion into a map to its removal.
    ///
    /// A replacement keeps it, as it keeps the memory; a region that is taken out and put back gets another, and new memory.
    RegionId
}

unique_id! {
    /// Identifies the bytes that a region brought when it was inserted, whatever regions show them since.
    Origin
}

unique_id! {
    /// Identifies bytes: one mapping of a file or of anonymous memory, whatever regions show it.
    StorageId
}

unique_id! {
    /// Identifies the insertion through which bytes of a storage are seen: other insertions that show the same bytes are other places.
    Place
}

unique_id! {
    /// Identifies the memory that one `map_memory` made, until it is closed.
    Incarnation
}

unique_id! {
    /// Identifies a reservation, also when it is released.
    ReservationId
}

unique_id! {
    /// Identifies one who wants to know which pages were written.
    ConsumerId
}

/// Identifies bytes as they go from image to image and are restored, whatever process has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lineage(pub [u8; 16]);

impl Lineage {
    /// One that no other bytes have.
    #[must_use]
    pub fn unique() -> Self {
        let (low, high) = (random().to_le_bytes(), random().to_le_bytes());
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(low.into_iter().chain(high)).for_each(|(byte, value)| *byte = value);
        Self(bytes)
    }
}

fn random() -> u64 {
    // Of the standard library, the one source of such numbers; a forked child would go on with its parent's.
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_i32(fork::pid());
    hasher.finish()
}

/// The number of maps that a space had published when it published this one; 0 for a new or detached map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation of the map behind this one.
    #[must_use]
    pub const fn next(self) -> Self {
        // A space that publishes a map a nanosecond would take 584 years to get to the last one.
        Self(self.0.saturating_add(1))
    }
}

impl std::fmt::Display for Generation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_is_given_once_by_any_thread() {
        const EACH: usize = 1000;
        let give = || (0..EACH).map(|_| RegionId::unique()).collect::<Vec<_>>();
        let given: Vec<RegionId> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(give)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(given.iter().collect::<std::collections::HashSet<_>>().len(), 4 * EACH);
    }

    #[test]
    fn no_two_lineages_are_one() {
        assert_ne!(Lineage::unique(), Lineage::unique());
    }

    #[test]
    fn generations_ascend() {
        assert!(Generation::default() < Generation::default().next());
        assert_eq!(Generation(41).next().to_string(), "42");
    }
}
