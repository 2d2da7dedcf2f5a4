"""ACPI's SRAT: which memory belongs to which node of a guest. RAM that may be plugged in is room of the layout, and no region.

After the ACPI specification. QEMU lists ranges of size 0, which mean nothing.
"""

from __future__ import annotations

import struct

from dbs_address_space._core import AddressSpaceRegion

from .memory_map import Names
from .stored import space_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dbs_address_space._core import AddressSpace

    from .source import Source

__all__ = ["read"]

ENTRIES = 48
MEMORY = struct.Struct("<xxIxxQQ4xI8x")
MEMORY_TYPE = 1
ENABLED, HOTPLUGGABLE, PERSISTENT = 1, 2, 4


def read(source: Source) -> AddressSpace:
    """The map of the memory that is there from the start; regions are named by their node."""
    regions, room, named = [], 0, Names()
    for node, base, size, flags in _memory(source):
        if flags & HOTPLUGGABLE:
            room = max(room, base + size)
        elif base + size < 1 << 64:
            kind = "device" if flags & PERSISTENT else "ram"
            regions.append(AddressSpaceRegion(kind, base, size, name=named.unique(f"node {node}")))
        else:
            raise source.error(f"{size:#x} bytes at {base:#x} are not a range of addresses below 2^64 - 1")
    if not regions:
        raise source.error("there is no memory in it")
    return space_of(source, regions, mem_end=min(room, 2**64 - 1))


def _memory(source: Source) -> Iterator[tuple[int, int, int, int]]:
    """Node, base, size and flags of each entry that is enabled."""
    (length,) = source.unpack("<I", 4, "the header")
    table = source.read(0, length, "the table")
    if sum(table) & 0xFF:
        raise source.error("the checksum is wrong")
    at = ENTRIES
    while at < length:
        kind, size = struct.unpack_from("<BB", table.ljust(at + 2, b"\0"), at)
        if size < 2 or at + size > length or (kind == MEMORY_TYPE and size != MEMORY.size):  # noqa: PLR2004  its own header
            raise source.error(f"an entry of type {kind} has {size} bytes", offset=at)
        if kind == MEMORY_TYPE:
            node, base, bytes_, flags = MEMORY.unpack_from(table, at)
            if flags & ENABLED and bytes_:
                yield node, base, bytes_, flags
        at += size
