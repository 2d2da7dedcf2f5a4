//! Threads that change one space in Rust while others read it, with and without memory.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::model::change::RegionTarget;
use crate::model::error::Error;
use crate::model::ids::Generation;
use crate::model::interrupt::Uninterrupted;
use crate::model::layout::Layout;
use crate::model::range::Range;
use crate::model::region::{Region, RegionType};
use crate::model::region_map::RegionMap;
use crate::model::source::Source;
use crate::space::AddressSpace;
use crate::space::removal::Patience;
use crate::space::state::SpaceState;
use crate::space::transaction::Transaction;

const PAGE: u64 = 4096;
const FOR_EVER: Patience = Patience { timeout: None, when_busy: || () };
const FAR: u64 = 1 << 32;
const WRITERS: u64 = 8;
const READERS: usize = 2;

/// Enough for threads to meet: changes with memory take longer, and so meet more often.
const fn rounds(is_mapped: bool) -> u64 {
    if is_mapped { 100 } else { 600 }
}

fn space(is_mapped: bool) -> AddressSpace {
    let space = AddressSpace::with_map(RegionMap::empty(Layout::new(1 << 46, 0, 1 << 45, vec![]).unwrap()));
    if is_mapped {
        space.map_memory(&Uninterrupted).unwrap();
    }
    space
}

fn ram(base: u64, size: u64) -> Region {
    Region::new(RegionType::DefaultMemory, Range::new(base, size).unwrap(), Source::default()).unwrap()
}

/// The next step of a writer, the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn bases(map: &RegionMap) -> Vec<u64> {
    map.regions().iter().map(|region| region.base()).collect()
}

/// Sorted, free of overlaps, and each region with its own memory, which holds its base or nothing yet.
fn check(snapshot: &SpaceState) {
    let regions = snapshot.map.regions();
    for (low, high) in regions.iter().zip(regions.iter().skip(1)) {
        assert!(low.end() <= high.base(), "{low} reaches into {high}");
    }
    for (index, region) in regions.iter().enumerate() {
        assert_eq!(snapshot.map.find_index(region.base()), Some(index));
        assert_eq!(snapshot.map.find_index(region.end() - 1), Some(index));
    }
    let Some(memory) = snapshot.memory() else { return };
    assert_eq!(memory.regions().len(), regions.len());
    for (mapped, region) in memory.regions().zip(regions) {
        assert!(Arc::ptr_eq(mapped.desc(), region));
        let word: u64 = memory.read_int_direct(region.base()).expect("a memfd of small pages is copied directly");
        assert!(word == 0 || word == region.base() + 1, "{region} shows the word {word:x}");
    }
}

/// Marks a region's memory, so that a reader who gets another region's would see it.
fn mark(space: &AddressSpace, base: u64) {
    if let Some(memory) = space.load().memory() {
        assert!(memory.write_int_direct(base, base + 1));
    }
}

/// Runs the writers, and readers that look at one snapshot after the other until the writers are done.
fn race(space: &AddressSpace, look: impl Fn(&SpaceState) + Sync, write: impl Fn(u64) + Sync) {
    let (done, seen) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                let mut last = Generation::default();
                while !done.load(Ordering::Relaxed) {
                    let snapshot = space.load();
                    assert!(snapshot.map.generation() >= last);
                    last = snapshot.map.generation();
                    look(&snapshot);
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let write = &write;
        let writers: Vec<_> = (0..WRITERS).map(|number| scope.spawn(move || write(number))).collect();
        let results: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        assert!(results.into_iter().all(|result| result.is_ok()), "a writer panicked");
    });
    assert!(seen.into_inner() > 0);
}

fn every_accepted_insert_is_there(is_mapped: bool) {
    let space = space(is_mapped);
    let expected = Mutex::new(HashSet::new());
    race(&space, check, |number| {
        let (mut chance, mut mine) = (Chance(number), HashSet::new());
        for _ in 0..rounds(is_mapped) {
            let base = (chance.below(16) * WRITERS + number) * 4 * PAGE;
            if mine.remove(&base) {
                let map = space.remove(&RegionTarget::Base(base), FOR_EVER, &Uninterrupted).unwrap();
                assert!(map.find(base).is_none());
            } else {
                assert!(space.insert(ram(base, 4 * PAGE), &Uninterrupted).unwrap().find(base).is_some());
                mark(&space, base);
                mine.insert(base);
            }
        }
        expected.lock().unwrap().extend(mine);
    });
    let mut expected: Vec<u64> = expected.into_inner().unwrap().into_iter().collect();
    expected.sort_unstable();
    assert_eq!(bases(&space.map()), expected);
    assert_eq!(space.map().generation(), Generation(WRITERS * rounds(is_mapped)));
}

#[test]
fn every_accepted_insert_is_there_unmapped() {
    every_accepted_insert_is_there(false);
}

#[test]
fn every_accepted_insert_is_there_mapped() {
    every_accepted_insert_is_there(true);
}

#[test]
fn of_overlapping_inserts_one_is_accepted() {
    let space = space(false);
    let (inserted, removed) = (AtomicU64::new(0), AtomicU64::new(0));
    race(&space, check, |number| {
        let mut chance = Chance(number);
        for _ in 0..rounds(false) {
            let slot = chance.below(4) * 8 * PAGE;
            match space.insert(ram(slot + number * 512, 4 * PAGE), &Uninterrupted) {
                Ok(_) => inserted.fetch_add(1, Ordering::Relaxed),
                Err(Error::Overlap { conflict, .. }) => {
                    let removal = space.remove(&RegionTarget::Region(conflict), FOR_EVER, &Uninterrupted);
                    removed.fetch_add(u64::from(removal.is_ok()), Ordering::Relaxed)
                }
                Err(error) => panic!("{error}"),
            };
        }
    });
    let left = u64::try_from(space.map().regions().len()).unwrap();
    assert_eq!(inserted.into_inner() - removed.into_inner(), left);
}

fn no_reader_sees_half_a_transaction(is_mapped: bool) {
    let space = space(is_mapped);
    let both_or_none = |snapshot: &SpaceState| {
        check(snapshot);
        let (near, far): (Vec<u64>, Vec<u64>) = bases(&snapshot.map).into_iter().partition(|base| *base < FAR);
        assert_eq!(far, near.iter().map(|base| base + FAR).collect::<Vec<_>>());
    };
    let published = AtomicU64::new(0);
    race(&space, both_or_none, |number| {
        let mut chance = Chance(number);
        for _ in 0..rounds(is_mapped) {
            let base = chance.below(6) * PAGE;
            let plug = |transaction: &mut Transaction| {
                transaction.insert(ram(base, PAGE))?;
                transaction.insert(ram(base + FAR, PAGE))
            };
            let unplug = |transaction: &mut Transaction| {
                transaction.remove(&RegionTarget::Base(base + FAR))?;
                transaction.remove(&RegionTarget::Base(base))
            };
            let mut transaction = Transaction::begin(&space, None).unwrap();
            if transaction.staged().find(base).is_some() { unplug(&mut transaction) } else { plug(&mut transaction) }
                .expect("the staged map is private");
            match transaction.publish(&space, &Uninterrupted) {
                Ok(Some(_)) => published.fetch_add(1, Ordering::Relaxed),
                Err(Error::Overlap { .. } | Error::Unmapped { .. }) => continue,
                other => panic!("{other:?}"),
            };
        }
    });
    assert_eq!(space.map().generation(), Generation(published.into_inner()));
    assert!(space.map().generation() > Generation(WRITERS));
}

#[test]
fn no_reader_sees_half_a_transaction_unmapped() {
    no_reader_sees_half_a_transaction(false);
}

#[test]
fn no_reader_sees_half_a_transaction_mapped() {
    no_reader_sees_half_a_transaction(true);
}
