"""Checkpoints: whoever wrote, and whatever became of the map, memory is again what it was, in place."""

import ctypes
import gc
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import in_child
from dbs_address_space import (
    AddressSpace,
    AddressSpaceBuilder,
    AddressSpaceRegion,
    Checkpoint,
    CheckpointClosed,
    ClientError,
    DimmSlots,
    DirtyPages,
    ForkedProcess,
    GuestMemory,
    Hotplug,
    InvalidArgument,
    MemoryFault,
    NotMapped,
    RegionBusy,
    RegionOverlap,
    ResetStats,
    Unsupported,
)
from kernel_view import descriptors, smaps, status
from memory_helpers import MIB, PAGE, blocks, evict, kinds, make_file, mapped, numbered, ram

SIZE = 64 * PAGE
HIGH = 1 << 32
QUIET = 8
"""Resets without a difference after which a page is protected again."""


KINDS = [
    *("memfd", "anonymous", "shared", "shared file", "private file", "unaligned file", "buffer", "odd buffer"),
    *("read-only", "untouchable"),
]


def by_pointer(memory: GuestMemory, addr: int) -> None:
    ctypes.memset(memory.host_address(addr), 0x5A, 1)


def by_numpy(memory: GuestMemory, addr: int) -> None:
    memory.array(addr, (1,), "u1", unguarded=True)[0] ^= 1


WRITERS: dict[str, Callable[[GuestMemory, int], object]] = {
    "write": lambda memory, addr: memory.write(addr, b"x"),
    "fill": lambda memory, addr: memory.fill(addr, 3 * PAGE // 2, 7),
    "pointer": by_pointer,
    "NumPy": by_numpy,
    "zeroes": lambda memory, addr: memory.fill(addr // PAGE * PAGE, PAGE, 0),
}


def contents(space: AddressSpace) -> dict[int, bytes]:
    """All bytes of memory that can be read, by the region's base; of the others, those behind the protection."""

    def of(region: AddressSpaceRegion) -> bytes:
        if region.prot_flags:
            return space.memory.read(region.base, region.size)
        with space.transaction() as change:
            change.replace_region(region, region.replace(prot_flags="r--"))
        found = space.memory.read(region.base, region.size)
        with space.transaction() as change:
            change.replace_region(region.base, region)
        return found

    return {region.base: of(region) for region in space.regions if region.region_type.value == "ram"}


@pytest.fixture(params=KINDS)
def space(request: pytest.FixtureRequest, tmp_path: Path) -> AddressSpace:
    space, memory = mapped(kinds(tmp_path, SIZE)[request.param])
    memory.write(0, numbered(SIZE // 2), force=True)
    return space


@pytest.mark.parametrize("mode", ["auto", "compare"])
def test_what_anyone_wrote_is_put_back(space: AddressSpace, mode: Any) -> None:
    memory, before = space.memory, contents(space)
    is_writable = "w" in str(space.regions[0])
    with memory.checkpoint(mode=mode) as point:
        assert (mode == "auto" and "pagemap" in point.mode) == (point.mode == "pagemap")
        for _ in range(3):
            assert point.restore() == 0
            written = 0
            for index, write in enumerate(WRITERS.values() if is_writable else ()):
                write(memory, (index * 11 + 2) * PAGE + 8)
                written += 1
            memory.write(5 * PAGE, b"forced", force=True)
            assert point.dirty() == point.verify() - DirtyPages(sources=(point.mode,)) or point.dirty().count > written
            assert point.dirty().count == point.verify().count > written
            assert point.restore() > written
            assert contents(space) == before
            assert not point.verify()
            assert not point.dirty()


@pytest.mark.parametrize("kind", ["memfd", "anonymous", "shared", "sparse file", "private file"])
def test_what_the_kernel_evicted_is_put_back(kind: str, tmp_path: Path) -> None:
    memory = mapped(kinds(tmp_path, SIZE)[kind])[1]
    memory.write(0, numbered(SIZE // 2))
    evict(memory, 0, SIZE)
    with memory.checkpoint() as outer:
        assert outer.size == SIZE // 2
        before = memory.read(0, SIZE)
        memory.write_u8(6 * PAGE, 9)
        evict(memory, 0, SIZE)
        with memory.checkpoint() as point:
            assert (point.mode, point.size) == ("pagemap", PAGE)
            for turn in range(QUIET + 3):
                for page in (3, turn, 40):
                    memory.write_u8(page * PAGE + 1, 99)
                evict(memory, 0, SIZE)
                assert point.dirty().count == point.verify().count == len({3, turn, 40})
                assert point.restore() == len({3, turn, 40})
                assert not point.verify()
        evict(memory, 0, SIZE)
        assert outer.restore() == 1
        assert memory.read(0, SIZE) == before


def test_a_page_is_looked_at_until_it_has_not_differed_for_long() -> None:
    memory = mapped(ram(0, SIZE))[1]
    memory.fill(0, SIZE, 1)
    with memory.checkpoint() as point:
        assert point.mode == "pagemap"
        for page in range(10):
            memory.write_u8(page * PAGE, 9)
        assert point.restore() == 10
        for turn in range(QUIET):
            assert point.stats.hot == 10
            memory.write_u8(0, turn + 2)
            assert point.restore() == 1
        assert (point.stats.hot, point.stats.protected) == (1, 9)
        # What has left is found again.
        memory.write_u8(5 * PAGE, 9)
        memory.write_u8(5 * PAGE + 1, 9)
        assert point.restore() == 1
        assert point.stats.hot == 2
        assert (memory.read(5 * PAGE, 2), point.verify().count) == (b"\1\1", 0)


def test_pages_that_were_not_there_are_given_back() -> None:
    memory = mapped(ram(0, 16 * MIB))[1]
    memory.write_u8(0, 1)
    with memory.checkpoint() as point:
        before = blocks(memory, 0)
        for start in range(0, 16 * MIB, MIB):
            memory.fill(start, MIB, 7)
            point.restore()
        for _ in range(QUIET + 1):
            point.restore()
        assert blocks(memory, 0) <= before + 8
        assert point.stats.punched >= 16 * MIB // PAGE - 1
        assert not point.verify()
        memory.write_u8(8 * MIB, 1)
        assert point.restore() == 1


@pytest.mark.parametrize("mode", ["pagemap", "api"])
def test_a_tracker_beside_it_finds_every_write_and_so_does_the_checkpoint(mode: Any) -> None:
    memory = mapped(ram(0, SIZE, mem_type="mmap"))[1]
    memory.fill(0, SIZE, 1)
    with memory.checkpoint() as point, memory.dirty.start(mode) as tracker:
        for turn in range(QUIET + 4):
            memory.write_u8(3 * PAGE, turn + 2)
            memory.write_u8((turn + 10) * PAGE, 2)
            assert {3 * PAGE, (turn + 10) * PAGE} <= {pages.base for pages in tracker.collect()}
            assert point.restore() == 2
            # A restore is a write as any other.
            assert {3 * PAGE, (turn + 10) * PAGE} <= {pages.base for pages in tracker.collect()}
            assert point.stats.hot == (0 if mode == "pagemap" else point.stats.hot)
            assert not point.verify()
    memory.write_u8(0, 7)


def test_a_checkpoint_goes_on_when_a_tracker_beside_it_stops() -> None:
    memory = mapped(ram(0, SIZE))[1]
    with memory.checkpoint() as point:
        memory.write_u8(0, 1)
        with memory.dirty.start("pagemap"):
            memory.write_u8(PAGE, 1)
        memory.write_u8(2 * PAGE, 1)
        assert point.dirty().count == 3
        assert point.restore() == 3


def test_a_checkpoint_on_top_of_another_stores_what_differs() -> None:
    memory = mapped(ram(0, SIZE), ram(HIGH, SIZE, mem_type="mmap"))[1]
    memory.fill(0, SIZE, 1)
    outer = memory.checkpoint()
    memory.write_u8(3 * PAGE, 2)
    memory.fill(9 * PAGE, PAGE, 0)
    memory.write_u8(HIGH, 2)
    inner = memory.checkpoint()
    assert (outer.size, inner.size) == (SIZE, 3 * PAGE)
    memory.write_u8(3 * PAGE, 3)
    memory.write_u8(20 * PAGE, 3)
    assert inner.restore() == 2
    assert (memory.read_u8(3 * PAGE), memory.read_u8(9 * PAGE), memory.read_u8(HIGH)) == (2, 0, 2)
    innermost = memory.checkpoint()
    memory.write_u8(HIGH + PAGE, 4)
    # That in between goes, and those around it stay.
    inner.close()
    assert innermost.restore() == 1
    assert outer.dirty().count == 3
    assert outer.restore() == 3
    assert (memory.read_u8(3 * PAGE), memory.read_u8(9 * PAGE), memory.read_u8(HIGH)) == (1, 1, 0)
    assert not outer.verify()
    for point in (inner, innermost):
        with pytest.raises(CheckpointClosed, match="restore of one that was taken before"):
            point.restore()
    outer.close()


def test_what_a_dropped_checkpoint_stored_is_put_back_by_the_one_before() -> None:
    memory = mapped(ram(0, SIZE))[1]
    with memory.checkpoint() as outer:
        memory.write_u8(3 * PAGE, 2)
        inner: Checkpoint | None = memory.checkpoint()
        memory.write_u8(4 * PAGE, 2)
        del inner
        gc.collect()
        assert outer.dirty().count == 2
        assert outer.restore() == 2
        assert not outer.verify()


def test_after_all_are_dropped_the_next_one_begins_anew() -> None:
    memory = mapped(ram(0, SIZE))[1]
    point: Checkpoint | None = memory.checkpoint()
    memory.write_u8(3 * PAGE, 2)
    del point
    gc.collect()
    with memory.checkpoint() as again:
        assert not again.dirty()
        memory.write_u8(4 * PAGE, 2)
        assert again.restore() == 1
        assert memory.read_u8(3 * PAGE) == 2


def moved(space: AddressSpace) -> None:
    space.move_region("low", 2 * HIGH)


def cut(space: AddressSpace) -> None:
    space.split_region("low", SIZE // 2)
    space.memory.fill(0, SIZE, 3)


def cut_and_removed(space: AddressSpace) -> None:
    cut(space)
    space.remove_region(SIZE // 2)


def cut_and_upper_left(space: AddressSpace) -> None:
    cut(space)
    space.remove_region(0)


def cut_moved_and_removed(space: AddressSpace) -> None:
    cut(space)
    space.move_region(SIZE // 2, 4 * HIGH)
    space.remove_region(0)


def removed(space: AddressSpace) -> None:
    space.remove_region("low")


def removed_all(space: AddressSpace) -> None:
    for region in space.regions:
        space.remove_region(region)


def plugged(space: AddressSpace) -> None:
    space.insert_region(ram(2 * HIGH, SIZE, name="new"))
    space.memory.fill(2 * HIGH, SIZE, 3)


def replaced(space: AddressSpace) -> None:
    low = space["low"]
    space.replace_region("low", low.replace(name="other", prot_flags="r--"))


def swapped(space: AddressSpace) -> None:
    with space.transaction() as change:
        change.remove_region("low")
        change.insert_region(ram(0, SIZE, name="low"))


CHANGES = [
    *(moved, cut, cut_and_removed, cut_and_upper_left, cut_moved_and_removed, removed, removed_all, plugged, replaced),
    swapped,
]


@pytest.mark.parametrize("mem_type", ["shmem", "mmap"])
@pytest.mark.parametrize("change", CHANGES)
def test_the_map_is_put_back_with_the_bytes(change: Callable[[AddressSpace], object], mem_type: str) -> None:
    space, memory = mapped(ram(0, SIZE, name="low", mem_type=mem_type), ram(HIGH, SIZE, name="high"))
    memory.write(0, numbered(SIZE))
    memory.write(HIGH, numbered(SIZE, 1))
    hosts = [memory.host_address(base) for base in (0, HIGH)]
    base = space.snapshot()
    with memory.checkpoint() as point, memory.dirty.start() as tracker:
        for _ in range(2):
            change(space)
            memory.write_u8(space.regions[0].base, 9) if change is plugged else None
            assert point.dirty().count == point.verify().count
            point.restore()
            assert space.snapshot() == base
            assert space.generation > base.generation
            assert memory.read(0, SIZE) == numbered(SIZE)
            assert memory.read(HIGH, SIZE) == numbered(SIZE, 1)
            assert not point.verify()
            if change not in (removed, removed_all, swapped):
                assert [memory.host_address(base) for base in (0, HIGH)] == hosts
            with memory.view(SIZE // 2, PAGE) as view:
                view[0] ^= 1
                with pytest.raises(RegionBusy):
                    space.remove_region("low")
            assert SIZE // 2 in tracker.collect()
            assert point.restore() == 1
        assert point.generation == base.generation


def test_a_map_that_can_not_be_put_back_leaves_all_as_it_is() -> None:
    space, memory = mapped(ram(0, SIZE, name="low"))
    point = memory.checkpoint()
    memory.write_u8(0, 1)
    space.insert_region(ram(HIGH, SIZE, name="new"))
    with memory.view(HIGH, 8), pytest.raises(RegionBusy, match="new"):
        point.restore()
    assert memory.read_u8(0) == 1

    class Vetoes:
        def prepare(self, change: object) -> None:
            raise ValueError(change)

        def commit(self, change: object) -> None: ...
        def rollback(self, change: object) -> None: ...

    subscription = space.subscribe(lambda _: None)
    subscription.detach()
    for _ in range(2):
        with suppress(ClientError):
            space.subscribe(Vetoes())
    assert memory.read_u8(0) == 1
    assert point.restore() == 1
    assert [region.name for region in space.regions] == ["low"]


def test_memory_that_is_plugged_in_between_has_a_shadow_of_its_own() -> None:
    space, memory = mapped(ram(0, SIZE))
    with memory.checkpoint() as outer:
        space.insert_region(ram(HIGH, SIZE, name="new"))
        memory.fill(HIGH, PAGE, 5)
        with memory.checkpoint() as inner:
            assert inner.size == PAGE
            memory.fill(HIGH, 2 * PAGE, 6)
            assert inner.restore() == 2
            assert memory.read(HIGH, 2 * PAGE) == b"\5" * PAGE + bytes(PAGE)
            space.remove_region("new")
            assert inner.restore() == 0
            assert memory.read(HIGH, 2 * PAGE) == b"\5" * PAGE + bytes(PAGE)
            memory.write_u8(HIGH, 9)
            assert inner.restore() == 1
        assert outer.restore() == 0
        assert len(space.regions) == 1


def test_views_show_what_was_restored_and_stay_where_they_are() -> None:
    memory = mapped(ram(0, SIZE))[1]
    array = memory.array(0, (SIZE,), "u1")
    array[:] = 1
    address = array.ctypes.data
    with memory.checkpoint() as point:
        array[::PAGE] = 2
        assert point.restore() == 64
        assert array.ctypes.data == address
        assert np.all(array == 1)


def test_a_function_is_called_after_each_restore_and_its_exception_passes() -> None:
    memory = mapped(ram(0, SIZE))[1]
    seen: list[int] = []

    def again() -> None:
        seen.append(memory.read_u8(0))
        if len(seen) == 2:
            raise ValueError("no registers")

    with memory.checkpoint(on_restore=again) as point:
        for value in (1, 2):
            memory.write_u8(0, value)
            with suppress(ValueError):
                point.restore()
        assert (seen, point.stats.resets) == ([0, 0], 2)


def test_a_file_that_was_cut_can_be_restored_when_it_is_long_again(tmp_path: Path) -> None:
    with make_file(tmp_path / "file", SIZE).open("r+b") as file:
        memory = mapped(AddressSpaceRegion.from_file(0, SIZE, file), ram(HIGH, SIZE))[1]
        with memory.checkpoint(mode="compare") as point:
            memory.fill(0, SIZE, 1)
            memory.write_u8(HIGH, 1)
            os.truncate(file.fileno(), 4 * PAGE)
            memory.write_u8(0, 2)
            with suppress(MemoryFault):
                point.restore()
            os.truncate(file.fileno(), SIZE)
            point.restore()
            assert not point.verify()
            assert memory.read(0, SIZE) == bytes(SIZE)


def test_memory_whose_bytes_are_not_kept_is_named(tmp_path: Path) -> None:
    with make_file(tmp_path / "file", SIZE).open("rb") as file:
        space, memory = mapped(
            AddressSpaceRegion.from_file(0, SIZE, file, name="file", prot_flags="r--"),
            AddressSpaceRegion.from_buffer(HIGH, bytes(SIZE), name="bytes"),
            AddressSpaceRegion.create_dax_region(1 << 45, 2 * MIB, name="dax"),
            ram(2 * HIGH, SIZE),
        )
    with memory.checkpoint() as point:
        assert {region.name for region in point.excluded} == {"file", "bytes", "dax"}
        memory.write_u8(2 * HIGH, 1)
        assert point.restore() == 1
        space.remove_region("dax")
        assert point.restore() == 0
        assert space["dax"].size == 2 * MIB


def test_bad_arguments_are_refused_and_nothing_is_kept() -> None:
    memory = mapped(ram(0, SIZE), AddressSpaceRegion.from_buffer(HIGH, bytearray(SIZE), name="buffer"))[1]

    async def later() -> None: ...

    with pytest.raises(InvalidArgument, match='"compare"'):
        memory.checkpoint(mode="api")  # type: ignore[arg-type]  # the subject
    with pytest.raises(TypeError, match=r"on_restore .* int"):
        memory.checkpoint(on_restore=1)  # type: ignore[arg-type]  # the subject
    with pytest.raises(TypeError, match="coroutine"):
        memory.checkpoint(on_restore=later)
    with pytest.raises(Unsupported, match=r"buffer.*compares what the kernel"):
        memory.checkpoint(mode="pagemap")
    with pytest.raises(Unsupported, match="attach_kvm"):
        memory.checkpoint(mode="kvm")

    def stop(_progress: object) -> None:
        raise ValueError("stop")

    memory.fill(0, SIZE, 1)
    with pytest.raises(ValueError, match="stop"):
        memory.checkpoint(progress=stop)
    with memory.checkpoint(mode="compare") as point:
        assert (point.mode, repr(point)) == ("compare", "Checkpoint(256 KiB of generation 0, compare)")
        with pytest.raises(InvalidArgument, match="on top of another"):
            memory.checkpoint(mode="kvm")
        with memory.checkpoint() as inner:
            assert inner.mode == "compare"
    assert memory.dirty.start().collect().count == 0


def test_an_interrupted_checkpoint_on_top_of_another_takes_nothing_from_it() -> None:
    memory = mapped(ram(0, SIZE), ram(HIGH, SIZE))[1]

    def stop(_progress: object) -> None:
        raise ValueError("stop")

    with memory.checkpoint() as outer:
        memory.write_u8(0, 1)
        memory.write_u8(HIGH, 1)
        with pytest.raises(ValueError, match="stop"):
            memory.checkpoint(progress=stop)
        assert outer.restore() == 2
        assert not outer.verify()


def test_it_ends_with_its_memory_and_vetoes_nothing() -> None:
    space, memory = mapped(ram(0, SIZE))
    point = memory.checkpoint()
    memory.close()
    for call in (point.restore, point.dirty, point.verify):
        with pytest.raises(NotMapped):
            call()
    point.close()
    point.close()
    with space.map_memory().checkpoint() as again:
        assert again.restore() == 0
    with pytest.raises(CheckpointClosed):
        again.dirty()
    assert isinstance(again.stats, ResetStats)


def test_in_a_forked_child_it_is_the_parents() -> None:
    memory = mapped(ram(0, SIZE))[1]
    point = memory.checkpoint()
    memory.write_u8(0, 1)

    def child() -> None:
        for call in (point.restore, point.dirty, point.verify, point.close, memory.checkpoint):
            with pytest.raises(ForkedProcess):
                call()

    in_child(child)
    assert point.restore() == 1


@pytest.mark.timeout(1200)
def test_thousands_of_resets_leave_nothing_behind() -> None:
    """Random pages each time; what is found, compared and given back is all that differs."""
    memory = mapped(ram(0, 4 * MIB), ram(HIGH, 4 * MIB, mem_type="mmap"))[1]
    random = np.random.default_rng(1)
    memory.write(0, numbered(2 * MIB))
    arrays = [memory.array(base, (4 * MIB,), "u1") for base in (0, HIGH)]
    count = int(os.environ.get("RESETS", "2000"))
    with memory.checkpoint() as point:
        expected = [array.copy() for array in arrays]
        usage: list[list[int]] = []
        for turn in range(count):
            for array in arrays:
                array[random.integers(0, 4 * MIB, 20)] ^= 1
            point.restore()
            if turn % (count // 5) == count // 10:
                assert not point.verify()
                assert all(np.array_equal(one, other) for one, other in zip(arrays, expected, strict=True))
                usage.append([len(descriptors()), status("VmPTE")])
        assert usage[1] == usage[-1] or usage[-1][1] <= usage[1][1] + 64
        assert len({fds for fds, _ in usage}) == 1
    del array, arrays


def test_a_checkpoint_of_memory_that_was_closed_keeps_no_other_memory_followed() -> None:
    space, memory = mapped(ram(0, MIB))
    forgotten = memory.checkpoint()
    memory.close()
    memory = space.map_memory()
    with memory.checkpoint():
        assert "uw" in smaps(memory.host_address(0))["VmFlags"].split()
    assert "uw" not in smaps(memory.host_address(0))["VmFlags"].split()
    forgotten.close()


def test_a_restore_plugs_in_again_what_had_come_through_a_reservation() -> None:
    plan = AddressSpaceBuilder("q35", numa_regions=["64MiB"], hotplug=Hotplug("4GiB", slots=4)).plan()
    space = plan.build()
    slots = DimmSlots(space, plan=plan)
    slots.plug("128MiB", name="dimm0")
    base = space["dimm0"].base
    space.memory.write(base, b"kept")
    with space.memory.checkpoint() as point:
        slots.unplug("dimm0")
        point.restore()
        assert space.memory.read(base, 4) == b"kept"
        space.remove_region("dimm0")
        for reservation in space.reservations:
            reservation.release()
        with space.reserve(PAGE, owner="other", base=base), pytest.raises(RegionOverlap, match="other"):
            point.restore()
