"""Guest memory written to files: no page that nobody has written is allocated, and zeroes become holes."""

from __future__ import annotations

import time

from dbs_address_space._named_tuple import NamedTuple
from dbs_address_space.progress import Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from dbs_address_space._core import AddressSpace, AddressSpaceRegion, GuestMemory
    from dbs_address_space.ranges import AddressRange

__all__ = ["Ticker", "memory_parts", "write_sparse"]

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


class Part(NamedTuple):
    """Addresses of a region, and what errors call it."""

    base: int
    size: int
    prot_flags: int
    region: str

    @property
    def last_addr(self) -> int:
        """The last of them."""
        return self.base + self.size - 1


def memory_parts(space: AddressSpace) -> tuple[list[Part], list[Part]]:
    """RAM and firmware of a mapped space by address: what can be read, and what can't. Raises `NotMapped`."""
    regions = [region for region in space.memory.regions if region.region_type.value in ("ram", "firmware")]
    parts = [part for region in regions for part in _parts(region)]
    return [part for part in parts if part.prot_flags & 1], [part for part in parts if not part.prot_flags & 1]


def _parts(region: AddressSpaceRegion) -> list[Part]:
    """A region as it is; of a dump, the parts that are there."""
    runs = region._runs() or [(region.base, region.size)]  # noqa: SLF001  of this package
    return [Part(base, size, int(region.prot_flags), str(region)) for base, size in runs]


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
