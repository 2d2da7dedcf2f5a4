//! The leases on a storage: each is taken through a window, and vetoes that its bytes leave that window.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::held_lease::{HeldLease, Writes};
use super::window::Window;
use crate::model::allocator::without;
use crate::model::error::LeaseInfo;
use crate::model::ids::Place;
use crate::model::range::{Range, joined};
use crate::model::wait::Monitor;
use crate::sys::event::Event;
use crate::sys::fork::Forked;

/// The time for which new leases are kept waiting for the sake of a removal.
const DRAIN: Duration = Duration::from_millis(50);

/// The reason why no lease was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A change is deciding about the bytes, or waits to: [`WindowLeases::wait_settled`], then ask again.
    Closing,
    /// The window was removed.
    Closed,
}

/// Leases that are meant: those on some bytes of the storage that were taken through one place.
#[derive(Clone, Copy, Debug)]
struct Scope {
    place: Place,
    part: Range,
}

impl Scope {
    /// Whether a lease on a part is meant. One on no byte counts as one on the byte where it lies.
    fn has(&self, place: Place, part: Range) -> bool {
        self.place == place && self.part.overlaps(&Range::at(part.base(), part.size().max(1)))
    }
}

/// A change that is deciding about the leases in a scope, from `close` to `reopen` or `finish`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// The leases that a change wants none of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Veto {
    /// All: the bytes leave, or can't be read any more.
    All,
    /// Those under which they may be written: what only reads goes on.
    Writers,
}

impl Veto {
    const fn concerns(self, writes: Writes) -> bool {
        matches!(self, Self::All) || !matches!(writes, Writes::Never)
    }
}

#[derive(Debug)]
struct PlacesState {
    /// The bytes that can be leased: the parts of the storage that are shown, by ascending base, by the place through which they are. Parts
    /// that are kept have places too, through which nobody looks.
    shown: BTreeMap<Place, Vec<Range>>,
    closings: Vec<(Ticket, Scope, Veto)>,
    next_ticket: u64,
    /// The leases, each at its slot.
    held: Vec<Option<HeldLease>>,
    /// The slots of `held` that no one has.
    free: Vec<usize>,
    /// Told when a lease ends.
    alarm: Option<Arc<Event>>,
    /// Scopes whose space is gone, which are shown for as long as somebody has a lease there.
    abandoned: Vec<Scope>,
    /// Until when new leases wait, so that those that are held come to an end and a removal gets its turn.
    drains: Vec<(Scope, Instant)>,
}

impl PlacesState {
    const fn new() -> Self {
        Self {
            shown: BTreeMap::new(),
            closings: vec![],
            next_ticket: 0,
            held: vec![],
            free: vec![],
            alarm: None,
            abandoned: vec![],
            drains: vec![],
        }
    }

    fn held_in(&self, scope: Scope) -> impl Iterator<Item = &HeldLease> {
        self.held.iter().flatten().filter(move |lease| scope.has(lease.place, lease.part))
    }

    fn is_free(&self, scope: Scope) -> bool {
        self.held_in(scope).next().is_none()
    }

    /// Whether a change is deciding about leases on bytes of the scope under which they are written so.
    fn is_closing(&self, scope: Scope, writes: Writes) -> bool {
        let mut closings = self.closings.iter().filter(|(_, closing, _)| closing.has(scope.place, scope.part));
        closings.any(|(.., veto)| veto.concerns(writes))
    }

    fn is_shown(&self, scope: Scope) -> bool {
        self.shown_at(scope.place).iter().any(|shown| shown.covers(&scope.part))
    }

    /// The parts of a scope that can't be leased; all through that place, or through whatever place for `None`.
    fn hidden(&self, part: Range, place: Option<Place>) -> Vec<Range> {
        let Some(place) = place else {
            let all = self.shown.values().flatten().copied();
            let mut shown: Vec<Range> = all.filter(|shown| shown.overlaps(&part)).collect();
            shown.sort_unstable();
            return without(&[part], &joined(shown));
        };
        without(&[part], self.shown_at(place))
    }

    /// The time for which a new lease in the scope has to wait.
    fn drains_for(&self, scope: Scope) -> Option<Duration> {
        let ends = self.drains.iter().filter(|(drain, _)| drain.has(scope.place, scope.part)).map(|(_, end)| *end);
        ends.max()?.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero())
    }

    fn add(&mut self, lease: HeldLease) -> usize {
        let slot = self.free.pop().unwrap_or(self.held.len());
        match self.held.get_mut(slot) {
            Some(entry) => *entry = Some(lease),
            None => self.held.push(Some(lease)),
        }
        slot
    }

    fn drain(&mut self, scope: Scope) {
        let now = Instant::now();
        self.drains.retain(|(drain, end)| *end > now && !drain.has(scope.place, scope.part));
        self.drains.extend(now.checked_add(DRAIN).map(|end| (scope, end)));
    }

    /// The removals that wait for a lease which has ended have all of the time from now on: on a busy machine they wake late.
    fn extend_drains(&mut self, ended: HeldLease) {
        let now = Instant::now();
        let waiting = self.drains.iter().filter(|(drain, end)| *end > now && drain.has(ended.place, ended.part));
        let freed: Vec<Scope> = waiting.map(|(drain, _)| *drain).filter(|drain| self.is_free(*drain)).collect();
        freed.into_iter().for_each(|scope| self.drain(scope));
    }

    /// The abandoned scope that the lease was the last one on is not shown any more.
    fn leave_abandoned(&mut self, ended: HeldLease) -> Option<Range> {
        let index = self.abandoned.iter().position(|scope| scope.has(ended.place, ended.part))?;
        let scope = self.abandoned.get(index).copied().filter(|scope| self.is_free(*scope))?;
        self.abandoned.swap_remove(index);
        self.hide(scope);
        Some(scope.part)
    }

    /// The change has decided about its scope, which it gives; nobody need make room for it any more.
    fn settle(&mut self, ticket: Ticket) -> Option<Scope> {
        let index = self.closings.iter().position(|(closing, ..)| *closing == ticket)?;
        let (_, scope, _) = self.closings.swap_remove(index);
        self.drains.retain(|(drain, _)| !drain.has(scope.place, scope.part));
        Some(scope)
    }

    /// The parts that can be leased through a place.
    fn shown_at(&self, place: Place) -> &[Range] {
        self.shown.get(&place).map(Vec::as_slice).unwrap_or_default()
    }

    /// Just these parts can be leased through a place. Joined, for a lease lies in one of them.
    fn set_shown(&mut self, place: Place, parts: Vec<Range>) {
        match joined(parts) {
            parts if parts.is_empty() => self.shown.remove(&place),
            parts => self.shown.insert(place, parts),
        };
    }

    /// All of the scope can be leased.
    fn show(&mut self, scope: Scope) {
        let mut parts: Vec<Range> = self.shown_at(scope.place).iter().copied().chain([scope.part]).collect();
        parts.sort_unstable();
        self.set_shown(scope.place, parts);
    }

    /// Nothing of the scope can be leased any more.
    fn hide(&mut self, scope: Scope) {
        self.set_shown(scope.place, without(self.shown_at(scope.place), &[scope.part]));
    }
}

/// The leases on one storage, through whatever window they were taken.
#[derive(Debug)]
pub(super) struct Places(Monitor<PlacesState>);

impl Places {
    /// No leases yet on a storage that nobody shows.
    pub(super) fn new() -> Self {
        Self(Monitor::new(PlacesState::new()))
    }

    /// The leases that are taken through a window.
    pub(super) const fn through(&self, window: Window) -> WindowLeases<'_> {
        WindowLeases { places: self, window }
    }

    /// Takes out what [`WindowLeases::enter`] added; gives the part of an abandoned region that it was the last lease on.
    pub(super) fn leave(&self, slot: usize) -> Option<Range> {
        // In a forked child this is a copy of its parent's lease, which vetoes nothing.
        let mut state = self.0.lock().ok()?;
        let ended = state.held.get_mut(slot).and_then(Option::take);
        state.free.push(slot);
        if state.free.len() == state.held.len() {
            // Slots mean nothing while all are free: a table that was long becomes short again.
            state.held.clear();
            state.free.clear();
        }
        if let Some(ended) = ended.filter(|_| !state.drains.is_empty()) {
            state.extend_drains(ended);
        }
        let left = ended.and_then(|ended| state.leave_abandoned(ended));
        if let Some(alarm) = state.alarm.take() {
            alarm.signal();
        }
        drop(state);
        self.0.wake();
        left
    }

    /// Lets no lease be taken through a place whose space is gone; `false` as long as there are some, the last of which does it then.
    pub(super) fn abandon(&self, place: Place, part: Range) -> bool {
        let abandon = |state: &mut PlacesState| {
            let scope = Scope { place, part };
            let is_free = state.is_free(scope);
            if is_free {
                state.hide(scope)
            } else {
                state.abandoned.push(scope)
            }
            is_free
        };
        // Refused only in a forked child, where no lease is counted.
        self.0.change(abandon).unwrap_or_default()
    }

    /// Whether bytes may go with a lease that is taken through a place.
    pub(super) fn is_abandoned(&self, place: Place) -> bool {
        self.0.lock().is_ok_and(|state| state.abandoned.iter().any(|scope| scope.place == place))
    }

    /// Lets leases be taken through a place; returns what was not shown there before.
    pub(super) fn show(&self, place: Place, part: Range) -> Vec<Range> {
        let show = |state: &mut PlacesState| {
            let new = state.hidden(part, Some(place));
            state.show(Scope { place, part });
            new
        };
        // Refused only in a forked child, where no lease is counted.
        self.0.change(show).unwrap_or_default()
    }

    /// Lets none be taken there any more.
    pub(super) fn hide(&self, place: Place, part: Range) {
        // As above.
        let _ = self.0.change(|state| state.hide(Scope { place, part }));
    }

    /// The bytes of a part that nobody shows or keeps, and so never again, while others of the storage are shown or kept.
    pub(super) fn unseen(&self, part: Range) -> Vec<Range> {
        // A forked child has nothing to give back: the bytes are its parent's too.
        let state = self.0.lock().ok().filter(|state| !state.shown.is_empty() && self.0.is_in_its_process());
        state.map_or_else(Vec::new, |state| state.hidden(part, None))
    }

    /// The parts that are leased so that they may be written unseen.
    pub(super) fn written(&self) -> Result<Vec<Range>, Forked> {
        let state = self.0.lock()?;
        Ok(state.held.iter().flatten().filter(|lease| lease.writes == Writes::Unseen).map(|lease| lease.part).collect())
    }

    /// The change was undone, or has kept what it closed.
    pub(super) fn reopen(&self, ticket: Ticket) {
        // Refused only in a forked child, where nobody waits and no lease is counted.
        let _ = self.0.change(|state| state.settle(ticket));
    }

    /// The bytes that the change closed are not shown there any more.
    pub(super) fn finish(&self, ticket: Ticket) {
        // As above.
        let _ = self.0.change(|state| {
            if let Some(scope) = state.settle(ticket) {
                state.hide(scope);
            }
        });
    }
}

/// The leases that are taken through one window on a storage.
#[derive(Clone, Copy, Debug)]
pub struct WindowLeases<'a> {
    places: &'a Places,
    window: Window,
}

impl WindowLeases<'_> {
    /// Those on the bytes that lie at some of the window's addresses.
    pub(super) fn narrowed(&self, range: Range) -> Self {
        Self { window: self.window.narrowed(range), ..*self }
    }

    const fn monitor(&self) -> &Monitor<PlacesState> {
        &self.places.0
    }

    fn scope(&self) -> Scope {
        Scope { place: self.window.place(), part: self.window.shown() }
    }

    /// Adds a lease on some guest addresses, and returns its slot; one that is nested in a lease of the same caller does not wait for a
    /// drain, which waits for the outer one. In a forked child, where nothing can be removed, none is counted.
    pub(super) fn enter(
        &self,
        what: &'static str,
        range: Range,
        writes: Writes,
        is_nested: bool,
    ) -> Result<Option<usize>, Refused> {
        let monitor = self.monitor();
        let Some(mut state) = monitor.lock().ok().filter(|_| monitor.is_in_its_process()) else { return Ok(None) };
        let scope = Scope { place: self.window.place(), part: self.window.part(range) };
        if !state.is_shown(scope) {
            return Err(Refused::Closed);
        }
        if state.is_closing(scope, writes) || !is_nested && state.drains_for(scope).is_some() {
            return Err(Refused::Closing);
        }
        let Scope { place, part } = scope;
        Ok(Some(state.add(HeldLease { what, place, part, writes, since: Instant::now() })))
    }

    /// All leases that are held.
    pub fn held(&self) -> Result<Vec<LeaseInfo>, Forked> {
        Ok(self.infos(&*self.monitor().lock()?, Veto::All))
    }

    fn infos(&self, state: &PlacesState, veto: Veto) -> Vec<LeaseInfo> {
        let held = state.held_in(self.scope()).filter(|lease| veto.concerns(lease.writes));
        held.map(|lease| lease.info(&self.window)).collect()
    }

    /// Refuses new leases of a kind from here on, unless someone holds one: then nothing changes and the holders are named.
    pub(super) fn close(&self, veto: Veto) -> Result<Result<Ticket, Vec<LeaseInfo>>, Forked> {
        self.close_beside(veto, "")
    }

    /// The same beside leases of a kind, which are the caller's and of others like it.
    pub(super) fn close_beside(&self, veto: Veto, own: &'static str) -> Result<Result<Ticket, Vec<LeaseInfo>>, Forked> {
        let mut state = self.monitor().lock()?;
        let mut held = self.infos(&state, veto);
        held.retain(|lease| lease.what != own);
        if !held.is_empty() {
            return Ok(Err(held));
        }
        let ticket = Ticket(state.next_ticket);
        state.next_ticket = state.next_ticket.wrapping_add(1);
        state.closings.push((ticket, self.scope(), veto));
        Ok(Ok(ticket))
    }

    /// Whether a change is deciding about the window at this moment.
    pub fn is_closing(&self) -> Result<bool, Forked> {
        Ok(self.monitor().lock()?.is_closing(self.scope(), Writes::Unseen))
    }

    /// Waits at most `limit` until no change is deciding about the window, or waits to.
    pub fn wait_settled(&self, limit: Duration) -> Result<(), Forked> {
        let (state, scope) = (self.monitor().lock()?, self.scope());
        // The end of a drain notifies nobody, so that the wait itself must end with it.
        let limit = state.drains_for(scope).map_or(limit, |rest| rest.min(limit));
        let is_open =
            |state: &PlacesState| !state.is_closing(scope, Writes::Unseen) && state.drains_for(scope).is_none();
        self.monitor().wait(state, limit, |state| !is_open(state)).map(drop)
    }

    /// Whether no one holds a lease; if someone does, the event is signalled when the next lease on the storage ends.
    pub fn is_free_or_alarms(&self, alarm: &Arc<Event>) -> Result<bool, Forked> {
        let mut state = self.monitor().lock()?;
        let is_free = state.is_free(self.scope());
        if !is_free {
            state.alarm = Some(Arc::clone(alarm));
        }
        Ok(is_free)
    }

    /// Waits at most `limit` until no one holds a lease.
    pub fn wait_free(&self, limit: Duration) -> Result<(), Forked> {
        let scope = self.scope();
        self.monitor().wait(self.monitor().lock()?, limit, |state| !state.is_free(scope)).map(drop)
    }

    /// Like [`wait_free`](Self::wait_free); for `DRAIN` new leases wait.
    ///
    /// Otherwise one thread that takes view after view, or a few whose accesses take turns, would keep the region for ever. A view or pin
    /// that has been held for long is left alone: only its owner can release it, and the owner may be the waiter.
    pub fn drain(&self, limit: Duration) -> Result<(), Forked> {
        let (mut state, scope) = (self.monitor().lock()?, self.scope());
        let is_lasting = state.held_in(scope).any(|lease| lease.is_lasting(&self.window));
        if !is_lasting {
            state.drain(scope);
        }
        self.monitor().wait(state, limit, |state| !state.is_free(scope)).map(drop)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::thread;

    use super::*;
    use crate::memory::held_lease::LASTING;

    const LONG: Duration = Duration::from_secs(60);

    fn lease(what: &'static str, address: u64) -> LeaseInfo {
        LeaseInfo { what, address, size: 8, is_writable: false, pid: None }
    }

    /// A page at address 0, and the leases on its storage.
    pub(in crate::memory) struct Page(Window, pub(in crate::memory) Places);

    impl Page {
        pub(in crate::memory) fn new() -> Self {
            let (window, places) = (Window::new(Range::at(0, 0x1000), 0), Places::new());
            places.show(window.place(), window.shown());
            Self(window, places)
        }

        pub(in crate::memory) fn leases(&self) -> WindowLeases<'_> {
            self.1.through(self.0)
        }

        pub(in crate::memory) fn try_enter(&self, what: &'static str, address: u64) -> Result<Option<usize>, Refused> {
            self.leases().enter(what, Range::at(address, 8), Writes::Never, false)
        }

        pub(in crate::memory) fn enter(&self, what: &'static str, address: u64) -> usize {
            self.try_enter(what, address).unwrap().unwrap()
        }

        pub(in crate::memory) fn close(&self) -> Result<Ticket, Vec<LeaseInfo>> {
            self.leases().close(Veto::All).unwrap()
        }
    }

    #[test]
    fn a_lease_vetoes_until_it_is_given_back() {
        let table = Page::new();
        let (read, view) = (table.enter("read", 0), table.enter("view", 8));
        assert_eq!(table.close(), Err(vec![lease("read", 0), lease("view", 8)]));
        table.1.leave(read);
        assert_eq!(table.close(), Err(vec![lease("view", 8)]));
        table.1.leave(view);
        assert!(table.close().is_ok());
    }

    #[test]
    fn a_free_slot_is_used_again() {
        let table = Page::new();
        let slots = [0, 1, 2].map(|address| table.enter("read", address));
        table.1.leave(slots[1]);
        assert_eq!(table.enter("view", 9), slots[1]);
        assert_eq!(table.leases().held().unwrap(), [lease("read", 0), lease("view", 9), lease("read", 2)]);
    }

    #[test]
    fn a_closed_table_gives_no_lease_and_a_reopened_one_does() {
        let table = Page::new();
        let ticket = table.close().unwrap();
        assert!(table.leases().is_closing().unwrap());
        assert_eq!(table.try_enter("read", 0), Err(Refused::Closing));
        table.1.reopen(ticket);
        table.1.leave(table.enter("read", 0));
        table.1.finish(table.close().unwrap());
        assert!(!table.leases().is_closing().unwrap());
        assert_eq!(table.try_enter("read", 0), Err(Refused::Closed));
    }

    #[test]
    fn who_waits_is_woken_by_the_last_lease_and_by_the_decision() {
        let (table, begun) = (Page::new(), Instant::now());
        let slot = table.enter("read", 0);
        thread::scope(|scope| {
            scope.spawn(|| table.leases().wait_free(LONG).unwrap());
            thread::sleep(Duration::from_millis(10));
            table.1.leave(slot);
        });
        let ticket = table.close().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| table.leases().wait_settled(LONG).unwrap());
            thread::sleep(Duration::from_millis(10));
            table.1.finish(ticket);
        });
        assert!(begun.elapsed() < LONG);
    }

    #[test]
    fn a_drain_keeps_new_accesses_waiting_but_not_nested_ones() {
        let table = Page::new();
        let slot = table.enter("read", 0);
        table.leases().drain(Duration::ZERO).unwrap();
        assert_eq!(table.try_enter("read", 0), Err(Refused::Closing));
        assert!(!table.leases().is_closing().unwrap());
        let nested = table.leases().enter("read", Range::at(0, 8), Writes::Never, true).unwrap().unwrap();
        table.1.leave(slot);
        table.1.leave(nested);
        table.leases().wait_settled(LONG).unwrap();
        table.enter("read", 0);
    }

    #[test]
    fn a_view_is_drained_until_it_lasts() {
        let table = Page::new();
        let slot = table.enter("view", 0);
        table.leases().drain(Duration::ZERO).unwrap();
        assert_eq!(table.try_enter("read", 0), Err(Refused::Closing));
        table.leases().wait_settled(LONG).unwrap();
        table.1.0.lock().unwrap().held[slot].as_mut().unwrap().since = Instant::now().checked_sub(LASTING).unwrap();
        table.leases().drain(Duration::ZERO).unwrap();
        table.1.leave(table.enter("read", 0));
        table.1.leave(slot);
    }

    #[test]
    fn a_drain_that_has_ended_the_leases_leaves_its_time_to_the_removal() {
        let table = Page::new();
        let slot = table.enter("view", 0);
        table.leases().drain(Duration::ZERO).unwrap();
        let before = Instant::now().checked_add(LONG).unwrap();
        table.1.0.lock().unwrap().drains.iter_mut().for_each(|(_, end)| *end = before);
        table.1.leave(slot);
        // Set anew, and not taken away.
        assert!(matches!(table.1.0.lock().unwrap().drains[..], [(_, after)] if after < before));
    }

    #[test]
    fn only_leases_through_the_window_are_a_veto() {
        let (page, other) = (Page::new(), Window::new(Range::at(0x8000, 0x1000), 0));
        page.1.0.lock().unwrap().shown.insert(other.place(), vec![other.shown()]);
        let view = page.1.through(other).enter("view", Range::at(0x8008, 8), Writes::Unseen, false).unwrap().unwrap();
        assert_eq!(page.leases().held().unwrap(), []);
        assert_eq!(page.1.written().unwrap(), [Range::at(8, 8)]);
        assert_eq!(page.1.through(other).held().unwrap()[0].address, 0x8008);
        page.1.finish(page.close().unwrap());
        assert_eq!(page.try_enter("read", 0), Err(Refused::Closed));
        assert!(page.1.through(other).close(Veto::All).unwrap().is_err());
        page.1.leave(view);
        assert!(page.1.through(other).close(Veto::All).unwrap().is_ok());
    }

    #[test]
    fn what_is_hidden_is_not_leased_and_the_rest_is() {
        let page = Page::new();
        let part = Range::at(0x400, 0x100);
        page.1.0.lock().unwrap().hide(Scope { place: page.0.place(), part });
        for (address, is_shown) in [(0, true), (0x3f8, true), (0x3fc, false), (0x440, false), (0x500, true)] {
            assert_eq!(page.try_enter("read", address).is_ok(), is_shown, "{address:#x}");
        }
        // Shown in pieces, it is leased as a whole again.
        assert_eq!(page.1.show(page.0.place(), part), [part]);
        assert!(page.try_enter("read", 0x3fc).is_ok());
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod proofs {
    use std::sync::Arc;

    use super::tests::Page;
    use super::*;
    use crate::model::wait::SLICE;
    use crate::sys::sync::{AtomicBool, Ordering, prove, thread};

    /// Takes a lease; a change that decides meanwhile is waited for.
    fn take(table: &Page) -> Option<usize> {
        loop {
            match table.try_enter("view", 0) {
                Ok(slot) => return slot,
                Err(Refused::Closed) => return None,
                Err(Refused::Closing) => table.leases().wait_settled(SLICE).unwrap(),
            }
        }
    }

    /// A lease finds the region there for as long as it is held, and a decision is learned by those that wait for it.
    #[test]
    fn a_region_is_there_while_it_is_leased() {
        prove(|| {
            let (table, is_gone) = (Arc::new(Page::new()), Arc::new(AtomicBool::new(false)));
            let user = || {
                let (table, is_gone) = (Arc::clone(&table), Arc::clone(&is_gone));
                move || {
                    let Some(slot) = take(&table) else { return };
                    // The lease first, then the look.
                    assert!(!is_gone.load(Ordering::SeqCst));
                    thread::yield_now();
                    assert!(!is_gone.load(Ordering::SeqCst));
                    table.1.leave(slot);
                }
            };
            let users = [thread::spawn(user()), thread::spawn(user())];
            // A change that is vetoed later, and one that is not.
            for is_made in [false, true] {
                let ticket = loop {
                    match table.close() {
                        Ok(ticket) => break ticket,
                        Err(_) => table.leases().wait_free(SLICE).unwrap(),
                    }
                };
                if is_made {
                    is_gone.store(true, Ordering::SeqCst);
                    table.1.finish(ticket);
                } else {
                    table.1.reopen(ticket);
                }
            }
            users.into_iter().for_each(|user| user.join().unwrap());
        });
    }
}
