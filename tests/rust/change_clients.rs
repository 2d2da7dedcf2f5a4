//! The two-phase change: who is asked, in which order, and what is left when one refuses.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use crate::memory::held_lease::Writes;
use crate::memory::lease::{Lease, WeakRegion};
use crate::memory::places::Refused;
use crate::model::change::{Change, ChangeRequest, MapOperation, RegionTarget};
use crate::model::error::{Error, Interrupted, Result};
use crate::model::ids::Generation;
use crate::model::interrupt::{Interrupt, Uninterrupted};
use crate::model::layout::Layout;
use crate::model::range::Range;
use crate::model::region::{Region, RegionType};
use crate::model::region_map::RegionMap;
use crate::model::source::Source;
use crate::space::AddressSpace;
use crate::space::client::Client;
use crate::space::proposal::Proposal;
use crate::space::removal::Patience;
use crate::space::subscription::{Subscriber, Subscription};

const PAGE: u64 = 4096;
const AT_ONCE: Patience = Patience { timeout: Some(Duration::ZERO), when_busy: || () };
const LOW: u64 = 0;
const HIGH: u64 = 16 * PAGE;

type Log = Arc<Mutex<Vec<String>>>;
type Hook = Box<dyn Fn(&'static str, &Change) -> Result<()> + Send + Sync>;

/// Writes down what it is told and does what the test says.
struct Recorder {
    name: String,
    log: Log,
    hook: Hook,
}

impl Recorder {
    fn report(&self, phase: &'static str, change: &Change) -> Result<()> {
        let (added, removed, replaced) = (change.added.len(), change.removed.len(), change.replaced.len());
        self.log.lock().unwrap().push(format!("{} {phase} +{added} -{removed} ~{replaced}", self.name));
        (self.hook)(phase, change)
    }
}

impl Client for Recorder {
    fn name(&self) -> &str {
        &self.name
    }

    fn prepare(&self, proposal: &Arc<Proposal>, _interrupt: &dyn Interrupt) -> Result<()> {
        self.report("prepare", &proposal.change)
    }

    fn commit(&self, proposal: &Arc<Proposal>, _interrupt: &dyn Interrupt) -> Result<()> {
        self.report("commit", &proposal.change)
    }

    fn rollback(&self, proposal: &Arc<Proposal>, _interrupt: &dyn Interrupt) -> Result<()> {
        self.report("rollback", &proposal.change)
    }

    fn leave(&self, _interrupt: &dyn Interrupt) -> Result<()> {
        self.log.lock().unwrap().push(format!("{} leave", self.name));
        Ok(())
    }
}

/// Writes down how a subscription ends.
struct Ending(Log);

impl Subscriber for Ending {
    fn failed(&self, error: Error) {
        self.0.lock().unwrap().push(format!("failed: {error}"));
    }

    fn left(&self) {
        self.0.lock().unwrap().push("left".into());
    }
}

/// Gives up rather than wait.
struct Impatient;

impl Interrupt for Impatient {
    fn check(&self) -> Result<(), Interrupted> {
        Err(Interrupted)
    }

    fn progress(&self, _: &'static str, _: u64, _: u64) -> Result<(), Interrupted> {
        Ok(())
    }
}

fn ram(base: u64, name: &str) -> Region {
    let range = Range::new(base, PAGE).unwrap();
    let mut region = Region::new(RegionType::DefaultMemory, range, Source::default()).unwrap();
    region.name = Some(name.into());
    region
}

fn insert(region: Region) -> MapOperation {
    MapOperation::insert(region)
}

fn remove(base: u64) -> MapOperation {
    MapOperation::Remove(RegionTarget::Base(base))
}

fn space() -> Arc<AddressSpace> {
    space_of("low")
}

/// A mapped space with one region, whose name must not be another test's when its mapping is asked for.
fn space_of(name: &str) -> Arc<AddressSpace> {
    let space = AddressSpace::with_map(RegionMap::empty(Layout::new(1 << 46, 0, 1 << 45, vec![]).unwrap()));
    space.insert(ram(LOW, name), &Uninterrupted).unwrap();
    space.map_memory(&Uninterrupted).unwrap();
    Arc::new(space)
}

fn subscribe(
    space: &AddressSpace,
    log: &Log,
    name: &str,
    hook: impl Fn(&'static str, &Change) -> Result<()> + Send + Sync + 'static,
) -> Result<Arc<Subscription>> {
    let client = Recorder { name: name.into(), log: Arc::clone(log), hook: Box::new(hook) };
    let subscription = Arc::new(Subscription::new(Arc::new(client), Box::new(Ending(Arc::clone(log)))));
    space.subscribe(&subscription, &Uninterrupted).map(|()| subscription)
}

/// The entries since the last look.
fn taken(log: &Log) -> Vec<String> {
    std::mem::take(&mut *log.lock().unwrap())
}

fn refuses() -> Error {
    Error::Client { message: "never".into(), raised: None }
}

fn try_lease(space: &AddressSpace, base: u64) -> Result<Lease, Refused> {
    let snapshot = space.load();
    let region = WeakRegion::from(snapshot.memory().unwrap().find(base).unwrap());
    region.lease("view", Range::new(base, 8).unwrap(), Writes::Never)
}

fn lease(space: &AddressSpace, base: u64) -> Lease {
    try_lease(space, base).unwrap()
}

fn is_mapped(name: &str) -> bool {
    fs::read_to_string("/proc/self/maps").unwrap().contains(&format!("/memfd:{name} "))
}

#[test]
fn clients_are_asked_and_told_in_order_around_the_publication() {
    let (space, log) = (space(), Log::default());
    for name in ["a", "b"] {
        let (weak, entries) = (Arc::downgrade(&space), Arc::clone(&log));
        let look = move |_: &'static str, _: &Change| {
            entries.lock().unwrap().push(format!("{} regions", weak.upgrade().unwrap().map().regions().len()));
            Ok(())
        };
        subscribe(&space, &log, name, look).unwrap();
    }
    taken(&log);
    space.insert(ram(HIGH, "high"), &Uninterrupted).unwrap();
    let inserted = [
        ["a prepare +1 -0 ~0", "1 regions", "b prepare +1 -0 ~0", "1 regions"],
        ["a commit +1 -0 ~0", "2 regions", "b commit +1 -0 ~0", "2 regions"],
    ];
    assert_eq!(taken(&log), inserted.concat());
    space.change(&ChangeRequest::of(&[remove(HIGH)]), &Uninterrupted).unwrap();
    let removed = [
        ["a prepare +0 -1 ~0", "2 regions", "b prepare +0 -1 ~0", "2 regions"],
        ["a commit +0 -1 ~0", "1 regions", "b commit +0 -1 ~0", "1 regions"],
    ];
    assert_eq!(taken(&log), removed.concat());
}

#[test]
fn many_operations_are_one_change() {
    let (space, log) = (space(), Log::default());
    subscribe(&space, &log, "a", |_, _| Ok(())).unwrap();
    taken(&log);
    let renamed = MapOperation::Replace(RegionTarget::Base(LOW), Arc::new(ram(LOW, "renamed")));
    let operations = [insert(ram(HIGH, "high")), insert(ram(2 * HIGH, "gone")), renamed, remove(2 * HIGH)];
    space.change(&ChangeRequest::of(&operations), &Uninterrupted).unwrap();
    assert_eq!(taken(&log), ["a prepare +1 -0 ~1", "a commit +1 -0 ~1"]);
}

#[test]
fn a_refusal_undoes_in_reverse_and_leaves_everything_as_it_was() {
    let (space, log) = (space_of("kept"), Log::default());
    let refusing = Arc::new(AtomicBool::new(false));
    for name in ["a", "b", "c", "d"] {
        let refusing = Arc::clone(&refusing);
        let hook = move |phase, _: &Change| match phase {
            "prepare" if name == "c" && refusing.load(Ordering::Relaxed) => Err(refuses()),
            _ => Ok(()),
        };
        subscribe(&space, &log, name, hook).unwrap();
    }
    taken(&log);
    refusing.store(true, Ordering::Relaxed);
    let before = space.map();
    let operations = [remove(LOW), insert(ram(HIGH, "refused"))];
    let refused = space.change(&ChangeRequest::of(&operations), &Uninterrupted);
    assert!(matches!(refused, Err(Error::Client { message, .. }) if message == "never"));
    let asked = ["a prepare +1 -1 ~0", "b prepare +1 -1 ~0", "c prepare +1 -1 ~0"];
    assert_eq!(taken(&log), [&asked[..], &["b rollback +1 -1 ~0", "a rollback +1 -1 ~0"]].concat());
    assert!(Arc::ptr_eq(&before, &space.map()));
    assert!(is_mapped("kept") && !is_mapped("refused"));
    drop(lease(&space, LOW));
    refusing.store(false, Ordering::Relaxed);
    space.change(&ChangeRequest::of(&operations), &Uninterrupted).unwrap();
    assert_eq!(taken(&log).len(), 8);
    assert!(!is_mapped("kept") && is_mapped("refused"));
}

/// A client "b" between two others, which fails in one phase of changes that remove something; its subscription.
fn failing_in(phase: &'static str, space: &AddressSpace, log: &Log) -> Arc<Subscription> {
    subscribe(space, log, "a", |_, _| Ok(())).unwrap();
    let fails =
        move |now, change: &Change| if now == phase && change.added.is_empty() { Err(refuses()) } else { Ok(()) };
    let failing = subscribe(space, log, "b", fails).unwrap();
    subscribe(space, log, "c", |_, _| Ok(())).unwrap();
    taken(log);
    failing
}

#[test]
fn an_error_of_a_commit_is_kept_and_ends_only_that_subscription() {
    let (space, log) = (space(), Log::default());
    let failing = failing_in("commit", &space, &log);
    space.change(&ChangeRequest::of(&[remove(LOW)]), &Uninterrupted).unwrap();
    assert_eq!(taken(&log)[3..], ["a commit +0 -1 ~0", "b commit +0 -1 ~0", "c commit +0 -1 ~0", "failed: never"]);
    assert!(!failing.is_following());
    space.insert(ram(HIGH, "high"), &Uninterrupted).unwrap();
    let told = ["a prepare +1 -0 ~0", "c prepare +1 -0 ~0", "a commit +1 -0 ~0", "c commit +1 -0 ~0"];
    assert_eq!(taken(&log), told);
}

#[test]
fn an_error_of_a_rollback_is_kept_and_the_others_are_undone() {
    let (space, log) = (space(), Log::default());
    let failing = failing_in("rollback", &space, &log);
    subscribe(&space, &log, "d", |_, change| if change.removed.is_empty() { Ok(()) } else { Err(refuses()) }).unwrap();
    taken(&log);
    assert!(space.change(&ChangeRequest::of(&[remove(LOW)]), &Uninterrupted).is_err());
    let undone = ["c rollback +0 -1 ~0", "b rollback +0 -1 ~0", "failed: never", "a rollback +0 -1 ~0"];
    assert_eq!(taken(&log)[4..], undone);
    assert!(!failing.is_following());
    assert_eq!(space.map().regions().len(), 1);
}

#[test]
fn a_new_client_whose_commit_fails_is_undone() {
    let (space, log) = (space(), Log::default());
    let fails = |phase, _: &Change| if phase == "commit" { Err(refuses()) } else { Ok(()) };
    assert!(subscribe(&space, &log, "a", fails).is_err());
    assert_eq!(taken(&log), ["a prepare +1 -0 ~0", "a commit +1 -0 ~0", "a rollback +1 -0 ~0"]);
    space.insert(ram(HIGH, "high"), &Uninterrupted).unwrap();
    assert!(taken(&log).is_empty());
}

#[test]
fn a_client_leaves_once_and_is_never_asked_again() {
    let (space, log) = (space(), Log::default());
    let subscription = subscribe(&space, &log, "a", |_, _| Ok(())).unwrap();
    taken(&log);
    for _ in 0..2 {
        space.unsubscribe(&subscription, &Uninterrupted).unwrap();
    }
    space.insert(ram(HIGH, "high"), &Uninterrupted).unwrap();
    assert_eq!(taken(&log), ["a leave", "left", "left"]);
}

#[test]
fn a_client_told_to_leave_inside_a_change_leaves_when_that_is_decided() {
    for (is_vetoed, outcome) in
        [(false, ["a commit", "b commit", "c commit"].as_slice()), (true, &["b rollback", "a rollback"])]
    {
        let (space, log) = (space(), Log::default());
        let leaving = Arc::new(Mutex::new(None::<Arc<Subscription>>));
        let (weak, told) = (Arc::downgrade(&space), Arc::clone(&leaving));
        subscribe(&space, &log, "a", move |_, _| {
            if let Some(subscription) = told.lock().unwrap().as_ref() {
                weak.upgrade().unwrap().unsubscribe(subscription, &Uninterrupted).unwrap();
                assert!(!subscription.is_following());
            }
            Ok(())
        })
        .unwrap();
        *leaving.lock().unwrap() = Some(subscribe(&space, &log, "b", |_, _| Ok(())).unwrap());
        let refuse =
            move |_, change: &Change| if is_vetoed && !change.removed.is_empty() { Err(refuses()) } else { Ok(()) };
        subscribe(&space, &log, "c", refuse).unwrap();
        taken(&log);
        assert_eq!(space.change(&ChangeRequest::of(&[remove(LOW)]), &Uninterrupted).is_err(), is_vetoed);
        let told: Vec<_> = taken(&log).iter().map(|entry| entry.replace(" +0 -1 ~0", "")).collect();
        assert_eq!(told, [&["a prepare", "b prepare", "c prepare"], outcome, &["b leave", "left"]].concat());
        assert!(!leaving.lock().unwrap().as_ref().unwrap().is_following());
    }
}

#[test]
fn a_lease_vetoes_before_anyone_is_asked() {
    let (space, log) = (space(), Log::default());
    subscribe(&space, &log, "a", |_, _| Ok(())).unwrap();
    taken(&log);
    let held = lease(&space, LOW);
    let busy = space.change(&ChangeRequest::of(&[insert(ram(HIGH, "high")), remove(LOW)]), &Uninterrupted);
    assert!(matches!(busy, Err(Error::Busy { leases, .. }) if leases.len() == 1));
    assert!(taken(&log).is_empty());
    drop(held);
    space.change(&ChangeRequest::of(&[remove(LOW)]), &Uninterrupted).unwrap();
}

#[test]
fn a_region_that_is_leaving_gives_no_lease_and_gives_them_again_after_a_veto() {
    let (space, log) = (space(), Log::default());
    let weak = Arc::downgrade(&space);
    let hook = move |phase, change: &Change| {
        let space = weak.upgrade().unwrap();
        if phase == "prepare" && !change.removed.is_empty() {
            assert_eq!(try_lease(&space, LOW).unwrap_err(), Refused::Closing);
            return Err(refuses());
        }
        Ok(())
    };
    subscribe(&space, &log, "a", hook).unwrap();
    assert!(space.change(&ChangeRequest::of(&[remove(LOW)]), &Uninterrupted).is_err());
    drop(lease(&space, LOW));
}

#[test]
fn a_client_cannot_change_the_space_that_asks_it() {
    let (space, log) = (space(), Log::default());
    for name in ["a", "refuser"] {
        let (weak, entries) = (Arc::downgrade(&space), Arc::clone(&log));
        let hook = move |phase, change: &Change| {
            let space = weak.upgrade().unwrap();
            let again = space.insert(ram(8 * HIGH, "again"), &Uninterrupted);
            let Err(Error::Reentrant { message }) = again else { unreachable!("a change was let into a change") };
            entries.lock().unwrap().push(message);
            if name == "refuser" && phase == "prepare" && !change.removed.is_empty() { Err(refuses()) } else { Ok(()) }
        };
        subscribe(&space, &log, name, hook).unwrap();
    }
    space.insert(ram(HIGH, "high"), &Uninterrupted).unwrap();
    assert!(space.change(&ChangeRequest::of(&[remove(HIGH)]), &Uninterrupted).is_err());
    let said = taken(&log);
    for (phase, client) in [("prepare", "a"), ("commit", "a"), ("rollback", "a"), ("prepare", "refuser")] {
        let named = format!("in the {phase} of client {client:?} since");
        assert!(said.iter().any(|message| message.contains(&named)), "{named} is not in {said:#?}");
    }
    assert_eq!(space.map().regions().len(), 2);
}

#[test]
fn another_thread_waits_for_the_turn_and_may_give_up() {
    let (space, log) = (space(), Log::default());
    let weak = Arc::downgrade(&space);
    let hook = move |phase, change: &Change| {
        let space = weak.upgrade().unwrap();
        if phase == "prepare" && change.added[0].base() == HIGH {
            let other = thread::spawn(move || space.insert(ram(8 * HIGH, "other"), &Impatient).map(drop));
            assert!(matches!(other.join().unwrap(), Err(Error::Interrupted)));
        }
        Ok(())
    };
    subscribe(&space, &log, "a", hook).unwrap();
    space.insert(ram(HIGH, "high"), &Uninterrupted).unwrap();
    space.insert(ram(8 * HIGH, "other"), &Impatient).unwrap();
}

#[test]
fn a_new_client_is_offered_everything_that_is_there() {
    let (space, log) = (space(), Log::default());
    space.insert(ram(HIGH, "high"), &Uninterrupted).unwrap();
    subscribe(&space, &log, "a", |_, change| {
        assert!(change.before.regions().is_empty());
        assert!(change.added.iter().map(|region| region.id).eq(change.after.regions().iter().map(|region| region.id)));
        Ok(())
    })
    .unwrap();
    assert_eq!(taken(&log), ["a prepare +2 -0 ~0", "a commit +2 -0 ~0"]);
    assert_eq!(space.map().generation(), Generation(2));
}

#[test]
fn a_client_that_refuses_what_is_there_is_none() {
    let (space, log) = (space(), Log::default());
    assert!(subscribe(&space, &log, "a", |_, _| Err(refuses())).is_err());
    assert_eq!(taken(&log), ["a prepare +1 -0 ~0"]);
    space.insert(ram(HIGH, "high"), &Uninterrupted).unwrap();
    assert!(taken(&log).is_empty());
}

#[test]
fn a_client_that_panics_leaves_the_turn_free_and_the_others_undone() {
    let (space, log) = (space(), Log::default());
    subscribe(&space, &log, "a", |_, _| Ok(())).unwrap();
    subscribe(&space, &log, "b", |_, change| {
        assert!(change.removed.is_empty(), "this client panics at removals");
        Ok(())
    })
    .unwrap();
    taken(&log);
    let removal = || space.change(&ChangeRequest::of(&[remove(LOW)]), &Uninterrupted).map(drop);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(removal)).is_err());
    assert_eq!(taken(&log), ["a prepare +0 -1 ~0", "b prepare +0 -1 ~0", "a rollback +0 -1 ~0"]);
    drop(lease(&space, LOW));
    space.insert(ram(HIGH, "high"), &Impatient).unwrap();
}

#[test]
fn closing_the_memory_looks_like_the_removal_of_every_region() {
    let (space, log) = (space(), Log::default());
    space.insert(ram(HIGH, "closed"), &Uninterrupted).unwrap();
    subscribe(&space, &log, "a", |_, _| Ok(())).unwrap();
    taken(&log);
    let incarnation = space.map_memory(&Uninterrupted).unwrap();
    space.close_memory(incarnation, AT_ONCE, &Uninterrupted).unwrap();
    assert_eq!(taken(&log), ["a prepare +0 -2 ~0", "a commit +0 -2 ~0"]);
    assert_eq!((space.map().regions().len(), is_mapped("closed")), (2, false));
}

#[test]
fn who_has_the_turn_may_drop_the_last_lease() {
    let (space, log) = (space(), Log::default());
    space.insert(ram(HIGH, "dropped"), &Uninterrupted).unwrap();
    let held = Arc::new(Mutex::new(None));
    let dropped = Arc::clone(&held);
    subscribe(&space, &log, "a", move |_, _| {
        drop(dropped.lock().unwrap().take());
        Ok(())
    })
    .unwrap();
    *held.lock().unwrap() = Some(lease(&space, HIGH));
    space.change(&ChangeRequest::of(&[remove(LOW)]), &Uninterrupted).unwrap();
    space.change(&ChangeRequest::of(&[remove(HIGH)]), &Uninterrupted).unwrap();
    assert!(!is_mapped("dropped"));
}

#[test]
fn a_removal_returns_when_the_last_reader_has_left() {
    let (space, log) = (space_of("read"), Log::default());
    subscribe(&space, &log, "a", |_, _| Ok(())).unwrap();
    taken(&log);
    let reader = space.load();
    let (sender, receiver) = mpsc::channel();
    let other = Arc::clone(&space);
    let removing = thread::spawn(move || {
        other.change(&ChangeRequest::of(&[remove(LOW)]), &Uninterrupted).unwrap();
        sender.send(()).unwrap();
    });
    while !log.lock().unwrap().iter().any(|entry| entry.starts_with("a commit")) {
        thread::yield_now();
    }
    assert!(space.map().regions().is_empty());
    assert!(receiver.recv_timeout(Duration::from_millis(100)).is_err());
    assert!(is_mapped("read"));
    drop(reader);
    receiver.recv().unwrap();
    assert!(!is_mapped("read"));
    removing.join().unwrap();
}
