//! The parts of a checkpoint: map and bytes of a space at one moment, and the observers of the writes since.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use crate::memory::region::MappedRegion;
use crate::memory::reset::{Reset, ResetCounts};
use crate::memory::shadow::Shadow;
use crate::memory::window::Window;
use crate::model::error::Result;
use crate::model::ids::{ConsumerId, Generation, Incarnation, RegionId};
use crate::model::range::Range;
use crate::model::region::SharedRegion;
use crate::model::region_map::RegionMap;
use crate::model::reservations::Reservation;
use crate::model::room::Gathered;
use crate::model::tracking::TrackingMode;
use crate::sys::fork::Forked;
use crate::sys::lock::Lock;

/// The checkpoints of a memory, in the order in which they were taken.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    /// The consumer of the writes for them; kept when the last one is dropped, until the next is taken.
    pub(super) following: Option<(Incarnation, ConsumerId)>,
    pub(super) open: Vec<Weak<Point>>,
}

impl Checkpoints {
    /// Those that are there.
    pub(super) fn open(&self) -> impl DoubleEndedIterator<Item = Arc<Point>> {
        self.open.iter().filter_map(Weak::upgrade)
    }

    pub(super) fn retain(&mut self, keeps: impl Fn(&Point) -> bool) {
        self.open.retain(|point| point.upgrade().is_some_and(|point| keeps(&point)));
    }
}

/// The way in which a checkpoint is taken.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointOptions {
    /// The way to see the writes; `None` for that of the checkpoint before, or the kernel and else a comparison.
    pub mode: Option<TrackingMode>,
    /// Whether writers that nobody sees are left to the caller.
    pub is_trusting: bool,
}

/// The bytes of a storage at one moment.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) reset: Arc<Reset>,
    pub(super) shadow: Arc<Shadow>,
    /// The same bytes in one file, once a fork asked for them.
    flat: Lock<Option<Arc<Shadow>>>,
}

impl Kept {
    pub(super) const fn new(reset: Arc<Reset>, shadow: Arc<Shadow>) -> Self {
        Self { reset, shadow, flat: Lock::new(None) }
    }

    /// Its bytes in one file.
    pub(super) fn flat(&self) -> Result<std::io::Result<Arc<Shadow>>> {
        if self.shadow.parent().is_none() {
            return Ok(Ok(Arc::clone(&self.shadow)));
        }
        // Held meanwhile: another fork waits for the file rather than making one of its own. No Python code runs here.
        let mut flat = self.flat.lock()?;
        if let Some(flat) = &*flat {
            return Ok(Ok(Arc::clone(flat)));
        }
        let made = self.shadow.flattened()?.map(Arc::new);
        *flat = made.as_ref().ok().cloned();
        Ok(made)
    }
}

/// A region of a checkpoint that has memory.
#[derive(Debug)]
pub(super) struct PointRegion {
    pub(super) id: RegionId,
    pub(super) range: Range,
    pub(super) window: Window,
    /// The index of the storage that it shows; `None` for one whose bytes are not kept.
    pub(super) kept: Option<usize>,
}

impl PointRegion {
    pub(super) fn of(region: &MappedRegion, kept: Option<usize>) -> Self {
        Self { id: region.id(), range: region.range(), window: region.window(), kept }
    }
}

/// The sums over the restores of a checkpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResetStats {
    /// The number of restores.
    pub resets: u64,
    /// Pages, all together; `hot` those of the last restore.
    pub counts: ResetCounts,
    /// The seconds that they took.
    pub seconds: f64,
}

/// A space at one moment.
#[derive(Debug)]
pub struct Point {
    pub(super) incarnation: Incarnation,
    pub(super) map: Arc<RegionMap>,
    /// The reservations that there were.
    pub(super) reservations: Vec<Arc<Reservation>>,
    pub(super) consumer: ConsumerId,
    pub(super) options: CheckpointOptions,
    pub(super) kept: Vec<Kept>,
    /// By ascending base, as the map has them.
    pub(super) regions: Vec<PointRegion>,
    pub(super) excluded: Vec<SharedRegion>,
    pub(super) sources: BTreeSet<&'static str>,
    /// The last generation of the space whose map was this one.
    pub(super) agrees: Lock<Generation>,
    pub(super) stats: Lock<ResetStats>,
}

impl Point {
    /// The generation of the map that it has.
    pub fn generation(&self) -> Generation {
        self.map.generation()
    }

    /// Regions whose bytes are not kept.
    pub fn excluded(&self) -> &[SharedRegion] {
        &self.excluded
    }

    /// The names of those who see the writes.
    pub const fn sources(&self) -> &BTreeSet<&'static str> {
        &self.sources
    }

    /// The bytes that it stores.
    pub fn size(&self) -> u64 {
        self.kept.iter().map(|kept| kept.shadow.size()).sum()
    }

    /// The sums over its restores.
    pub fn stats(&self) -> Result<ResetStats, Forked> {
        Ok(*self.stats.lock()?)
    }

    /// The region that it had at a base, under an id.
    pub(super) fn region(&self, base: u64, id: RegionId) -> Option<&PointRegion> {
        let index = self.regions.binary_search_by_key(&base, |region| region.range.base()).ok()?;
        self.regions.get(index).filter(|region| region.id == id)
    }

    pub(super) fn kept_of(&self, reset: &Arc<Reset>) -> Option<&Kept> {
        self.kept.iter().find(|kept| Arc::ptr_eq(&kept.reset, reset))
    }

    /// The pages of a storage that differ between an earlier checkpoint and this one: those that it stores, and those between.
    pub(super) fn stored_since(&self, earlier: &Kept) -> Result<Vec<Range>> {
        let mut runs = Gathered::default();
        let mut here = self.kept_of(&earlier.reset).map(|kept| &kept.shadow);
        while let Some(shadow) = here.filter(|shadow| !Arc::ptr_eq(shadow, &earlier.shadow)) {
            shadow.stored(&mut |run| runs.add(run));
            here = shadow.parent();
        }
        runs.finish()
    }
}
