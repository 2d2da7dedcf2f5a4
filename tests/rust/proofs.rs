//! Changes of a mapped space against those who use its memory, in many interleavings: `make proofs`.

use std::sync::Arc;

use crate::memory::held_lease::Writes;
use crate::memory::lease::{Lease, WeakRegion};
use crate::memory::places::Refused;
use crate::model::change::RegionTarget;
use crate::model::error::Error;
use crate::model::interrupt::Uninterrupted;
use crate::model::layout::Layout;
use crate::model::range::Range;
use crate::model::region::{PROT_READ, PROT_WRITE, Region, RegionType};
use crate::model::region_map::RegionMap;
use crate::model::source::Source;
use crate::space::AddressSpace;
use crate::space::removal::Patience;
use crate::sys::sync::{AtomicU32, Ordering, prove, thread};

const FOR_EVER: Patience = Patience { timeout: None, when_busy: || () };
const BASE: RegionTarget = RegionTarget::Base(0);

fn region(prot_flags: i32) -> Region {
    let range = Range::at(0, 1 << 12);
    Region { prot_flags, ..Region::new(RegionType::DefaultMemory, range, Source::default()).unwrap() }
}

/// A mapped space of one region.
fn space() -> Arc<AddressSpace> {
    let layout = Layout::new(1 << 46, 0, 1 << 45, vec![]).unwrap();
    let map = RegionMap::from_regions(vec![Arc::new(region(PROT_READ | PROT_WRITE))], layout).unwrap();
    let space = AddressSpace::with_map(map);
    space.map_memory(&Uninterrupted).unwrap();
    Arc::new(space)
}

/// A lease on the region under the snapshot that shows it, as a verb takes it; with the protection that the snapshot shows.
fn leased(space: &AddressSpace) -> Option<(Lease, i32)> {
    loop {
        let unsettled = {
            let snapshot = space.load();
            let region = snapshot.memory()?.find(0)?;
            thread::yield_now();
            let weak = WeakRegion::from(region);
            match weak.lease("view", Range::at(0, 8), Writes::Marked) {
                Ok(lease) => return Some((lease, region.desc().prot_flags)),
                Err(Refused::Closed) => return None,
                Err(Refused::Closing) => weak,
            }
        };
        space.wait_settled(&unsettled, &Uninterrupted).unwrap();
    }
}

fn in_threads(bodies: Vec<Box<dyn FnOnce() + Send>>) {
    let threads: Vec<_> = bodies.into_iter().map(thread::spawn).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Removes the region, as often as it takes.
fn remove(space: &AddressSpace) {
    while let Err(error) = space.remove(&BASE, FOR_EVER, &Uninterrupted) {
        assert!(matches!(error, Error::Busy { .. }), "{error}");
    }
}

#[test]
fn a_leased_region_is_in_the_map() {
    prove(|| {
        let space = space();
        let user = |space: Arc<AddressSpace>| {
            move || {
                let Some((lease, _)) = leased(&space) else { return };
                for _ in 0..2 {
                    assert!(space.map().find(0).is_some());
                    assert!(!lease.region().leases().is_closing().unwrap());
                }
            }
        };
        let (one, other) = (user(Arc::clone(&space)), user(Arc::clone(&space)));
        in_threads(vec![Box::new(one), Box::new(other), Box::new(move || remove(&space))]);
    });
}

#[test]
fn no_reader_is_left_in_a_snapshot_whose_region_has_gone() {
    prove(|| {
        let (space, readers) = (space(), Arc::new(AtomicU32::new(0)));
        let read = {
            let (space, readers) = (Arc::clone(&space), Arc::clone(&readers));
            move || {
                for _ in 0..2 {
                    let snapshot = space.load();
                    if snapshot.memory().is_some_and(|memory| memory.find(0).is_some()) {
                        readers.fetch_add(1, Ordering::SeqCst);
                        thread::yield_now();
                        readers.fetch_sub(1, Ordering::SeqCst);
                    }
                }
            }
        };
        let change = move || {
            remove(&space);
            assert_eq!(readers.load(Ordering::SeqCst), 0);
        };
        in_threads(vec![Box::new(read), Box::new(change)]);
    });
}

#[test]
fn a_lease_keeps_the_protection_that_its_snapshot_shows() {
    prove(|| {
        let space = space();
        let user = {
            let space = Arc::clone(&space);
            move || {
                for _ in 0..2 {
                    let Some((lease, shown)) = leased(&space) else { return };
                    assert!(lease.allows(lease.region().range(), shown).unwrap());
                    thread::yield_now();
                    assert!(lease.allows(lease.region().range(), shown).unwrap());
                }
            }
        };
        let change = move || {
            for prot_flags in [PROT_READ, PROT_READ | PROT_WRITE] {
                let replaced = space.replace(BASE, region(prot_flags), &Uninterrupted);
                assert!(matches!(replaced, Ok(_) | Err(Error::Busy { .. })), "{replaced:?}");
            }
        };
        in_threads(vec![Box::new(user), Box::new(change)]);
    });
}

#[test]
fn no_change_of_two_is_lost() {
    prove(|| {
        let space = space();
        let insert = |space: Arc<AddressSpace>, page: u64| {
            move || {
                let range = Range::at(page << 12, 1 << 12);
                let region = Region::new(RegionType::DefaultMemory, range, Source::default()).unwrap();
                space.insert(region, &Uninterrupted).unwrap();
            }
        };
        let (one, other) = (insert(Arc::clone(&space), 1), insert(Arc::clone(&space), 2));
        let removing = Arc::clone(&space);
        in_threads(vec![Box::new(one), Box::new(other), Box::new(move || remove(&removing))]);
        assert_eq!(space.map().regions().iter().map(|region| region.base() >> 12).collect::<Vec<_>>(), [1, 2]);
        let snapshot = space.load();
        assert_eq!(snapshot.memory().unwrap().regions().count(), 2);
    });
}
