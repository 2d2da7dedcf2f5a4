//! Who holds a region's memory, and so vetoes its removal.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::mapping::Mapping;
use crate::model::error::LeaseInfo;
use crate::model::lock::LockGuard;
use crate::model::range::Range;
use crate::model::wait::Monitor;
use crate::sys::fork::Process;

/// How long accesses are kept waiting for the sake of a removal.
const DRAIN: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// A change that removes the region is under way.
    Closing,
    /// The region is gone.
    Closed,
}

#[derive(Debug)]
struct Table {
    state: State,
    /// The leases, each at its slot.
    held: Vec<Option<LeaseInfo>>,
    /// The slots of `held` that no one has.
    free: Vec<usize>,
    /// Until when new accesses wait, so that those in flight come to an end and a removal gets its turn.
    drains_until: Option<Instant>,
}

impl Table {
    fn is_free(&self) -> bool {
        self.free.len() == self.held.len()
    }

    /// How long a new access has to wait.
    fn drains_for(&self) -> Option<Duration> {
        self.drains_until?.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero())
    }

    fn has_only_accesses(&self) -> bool {
        self.held.iter().flatten().all(|lease| !matches!(lease.what, "view" | "pin"))
    }

    fn infos(&self) -> Vec<LeaseInfo> {
        self.held.iter().flatten().copied().collect()
    }
}

/// The leases of one region in one space.
#[derive(Debug)]
pub struct Leases {
    table: Monitor<Table>,
    process: Process,
}

/// Why no lease was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A change is deciding about the region, or waits to: [`Leases::wait_settled`], then ask again.
    Closing,
    /// The region was removed.
    Closed,
}

impl Default for Leases {
    fn default() -> Self {
        let table = Table { state: State::Open, held: Vec::new(), free: Vec::new(), drains_until: None };
        Self { table: Monitor::new(table), process: Process::current() }
    }
}

impl Leases {
    fn lock(&self) -> LockGuard<'_, Table> {
        self.table.lock()
    }

    /// Takes a lease. In a forked child, where nothing can be removed, it isn't counted and no lock is taken.
    ///
    /// `offset` is where in the region the bytes begin; those of a writable lease count as written when it ends.
    pub fn take(self: &Arc<Self>, mapping: &Arc<Mapping>, offset: u64, info: LeaseInfo) -> Result<Lease, Refused> {
        self.enter(false, mapping, offset, info)
    }

    /// Takes one more lease than the caller has already.
    pub fn take_another(
        self: &Arc<Self>,
        mapping: &Arc<Mapping>,
        offset: u64,
        info: LeaseInfo,
    ) -> Result<Lease, Refused> {
        self.enter(true, mapping, offset, info)
    }

    fn enter(
        self: &Arc<Self>,
        is_nested: bool,
        mapping: &Arc<Mapping>,
        offset: u64,
        info: LeaseInfo,
    ) -> Result<Lease, Refused> {
        let written = info.is_writable.then(|| Range::between(offset, offset.saturating_add(info.size)));
        let mut lease = Lease { mapping: Arc::clone(mapping), leases: Arc::clone(self), slot: None, written };
        if !self.process.is_current() {
            return Ok(lease);
        }
        let mut table = self.lock();
        match table.state {
            State::Closing => return Err(Refused::Closing),
            State::Closed => return Err(Refused::Closed),
            State::Open if !is_nested && table.drains_for().is_some() => return Err(Refused::Closing),
            State::Open => {}
        }
        let slot = table.free.pop().unwrap_or(table.held.len());
        match table.held.get_mut(slot) {
            Some(entry) => *entry = Some(info),
            None => table.held.push(Some(info)),
        }
        lease.slot = Some(slot);
        Ok(lease)
    }

    /// All leases that are held.
    #[must_use]
    pub fn held(&self) -> Vec<LeaseInfo> {
        self.lock().infos()
    }

    fn give_back(&self, slot: usize) {
        let mut table = self.lock();
        if let Some(entry) = table.held.get_mut(slot) {
            *entry = None;
        }
        table.free.push(slot);
        if table.is_free() {
            table.held.clear();
            table.free.clear();
            drop(table);
            self.table.notify();
        }
    }

    /// Refuses new leases from here on, unless someone holds one: then nothing changes and the holders are named.
    pub fn close(&self) -> Result<(), Vec<LeaseInfo>> {
        let mut table = self.lock();
        if !table.is_free() {
            return Err(table.infos());
        }
        table.state = State::Closing;
        Ok(())
    }

    /// The change was undone, or has kept the region.
    pub fn reopen(&self) {
        self.settle(State::Open);
    }

    /// The region is gone.
    pub fn finish(&self) {
        self.settle(State::Closed);
    }

    fn settle(&self, state: State) {
        let mut table = self.lock();
        table.state = state;
        table.drains_until = None;
        drop(table);
        self.table.notify();
    }

    /// Whether a change is deciding about the region at this moment.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.lock().state == State::Closing
    }

    /// Waits at most `limit` until no change is deciding about the region, or waits to.
    pub fn wait_settled(&self, limit: Duration) {
        let table = self.lock();
        let limit = table.drains_for().map_or(limit, |rest| rest.min(limit));
        drop(self.table.wait(table, limit, |table| table.state == State::Closing || table.drains_for().is_some()));
    }

    /// Waits at most `limit` until no one holds a lease.
    pub fn wait_free(&self, limit: Duration) {
        drop(self.table.wait(self.lock(), limit, |table| !table.is_free()));
    }

    /// Like [`wait_free`](Self::wait_free); for `DRAIN` new accesses wait, where it is accesses that hold the region.
    ///
    /// Otherwise a few threads whose accesses take turns would keep it for ever. What a user holds ends when the user lets go,
    /// and who has to wait may be that user.
    pub fn drain(&self, limit: Duration) {
        let mut table = self.lock();
        if table.has_only_accesses() {
            table.drains_until = Instant::now().checked_add(DRAIN);
        }
        drop(self.table.wait(table, limit, |table| !table.is_free()));
    }
}

/// Keeps a region's memory mapped, and the region in its space, until it is dropped.
#[derive(Debug)]
pub struct Lease {
    mapping: Arc<Mapping>,
    leases: Arc<Leases>,
    slot: Option<usize>,
    written: Option<Range>,
}

impl Lease {
    /// The memory held.
    #[must_use]
    pub const fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Whether dropping this lease unmaps the memory, which may take long.
    #[must_use]
    pub fn is_last_user(&self) -> bool {
        Arc::strong_count(&self.mapping) == 1
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some((written, dirty)) = self.written.zip(self.mapping.dirty()) {
            dirty.mark(written.base(), written.size());
        }
        if let Some(slot) = self.slot.filter(|_| self.leases.process.is_current()) {
            self.leases.give_back(slot);
        }
    }
}
