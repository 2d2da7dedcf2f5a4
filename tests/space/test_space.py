"""`AddressSpace`: changes and what they return, snapshots, walks, and waiting for a change."""

import copy
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from dbs_address_space import (
    AddressRange,
    AddressSpace,
    AddressSpaceBase,
    AddressSpaceLayout,
    AddressSpaceRegion,
    DuplicateName,
    InvalidAddressRange,
    InvalidArgument,
    LayoutViolation,
    NotMapped,
    RegionOverlap,
    UnmappedAddress,
)
from memory_helpers import GIB, LAYOUT, PAGE, WINDOW, ram

LOW, HIGH = ram(0, GIB, name="low"), ram(4 * GIB, GIB, name="high")
FS = AddressSpaceRegion.create_dax_region(WINDOW, GIB, name="fs")


@pytest.fixture
def space() -> AddressSpace:
    return AddressSpace.from_regions([HIGH, LOW], LAYOUT)


def test_a_new_space_is_empty_and_true() -> None:
    space = AddressSpace(LAYOUT)
    assert bool(space) is True
    assert (len(space), space.regions, list(space), space.generation) == (0, (), [], 0)
    assert (space.layout, space.last_addr, space.ram_size, space.is_mapped) == (LAYOUT, 0, 0, False)
    with pytest.raises(NotMapped):
        _ = space.memory


def test_every_query_of_a_base_is_here(space: AddressSpace) -> None:
    base = space.snapshot()
    queries = {name for name in dir(AddressSpaceBase) if not name.startswith("_")}
    assert queries - set(dir(AddressSpace)) == set()
    space.insert_region(FS)
    base = space.snapshot()
    for name in ("regions", "layout", "generation", "last_addr", "ram_size"):
        assert getattr(space, name) == getattr(base, name)
    calls: list[Callable[[Any], object]] = [
        lambda map_: map_.find_region(GIB - 1),
        lambda map_: map_.find_region(GIB),
        lambda map_: map_.is_dax_region(WINDOW),
        lambda map_: map_.is_dax_region(0),
        lambda map_: map_.prot_flags(WINDOW),
        lambda map_: map_.numa_node_id(4 * GIB),
        lambda map_: map_.overlapping(0, 8 * GIB),
        lambda map_: map_.ranges("ram"),
        lambda map_: map_.ranges(),
        lambda map_: map_.gaps(),
        lambda map_: map_.gaps(GIB, 2 * GIB),
        lambda map_: map_.diff(base),
        lambda map_: map_.diff(AddressSpace(LAYOUT).snapshot()),
        lambda map_: (map_["low"], map_[WINDOW]),
        lambda map_: (0 in map_, GIB in map_, "low" in map_, LOW in map_, "none" in map_),
        list,
        len,
        str,
        bool,
    ]
    for call in calls:
        assert call(space) == call(base)
    for query in (space.prot_flags, space.numa_node_id, space.__getitem__):
        with pytest.raises(UnmappedAddress):
            query(2 * GIB)


def test_a_change_returns_the_map_it_published(either: AddressSpace) -> None:
    inserted = either.insert_region(FS)
    assert (inserted.generation, inserted.regions) == (1, (LOW, HIGH, FS))
    assert inserted is either.snapshot()
    renamed = LOW.replace(name="renamed")
    replaced = either.replace_region(LOW, renamed)
    assert (replaced.generation, replaced.regions) == (2, (renamed, HIGH, FS))
    removed = either.remove_region("renamed")
    assert (removed.generation, removed.regions) == (3, (HIGH, FS))
    assert (inserted.generation, inserted.regions) == (1, (LOW, HIGH, FS))
    assert either.generation == 3


def test_publishing_no_map_counts_no_generation(space: AddressSpace) -> None:
    with space.map_memory():
        assert space.is_mapped
        assert space.generation == 0
    assert space.generation == 0
    assert (space.is_mapped, space.regions) == (False, (LOW, HIGH))


@pytest.mark.parametrize("target", [4 * GIB, np.uint64(4 * GIB), "high", HIGH], ids=["base", "index", "name", "region"])
def test_a_region_is_named_by_base_name_or_value(either: AddressSpace, target: Any) -> None:
    renamed = HIGH.replace(name="renamed")
    assert either.replace_region(target, renamed).regions == (LOW, renamed)
    either.replace_region("renamed", HIGH)
    assert either.remove_region(target).regions == (LOW,)
    with pytest.raises(UnmappedAddress):
        either.remove_region(target)


def test_a_refused_change_changes_nothing(either: AddressSpace) -> None:
    before = either.snapshot()
    refusals: list[tuple[type[Exception], Callable[[], object]]] = [
        (RegionOverlap, lambda: either.insert_region(ram(GIB - PAGE, 2 * PAGE))),
        (RegionOverlap, lambda: either.insert_region(LOW.replace(name=None))),
        (DuplicateName, lambda: either.insert_region(ram(8 * GIB, name="low"))),
        (LayoutViolation, lambda: either.insert_region(ram(WINDOW))),
        (UnmappedAddress, lambda: either.remove_region(PAGE)),
        (UnmappedAddress, lambda: either.remove_region("nobody")),
        (UnmappedAddress, lambda: either.remove_region(LOW.replace(name=None))),
        (UnmappedAddress, lambda: either.replace_region(2 * GIB, LOW)),
        (InvalidAddressRange, lambda: either.replace_region(LOW, LOW.replace(size=PAGE))),
        (DuplicateName, lambda: either.replace_region(LOW, LOW.replace(name="high"))),
        (InvalidAddressRange, lambda: either.remove_region(-1)),
        (InvalidArgument, lambda: either.remove_region(0, timeout=-1.0)),
        (TypeError, lambda: either.insert_region(5)),  # type: ignore[arg-type]
        (TypeError, lambda: either.remove_region(None)),  # type: ignore[arg-type]
        (TypeError, lambda: either.remove_region(0, 5)),  # type: ignore[call-arg]
        (TypeError, lambda: either.replace_region(LOW, "low")),  # type: ignore[arg-type]
    ]
    for error, change in refusals:
        with pytest.raises(error):
            change()
        assert either.snapshot() is before


def test_a_snapshot_is_the_same_object_until_a_change(space: AddressSpace) -> None:
    first = space.snapshot()
    assert space.snapshot() is first
    assert space.find_region(0) is first[0] is space["low"]
    second = space.insert_region(FS)
    assert space.snapshot() is second
    assert space.find_region(0) is second.find_region(0)
    assert (first.regions, first.generation) == ((LOW, HIGH), 0)
    assert first[0] is first.find_region(GIB - 1)


def test_a_snapshot_outlives_its_space(space: AddressSpace) -> None:
    space.map_memory()
    snapshot = space.snapshot()
    space.memory.close()
    del space
    assert snapshot.regions == (LOW, HIGH)
    assert AddressSpace.from_regions(snapshot, snapshot.layout).snapshot() == snapshot


def test_iteration_is_over_the_map_at_its_begin(space: AddressSpace) -> None:
    seen = []
    for region in space:
        seen.append(region)
        if FS not in space:
            space.insert_region(FS)
            space.remove_region("high")
    assert seen == [LOW, HIGH]
    assert list(space) == [LOW, FS]


def test_a_map_can_be_read_from_its_end(either: AddressSpace) -> None:
    assert list(reversed(either)) == list(reversed(either.snapshot())) == [HIGH, LOW]


def test_a_walk_may_change_the_space_and_sees_its_own_map(either: AddressSpace) -> None:
    seen = []

    def move(region: AddressSpaceRegion) -> None:
        seen.append(region)
        either.remove_region(region)
        either.insert_region(region.replace(base=region.base + 8 * GIB))

    either.walk_regions(move)
    assert seen == [LOW, HIGH]
    assert [region.base for region in either] == [8 * GIB, 12 * GIB]
    assert either.generation == 4


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, StopIteration, RegionOverlap])
def test_a_walk_ends_with_what_the_callback_raises(space: AddressSpace, error: type[BaseException]) -> None:
    raised, seen = error("stop"), []

    def stop(region: AddressSpaceRegion) -> None:
        seen.append(region)
        space.insert_region(FS)
        raise raised

    with pytest.raises(error) as caught:
        space.walk_regions(stop)
    assert caught.value is raised
    assert seen == [LOW]
    assert space.regions == (LOW, HIGH, FS)


def test_diff_is_from_the_current_map(space: AddressSpace) -> None:
    empty = AddressSpace(LAYOUT).snapshot()
    change = space.diff(empty)
    assert (change.before, change.after, change.removed) == (space.snapshot(), empty, (LOW, HIGH))
    assert change.before is space.snapshot()
    before = space.snapshot()
    assert before.diff(space.insert_region(FS)).added == (FS,)
    assert not space.diff(space.snapshot())


def test_a_space_prints_as_a_table(either: AddressSpace) -> None:
    state = "mapped" if either.is_mapped else "not mapped"
    assert repr(either) == f"AddressSpace(2 regions, 2 GiB RAM, {state}, generation 0)"
    assert str(either) == str(either.snapshot())
    start, end, size, kind, prot, backing, _, flags, name = str(either).splitlines()[1].split()
    assert (start, end, size, kind, prot) == ("0x0", "0x4000_0000", "1GiB", "ram", "rw-")
    assert (backing, flags, name) == ("shmem", "-", "low")


def test_a_live_space_is_no_value(space: AddressSpace) -> None:
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"pickle its snapshot\(\)"):
            attempt(space)
    again = pickle.loads(pickle.dumps(space.snapshot()))
    assert AddressSpace.from_regions(again.regions, again.layout) != space
    changed: Any = space
    with pytest.raises(AttributeError):
        changed.regions = ()


def test_wrong_types_are_refused(space: AddressSpace) -> None:
    wrong: Any = AddressSpace
    live: Any = space
    calls: list[Callable[[], object]] = [
        wrong,
        lambda: wrong(LAYOUT, []),
        lambda: wrong((1 << 46, 0, 1 << 45)),
        lambda: wrong.from_regions([5], LAYOUT),
        lambda: wrong.from_regions([], None),
        lambda: live.find_region("low"),
        lambda: live.walk_regions(5),
        lambda: live.wait_for_change("0"),
        lambda: live.wait_for_change(0, timeout="1"),
        lambda: live.remove_region("low", timeout="1"),
        lambda: live.transaction(0),
        lambda: live.transaction(if_generation="0"),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()


def test_from_regions_refuses_as_insert_does() -> None:
    with pytest.raises(RegionOverlap):
        AddressSpace.from_regions([LOW, ram(PAGE)], LAYOUT)
    with pytest.raises(LayoutViolation):
        AddressSpace.from_regions([ram(WINDOW)], LAYOUT)
    with pytest.raises(DuplicateName):
        AddressSpace.from_regions([LOW, ram(GIB, name="low")], LAYOUT)
    assert AddressSpace.from_regions(iter([HIGH, LOW]), LAYOUT).ranges("ram")[0] == AddressRange(0, GIB)


def test_ten_thousand_regions_are_a_plan() -> None:
    layout = AddressSpaceLayout(1 << 46, 0, 1 << 45)
    regions = [ram(number * 2 * PAGE, name=f"r{number}") for number in range(10_000)]
    space = AddressSpace.from_regions(regions, layout)
    assert len(space.gaps(high=20_000 * PAGE)) == 10_000
    assert space.find_region(9_999 * 2 * PAGE) == regions[-1]
    assert space.find_region(9_999 * 2 * PAGE - 1) is None


def later(change: Callable[[], object], seconds: float = 0.1) -> threading.Timer:
    timer = threading.Timer(seconds, change)
    timer.start()
    return timer


def test_wait_returns_at_once_when_the_space_has_moved_on(space: AddressSpace) -> None:
    newest = space.insert_region(FS)
    assert space.wait_for_change(0) is newest
    assert space.wait_for_change(0, timeout=0) is newest


@pytest.mark.parametrize("timeout", [0, 0.0, 0.02])
def test_wait_is_none_when_nothing_changes(space: AddressSpace, timeout: float) -> None:
    assert space.wait_for_change(0, timeout) is None
    assert space.wait_for_change(2**64 - 1, timeout=timeout) is None


@pytest.mark.parametrize("timeout", [None, 60, float("inf"), 10**400], ids=["None", "60", "inf", "10**400"])
def test_wait_gives_the_newest_map(space: AddressSpace, timeout: float | None) -> None:
    timer = later(lambda: space.insert_region(FS))
    newest = space.wait_for_change(0, timeout)
    timer.join()
    assert newest is space.snapshot()
    assert newest is not None
    assert (newest.generation, FS in newest) == (1, True)


def test_wait_lets_generations_pass_that_are_not_greater(space: AddressSpace) -> None:
    space.insert_region(FS)
    assert space.wait_for_change(1, timeout=0) is None
    timer = later(lambda: [space.remove_region("fs"), space.insert_region(FS)])
    newest = space.wait_for_change(2)
    timer.join()
    assert newest is not None
    assert newest.generation == 3


def test_mapping_wakes_nobody(space: AddressSpace) -> None:
    timer = later(space.map_memory, 0.01)
    assert space.wait_for_change(0, timeout=0.2) is None
    timer.join()
    assert space.is_mapped


@pytest.mark.parametrize("timeout", [-1, -0.1, float("nan"), -(10**400)], ids=["-1", "-0.1", "nan", "-10**400"])
def test_a_timeout_must_make_sense(space: AddressSpace, timeout: float) -> None:
    with pytest.raises(InvalidArgument, match="timeout"):
        space.wait_for_change(0, timeout)
    with pytest.raises(InvalidArgument, match="timeout"):
        space.remove_region(0, timeout=timeout)
    assert len(space) == 2


@pytest.mark.parametrize("generation", [-1, 2**64, True], ids=str)
def test_a_generation_is_a_number(space: AddressSpace, generation: int) -> None:
    with pytest.raises(InvalidAddressRange):
        space.wait_for_change(generation, 0)
    with pytest.raises(InvalidAddressRange):
        space.transaction(if_generation=generation)


def test_many_wait_for_one_change(space: AddressSpace) -> None:
    maps: list[AddressSpaceBase | None] = []
    threads = [threading.Thread(target=lambda: maps.append(space.wait_for_change(0))) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    newest = space.insert_region(FS)
    for thread in threads:
        thread.join()
    assert [each is newest for each in maps] == [True] * 8
