//! Numbers of a space: its past, and its state now.

use std::time::Duration;

use super::space::AddressSpace;
use crate::model::error::{Error, Result};
use crate::model::int::u64_of;
use crate::sys::sync::Ordering;

/// The numbers at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpaceStats {
    /// Maps that were published: the generation.
    pub changes: u64,
    /// Changes that a lease or a client refused.
    pub refused: u64,
    /// For how long changes waited for the readers of the map before.
    pub waited: Duration,
    /// Bytes that have memory.
    pub mapped: u64,
    /// Of these, bytes that accesses go to the kernel for.
    pub guarded: u64,
    /// Leases that are held.
    pub leases: u64,
    /// Accesses that ended in a fault.
    pub faults: u64,
}

impl AddressSpace {
    /// The numbers of this moment.
    pub fn stats(&self) -> Result<SpaceStats> {
        let counters = self.counters();
        let snapshot = self.load();
        let mut stats = SpaceStats {
            changes: snapshot.map.generation().0,
            refused: counters.refused.load(Ordering::Relaxed),
            waited: Duration::from_nanos(counters.waited.load(Ordering::Relaxed)),
            faults: counters.faults.load(Ordering::Relaxed),
            ..SpaceStats::default()
        };
        for region in snapshot.memory().into_iter().flat_map(|memory| memory.regions()) {
            let size = region.desc().size();
            stats.mapped = stats.mapped.saturating_add(size);
            if region.guarded_because().is_some() {
                stats.guarded = stats.guarded.saturating_add(size);
            }
            stats.leases = stats.leases.saturating_add(u64_of(region.leases().held()?.len()));
        }
        Ok(stats)
    }

    /// Counts an access that failed, if its memory was at fault.
    #[cold]
    pub fn count_fault(&self, error: &Error) {
        self.counters().count_fault(error);
    }
}
