"""Copies from guest memory to guest memory: overlaps, joints, guarded memory, long ones, faults."""

import os
import threading
from pathlib import Path

import pytest
from dbs_address_space import (
    AccessDenied,
    AddressSpaceRegion,
    GuestMemory,
    InvalidAddressRange,
    Lease,
    MemoryFault,
    Progress,
    RegionBusy,
    UnmappedAddress,
)
from memory_helpers import MIB, PAGE, make_file, mapped, numbered, ram

KINDS = ["shmem", "mmap", "file", "private", "buffer"]
STEP = 64 * MIB
"""A direct copy is done in parts of at most this size."""
CHUNK = 128 << 10
"""A guarded copy goes through a buffer of this size."""


def region(base: int, size: int, kind: str, directory: Path) -> AddressSpaceRegion:
    if kind == "buffer":
        return AddressSpaceRegion.from_buffer(base, bytearray(size))
    if kind in ("file", "private"):
        with make_file(directory / f"{base:x}", size + 9).open("r+b") as file:
            return AddressSpaceRegion.from_file(base, size, file, 9, shared=kind == "file")
    return ram(base, size, mem_type=kind)


def regions(kinds: str, size: int, directory: Path) -> GuestMemory:
    """Regions of `size` bytes that touch each other."""
    described = [region(number * size, size, kind, directory) for number, kind in enumerate(kinds.split())]
    return mapped(*described)[1]


@pytest.mark.parametrize("kinds", [*KINDS, "shmem mmap shmem", "shmem file buffer", "file private file", "buffer mmap"])
def test_overlapping_ranges_are_copied_as_through_a_buffer(kinds: str, tmp_path: Path) -> None:
    memory = regions(kinds, 2 * PAGE, tmp_path)
    end = 2 * PAGE * len(kinds.split())
    for distance in (1, 7, 64, PAGE - 1, PAGE, PAGE + 1):
        for src, dst in ((100, 100 + distance), (100 + distance, 100), (PAGE, PAGE)):
            expected = bytearray(numbered(end, distance))
            memory.write(0, expected)
            size = end - max(src, dst) - 50
            memory.copy(dst, src, size)
            expected[dst : dst + size] = expected[src : src + size]
            assert memory.read(0, end) == expected, (distance, src, dst)


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("target", KINDS)
def test_every_kind_is_copied_to_every_other(source: str, target: str, tmp_path: Path) -> None:
    memory = regions(f"{source} {target}", 3 * PAGE, tmp_path)
    memory.write(0, numbered(3 * PAGE))
    memory.copy(3 * PAGE + 5, 3, 2 * PAGE)
    assert memory.read(3 * PAGE, 3 * PAGE) == bytes(5) + numbered(3 * PAGE)[3 : 3 + 2 * PAGE] + bytes(PAGE - 5)


@pytest.mark.parametrize("kinds", ["shmem shmem", "file file", "shmem buffer", "buffer mmap"])
@pytest.mark.parametrize("distance", [-CHUNK - 1, -3, 3, CHUNK - 1, CHUNK + 1, 3 * MIB])
def test_long_overlaps_in_both_directions(kinds: str, distance: int, tmp_path: Path) -> None:
    memory = regions(kinds, 6 * MIB, tmp_path)
    size = 7 * MIB + 13
    src, dst = (0, distance) if distance > 0 else (-distance, 0)
    expected = bytearray(numbered(12 * MIB))
    memory.write(0, expected)
    memory.copy(dst, src, size)
    expected[dst : dst + size] = expected[src : src + size]
    assert memory.read(0, 12 * MIB) == expected


def test_a_huge_copy_overlaps_over_a_joint() -> None:
    """More than one step, between regions whose joints lie at other places in source and target."""
    _, memory = mapped(ram(0, STEP + MIB), ram(STEP + MIB, STEP))
    memory.write(0, b"head")
    memory.write(STEP - 2, b"step")
    memory.write(STEP + MIB - 2, b"joint")
    memory.copy(5, 0, 2 * STEP)
    assert memory.read(0, 9) == b"head\0head"
    assert memory.read(STEP + 3, 4) == b"step"
    assert memory.read(STEP + MIB + 3, 5) == b"joint"
    memory.copy(0, 5, 2 * STEP)
    assert memory.read(0, 4) == b"head"
    assert memory.read(STEP - 2, 4) == b"step"
    assert memory.read(STEP + MIB - 2, 5) == b"joint"


def test_a_copy_of_nothing_needs_no_memory() -> None:
    _, memory = mapped(ram(0))
    memory.copy(1 << 40, 1 << 41, 0)


@pytest.mark.parametrize(
    ("dst", "src", "bad", "error"),
    [
        (0, PAGE, 2 * PAGE, UnmappedAddress),
        (PAGE, 0, 2 * PAGE, UnmappedAddress),
        (4 * PAGE, 0, 4 * PAGE, AccessDenied),
        (0, 6 * PAGE, 6 * PAGE, AccessDenied),
        (1 << 45, 0, 1 << 45, UnmappedAddress),
    ],
    ids=["from hole", "to hole", "to read-only", "from unreadable", "to nowhere"],
)
def test_a_copy_that_cannot_be_done_does_nothing(dst: int, src: int, bad: int, error: type[Exception]) -> None:
    rom, window = ram(4 * PAGE, 2 * PAGE, prot_flags="r--"), ram(6 * PAGE, 2 * PAGE, prot_flags=0)
    _, memory = mapped(ram(0, 2 * PAGE), rom, window)
    memory.write(0, numbered(2 * PAGE))
    with pytest.raises(error) as refused:
        memory.copy(dst, src, PAGE + 1)
    assert getattr(refused.value, "address", None) == bad
    assert memory.read(0, 2 * PAGE) == numbered(2 * PAGE)
    assert memory.read(4 * PAGE, PAGE) == bytes(PAGE)


@pytest.mark.parametrize("size", [-1, 1 << 64, (1 << 64) - 1, True])
def test_sizes_that_cannot_be_are_refused(size: int) -> None:
    _, memory = mapped(ram(0))
    with pytest.raises(InvalidAddressRange):
        memory.copy(1, 1, size)


@pytest.mark.parametrize(("dst", "src"), [(4 * MIB, 0), (0, 4 * MIB)], ids=["to the file", "from the file"])
def test_a_fault_says_how_far_the_copy_came(dst: int, src: int, tmp_path: Path) -> None:
    with make_file(tmp_path / "ram", 4 * MIB).open("r+b") as file:
        _, memory = mapped(ram(0, 4 * MIB), ram(4 * MIB, 4 * MIB, file=file))
    memory.write(src, numbered(4 * MIB))
    cut = MIB + PAGE
    os.truncate(tmp_path / "ram", cut)
    with pytest.raises(MemoryFault, match="truncated") as fault:
        memory.copy(dst, src, 4 * MIB)
    assert fault.value.address == 4 * MIB + cut
    assert fault.value.completed == cut
    assert fault.value.size == 4 * MIB
    assert memory.read(dst, cut) == numbered(4 * MIB)[:cut]


def test_a_long_copy_tells_how_far_it_is() -> None:
    _, memory = mapped(ram(0, 256 * MIB), ram(256 * MIB, 256 * MIB))
    told: list[Progress] = []
    memory.copy(256 * MIB, 0, 256 * MIB, progress=told.append)
    assert told
    assert told[-1].done == told[-1].total == 256 * MIB
    assert {progress.stage for progress in told} == {"copy"}
    assert [progress.done for progress in told] == sorted(progress.done for progress in told)


def test_an_exception_from_progress_ends_a_copy() -> None:
    _, memory = mapped(ram(0, 8 * MIB))

    def refuse(progress: Progress) -> None:
        raise KeyError(progress.stage)

    with pytest.raises(KeyError, match="copy"):
        memory.copy(4 * MIB, 0, 4 * MIB, progress=refuse)
    with pytest.raises(TypeError):
        memory.copy(4 * MIB, 0, 4 * MIB, progress=3)  # type: ignore[arg-type]


def test_a_copy_in_flight_holds_both_regions() -> None:
    space, memory = mapped(ram(0, 4 * MIB), ram(4 * MIB, 4 * MIB))
    leases: list[Lease] = []

    def look(progress: Progress) -> None:
        for base in (0, 4 * MIB):
            with pytest.raises(RegionBusy) as busy:
                space.remove_region(base)
            leases.extend(busy.value.leases)

    memory.copy(4 * MIB, 0, 4 * MIB, progress=look)
    assert leases == [Lease("copy", 0, 4 * MIB), Lease("copy", 4 * MIB, 4 * MIB)]
    space.remove_region(0)


def test_copies_and_removals_do_not_wait_for_each_other() -> None:
    space, memory = mapped(ram(0, 5 * MIB), ram(5 * MIB, 5 * MIB))
    ended = threading.Event()

    def copy() -> None:
        while not ended.is_set():
            try:
                memory.copy(5 * MIB, 0, 5 * MIB)
            except UnmappedAddress as refused:
                assert refused.address == 5 * MIB  # noqa: PT017

    thread = threading.Thread(target=copy)
    thread.start()
    try:
        for _ in range(30):
            space.remove_region(5 * MIB, timeout=None)
            space.insert_region(ram(5 * MIB, 5 * MIB))
    finally:
        ended.set()
        thread.join()
