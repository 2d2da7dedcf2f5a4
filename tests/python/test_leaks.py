"""Descriptors, mappings and memory stay flat over thousands of cycles of everything, failures among them."""

import ctypes
import gc
import itertools
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest
from children import in_child
from dbs_address_space import (
    MAP_SHARED,
    AccessDenied,
    AddressSpace,
    AddressSpaceError,
    AddressSpaceRegion,
    BackingError,
    MemoryFault,
    RegionBusy,
    RegionOverlap,
    UnmappedAddress,
)
from kernel_view import descriptors, maps, resident
from memory_helpers import GIB, LAYOUT, MIB, PAGE, WINDOW, libc, make_file, mapped, ram
from verbs import VERBS

ROUNDS = 2_000
# Threads give the allocators arenas of their own: what a loop's thread leaves behind is counted in `memory/test_waits.py`.
QUIET = [verb for verb in VERBS if verb.name != "wait_value_async"]
TOUCHING = [verb for verb in QUIET if verb.touches and not verb.direct]
REFUSED = [verb for verb in QUIET if verb.ranged and verb.needs and not verb.holes]


class MallocInfo(ctypes.Structure):
    """`struct mallinfo2`."""

    NAMES = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = tuple((name, ctypes.c_size_t) for name in NAMES)


def malloc_used() -> int:
    """The bytes in use, of Rust's allocations and of Python's large ones; 0 where the C library does not tell."""
    if not hasattr(libc, "mallinfo2"):
        return 0
    libc.mallinfo2.restype = MallocInfo
    info = libc.mallinfo2()
    return int(info.uordblks) + int(info.hblkhd)


class Usage(NamedTuple):
    """Resources a process can leak."""

    descriptors: int
    mappings: int
    resident: int
    malloc_used: int
    python_blocks: int

    @classmethod
    def now(cls) -> Self:
        gc.collect()
        return cls(len(descriptors()), len(maps()), resident(), malloc_used(), sys.getallocatedblocks())


SLACK = Usage(descriptors=0, mappings=3, resident=3 * MIB, malloc_used=ROUNDS * 8, python_blocks=ROUNDS // 2)
"""The slack of the allocators: less than the smallest leak in each round."""


def assert_flat(begin: Callable[[], Callable[[], object]]) -> None:
    """Runs what `begin` gives in a child, some rounds to warm up and then thousands, and compares."""

    def probe() -> None:
        # Whoever runs the tests keeps what is logged.
        logging.disable()
        cycle = begin()
        # Cycles of references pile up until the collector runs: the warm-up sees as many as there may ever be.
        for _ in range(max(ROUNDS // 10, gc.get_threshold()[0])):
            cycle()
        before = Usage.now()
        for _ in range(ROUNDS):
            cycle()
        after = Usage.now()
        leaked = {
            name: now - then
            for name, then, now, slack in zip(Usage._fields, before, after, SLACK, strict=True)
            if now > then + slack
        }
        assert leaked == {}

    in_child(probe)


class Work:
    """A mapped space with something of everything."""

    def __init__(self, path: Path) -> None:
        with make_file(path, 4 * PAGE).open("r+b") as file:
            self.regions = [
                ram(0, 4 * PAGE, name="memfd"),
                ram(GIB, 4 * PAGE, name="anonymous", mem_type="mmap"),
                ram(2 * GIB, 4 * PAGE, name="file", file=file),
                AddressSpaceRegion.create_firmware_region(3 * GIB, PAGE, "r--", name="rom"),
                AddressSpaceRegion.create_dax_region(WINDOW, MIB, name="window"),
                AddressSpaceRegion.create_device_region(WINDOW + MIB, PAGE, name="uart"),
            ]
        self.space = AddressSpace.from_regions(self.regions, LAYOUT)
        self.memory = self.space.map_memory()
        refusals = ((4 * PAGE, UnmappedAddress), (WINDOW, AccessDenied), (WINDOW + MIB, UnmappedAddress))
        # Each verb meets them in turn: their number is not a multiple of three.
        self._refusals = itertools.cycle(refusals)

    def map_and_close(self) -> None:
        with AddressSpace.from_regions(self.regions, LAYOUT).map_memory() as memory:
            memory.write(2, b"bytes")

    def map_and_forget(self) -> None:
        AddressSpace.from_regions(self.regions, LAYOUT).map_memory().write(2, b"bytes")

    def remap(self) -> None:
        self.memory.close()
        self.memory = self.space.map_memory()

    def plug_and_unplug(self) -> None:
        for mem_type in ("shmem", "mmap"):
            self.space.insert_region(ram(4 * GIB, PAGE, mem_type=mem_type))
            self.memory.write(4 * GIB, b"dimm")
            self.space.remove_region(4 * GIB)

    def renew(self) -> None:
        with self.space.transaction() as change:
            for region in self.regions:
                change.remove_region(region)
                change.insert_region(region)

    def replace(self) -> None:
        for options in ({"prot_flags": "r--"}, {"prot_flags": "rw-"}, {"name": "memfd"}):
            self.space.replace_region(0, self.space[0].replace(**options))

    def view(self) -> None:
        views: list[Any] = [self.memory.view(0, 64), self.memory.array(GIB, (4, 4), "<u4")]
        views += [views[0][8:16], memoryview(views[0].obj), self.memory.view(3 * GIB, 4)]
        self.memory.pin(0, 8).release()

    def view_in_a_cycle(self) -> None:
        cycle: list[object] = [self.memory.view(0, 8), self.memory, self.space]
        cycle.append(cycle)

    def a_view_of_what_is_gone(self) -> None:
        _, memory = mapped(ram(0))
        view = memory.view(0, 8)
        del memory, _
        assert bytes(view) == bytes(8)

    def verbs(self) -> None:
        for base, verb in itertools.product((GIB, 2 * GIB), TOUCHING):
            verb(self.memory, base, verb.fitting(256))

    def long_copies(self) -> None:
        with suppress(UnmappedAddress):
            self.memory.read(0, 4 * MIB)
        self.memory.read(0, 4 * MIB, pad=0)

    def queries(self) -> None:
        base = self.space.snapshot()
        assert [region.name for region in base] == [region.name for region in self.regions]
        str(base), repr(base), hash(base), base.gaps(), base.diff(base), self.memory.mappings()

    def refused_accesses(self) -> None:
        for verb in REFUSED:
            addr, error = next(self._refusals)
            with suppress(error):
                verb(self.memory, addr, verb.fitting(8))
                pytest.fail("was not refused")

    def refused_changes(self) -> None:
        with self.memory.view(0, 8), suppress(RegionBusy):
            self.space.remove_region(0)
        with suppress(RegionOverlap):
            self.space.insert_region(ram(0))
        for region in (ram(4 * GIB, perm_flags=0), ram(4 * GIB, host_numa_node_id=1000)):
            with suppress(BackingError):
                self.space.insert_region(region)
        with suppress(AddressSpaceError), self.space.transaction() as change:
            change.insert_region(ram(4 * GIB))
            change.insert_region(ram(4 * GIB))

    def refused_mappings(self) -> None:
        with suppress(BackingError):
            mapped(*self.regions, ram(4 * GIB, host_numa_node_id=1000))
        with suppress(ZeroDivisionError):
            AddressSpace.from_regions(self.regions, LAYOUT).map_memory(progress=lambda p: p.done // 0)

    def faults(self) -> None:
        for verb in TOUCHING:
            with suppress(MemoryFault):
                verb(self.memory, 2 * GIB + PAGE, verb.fitting(PAGE))
                pytest.fail("was not a fault")


CYCLES = [name for name in vars(Work) if not name.startswith("_")]


@pytest.mark.parametrize("name", CYCLES)
def test_nothing_leaks(name: str, tmp_path: Path) -> None:
    def begin() -> Callable[[], object]:
        work = Work(tmp_path / "file")
        if name == "faults":
            os.truncate(tmp_path / "file", PAGE)
        return getattr(work, name)  # type: ignore[no-any-return]

    assert_flat(begin)


LEAKS: dict[str, Callable[[], object]] = {
    "descriptor": lambda: os.dup(0),
    "mapping": lambda: mapped(ram(0, mem_type="mmap", perm_flags=MAP_SHARED)),
    "memory": lambda: bytes(600),
    "object": object,
}


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS)
def test_a_leak_is_seen(leak: Callable[[], object]) -> None:
    kept: list[object] = []
    with pytest.raises(pytest.fail.Exception):
        assert_flat(lambda: lambda: kept.append(leak()))
