"""Regions that come and go while the memory is mapped: there before anyone sees them, gone when the removal returns."""

import gc
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import pytest
from dbs_address_space import (
    AccessDenied,
    AddressSpace,
    AddressSpaceRegion,
    BackingError,
    GuestMemory,
    Lease,
    NotMapped,
    RegionBusy,
    UnmappedAddress,
    Unsupported,
)
from kernel_view import descriptors, maps_of, protection
from memory_helpers import GIB, MIB, PAGE, WINDOW, make_file, mapped, ram
from threads import run_threads
from verbs import OTHER, VERBS, Verb, data

DIMM, DIMM_SIZE = GIB, 5 * MIB


# Coming.


def test_a_new_region_has_its_memory(space: AddressSpace, memory: GuestMemory) -> None:
    base = space.insert_region(ram(DIMM, MIB, name="dimm0", is_hotplug=True))
    assert maps_of("/memfd:dimm0 ")
    assert memory.regions == tuple(base)
    memory.write(DIMM, b"dimm")
    assert memory.read(DIMM, 5) == b"dimm\0"
    assert memory.mapping(DIMM).region is not None


def test_nobody_sees_a_region_without_memory(space: AddressSpace, memory: GuestMemory) -> None:
    done, seen = threading.Event(), [0]

    def plug() -> None:
        rounds = 0
        while rounds < 300 or (seen[0] < 50 and rounds < 20_000):
            space.insert_region(ram(DIMM))
            time.sleep(1e-4 if seen[0] < 50 else 0)
            space.remove_region(DIMM, timeout=None)
            rounds += 1
        done.set()

    def watch() -> None:
        while not done.is_set():
            before = space.generation
            there = DIMM in space
            is_mapped = memory.check_range(DIMM, PAGE)
            if space.generation == before:
                assert there == is_mapped
                seen[0] += there

    run_threads(plug, watch)


def test_a_watcher_can_use_what_it_is_told_of(space: AddressSpace, memory: GuestMemory) -> None:
    def plug() -> None:
        for number in range(50):
            space.insert_region(ram(DIMM + number * PAGE))

    def watch() -> None:
        base = space.snapshot()
        while len(base) < 51:
            newer = space.wait_for_change(base.generation)
            assert newer is not None
            base = newer
            last = base.regions[-1]
            memory.write_u64(last.base, base.generation)
            assert memory.read_u64(last.base) == base.generation

    run_threads(plug, watch)


def test_a_device_comes_without_memory(space: AddressSpace, memory: GuestMemory) -> None:
    before = descriptors()
    space.insert_region(AddressSpaceRegion.create_device_region(WINDOW, MIB))
    assert (descriptors(), memory.check_range(WINDOW, 1)) == (before, False)


FAILURES: dict[str, tuple[AddressSpaceRegion, type[Exception]]] = {
    "no such huge pages": (ram(DIMM, mem_type="hugeshmem", page_size="64GiB"), BackingError),
    "bad flags": (ram(DIMM, perm_flags=0), BackingError),
}


@pytest.mark.parametrize(("region", "error"), FAILURES.values(), ids=FAILURES)
def test_a_region_that_cannot_be_mapped_does_not_come(
    space: AddressSpace, memory: GuestMemory, region: AddressSpaceRegion, error: type[Exception]
) -> None:
    before, open_before = space.snapshot(), descriptors()
    with pytest.raises(error):
        space.insert_region(region)
    assert (space.snapshot(), space.generation, descriptors()) == (before, 0, open_before)
    assert memory.regions == tuple(before)


def test_a_transaction_maps_all_or_nothing(space: AddressSpace, memory: GuestMemory) -> None:
    memory.write(0, b"kept")

    def plug() -> None:
        with space.transaction() as change:
            change.insert_region(ram(DIMM, name="first"))
            change.remove_region("low")
            change.insert_region(ram(2 * DIMM, perm_flags=0, name="second"))

    before = descriptors()
    with pytest.raises(BackingError):
        plug()
    assert descriptors() == before
    assert not maps_of("/memfd:first ")
    assert memory.read(0, 4) == b"kept"


# Going.


@pytest.mark.parametrize("mem_type", ["shmem", "mmap"])
def test_a_removed_region_is_unmapped(space: AddressSpace, memory: GuestMemory, mem_type: str) -> None:
    before = descriptors()
    space.insert_region(ram(DIMM, 5 * PAGE, name="dimm0", mem_type=mem_type))
    mapping = memory.mapping(DIMM)
    assert protection(mapping.host_address)
    space.remove_region("dimm0")
    assert not maps_of("/memfd:dimm0 ")
    assert protection(mapping.host_address) == ""
    assert descriptors() == before
    with pytest.raises(UnmappedAddress):
        memory.read(DIMM, 1)
    if mem_type == "shmem":
        with pytest.raises(NotMapped, match="not mapped any more"):
            _ = mapping.fd


def test_what_stays_is_untouched(space: AddressSpace, memory: GuestMemory) -> None:
    host = memory.host_address(0)
    memory.write(0, b"stays")
    with memory.view(0, 5) as view:
        space.insert_region(ram(DIMM))
        space.remove_region(DIMM)
        assert bytes(view) == b"stays"
    assert memory.host_address(0) == host


def test_the_users_file_outlives_the_region(space: AddressSpace, memory: GuestMemory, tmp_path: Path) -> None:
    path = make_file(tmp_path / "dimm", PAGE)
    with path.open("r+b") as file:
        space.insert_region(ram(DIMM, file=file))
        memory.write(DIMM, b"written")
        space.remove_region(DIMM)
        assert not maps_of(str(path))
        assert file.read(7) == b"written"


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.touches and verb.writes], ids=str)
def test_no_late_write(verb: Verb, tmp_path: Path) -> None:
    """Once a removal has returned, what two threads go on writing reaches neither the user's file nor the old memfd."""
    path, stop = make_file(tmp_path / "dimm", DIMM_SIZE), threading.Event()
    space, memory = mapped(ram(OTHER, DIMM_SIZE))
    memory.write(OTHER, data(DIMM_SIZE))
    writes = [0]

    def hammer() -> None:
        while not stop.is_set():
            with suppress(UnmappedAddress, RegionBusy, Unsupported):
                verb(memory, DIMM, verb.fitting(DIMM_SIZE))
                writes[0] += 1

    def plug(file: BinaryIO | None) -> None:
        space.insert_region(ram(DIMM, DIMM_SIZE, file=file))
        fd = memory.mapping(DIMM).fd
        assert fd is not None
        behind = os.dup(fd)
        before, deadline = writes[0], time.monotonic() + 20
        while writes[0] < before + 2 and not (verb.direct and file):
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        space.remove_region(DIMM, timeout=None)
        os.pwrite(behind, bytes(DIMM_SIZE), 0)
        time.sleep(0.002)
        assert os.pread(behind, DIMM_SIZE, 0) == bytes(DIMM_SIZE)
        os.close(behind)

    def plug_all() -> None:
        try:
            with path.open("r+b", buffering=0) as file:
                for _ in range(2):
                    plug(file)
                    plug(None)
        finally:
            stop.set()

    run_threads(plug_all, hammer, hammer)


def test_readers_never_see_the_memory_of_another_region(space: AddressSpace, memory: GuestMemory) -> None:
    """An unmapped range is used again at once for the next region: a reader that came late would read that."""
    done = threading.Event()

    def plug() -> None:
        for number in range(300):
            base = DIMM * (1 + number % 2)
            space.insert_region(ram(base, 64 * PAGE, mem_type="mmap"))
            memory.fill(base, 64 * PAGE, 1 + number % 2)
            space.remove_region(base, timeout=None)
        done.set()

    def read() -> None:
        while not done.is_set():
            for number in (1, 2):
                with suppress(UnmappedAddress):
                    assert set(memory.read(DIMM * number, 64 * PAGE)) <= {0, number}

    run_threads(plug, read)


# Waiting for a lease.


def test_a_removal_waits_for_a_view(space: AddressSpace, memory: GuestMemory) -> None:
    view = memory.view(0, 8)
    timer = threading.Timer(0.1, view.release)
    timer.start()
    assert len(space.remove_region(0, timeout=60)) == 0
    timer.join()


def test_a_wait_that_is_too_short_changes_nothing(space: AddressSpace, memory: GuestMemory) -> None:
    space.insert_region(ram(DIMM))
    before = space.snapshot()
    held = [memory.view(DIMM, 8), memory.array(DIMM + 8, 4, "<u2")]
    with pytest.raises(RegionBusy) as busy:
        space.remove_region(DIMM, timeout=0.12)
    assert sorted(busy.value.leases) == [Lease("view", DIMM, 8), Lease("view", DIMM + 8, 8)]
    held.clear()
    assert space.snapshot() == before
    space.remove_region(DIMM)


@pytest.mark.parametrize("what", ["space", "memory"])
def test_closing_waits_for_views_and_for_readers_without_a_pause(
    space: AddressSpace, memory: GuestMemory, what: str
) -> None:
    space.insert_region(ram(DIMM, 8 * MIB))
    closing = space if what == "space" else memory
    view, stop = memory.view(0, 8), threading.Event()
    with pytest.raises(RegionBusy, match=r"close\(\) wait for that with timeout="):
        closing.close(timeout=0.06)
    assert space.is_mapped

    def read() -> None:
        with suppress(NotMapped, UnmappedAddress):
            while not stop.is_set():
                memory.read(DIMM, 8 * MIB)

    def close() -> None:
        view.release()
        try:
            closing.close(timeout=60)
        finally:
            stop.set()

    run_threads(read, read, close)
    assert not space.is_mapped


def test_a_long_read_in_flight_is_waited_for(space: AddressSpace, memory: GuestMemory) -> None:
    """A removal without patience may find it busy, and says with what; one with patience gets its turn."""
    space.insert_region(ram(DIMM, 64 * MIB))
    stop, busy = threading.Event(), list[Lease]()

    def read() -> None:
        while not stop.is_set():
            with suppress(UnmappedAddress):
                memory.read(DIMM, 64 * MIB)

    def remove() -> None:
        for _ in range(20):
            try:
                space.remove_region(DIMM)
            except RegionBusy as refused:
                busy.extend(refused.leases)
                space.remove_region(DIMM, timeout=None)
            space.insert_region(ram(DIMM, 64 * MIB))
        stop.set()

    run_threads(read, remove)
    assert {(lease.what, lease.address, lease.size) for lease in busy} <= {("read", DIMM, 64 * MIB)}


def test_closing_during_long_writes() -> None:
    space, memory = mapped(ram(0, 16 * MIB))
    stop = threading.Event()

    def write() -> None:
        data = bytes(16 * MIB)
        while not stop.is_set():
            with suppress(NotMapped):
                space.map_memory().write(0, data)

    def close() -> None:
        for _ in range(20):
            with suppress(RegionBusy):
                space.map_memory().close()
        stop.set()

    run_threads(write, close)
    with suppress(RegionBusy):
        memory.close()


# Changing.


def test_a_replacement_keeps_the_bytes(space: AddressSpace, memory: GuestMemory) -> None:
    memory.write(0, b"bytes")
    host, fd = memory.host_address(0), memory.mapping(0).fd
    low = space["low"]
    with memory.view(0, 5) as view:
        base = space.replace_region("low", low.replace(name="renamed", is_hotplug=True, prot_flags="rwx"))
        view[:] = b"BYTES"
    assert base["renamed"].is_hotplug
    assert memory.regions == (base["renamed"],)
    assert (memory.read(0, 5), memory.host_address(0), memory.mapping(0).fd) == (b"BYTES", host, fd)
    assert protection(host) == "rwxs"


@pytest.mark.parametrize(
    ("before", "after"), [("rw-", "r--"), ("rw-", "---"), ("rwx", "rw-"), ("r--", "rw-"), ("---", "rwx")]
)
def test_protections_follow(before: str, after: str) -> None:
    space, memory = mapped(ram(0, prot_flags=before))
    memory.write(0, b"rom", force=True)
    host = memory.host_address(0)
    space.replace_region(0, space[0].replace(prot_flags=after))
    assert protection(host) == f"{after}s"
    if "w" in after:
        memory.write(8, b"now")
    else:
        with pytest.raises(AccessDenied):
            memory.write(8, b"now")
    if "r" in after:
        assert memory.read(0, 3) == b"rom"


def test_a_renewal_over_the_same_range_is_new_memory(space: AddressSpace, memory: GuestMemory) -> None:
    memory.write(0, b"old")
    mapping, same = memory.mapping(0), space["low"]
    with space.transaction() as change:
        change.remove_region("low")
        change.insert_region(same)
    assert memory.read(0, 3) == bytes(3)
    assert memory.mapping(0) != mapping
    assert len(maps_of("/memfd:low ")) == 1
    assert space["low"] == same


def test_a_region_may_be_split_in_a_transaction(space: AddressSpace, memory: GuestMemory) -> None:
    space.insert_region(ram(DIMM, 4 * PAGE, name="whole"))
    with space.transaction() as change:
        change.remove_region("whole")
        change.insert_region(ram(DIMM, 2 * PAGE, name="left"))
        change.insert_region(ram(DIMM + 2 * PAGE, 2 * PAGE, name="right"))
    memory.write(DIMM + 2 * PAGE - 2, b"over")
    assert memory.read(DIMM, 4 * PAGE) == bytes(2 * PAGE - 2) + b"over" + bytes(2 * PAGE - 2)


def test_a_base_keeps_no_memory_and_refuses_nothing(space: AddressSpace) -> None:
    before = space.snapshot()
    region = before["low"]
    space.remove_region("low")
    gc.collect()
    assert not maps_of("/memfd:low ")
    assert before["low"] is region
