"""Images against `cp` and plain reads of the same bytes, and their restores."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import spaces
from dbs_address_space import AddressSpace, DirtyPages, SavedSpace
from harness import MILLISECONDS, Measure, Pace, Result, Side

SIZE, DATA, EXTENTS = 4 << 30, 256 << 20, 256


def timed(work: object) -> Side:
    """A side that does its work so many times."""

    def side(loops: int) -> float:
        begin = perf_counter()
        for _ in range(loops):
            work()  # type: ignore[operator]
        return perf_counter() - begin

    return side


def guest() -> AddressSpace:
    """Four GiB, of which 256 extents of a MiB have data."""
    space = AddressSpace.from_regions([spaces.ram(spaces.FIRST, SIZE)], spaces.LAYOUT)
    memory = space.map_memory()
    block = os.urandom(DATA // EXTENTS)
    for at in range(EXTENTS):
        memory.write(spaces.FIRST + at * (SIZE // EXTENTS), block[at:] + block[:at])
    return space


def read_all(path: Path, runs: list[tuple[int, int]]) -> None:
    """The bytes of the image, into memory that was just made."""
    fd, target = os.open(path, os.O_RDONLY), os.memfd_create("fresh")
    os.ftruncate(target, SIZE)
    for start, size in runs:
        os.sendfile(target, fd, start, size)
    os.close(fd)
    os.close(target)


def run(pace: Pace) -> Iterator[Result]:
    """Saving, whole and by difference, and each way to restore."""
    pace = Pace(min(pace.rounds, 7), 0)
    with TemporaryDirectory() as folder, guest() as space:
        source = f"/proc/{os.getpid()}/fd/{space.memory.mapping(spaces.FIRST).fd}"
        ours, theirs = Path(folder, "ours.img"), Path(folder, "cp.img")

        def copy() -> None:
            subprocess.run(["cp", "--sparse=always", source, theirs], check=True)

        whole = pace.in_turns(timed(lambda: space.save(ours, sync=False).close()), timed(copy))
        yield Result("images", "save 4 GiB with 256 MiB", *whole, goal=0.95, unit=MILLISECONDS)
        full = SavedSpace.open(ours)
        pages = DirtyPages([(spaces.FIRST + at * (SIZE // 1000 & -4096), 4096) for at in range(1000)])
        child = Path(folder, "child.img")
        difference = timed(lambda: space.save(child, parent=full, dirty=pages, sync=False).close())
        again = timed(lambda: space.save(Path(folder, "again.img"), sync=False).close())
        yield Result("images", "save 1,000 pages", *pace.in_turns(difference, again), Measure.SPEED, 20, MILLISECONDS)
        runs = [(at.base - spaces.FIRST + (2 << 20), at.size) for at in space.memory.data_ranges()]
        restored = pace.in_turns(timed(lambda: full.restore().close()), timed(lambda: read_all(ours, runs)))
        yield Result("images", "restore, verified", *restored, goal=1.2, unit=MILLISECONDS)
        for mode in ("cow", "lazy"):
            alone = timed(lambda mode=mode: full.restore(mode).close())
            samples = pace.in_turns(alone, alone)[0]
            yield Result("images", f"restore, {mode}", samples, samples, Measure.ALONE, 0.002, MILLISECONDS)
