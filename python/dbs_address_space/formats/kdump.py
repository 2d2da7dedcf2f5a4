"""Compressed dumps of kdump, by makedumpfile or QEMU. After IMPLEMENTATION of makedumpfile and what QEMU writes.

Two bitmaps say which pages there were, and which are in the file; each of the latter has a descriptor. Zero pages share one.
"""

from __future__ import annotations

from dbs_address_space._core import _DumpReader, _Pieces
from dbs_address_space._named_tuple import NamedTuple

from .stored import Dump, checked, mapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dbs_address_space._core import AddressSpace

    from .source import Source

__all__ = ["read"]

BLOCK_SIZES = (4096, 8192, 16384, 32768, 65536)
AT_STATUS, INCOMPLETE = 424, 8
NOT_READ = {2: "LZO", 0x20: "Zstd"}
"""Methods of packing in the status of a dump; a page that is stored says so itself."""
AT_SPLIT, AT_FRAMES = 12, 96
WIDE = 6
"""The first version whose number of pages has 64 bits."""


class _Header(NamedTuple):
    block: int
    bitmap_at: int
    bitmap_size: int
    frames: int


def read(source: Source, *, absent: str = "error", partial: bool = False, copy: bool = False) -> AddressSpace:
    """The memory of a dump, whose pages are unpacked when they are asked for, or now with `copy`."""
    header = _header(source)
    bitmap = source.read(header.bitmap_at, header.bitmap_size, "the bitmaps")
    half = len(bitmap) // 2
    there, stored = bitmap[:half], bitmap[half:]
    pieces = checked(source, lambda: _Pieces.of_kdump(there, stored, header.frames, header.block))
    at = header.bitmap_at + header.bitmap_size
    reader = _DumpReader.of_kdump(source.fd, pieces, header.block, stored, at, absent == "zero")
    return mapped(source, Dump(pieces, reader), absent=absent, partial=partial, copy=copy)


def _header(source: Source) -> _Header:
    (version,) = source.unpack("<i", 8, "the header")
    status, block, blocks, bitmap_blocks, frames = source.unpack("<IiiII", AT_STATUS, "the header")
    if block not in BLOCK_SIZES:
        raise source.error(f"blocks of {block} bytes: they have 4 KiB to 64 KiB, a power of two", offset=AT_STATUS + 4)
    if status & INCOMPLETE:
        raise source.error("makedumpfile says that the dump is incomplete", offset=AT_STATUS)
    for method, name in NOT_READ.items():
        if status & method:
            raise source.error(
                f"its pages are packed by {name}, which is not read: makedumpfile -c packs by zlib", offset=AT_STATUS
            )
    (split,) = source.unpack("<i", block + AT_SPLIT, "the second header")
    if split:
        raise source.error("one of several files of a split dump: put them together with makedumpfile --reassemble")
    if version >= WIDE:
        (wide,) = source.unpack("<Q", block + AT_FRAMES, "the second header")
        frames = wide or frames
    return _Header(block, (1 + blocks) * block, bitmap_blocks * block, frames)
