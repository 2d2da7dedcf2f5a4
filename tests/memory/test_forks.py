"""Forks of checkpoints: spaces that begin as their bytes, and whose writes reach nobody else."""

from pathlib import Path

import numpy as np
import pytest
from children import in_child
from dbs_address_space import (
    AddressSpaceRegion,
    CheckpointClosed,
    ForkedProcess,
    RegionBusy,
    Unsupported,
)
from kernel_view import status
from memory_helpers import MIB, PAGE, mapped, numbered, ram

SIZE = 256 * PAGE
HIGH = 1 << 32


def shadow_blocks() -> int:
    """The blocks of 512 bytes that the memfds of all shadows take."""
    links = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return sum(path.stat().st_blocks for path in links if str(path.readlink()).startswith("/memfd:shadow"))


@pytest.mark.parametrize("mem_type", ["shmem", "mmap"])
def test_a_hundred_forks_are_what_the_parent_was(mem_type: str) -> None:
    space, memory = mapped(ram(0, SIZE, mem_type=mem_type, name="low"), ram(HIGH, SIZE, prot_flags="r--"))
    memory.write(0, numbered(SIZE // 2))
    memory.write(HIGH, numbered(PAGE, 1), force=True)
    with memory.checkpoint() as point:
        before = shadow_blocks()
        memory.fill(0, SIZE, 9)
        forks = [point.fork() for _ in range(100)]
        assert shadow_blocks() == before
    memory.close()
    expected = numbered(SIZE // 2) + bytes(SIZE // 2)
    for number, fork in enumerate(forks):
        assert fork.snapshot() == space.snapshot()
        assert fork.clients == ()
        assert fork.memory.read(0, SIZE // 2) == expected[: SIZE // 2]
        fork.memory.write_u8(number * PAGE, 0xEE)
    for number, fork in enumerate(forks):
        after = bytearray(expected)
        after[number * PAGE] = 0xEE
        assert fork.memory.compare(0, bytes(after)) is None
        assert fork.memory.read(HIGH, PAGE) == numbered(PAGE, 1)
        with pytest.raises(PermissionError):
            fork.memory.write_u8(HIGH, 1)


def test_scans_of_a_fork_bring_no_page_into_the_shadow() -> None:
    memory = mapped(ram(0, 16 * MIB))[1]
    memory.write(4 * MIB, b"needle")
    with memory.checkpoint() as point:
        fork = point.fork().memory
        fork.write(9 * MIB + 17, b"needle")
        before = shadow_blocks()
        assert list(fork.search(b"needle")) == [4 * MIB, 9 * MIB + 17]
        assert fork.hash(0, 16 * MIB) != memory.hash(0, 16 * MIB)
        assert len(fork.find_zero_pages()) == 3
        assert [tuple(data) for data in fork.data_ranges()] == [(4 * MIB, PAGE), (9 * MIB, PAGE)]
        with point.fork().memory.checkpoint() as again:
            assert again.size == 0
        assert shadow_blocks() == before


def test_a_fork_has_checkpoints_and_forks_of_its_own() -> None:
    memory = mapped(ram(0, SIZE))[1]
    memory.fill(0, SIZE, 1)
    with memory.checkpoint() as outer:
        memory.write_u8(5 * PAGE, 2)
        with memory.checkpoint() as inner:
            fork = inner.fork().memory
            early = outer.fork().memory
    assert (fork.read_u8(5 * PAGE), early.read_u8(5 * PAGE)) == (2, 1)
    fork.write_u8(7 * PAGE, 3)
    with fork.checkpoint() as point:
        assert (point.mode, point.size) == ("pagemap", PAGE)
        fork.write_u8(7 * PAGE, 4)
        fork.write_u8(9 * PAGE, 4)
        assert point.restore() == 2
        assert not point.verify()
        child = point.fork().memory
        fork.write_u8(7 * PAGE, 5)
    assert [child.read_u8(page * PAGE) for page in (5, 7, 9)] == [2, 3, 1]
    with child.dirty.start("pagemap") as tracker:
        child.write_u8(11 * PAGE, 1)
        assert [pages.base for pages in tracker.collect()] == [11 * PAGE]


def test_the_map_of_a_fork_is_its_own() -> None:
    space, memory = mapped(ram(0, SIZE, name="low"))
    memory.write(0, numbered(SIZE))
    space.split_region("low", SIZE // 2)
    with memory.checkpoint() as point:
        fork = point.fork()
    space.remove_region(SIZE // 2)
    fork.join_regions(0, SIZE // 2)
    with fork.memory.view(0, SIZE) as view:
        assert bytes(view) == numbered(SIZE)
        with pytest.raises(RegionBusy):
            fork.remove_region(0)
    fork.insert_region(ram(HIGH, SIZE))
    fork.memory.write_u8(HIGH, 1)
    assert len(space.regions) == 1


def test_what_a_fork_can_not_do_is_refused_by_name() -> None:
    memory = mapped(ram(0, SIZE), AddressSpaceRegion.from_buffer(HIGH, bytes(SIZE), name="bytes"))[1]
    point = memory.checkpoint()
    fork = point.fork()
    assert fork.memory.mapping(0).fd is None
    assert fork.memory.read_u8(HIGH) == 0
    with pytest.raises(Unsupported, match=r"fill\(\)"):
        fork.memory.discard(0, PAGE)
    point.close()
    with pytest.raises(CheckpointClosed):
        point.fork()
    again = memory.checkpoint()

    def child() -> None:
        with pytest.raises(ForkedProcess):
            again.fork()

    in_child(child)


def test_forks_take_memory_for_what_they_write_alone() -> None:
    memory = mapped(ram(0, 64 * MIB))[1]
    memory.fill(0, 64 * MIB, 1)
    with memory.checkpoint() as point:
        before, started = rss_anon(), page_tables()
        forks = [point.fork().memory for _ in range(20)]
        assert page_tables() - started <= 20 * 64
        for fork in forks:
            np.frombuffer(fork.view(0, MIB), "u1")[:: 16 * PAGE] = 2
        assert rss_anon() - before <= 20 * 256


def rss_anon() -> int:
    return status("RssAnon")


def page_tables() -> int:
    return status("VmPTE")
