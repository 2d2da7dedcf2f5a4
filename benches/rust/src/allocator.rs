//! Looking for room: a live space's reservations against the crate vm-allocator, 10,000 in an empty space.

use std::time::{Duration, Instant};

use _core::measured::AddressSpace;
use _core::measured::allocator::{FitPolicy, Wanted};
use _core::measured::interrupt::Uninterrupted;
use _core::measured::layout::Layout;
use _core::measured::region::RegionType;
use _core::measured::region_map::RegionMap;
use _core::measured::reservations::Bounds;
use vm_allocator::{AddressAllocator, AllocPolicy};

use crate::harness::{Comparison, Goal, Pace};

const CALLS: u32 = 10_000;
const SIZE: u64 = 0x1000;
const END: u64 = 1 << 45;

/// Nanoseconds a call, first fit and last fit.
pub fn allocate(pace: &Pace) -> Vec<Comparison> {
    let few = Pace { rounds: pace.rounds.min(11), ..*pace };
    [("first", FitPolicy::First, AllocPolicy::FirstMatch), ("last", FitPolicy::Last, AllocPolicy::LastMatch)]
        .map(|(name, ours, theirs)| {
            few.samples_in_turns(
                format!("{CALLS} reservations of 4 KiB, {name} fit"),
                Goal::Speed(1.0),
                &mut || each(reserve(ours)),
                &mut || each(allocate_all(theirs)),
            )
        })
        .into()
}

fn each(taken: Duration) -> f64 {
    taken.as_secs_f64() * 1e9 / f64::from(CALLS)
}

fn reserve(policy: FitPolicy) -> Duration {
    let layout = Layout::new(1 << 46, 0, END, vec![]).expect("the layout is sound");
    let space = AddressSpace::with_map(RegionMap::empty(layout));
    let wanted = Wanted { size: SIZE, align: SIZE, guard_gap: 0, policy };
    let bounds = Bounds { region_type: RegionType::DefaultMemory, low: 0, high: u64::MAX };
    let begun = Instant::now();
    for _ in 0..CALLS {
        space.reserve(&wanted, bounds, None, "bench", &Uninterrupted).expect("there is room");
    }
    begun.elapsed()
}

fn allocate_all(policy: AllocPolicy) -> Duration {
    let mut allocator = AddressAllocator::new(0, END).expect("the range is sound");
    let begun = Instant::now();
    for _ in 0..CALLS {
        allocator.allocate(SIZE, SIZE, policy).expect("there is room");
    }
    begun.elapsed()
}
