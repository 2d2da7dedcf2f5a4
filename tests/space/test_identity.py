"""The region object that was inserted is the one that is found and shown; an equal one is another, one put back is new memory."""

import gc
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress

import pytest
from dbs_address_space import (
    AddressSpace,
    AddressSpaceBase,
    AddressSpaceBuilder,
    AddressSpaceChange,
    AddressSpaceRegion,
    ClientError,
    RegionBusy,
    RegionOverlap,
    UnmappedAddress,
)
from memory_helpers import LAYOUT, PAGE, mapped, ram

Insert = Callable[[AddressSpaceRegion], AddressSpace | AddressSpaceBase]


def copy_of(region: AddressSpaceRegion) -> AddressSpaceRegion:
    """An equal region, and another object."""
    other = region.replace()
    assert other == region
    assert other is not region
    return other


def by_transaction(region: AddressSpaceRegion) -> AddressSpace:
    space = AddressSpace(LAYOUT)
    with space.transaction() as change:
        staged = change.insert_region(region)
        assert staged.find_region(region.base) is region
    assert change.published is not None
    assert change.published[region.base] is region
    return space


def by_replacement(region: AddressSpaceRegion) -> AddressSpace:
    space = AddressSpace.from_regions([region.replace(name="before")], LAYOUT)
    space.replace_region("before", region)
    return space


def by_reservation(region: AddressSpaceRegion) -> AddressSpace:
    space = AddressSpace(LAYOUT)
    space.reserve(PAGE, owner="test", base=region.base).insert_region(region)
    return space


EMPTY = AddressSpaceBase.from_regions([], LAYOUT)
INSERTIONS: dict[str, Insert] = {
    "space.insert_region": lambda region: AddressSpace(LAYOUT).insert_region(region),
    "space.from_regions": lambda region: AddressSpace.from_regions([region], LAYOUT),
    "transaction": by_transaction,
    "replace_region": by_replacement,
    "reservation": by_reservation,
    "base.from_regions": lambda region: AddressSpaceBase.from_regions((region,), LAYOUT),
    "base.insert_region": EMPTY.insert_region,
    "base.replace_region": lambda region: EMPTY.insert_region(region.replace(name="b")).replace_region("b", region),
}


@pytest.mark.parametrize("insert", INSERTIONS.values(), ids=INSERTIONS)
def test_the_object_inserted_is_the_object_found(insert: Insert) -> None:
    region = ram(4 * PAGE, name="region")
    found = insert(region)
    assert found.find_region(4 * PAGE + 5) is region
    assert found[4 * PAGE] is found["region"] is found.regions[0] is next(iter(found)) is region
    assert found.overlapping(0, 8 * PAGE)[0] is region


def test_it_stays_the_object_through_the_changes_of_others() -> None:
    region = ram(0)
    space = AddressSpace(LAYOUT)
    bases = [space.insert_region(other) for other in (region, *(ram(page * PAGE) for page in range(1, 5)))]
    space.map_memory()
    bases += [space.remove_region(2 * PAGE), space.remove_region(copy_of(region))]
    assert all(base.find_region(0) is region for base in bases[:-1])
    assert bases[-1].find_region(0) is None


def test_everything_that_shows_a_region_shows_that_object() -> None:
    region, seen = ram(0, name="region"), []

    class Client:
        def prepare(self, change: AddressSpaceChange) -> None:
            seen.extend([*change.added, *change.removed, *change.after])

        def commit(self, change: AddressSpaceChange) -> None: ...

        def rollback(self, change: AddressSpaceChange) -> None: ...

    space = AddressSpace(LAYOUT)
    memory = space.map_memory()
    space.subscribe(Client())
    space.insert_region(region)
    seen += [memory.mapping(0).region, memory.regions[0], space.request_unplug(0).region]
    with pytest.raises(RegionOverlap) as overlap:
        space.insert_region(ram(0))
    with pytest.raises(RegionBusy) as busy, memory.view(0, 1):
        space.remove_region(0)
    with pytest.raises(UnmappedAddress) as inside:
        space.remove_region(1)
    seen += [overlap.value.conflict, busy.value.region, inside.value.region]
    seen += space.diff(space.snapshot().remove_region(0)).removed
    assert len(seen) == 9
    assert all(shown is region for shown in seen)


def test_the_regions_of_a_plan_are_those_of_its_space() -> None:
    plan = AddressSpaceBuilder(numa_regions=["4MiB", "2MiB"]).plan()
    regions = plan.regions
    assert plan.regions[0] is regions[0]
    assert all(one is other for one, other in zip(plan.build(), regions, strict=True))


def test_an_equal_region_is_another_object() -> None:
    region = ram(0)
    other = copy_of(region)
    one, two = AddressSpace.from_regions([region], LAYOUT), AddressSpace.from_regions([other], LAYOUT)
    assert (one[0] is region, two[0] is other, one[0] == two[0]) == (True, True, True)
    assert other in one
    old = one.snapshot()
    one.remove_region(other)
    one.insert_region(other)
    assert one[0] is other
    assert old[0] is region
    one.replace_region(other, region)
    assert one[0] is region


def test_one_object_may_be_in_many_spaces() -> None:
    region = ram(0)
    spaces = [AddressSpace.from_regions([region], LAYOUT) for _ in range(3)]
    memories = [space.map_memory() for space in spaces]
    for number, memory in enumerate(memories):
        memory.write_u8(0, number)
    spaces[1].remove_region(region)
    assert [memory.read_u8(0) for memory in (memories[0], memories[2])] == [0, 2]
    assert spaces[0][0] is spaces[2][0] is region
    assert 0 not in spaces[1]


def test_the_same_object_put_back_is_new_memory() -> None:
    region = ram(0)
    space, memory = mapped(region)
    memory.write(0, b"old")
    with space.transaction() as change:
        change.remove_region(region)
        change.insert_region(region)
    assert memory.read(0, 3) == bytes(3)
    assert space[0] is memory.mapping(0).region is region


class Witness:
    """Notes where the removed region's memory is, and where that of the added one and of its equals."""

    def __init__(self) -> None:
        self.seen: dict[str, list[int]] = {}

    def _note(self, phase: str, change: AddressSpaceChange) -> None:
        if change.removed:
            regions = (*change.removed, *change.added, copy_of(change.added[0]))
            self.seen[phase] = [change.mapping(region).host_address for region in regions]

    def prepare(self, change: AddressSpaceChange) -> None:
        self._note("prepare", change)

    def commit(self, change: AddressSpaceChange) -> None:
        self._note("commit", change)

    def rollback(self, change: AddressSpaceChange) -> None:
        self._note("rollback", change)


class Refusing(Witness):
    def prepare(self, change: AddressSpaceChange) -> None:
        if change.removed:
            raise ValueError("not this")


@pytest.mark.parametrize(("other", "outcome"), [(Witness(), "commit"), (Refusing(), "rollback")])
def test_a_client_tells_the_memory_put_back_from_the_old(other: Witness, outcome: str) -> None:
    """It may have to undo what it did with the old one, when another client refuses."""
    region, witness = ram(0), Witness()
    space, memory = mapped(region)
    old = memory.mapping(0).host_address
    space.subscribe(witness)
    space.subscribe(other)
    with suppress(ClientError), space.transaction() as change:
        change.remove_region(0)
        change.insert_region(region)
    assert space[0] is region
    assert (memory.mapping(0).host_address == old) == (outcome == "rollback")
    assert witness.seen.keys() == {"prepare", outcome}
    for was, *now in witness.seen.values():
        assert was == old
        assert old not in now
        assert len(set(now)) == 1


def test_a_map_keeps_no_object_alive_that_nobody_asked_it_for() -> None:
    region = ram(0, name="kept by nobody")
    seen = weakref.ref(region)
    space = AddressSpace(LAYOUT)
    space.insert_region(region)
    del region
    gc.collect()
    assert seen() is None
    assert space[0].name == "kept by nobody"
    assert space[0] is space.find_region(0) is space.insert_region(ram(PAGE))[0]


def test_a_region_that_is_gone_is_no_other_that_came_to_its_address() -> None:
    """Objects are known by an address of theirs, which a later one may get."""
    space = AddressSpace(LAYOUT)
    for number in range(2_000):
        region = ram(0, name=str(number))
        assert space.insert_region(region)[0] is region
        space.remove_region(0)
        del region
        assert space.insert_region(ram(0, name=f"next {number}"))[0].name == f"next {number}"
        space.remove_region(0)


def test_threads_find_the_objects_that_they_inserted() -> None:
    space, failures = AddressSpace(LAYOUT), []

    def plug(first: int) -> None:
        for number in range(200):
            region = ram((first * 1_000 + number) * PAGE)
            base = space.insert_region(region)
            if base.find_region(region.base) is not region or space.find_region(region.base) is not region:
                failures.append(region)
            if number % 2:
                space.remove_region(region)

    threads = [threading.Thread(target=plug, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(space) == 400
