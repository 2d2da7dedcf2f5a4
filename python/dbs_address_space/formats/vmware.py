"""VMware's suspended machines and snapshots: a `.vmem` of raw pages, and a `.vmss` or `.vmsn` which says where they belong."""

from __future__ import annotations

import os
from pathlib import Path

from .builtin import VMWARE
from .source import Source
from .stored import Piece, mapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dbs_address_space._core import AddressSpace

__all__ = ["read"]

PAGE = 4096
GROUP_SIZE, NAME_SIZE = 80, 64
LONG = (62, 63)
"""Sizes of a value that say: it has a header of its own."""


def read(
    source: Source, *, metadata: str | os.PathLike[str] | None = None, partial: bool = False, copy: bool = False
) -> AddressSpace:
    """The memory of a `.vmem`, mapped where it lies; its metadata are beside it, or `metadata`."""
    path = Path(source.path)
    if source.head.startswith(VMWARE):
        with _opened(source, path.with_suffix(".vmem"), "has its memory") as memory:
            return mapped(memory, _pieces(source, memory), partial=partial, copy=copy)
    beside = [name for suffix in (".vmss", ".vmsn") if (name := path.with_suffix(suffix)).exists()]
    with _opened(
        source, metadata or (beside or [path.with_suffix(".vmss")])[0], "tells where its memory belongs"
    ) as tags:
        if not tags.head.startswith(VMWARE):
            raise tags.error("these are not metadata of VMware's")
        return mapped(source, _pieces(tags, source), partial=partial, copy=copy)


def _opened(source: Source, path: str | os.PathLike[str], what: str) -> Source:
    try:
        opened = Source(path)
    except FileNotFoundError as error:
        problem = (
            f"there is no {os.fspath(path)}, which {what}; memory without a hole below 4 GiB is read by format='raw'"
        )
        raise source.error(problem) from error
    opened.format = source.format
    return opened


def _pieces(tags: Source, memory: Source) -> list[Piece]:
    """The regions of the metadata; a small guest has none, and begins at 0."""
    found = dict(_tags(tags))
    count = found.get(("regionsCount", ()), 0)
    if not count:
        return [Piece(0, memory.size, 0)]
    if count > tags.size:
        raise tags.error(f"{count} regions are more than it can tell of")
    return [_piece(tags, found, index) for index in range(count)]


def _piece(tags: Source, found: dict[tuple[str, tuple[int, ...]], int], index: int) -> Piece:
    """A region of the metadata, in pages there."""
    try:
        return Piece(*(found[name, (index,)] * PAGE for name in ("regionPPN", "regionSize", "regionPageNum")))
    except KeyError as error:
        raise tags.error(f"region {index} has no {error.args[0][0]}") from error


def _tags(source: Source) -> Iterator[tuple[tuple[str, tuple[int, ...]], int]]:
    """The numbers of the group `memory`, by their names and indices."""
    at, end = _group(source, b"memory")
    while at + 2 <= end:
        flags, name_size = source.unpack("<BB", at)
        if not name_size:
            return
        count, size = flags >> 6, flags & 0x3F
        name, indices = source.unpack(f"<{name_size}s{4 * count}s", at + 2, "a tag")
        at += 2 + name_size + 4 * count
        if size in LONG:
            stored, _, padding = source.unpack("<QQH", at, "the header of a long value")
            at += 18 + padding + stored
        else:
            value = int.from_bytes(source.read(at, size, "the value of a tag"), "little")
            numbers = tuple(int.from_bytes(indices[place : place + 4], "little") for place in range(0, 4 * count, 4))
            yield (name.decode(errors="replace"), numbers), value
            at += size


def _group(source: Source, wanted: bytes) -> tuple[int, int]:
    (count,) = source.unpack("<I", 8, "the number of groups")
    table = source.read(12, count * GROUP_SIZE, f"the table of {count} groups")
    for at in range(0, len(table), GROUP_SIZE):
        if table[at : at + NAME_SIZE].rstrip(b"\0") == wanted:
            numbers = table[at + NAME_SIZE : at + GROUP_SIZE]
            offset, size = int.from_bytes(numbers[:8], "little"), int.from_bytes(numbers[8:], "little")
            source.check(offset, size, f"the group {wanted.decode()}")
            return offset, offset + size
    raise source.error(f"no group {wanted.decode()}")
