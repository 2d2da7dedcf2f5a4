//! The leases on a region, which veto its removal.

use std::time::{Duration, Instant};

use crate::model::error::LeaseInfo;
use crate::model::wait::Monitor;
use crate::sys::fork::Forked;

/// The time for which new leases are kept waiting for the sake of a removal.
const DRAIN: Duration = Duration::from_millis(50);

/// A view or pin of this age does not end soon. One that does may take that long on a busy machine.
const LASTING: Duration = Duration::from_secs(1);

/// Whether the lease is a view or a pin, through which a user touches the memory, and not one of our verbs.
pub(super) fn is_users(lease: &LeaseInfo) -> bool {
    matches!(lease.what, "view" | "pin")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// A change that removes the region is under way.
    Closing,
    /// The region is gone.
    Closed,
}

#[derive(Debug)]
struct HeldLease {
    info: LeaseInfo,
    since: Instant,
}

impl HeldLease {
    /// Whether a drain would wait for it in vain, and new leases for the drain.
    fn is_lasting(&self) -> bool {
        is_users(&self.info) && self.since.elapsed() >= LASTING
    }
}

#[derive(Debug)]
struct LeaseState {
    stage: Stage,
    /// The leases, each at its slot.
    held: Vec<Option<HeldLease>>,
    /// The slots of `held` that no one has.
    free: Vec<usize>,
    /// Until when new leases wait, so that those that are held come to an end and a removal gets its turn.
    drains_until: Option<Instant>,
}

impl LeaseState {
    fn is_free(&self) -> bool {
        self.free.len() == self.held.len()
    }

    /// The time for which a new lease has to wait.
    fn drains_for(&self) -> Option<Duration> {
        self.drains_until?.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero())
    }

    fn infos(&self) -> Vec<LeaseInfo> {
        self.held.iter().flatten().map(|lease| lease.info).collect()
    }

    fn add(&mut self, info: LeaseInfo) -> usize {
        let (slot, lease) = (self.free.pop().unwrap_or(self.held.len()), HeldLease { info, since: Instant::now() });
        match self.held.get_mut(slot) {
            Some(entry) => *entry = Some(lease),
            None => self.held.push(Some(lease)),
        }
        slot
    }

    fn drain(&mut self) {
        self.drains_until = Instant::now().checked_add(DRAIN);
    }
}

/// The leases of one region in one space.
#[derive(Debug)]
pub struct LeaseTable(Monitor<LeaseState>);

/// The reason why no lease was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A change is deciding about the region, or waits to: [`LeaseTable::wait_settled`], then ask again.
    Closing,
    /// The region was removed.
    Closed,
}

impl Default for LeaseTable {
    fn default() -> Self {
        let state = LeaseState { stage: Stage::Open, held: Vec::new(), free: Vec::new(), drains_until: None };
        Self(Monitor::new(state))
    }
}

impl LeaseTable {
    /// Adds a lease, and returns its slot; one that is nested in a lease of the same caller does not wait for a drain, which waits for
    /// the outer one. In a forked child, where nothing can be removed, none is counted.
    pub(super) fn enter(&self, info: LeaseInfo, is_nested: bool) -> Result<Option<usize>, Refused> {
        let Some(mut state) = self.0.lock().ok().filter(|_| self.0.is_in_its_process()) else { return Ok(None) };
        match state.stage {
            Stage::Closing => Err(Refused::Closing),
            Stage::Closed => Err(Refused::Closed),
            Stage::Open if !is_nested && state.drains_for().is_some() => Err(Refused::Closing),
            Stage::Open => Ok(Some(state.add(info))),
        }
    }

    /// Takes out what [`enter`](Self::enter) added.
    pub(super) fn leave(&self, slot: usize) {
        // In a forked child this is a copy of its parent's lease, which vetoes nothing.
        let Ok(mut state) = self.0.lock() else { return };
        if let Some(entry) = state.held.get_mut(slot) {
            *entry = None;
        }
        state.free.push(slot);
        if state.is_free() {
            // Slots mean nothing while all are free: a table that was long becomes short again.
            state.held.clear();
            state.free.clear();
            // The removal that waits has all of the time from now on: on a busy machine it wakes late.
            if state.drains_for().is_some() {
                state.drain();
            }
            drop(state);
            self.0.wake();
        }
    }

    /// All leases that are held.
    pub fn held(&self) -> Result<Vec<LeaseInfo>, Forked> {
        Ok(self.0.lock()?.infos())
    }

    /// Refuses new leases from here on, unless someone holds one: then nothing changes and the holders are named.
    pub(super) fn close(&self) -> Result<Result<(), Vec<LeaseInfo>>, Forked> {
        let mut state = self.0.lock()?;
        if !state.is_free() {
            return Ok(Err(state.infos()));
        }
        state.stage = Stage::Closing;
        Ok(Ok(()))
    }

    /// The change was undone, or has kept the region.
    pub(super) fn reopen(&self) {
        self.settle(Stage::Open);
    }

    /// The region is gone.
    pub(super) fn finish(&self) {
        self.settle(Stage::Closed);
    }

    fn settle(&self, stage: Stage) {
        // Refused only in a forked child, where nobody waits and no lease is counted.
        let _ = self.0.change(|state| {
            state.stage = stage;
            // The removal has had its turn: nobody need make room for it any more.
            state.drains_until = None;
        });
    }

    /// Whether a change is deciding about the region at this moment.
    pub fn is_closing(&self) -> Result<bool, Forked> {
        Ok(self.0.lock()?.stage == Stage::Closing)
    }

    /// Waits at most `limit` until no change is deciding about the region, or waits to.
    pub fn wait_settled(&self, limit: Duration) -> Result<(), Forked> {
        let state = self.0.lock()?;
        // The end of a drain notifies nobody, so that the wait itself must end with it.
        let limit = state.drains_for().map_or(limit, |rest| rest.min(limit));
        self.0.wait(state, limit, |state| state.stage == Stage::Closing || state.drains_for().is_some()).map(drop)
    }

    /// Waits at most `limit` until no one holds a lease.
    pub fn wait_free(&self, limit: Duration) -> Result<(), Forked> {
        self.0.wait(self.0.lock()?, limit, |state| !state.is_free()).map(drop)
    }

    /// Like [`wait_free`](Self::wait_free); for `DRAIN` new leases wait.
    ///
    /// Otherwise one thread that takes view after view, or a few whose accesses take turns, would keep the region for ever. A view or pin
    /// that has been held for long is left alone: only its owner can release it, and the owner may be the waiter.
    pub fn drain(&self, limit: Duration) -> Result<(), Forked> {
        let mut state = self.0.lock()?;
        if !state.held.iter().flatten().any(HeldLease::is_lasting) {
            state.drain();
        }
        self.0.wait(state, limit, |state| !state.is_free()).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn lease(what: &'static str, address: u64) -> LeaseInfo {
        LeaseInfo { what, address, size: 8, is_writable: false }
    }

    fn enter(table: &LeaseTable, what: &'static str, address: u64) -> usize {
        table.enter(lease(what, address), false).unwrap().unwrap()
    }

    #[test]
    fn a_lease_vetoes_until_it_is_given_back() {
        let table = LeaseTable::default();
        let (read, view) = (enter(&table, "read", 0), enter(&table, "view", 8));
        assert_eq!(table.close().unwrap(), Err(vec![lease("read", 0), lease("view", 8)]));
        table.leave(read);
        assert_eq!(table.close().unwrap(), Err(vec![lease("view", 8)]));
        table.leave(view);
        assert_eq!(table.close().unwrap(), Ok(()));
    }

    #[test]
    fn a_free_slot_is_used_again() {
        let table = LeaseTable::default();
        let slots = [0, 1, 2].map(|address| enter(&table, "read", address));
        table.leave(slots[1]);
        assert_eq!(enter(&table, "view", 9), slots[1]);
        assert_eq!(table.held().unwrap(), [lease("read", 0), lease("view", 9), lease("read", 2)]);
    }

    #[test]
    fn a_closed_table_gives_no_lease_and_a_reopened_one_does() {
        let table = LeaseTable::default();
        table.close().unwrap().unwrap();
        assert!(table.is_closing().unwrap());
        assert_eq!(table.enter(lease("read", 0), false), Err(Refused::Closing));
        table.reopen();
        table.leave(enter(&table, "read", 0));
        table.close().unwrap().unwrap();
        table.finish();
        assert!(!table.is_closing().unwrap());
        assert_eq!(table.enter(lease("read", 0), true), Err(Refused::Closed));
    }

    #[test]
    fn who_waits_is_woken_by_the_last_lease_and_by_the_decision() {
        let (table, begun) = (LeaseTable::default(), Instant::now());
        let slot = enter(&table, "read", 0);
        thread::scope(|scope| {
            scope.spawn(|| table.wait_free(LONG).unwrap());
            thread::sleep(Duration::from_millis(10));
            table.leave(slot);
        });
        table.close().unwrap().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| table.wait_settled(LONG).unwrap());
            thread::sleep(Duration::from_millis(10));
            table.finish();
        });
        assert!(begun.elapsed() < LONG);
    }

    #[test]
    fn a_drain_keeps_new_accesses_waiting_but_not_nested_ones() {
        let table = LeaseTable::default();
        let slot = enter(&table, "read", 0);
        table.drain(Duration::ZERO).unwrap();
        assert_eq!(table.enter(lease("read", 0), false), Err(Refused::Closing));
        assert!(!table.is_closing().unwrap());
        let nested = table.enter(lease("read", 0), true).unwrap().unwrap();
        table.leave(slot);
        table.leave(nested);
        table.wait_settled(LONG).unwrap();
        enter(&table, "read", 0);
    }

    #[test]
    fn a_view_is_drained_until_it_lasts() {
        let table = LeaseTable::default();
        let slot = enter(&table, "view", 0);
        table.drain(Duration::ZERO).unwrap();
        assert_eq!(table.enter(lease("read", 0), false), Err(Refused::Closing));
        table.wait_settled(LONG).unwrap();
        table.0.lock().unwrap().held[slot].as_mut().unwrap().since = Instant::now().checked_sub(LASTING).unwrap();
        table.drain(Duration::ZERO).unwrap();
        table.leave(enter(&table, "read", 0));
        table.leave(slot);
    }

    #[test]
    fn a_drain_that_has_ended_the_leases_leaves_its_time_to_the_removal() {
        let table = LeaseTable::default();
        let slot = enter(&table, "view", 0);
        table.drain(Duration::ZERO).unwrap();
        thread::sleep(DRAIN / 2);
        table.leave(slot);
        assert!(table.0.lock().unwrap().drains_for().unwrap() > DRAIN / 2);
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod proofs {
    use std::sync::Arc;

    use super::*;
    use crate::model::wait::SLICE;
    use crate::sys::sync::{AtomicBool, Ordering, prove, thread};

    /// Takes a lease; a change that decides meanwhile is waited for.
    fn take(table: &LeaseTable) -> Option<usize> {
        let info = LeaseInfo { what: "view", address: 0, size: 8, is_writable: false };
        loop {
            match table.enter(info, false) {
                Ok(slot) => return slot,
                Err(Refused::Closed) => return None,
                Err(Refused::Closing) => table.wait_settled(SLICE).unwrap(),
            }
        }
    }

    /// A lease finds the region there for as long as it is held, and a decision is learned by those that wait for it.
    #[test]
    fn a_region_is_there_while_it_is_leased() {
        prove(|| {
            let (table, is_gone) = (Arc::new(LeaseTable::default()), Arc::new(AtomicBool::new(false)));
            let user = || {
                let (table, is_gone) = (Arc::clone(&table), Arc::clone(&is_gone));
                move || {
                    let Some(slot) = take(&table) else { return };
                    // The lease first, then the look.
                    assert!(!is_gone.load(Ordering::SeqCst));
                    thread::yield_now();
                    assert!(!is_gone.load(Ordering::SeqCst));
                    table.leave(slot);
                }
            };
            let users = [thread::spawn(user()), thread::spawn(user())];
            // A change that is vetoed later, and one that is not.
            for is_made in [false, true] {
                while table.close().unwrap().is_err() {
                    table.wait_free(SLICE).unwrap();
                }
                if is_made {
                    is_gone.store(true, Ordering::SeqCst);
                    table.finish();
                } else {
                    table.reopen();
                }
            }
            users.into_iter().for_each(|user| user.join().unwrap());
        });
    }
}
