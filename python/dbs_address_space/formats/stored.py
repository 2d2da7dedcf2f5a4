"""Spaces over the bytes of a dump: where they lie in the file, they are mapped and not copied."""

from __future__ import annotations

import os
from operator import itemgetter

from dbs_address_space._core import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
from dbs_address_space._named_tuple import NamedTuple
from dbs_address_space.errors import AddressSpaceError, BackingError, InvalidArgument, Misaligned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .source import Source

__all__ = ["Piece", "mapped", "space_of"]

MOST_PIECES = 16384
"""How many pieces of a file are mapped; more of them are copied. The kernel gives a process 65,530 mappings."""
NOT_IN_DUMP = "not in the dump"
MIN_END = 1 << 52
"""Where an address space ends whose dump does not reach further: what x86 processors have at most."""


class Piece(NamedTuple):
    """Guest physical memory, and its offset in a file; `None` for memory that there was and that the dump does not have."""

    base: int
    size: int
    offset: int | None

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.base + self.size

    @property
    def shift(self) -> int | None:
        """The distance of file and memory, which pieces have in common that go on in both alike."""
        return None if self.offset is None else self.offset - self.base

    def __str__(self) -> str:
        return f"[{self.base:#x}, {self.end:#x})"


def mapped(source: Source, pieces: Iterable[Piece], *, absent: str = "error", partial: bool = False) -> AddressSpace:
    """A mapped, read-only space over pieces of a file.

    Memory that is not in the dump can't be read, or reads as zeroes with `absent="zero"`. What a cut file lacks is an error, or
    is not in the dump with `partial=True`.
    """
    if absent not in ("error", "zero"):
        raise InvalidArgument(f"absent={absent!r} is neither 'error' nor 'zero'")
    there = [part for piece in pieces for part in _there(source, piece, partial)]
    joined = _joined(source, there)
    if not joined:
        raise source.error("there is no memory in it")
    fd, joined = _few(source, joined)
    try:
        if len(joined) > MOST_PIECES:
            raise source.error(f"its memory is in {len(joined)} pieces; {MOST_PIECES} can be mapped")
        space = space_of(source, _regions(fd, joined, absent))
    finally:
        if fd != source.fd:
            os.close(fd)
    try:
        space.map_memory()
    except (BackingError, Misaligned) as error:
        raise source.error(f"its memory can't be mapped: {error}") from error
    return space


def _there(source: Source, piece: Piece, partial: bool) -> Iterable[Piece]:  # noqa: FBT001  as it was given
    """The piece as far as the file has it."""
    if piece.base < 0 or piece.size < 1 or piece.end > 2**64 - 1:
        raise source.error(f"{piece.size:#x} bytes at {piece.base:#x} are not a range of addresses below 2^64 - 1")
    if piece.offset is None:
        return [piece]
    there = min(max(source.size - piece.offset, 0), piece.size)
    if there == piece.size:
        return [piece]
    if not partial:
        source.check(piece.offset, piece.size, f"the memory {piece}")
    parts = [Piece(piece.base, there, piece.offset), Piece(piece.base + there, piece.size - there, None)]
    return [part for part in parts if part.size]


def _joined(source: Source, pieces: list[Piece]) -> list[Piece]:
    """By address, with one piece for what goes on; the same bytes twice are taken once, other ones at one address are refused."""
    if not pieces:
        return []
    ordered = sorted(pieces, key=itemgetter(0, 1))
    joined: list[Piece] = []
    first, end, shift = ordered[0], ordered[0].end, ordered[0].shift
    for piece in ordered:
        base, size, offset = piece
        goes_on = shift is None if offset is None else offset - base == shift
        if goes_on and base <= end:
            end = max(end, base + size)
        elif base >= end:
            joined.append(first._replace(size=end - first.base))
            first, end, shift = piece, base + size, piece.shift
        else:
            last = first._replace(size=end - first.base)
            raise source.error(f"{last} and {piece} overlap, and are not the same bytes")
    return [*joined, first._replace(size=end - first.base)]


def _few(source: Source, pieces: list[Piece]) -> tuple[int, list[Piece]]:
    """A descriptor and pieces of it that can be mapped: the source's own, or those of a copy in which touching ones go on."""
    if len(pieces) <= MOST_PIECES:
        return source.fd, pieces
    fd = os.memfd_create("dbs-address-space dump", os.MFD_CLOEXEC)
    try:
        copied = _joined(source, [_copied(source, piece, fd) for piece in pieces])
    except BaseException:
        os.close(fd)
        raise
    return fd, copied


def _copied(source: Source, piece: Piece, fd: int) -> Piece:
    """The piece behind what was copied before it."""
    if piece.offset is None:
        return piece
    at, done = os.lseek(fd, 0, os.SEEK_CUR), 0
    while done < piece.size:
        count = os.sendfile(fd, source.fd, piece.offset + done, piece.size - done)
        if not count:
            raise source.error(f"truncated while it was read: {piece} ends early", offset=piece.offset + done)
        done += count
    return piece._replace(offset=at)


def _regions(fd: int, pieces: list[Piece], absent: str) -> Iterable[AddressSpaceRegion]:
    # A region made from another one shares its descriptor: a dump of many pieces takes one.
    first = AddressSpaceRegion.from_file(0, 1, fd, prot_flags="r--")
    number = 0
    for piece in pieces:
        if piece.offset is not None:
            yield first.replace(base=piece.base, size=piece.size, file_offset=piece.offset)
        elif absent == "zero":
            yield AddressSpaceRegion("ram", piece.base, piece.size, mem_type="mmap", prot_flags="r--")
        else:
            number += 1
            name = NOT_IN_DUMP if number == 1 else f"{NOT_IN_DUMP}#{number}"
            yield AddressSpaceRegion("ram", piece.base, piece.size, mem_type="mmap", prot_flags="---", name=name)


def space_of(source: Source, regions: Iterable[AddressSpaceRegion], *, mem_end: int = 0) -> AddressSpace:
    """An unmapped space of regions as they are in a file, with a layout that allows them, and RAM up to `mem_end`."""
    regions = list(regions)
    ends = {region.region_type.value: region.end for region in sorted(regions, key=lambda region: region.end)}
    ram_end = max(ends.get("ram", 0), mem_end)
    windows = [
        (region.base, region.size)
        for region in regions
        if region.region_type.value in ("device", "dax") and region.base < ram_end
    ]
    try:
        layout = AddressSpaceLayout(max(MIN_END, ram_end, *ends.values()), 0, ram_end, mmio_windows=windows)
        return AddressSpace.from_regions(regions, layout)
    except AddressSpaceError as error:
        raise source.error(str(error)) from error
