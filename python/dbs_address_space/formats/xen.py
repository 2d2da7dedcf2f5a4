"""Xen's core dumps: ELF with sections instead of segments. After docs/misc/dump-core-format.txt of Xen.

`.xen_pages` has the pages in any order, `.xen_pfn` the guest's frame of each, or `.xen_p2m` pairs of that and the machine's.
"""

from __future__ import annotations

import struct

from .stored import Piece, mapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dbs_address_space._core import AddressSpace

    from .source import Source

__all__ = ["read"]

SECTION = struct.Struct("<IIQQQQIIQQ")
NO_FRAME = (2**32 - 1, 2**64 - 1)
HEADER_NOTE = 0x200_0001
PAGE_SIZE = 4096


def read(source: Source, *, partial: bool = False, copy: bool = False) -> AddressSpace:
    """The memory of a guest, mapped where it lies."""
    sections = _sections(source)
    for wanted in (b".note.Xen", b".xen_pages"):
        if wanted not in sections:
            raise source.error(f"an ELF file without program headers, and without {wanted.decode()}, which Xen's have")
    page_size = _page_size(source, *sections[b".note.Xen"])
    return mapped(
        source, _pieces(sections[b".xen_pages"], _frames(source, sections), page_size), partial=partial, copy=copy
    )


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


def _frames(source: Source, sections: dict[bytes, tuple[int, int]]) -> Iterable[int]:
    """The guest's frame number of each page."""
    for name, fmt in ((b".xen_pfn", "<Q"), (b".xen_p2m", "<Q8x")):
        if name in sections:
            offset, size = sections[name]
            table = source.read(offset, size - size % struct.calcsize(fmt), name.decode())
            return (frame for (frame,) in struct.iter_unpack(fmt, table))
    raise source.error("neither .xen_pfn nor .xen_p2m tells where its pages belong")


def _pieces(pages: tuple[int, int], frames: Iterable[int], page_size: int) -> Iterator[Piece]:
    """Runs of pages that follow each other both in the file and in memory."""
    offset, _ = pages
    run = Piece(0, 0, offset)
    for frame in frames:
        if run.size and frame * page_size == run.end:
            run = run._replace(size=run.size + page_size)
        else:
            yield from [run] if run.size else []
            run = Piece(frame * page_size, page_size * (frame not in NO_FRAME), offset)
        offset += page_size
    yield from [run] if run.size else []
