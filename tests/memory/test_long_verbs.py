"""Threads beside the long verbs, progress, Ctrl-C, and locks made of atomics."""

import itertools
import os
import signal
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dbs_address_space import GuestMemory, Progress
from memory_helpers import GIB, MIB, mapped, ram, run_threads

SIZE = 256 * MIB
Long = Callable[[GuestMemory, Callable[[Progress], object] | None], object]

WITH_PROGRESS: dict[str, Long] = {
    "hash": lambda memory, progress: memory.hash(0, SIZE, progress=progress),
    "search": lambda memory, progress: list(memory.search(b"nowhere to be found", progress=progress)),
    "copy": lambda memory, progress: memory.copy(SIZE // 2, 0, SIZE // 2, progress=progress),
}


def write_to(memory: GuestMemory) -> None:
    with tempfile.TemporaryFile() as file:
        memory.write_to(file, 0, 64 * MIB)


def read_from(memory: GuestMemory) -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(64 * MIB)
        memory.read_from(file, 0, 64 * MIB)


ADDRESSES = array("Q", range(0, SIZE, 64))
WITHOUT: dict[str, Callable[[GuestMemory], object]] = {
    "read_into": lambda memory: memory.read_into(0, bytearray(64 * MIB)),
    "readv_into": lambda memory: memory.readv_into([(0, 32 * MIB)] * 2, bytearray(64 * MIB)),
    "writev": lambda memory: memory.writev([(0, bytes(32 * MIB))] * 2),
    "translate": lambda memory: memory.translate(ADDRESSES),
    "read_many_u64": lambda memory: memory.read_many_u64(ADDRESSES),
    "hexdump": lambda memory: memory.hexdump(0, 64 * MIB),
    "hash of hashlib": lambda memory: memory.hash(0, 64 * MIB, algorithm="sha256"),
    "read_from": read_from,
    "write": lambda memory: memory.write(0, bytes(64 * MIB)),
    "fill": lambda memory: memory.fill(0, SIZE),
    "compare": lambda memory: memory.compare(0, bytes(64 * MIB)),
    "find_zero_pages": lambda memory: memory.find_zero_pages(),
    "write_to": write_to,
}


@pytest.fixture(scope="module")
def memory() -> GuestMemory:
    _, memory = mapped(ram(0, SIZE))
    memory.fill(0, SIZE, 0)
    return memory


@contextmanager
def heartbeat() -> Iterator[list[int]]:
    """Counts in another thread for as long as the body runs."""
    beats, done = [0], threading.Event()

    def beat() -> None:
        while not done.is_set():
            beats[0] += 1
            time.sleep(0)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield beats
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("verb", [*WITH_PROGRESS, *WITHOUT])
def test_another_thread_goes_on_meanwhile(memory: GuestMemory, verb: str) -> None:
    interval = sys.getswitchinterval()
    # So long that the other thread only gets the interpreter when it is let go.
    sys.setswitchinterval(100)
    try:
        with heartbeat() as beats:
            before = beats[0]
            WITHOUT[verb](memory) if verb in WITHOUT else WITH_PROGRESS[verb](memory, None)
            assert beats[0] > before + 5
            sys.setswitchinterval(interval)
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("verb", WITH_PROGRESS)
def test_progress_is_told(memory: GuestMemory, verb: str) -> None:
    told: list[tuple[Progress, float, int]] = []
    WITH_PROGRESS[verb](memory, lambda p: told.append((p, time.monotonic(), threading.get_ident())))
    last = told[-1][0]
    assert (last.stage, last.done) == (verb, last.total)
    assert {thread for _, _, thread in told} == {threading.get_ident()}
    assert [p.done for p, _, _ in told] == sorted(p.done for p, _, _ in told)
    times = [when for _, when, _ in told[:-1]]
    assert all(later - earlier > 0.04 for earlier, later in itertools.pairwise(times))


@pytest.mark.parametrize("verb", WITH_PROGRESS)
def test_an_exception_from_progress_ends_it(memory: GuestMemory, verb: str) -> None:
    class Enough(Exception):
        pass

    def refuse(_: Progress) -> None:
        raise Enough

    with pytest.raises(Enough):
        WITH_PROGRESS[verb](memory, refuse)
    assert memory.read(0, 8) == bytes(8)


@pytest.mark.parametrize("verb", ["hash", "hash of hashlib", "search", "find_zero_pages", "copy", "write_to"])
def test_ctrl_c_ends_it(verb: str) -> None:
    _, memory = mapped(ram(0, 8 * GIB, mem_type="mmap"))
    calls: dict[str, Callable[[], object]] = {
        "hash": lambda: memory.hash(0, 8 * GIB),
        "hash of hashlib": lambda: memory.hash(0, 8 * GIB, algorithm="sha512"),
        "copy": lambda: memory.copy(4 * GIB, 0, 4 * GIB),
        "write_to": lambda: memory.write_to(null, 0, 8 * GIB),
        "search": lambda: list(memory.search(b"nowhere")),
        "find_zero_pages": memory.find_zero_pages,
    }
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    with Path("/dev/null").open("wb") as null, pytest.raises(KeyboardInterrupt):
        timer.start()
        calls[verb]()
    timer.join()


def test_a_ticket_lock_over_guest_memory_holds() -> None:
    """Tickets at 0, the one who is served at 8, and at 64 a counter that only the lock protects."""
    _, memory = mapped(ram(0))
    rounds, interval = 3000, sys.getswitchinterval()

    def work() -> None:
        for _ in range(rounds):
            ticket = memory.fetch_add(0, 1)
            while memory.load(8) != ticket:
                time.sleep(0)
            memory.write_u64(64, memory.read_u64(64) + 1)
            memory.store(8, ticket + 1)

    sys.setswitchinterval(1e-5)
    try:
        run_threads(work, work)
    finally:
        sys.setswitchinterval(interval)
    assert memory.read_u64(64) == 2 * rounds
    assert memory.load(0) == memory.load(8) == 2 * rounds


def test_aligned_integers_do_not_tear() -> None:
    _, memory = mapped(ram(0))
    done = threading.Event()
    values = {0, 2**64 - 1}

    def write() -> None:
        for number in range(40_000):
            memory.write_u64(8, (2**64 - 1) * (number % 2))
        done.set()

    def read() -> None:
        while not done.is_set():
            assert memory.read_u64(8) in values

    run_threads(write, read)


def test_hotplug_during_a_long_search() -> None:
    space, memory = mapped(ram(0, 64 * MIB))
    memory.write(64 * MIB - 6, b"needle")
    stop = threading.Event()

    def plug() -> None:
        while not stop.is_set():
            space.insert_region(ram(GIB, 4 * MIB, name="dimm"))
            memory.write(GIB, b"needle")
            space.remove_region("dimm", timeout=60)

    def search() -> None:
        for _ in range(20):
            found = list(memory.search(b"needle"))
            assert found in ([64 * MIB - 6], [64 * MIB - 6, GIB])
        stop.set()

    run_threads(plug, search)
