//! The handle that everything goes through.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::Guard;

use super::counters::Counters;
use super::following::Following;
use super::point::Checkpoints;
use super::state::SpaceState;
use super::subscription::Subscription;
use super::turn::Turn;
use crate::memory::mapped_regions::MappedRegions;
use crate::memory::region_change;
use crate::model::change::{ChangeRequest, MapOperation, RegionTarget};
use crate::model::error::{Error, Result};
use crate::model::ids::{Generation, RegionId};
use crate::model::interrupt::Interrupt;
use crate::model::range::Range;
use crate::model::region::SharedRegion;
use crate::model::region_map::RegionMap;
use crate::model::reservations::ReservationTable;
use crate::model::unplug::UnplugTable;
use crate::model::wait::{Deadline, Monitor};
use crate::sys::fork::{Forked, Process};
use crate::sys::lock::{Lock, LockGuard};
use crate::sys::sync::{ArcSwap, AtomicU64, Ordering};

/// A live guest physical address space: readers never wait, writers take turns, no change is lost.
///
/// Lock order: the interpreter's lock is let go before the turn is taken, and the turn is taken before any other lock here. The
/// tables of clients, reservations, unplug requests and checkpoints are locked for a moment each and never two at a time, so that they need no
/// order among themselves.
pub struct AddressSpace {
    /// The snapshot that readers see; only a writer that has the turn stores it.
    current: ArcSwap<SpaceState>,
    /// The generation of `current`, apart so that a cached map is found to be the newest without a load of the snapshot.
    ///
    /// It is stored before the snapshot: a cached map may be taken for an old one for a moment, never an old map for the newest.
    generation: AtomicU64,
    turn: Turn,
    /// In the order in which they are asked.
    clients: Lock<Vec<Arc<Subscription>>>,
    /// Notified of each publication.
    published: Monitor<()>,
    reservations: Lock<ReservationTable>,
    unplugs: Lock<UnplugTable>,
    /// Counts what other processes have let go of, for removals that wait for it.
    pub(super) releases: Monitor<u64>,
    /// Set where the changes are another process's.
    pub(super) following: Option<Arc<Following>>,
    counters: Counters,
    checkpoints: Lock<Checkpoints>,
    /// The process that made the space: the copy in a forked child must change nothing.
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
        let map = Arc::new(map.at_generation(Generation::default()));
        Self::beginning(SpaceState { map, memory: None }, Generation::default(), None)
    }

    pub(super) fn beginning(state: SpaceState, generation: Generation, following: Option<Arc<Following>>) -> Self {
        Self {
            current: ArcSwap::from_pointee(state),
            generation: AtomicU64::new(generation.0),
            turn: Turn::default(),
            clients: Lock::default(),
            published: Monitor::default(),
            reservations: Lock::default(),
            unplugs: Lock::default(),
            releases: Monitor::default(),
            following,
            counters: Counters::default(),
            checkpoints: Lock::default(),
            process: Process::current(),
        }
    }

    /// The current snapshot for one short access.
    ///
    /// Never hold it while waiting, while letting the interpreter's lock go or taking it, or while calling back: a writer waits for
    /// every reader to leave the snapshot that it replaced. Load once for an access, for two loads may see two maps.
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

    /// Whether a map that this space published is the current one: a look-up in a cached map costs no load of the snapshot.
    #[inline]
    #[must_use]
    pub fn is_current(&self, map: &RegionMap) -> bool {
        self.generation.load(Ordering::Acquire) == map.generation().0
    }

    /// The writers' turn.
    #[must_use]
    pub const fn turn(&self) -> &Turn {
        &self.turn
    }

    pub(super) const fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn reservations(&self) -> Result<LockGuard<'_, ReservationTable>, Forked> {
        self.reservations.lock()
    }

    pub(super) fn unplugs(&self) -> Result<LockGuard<'_, UnplugTable>, Forked> {
        self.unplugs.lock()
    }

    pub(super) fn checkpoints(&self) -> Result<LockGuard<'_, Checkpoints>, Forked> {
        self.checkpoints.lock()
    }

    /// The one publication of a change.
    pub(super) fn swap(&self, after: SpaceState) -> Arc<SpaceState> {
        // Before the snapshot: a cached map then counts as outdated a moment too early, never as current too long.
        self.generation.store(after.map.generation().0, Ordering::Release);
        let old = self.swap_quietly(after);
        self.wake_waiters();
        old
    }

    /// Lets those look again who wait for a change.
    pub(super) fn wake_waiters(&self) {
        // A waiter looks at the map under this lock: it has either seen the new one, or waits by now and is woken. It is refused only
        // in a forked child, where nobody waits.
        let _ = self.published.change(|()| ());
    }

    /// Publishes a snapshot whose map is the one before.
    pub(super) fn swap_quietly(&self, after: SpaceState) -> Arc<SpaceState> {
        self.current.swap(Arc::new(after))
    }

    /// Lets the memory go, for the last owner of a space to call where it delays nobody: unmapping takes long.
    pub fn abandon_memory(&self) {
        // Without the turn: a last owner has no rivals.
        let map = self.map();
        let last = self.swap_quietly(SpaceState { map, memory: None });
        last.memory().into_iter().flat_map(MappedRegions::regions).for_each(region_change::abandon);
    }

    /// Refuses in a forked child, whose copy of this space nobody else can see.
    pub fn check_process(&self) -> Result<()> {
        if self.process.is_current() { Ok(()) } else { Err(Error::Forked) }
    }

    /// Adds a region and publishes the new map.
    pub fn insert(&self, region: impl Into<SharedRegion>, interrupt: &dyn Interrupt) -> Result<Arc<RegionMap>> {
        self.change(&ChangeRequest::of(&[MapOperation::insert(region)]), interrupt)
    }

    /// Puts a region in the place of one with the same range and backing, and keeps its memory.
    pub fn replace(
        &self,
        old: RegionTarget,
        new: impl Into<SharedRegion>,
        interrupt: &dyn Interrupt,
    ) -> Result<Arc<RegionMap>> {
        self.change(&ChangeRequest::of(&[MapOperation::Replace(old, new.into())]), interrupt)
    }

    /// Cuts a region in two at an address.
    pub fn split(&self, target: RegionTarget, at: u64, interrupt: &dyn Interrupt) -> Result<Arc<RegionMap>> {
        self.change(&ChangeRequest::of(&[MapOperation::Split(target, at, RegionId::unique())]), interrupt)
    }

    /// Makes two neighbours one region again.
    pub fn join(&self, lower: RegionTarget, upper: RegionTarget, interrupt: &dyn Interrupt) -> Result<Arc<RegionMap>> {
        self.change(&ChangeRequest::of(&[MapOperation::Join(lower, upper)]), interrupt)
    }

    /// Shows a region at another base.
    pub fn relocate(&self, target: RegionTarget, base: u64, interrupt: &dyn Interrupt) -> Result<Arc<RegionMap>> {
        self.change(&ChangeRequest::of(&[MapOperation::Move(target, base)]), interrupt)
    }

    /// Makes a region larger: in its own memory, where that has room, or by a neighbour.
    pub fn grow(&self, target: &RegionTarget, size: u64, interrupt: &dyn Interrupt) -> Result<Arc<RegionMap>> {
        let map = self.map();
        self.change(&ChangeRequest::of(&[MapOperation::growth(&map, target.find(&map)?, size)?]), interrupt)
    }

    /// Protects a range otherwise.
    pub fn protect(&self, range: Range, prot_flags: i32, interrupt: &dyn Interrupt) -> Result<Arc<RegionMap>> {
        self.change(&ChangeRequest::of(&[MapOperation::protect(range, prot_flags)]), interrupt)
    }

    /// The newest map as soon as its generation is above `generation`; `None` when the time is up.
    pub fn wait_for_change(
        &self,
        generation: Generation,
        timeout: Option<Duration>,
        interrupt: &dyn Interrupt,
    ) -> Result<Option<Arc<RegionMap>>> {
        let is_old = |_: &mut ()| self.load().map.generation() <= generation;
        // In a forked child no newer map will ever come; one that is there already may be had, whoever has the lock.
        if !is_old(&mut ()) {
            return Ok(Some(self.map()));
        }
        self.check_process()?;
        let is_over = || self.following.as_ref().is_some_and(|following| following.is_over());
        let blocked = |state: &mut ()| is_old(state) && !is_over();
        let waited = self.published.wait_until(Deadline::after(timeout), interrupt, blocked)?.map(|_| self.map());
        match waited {
            Some(map) if map.generation() <= generation => Err(self.over()),
            waited => Ok(waited),
        }
    }

    /// The clients in the order in which they are asked.
    pub(super) fn clients(&self) -> Result<LockGuard<'_, Vec<Arc<Subscription>>>, Forked> {
        self.clients.lock()
    }
}
