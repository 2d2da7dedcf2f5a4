"""Spaces over the bytes of a dump: a few pieces of its file are mapped, many or packed ones are read when they are asked for."""

from __future__ import annotations

import fcntl
import os

from dbs_address_space._core import AddressSpace, AddressSpaceLayout, AddressSpaceRegion, _Pieces
from dbs_address_space._named_tuple import NamedTuple
from dbs_address_space.errors import AddressSpaceError, BackingError, InvalidArgument, Misaligned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeVar

    from dbs_address_space._core import _DumpReader

    from .source import Source

    Made = TypeVar("Made")

__all__ = ["Dump", "Piece", "checked", "mapped", "space_of"]

MOST_MAPPED = 512
"""How many pieces of a file are mapped; more of them are read. A mapping takes some 30 us to make, and a process has 65,530."""
MOST_READ = 64
"""How many regions pieces become that are read: of the gaps between them the smallest are in regions, where there are more."""
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


class Dump(NamedTuple):
    """The pieces of memory in a dump, and the reader of packed ones: those of others lie in the file as they are."""

    pieces: _Pieces
    reader: _DumpReader | None = None


def mapped(
    source: Source,
    pieces: Iterable[Piece] | Dump,
    *,
    absent: str = "error",
    partial: bool = False,
    copy: bool = False,
) -> AddressSpace:
    """A mapped, read-only space over pieces of a file, or over a copy of them.

    Memory that is not in the dump can't be read, or reads as zeroes with `absent="zero"`. What a cut file lacks is an error, or
    is not in the dump with `partial=True`.
    """
    if absent not in ("error", "zero"):
        raise InvalidArgument(f"absent={absent!r} is neither 'error' nor 'zero'")
    zero = absent == "zero"
    dump = pieces if isinstance(pieces, Dump) else Dump(checked(source, lambda: _Pieces(pieces, source.size, partial)))
    if not len(dump.pieces):
        raise source.error("there is no memory in it")
    space = space_of(source, _copied(source, dump, partial, zero) if copy else _regions(source.fd, dump, zero))
    try:
        space.map_memory()
    except (BackingError, Misaligned) as error:
        raise source.error(f"its memory can't be mapped: {error}") from error
    return space


def checked(source: Source, make: Callable[[], Made]) -> Made:
    """Calls `make`; a refusal of it becomes the source's, with its offset."""
    try:
        return make()
    except InvalidArgument as error:
        raise source.error(str(error), offset=error.address) from error


def _regions(fd: int, dump: Dump, zero: bool) -> Iterator[AddressSpaceRegion]:  # noqa: FBT001  as it was found
    """The regions of a dump in a file, and those that it lacks."""
    if dump.reader is None and len(dump.pieces) <= MOST_MAPPED:
        return _in_place(fd, dump.pieces, zero)
    return _read(dump.reader or dump.pieces.reader(fd, zero), dump.pieces, zero)


def _in_place(fd: int, pieces: _Pieces, zero: bool) -> Iterator[AddressSpaceRegion]:  # noqa: FBT001  as it was found
    """A region for each piece, mapped where it lies."""
    # A region made from another one shares its descriptor: a dump of many pieces takes one.
    first = AddressSpaceRegion.from_file(0, 1, fd, prot_flags="r--")
    lacking = []
    for base, size, offset in pieces.all():
        if offset is not None:
            yield first.replace(base=base, size=size, file_offset=offset)
        elif zero:
            yield AddressSpaceRegion("ram", base, size, mem_type="mmap", prot_flags="r--")
        else:
            lacking.append((base, size))
    yield from _lacking(lacking)


def _read(reader: _DumpReader, pieces: _Pieces, zero: bool) -> Iterator[AddressSpaceRegion]:  # noqa: FBT001  as it was found
    """A region for pieces that touch, whose bytes are read when they are asked for."""
    stored, lacking = pieces.regions(MOST_READ, zero)
    yield from (reader.region(base, size) for base, size in stored)
    yield from _lacking(lacking)


def _lacking(ranges: Iterable[tuple[int, int]]) -> Iterator[AddressSpaceRegion]:
    for number, (base, size) in enumerate(ranges, 1):
        name = NOT_IN_DUMP if number == 1 else f"{NOT_IN_DUMP}#{number}"
        yield AddressSpaceRegion("ram", base, size, mem_type="mmap", prot_flags="---", name=name)


def _copied(source: Source, dump: Dump, partial: bool, zero: bool) -> list[AddressSpaceRegion]:  # noqa: FBT001  as they were given
    """The regions of a copy, which nobody can change or cut."""
    reader = dump.reader or dump.pieces.reader(source.fd, zero)
    fd = os.memfd_create("dbs-address-space dump", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        pieces = checked(source, lambda: reader.copy_to(fd, dump.pieces, partial, zero))
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
        return list(_regions(fd, Dump(pieces), zero))
    finally:
        os.close(fd)


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
