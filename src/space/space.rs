//! The handle that everything goes through.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};

use super::reservation::Reservations;
use super::state::SpaceState;
use super::subscription::Subscription;
use super::turn::Turn;
use super::unplug::UnplugRequests;
use crate::memory::mapped_regions::MappedRegions;
use crate::memory::region::MappedRegion;
use crate::model::change::{Operation, Target};
use crate::model::error::{Error, Result};
use crate::model::interrupt::Interrupt;
use crate::model::region::Region;
use crate::model::region_map::RegionMap;
use crate::model::wait::{Deadline, Monitor};
use crate::sys::fork::Process;

/// A live guest physical address space: readers never wait, writers take turns, nothing is lost.
///
/// ```
/// use std::sync::Arc;
/// use _core::model::{interrupt::Uninterrupted, layout::Layout, range::Range, region::{Region, RegionType}, source::Source};
/// use _core::space::AddressSpace;
///
/// let space = AddressSpace::new(Layout::new(1 << 46, 0, 1 << 45, vec![])?);
/// let region = Region::new(RegionType::DefaultMemory, Range::new(0, 0x1000)?, Source::default())?;
/// let map = space.insert(&region, &Uninterrupted)?;
/// assert_eq!((map.generation(), map.regions().len()), (1, 1));
/// # Ok::<(), _core::model::error::Error>(())
/// ```
pub struct AddressSpace {
    current: ArcSwap<SpaceState>,
    /// The generation of `current` or, for the moment before its publication, of the next snapshot: who has the map of this
    /// generation has the newest.
    generation: AtomicU64,
    turn: Turn,
    clients: Mutex<Vec<Arc<Subscription>>>,
    published: Monitor<()>,
    incarnations: AtomicU64,
    reservations: Reservations,
    unplugs: UnplugRequests,
    process: Process,
}

impl std::fmt::Debug for AddressSpace {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("AddressSpace")
            .field("current", &self.current)
            .field("turn", &self.turn)
            .finish_non_exhaustive()
    }
}

impl AddressSpace {
    /// A space that begins with a map, unmapped.
    #[must_use]
    pub fn with_map(map: RegionMap) -> Self {
        Self {
            current: ArcSwap::from_pointee(SpaceState { map: Arc::new(map.at_generation(0)), memory: None }),
            generation: AtomicU64::new(0),
            turn: Turn::default(),
            clients: Mutex::default(),
            published: Monitor::default(),
            incarnations: AtomicU64::new(0),
            reservations: Reservations::default(),
            unplugs: UnplugRequests::default(),
            process: Process::current(),
        }
    }

    /// A space without regions.
    #[must_use]
    pub fn new(layout: crate::model::layout::Layout) -> Self {
        Self::with_map(RegionMap::empty(layout))
    }

    /// The current snapshot for one short access: never held while waiting, detaching or calling back.
    #[inline]
    #[must_use]
    pub fn load(&self) -> Guard<Arc<SpaceState>> {
        self.current.load()
    }

    pub(super) fn load_full(&self) -> Arc<SpaceState> {
        self.current.load_full()
    }

    /// The current map, for as long as one likes.
    #[must_use]
    pub fn map(&self) -> Arc<RegionMap> {
        Arc::clone(&self.load().map)
    }

    /// Whether a map that this space published is the current one.
    #[inline]
    #[must_use]
    pub fn is_current(&self, map: &RegionMap) -> bool {
        self.generation.load(Ordering::Acquire) == map.generation()
    }

    /// The writers' turn.
    #[must_use]
    pub const fn turn(&self) -> &Turn {
        &self.turn
    }

    pub(super) const fn reservations(&self) -> &Reservations {
        &self.reservations
    }

    pub(super) const fn unplugs(&self) -> &UnplugRequests {
        &self.unplugs
    }

    /// The one publication of a change.
    pub(super) fn swap(&self, after: SpaceState) -> Arc<SpaceState> {
        self.generation.store(after.map.generation(), Ordering::Release);
        let old = self.swap_quietly(after);
        drop(self.published.lock());
        self.published.notify();
        old
    }

    /// Publishes a snapshot whose map is the one before.
    pub(super) fn swap_quietly(&self, after: SpaceState) -> Arc<SpaceState> {
        self.current.swap(Arc::new(after))
    }

    /// Takes the memory out, for the last owner of a space, who chooses how it is unmapped: that takes long.
    #[must_use]
    pub fn take_memory(&self) -> Option<Arc<MappedRegions>> {
        let map = self.map();
        self.swap_quietly(SpaceState { map, memory: None }).memory.clone()
    }

    pub(super) fn new_memory(&self, regions: Vec<Arc<MappedRegion>>) -> MappedRegions {
        MappedRegions::new(self.incarnations.fetch_add(1, Ordering::Relaxed), false, regions)
    }

    /// Refuses in a forked child, whose copy of this space nobody else can see.
    pub fn check_process(&self) -> Result<()> {
        if self.process.is_current() { Ok(()) } else { Err(Error::Forked) }
    }

    /// Adds a region and publishes the new map.
    pub fn insert(&self, region: &Region, interrupt: &dyn Interrupt) -> Result<Arc<RegionMap>> {
        self.change(&[Operation::Insert(Arc::new(region.clone()))], None, interrupt)
    }

    /// Puts a region in the place of one with the same range and backing, and keeps its memory.
    pub fn replace(&self, old: &Target, new: &Region, interrupt: &dyn Interrupt) -> Result<Arc<RegionMap>> {
        self.change(&[Operation::Replace(old.clone(), Arc::new(new.clone()))], None, interrupt)
    }

    /// The newest map as soon as its generation is above `generation`; `None` when the time is up.
    pub fn wait_for_change(
        &self,
        generation: u64,
        timeout: Option<Duration>,
        interrupt: &dyn Interrupt,
    ) -> Result<Option<Arc<RegionMap>>> {
        let is_old = |_: &mut ()| self.load().map.generation() <= generation;
        if is_old(&mut ()) {
            self.check_process()?;
        }
        Ok(self.published.wait_until(Deadline::after(timeout), interrupt, is_old)?.map(|_| self.map()))
    }

    /// The clients in the order in which they are asked.
    pub(super) fn clients(&self) -> MutexGuard<'_, Vec<Arc<Subscription>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
