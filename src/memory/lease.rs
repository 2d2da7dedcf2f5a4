//! Who holds a region's memory, and so vetoes its removal.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::mapping::Mapping;
use crate::model::error::LeaseInfo;
use crate::model::range::Range;
use crate::sys::fork::Process;

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
    /// Threads that wait for a change of it.
    waiting: usize,
}

impl Table {
    fn is_free(&self) -> bool {
        self.free.len() == self.held.len()
    }

    fn infos(&self) -> Vec<LeaseInfo> {
        self.held.iter().flatten().copied().collect()
    }
}

/// The leases of one region in one space.
#[derive(Debug)]
pub struct Leases {
    table: Mutex<Table>,
    changed: Condvar,
    process: Process,
}

/// Why no lease was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A change is deciding about the region: [`Leases::wait_settled`], then ask again.
    Closing,
    /// The region was removed.
    Closed,
}

impl Default for Leases {
    fn default() -> Self {
        let table = Table { state: State::Open, held: Vec::new(), free: Vec::new(), waiting: 0 };
        Self { table: Mutex::new(table), changed: Condvar::new(), process: Process::current() }
    }
}

impl Leases {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a lease. In a forked child, where nothing can be removed, it isn't counted and no lock is taken.
    ///
    /// `offset` is where in the region the bytes begin; those of a writable lease count as written when it ends.
    pub fn take(self: &Arc<Self>, mapping: &Arc<Mapping>, offset: u64, info: LeaseInfo) -> Result<Lease, Refused> {
        let written = info.is_writable.then(|| Range::between(offset, offset.saturating_add(info.size)));
        let mut lease = Lease { mapping: Arc::clone(mapping), leases: Arc::clone(self), slot: None, written };
        if !self.process.is_current() {
            return Ok(lease);
        }
        let mut table = self.lock();
        match table.state {
            State::Closing => return Err(Refused::Closing),
            State::Closed => return Err(Refused::Closed),
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
            self.notify(&table);
        }
    }

    /// Waking nobody would be a system call for each short lease.
    fn notify(&self, table: &Table) {
        if table.waiting > 0 {
            self.changed.notify_all();
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
        self.notify(&table);
    }

    /// Waits at most `limit` until no change is deciding about the region.
    pub fn wait_settled(&self, limit: Duration) {
        self.wait(limit, |table| table.state == State::Closing);
    }

    /// Waits at most `limit` until no one holds a lease.
    pub fn wait_free(&self, limit: Duration) {
        self.wait(limit, |table| !table.is_free());
    }

    fn wait(&self, limit: Duration, blocked: impl Fn(&Table) -> bool) {
        let mut table = self.lock();
        table.waiting = table.waiting.saturating_add(1);
        let waited = self.changed.wait_timeout_while(table, limit, |table| blocked(table));
        let (mut table, _) = waited.unwrap_or_else(PoisonError::into_inner);
        table.waiting = table.waiting.saturating_sub(1);
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
