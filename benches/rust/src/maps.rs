//! Building, looking up and inserting at different counts.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use _core::measured::AddressSpace;
use _core::measured::interrupt::Uninterrupted;
use _core::measured::layout::Layout;
use _core::measured::range::Range;
use _core::measured::region::{Region, RegionType};
use _core::measured::region_map::RegionMap;
use _core::measured::source::Source;
use dbs_address_space as published;
use vm_memory::GuestAddress;

use crate::harness::{Comparison, Goal, Pace, timed};

const COUNTS: [u64; 4] = [1, 16, 256, 4096];
const PAGE: u64 = 0x1000;
const STRIDE: u64 = 2 * PAGE;
const FIRST: u64 = 1 << 32;
const MEM_END: u64 = 1 << 45;
const PHYS_END: u64 = 1 << 46;

pub fn layout() -> Layout {
    Layout::new(PHYS_END, 0, MEM_END, vec![]).expect("the layout is ordered")
}

pub fn base(index: u64) -> u64 {
    FIRST + index * STRIDE
}

pub fn region(base: u64) -> Arc<Region> {
    let range = Range::new(base, PAGE).expect("the range ends below 2^64");
    Arc::new(Region::new(RegionType::DefaultMemory, range, Source::default()).expect("the region is not empty"))
}

fn published_region(base: u64) -> Arc<published::AddressSpaceRegion> {
    let region_type = published::AddressSpaceRegionType::DefaultMemory;
    Arc::new(published::AddressSpaceRegion::new(region_type, GuestAddress(base), PAGE))
}

pub fn map(count: u64) -> RegionMap {
    RegionMap::from_regions((0..count).map(|index| region(base(index))).collect(), layout())
        .expect("the regions are disjoint")
}

/// The same regions on both sides.
struct Sides {
    ours: AddressSpace,
    published: published::AddressSpace,
}

impl Sides {
    fn new(count: u64) -> Self {
        let regions = (0..count).map(|index| published_region(base(index))).collect();
        Self {
            ours: AddressSpace::with_map(map(count)),
            published: published::AddressSpace::from_regions(regions, published_layout()),
        }
    }
}

fn published_layout() -> published::AddressSpaceLayout {
    published::AddressSpaceLayout::new(PHYS_END, 0, MEM_END)
}

/// Pseudo-random numbers below `count`, the same at every run.
pub fn random_indexes(count: u64) -> Vec<u64> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % count
    };
    (0..4096).map(|_| next()).collect()
}

/// A map from a list of regions that are out of order.
pub fn from_regions(pace: &Pace) -> Vec<Comparison> {
    COUNTS
        .map(|count| {
            let regions: Vec<_> = (0..count).rev().map(|index| region(base(index))).collect();
            let published_regions: Vec<_> = (0..count).rev().map(|index| published_region(base(index))).collect();
            pace.in_turns(
                format!("from_regions, {count} regions"),
                Goal::None,
                &mut |number| timed(number, |_| RegionMap::from_regions(regions.clone(), layout())),
                &mut |number| {
                    timed(number, |_| {
                        published::AddressSpaceBase::from_regions(published_regions.clone(), published_layout())
                    })
                },
            )
        })
        .into()
}

/// The region behind an address of a live space; the published crate gives only its properties.
pub fn look_up(pace: &Pace) -> Vec<Comparison> {
    COUNTS.iter().flat_map(|count| look_up_at(pace, *count)).collect()
}

fn look_up_at(pace: &Pace, count: u64) -> [Comparison; 3] {
    let sides = Sides::new(count);
    let inside: Vec<u64> = random_indexes(count).into_iter().map(|index| base(index) + 64).collect();
    let middle = base(count / 2);
    let goal = if count == 4096 { Goal::Speed(50.0) } else { Goal::None };
    let patterns =
        [("same address", vec![middle + 64; 4096]), ("in a hole", vec![middle + PAGE; 4096]), ("random", inside)];
    patterns.map(|(pattern, addresses)| {
        let at = |turn: u32| black_box(addresses[turn as usize % 4096]);
        pace.in_turns(
            format!("look-up, {count} regions, {pattern}"),
            goal,
            &mut |number| timed(number, |turn| sides.ours.load().map.find(at(turn)).map(|region| region.prot_flags)),
            &mut |number| timed(number, |turn| sides.published.prot_flags(GuestAddress(at(turn))).ok()),
        )
    })
}

/// An insertion into the middle of a live space.
///
/// The published crate can't remove, so every insertion meets a space of its own, made outside the measured time.
pub fn insert(pace: &Pace) -> Vec<Comparison> {
    COUNTS
        .map(|count| {
            let goal = match count {
                1 => Goal::Nanoseconds(1000.0),
                256.. => Goal::Speed(1.0),
                _ => Goal::None,
            };
            let hole = base(count / 2) + PAGE;
            let (ours, theirs) = (region(hole), published_region(hole));
            let (map, regions) =
                (map(count), (0..count).map(|index| published_region(base(index))).collect::<Vec<_>>());
            pace.in_turns(
                format!("insert, {count} regions"),
                goal,
                &mut |number| {
                    in_batches(
                        number,
                        || AddressSpace::with_map(map.clone()),
                        |space| space.insert(Arc::clone(&ours), &Uninterrupted),
                    )
                },
                &mut |number| {
                    in_batches(
                        number,
                        || published::AddressSpace::from_regions(regions.clone(), published_layout()),
                        |space| space.insert_region(Arc::clone(&theirs)),
                    )
                },
            )
        })
        .into()
}

/// Times `operation` on fresh states, made a few at a time so that they stay in the processor's cache.
fn in_batches<S, T>(number: u32, make: impl Fn() -> S, operation: impl Fn(&mut S) -> T) -> Duration {
    const BATCH: u32 = 16;
    let batches = (0..number).step_by(BATCH as usize).map(|done| {
        let mut states: Vec<S> = (done..number.min(done + BATCH)).map(|_| make()).collect();
        timed(states.len() as u32, |index| operation(&mut states[index as usize]))
    });
    batches.sum()
}
