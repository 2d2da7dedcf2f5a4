"""`read`, `read_into` and `write` against slices of an `mmap` and of memoryviews, over the same resident pages."""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Callable, Iterator
from time import perf_counter

import spaces
from dbs_address_space import AddressSpace, GuestMemory
from harness import MICROSECONDS, MILLISECONDS, NANOSECONDS, Measure, Pace, Result, Side, statement

SIZES = {"64 B": 64, "4 KiB": 4 << 10, "1 MiB": 1 << 20, "16 MiB": 16 << 20}
GOAL = 0.95
LONG_COPY = 4 << 20

STATEMENTS = {
    "read": ("read(address, size)", "memory[offset:offset + size]"),
    "read_into": ("read_into(address, target)", "target[:] = view[offset:offset + size]"),
    "write": ("write(address, data)", "memory[offset:offset + size] = data"),
}


def mapped(size: int) -> tuple[GuestMemory, mmap.mmap]:
    """Guest memory of one region, and a second mapping of its pages; all resident in both."""
    guest = AddressSpace.from_regions([spaces.ram(spaces.FIRST, size)], spaces.LAYOUT).map_memory()
    fd = guest.mapping(spaces.FIRST).fd
    assert fd is not None
    memory = mmap.mmap(fd, size)
    memory[:] = bytes(range(256)) * (size // 256)
    assert guest.read(spaces.FIRST, size) == memory[:]
    return guest, memory


def run(pace: Pace) -> Iterator[Result]:
    """Each verb at each size."""
    for label, size in SIZES.items():
        guest, memory = mapped(2 * size if size > spaces.PAGE else 2 * spaces.PAGE)
        known = {
            "read": guest.read,
            "read_into": guest.read_into,
            "write": guest.write,
            "memory": memory,
            "view": memoryview(memory),
            "target": memoryview(bytearray(size)),
            "data": bytes(size),
            "size": size,
            "offset": 64,
            "address": spaces.FIRST + 64,
        }
        unit = NANOSECONDS if size <= spaces.PAGE else MICROSECONDS
        for verb, (ours, reference) in STATEMENTS.items():
            samples = pace.in_turns(statement(ours, **known), statement(reference, **known))
            yield Result("copies", f"{verb}, {label}", *samples, Measure.SPEED, GOAL, unit)


def two_threads(pace: Pace) -> Iterator[Result]:
    """Two threads against one that does the work of both; `memmove`, which releases the interpreter, shows what can be."""
    guest, memory = mapped(2 * LONG_COPY)
    targets = [bytearray(LONG_COPY) for _ in range(2)]

    def read_into(share: int) -> None:
        guest.read_into(spaces.FIRST + share * LONG_COPY, targets[share])

    source = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    addresses = [ctypes.addressof(ctypes.c_char.from_buffer(target)) for target in targets]

    def memmove(share: int) -> None:
        ctypes.memmove(addresses[share], source + share * LONG_COPY, LONG_COPY)

    for name, copy, goal in (("read_into", read_into, 1.8), ("ctypes.memmove", memmove, None)):
        samples = pace.in_turns(together(copy), one_by_one(copy))
        yield Result("threads", f"2 threads of {name}, 4 MiB, against 1", *samples, Measure.SPEED, goal, MILLISECONDS)


def one_by_one(copy: Callable[[int], None]) -> Side:
    """Both shares in one thread."""

    def side(number: int) -> float:
        began = perf_counter()
        for _ in range(number):
            copy(0)
            copy(1)
        return perf_counter() - began

    return side


def together(copy: Callable[[int], None]) -> Side:
    """A thread for each share, from a common start to the end of the slower one."""

    def side(number: int) -> float:
        start = threading.Barrier(3)

        def work(share: int) -> None:
            start.wait()
            for _ in range(number):
                copy(share)

        threads = [threading.Thread(target=work, args=(share,)) for share in range(2)]
        for thread in threads:
            thread.start()
        start.wait()
        began = perf_counter()
        for thread in threads:
            thread.join()
        return perf_counter() - began

    return side
