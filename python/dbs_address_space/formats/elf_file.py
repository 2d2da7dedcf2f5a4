"""The headers of an ELF file, after the ELF specification: its kind, its segments, its notes."""

from __future__ import annotations

import struct

from dbs_address_space._named_tuple import NamedTuple

from .source import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from typing import BinaryIO

    from typing_extensions import Buffer

__all__ = ["ElfNote", "elf_notes"]

MAGIC = b"\x7fELF"
BITS = {1: 32, 2: 64}
HEADERS = {32: "<16xHH4xIII6xHH6x", 64: "<16xHH4xQQQ6xHH6x"}
SEGMENTS = {32: struct.Struct("<6I4xI"), 64: struct.Struct("<I4x6Q")}
SECTION_INFO = {32: 28, 64: 44}
MANY = 0xFFFF
"""A number of program headers that says: it is in the first section header."""
LOAD, NOTE = 1, 4
MAX_NOTES = 4 << 20
"""The most bytes of notes that are looked at; 4,096 processors have a third of it."""


class Segment(NamedTuple):
    """A program header: its type, where its bytes are in the file, and where they belong."""

    kind: int
    offset: int
    virtual: int
    physical: int
    stored: int
    size: int
    align: int


class ProgramHeaders(NamedTuple):
    """The kind of a file (2 a program, 3 one that can be moved, 4 a core dump), its entry, and its headers as bytes."""

    bits: int
    kind: int
    entry: int
    stride: int
    table: bytes


class ElfHeaders(NamedTuple):
    """The kind of a file (2 a program, 3 one that can be moved, 4 a core dump), its entry, and its segments."""

    bits: int
    kind: int
    entry: int
    segments: list[Segment]


class ElfNote(NamedTuple):
    """A note of an ELF file: who defined it, its type among those of that owner, and its bytes.

    >>> ElfNote("VMCOREINFO", 0, b"OSRELEASE=6.1.0").content
    b'OSRELEASE=6.1.0'
    """

    owner: str
    kind: int
    content: bytes


def headers(source: Source) -> ElfHeaders:
    """The headers, wherever they are and whatever their size."""
    found = program_headers(source)
    header = SEGMENTS[found.bits]
    rows = struct.iter_unpack(f"{header.format}{found.stride - header.size}x", found.table)
    return ElfHeaders(found.bits, found.kind, found.entry, [Segment(*row) for row in rows])


def program_headers(source: Source) -> ProgramHeaders:
    """The same as they lie in the file: some dumps have more than 65,535."""
    identity = source.read(0, 16, "the ELF header")
    bits = BITS.get(identity[4])
    if identity[:4] != MAGIC or bits is None or identity[5:7] != b"\x01\x01":
        raise source.error("not a little-endian ELF file", offset=0)
    kind, _, entry, phoff, shoff, stride, count = source.unpack(HEADERS[bits], 0, "the ELF header")
    if count == MANY:
        (count,) = source.unpack("<I", shoff + SECTION_INFO[bits], "the number of program headers")
    if not count:
        raise source.error("no program headers")
    if stride < SEGMENTS[bits].size:
        raise source.error(f"program headers of {stride} bytes are too short", offset=54)
    table = source.read(phoff, count * stride, f"the table of {count} program headers")
    return ProgramHeaders(bits, kind, entry, stride, table)


def elf_notes(source: str | os.PathLike[str] | BinaryIO | Buffer) -> tuple[ElfNote, ...]:
    r"""The notes of an ELF file, such as the `VMCOREINFO` of a dump, or the entry of a kernel for Xen's boot protocol.

    `source` is as for `load`. Raises `FormatError` for another file, and for notes that reach out of it.

    >>> import struct
    >>> note = struct.pack("<III4s4s", 3, 4, 18, b"Xen", b"\0\0\0\1")
    >>> header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 4, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    >>> elf_notes(header + struct.pack("<IIQQQQQQ", 4, 0, 120, 0, 0, 20, 0, 4) + note)
    (ElfNote(owner='Xen', kind=18, content=b'\x00\x00\x00\x01'),)
    """
    with Source(source) as opened:
        opened.format = "elf"
        return notes(opened, headers(opened).segments)


def notes(source: Source, segments: list[Segment]) -> tuple[ElfNote, ...]:
    """The notes of all segments that have some."""
    found: list[ElfNote] = []
    room = MAX_NOTES
    for segment in segments:
        if segment.kind == NOTE:
            room -= segment.stored
            if room < 0:
                raise source.error(f"more than {MAX_NOTES >> 20} MiB of notes", offset=segment.offset)
            content = source.read(segment.offset, segment.stored, "the notes")
            found += _notes(source, segment, content)
    return tuple(found)


def _notes(source: Source, segment: Segment, content: bytes) -> list[ElfNote]:
    found, at, step = [], 0, 8 if segment.align == 8 else 4  # noqa: PLR2004  all but a few are aligned to 4 bytes
    while at + 12 <= len(content):
        name_size, size, kind = struct.unpack_from("<III", content, at)
        start = -(-(at + 12 + name_size) // step) * step
        if start + size > len(content):
            raise source.error("a note reaches behind its segment", offset=segment.offset + at)
        owner = content[at + 12 : at + 12 + name_size].rstrip(b"\0").decode("latin-1")
        found.append(ElfNote(owner, kind, content[start : start + size]))
        at = -(-(start + size) // step) * step
    return found
