"""Scans that several threads share: each answer is that of one thread, and nothing of them is left."""

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import fork, in_child
from dbs_address_space import AddressSpaceRegion, ForkedProcess, GuestMemory, InvalidArgument, MemoryFault, Progress
from memory_helpers import GIB, MIB, PAGE, mapped, numbered, ram

SIZE = 80 * MIB + 3 * PAGE
THREADS = [None, 2, 3, 7]
JOINT = 33 * MIB
"""Where two regions touch, in the midst of a step."""


def scattered() -> GuestMemory:
    """Two regions that touch, with bytes here and there, the last of them at the end."""
    _, memory = mapped(ram(0, JOINT, name="low"), ram(JOINT, SIZE - JOINT, mem_type="mmap", name="high"))
    chance = random.Random(5)
    for _ in range(40):
        memory.write(chance.randrange(SIZE - 64), numbered(64, chance.randrange(100)))
    memory.write(JOINT - 4, b"joint...")
    memory.write(16 * MIB - 3, b"steps...")
    memory.write(SIZE - 8, b"the end.")
    return memory


@pytest.fixture(scope="module")
def written() -> GuestMemory:
    return scattered()


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("size", [SIZE, SIZE - 1, 64 * MIB, 48 * MIB + 1, 16 * MIB + 1, 16 * MIB, 5, 0])
def test_a_digest_is_that_of_one_thread(written: GuestMemory, threads: int | None, size: int) -> None:
    for addr in (0, 7, SIZE - size):
        if addr + size <= SIZE:
            assert written.hash(addr, size, threads=threads) == written.hash(addr, size, threads=1)


@pytest.mark.parametrize("threads", THREADS)
def test_pages_of_zeroes_are_those_of_one_thread(written: GuestMemory, threads: int | None) -> None:
    for start, end in ((0, None), (5, SIZE - 5), (20 * MIB, 70 * MIB)):
        assert written.find_zero_pages(start, end, threads=threads) == written.find_zero_pages(start, end, threads=1)


@pytest.mark.parametrize("threads", THREADS)
def test_the_first_difference_is_that_of_one_thread(written: GuestMemory, threads: int | None) -> None:
    expected = bytearray(written.read(0, SIZE))
    assert written.compare(0, expected, threads=threads) is None
    for at in (SIZE - 1, 70 * MIB, 40 * MIB, JOINT, 16 * MIB, 16 * MIB - 1, 3):
        expected[at] ^= 1
        assert written.compare(0, expected, threads=threads) == at


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("needle", [b"joint...", b"steps...", b"the end.", b"absent", b"end."])
@pytest.mark.parametrize("align", [1, 4])
def test_matches_are_those_of_one_thread(written: GuestMemory, threads: int | None, needle: bytes, align: int) -> None:
    data = written.read(0, SIZE)
    found = [at for at in (data.find(needle),) if at >= 0 and at % align == 0]
    assert list(written.search(needle, align=align, threads=threads)) == found


@pytest.mark.parametrize("threads", THREADS)
def test_matches_far_apart_are_all_found(threads: int | None) -> None:
    _, memory = mapped(ram(0, SIZE))
    memory.fill(0, SIZE, 1)
    places = [5, 9 * MIB, 9 * MIB + 3, 32 * MIB - 4, 48 * MIB - 1, 60 * MIB, SIZE - 7]
    for place in places:
        memory.write(place, b"needle!")
    assert list(memory.search(b"needle!", threads=threads)) == [5, 9 * MIB + 3, *places[3:]]


@pytest.mark.parametrize("threads", THREADS)
def test_a_match_may_lie_where_two_threads_meet(threads: int | None) -> None:
    """A needle of almost a step lies over the joint of two of them, wherever that is."""
    _, memory = mapped(ram(0, SIZE))
    memory.fill(0, SIZE, 1)
    needle = b"n" + bytes(15 * MIB)
    memory.write(40 * MIB, needle)
    assert list(memory.search(needle, threads=threads)) == [40 * MIB]


def calls(memory: GuestMemory, **options: Any) -> list[Callable[[], object]]:
    """Each scan that can be shared out, over everything."""
    return [
        lambda: memory.hash(0, SIZE, **options),
        lambda: memory.find_zero_pages(**options),
        lambda: memory.compare(0, bytes(SIZE), **options),
        lambda: list(memory.search(b"absent", **options)),
    ]


@pytest.mark.parametrize("call", range(4))
def test_threads_end_with_the_call(written: GuestMemory, call: int) -> None:
    before = len(list(Path("/proc/self/task").iterdir()))
    calls(written, threads=5)[call]()
    assert len(list(Path("/proc/self/task").iterdir())) == before


@pytest.mark.parametrize("call", range(4))
@pytest.mark.parametrize("threads", [0, 1025, -1, True, "2"])
def test_a_number_of_threads_is_one(written: GuestMemory, call: int, threads: Any) -> None:
    with pytest.raises((InvalidArgument, TypeError)):
        calls(written, threads=threads)[call]()


def test_other_digests_have_one_thread(written: GuestMemory) -> None:
    assert written.hash(0, 8, algorithm="sha256", threads=1)
    with pytest.raises(InvalidArgument, match="threads= is for BLAKE3"):
        written.hash(0, 8, algorithm="sha256", threads=2)


def test_progress_comes_from_the_caller_and_stops_all(written: GuestMemory) -> None:
    class StopError(Exception):
        pass

    def stop(progress: Progress) -> None:
        told.append((threading.get_ident(), progress.total))
        raise StopError

    told: list[tuple[int, int]] = []
    with pytest.raises(StopError):
        written.hash(0, SIZE, threads=3, progress=stop)
    assert told == [(threading.get_ident(), SIZE)]


def test_a_child_that_progress_forks_does_not_wait_for_threads_that_it_has_not(written: GuestMemory) -> None:
    children: list[int] = []

    def fork_once(_: Progress) -> None:
        if not children:
            children.append(fork())

    try:
        digest = written.hash(0, SIZE, threads=3, progress=fork_once)
    except ForkedProcess:
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 7
    assert digest == written.hash(0, SIZE, threads=1)


def test_a_child_has_threads_of_its_own(written: GuestMemory) -> None:
    expected = written.hash(0, SIZE, threads=1)

    def same() -> None:
        assert written.hash(0, SIZE, threads=3) == expected

    in_child(same)


def test_the_first_fault_is_told(tmp_path: Path) -> None:
    """As by one thread: behind so many bytes, wherever the others have got to."""
    file = tmp_path / "file"
    file.write_bytes(b"x" * SIZE)
    _, memory = mapped(AddressSpaceRegion.from_file(0, SIZE, file))
    os.truncate(file, 37 * MIB)
    for threads in (1, 3):
        with pytest.raises(MemoryFault) as raised:
            memory.hash(0, SIZE, threads=threads)
        assert raised.value.address == 37 * MIB


def test_sparse_memory_is_passed_at_once_and_stays_sparse() -> None:
    _, memory = mapped(ram(0, 8 * GIB))
    memory.write(5 * GIB, b"needle")
    memory.fill(0, 10 * MIB, 1)
    assert list(memory.search(b"needle", threads=3)) == [5 * GIB]
    fd = memory.mapping(0).fd
    assert fd is not None
    assert os.fstat(fd).st_blocks * 512 == 10 * MIB + PAGE
