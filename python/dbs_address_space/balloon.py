"""Pages that a guest gives back while it runs, as a virtio balloon device is told of them."""

from __future__ import annotations

import struct

from ._core import DirtyPages, GuestMemory, check_type, checked_int, copied_buffer, guessed
from ._named_tuple import NamedTuple, in_hex
from .errors import InvalidArgument
from .turn import Turn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import SupportsIndex

    from typing_extensions import Buffer

    from .ranges import AddressRange

__all__ = ["Balloon", "BalloonStats"]

_PAGE = 4096
"""The pages of a balloon, whatever those of the guest or of the host."""
_BYTES = ("B", "b", "c")


class BalloonStats(NamedTuple):
    """The numbers of a balloon: bytes in it, those given back to the host, reports of free pages, and their bytes.

    >>> BalloonStats(8192, 4096, 2, 1 << 20).reported
    1048576
    """

    size: int
    discarded: int
    reports: int
    reported: int

    def __repr__(self) -> str:
        return in_hex(self, "size", "discarded", "reported")


@guessed
class Balloon:
    """A balloon in a guest: pages in it are the host's until it is deflated, and read as zero then.

    Page lists are numbers of pages of 4 KiB, as the driver sends them: ints, an array of ints, or bytes with little-endian `u32`,
    which is what lies in the queue. Where the host's pages are larger, one is given back once all of it is in the balloon. Safe
    to use from any thread.

    >>> from dbs_address_space import AddressSpaceBuilder
    >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    >>> memory.fill(0, "4MiB", 1)
    >>> balloon = Balloon(memory)
    >>> balloon.inflate([1, 2, 7])
    12288
    >>> [str(pages) for pages in balloon], memory.read_u8(4096)
    (['[0x1000, 0x3000)', '[0x7000, 0x8000)'], 0)
    """

    def __init__(self, memory: GuestMemory) -> None:
        """Begins empty."""
        check_type(memory, GuestMemory, "memory")
        self._memory = memory
        self._pages = DirtyPages(page_size=_PAGE)
        self._discarded = self._reports = self._reported = 0
        self._turn = Turn("this balloon")

    def inflate(self, frames: Iterable[SupportsIndex] | Buffer) -> int:
        """Takes pages and gives them back to the host; returns how many bytes of them were not in the balloon before.

        Raises `UnmappedAddress` for a page that is not memory, and then takes none; else as `GuestMemory.discard` does.

        >>> import struct
        >>> from dbs_address_space import AddressSpaceBuilder
        >>> balloon = Balloon(AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory)
        >>> balloon.inflate(struct.pack("<3I", 5, 6, 5))
        8192
        """
        wanted = _pages_of(frames)
        with self._turn.taken():
            new = wanted - self._pages
            self._check(new)
            after = self._pages | new
            for pages in new:
                for given in self._discard(pages, after):
                    self._discarded += given
            self._pages = after
            return new.size

    def deflate(self, frames: Iterable[SupportsIndex] | Buffer) -> int:
        """Gives pages to the guest again, and returns how many bytes of them were in the balloon; they read as zero.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> balloon = Balloon(AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory)
        >>> balloon.inflate(range(8)), balloon.deflate([0, 100])
        (32768, 4096)
        """
        wanted = _pages_of(frames)
        with self._turn.taken():
            back = self._pages & wanted
            self._pages = self._pages - back
            return back.size

    def report_free(self, ranges: Iterable[tuple[SupportsIndex, SupportsIndex | str]]) -> int:
        """Gives ranges that the guest reports as free back to the host, and returns their bytes; they stay the guest's.

        `ranges` are `(addr, size)`, as free page reporting has them in its queue. The guest may use them again at any time, and
        finds zeroes. Only whole pages of the host are given back. Raises as `inflate` does.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> balloon = Balloon(AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory)
        >>> balloon.report_free([(0, "2MiB")])
        2097152
        >>> balloon.stats
        BalloonStats(size=0x0, discarded=0x0, reports=1, reported=0x20_0000)
        """
        free = DirtyPages(ranges, page_size=_PAGE)
        with self._turn.taken():
            self._check(free)
            before = self._reported
            for pages in free:
                for given in self._discard(pages, free):
                    self._reported += given
            self._reports += 1
            return self._reported - before

    @property
    def size(self) -> int:
        """The bytes in the balloon."""
        return self._pages.size

    @property
    def stats(self) -> BalloonStats:
        """The numbers of the balloon."""
        return BalloonStats(self._pages.size, self._discarded, self._reports, self._reported)

    def __iter__(self) -> Iterator[AddressRange]:
        """The ranges in the balloon, ascending and joined, as they are now."""
        return iter(self._pages)

    def __repr__(self) -> str:
        return f"Balloon({self.size:#x} bytes)"

    def _check(self, all_: DirtyPages) -> None:
        """Refuses pages that are not memory, with the first such address, before anything is given back."""
        for pages in all_:
            if not self._memory.check_range(*pages):
                self._memory.discard(*pages)

    def _discard(self, pages: AddressRange, all_: DirtyPages) -> Iterator[int]:
        """Gives back the host's pages that have one of these pages, and no other than those; yields the bytes of each step."""
        addr = pages.base
        while addr < pages.end:
            page_size = max(self._memory.mapping(addr).page_size, _PAGE)
            end = min(self._memory.mapping(addr).region.end, pages.end)
            low, high = addr // page_size * page_size, -(-end // page_size) * page_size
            for first in range(low, high, page_size) if page_size > _PAGE else ():
                if len(DirtyPages([(first, page_size)], page_size=_PAGE) - all_) == 0:
                    self._memory.discard(first, page_size)
                    yield page_size
            if page_size == _PAGE:
                self._memory.discard(addr, end - addr)
                yield end - addr
            addr = end


def _pages_of(frames: Iterable[SupportsIndex] | Buffer) -> DirtyPages:
    numbers = _numbers_in(frames)
    return DirtyPages(((checked_int(number, "frames") * _PAGE, _PAGE) for number in numbers), page_size=_PAGE)


def _numbers_in(frames: Iterable[SupportsIndex] | Buffer) -> Iterable[SupportsIndex]:
    """The items of an iterable or of a buffer; bytes are those of a queue."""
    try:
        with memoryview(frames) as view:  # type: ignore[arg-type]
            items = "<I" if view.format in _BYTES else view.format
    except TypeError:
        if not hasattr(frames, "__iter__"):
            kind = type(frames).__name__
            raise TypeError(f"frames must be an iterable of ints, or a buffer of u32, not {kind}") from None
        return frames  # type: ignore[return-value]
    try:
        return (number for (number,) in struct.iter_unpack(items, copied_buffer(frames, "frames")))
    except struct.error as error:
        raise InvalidArgument(f"frames is a buffer, but not one of whole integers: {error}") from error
