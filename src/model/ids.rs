//! The numbers that tell regions, maps, memories and reservations apart: a type each, so that none is taken for another.

use std::sync::atomic::{AtomicU64, Ordering};

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

impl StorageId {
    /// The number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
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
    fn generations_ascend() {
        assert!(Generation::default() < Generation::default().next());
        assert_eq!(Generation(41).next().to_string(), "42");
    }
}
