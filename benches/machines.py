"""Plans, room and preallocation: alone against their goals, and against what QEMU takes for the same memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator

from dbs_address_space import AddressSpace, AddressSpaceBuilder, AddressSpaceLayout, AddressSpaceRegion, BackingOptions
from harness import MILLISECONDS, Measure, Pace, Result, Side, statement

GIB = 1 << 30
COUNT = 1000
CALLS = 10_000


def plans(pace: Pace) -> Iterator[Result]:
    """64 TiB in 1,000 regions: planned, and built without a page of it."""
    builder = AddressSpaceBuilder(numa_regions=["64GiB"] * COUNT, phys_bits=48)
    samples = pace.alone(statement("plan()", plan=builder.plan))
    yield Result("plans", f"plan 64 TiB in {COUNT:,} regions", *samples, Measure.ALONE, 5e-3, MILLISECONDS)
    samples = pace.alone(statement("build().memory.close()", build=builder.plan().build))
    yield Result("plans", f"build and close {COUNT:,} regions", *samples, Measure.ALONE, 200e-3, MILLISECONDS)


def room(pace: Pace) -> Iterator[Result]:
    """10,000 reservations in an empty space, each a call; `benches/rust` has the same against the crate vm-allocator."""
    layout = AddressSpaceLayout(1 << 46, 0, 1 << 45)

    def reserve(number: int) -> float:
        begun = time.perf_counter()
        for _ in range(number):
            space = AddressSpace(layout)
            for _ in range(CALLS):
                space.reserve(0x1000, owner="bench")
        return time.perf_counter() - begun

    samples = Pace(min(pace.rounds, 11), 0).alone(reserve)
    yield Result("room", f"{CALLS:,} times reserve 4 KiB, first fit", *samples, Measure.ALONE, None, MILLISECONDS)


def memory_size() -> int:
    """4 GiB, or less where the host has less to spare."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(4 * GIB, free // 4 & -GIB) or GIB // 4


def populated(size: int, threads: int, **options: object) -> Side:
    """Maps and populates anonymous memory."""
    region = AddressSpaceRegion("ram", 0, size, mem_type="mmap", backing=BackingOptions(**options))  # type: ignore[arg-type]

    def run(number: int) -> float:
        seconds = 0.0
        for _ in range(number):
            space = AddressSpace.from_regions([region], AddressSpaceLayout(1 << 46, 0, 1 << 45))
            with space.map_memory() as memory:
                begun = time.perf_counter()
                memory.prealloc(threads=threads)
                seconds += time.perf_counter() - begun
        return seconds

    return run


def qemu(size: int, *, prealloc: bool) -> float:
    """Seconds for QEMU to start, make the memory and quit."""
    backend = f"memory-backend-ram,id=ram,size={size},prealloc={'on' if prealloc else 'off'},prealloc-threads=2"
    command = ["qemu-system-x86_64", "-S", "-nodefaults", "-display", "none", "-machine", "q35,memory-backend=ram"]
    command += ["-accel", "tcg", "-m", f"{size}B", "-object", backend, "-monitor", "stdio"]
    begun = time.perf_counter()
    subprocess.run(command, input=b"quit\n", stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def qemu_populated(size: int) -> Side:
    """Preallocation's share of QEMU's start and end."""

    def run(number: int) -> float:
        return sum(max(qemu(size, prealloc=True) - qemu(size, prealloc=False), 1e-9) for _ in range(number))

    return run


def prealloc(pace: Pace) -> Iterator[Result]:
    """Two threads against one, and against QEMU's two; few rounds, for each takes a second."""
    size = memory_size()
    few = Pace(rounds=min(pace.rounds, 7), seconds=0)
    for huge, goal in ((True, 1.7), (False, None)):
        kind = "huge" if huge else "small"
        two, one = populated(size, 2, transparent_hugepage=huge), populated(size, 1, transparent_hugepage=huge)
        samples = few.in_turns(two, one)
        yield Result("prealloc", f"2 threads against 1, {kind} pages", *samples, Measure.SPEED, goal, MILLISECONDS)
    if shutil.which("qemu-system-x86_64"):
        samples = few.in_turns(populated(size, 2, transparent_hugepage=True), qemu_populated(size))
        yield Result("prealloc", f"{size >> 30} GiB against QEMU", *samples, Measure.SPEED, 1.0, MILLISECONDS)
