"""Guest memory written to files: no page that nobody has written is allocated, and zeroes become holes."""

from __future__ import annotations

import time

from dbs_address_space.progress import Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from dbs_address_space._core import AddressSpace, AddressSpaceRegion, GuestMemory
    from dbs_address_space.ranges import AddressRange

__all__ = ["Ticker", "memory_regions", "write_sparse"]

STEP = 64 << 20
"""How much is looked through, and then copied, at a time."""
INTERVAL = 0.05
"""At least these seconds between two calls of a progress function."""


class Ticker:
    """Counts the bytes that are done for a progress function."""

    total: int
    """The bytes that there are to do."""

    def __init__(self, progress: Callable[[Progress], object] | None) -> None:
        """Takes the function, or none."""
        self._progress, self.total, self._done = progress, 0, 0
        self._started = self._told = time.monotonic()

    def __call__(self, count: int) -> None:
        """Tells of more bytes that are done, not too often."""
        self._done += count
        now = time.monotonic()
        if self._progress and (now - self._told >= INTERVAL or self._done == self.total):
            self._told = now
            self._progress(Progress("dump", self._done, self.total, self._done / max(now - self._started, 1e-9)))


def memory_regions(space: AddressSpace) -> tuple[list[AddressSpaceRegion], list[AddressSpaceRegion]]:
    """RAM and firmware of a mapped space by address: what can be read, and what can't. Raises `NotMapped`."""
    regions = [region for region in space.memory.regions if region.region_type.value in ("ram", "firmware")]
    return [region for region in regions if region.prot_flags & 1], [
        region for region in regions if not region.prot_flags & 1
    ]


def write_sparse(memory: GuestMemory, base: int, size: int, file: BinaryIO, tick: Ticker) -> None:
    """Writes a range at the file's position. Pages of zeroes become holes, so there must be nothing behind it yet."""
    position = file.tell()
    for start in range(base, base + size, STEP):
        end = min(start + STEP, base + size)
        for low, high in _data(start, end, memory.find_zero_pages(start, end)):
            file.seek(position + low - base)
            memory.write_to(file, low, high - low)
        tick(end - start)
    file.truncate(position + size)
    file.seek(position + size)


def _data(start: int, end: int, zeroes: tuple[AddressRange, ...]) -> Iterator[tuple[int, int]]:
    """The parts of a range between its zeroes."""
    for zero in zeroes:
        if start < zero.base:
            yield start, zero.base
        start = zero.end
    if start < end:
        yield start, end
