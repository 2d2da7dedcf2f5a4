"""Compressed dumps of kdump, by makedumpfile or QEMU. After IMPLEMENTATION of makedumpfile and what QEMU writes.

Two bitmaps say which pages there were, and which are in the file; each of the latter has a descriptor. Zero pages share one.
"""

from __future__ import annotations

import struct
import zlib

from dbs_address_space._core import unpack_snappy
from dbs_address_space._named_tuple import NamedTuple
from dbs_address_space.errors import FormatError, InvalidArgument

from .bits import runs
from .unpacked import Unpacked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dbs_address_space._core import AddressSpace

    from .source import Source

__all__ = ["read"]

BLOCK_SIZES = (4096, 8192, 16384, 32768, 65536)
DESCRIPTOR = struct.Struct("<QII8x")
ZLIB, SNAPPY = 1, 4
OTHERS = {2: "LZO", 0x20: "Zstd"}
AT_STATUS, INCOMPLETE = 424, 8
AT_SPLIT, AT_FRAMES = 12, 96
WIDE = 6
"""The first version whose number of pages has 64 bits."""


class _Header(NamedTuple):
    block: int
    bitmap_at: int
    bitmap_size: int
    frames: int


def read(source: Source, *, absent: str = "error", partial: bool = False) -> AddressSpace:
    """The memory of a dump, unpacked. A damaged page is an error, or not in the dump with `partial=True`."""
    header = _header(source)
    bitmap = source.read(header.bitmap_at, header.bitmap_size, "the bitmaps")
    half = len(bitmap) // 2
    there, stored = bitmap[:half], bitmap[half:]
    left_out = (int.from_bytes(there, "little") & ~int.from_bytes(stored, "little")).to_bytes(half, "little")
    with Unpacked(source) as memory:
        last, page = None, b""
        for base, descriptor in _descriptors(source, header, stored):
            try:
                # All pages of zeroes have one descriptor's data.
                page = page if descriptor == last else _page(source, header.block, base, descriptor)
                memory.add(base, page)
                last = descriptor
            except FormatError:
                if not partial:
                    raise
                memory.add_absent(base, header.block)
        for begin, end in runs(left_out, header.frames):
            memory.add_absent(begin * header.block, (end - begin) * header.block)
        return memory.space(absent=absent)


def _header(source: Source) -> _Header:
    (version,) = source.unpack("<i", 8, "the header")
    status, block, blocks, bitmap_blocks, frames = source.unpack("<IiiII", AT_STATUS, "the header")
    if block not in BLOCK_SIZES:
        raise source.error(f"blocks of {block} bytes: they have 4 KiB to 64 KiB, a power of two", offset=AT_STATUS + 4)
    if status & INCOMPLETE:
        raise source.error("makedumpfile says that the dump is incomplete", offset=AT_STATUS)
    (split,) = source.unpack("<i", block + AT_SPLIT, "the second header")
    if split:
        raise source.error("one of several files of a split dump: put them together with makedumpfile --reassemble")
    if version >= WIDE:
        (wide,) = source.unpack("<Q", block + AT_FRAMES, "the second header")
        frames = wide or frames
    return _Header(block, (1 + blocks) * block, bitmap_blocks * block, frames)


def _descriptors(source: Source, header: _Header, stored: bytes) -> Iterator[tuple[int, tuple[int, int, int]]]:
    """The address of each page in the file, and where it lies there: offset, size and flags."""
    at = header.bitmap_at + header.bitmap_size
    for begin, end in runs(stored, header.frames):
        table = source.read(at, (end - begin) * DESCRIPTOR.size, "the descriptors of pages")
        for frame, descriptor in zip(range(begin, end), DESCRIPTOR.iter_unpack(table), strict=True):
            yield frame * header.block, descriptor
        at += len(table)


def _page(source: Source, block: int, base: int, descriptor: tuple[int, int, int]) -> bytes:
    offset, size, flags = descriptor
    what = f"the page at {base:#x}"
    if size > block:
        raise source.error(f"{what} has {size:#x} bytes, more than a block", offset=offset)
    data = source.read(offset, size, what)
    if flags & ZLIB:
        data = _inflated(source, data, block, what, offset)
    elif flags & SNAPPY:
        data = _unpacked(source, data, what, offset)
    elif flags:
        name = OTHERS.get(flags & sum(OTHERS), f"method {flags:#x}")
        raise source.error(
            f"{what} is packed by {name}, which is not read: makedumpfile -c packs by zlib", offset=offset
        )
    if len(data) != block:
        raise source.error(f"{what} has {len(data):#x} of {block:#x} bytes", offset=offset)
    return data


def _inflated(source: Source, data: bytes, block: int, what: str, offset: int) -> bytes:
    """A block, and no more than a byte beyond it."""
    unpacker = zlib.decompressobj()
    try:
        return unpacker.decompress(data, block + 1)
    except zlib.error as error:
        raise source.error(f"{what} can't be unpacked: {error}", offset=offset) from error


def _unpacked(source: Source, data: bytes, what: str, offset: int) -> bytes:
    try:
        return unpack_snappy(data)
    except InvalidArgument as error:
        raise source.error(f"{what} can't be unpacked: {error}", offset=offset) from error
