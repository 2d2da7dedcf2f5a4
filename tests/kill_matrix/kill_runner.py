"""Runs cells in child processes: each ends in an exception or in the right bytes, in time, and leaves nothing behind."""

import faulthandler
import gc
import itertools
import os
import resource
import select
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext, redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np  # noqa: F401  its libraries would be left behind by the first array
from children import finish_child, fork, start_child
from dbs_address_space import AddressSpace, AddressSpaceError, AddressSpaceRegion
from host import huge_pages
from kernel_view import descriptors, maps
from kill_cells import HUGE, OPTIONS, SOURCES, TYPES, World, is_huge
from kill_events import DAX_ONLY, EVENTS, HUGE_ONLY
from memory_helpers import LAYOUT, PAGE, ram
from verbs import OTHER, VERBS, Verb, data

LARGE = 16 << 20
BATCH = 200
"""Cells that a child does while it lives."""
BUG_OF_PYTHON = "SystemError: deallocated bytearray object has exported buffers\n"
"""`RawIOBase.read` says so when it finds no room for its result, before it raises MemoryError."""
DEADLINE = 30
"""Seconds for one cell: a page that is never answered is given up much earlier."""


class Cell(NamedTuple):
    region_type: str
    source: str
    option: str
    event: str
    verb: Verb

    def __str__(self) -> str:
        return f"{self.verb} of {self.option} {self.source} {self.region_type}, {self.event}"

    @property
    def is_thinkable(self) -> bool:
        """Whether the event is one of such a source and type."""
        return (
            (self.event not in HUGE_ONLY or is_huge(self.source))
            and (self.event not in DAX_ONLY or self.region_type == "dax")
            and (self.event != "full" or "small" in self.source)
            and (self.event != "answered" or (self.option == "may block" and not is_huge(self.source)))
        )


@dataclass
class Count:
    """The cells that were run, and all that there are."""

    cells: int = 0
    possible: list[Cell] = field(default_factory=list)


class Impossible(Exception):
    """There is no such region, or this can't happen to it."""


def all_cells(directory: Path) -> list[Cell]:
    """Regions that can be made, by events, by verbs."""
    look = next(verb for verb in VERBS if verb.name == "regions")
    regions = [Cell(*axes, "untouched", look) for axes in itertools.product(TYPES, SOURCES, OPTIONS)]
    count = Count()
    red = dict(run(regions, directory, count))
    assert not red, red
    cells = [
        Cell(*region[:3], event, verb)
        for region in count.possible
        for event in EVENTS
        for verb in VERBS
        if not verb.unguarded
    ]
    return [cell for cell in cells if cell.is_thinkable]


def world_of(cell: Cell, directory: Path, stack: ExitStack) -> World:
    small = LARGE if EVENTS[cell.event].is_large else 4 * PAGE
    size = 2 * HUGE if is_huge(cell.source) else small
    world = World(directory, stack, size, TYPES[cell.region_type])
    try:
        region: AddressSpaceRegion = SOURCES[cell.source](world)
        region = region.replace(region_type=cell.region_type, **OPTIONS[cell.option])
        world.space = AddressSpace.from_regions([ram(OTHER, size), region], LAYOUT)
        world.memory = world.space.map_memory()
        world.host = world.memory.host_address(world.base)
        stack.callback(world.memory.close)
        if world.file is not None and (shown := os.pread(world.file, size, region.file_offset)).strip(b"\0"):
            world.there = shown.ljust(size, b"\0")
        elif EVENTS[cell.event].is_fresh:
            world.there = bytes(size)
        elif world.there is None:
            world.there = data(size)
            world.memory.write(world.base, world.there, force=True)
    except (AddressSpaceError, TypeError) as refused:
        raise Impossible from refused
    world.memory.write(OTHER, data(size))
    return world


def range_for(verb: Verb, size: int, *, is_large: bool) -> tuple[int, int]:
    """The middle of a region, where the second page begins of two that are huge; or all of it."""
    half = size // 2
    if verb.name == "discard":
        return half, half
    if verb.widths:
        return half, verb.fitting(PAGE)
    return (0, size) if is_large else (half - PAGE, 2 * PAGE)


def call(world: World, verb: Verb, *, is_large: bool) -> None:
    """An exception of ours, or what is right."""
    at, size = range_for(verb, world.size, is_large=is_large)
    addr = world.base + at
    try:
        result = verb(world.memory, addr, size)
        if verb.right is None or world.there is None:
            return
        right, after = verb.right(world.there[at : at + size])
        there = world.memory.read(addr, size)
    except (AddressSpaceError, MemoryError, OSError):
        return
    assert result == right, f"{result!r:.60} instead of {right!r:.60}"
    assert there == after, f"{there!r:.60} is there instead of {after!r:.60}"


def run_cell(cell: Cell, directory: Path) -> str:
    """Where the region was mapped, as /proc/self/maps says it."""
    happening = EVENTS[cell.event]
    with ExitStack() as stack:
        world = world_of(cell, directory, stack)
        event = happening.event(world)
        try:
            stack.enter_context(event)
        except (AddressSpaceError, OSError) as refused:
            raise Impossible from refused
        if not happening.forks:
            call(world, cell.verb, is_large=happening.is_large)
        elif problem := finish_child(*start_child(lambda: call(world, cell.verb, is_large=False)), DEADLINE / 2):
            raise AssertionError(problem)
    return f"{world.host:x}-{world.host + world.size:x} "


def checked(cell: Cell, directory: Path) -> str:
    """Complaints about a cell: none, as a rule."""
    before = held()
    try:
        with redirect_stderr(StringIO()) as said:
            place = run_cell(cell, directory)
            gc.collect()
    except Impossible:
        return "impossible"
    except BaseException as error:  # noqa: BLE001  whatever it is, it is not allowed here
        return f"{type(error).__name__}: {error}".replace("\n", " ")[:400]
    if words := said.getvalue().replace(BUG_OF_PYTHON, ""):
        return f"said: {words!r:.400}"
    for _ in range(100):
        # Of memory without a name nothing else is mapped in the very same place; a thread that ends had its own there, maybe.
        left = [*(held() - before), *(line for line in maps() if line.startswith(place) and "/" not in line)]
        if not left:
            return ""
        time.sleep(0.01)
    return f"left behind: {left}"


def held() -> Counter[str]:
    """Descriptors and mappings by what they are of; what has no name may be a thread's, and of that some stays."""
    names = (line.split(maxsplit=5)[5:] for line in maps())
    return Counter(descriptors().values()) + Counter(name[0] for name in names if name and name[0] != "[heap]")


def child(cells: Sequence[tuple[int, Cell]], directory: Path, write_end: int) -> None:
    """Reports each cell before and after it."""
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number, cell in cells:
        os.write(write_end, f"{number}\n".encode())
        outcome = checked(cell, directory)
        os.write(write_end, f"={outcome}\n".encode())
        if EVENTS[cell.event].is_last:
            return


def run(cells: Sequence[Cell], directory: Path, count: Count) -> Iterator[tuple[Cell, str]]:
    """The cells that are red, with the reason."""
    next_one = 0
    while next_one < len(cells):
        batch = list(enumerate(cells[next_one : next_one + BATCH], next_one))
        # Only for a batch: another run of these tests on the same host may wait for the pages.
        with huge_pages(8) if any(is_huge(cell.source) for _, cell in batch) else nullcontext():
            outcomes = list(one_child(batch, directory))
        for number, outcome in outcomes:
            next_one = number + 1
            count.cells += 1
            if outcome != "impossible":
                count.possible.append(cells[number])
            if outcome not in ("", "impossible"):
                yield cells[number], outcome


def one_child(cells: Sequence[tuple[int, Cell]], directory: Path) -> Iterator[tuple[int, str]]:
    """Each cell's outcome, until the child is dead or done."""
    reader, writer = os.pipe()
    process = fork()
    if process == 0:
        os.close(reader)
        try:
            child(cells, directory, writer)
        finally:
            os._exit(0)
    os.close(writer)
    current: int | None = None
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        pending, is_late = b"", False
        while True:
            is_late = not select.select([pipe], [], [], DEADLINE)[0]
            chunk = b"" if is_late else pipe.read(65536)
            if not chunk:
                break
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                if not line.startswith(b"="):
                    current = int(line)
                elif current is not None:
                    yield current, line[1:].decode()
                    current = None
    if is_late:
        os.kill(process, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if current is not None:
        yield current, "it hangs" if is_late else f"the process ended with {status}"
