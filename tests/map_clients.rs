//! The two-phase change: who follows a space is asked before a change, told after it, and can undo it.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may panic"
)]

use std::sync::{Arc, Mutex, OnceLock};

use _core::model::change::{Change, Target};
use _core::model::error::{Error, Result};
use _core::model::interrupt::Uninterrupted;
use _core::model::layout::Layout;
use _core::model::range::Range;
use _core::model::region::{Region, RegionType};
use _core::model::source::Source;
use _core::space::AddressSpace;
use _core::space::client::Client;
use _core::space::transaction::Transaction;

const PAGE: u64 = 4096;

type Log = Arc<Mutex<Vec<String>>>;

/// Writes down what it is called for, and refuses what adds a region at `refuses`.
struct Follower {
    name: &'static str,
    log: Log,
    refuses: Option<u64>,
    /// Tries a change of this space from inside `prepare`.
    changes: OnceLock<Arc<AddressSpace>>,
}

impl Follower {
    fn new(name: &'static str, log: &Log, refuses: Option<u64>) -> Arc<Self> {
        Arc::new(Self { name, log: Arc::clone(log), refuses, changes: OnceLock::new() })
    }

    fn note(&self, verb: &str, change: &Change) {
        let bases = |regions: &[Arc<Region>]| regions.iter().map(|region| region.base() / PAGE).collect::<Vec<_>>();
        let (added, removed) = (bases(&change.added), bases(&change.removed));
        self.log.lock().unwrap().push(format!("{} {verb} +{added:?} -{removed:?}", self.name));
    }
}

impl Client for Follower {
    fn name(&self) -> &str {
        self.name
    }

    fn prepare(&self, change: &Change) -> Result<()> {
        self.note("prepare", change);
        if let Some(space) = self.changes.get() {
            space.insert(&ram(64), &Uninterrupted)?;
        }
        match change.added.iter().find(|region| Some(region.base() / PAGE) == self.refuses) {
            Some(region) => Err(Error::Client { client: self.name.into(), message: format!("no room for {region}") }),
            None => Ok(()),
        }
    }

    fn commit(&self, change: &Change) {
        self.note("commit", change);
    }

    fn rollback(&self, change: &Change) {
        self.note("rollback", change);
    }
}

fn ram(page: u64) -> Region {
    Region::new(RegionType::DefaultMemory, Range::new(page * PAGE, PAGE).unwrap(), Source::default()).unwrap()
}

fn space() -> Arc<AddressSpace> {
    Arc::new(AddressSpace::new(Layout::new(1 << 46, 0, 1 << 45, vec![]).unwrap()))
}

fn taken(log: &Log) -> Vec<String> {
    std::mem::take(&mut log.lock().unwrap())
}

#[test]
fn clients_are_asked_and_told_in_order() {
    let (space, log) = (space(), Log::default());
    for name in ["one", "two"] {
        space.subscribe(Follower::new(name, &log, None), &Uninterrupted).unwrap();
    }
    taken(&log);
    space.insert(&ram(1), &Uninterrupted).unwrap();
    assert_eq!(
        taken(&log),
        ["one prepare +[1] -[]", "two prepare +[1] -[]", "one commit +[1] -[]", "two commit +[1] -[]"]
    );
    let mut transaction = Transaction::begin(&space, None).unwrap();
    transaction.remove(&Target::Base(PAGE)).unwrap();
    transaction.insert(&ram(2)).unwrap();
    assert!(taken(&log).is_empty());
    transaction.publish(&space, &Uninterrupted).unwrap();
    assert_eq!(taken(&log).last().unwrap(), "two commit +[2] -[1]");
}

#[test]
fn a_refusal_undoes_the_whole_change() {
    let (space, log) = (space(), Log::default());
    let memory = space.map_memory(&Uninterrupted).unwrap();
    space.insert(&ram(1), &Uninterrupted).unwrap();
    for (name, refuses) in [("one", None), ("two", None), ("three", Some(3)), ("four", None)] {
        space.subscribe(Follower::new(name, &log, refuses), &Uninterrupted).unwrap();
    }
    taken(&log);
    let before = space.map();
    let mut transaction = Transaction::begin(&space, None).unwrap();
    transaction.remove(&Target::Base(PAGE)).unwrap();
    transaction.insert(&ram(3)).unwrap();
    let refused = transaction.publish(&space, &Uninterrupted).unwrap_err();
    assert_eq!(refused.to_string(), "client \"three\" refused the change: no room for ram [0x3000, 0x4000)");
    assert_eq!(
        taken(&log),
        [
            "one prepare +[3] -[1]",
            "two prepare +[3] -[1]",
            "three prepare +[3] -[1]",
            "two rollback +[3] -[1]",
            "one rollback +[3] -[1]"
        ]
    );
    assert!(Arc::ptr_eq(&space.map(), &before));
    let snapshot = space.load();
    let region = snapshot.memory_of(memory).unwrap().find(PAGE).unwrap();
    assert!(region.lease("view", PAGE, 1).is_ok(), "the region can be leased again");
}

#[test]
fn a_new_client_is_offered_what_is_there() {
    let (space, log) = (space(), Log::default());
    space.insert(&ram(1), &Uninterrupted).unwrap();
    space.insert(&ram(2), &Uninterrupted).unwrap();
    assert!(space.subscribe(Follower::new("picky", &log, Some(2)), &Uninterrupted).is_err());
    assert_eq!(taken(&log), ["picky prepare +[1, 2] -[]"]);
    space.subscribe(Follower::new("follower", &log, None), &Uninterrupted).unwrap();
    assert_eq!(taken(&log), ["follower prepare +[1, 2] -[]", "follower commit +[1, 2] -[]"]);
    space.insert(&ram(3), &Uninterrupted).unwrap();
    assert_eq!(taken(&log), ["follower prepare +[3] -[]", "follower commit +[3] -[]"]);
    assert_eq!(space.map().generation(), 3);
}

#[test]
fn closing_the_memory_is_the_removal_of_every_region() {
    let (space, log) = (space(), Log::default());
    space.insert(&ram(1), &Uninterrupted).unwrap();
    space.subscribe(Follower::new("follower", &log, None), &Uninterrupted).unwrap();
    taken(&log);
    let memory = space.map_memory(&Uninterrupted).unwrap();
    space.close_memory(memory, &Uninterrupted).unwrap();
    assert_eq!(taken(&log), ["follower prepare +[] -[1]", "follower commit +[] -[1]"]);
    space.close_memory(memory, &Uninterrupted).unwrap();
    assert!(taken(&log).is_empty());
    assert_eq!((space.map().generation(), space.map().regions().len()), (1, 1));
}

#[test]
fn a_change_from_inside_a_change_is_refused_at_once() {
    let (space, log) = (space(), Log::default());
    let follower = Follower::new("nested", &log, None);
    space.subscribe(Arc::<Follower>::clone(&follower), &Uninterrupted).unwrap();
    assert!(follower.changes.set(Arc::clone(&space)).is_ok());
    let refused = space.insert(&ram(1), &Uninterrupted).unwrap_err();
    assert!(matches!(refused, Error::Reentrant { .. }));
    assert!(refused.to_string().contains("in the prepare of client \"nested\""), "{refused}");
    assert_eq!(space.map().regions().len(), 0);
}
