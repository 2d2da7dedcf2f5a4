//! Readers' throughput while a writer hotplugs: the live space against a map behind a mutex.

use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use _core::measured::AddressSpace;
use _core::measured::change::{MapOperation, RegionTarget};
use _core::measured::interrupt::Uninterrupted;
use _core::measured::region::Region;
use _core::measured::region_map::RegionMap;
use _core::measured::removal::Patience;

use crate::harness::{Comparison, Goal, Pace};
use crate::maps::{base, map, random_indexes, region};

const COUNT: u64 = 256;
const READERS: u32 = 2;
/// A race takes this many times a sample, so that starting threads does not count.
const LONGER: u32 = 10;

/// Something that readers search and a writer changes.
trait Shared: Sync {
    fn look_up(&self, addr: u64) -> bool;
    fn plug_and_unplug(&self, region: &Arc<Region>);
}

impl Shared for AddressSpace {
    fn look_up(&self, addr: u64) -> bool {
        self.load().map.find(addr).is_some()
    }

    fn plug_and_unplug(&self, region: &Arc<Region>) {
        self.insert(Arc::clone(region), &Uninterrupted).expect("the hole is free");
        self.remove(
            &RegionTarget::Region(Arc::clone(region)),
            Patience { timeout: None, when_busy: || () },
            &Uninterrupted,
        )
        .expect("the region is there");
    }
}

impl Shared for Mutex<RegionMap> {
    fn look_up(&self, addr: u64) -> bool {
        self.lock().expect("no one panicked").find(addr).is_some()
    }

    fn plug_and_unplug(&self, region: &Arc<Region>) {
        let (insertion, removal) =
            (MapOperation::insert(Arc::clone(region)), MapOperation::Remove(RegionTarget::Region(Arc::clone(region))));
        for operation in [insertion, removal] {
            let mut map = self.lock().expect("no one panicked");
            *map = operation.apply(&map).expect("the region comes and goes");
        }
    }
}

/// Time per look-up of a reader, beside no writer, one that plugs now and then, and one that does nothing else.
pub fn readers(pace: &Pace) -> Vec<Comparison> {
    let pauses = [
        ("no writer", None),
        ("a writer every ms", Some(Duration::from_millis(1))),
        ("a busy writer", Some(Duration::ZERO)),
    ];
    let addresses: Vec<u64> = random_indexes(COUNT).into_iter().map(|index| base(index) + 64).collect();
    let (space, mutex) = (AddressSpace::with_map(map(COUNT)), Mutex::new(map(COUNT)));
    pauses
        .map(|(writer, pause)| {
            pace.samples_in_turns(
                format!("{READERS} readers of {COUNT} regions, {writer}"),
                Goal::None,
                &mut || race(&space, &addresses, pause, pace.sample * LONGER),
                &mut || race(&mutex, &addresses, pause, pace.sample * LONGER),
            )
        })
        .into()
}

/// Nanoseconds a look-up of a reader, in a race of the given length.
fn race(shared: &dyn Shared, addresses: &[u64], pause: Option<Duration>, length: Duration) -> f64 {
    let end = Instant::now() + length;
    thread::scope(|scope| {
        if let Some(pause) = pause {
            scope.spawn(move || write(shared, pause, end));
        }
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(move || read(shared, addresses, end))).collect();
        let looked_up: f64 = readers.into_iter().map(|reader| reader.join().expect("no reader panics")).sum();
        length.as_secs_f64() * 1e9 * f64::from(READERS) / looked_up
    })
}

/// How many addresses were looked up until the end; the clock is read once for all addresses.
fn read(shared: &dyn Shared, addresses: &[u64], end: Instant) -> f64 {
    let mut looked_up = 0.0;
    while Instant::now() < end {
        for addr in addresses {
            black_box(shared.look_up(*addr));
        }
        looked_up += addresses.len() as f64;
    }
    looked_up
}

fn write(shared: &dyn Shared, pause: Duration, end: Instant) {
    let hotplugged = region(base(COUNT));
    while Instant::now() < end {
        shared.plug_and_unplug(&hotplugged);
        thread::sleep(pause);
    }
}
