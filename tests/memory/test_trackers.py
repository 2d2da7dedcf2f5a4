"""Trackers of writes: every writer over every kind of memory, by every source, and any number of trackers beside each other."""

import asyncio
import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from children import in_child
from dbs_address_space import (
    AddressSpace,
    AddressSpaceRegion,
    DirtyPages,
    DirtyTracker,
    ForkedProcess,
    GuestMemory,
    InvalidAddressRange,
    InvalidArgument,
    NotMapped,
    RegionBusy,
    Unsupported,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_view import status
from memory_helpers import MIB, PAGE, evict, kinds, make_file, mapped, ram
from virtual_machines import HLT, Vm, store

SIZE = 128 * PAGE
HIGH = 1 << 32


def of(tracker: DirtyTracker) -> set[int]:
    """The addresses of the pages that were written."""
    return {page for pages in tracker.collect() for page in range(pages.base, pages.base + pages.size, PAGE)}


KINDS = ["memfd", "anonymous", "shared", "shared file", "private file", "buffer"]
EVICTED = ["memfd", "shared", "sparse file"]
"""Kinds whose pages leave the page tables."""


def by_numpy(memory: GuestMemory, addr: int) -> None:
    memory.array(addr, (1,), "u1", unguarded=True)[0] ^= 1


def by_pointer(memory: GuestMemory, addr: int) -> None:
    ctypes.memset(memory.host_address(addr), 0x5A, 1)


def by_read_into(memory: GuestMemory, addr: int) -> None:
    """The kernel stores, on behalf of this process."""
    reader, writer = os.pipe()
    os.write(writer, b"x")
    with memory.view(addr, 1, unguarded=True) as view:
        os.readv(reader, [view])
    os.close(reader)
    os.close(writer)


def by_strides(memory: GuestMemory, pages: range) -> None:
    """A byte of each, in one call that needs no lock of the interpreter's."""
    array = memory.array(0, (memory.regions[0].size // PAGE, PAGE), "u1", unguarded=True)
    array[pages.start :: pages.step, 0] += 1


def by_verbs(memory: GuestMemory, pages: range) -> None:
    for page in pages:
        memory.write_u8(page * PAGE, 7)


def is_ours(memory: GuestMemory) -> bool:
    """Whether this package mapped the memory: pages of others' buffers are not its to watch."""
    return memory.mapping(0).page_size > 1


VERBS: dict[str, Callable[[GuestMemory, int], object]] = {
    "write": lambda memory, addr: memory.write(addr, b"x"),
    "write_u64": lambda memory, addr: memory.write_u64(addr, 7),
    "fill": lambda memory, addr: memory.fill(addr, 1, 1),
    "forced": lambda memory, addr: memory.write(addr, b"x", force=True),
}
STORES: dict[str, Callable[[GuestMemory, int], object]] = {
    "NumPy": by_numpy,
    "pointer": by_pointer,
    "readv": by_read_into,
}
WRITERS = VERBS | STORES


@pytest.fixture(params=KINDS)
def memory(request: pytest.FixtureRequest, tmp_path: Path) -> GuestMemory:
    return mapped(kinds(tmp_path, SIZE)[request.param])[1]


@pytest.mark.parametrize("mode", ["auto", "pagemap", "api"])
def test_every_writer_is_found_by_whoever_sees_it_and_nothing_else_is(memory: GuestMemory, mode: Any) -> None:
    if mode == "pagemap" and not is_ours(memory):
        with pytest.raises(Unsupported, match="watch"):
            memory.dirty.start(mode)
        return
    memory.read(0, SIZE)
    tracker = memory.dirty.start(mode, exact=True)
    written = set()
    for page, (name, write) in enumerate(WRITERS.items()):
        addr = (page * 7 + 3) * PAGE
        write(memory, addr)
        if name != "pointer" or tracker.sources == ("pagemap",):
            written.add(addr)
    memory.read(0, SIZE)
    assert of(tracker) == written
    assert tracker.is_exact == (tracker.sources == ("pagemap",))
    assert of(tracker) == set()
    tracker.stop()


def test_auto_takes_the_kernel_where_it_can_and_our_own_writes_elsewhere(memory: GuestMemory) -> None:
    with memory.dirty.start() as tracker:
        is_foreign = not is_ours(memory)
        assert tracker.sources == (("api",) if is_foreign else ("pagemap",))
        assert "vhost-user back-ends" in tracker.blind_to
        assert ("raw pointers" in tracker.blind_to) == is_foreign
        assert repr(tracker) == f"DirtyTracker({tracker.sources[0]})"
    assert repr(tracker) == "DirtyTracker(stopped)"


def test_trackers_of_all_modes_beside_each_other_find_every_write_once() -> None:
    space, memory = mapped(ram(0, SIZE), ram(HIGH, SIZE, mem_type="mmap"))
    trackers = [memory.dirty.start(mode) for mode in ("auto", "pagemap", "api", "api")]
    memory.write(5 * PAGE, b"x")
    first = [of(trackers[0]), of(trackers[2])]
    memory.write_u8(HIGH + 9 * PAGE, 1)
    assert first == [{5 * PAGE}] * 2
    assert [of(tracker) for tracker in trackers] == [{HIGH + 9 * PAGE}, {5 * PAGE, HIGH + 9 * PAGE}] * 2
    trackers.pop().stop()
    memory.write_u8(0, 1)
    assert [of(tracker) for tracker in trackers] == [{0}] * 3
    assert space.memory is memory


@pytest.mark.parametrize("kind", ["shmem", "mmap"])
@pytest.mark.parametrize("mode", ["pagemap", "api"])
@pytest.mark.parametrize("exact", [False, True])
def test_a_tracker_that_starts_later_takes_nothing_from_the_others_and_finds_nothing_older(
    kind: str, mode: Any, exact: object
) -> None:
    memory = mapped(ram(0, SIZE, mem_type=kind))[1]
    with memory.dirty.start(mode) as first:
        memory.write_u8(3 * PAGE, 1)
        memory.view(4 * PAGE, 1)[0] = 1
        with memory.dirty.start(mode, exact=bool(exact)) as second:
            memory.write_u8(9 * PAGE, 1)
            assert of(second) == {9 * PAGE}
        with memory.dirty.start(mode) as third:
            memory.write_u8(5 * PAGE, 1)
            assert of(third) == {5 * PAGE}
            assert of(first) == {page * PAGE for page in (3, 4, 5, 9)}


def test_trackers_that_come_and_go_take_no_write_from_one_that_stays() -> None:
    memory = mapped(ram(0, SIZE, mem_type="mmap"))[1]
    memory.fill(0, SIZE, 1)
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            memory.dirty.start("pagemap").stop()

    threads = [threading.Thread(target=come_and_go) for _ in range(2)]
    with memory.dirty.start("pagemap") as tracker:
        for thread in threads:
            thread.start()
        try:
            for count in range(1500):
                page = count % 128 * PAGE
                memory.write_u64(page, count)
                assert page in of(tracker)
        finally:
            done.set()
            for thread in threads:
                thread.join()


def test_what_is_looked_at_or_put_back_is_found_again() -> None:
    memory = mapped(ram(0, SIZE))[1]
    with memory.dirty.start() as tracker, memory.dirty.start("api") as other:
        memory.write_u8(3 * PAGE, 1)
        assert tracker.peek() == tracker.peek() == tracker.collect()
        assert not tracker.peek()
        tracker.put_back(DirtyPages([(7 * PAGE, PAGE), (1 << 40, PAGE)]))
        assert of(tracker) == {7 * PAGE}
        assert of(other) == {3 * PAGE}


@pytest.mark.parametrize("kind", ["memfd", "anonymous", "shared file", "private file"])
@pytest.mark.parametrize(("mode", "writer"), [("pagemap", by_strides), ("pagemap", by_verbs), ("api", by_verbs)])
def test_each_page_is_found_while_writers_run_and_a_collector_loops(
    kind: str, mode: Any, writer: Callable[[GuestMemory, range], None], tmp_path: Path
) -> None:
    """Every page is written once, by four threads; protecting a page that was not found loses some."""
    count = 1 << 13
    memory = mapped(kinds(tmp_path, count * PAGE)[kind])[1]
    memory.fill(0, count * PAGE, 1)
    with memory.dirty.start(mode) as tracker, memory.dirty.start(mode) as other:
        for _ in range(3):
            parts = [range(first, count, 4) for first in range(4)]
            threads = [threading.Thread(target=writer, args=(memory, part)) for part in parts]
            for thread in threads:
                thread.start()
            # One whose store is under way may be found before it and behind it.
            found: set[int] = set()
            while any(thread.is_alive() for thread in threads):
                found |= of(tracker)
            found |= of(tracker)
            assert found == of(other) == set(range(0, count * PAGE, PAGE))
            assert of(tracker) == set()


@pytest.mark.parametrize("kind", [*EVICTED, "anonymous", "private file"])
@pytest.mark.parametrize("exact", [False, True])
def test_pages_that_the_kernel_evicts_are_found_as_others(kind: str, exact: object, tmp_path: Path) -> None:
    """Such a page is in no page table; only its file, if it has one, knows that it has bytes."""
    memory = mapped(kinds(tmp_path, SIZE)[kind])[1]
    memory.fill(0, SIZE, 1)
    with memory.dirty.start("pagemap", exact=bool(exact)) as tracker:
        for page in (3, 4, 90):
            memory.write_u8(page * PAGE, 2)
        evict(memory, 0, SIZE)
        with memory.dirty.start("pagemap", exact=bool(exact)) as other:
            memory.write_u8(70 * PAGE, 2)
            evict(memory, 0, SIZE)
            assert tracker.peek() == tracker.peek()
            assert of(tracker) == {3 * PAGE, 4 * PAGE, 70 * PAGE, 90 * PAGE}
            assert of(other) == {70 * PAGE}
        memory.read(0, SIZE)
        evict(memory, 0, SIZE)
        assert of(tracker) == set()


@pytest.mark.parametrize("kind", EVICTED)
def test_of_memory_with_holes_only_pages_that_were_stored_to_and_evicted_are_found(kind: str, tmp_path: Path) -> None:
    memory = mapped(kinds(tmp_path, SIZE)[kind])[1]
    memory.write_u8(9 * PAGE, 1)
    memory.discard(20 * PAGE, SIZE - 20 * PAGE)
    with memory.dirty.start("pagemap") as tracker:
        memory.write_u8(30 * PAGE, 2)
        evict(memory, 0, SIZE)
        # Without a file nobody knows which of the pages beside it were stored to: they are named once.
        found = of(tracker)
        assert 30 * PAGE in found
        assert kind == "shared" or found == {30 * PAGE}
        memory.write_u8(31 * PAGE, 2)
        evict(memory, 0, SIZE)
        assert of(tracker) == {31 * PAGE}


def test_a_few_pages_of_a_large_memory_are_told_from_the_holes_beside_them() -> None:
    memory = mapped(ram(0, 64 * MIB))[1]
    memory.write_u8(9 * PAGE, 1)
    with memory.dirty.start("pagemap") as tracker:
        for written in ({8 * PAGE, 40 * MIB}, {8 * PAGE, 40 * MIB, 41 * MIB}, {9 * PAGE, 50 * MIB}):
            for page in written:
                memory.write_u8(page, 2)
            evict(memory, 0, 41 * MIB)
            assert of(tracker) == written
        assert of(tracker) == set()


def test_holes_get_no_page_tables() -> None:
    memory = mapped(ram(0, 4 << 30))[1]
    memory.write_u8(0, 1)
    before = status("VmPTE")
    with memory.dirty.start("pagemap") as tracker:
        for page in (1 << 30, 3 << 30):
            memory.write_u8(page, 2)
            assert of(tracker) == {page}
    with memory.checkpoint() as point:
        memory.write_u8(2 << 30, 2)
        assert point.restore() == 1
    assert status("VmPTE") - before < 1024


def test_plugged_memory_counts_as_written_where_it_has_data_and_unplugged_memory_leaves(tmp_path: Path) -> None:
    space, memory = mapped(ram(0, SIZE))
    with (
        memory.dirty.start("api") as ours,
        memory.dirty.start() as kernel,
        make_file(tmp_path / "file", 4 * PAGE).open("r+b") as file,
    ):
        memory.write_u8(0, 1)
        space.insert_region(AddressSpaceRegion.from_file(HIGH, 2 * PAGE, file, name="data"))
        space.insert_region(ram(2 * HIGH, SIZE, name="fresh"))
        memory.write_u8(2 * HIGH, 1)
        expected = {0, HIGH, HIGH + PAGE, 2 * HIGH}
        assert of(ours) == of(kernel) == expected
        assert kernel.generation == space.snapshot().generation == 2
        memory.write_u8(HIGH, 1)
        memory.write_u8(PAGE, 1)
        space.remove_region("data")
        assert of(ours) == of(kernel) == {PAGE}


def test_a_tracker_that_was_stopped_says_so(tmp_path: Path) -> None:
    """An empty answer would lose what was written: a backup would lack it."""
    space, memory = mapped(ram(0, SIZE))
    full = space.save(tmp_path / "full")
    with memory.dirty.start() as tracker:
        memory.write(0, b"important")
    for call in (
        tracker.collect,
        tracker.peek,
        lambda: tracker.put_back(DirtyPages()),
        lambda: space.save(tmp_path / "more", parent=full, dirty=tracker),
    ):
        with pytest.raises(InvalidArgument, match="was stopped"):
            call()
    assert not (tmp_path / "more").exists()


def test_a_tracker_vetoes_nothing_and_ends_with_its_memory() -> None:
    space, memory = mapped(ram(0, SIZE))
    tracker = memory.dirty.start()
    memory.close()
    for call in (tracker.collect, tracker.peek, lambda: tracker.put_back(DirtyPages())):
        with pytest.raises(NotMapped):
            call()
    tracker.stop()
    assert repr(tracker) == "DirtyTracker(stopped)"
    with space.map_memory().dirty.start() as again:
        assert not again.collect()


def test_a_change_that_is_refused_keeps_what_is_tracked() -> None:
    space, memory = mapped(ram(0, SIZE), ram(HIGH, SIZE, name="held"))
    with memory.dirty.start() as tracker, memory.view(HIGH, 8):
        memory.write_u8(HIGH + PAGE, 1)
        with pytest.raises(RegionBusy):
            space.remove_region("held")
        memory.write_u8(HIGH + 2 * PAGE, 1)
        assert of(tracker) == {HIGH + PAGE, HIGH + 2 * PAGE}


def test_discarded_pages_count_for_everyone_and_stay_watched(memory: GuestMemory) -> None:
    memory.fill(0, SIZE, 1)
    with memory.dirty.start() as tracker, memory.dirty.start("api") as ours:
        with suppress(Unsupported):
            memory.discard(4 * PAGE, 2 * PAGE)
            assert of(tracker) == of(ours) == {4 * PAGE, 5 * PAGE}
        memory.write_u8(4 * PAGE, 1)
        memory.write_u8(8 * PAGE, 1)
        assert of(tracker) == of(ours) == {4 * PAGE, 8 * PAGE}


def test_a_region_that_begins_inside_a_page_marks_the_pages_that_hold_it(tmp_path: Path) -> None:
    with make_file(tmp_path / "file", 8 * PAGE).open("r+b") as file:
        memory = mapped(AddressSpaceRegion.from_file(0x1000, 4 * PAGE, file, 9, name="odd"))[1]
    with memory.dirty.start() as tracker:
        memory.write_u8(0x1000 + PAGE, 1)
        found = tracker.collect()
        assert all(base <= 0x1000 + PAGE < base + size for base, size in [(pages.base, pages.size) for pages in found])
        assert found.count <= 2
    with memory.dirty.start("api") as ours:
        memory.write_u8(0x1000 + 4 * PAGE - 1, 1)
        assert 0x1000 + 4 * PAGE - 1 in ours.collect()


def test_a_forked_child_is_told_so() -> None:
    memory = mapped(ram(0, SIZE))[1]
    tracker = memory.dirty.start()

    def child() -> None:
        for call in (tracker.collect, tracker.peek, tracker.stop, memory.dirty.start):
            with pytest.raises(ForkedProcess):
                call()

        own = mapped(ram(0, SIZE, mem_type="mmap"))[1]
        with own.dirty.start("pagemap") as its:
            own.write_u8(PAGE, 1)
            assert of(its) == {PAGE}

    in_child(child)
    memory.write_u8(0, 1)
    assert of(tracker) == {0}


def test_what_can_not_be_had_is_refused_by_name() -> None:
    space, memory = mapped(ram(0, SIZE), AddressSpaceRegion.from_buffer(HIGH, bytearray(PAGE), name="adopted"))
    assert memory.dirty.available() | {"pagemap": None} == {
        "api": None,
        "pagemap": None,
        "kvm": "no machine logs: call space.attach_kvm(vm, dirty_log=True) first",
    }
    with pytest.raises(Unsupported, match="'adopted'") as refused:
        memory.dirty.start("pagemap")
    assert (refused.value.feature, refused.value.region) == ("pagemap", space["adopted"])
    with pytest.raises(Unsupported, match="attach_kvm"):
        memory.dirty.start("kvm")
    for wrong in ("ours", "", "Auto", "compare\0"):
        with pytest.raises(InvalidArgument, match="mode"):
            memory.dirty.start(wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        memory.dirty.start(page_size=3)
    for start in (memory.dirty.start, memory.checkpoint):
        with pytest.raises(InvalidArgument, match='"vhost"'):
            start(trust=("vhost-user", "vhost"))
    with memory.dirty.start("api") as tracker:
        memory.write_u8(HIGH, 1)
        assert of(tracker) == {HIGH}


def test_larger_pages_are_told_when_they_are_asked_for() -> None:
    memory = mapped(ram(0, 4 * MIB))[1]
    with memory.dirty.start(page_size="2MiB") as tracker:
        memory.write_u8(3 * MIB, 1)
        assert list(tracker.collect()) == [(2 * MIB, 2 * MIB)]


@pytest.fixture
def machine() -> Iterator[tuple[AddressSpace, Vm]]:
    space, _ = mapped(ram(0, SIZE, name="low"), ram(MIB, MIB, name="code"))
    vm = Vm()
    yield space, vm
    vm.close()


@pytest.mark.parametrize("manual_clear", [False, True], ids=["get and clear", "manual clear"])
def test_a_guests_writes_are_found_by_all_and_a_log_steals_nothing(
    machine: tuple[AddressSpace, Vm], manual_clear: object
) -> None:
    space, vm = machine
    memory = space.memory
    slots = space.attach_kvm(vm.fd, dirty_log=True, manual_clear=bool(manual_clear))
    code = MIB

    def guest_writes(*pages: int) -> set[int]:
        memory.write(code, b"".join(store(page * PAGE, 0x5A) for page in pages) + HLT)
        vm.protected_mode(code)
        vm.run_on(space)
        return {page * PAGE for page in pages}

    with memory.dirty.start("kvm") as kvm, memory.dirty.start("kvm") as other, memory.dirty.start() as kernel:
        assert kvm.sources == ("api", "kvm")
        first = guest_writes(3, 9)
        assert of(kvm) - {code} >= first
        assert {page for pages in slots.dirty_log(region="low") for page in range(pages.base, pages.end, PAGE)} >= first
        second = guest_writes(9, 20)
        slots.dirty_log()
        assert of(kvm) - {code} >= second
        assert of(other) - {code} >= first | second
        assert of(kernel) == first | second | {code}
        third = guest_writes(30)
        slots.detach()
        assert of(kvm) >= third
        assert sorted(kvm.sources) == ["api"]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3 * 64 - 1), st.integers(1, 5)), max_size=12))
def test_data_and_resident_ranges_are_the_pages_that_were_written(writes: list[tuple[int, int]]) -> None:
    memory = mapped(ram(0, 64 * PAGE), ram(64 * PAGE, 64 * PAGE, mem_type="mmap"), ram(128 * PAGE, 64 * PAGE))[1]
    written = set()
    for first, count in writes:
        for page in range(first, min(first + count, 192)):
            memory.write_u8(page * PAGE, 1)
            written.add(page)
    for found in (memory.data_ranges(), memory.resident()):
        assert {page for pages in found for page in range(pages.base // PAGE, pages.end // PAGE)} == written
    assert [pages.base for pages in memory.data_ranges()] == sorted(pages.base for pages in memory.data_ranges())


def test_a_private_file_has_the_data_of_its_file_and_its_own(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("w+b") as file:
        file.truncate(16 * PAGE)
        file.seek(4 * PAGE)
        file.write(b"x")
        file.flush()
        memory = mapped(AddressSpaceRegion.from_file(0, 16 * PAGE, file, shared=False))[1]
    memory.write_u8(9 * PAGE, 1)
    assert list(memory.data_ranges()) == [(4 * PAGE, PAGE), (9 * PAGE, PAGE)]


def test_nothing_is_allocated_to_find_out() -> None:
    memory = mapped(ram(0, 64 * MIB))[1]
    fd = memory.mapping(0).fd
    assert fd is not None
    memory.write_u8(MIB, 1)
    before = os.fstat(fd).st_blocks
    with memory.dirty.start() as tracker:
        memory.data_ranges(), memory.resident(), tracker.collect()
    assert os.fstat(fd).st_blocks == before


def test_descriptors_do_not_grow_with_regions() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    other = mapped(ram(0, PAGE, mem_type="mmap"))[1]
    regions = [ram(base * 16 * PAGE, PAGE, mem_type="mmap") for base in range(200)]
    memory = mapped(*regions)[1]
    before = descriptors()
    with other.dirty.start("pagemap"):
        with_one = descriptors()
        with memory.dirty.start("pagemap") as tracker:
            assert descriptors() == with_one
            memory.write_u8(199 * 16 * PAGE, 1)
            assert of(tracker) == {199 * 16 * PAGE}
    assert descriptors() == before


def test_a_coroutine_wakes_when_a_page_of_its_range_is_written() -> None:
    memory = mapped(ram(0, SIZE))[1]

    async def main() -> None:
        with memory.dirty.start() as tracker:
            waiter = asyncio.create_task(tracker.wait(4 * PAGE, 2 * PAGE))
            memory.write_u8(0, 1)
            assert not await tracker.wait(4 * PAGE, PAGE, timeout=0)
            assert not waiter.done()
            memory.write_u8(5 * PAGE + 7, 1)
            found = await waiter
            assert [tuple(pages) for pages in found] == [(5 * PAGE, PAGE)]
            # It takes nothing.
            assert of(tracker) == {0, 5 * PAGE}
            with pytest.raises(InvalidAddressRange):
                await tracker.wait(1, (1 << 64) - 1)
            stopped = memory.dirty.start()
            waiter = asyncio.create_task(stopped.wait(0, PAGE, poll=0.002))
            await asyncio.sleep(0)
            stopped.stop()
            with pytest.raises(InvalidArgument, match="was stopped"):
                await asyncio.wait_for(waiter, 20)
            waiter = asyncio.create_task(tracker.wait(0, PAGE, poll=0.002))
            await asyncio.sleep(0)
            memory.close()
            with pytest.raises(NotMapped):
                await waiter

    asyncio.run(main())
