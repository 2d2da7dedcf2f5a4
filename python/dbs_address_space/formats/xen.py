"""Xen's core dumps: ELF with sections instead of segments. After docs/misc/dump-core-format.txt of Xen.

`.xen_pages` has the pages in any order, `.xen_pfn` the guest's frame of each, or `.xen_p2m` pairs of that and the machine's.
"""

from __future__ import annotations

import struct

from dbs_address_space._core import _Pieces

from .stored import Dump, checked, mapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dbs_address_space._core import AddressSpace

    from .source import Source

__all__ = ["read"]

SECTION = struct.Struct("<IIQQQQIIQQ")
HEADER_NOTE = 0x200_0001
PAGE_SIZE = 4096


def read(source: Source, *, partial: bool = False, copy: bool = False) -> AddressSpace:
    """The memory of a guest, mapped where it lies."""
    sections = _sections(source)
    for wanted in (b".note.Xen", b".xen_pages"):
        if wanted not in sections:
            raise source.error(f"an ELF file without program headers, and without {wanted.decode()}, which Xen's have")
    page_size = _page_size(source, *sections[b".note.Xen"])
    at, _ = sections[b".xen_pages"]
    table, row = _frames(source, sections)
    pieces = checked(source, lambda: _Pieces.of_table(table, row, page_size, at, source.size, partial))
    return mapped(source, Dump(pieces), partial=partial, copy=copy)


def _sections(source: Source) -> dict[bytes, tuple[int, int]]:
    """Offset and size of each section, by its name."""
    (start,) = source.unpack("<Q", 40, "the ELF header")
    stride, count, names_at = source.unpack("<HHH", 58, "the ELF header")
    if stride < SECTION.size or names_at >= count:
        raise source.error(f"section headers of {stride} bytes, names in section {names_at} of {count}", offset=58)
    table = source.read(start, count * stride, "the section headers")
    headers = [SECTION.unpack_from(table, at) for at in range(0, len(table), stride)]
    names = source.read(headers[names_at][4], min(headers[names_at][5], 1 << 16), "the names of sections")
    return {names[header[0] :].partition(b"\0")[0]: (header[4], header[5]) for header in headers}


def _page_size(source: Source, offset: int, size: int) -> int:
    """The size that the header note tells; notes are name, content and type, each of whole 32-bit words."""
    end = offset + size
    while offset < end:
        name_size, content_size, kind = source.unpack("<III", offset, "a note")
        offset += 12 + -(-name_size // 4) * 4
        if kind == HEADER_NOTE:
            *_, page_size = source.unpack("<QQQQ", offset, "the note of the header")
            if page_size != PAGE_SIZE:
                raise source.error(f"pages of {page_size:#x} bytes; only 4 KiB are known", offset=offset + 24)
            return PAGE_SIZE
        offset += -(-content_size // 4) * 4
    raise source.error("no note tells the size of a page")


def _frames(source: Source, sections: dict[bytes, tuple[int, int]]) -> tuple[bytes, int]:
    """The table whose rows begin with the guest's frame number of each page, and the bytes of a row."""
    for name, row in ((b".xen_pfn", 8), (b".xen_p2m", 16)):
        if name in sections:
            offset, size = sections[name]
            return source.read(offset, size - size % row, name.decode()), row
    raise source.error("neither .xen_pfn nor .xen_p2m tells where its pages belong")
