"""Programs in guest memory: ELF files, and images as they are."""

from __future__ import annotations

import mmap
import os

from ._core import check_type
from ._named_tuple import NamedTuple, in_hex
from .errors import InvalidArgument
from .formats.elf_file import LOAD, ElfNote, headers, notes
from .formats.source import Source
from .ranges import AddressRange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    from typing_extensions import Buffer

    from ._core import GuestMemory
    from .formats.elf_file import ElfHeaders, Segment
    from .formats.source import Stream

    File: TypeAlias = str | os.PathLike[str] | Stream | Buffer

__all__ = ["ElfNote", "LoadedElf"]

PROGRAMS = (2, 3)
STEP = 1 << 20
"""How much is unpacked, or zeroed, at a time."""


class LoadedElf(NamedTuple):
    """A program in guest memory: the physical address of its entry, where its segments lie, and its notes.

    >>> LoadedElf(0x1000, (AddressRange(0x1000, 0x800),), ())
    LoadedElf(entry=0x1000, segments=(AddressRange(base=0x1000, size=0x800),), notes=())
    """

    entry: int
    segments: tuple[AddressRange, ...]
    notes: tuple[ElfNote, ...]

    def __repr__(self) -> str:
        return in_hex(self, "entry")


def load_elf(memory: GuestMemory, file: File) -> LoadedElf:
    """Does the work of `GuestMemory.load_elf`."""
    with Source(file, "file") as source:
        source.format = "elf"
        found = headers(source)
        if found.kind not in PROGRAMS:
            raise source.error(f"an ELF file of type {found.kind} is not a program: those are 2 and 3", offset=16)
        segments, its_notes = _loaded(source, found), notes(source, found.segments)
        for segment in segments:
            # Refused whole before the zeroes behind its bytes become pieces of data, however many of them it wants.
            if not memory.check_range(segment.physical, segment.size):
                memory.fill(segment.physical, segment.size)
        content = memoryview(mmap.mmap(source.fd, source.size, prot=mmap.PROT_READ))
        memory.writev(piece for segment in segments for piece in _pieces(content, segment))
        ranges = tuple(AddressRange(segment.physical, segment.size) for segment in segments)
        return LoadedElf(_entry(found.entry, segments), ranges, its_notes)


def _loaded(source: Source, found: ElfHeaders) -> list[Segment]:
    """The segments that are loaded, by physical address."""
    loaded = [segment for segment in found.segments if segment.kind == LOAD and segment.size]
    if not loaded:
        raise source.error("there is no segment to load in it")
    loaded.sort(key=lambda segment: segment.physical)
    end = 0
    for segment in loaded:
        if segment.physical < end or segment.physical + segment.size >= 1 << 64 or segment.stored > segment.size:
            range_ = f"[{segment.physical:#x}, {segment.physical + segment.size:#x})"
            raise source.error(f"the segment {range_} overlaps another, ends past 2^64, or has more bytes than that")
        source.check(segment.offset, segment.stored, f"the segment at {segment.physical:#x}")
        end = segment.physical + segment.size
    return loaded


def _pieces(content: memoryview, segment: Segment) -> Iterator[tuple[int, Buffer]]:
    yield segment.physical, content[segment.offset : segment.offset + segment.stored]
    zeroes, end = bytes(STEP), segment.physical + segment.size
    for addr in range(segment.physical + segment.stored, end, STEP):
        yield addr, zeroes[: end - addr]


def _entry(entry: int, segments: list[Segment]) -> int:
    """The physical address of an entry, which most files give as a virtual one, and Linux as a physical one."""
    holders = (segment for segment in segments if 0 <= entry - segment.virtual < segment.size)
    return next((entry - segment.virtual + segment.physical for segment in holders), entry)


def load_image(memory: GuestMemory, file: File, addr: int, compression: str | None, force: bool) -> int:  # noqa: FBT001  from Rust
    """Does the work of `GuestMemory.load_image`."""
    if compression is not None:
        check_type(compression, str, "compression")
        if compression != "gzip":
            raise InvalidArgument(f"compression={compression!r} must be 'gzip', or None for an image as it is")
    with Source(file, "file") as source:
        source.format = compression or "raw"
        content: Buffer = b""
        if compression:
            content = _unpacked(memory, source, addr)
        elif source.size:
            content = mmap.mmap(source.fd, source.size, prot=mmap.PROT_READ)
        memory.write(addr, content, force=force)
        return len(memoryview(content))


class _Reader:
    """The bytes of a source for `GzipFile`; the position of a user's file stays."""

    def __init__(self, source: Source) -> None:
        self._source, self._at = source, 0

    def read(self, size: int) -> bytes:
        data = os.pread(self._source.fd, size, self._at)
        self._at += len(data)
        return data


def _unpacked(memory: GuestMemory, source: Source, addr: int) -> bytearray:
    """The content of a gzip file, as far as there is memory for it: where more comes, the write of it is refused."""
    # Few want it, and a Python may lack it.
    import gzip  # noqa: PLC0415
    import zlib  # noqa: PLC0415

    content = bytearray()
    try:
        with gzip.GzipFile(fileobj=_Reader(source), mode="rb") as file:  # type: ignore[call-overload]  # no more is called
            while memory.check_range(addr, len(content)) and (part := file.read(STEP)):
                content += part
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise source.error(f"it can't be unpacked: {error}") from error
    return content
