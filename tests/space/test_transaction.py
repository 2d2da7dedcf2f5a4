"""`Transaction`: checked at once on a private map, published once or not at all, and no lock while it is open."""

import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
from dbs_address_space import (
    AddressSpace,
    AddressSpaceRegion,
    BackingError,
    DuplicateName,
    GenerationChanged,
    InvalidAddressRange,
    LayoutViolation,
    Misaligned,
    RegionBusy,
    RegionOverlap,
    Transaction,
    TransactionClosed,
    UnmappedAddress,
)
from interrupts import interrupted
from kernel_view import descriptors, maps_of
from memory_helpers import GIB, LAYOUT, MIB, PAGE, WINDOW, ram

LOW, HIGH = ram(0, MIB, name="low"), ram(4 * GIB, MIB, name="high")
DIMM = ram(8 * GIB, MIB, name="dimm")


@pytest.fixture
def space() -> AddressSpace:
    return AddressSpace.from_regions([LOW, HIGH], LAYOUT)


def in_another_thread(change: Any, *arguments: Any) -> None:
    thread = threading.Thread(target=change, args=arguments)
    thread.start()
    thread.join()


def run(change: Transaction, *steps: Callable[[Transaction], object]) -> None:
    with change:
        for step in steps:
            step(change)


def test_many_changes_are_one_publication(either: AddressSpace) -> None:
    renamed = HIGH.replace(name="renamed")
    with either.transaction() as change:
        change.insert_region(DIMM)
        change.remove_region("low")
        change.replace_region(HIGH, renamed)
        assert change.published is None
        assert (either.generation, either.regions) == (0, (LOW, HIGH))
    assert (either.generation, either.regions) == (1, (renamed, DIMM))
    assert change.published is either.snapshot()


def test_each_verb_returns_the_staged_map(space: AddressSpace) -> None:
    with space.transaction() as change:
        staged = change.insert_region(DIMM)
        assert (staged.regions, staged.generation) == ((LOW, HIGH, DIMM), 0)
        assert change.remove_region(0).regions == (HIGH, DIMM)
        assert change.replace_region("high", HIGH.replace(name="h"))["h"].base == HIGH.base
        assert staged.regions == (LOW, HIGH, DIMM)
        assert space.snapshot().regions == (LOW, HIGH)


def test_an_error_is_at_the_line_that_caused_it(space: AddressSpace) -> None:
    """A refused verb stages nothing: what was staged before can still be published."""
    with space.transaction() as change:
        change.insert_region(DIMM)
        with pytest.raises(RegionOverlap):
            change.insert_region(DIMM.replace(name=None))
        with pytest.raises(DuplicateName):
            change.insert_region(ram(12 * GIB, name="dimm"))
        with pytest.raises(LayoutViolation):
            change.insert_region(ram(WINDOW))
        with pytest.raises(UnmappedAddress):
            change.remove_region(PAGE)
        with pytest.raises(UnmappedAddress):
            change.replace_region("nobody", DIMM)
        with pytest.raises(InvalidAddressRange):
            change.replace_region(DIMM, DIMM.replace(size=PAGE))
        with pytest.raises(TypeError):
            change.insert_region("dimm")  # type: ignore[arg-type]
    assert change.published is not None
    assert change.published.regions == (LOW, HIGH, DIMM)


def test_an_exception_in_the_body_publishes_nothing(either: AddressSpace) -> None:
    before, open_before = either.snapshot(), descriptors()
    error, change = KeyError("enough"), either.transaction()

    def fail(_: Transaction) -> None:
        raise error

    with pytest.raises(KeyError) as raised:
        run(change, lambda change: change.insert_region(DIMM), lambda change: change.remove_region("low"), fail)
    assert raised.value is error
    assert either.snapshot() is before
    assert change.published is None
    assert descriptors() == open_before


def test_an_empty_body_publishes_nothing(space: AddressSpace) -> None:
    before = space.snapshot()
    with space.transaction() as change:
        pass
    assert space.snapshot() is before
    assert change.published is None


def test_changes_that_cancel_out_are_a_publication(space: AddressSpace) -> None:
    before = space.snapshot()
    with space.transaction() as change:
        change.insert_region(DIMM)
        change.remove_region(DIMM)
    assert space.snapshot() == before
    assert space.generation == 1


def test_a_region_can_move_where_it_overlaps_itself(either: AddressSpace) -> None:
    moved = LOW.replace(base=PAGE)
    with pytest.raises(RegionOverlap):
        either.insert_region(moved.replace(name=None))
    with either.transaction() as change:
        change.remove_region(LOW)
        change.insert_region(moved)
    assert either.regions == (moved, HIGH)


def test_memory_put_back_is_new_and_memory_replaced_is_kept(space: AddressSpace) -> None:
    memory = space.map_memory()
    memory.write(0, b"old")
    memory.write(HIGH.base, b"old")
    with space.transaction() as change:
        change.remove_region(LOW)
        change.insert_region(LOW)
        change.replace_region(HIGH, HIGH.replace(name="h"))
        change.replace_region("h", HIGH.replace(prot_flags="r--"))
    assert memory.read(0, 3) == bytes(3)
    assert memory.read(HIGH.base, 3) == b"old"
    assert str(space.prot_flags(HIGH.base)) == "r--"


def test_it_is_replayed_on_the_newest_map(either: AddressSpace) -> None:
    with either.transaction() as change:
        change.insert_region(DIMM)
        in_another_thread(either.insert_region, ram(16 * GIB, name="other"))
        assert [region.name for region in change.remove_region("low")] == ["high", "dimm"]
    assert [region.name for region in either] == ["high", "dimm", "other"]
    assert change.published is not None
    assert change.published.generation == 2


def test_a_conflict_at_the_exit_changes_nothing(either: AddressSpace) -> None:
    change = either.transaction()
    with pytest.raises(RegionOverlap) as refused:
        run(
            change,
            lambda change: change.remove_region("low"),
            lambda change: change.insert_region(DIMM),
            lambda _: in_another_thread(either.insert_region, ram(8 * GIB + PAGE, name="faster")),
        )
    assert refused.value.conflict == either["faster"]
    assert [region.name for region in either] == ["low", "high", "faster"]
    assert either.generation == 1
    assert change.published is None
    assert not maps_of("/memfd:dimm ")


def test_what_was_staged_means_the_region_of_its_time(space: AddressSpace) -> None:
    """A removal by base must not hit a region that others put there meanwhile."""
    with pytest.raises(UnmappedAddress, match="differs"):
        run(
            space.transaction(),
            lambda change: change.remove_region(0),
            lambda _: space.remove_region(0),
            lambda _: space.insert_region(ram(0, name="newer")),
        )
    assert space["newer"].base == 0


def test_if_generation_wants_no_change_since(space: AddressSpace) -> None:
    with space.transaction(if_generation=0) as change:
        change.insert_region(DIMM)
    with pytest.raises(GenerationChanged, match="at generation 1, not at 0"), space.transaction(if_generation=0):
        pytest.fail("the body must not run")
    with pytest.raises(GenerationChanged):
        run(
            space.transaction(if_generation=1),
            lambda change: change.remove_region(DIMM),
            lambda _: space.insert_region(ram(16 * GIB)),
        )
    assert DIMM in space
    assert space.generation == 2


def test_no_lock_is_held_while_it_is_open(space: AddressSpace) -> None:
    with space.transaction() as outer:
        outer.insert_region(DIMM)
        with space.transaction() as inner:
            inner.insert_region(ram(16 * GIB))
        space.remove_region("low")
        in_another_thread(space.map_memory)
    assert [region.base for region in space] == [HIGH.base, DIMM.base, 16 * GIB]
    assert space.memory.read(DIMM.base, 1) == b"\0"


def test_a_lease_vetoes_the_whole(space: AddressSpace) -> None:
    memory = space.map_memory()
    before = space.snapshot()
    with memory.view(HIGH.base, 1), pytest.raises(RegionBusy) as refused:
        run(
            space.transaction(),
            lambda change: change.insert_region(DIMM),
            lambda change: change.remove_region("low"),
            lambda change: change.remove_region("high"),
        )
    assert refused.value.region == HIGH
    assert space.snapshot() is before
    assert not maps_of("/memfd:dimm ")
    memory.view(0, 1).release()


@pytest.mark.parametrize(
    ("region", "error"),
    [
        (ram(8 * GIB + 1, mem_type="hugeshmem", page_size="2MiB"), Misaligned),
        (ram(8 * GIB, perm_flags=0x22 | 0x10), BackingError),
    ],
    ids=["misaligned", "refused by mmap"],
)
def test_memory_that_cannot_be_had_changes_nothing(
    space: AddressSpace, region: AddressSpaceRegion, error: type[Exception]
) -> None:
    space.map_memory()
    before = space.snapshot()
    with pytest.raises(error):
        run(
            space.transaction(),
            lambda change: change.insert_region(ram(16 * GIB, name="first")),
            lambda change: change.remove_region("low"),
            lambda change: change.insert_region(region),
        )
    assert space.snapshot() is before
    assert not maps_of("/memfd:first ")


def test_it_is_entered_once(space: AddressSpace) -> None:
    change = space.transaction()
    assert repr(change) == "Transaction(not entered)"
    for verb in (change.insert_region, change.remove_region):
        with pytest.raises(TransactionClosed, match="use it in a with statement"):
            verb(DIMM)
    with change:
        assert repr(change) == "Transaction(open)"
        with pytest.raises(TransactionClosed, match="entered once"):
            change.__enter__()
        change.insert_region(DIMM)
    assert repr(change) == "Transaction(published)"
    with pytest.raises(TransactionClosed, match="is over"):
        change.remove_region(DIMM)
    with pytest.raises(TransactionClosed, match="entered once"), change:
        pass
    with space.transaction() as empty:
        pass
    assert repr(empty) == "Transaction(closed, nothing published)"
    assert change.published is space.snapshot()


def test_a_transaction_is_no_value(space: AddressSpace) -> None:
    with pytest.raises(TypeError):
        Transaction()
    with pytest.raises(TypeError):
        pickle.dumps(space.transaction())


def test_threads_may_share_one(space: AddressSpace) -> None:
    with space.transaction() as change:
        threads = [
            threading.Thread(target=lambda base=base: change.insert_region(ram(base)))
            for base in range(16 * GIB, 32 * GIB, GIB)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(space) == 18
    assert space.generation == 1


def test_ctrl_c_ends_a_replay_of_many_operations(space: AddressSpace) -> None:
    """They are done again when the map has changed meanwhile."""
    transaction = space.transaction().__enter__()
    for index in range(20_000):
        transaction.insert_region(ram(16 * GIB + index * PAGE))
    in_another_thread(space.insert_region, DIMM)
    with interrupted(0.001):
        transaction.__exit__(None, None, None)
    assert list(space) == [LOW, HIGH, DIMM]


@pytest.mark.parametrize("meanwhile", [None, DIMM])
def test_bytes_that_were_let_go_in_the_body_are_not_published(
    space: AddressSpace, meanwhile: AddressSpaceRegion | None
) -> None:
    space.map_memory()
    part = space.memory.part(0, PAGE)
    with pytest.raises(UnmappedAddress, match="closed"), space.transaction() as transaction:
        transaction.insert_region(part.region(16 * GIB))
        transaction.remove_region("low")
        part.close()
        if meanwhile:
            in_another_thread(space.insert_region, meanwhile)
    assert "low" in space
