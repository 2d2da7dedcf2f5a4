"""Guest memory as plain Python: what every verb must do, one bytearray a region."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from dbs_address_space import AccessDenied, AddressSpaceError, UnmappedAddress
from memory_helpers import PAGE

Need = Literal["r", "w", ""]
Refusal = tuple[type[AddressSpaceError], int]


@dataclass
class ModelRegion:
    """A region with memory, or a device region without."""

    base: int
    data: bytearray
    prot: str = "rw"
    is_device: bool = False
    is_direct: bool = True
    skew: int = 0
    """How far its first byte lies behind an aligned one in this process."""
    is_kept: bool = False
    """Whether its bytes are there again when it is taken out and put back."""
    dirty: set[int] = field(default_factory=set)
    """The guest's pages that were written."""

    @property
    def end(self) -> int:
        return self.base + len(self.data)

    def allows(self, need: Need) -> bool:
        return not self.is_device and need in self.prot


class Model:
    """Sorted regions."""

    def __init__(self, regions: list[ModelRegion]) -> None:
        self.regions = regions

    @property
    def end(self) -> int:
        return self.regions[-1].end if self.regions else 0

    def edges(self) -> list[int]:
        return [0, *(edge for region in self.regions for edge in (region.base, region.end))]

    def find(self, addr: int) -> ModelRegion | None:
        return next((region for region in self.regions if region.base <= addr < region.end), None)

    def pieces(self, addr: int, size: int) -> Iterator[tuple[ModelRegion, int, int]]:
        """The regions that share an address with a range, with the first and last offset in each."""
        for region in self.regions:
            low, high = max(addr, region.base), min(addr + size, region.end)
            if low < high:
                yield region, low - region.base, high - region.base

    def refusal(self, addr: int, size: int, need: Need) -> Refusal | None:
        """The exception of an access, and its first bad address."""
        at = addr
        while at < addr + size:
            region = self.find(at)
            if region is None or region.is_device:
                return UnmappedAddress, at
            if not region.allows(need):
                return AccessDenied, at
            at = region.end
        return None

    def get(self, addr: int, size: int) -> bytes:
        return b"".join(bytes(region.data[low:high]) for region, low, high in self.pieces(addr, size))

    def padded(self, addr: int, size: int, byte: int) -> bytes:
        padded = bytearray([byte]) * size
        for region, low, high in self.pieces(addr, size):
            if not region.is_device:
                padded[region.base + low - addr : region.base + high - addr] = region.data[low:high]
        return bytes(padded)

    def put(self, addr: int, data: bytes) -> None:
        for region, low, high in self.pieces(addr, len(data)):
            at = region.base + low - addr
            region.data[low:high] = data[at : at + high - low]
            region.dirty.update(range((region.base + low) // PAGE, (region.base + high - 1) // PAGE + 1))

    def drain(self) -> list[tuple[int, int]]:
        """The pages that hold what was written since the last time, as ranges."""
        pages = {page for region in self.regions for page in region.dirty}
        for region in self.regions:
            region.dirty.clear()
        return [(first * PAGE, (last - first + 1) * PAGE) for first, last in runs(sorted(pages))]

    def readable(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The readable parts of a range, joined where regions touch."""
        at, joined = start, b""
        for region, low, high in self.pieces(start, end - start):
            if not region.allows("r"):
                continue
            if region.base + low != at + len(joined):
                if joined:
                    yield at, joined
                at, joined = region.base + low, b""
            joined += region.data[low:high]
        if joined:
            yield at, joined

    def search(self, needle: bytes, start: int, end: int, align: int) -> Iterator[int]:
        for base, data in self.readable(start, end):
            at = data.find(needle)
            while at >= 0:
                if (base + at) % align == 0:
                    yield base + at
                at = data.find(needle, at + 1)

    def zero_pages(self, start: int, end: int) -> list[tuple[int, int]]:
        found: list[int] = []
        for region, low, high in self.pieces(start, end - start):
            first = -(-(region.base + low) // PAGE) * PAGE
            pages = range(first, region.base + high - PAGE + 1, PAGE) if region.allows("r") else ()
            found += (page for page in pages if self.get(page, PAGE) == bytes(PAGE))
        numbers = [page // PAGE for page in found]
        return [(first * PAGE, (last + 1 - first) * PAGE) for first, last in runs(numbers)]


def runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of neighbouring numbers."""
    breaks = [index for index, (one, two) in enumerate(pairwise(numbers), 1) if two != one + 1]
    for first, behind in pairwise([0, *breaks, len(numbers)]):
        if first < behind:
            yield numbers[first], numbers[behind - 1]


SHOWN = bytes(byte if 0x20 <= byte < 0x7F else ord(".") for byte in range(256))
LINE = re.compile(r"([0-9a-f]{16})(?:  ((?:[0-9a-f]{2}  ?)+) *\|(.{1,16})\|)?")
NOTE = re.compile(r"\[0x([0-9a-f_]+), 0x([0-9a-f_]+)\) has nothing to read")


def undump(text: str) -> list[tuple[int, bytes | None]]:
    """The bytes of a hexdump at their addresses, and `None` where there is nothing to read; touching bytes are joined."""
    shown: list[tuple[int, bytearray | None]] = []
    is_starred = False
    for line in text.splitlines():
        if line == "*":
            is_starred = True
            continue
        found = LINE.fullmatch(line)
        note = None if found else NOTE.fullmatch(line)
        assert note or found, line
        address = int(note[1] if note else found[1], 16)  # type: ignore[index]
        if is_starred:
            repeat(shown, address)
        is_starred = False
        if note:
            shown.append((address, None))
        elif found and found[2]:
            data = bytes.fromhex(found[2])
            assert found[3] == data.translate(SHOWN).decode()
            extend(shown, address, data)
    assert not is_starred, "a dump ends with an address"
    return [(base, None if data is None else bytes(data)) for base, data in shown]


def repeat(shown: list[tuple[int, bytearray | None]], address: int) -> None:
    """A star stands for lines that equal the one before it, up to the next address."""
    base, data = shown[-1]
    assert data
    missing = address - base - len(data)
    assert missing > 0
    assert missing % 16 == 0
    data += data[-16:] * (missing // 16)


def extend(shown: list[tuple[int, bytearray | None]], address: int, data: bytes) -> None:
    base, before = shown[-1] if shown else (0, None)
    if before is not None and base + len(before) == address:
        before += data
    else:
        shown.append((address, bytearray(data)))
