"""`find_free` and `reserve` against a bitmap, their three refusals, and reservations that others must respect."""

import contextlib
import pickle
from collections.abc import Callable
from itertools import groupby, pairwise
from typing import Any

import pytest
from dbs_address_space import (
    AddressSpace,
    AddressSpaceLayout,
    AddressSpaceRegion,
    AlignmentImpossible,
    Fragmented,
    InvalidAddressRange,
    InvalidArgument,
    Misaligned,
    NoSpace,
    RegionOverlap,
    Reservation,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from memory_helpers import ram

GIB = 1 << 30
CELLS = 64
"""The oracle's addresses: one cell is one byte of guest physical memory."""
SMALL = AddressSpaceLayout(2 * CELLS, 0, CELLS)


def fits(taken: list[bool], base: int, size: int, align: int, gap: int) -> bool:
    around = taken[max(base - gap, 0) : base + size + gap]
    return base % align == 0 and base + size <= len(taken) and not any(around)


def holes(taken: list[bool], gap: int) -> list[tuple[int, int]]:
    """The free runs that keep the gap: base and size."""
    free = [not any(taken[max(cell - gap, 0) : cell + gap + 1]) for cell in range(len(taken))]
    runs = [(is_free, list(cells)) for is_free, cells in groupby(range(len(taken)), key=free.__getitem__)]
    return [(cells[0], len(cells)) for is_free, cells in runs if is_free]


def oracle(taken: list[bool], size: int, align: int, gap: int, policy: str) -> int | type[NoSpace]:
    places = [base for base in range(len(taken)) if fits(taken, base, size, align, gap)]
    if not places:
        sizes = [length for _, length in holes(taken, gap)]
        if sum(sizes) < size:
            return NoSpace
        return Fragmented if max(sizes) < size else AlignmentImpossible
    if policy == "best":
        smallest = min(
            (length, low) for low, length in holes(taken, gap) if any(low <= base < low + length for base in places)
        )[1]
        return min(base for base in places if base >= smallest)
    return places[0] if policy == "first" else places[-1]


requests = st.tuples(
    st.integers(1, 24), st.sampled_from([1, 2, 8, 16]), st.integers(0, 3), st.sampled_from(["first", "last", "best"])
)


class AgainstBitmap(RuleBasedStateMachine):
    """Regions and reservations come and go; each place found is the oracle's, each refusal of its kind."""

    held = Bundle("held")
    plugged = Bundle("plugged")

    def __init__(self) -> None:
        super().__init__()
        self.space = AddressSpace(SMALL)
        self.taken = [False] * CELLS

    def mark(self, base: int, size: int, *, value: bool) -> None:
        self.taken[base : base + size] = [value] * size

    @rule(target=held, request=requests)
    def reserve(self, request: tuple[int, int, int, str]) -> Reservation | None:
        size, align, gap, policy = request
        expected = oracle(self.taken, *request)
        arguments: dict[str, Any] = {"align": align, "policy": policy, "guard_gap": gap}
        if isinstance(expected, type):
            with pytest.raises(expected) as raised:
                self.space.reserve(size, owner="x", **arguments)
            assert type(raised.value) is expected
            assert raised.value.free == sum(length for _, length in holes(self.taken, gap))
            return None
        assert self.space.find_free(size, **arguments) == expected
        reservation = self.space.reserve(size, owner="x", **arguments)
        assert (reservation.base, reservation.size) == (expected, size)
        self.mark(expected, size, value=True)
        return reservation

    @rule(target=held, base=st.integers(0, CELLS), size=st.integers(1, 16))
    def reserve_exactly(self, base: int, size: int) -> Reservation | None:
        if base + size > CELLS or any(self.taken[base : base + size]):
            with pytest.raises(RegionOverlap):
                self.space.reserve(size, owner="x", base=base, align=1)
            return None
        self.mark(base, size, value=True)
        return self.space.reserve(size, owner="x", base=base, align=1)

    @rule(reservation=consumes(held))
    def release(self, reservation: Reservation | None) -> None:
        if reservation is not None:
            reservation.release()
            reservation.release()
            self.mark(reservation.base, reservation.size, value=False)

    @rule(target=plugged, base=st.integers(0, CELLS - 1), size=st.integers(1, 8))
    def insert(self, base: int, size: int) -> int | None:
        if base + size > CELLS or any(self.taken[base : base + size]):
            with pytest.raises(InvalidAddressRange):
                self.space.insert_region(ram(base, size))
            return None
        self.space.insert_region(ram(base, size))
        self.mark(base, size, value=True)
        return base

    @rule(base=consumes(plugged))
    def remove(self, base: int | None) -> None:
        if base is not None:
            region = self.space[base]
            self.space.remove_region(base)
            self.mark(base, region.size, value=False)

    @invariant()
    def reservations_are_sorted_and_apart(self) -> None:
        held = self.space.reservations
        assert all(low.end <= high.base for low, high in pairwise(held))


TestAgainstBitmap = AgainstBitmap.TestCase
TestAgainstBitmap.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, CELLS), st.integers(0, CELLS), requests)
def test_bounds_are_kept(low: int, high: int, request: tuple[int, int, int, str]) -> None:
    size, align, gap, policy = request
    space = AddressSpace.from_regions([ram(20, 4), ram(40, 2)], SMALL)
    with contextlib.suppress(NoSpace):
        base = space.find_free(size, align=align, low=low, high=high, policy=policy, guard_gap=gap)
        assert low <= base
        assert base + size <= high
        assert all(base + size + gap <= region.base or base >= region.end + gap for region in space)


LAYOUT = AddressSpaceLayout(1 << 46, 0, 1 << 45, mmio_windows=[(3 * GIB, GIB)])


def test_a_place_is_where_the_layout_allows_such_a_region() -> None:
    space = AddressSpace.from_regions([ram(0, "3GiB")], LAYOUT)
    assert space.find_free("1GiB") == 4 * GIB
    assert space.find_free("4KiB", region_type="device") == 3 * GIB
    assert space.find_free("2GiB", region_type="dax") == 1 << 45
    assert space.find_free("2GiB", policy="last") == (1 << 45) - 2 * GIB
    assert space.find_free("4KiB", region_type="firmware", policy="last") == (1 << 46) - 4096


def test_refusals_have_the_numbers() -> None:
    layout = AddressSpaceLayout(1 << 40, 0, 4 * GIB)
    space = AddressSpace.from_regions([ram(GIB, GIB), ram(3 * GIB, "512MiB")], layout)
    with pytest.raises(NoSpace, match="2560 MiB are free in all") as nothing:
        space.find_free("3GiB")
    assert type(nothing.value) is NoSpace
    with pytest.raises(Fragmented, match="largest hole has 1 GiB") as fragmented:
        space.find_free("2GiB")
    with pytest.raises(AlignmentImpossible, match="multiple of 0x1_0000_0000"):
        space.find_free("1GiB", align="4GiB", low=GIB)
    error = pickle.loads(pickle.dumps(fragmented.value))
    assert (error.size, error.free, error.largest, error.align) == (2 * GIB, 5 * GIB // 2, GIB, 4096)


BAD: dict[str, tuple[Callable[[AddressSpace], object], type[Exception]]] = {
    "size 0": (lambda space: space.find_free(0), InvalidAddressRange),
    "alignment 3": (lambda space: space.find_free("1GiB", align=3), InvalidAddressRange),
    "alignment 0": (lambda space: space.find_free("1GiB", align=0), InvalidAddressRange),
    "policy": (lambda space: space.find_free("1GiB", policy="worst"), InvalidArgument),
    "size above 2^64": (lambda space: space.find_free(1 << 64), InvalidAddressRange),
    "empty bounds": (lambda space: space.find_free("1GiB", low=GIB, high=GIB), NoSpace),
    "guard gap": (lambda space: space.find_free("1GiB", guard_gap=(1 << 64) - 1), NoSpace),
    "an owner without a name": (lambda space: space.reserve(4096, owner=""), InvalidArgument),
    "an owner on two lines": (lambda space: space.reserve(4096, owner="a\nb"), InvalidArgument),
    "misaligned base": (lambda space: space.reserve(4096, owner="x", base=1), Misaligned),
    "end above 2^64": (lambda space: space.reserve(4096, owner="x", base=(1 << 64) - 4096), InvalidAddressRange),
    "not in a room": (lambda space: space.reserve(4096, owner="x", base=3 * GIB), RegionOverlap),
    "taken": (lambda space: space.reserve(4096, owner="x", base=0), RegionOverlap),
    "gap taken": (lambda space: space.reserve(4096, owner="x", base=8192, guard_gap=4097), RegionOverlap),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests(name: str) -> None:
    call, error = BAD[name]
    space = AddressSpace.from_regions([ram(0, 4096)], LAYOUT)
    with pytest.raises(error):
        call(space)
    assert space.reservations == ()


def test_only_the_holder_can_insert() -> None:
    space = AddressSpace(LAYOUT)
    space.map_memory()
    room = space.reserve("1MiB", owner="dimm0", base=GIB)
    inside = ram(GIB, 4096, name="a")
    with pytest.raises(RegionOverlap, match="reserved for 'dimm0'") as raised:
        space.insert_region(inside)
    assert raised.value.region == inside
    with pytest.raises(RegionOverlap, match="dimm0"):
        space.reserve("1MiB", owner="other", base=GIB + 4096)
    change = space.transaction()
    change.__enter__().insert_region(inside)
    with pytest.raises(RegionOverlap, match="dimm0"):
        change.__exit__(None, None, None)
    with pytest.raises(InvalidAddressRange, match="reaches out"):
        room.insert_region(ram(GIB, "2MiB"))
    assert len(space) == 0
    assert inside in room.insert_region(inside)
    assert space.find_free("4KiB", low=GIB) == GIB + (1 << 20)
    room.release()
    assert not room.is_active
    assert space.find_free("4KiB", low=GIB) == GIB + 4096
    space.insert_region(ram(GIB + 4096, 4096))


def test_a_reservation_ends_with_its_block() -> None:
    space = AddressSpace(LAYOUT)
    with space.reserve("1GiB", owner="pci", region_type="device") as room:
        assert list(space.reservations) == [room]
        assert repr(room) == "Reservation([0xc000_0000, 0x1_0000_0000) 1 GiB, owner='pci')"
    assert space.reservations == ()
    space.insert_region(AddressSpaceRegion.create_device_region(3 * GIB, 4096))
