//! Guest memory for Rust programs: vm-memory's own verbs over our regions, and what they refuse.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may stop at what should not be")]
#![allow(clippy::arithmetic_side_effects, reason = "numbers of a test are small")]

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use _core::memory::access::{Access, Verb};
use _core::memory::atomic::{Cell, Operation};
use _core::memory::buffer::Output;
use _core::memory::protection::Need;
use _core::model::interrupt::Uninterrupted;
use _core::model::layout::Layout;
use _core::model::range::Range;
use _core::model::region::{PROT_NONE, PROT_READ, Region, RegionType};
use _core::model::region_map::RegionMap;
use _core::model::source::{Source, UserFile};
use _core::space::AddressSpace;
use _core::space::state::SpaceState;
use vm_memory::guest_memory::Error;
use vm_memory::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress, Permissions,
};

const PAGE: u64 = 4096;
const HOLE: u64 = 3 * PAGE;
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
    Source { file: Some(UserFile { file: Arc::new(file), identity }), ..Source::default() }
}

#[test]
fn vm_memory_reads_and_writes_over_regions_that_touch() {
    let state = state_of(&usual());
    let memory = state.memory().unwrap();
    let collection = memory.collection();
    let bytes: Vec<u8> = (0..=255).cycle().take(6000).collect();
    collection.write_slice(&bytes, GuestAddress(2 * PAGE - 3000)).unwrap();
    let mut read = vec![0; 6000];
    collection.read_slice(&mut read, GuestAddress(2 * PAGE - 3000)).unwrap();
    assert_eq!(read, bytes);
    collection.write_obj(0x1122_3344_5566_7788u64, GuestAddress(2 * PAGE - 3)).unwrap();
    assert_eq!(collection.read_obj::<u64>(GuestAddress(2 * PAGE - 3)).unwrap(), 0x1122_3344_5566_7788);
    collection.store(9u32, GuestAddress(FAR), Ordering::Release).unwrap();
    assert_eq!(collection.load::<u32>(GuestAddress(FAR), Ordering::Acquire).unwrap(), 9);
}

#[test]
fn vm_memory_and_our_own_verbs_see_the_same_bytes() {
    let state = state_of(&usual());
    let memory = state.memory().unwrap();
    memory.collection().write_obj(0xfeed_u64, GuestAddress(FAR + 8)).unwrap();
    assert_eq!(memory.read_int_direct::<u64>(FAR + 8), Some(0xfeed));
    assert!(memory.write_int_direct(FAR + 16, 0xbeef_u64));
    assert_eq!(memory.collection().read_obj::<u64>(GuestAddress(FAR + 16)).unwrap(), 0xbeef);
}

#[test]
fn vm_memory_finds_the_regions() {
    let state = state_of(&usual());
    let memory = state.memory().unwrap();
    let collection = memory.collection();
    assert_eq!(collection.num_regions(), 3);
    assert_eq!(collection.last_addr(), GuestAddress(FAR + 2 * PAGE - 1));
    let found = collection.find_region(GuestAddress(2 * PAGE + 5)).unwrap();
    assert_eq!((found.start_addr(), found.len()), (GuestAddress(2 * PAGE), PAGE));
    assert_eq!(found.is_hugetlbfs(), Some(false));
    assert_eq!(found.file_offset().unwrap().start(), 0);
    assert!(collection.find_region(GuestAddress(HOLE)).is_none());
    assert!(GuestMemory::check_range(collection, GuestAddress(0), 3 * 4096, Permissions::ReadWrite));
    assert!(!GuestMemory::check_range(collection, GuestAddress(0), 3 * 4096 + 1, Permissions::Read));
}

#[test]
fn a_hole_is_an_error_of_vm_memory() {
    let state = state_of(&usual());
    let memory = state.memory().unwrap();
    let collection = memory.collection();
    let into = collection.write_slice(&[1; 8], GuestAddress(HOLE - 4));
    assert!(matches!(into, Err(Error::PartialBuffer { expected: 8, completed: 4 })));
    assert!(matches!(collection.read_obj::<u8>(GuestAddress(HOLE)), Err(Error::InvalidGuestAddress(_))));
}

#[test]
fn memory_without_regions_is_an_empty_collection() {
    assert_eq!(state_of(&space(&[])).memory().unwrap().collection().num_regions(), 0);
}

#[test]
fn host_addresses_are_those_of_the_mapping() {
    let state = state_of(&usual());
    let memory = state.memory().unwrap();
    let region = memory.find(FAR).unwrap();
    let host = region.get_host_address(MemoryRegionAddress(PAGE)).unwrap();
    assert_eq!(host, region.mapping().host(PAGE));
    assert!(region.get_host_address(MemoryRegionAddress(2 * PAGE)).is_err());
    assert!(region.get_slice(MemoryRegionAddress(PAGE), 4096).is_ok());
    assert!(region.get_slice(MemoryRegionAddress(PAGE), 4097).is_err());
}

/// A slice is touched without further ado, so there is none of memory that may fault under a touch, or that forbids it.
#[test]
fn memory_that_may_fault_gives_no_slice() {
    let mut readonly = ram(FAR, 1);
    readonly.prot_flags = PROT_READ;
    let mut forbidden = ram(ROM, 1);
    forbidden.prot_flags = PROT_NONE;
    let file = region(0, 2, user_file(2), RegionType::DefaultMemory);
    let state = state_of(&space(&[file, readonly, forbidden]));
    let memory = state.memory().unwrap();
    for base in [0, FAR, ROM] {
        let region = memory.find(base).unwrap();
        let slice = region.get_slice(MemoryRegionAddress(0), 8);
        assert!(matches!(slice, Err(Error::HostAddressNotAvailable)), "{:?}", region.desc());
        assert!(memory.collection().read_obj::<u64>(GuestAddress(base)).is_err());
        assert!(memory.collection().write_obj(1u64, GuestAddress(base)).is_err());
    }
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
    _core::memory::access::read(&access.sections().unwrap(), &Output::from(&mut bytes[..])).unwrap();
    assert_eq!(bytes, [7; 8]);
}

#[test]
fn a_device_is_no_region_of_vm_memory() {
    let device = region(1 << 45, 1, Source::default(), RegionType::DeviceMemory);
    assert_eq!(state_of(&space(&[ram(0, 1), device])).memory().unwrap().collection().num_regions(), 1);
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
