"""Threads that change one space while others read it: nothing is lost, nothing overlaps, and no one sees half a change."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from dbs_address_space import (
    AddressSpace,
    AddressSpaceBase,
    AddressSpaceError,
    AddressSpaceRegion,
    DuplicateName,
    GenerationChanged,
    RegionOverlap,
    UnmappedAddress,
)
from memory_helpers import LAYOUT, PAGE, ram

WRITERS, READERS, ROUNDS = 8, 3, 600
SLOT = 4 * PAGE


pytestmark = pytest.mark.usefixtures("constant_switches")


@pytest.fixture(params=[False, True], ids=["unmapped", "mapped"])
def space(request: pytest.FixtureRequest) -> Iterator[AddressSpace]:
    space = AddressSpace(LAYOUT)
    if request.param:
        with space.map_memory():
            yield space
    else:
        yield space


@contextmanager
def threads(count: int, body: Callable[[int], object]) -> Iterator[None]:
    """Runs `body` in threads beside the block, and raises what they raise."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            body(number)
        except BaseException as error:  # noqa: BLE001  raised again below
            errors.append(error)

    started = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in started:
        thread.start()
    try:
        yield
    finally:
        for thread in started:
            thread.join()
    if errors:
        raise errors[0]


def check(base: AddressSpaceBase) -> None:
    """The invariants of every snapshot."""
    for low, high in zip(base.regions, base.regions[1:], strict=False):
        assert low.end <= high.base
    names = [region.name for region in base if region.name]
    assert len(set(names)) == len(names)
    assert base.ram_size == sum(region.size for region in base)


@contextmanager
def readers(space: AddressSpace, look: Callable[[AddressSpaceBase], object] = check) -> Iterator[None]:
    """Threads that look at one snapshot after the other, each as new as the last or newer."""
    done, begun = threading.Event(), threading.Semaphore(0)

    def read(_: int) -> None:
        last = 0
        is_last = False
        while not is_last:
            is_last = done.is_set()
            base = space.snapshot()
            assert base.generation >= last
            last = base.generation
            look(base)
            begun.release()
        assert last == space.generation

    with threads(READERS, read):
        try:
            for _ in range(READERS):
                assert begun.acquire(timeout=60)
            yield
        finally:
            done.set()


def test_every_accepted_insert_is_there_unless_it_was_removed(space: AddressSpace) -> None:
    mine: list[set[AddressSpaceRegion]] = [set() for _ in range(WRITERS)]

    def write(number: int) -> None:
        chance = random.Random(number)
        for _ in range(ROUNDS):
            region = ram((chance.randrange(8) * WRITERS + number) * SLOT, chance.choice([PAGE, SLOT]))
            if region in mine[number]:
                assert region not in space.remove_region(region)
                mine[number].remove(region)
            elif any(region.intersect_with(other) for other in mine[number]):
                with pytest.raises(RegionOverlap):
                    space.insert_region(region)
            else:
                assert region in space.insert_region(region)
                mine[number].add(region)

    with readers(space), threads(WRITERS, write):
        pass
    assert set(space) == set().union(*mine)
    assert len(set(space)) > WRITERS
    check(space.snapshot())


def test_of_overlapping_inserts_one_is_accepted(space: AddressSpace) -> None:
    """Accepted insertions less removals are the regions that are there, whichever thread wins."""
    balance = [Counter[int]() for _ in range(WRITERS)]

    def write(number: int) -> None:
        chance = random.Random(number)
        for _ in range(ROUNDS):
            slot = chance.randrange(4)
            try:
                if chance.random() < 0.5:
                    space.insert_region(ram(slot * SLOT, SLOT, name=f"slot {slot}"))
                    balance[number][slot] += 1
                else:
                    space.remove_region(f"slot {slot}")
                    balance[number][slot] -= 1
            except (RegionOverlap, DuplicateName, UnmappedAddress):
                continue

    with readers(space), threads(WRITERS, write):
        pass
    for slot in range(4):
        assert sum(each[slot] for each in balance) == (f"slot {slot}" in space)
    changes = sum(abs(count) for each in balance for count in each.values())
    assert space.generation >= changes


def test_no_reader_sees_half_a_transaction(space: AddressSpace) -> None:
    """Each transaction plugs or unplugs two regions at once: a snapshot has both or none."""
    far = 1 << 32

    def both_or_none(base: AddressSpaceBase) -> None:
        low = {region.base for region in base if region.base < far}
        assert {region.base - far for region in base if region.base >= far} == low

    def write(number: int) -> None:
        chance = random.Random(number)
        for _ in range(ROUNDS):
            addr = chance.randrange(6) * SLOT
            try:
                with space.transaction() as change:
                    if addr in space:
                        change.remove_region(addr)
                        change.remove_region(addr + far)
                    else:
                        change.insert_region(ram(addr))
                        both_or_none(space.snapshot())
                        change.insert_region(ram(addr + far))
                if change.published:
                    both_or_none(change.published)
            except (RegionOverlap, UnmappedAddress):
                continue

    with readers(space, both_or_none), threads(WRITERS, write):
        pass
    both_or_none(space.snapshot())
    assert space.generation > WRITERS


def test_if_generation_lets_one_of_many_through(space: AddressSpace) -> None:
    wins = [0] * WRITERS

    def write(number: int) -> None:
        while wins[number] < 10:
            base = space.snapshot()
            try:
                with space.transaction(if_generation=base.generation) as change:
                    change.insert_region(ram(base.generation * PAGE))
            except GenerationChanged:
                continue
            assert change.published is not None
            assert change.published.generation == base.generation + 1
            wins[number] += 1

    with threads(WRITERS, write):
        pass
    assert space.generation == len(space) == 10 * WRITERS


def test_a_removal_by_base_is_not_failed_by_a_rename(space: AddressSpace) -> None:
    """The region at a base may change its name between the call and the turn; it is there all the time."""
    done = threading.Event()
    space.insert_region(ram(0, name="0"))

    def rename(_: int) -> None:
        round_ = 0
        while not done.is_set():
            round_ += 1
            try:
                space.replace_region(0, ram(0, name=str(round_)))
            except UnmappedAddress:
                continue

    with threads(2, rename):
        try:
            for _ in range(ROUNDS):
                assert 0 not in space.remove_region(0)
                space.insert_region(ram(0))
        finally:
            done.set()


def test_a_follower_misses_no_last_change(space: AddressSpace) -> None:
    changes = WRITERS * ROUNDS

    def follow(_: int) -> None:
        generation = 0
        while generation < changes:
            newest = space.wait_for_change(generation)
            assert newest is not None
            assert newest.generation > generation
            generation = newest.generation
        assert newest is space.snapshot()

    def write(number: int) -> None:
        for _ in range(ROUNDS // 2):
            space.insert_region(ram(number * SLOT))
            space.remove_region(number * SLOT)

    with threads(READERS, follow), threads(WRITERS, write):
        pass
    assert space.generation == changes


def test_look_ups_are_right_while_the_space_changes(space: AddressSpace) -> None:
    """One region stays; whatever comes and goes around it, it is found, and its neighbours are found as they were put there."""
    stays = ram(100 * SLOT, SLOT, name="stays")
    space.insert_region(stays)
    done = threading.Event()

    def look(_: int) -> None:
        while not done.is_set():
            assert space.find_region(stays.last_addr) == stays
            assert space["stays"] == stays
            assert "stays" in space
            for addr in (99 * SLOT, 101 * SLOT, 0):
                found = space.find_region(addr)
                assert found is None or found.base == addr

    def write(number: int) -> None:
        for round_ in range(ROUNDS):
            addr = (99, 101, 0)[number] * SLOT
            try:
                space.insert_region(ram(addr, PAGE * (1 + round_ % 4)))
            finally:
                space.remove_region(addr)

    with threads(READERS, look):
        try:
            with threads(3, write):
                pass
        finally:
            done.set()
    assert space.regions == (stays,)


def test_mapping_races_with_changes() -> None:
    """`map_memory` and `close` beside inserts: every region of a mapped space has its memory."""
    space = AddressSpace(LAYOUT)

    def write(number: int) -> None:
        for _ in range(ROUNDS // 4):
            space.insert_region(ram(number * SLOT))
            memory = space.map_memory()
            try:
                memory.write_u64(number * SLOT, number)
                assert memory.read_u64(number * SLOT) == number
                memory.close()
            except AddressSpaceError as error:
                assert "closed" in str(error)  # noqa: PT017  another thread was faster
            space.remove_region(number * SLOT)

    with threads(4, write):
        pass
    assert len(space) == 0
    with space.map_memory() as memory:
        assert memory.regions == ()
