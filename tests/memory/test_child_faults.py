"""Every verb while the memory is taken away under it: ten thousand rounds of exceptions, and no death."""

import ctypes
import errno
import mmap
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from children import fork, in_child
from dbs_address_space import AddressSpaceRegion, BackingError, GuestMemory, MemoryFault
from host import huge_pages
from memory_helpers import GIB, MIB, PAGE, make_file, mapped, ram
from verbs import OTHER, VERBS

AT = GIB
SIZE = 4 * PAGE
ROUNDS = 10_000

GUARDED = [verb for verb in VERBS if verb.touches and not verb.direct]


@contextmanager
def another_process(work: Callable[[], object]) -> Iterator[None]:
    """A process that does the work over and over until the end."""
    child = fork()
    if child == 0:
        while True:
            work()
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def hammer(memory: GuestMemory, rounds: int = ROUNDS) -> tuple[int, int]:
    """Does all verbs in turn, and counts those that were done and those that met a fault."""
    done = faults = 0
    for number in range(rounds):
        verb = GUARDED[number % len(GUARDED)]
        size = verb.fitting(SIZE)
        try:
            verb(memory, AT + SIZE - size, size)
            done += 1
        except MemoryFault:
            faults += 1
    return done, faults


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "private"])
def test_a_file_that_another_process_cuts(shared: bool, tmp_path: Path) -> None:  # noqa: FBT001
    path = make_file(tmp_path / "file", SIZE)

    def cut_and_mend() -> None:
        os.truncate(path, PAGE)
        os.truncate(path, SIZE)

    def body() -> None:
        with path.open("r+b") as file:
            _, memory = mapped(ram(OTHER, SIZE), AddressSpaceRegion.from_file(AT, SIZE, file, shared=shared))
        with another_process(cut_and_mend):
            done, faults = hammer(memory)
            while not (done and faults):
                more = hammer(memory, 1000)
                done, faults = done + more[0], faults + more[1]

    in_child(body, timeout=100)


def test_a_window_that_its_owner_protects() -> None:
    libc = ctypes.CDLL(None)

    def body() -> None:
        buffer = mmap.mmap(-1, SIZE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        # An object of `ctypes` may be moved, so it is guarded; over the mmap itself the owner would kill itself.
        guarded = (ctypes.c_char * SIZE).from_buffer(buffer)
        _, memory = mapped(ram(OTHER, SIZE), AddressSpaceRegion.from_buffer(AT, guarded))
        done = threading.Event()

        def protect() -> None:
            while not done.is_set():
                libc.mprotect(ctypes.c_void_p(address + PAGE), ctypes.c_size_t(PAGE), 0)
                libc.mprotect(ctypes.c_void_p(address + PAGE), ctypes.c_size_t(PAGE), 3)

        thread = threading.Thread(target=protect)
        thread.start()
        try:
            counts = hammer(memory)
            while not all(counts):
                counts = hammer(memory)
        finally:
            done.set()
            thread.join()

    in_child(body, timeout=100)


def test_huge_pages_that_another_process_punches() -> None:
    libc = ctypes.CDLL(None)
    with huge_pages(2) as size:

        def body() -> None:
            _, memory = mapped(ram(OTHER, 2 * size), ram(AT, 2 * size, mem_type="hugeshmem"))
            fd = memory.mapping(AT).fd
            assert fd is not None

            def punch() -> None:
                # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, and a grab at the page that became free.
                libc.fallocate(fd, 3, ctypes.c_long(size), ctypes.c_long(size))
                grabbed = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)
                grabbed[0] = 1
                grabbed.close()

            def punch_or_wait() -> None:
                try:
                    punch()
                except OSError:
                    return

            with another_process(punch_or_wait):
                for number in range(ROUNDS):
                    verb = GUARDED[number % len(GUARDED)]
                    with suppress(MemoryFault):
                        verb(memory, AT + size - PAGE, verb.fitting(2 * PAGE))
                        memory.write_u64(AT + size, number)

        in_child(body, timeout=100)


def test_starved_of_address_space_a_region_is_refused_by_name_and_the_space_goes_on() -> None:
    def child() -> None:
        space, memory = mapped(ram(0, name="low"))
        memory.write(0, b"kept")
        used = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
        resource.setrlimit(resource.RLIMIT_AS, (used + 64 * MIB, used + 64 * MIB))
        generation = space.generation
        with pytest.raises(BackingError, match="high") as raised:
            space.insert_region(ram(1 << 32, 1 << 30, name="high"))
        assert raised.value.errno == errno.ENOMEM
        assert space.generation == generation
        assert memory.read(0, 4) == b"kept"
        space.insert_region(ram(1 << 32, MIB, name="small"))
        memory.write(1 << 32, b"goes on")

    in_child(child)
