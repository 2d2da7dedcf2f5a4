"""ELF64 core dumps: of QEMU (`dump-guest-memory`), makedumpfile, cloud-hypervisor, VirtualBox, WinPmem; and our own.

QEMU's section headers may lie before the program headers, and its `e_ehsize` is wrong: neither
is relied on. A segment's physical address counts.
"""

from __future__ import annotations

import os
import struct

from .copying import memory_regions, write_sparse
from .elf_file import LOAD, MANY, headers
from .stored import Piece, mapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from dbs_address_space._core import AddressSpace, AddressSpaceRegion

    from .copying import Ticker
    from .source import Source

__all__ = ["read", "write"]

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SEGMENT = struct.Struct("<IIQQQQQQ")
IDENTITY = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
BITS, CORE = 64, 4
SECTION_SIZE = 64
MACHINES = {"x86_64": 62, "aarch64": 183}
PAGE = 4096


def read(source: Source, *, absent: str = "error", partial: bool = False) -> AddressSpace:
    """The memory of a dump, mapped where it lies. A tail that is not in the file was left out: it is not zero."""
    found = headers(source)
    if found.bits != BITS:
        raise source.error(f"a {found.bits}-bit ELF file: of dumps only ELF64 is read", offset=4)
    if found.kind != CORE:
        raise source.error(f"an ELF file of type {found.kind}, not a core dump, which is {CORE}", offset=16)
    segments = [segment for segment in found.segments if segment.kind == LOAD]
    is_virtual = any(0 < segment.virtual < 1 << 63 for segment in segments)
    if is_virtual and not any(segment.physical for segment in segments):
        raise source.error("it is the core of a process, whose segments have no physical addresses")
    # A dump of virtual addresses has a page once for each of them: only the first is looked at.
    places = {(segment.physical, segment.stored, segment.size, segment.offset) for segment in segments}
    pieces = [piece for place in places for piece in _pieces(source, *place)]
    return mapped(source, pieces, absent=absent, partial=partial)


def _pieces(source: Source, base: int, stored: int, size: int, offset: int) -> list[Piece]:
    if stored > size:
        raise source.error(f"the segment at {base:#x} has {stored:#x} bytes in the file and {size:#x} in memory")
    parts = [(base, stored, offset), (base + stored, size - stored, None)]
    return [Piece(*part) for part in parts if part[1]]


def write(space: AddressSpace, file: BinaryIO, tick: Ticker) -> None:
    """A segment for each region, by ascending address, as crash, drgn, gdb, makedumpfile and volatility3 all read it.

    What can't be read is a segment without bytes in the file.
    """
    readable, unreadable = memory_regions(space)
    tick.total = sum(region.size for region in readable)
    regions = sorted([*readable, *unreadable], key=lambda region: region.base)
    count = len(regions)
    offset = HEADER.size + count * SEGMENT.size + SECTION_SIZE
    places = []
    for region in regions:
        offset = -(-offset // PAGE) * PAGE + region.base % PAGE
        places.append((region, offset if region in readable else 0))
        offset += region.size if region in readable else 0
    file.write(_header(count))
    file.writelines(_program_header(region, offset) for region, offset in places)
    file.write(_section(count))
    for region, offset in places:
        if offset:
            file.seek(offset)
            write_sparse(space.memory, region.base, region.size, file, tick)


def _header(count: int) -> bytes:
    """The ELF header; a number of segments that has no room in it is in a section header behind them."""
    machine = MACHINES.get(os.uname().machine, 0)
    many, sections = min(count, MANY), int(count >= MANY)
    shoff = (HEADER.size + count * SEGMENT.size) * sections
    sizes = (HEADER.size, SEGMENT.size, many, SECTION_SIZE * sections, sections, 0)
    return HEADER.pack(IDENTITY, CORE, machine, 1, 0, HEADER.size, shoff, 0, *sizes)


def _section(count: int) -> bytes:
    return struct.pack("<44xI16x", count) if count >= MANY else b""


def _program_header(region: AddressSpaceRegion, offset: int) -> bytes:
    flags = sum(theirs for ours, theirs in ((1, 4), (2, 2), (4, 1)) if region.prot_flags & ours)
    stored = region.size if offset else 0
    return SEGMENT.pack(LOAD, flags, offset, region.base, region.base, stored, region.size, PAGE)
