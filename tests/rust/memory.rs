//! Integers and atomics on mapped memory: the short way and the long one.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use crate::memory::access::{Access, Verb};
use crate::memory::atomic::Cell;
use crate::memory::buffer::Output;
use crate::memory::operation::Operation;
use crate::memory::protection::Need;
use crate::model::interrupt::Uninterrupted;
use crate::model::layout::Layout;
use crate::model::range::Range;
use crate::model::region::{PROT_NONE, PROT_READ, Region, RegionType};
use crate::model::region_map::RegionMap;
use crate::model::source::{Source, UserFile};
use crate::space::AddressSpace;
use crate::space::state::SpaceState;

const PAGE: u64 = 4096;
const FAR: u64 = 8 * PAGE;
const ROM: u64 = 16 * PAGE;

fn region(base: u64, pages: u64, source: Source, region_type: RegionType) -> Region {
    Region::new(region_type, Range::new(base, pages * PAGE).unwrap(), source).unwrap()
}

fn ram(base: u64, pages: u64) -> Region {
    region(base, pages, Source::default(), RegionType::DefaultMemory)
}

fn space(regions: &[Region]) -> AddressSpace {
    let layout = Layout::new(1 << 46, 0, 1 << 45, vec![]).unwrap();
    let space = AddressSpace::with_map(
        RegionMap::from_regions(regions.iter().cloned().map(Arc::new).collect(), layout).unwrap(),
    );
    space.map_memory(&Uninterrupted).unwrap();
    space
}

/// Two regions that touch, a hole, another one.
fn usual() -> AddressSpace {
    space(&[ram(0, 2), ram(2 * PAGE, 1), ram(FAR, 2)])
}

/// The state of a space, which keeps its memory.
fn state_of(space: &AddressSpace) -> SpaceState {
    SpaceState::clone(&space.load())
}

fn user_file(pages: u64) -> Source {
    let path = std::env::temp_dir().join(format!("guest-memory-{}-{pages}", std::process::id()));
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file.write_all(&vec![7; usize::try_from(pages * PAGE).unwrap()]).unwrap();
    let metadata = file.metadata().unwrap();
    let identity = (metadata.dev(), metadata.ino());
    Source { file: Some(UserFile { file: Arc::new(file), identity, path: None }), ..Source::default() }
}

#[test]
fn short_accesses_leave_memory_that_may_fault_to_the_long_way() {
    let mut readonly = ram(FAR, 1);
    readonly.prot_flags = PROT_READ;
    let mut forbidden = ram(ROM, 1);
    forbidden.prot_flags = PROT_NONE;
    let file = region(0, 2, user_file(2), RegionType::DefaultMemory);
    let state = state_of(&space(&[file, readonly, forbidden]));
    let memory = state.memory().unwrap();
    assert_eq!(memory.read_int_direct::<u8>(0), None);
    assert_eq!((memory.read_int_direct::<u8>(FAR), memory.write_int_direct(FAR, 1u8)), (Some(0), false));
    assert_eq!((memory.read_int_direct::<u8>(ROM), memory.write_int_direct(ROM, 1u8)), (None, false));
    let mut bytes = [0u8; 8];
    let access = Access {
        map: &space(&[]).map(),
        memory,
        verb: Verb::new("read", Need::Read),
        range: Range::new(PAGE - 4, 8).unwrap(),
    };
    crate::memory::access::read(
        &access.sections().unwrap(),
        &Output::from(&mut bytes[..]),
        &crate::model::interrupt::Uninterrupted,
    )
    .unwrap();
    assert_eq!(bytes, [7; 8]);
}

#[test]
fn aligned_integers_do_not_tear() {
    const ROUNDS: u64 = 300_000;
    let state = state_of(&usual());
    let memory = state.memory().unwrap();
    let patterns = [0, u64::MAX, 0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
    thread::scope(|scope| {
        for index in 0..2 {
            let memory = &memory;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    assert!(memory.write_int_direct(PAGE, patterns[usize::try_from(round % 2).unwrap() * 2 + index]));
                }
            });
        }
        for _ in 0..ROUNDS {
            let value = memory.read_int_direct::<u64>(PAGE).unwrap();
            assert!(patterns.contains(&value), "{value:#x} was never written");
        }
    });
}

#[test]
fn atomics_add_up_and_publish() {
    const ROUNDS: u64 = 50_000;
    let space = usual();
    let apply = |address, operation, order| {
        let snapshot = space.load();
        let memory = snapshot.memory().unwrap();
        let range = Range::new(address, 8).unwrap();
        let access = Access { map: &snapshot.map, memory, verb: Verb::new("atomic", Need::Write), range };
        Cell::new(&access).unwrap().apply(operation, order).unwrap()
    };
    let (counter, data, flag) = (0, PAGE, FAR);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=ROUNDS {
                apply(counter, Operation::Add(1), Ordering::Relaxed);
                apply(data, Operation::Store(round), Ordering::Relaxed);
                apply(flag, Operation::Store(round), Ordering::Release);
            }
        });
        for _ in 0..ROUNDS {
            apply(counter, Operation::Add(1), Ordering::Relaxed);
            let seen = apply(flag, Operation::Load, Ordering::Acquire);
            assert!(apply(data, Operation::Load, Ordering::Relaxed) >= seen);
        }
    });
    assert_eq!(apply(counter, Operation::Load, Ordering::SeqCst), 2 * ROUNDS);
}
