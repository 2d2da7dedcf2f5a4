"""AVML dumps, version 2: as LiME, but each record's bytes are a stream of Snappy's framing format, and its length follows.

After AVML's documentation of its format and Snappy's of its frames. Blocks of zeroes are left out: the map is that of the file.
"""

from __future__ import annotations

import struct

from dbs_address_space._core import unpack_snappy
from dbs_address_space.errors import FormatError, InvalidArgument

from .unpacked import Unpacked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dbs_address_space._core import AddressSpace

    from .source import Source

__all__ = ["read"]

MAGIC, VERSION = 0x4C4D5641, 2
HEADER = struct.Struct("<IIQQ8x")
DATA, FIRST_SKIPPED, STREAM = (0, 1), 0x80, 0xFF
"""Kinds of chunks: what has bytes, the first that may be passed over, what a stream begins with."""
MOST = 1 << 17
"""A chunk that is larger has more than the 64 KiB that the format allows."""


def read(source: Source, *, partial: bool = False) -> AddressSpace:
    """The memory of a dump, unpacked; with `partial=True` up to what is damaged, the rest of whose record is not in the dump."""
    position = 0
    with Unpacked(source) as memory:
        while position < source.size:
            first, last = _record(source, position)
            try:
                position = _unpacked(source, position + HEADER.size, memory, first, last + 1)
            except FormatError:
                if not partial:
                    raise
                done = memory.reached(first)
                memory.add_absent(done, last + 1 - done)
                break
        return memory.space()


def _record(source: Source, position: int) -> tuple[int, int]:
    magic, version, first, last = HEADER.unpack(source.read(position, HEADER.size, "the header of a record"))
    if (magic, version) != (MAGIC, VERSION):
        raise source.error(f"no record of version {VERSION} begins here", offset=position)
    if last < first:
        raise source.error(f"a record ends at {last:#x}, before it begins at {first:#x}", offset=position)
    return first, last


def _unpacked(source: Source, start: int, memory: Unpacked, base: int, end: int) -> int:
    """Adds the memory of a record; where the next one begins."""
    position, range_ = start, f"the memory [{base:#x}, {end:#x})"
    while base < end:
        kind, size = _chunk(source, position, range_)
        if kind in DATA:
            data = _content(source, position, size, f"{range_} at {base:#x}")
            if base + len(data) > end:
                raise source.error(f"{range_} has more bytes than that", offset=position)
            memory.add(base, data)
            base += len(data)
        elif kind < FIRST_SKIPPED:
            raise source.error(f"{range_} has a chunk of unknown type {kind:#x}", offset=position)
        position += 4 + size
    (length,) = source.unpack("<Q", position, f"{range_}, its length,")
    if length != position - start:
        raise source.error(
            f"{range_} has {position - start:#x} packed bytes, and {length:#x} by its end", offset=position
        )
    return position + 8


def _chunk(source: Source, position: int, range_: str) -> tuple[int, int]:
    """The type of a chunk, and the bytes that follow its header."""
    (word,) = source.unpack("<I", position, range_)
    kind, size = word & 0xFF, word >> 8
    if kind in DATA and size > MOST:
        raise source.error(f"{range_} has a chunk of {size:#x} bytes, which can't be", offset=position)
    return kind, size


def _content(source: Source, position: int, size: int, what: str) -> bytes:
    try:
        return unpack_snappy(source.read(position, 4 + size, what), framed=True)
    except InvalidArgument as error:
        raise source.error(f"{what} can't be unpacked: {error}", offset=position) from error
