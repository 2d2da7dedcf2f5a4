"""Tables that an x86-64 processor wants in memory before it runs in long mode: pages and segments."""

from __future__ import annotations

import struct
from array import array

from ._core import checked_int, checked_size
from .errors import InvalidAddressRange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import SupportsIndex

__all__ = ["gdt", "page_tables"]

LEVELS = {1 << 21: 3, 1 << 30: 2}
"""The tables on the way to a page, by its size."""
TABLE_SIZE, ENTRIES = 4096, 512
PRESENT_WRITABLE, LARGE = 0b11, 1 << 7
MOST = 1 << 47
"""The end of the lower half of virtual addresses."""
FLAT_CODE, FLAT_DATA = 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF


def page_tables(base: SupportsIndex, size: SupportsIndex | str, *, page_size: SupportsIndex | str = "2MiB") -> bytes:
    """Page tables that lie at `base` in the guest and map the virtual addresses from 0 to `size` to the same physical ones.

    The top table comes first: CR3 is `base`, a multiple of 4 KiB. `size` is in bytes, whole pages of 2 MiB or 1 GiB, up to
    128 TiB. All pages can be read, written and executed, by the kernel only. Raises `InvalidAddressRange`.

    >>> tables = page_tables(0x1000, "6GiB")
    >>> len(tables), tables[:8].hex()
    (32768, '0320000000000000')
    """
    base, size, page = checked_int(base, "base"), checked_size(size, "size"), checked_size(page_size, "page_size")
    if page not in LEVELS:
        raise InvalidAddressRange(f"page_size {page:#x} must be 2MiB or 1GiB")
    if not 0 < size <= MOST or size % page:
        raise InvalidAddressRange(f"size {size:#x} must be whole pages of {page:#x} bytes, up to {MOST:#x}")
    if base % TABLE_SIZE:
        raise InvalidAddressRange(f"base {base:#x} must be a multiple of {TABLE_SIZE:#x}")
    counts = [size // page]
    while len(counts) < LEVELS[page]:
        counts.append(-(-counts[-1] // ENTRIES))
    tables, at = bytearray(), base
    for count in reversed(counts[1:]):
        at += -(-count // ENTRIES) * TABLE_SIZE
        _add(tables, range(at | PRESENT_WRITABLE, at + count * TABLE_SIZE, TABLE_SIZE))
    _add(tables, range(PRESENT_WRITABLE | LARGE, size, page))
    return bytes(tables)


def _add(tables: bytearray, entries: range) -> None:
    """Adds entries, and empty ones up to the end of their last table."""
    for first in range(0, len(entries), ENTRIES):
        tables += array("Q", entries[first : first + ENTRIES]).tobytes().ljust(TABLE_SIZE, b"\0")


def gdt() -> bytes:
    """A global descriptor table for long mode: selector 0x10 is flat code, 0x18 flat data, as Linux's 64-bit boot protocol wants.

    >>> len(gdt()), gdt()[0x10:0x18].hex()
    (32, 'ffff0000009baf00')
    """
    return struct.pack("<4Q", 0, 0, FLAT_CODE, FLAT_DATA)
