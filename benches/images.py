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
from harness import MEBIBYTES, MICROSECONDS, MILLISECONDS, Measure, Pace, Result, Side, timed

SIZE, DATA, EXTENTS = 4 << 30, 256 << 20, 256
SMALL = SIZE >> 3
TOUCHES = 200


def guest(size: int = SIZE) -> AddressSpace:
    """Four GiB, or another size, a sixteenth of which has data, in extents of a MiB."""
    space = AddressSpace.from_regions([spaces.ram(spaces.FIRST, size)], spaces.LAYOUT)
    memory = space.map_memory()
    block = os.urandom(DATA // EXTENTS)
    for at in range(EXTENTS * size // SIZE):
        memory.write(spaces.FIRST + at * (SIZE // EXTENTS), block[at:] + block[:at])
    return space


def write_all(path: Path, space: AddressSpace) -> None:
    """All bytes of a small guest, zeroes among them."""
    with path.open("wb") as file:
        space.memory.write_to(file, spaces.FIRST, SMALL)


def first_touches(image: SavedSpace) -> Side:
    """The first reads in chunks of memory that is not there yet."""

    def side(loops: int) -> float:
        with image.restore("lazy", rate=0) as space:
            read, step = space.memory.read_u64, SIZE // EXTENTS
            begin = perf_counter()
            for at in range(loops * TOUCHES):
                read(spaces.FIRST + at % EXTENTS * step)
            return (perf_counter() - begin) / TOUCHES

    return side


def chunk_reads(path: Path) -> Side:
    """Reads of 64 KiB of the same places, from a file that is in memory."""

    def side(loops: int) -> float:
        fd, step = os.open(path, os.O_RDONLY), SIZE // EXTENTS
        begin = perf_counter()
        for at in range(loops * TOUCHES):
            os.pread(fd, 1 << 16, (2 << 20) + at % EXTENTS * step)
        seconds = (perf_counter() - begin) / TOUCHES
        os.close(fd)
        return seconds

    return side


def fill(image: SavedSpace) -> None:
    """Restores it lazily, and waits for all."""
    with image.restore("lazy") as space:
        space.wait_restored()


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

        def copy_synced() -> None:
            copy()
            with theirs.open() as file:
                os.fsync(file)

        whole = pace.in_turns(timed(lambda: space.save(ours, sync=False).close()), timed(copy))
        yield Result("images", "save 4 GiB with 256 MiB", *whole, goal=0.95, unit=MILLISECONDS)
        synced = pace.in_turns(timed(lambda: space.save(ours).close()), timed(copy_synced))
        yield Result("images", "the same, on the disk", *synced, goal=0.95, unit=MILLISECONDS)
        full = SavedSpace.open(ours)
        on_disk, data = ours.stat().st_blocks << 9, full.data_size
        yield Result("images", "file, of its data", [on_disk] * 2, [data] * 2, goal=1.02, unit=MEBIBYTES)
        with guest(SMALL) as small:
            sparse = timed(lambda: small.save(Path(folder, "small.img"), sync=False).close())
            dense = pace.in_turns(sparse, timed(lambda: write_all(theirs, small)))
            yield Result("images", "save 512 MiB, a dense write", *dense, Measure.SPEED, 20, MILLISECONDS)
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
        touches = pace.in_turns(first_touches(full), chunk_reads(ours))
        yield Result("images", "lazy: first touch, a read of 64 KiB", *touches, goal=3, unit=MICROSECONDS)
        all_of_it = pace.in_turns(timed(lambda: fill(full)), timed(lambda: full.restore().close()))
        yield Result("images", "lazy: all, a copy", *all_of_it, goal=2, unit=MILLISECONDS)
    yield from mapped_at_any_size(pace)


def mapped_at_any_size(pace: Pace) -> Iterator[Result]:
    """A map of the file takes as long for a guest of 16 GiB as for one of 256 MiB."""
    for size in (256 << 20, 16 << 30):
        with (
            TemporaryDirectory() as folder,
            AddressSpace.from_regions([spaces.ram(spaces.FIRST, size)], spaces.LAYOUT) as space,
        ):
            space.map_memory()
            saved = space.save(Path(folder, "vm.img"), sync=False)
            alone = timed(lambda saved=saved: saved.restore("cow").close())
            samples = pace.in_turns(alone, alone)[0]
            yield Result(
                "images", f"restore, cow, {size >> 20} MiB", samples, samples, Measure.ALONE, 0.002, MILLISECONDS
            )
