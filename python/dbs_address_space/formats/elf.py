"""ELF64 core dumps: of QEMU (`dump-guest-memory`), makedumpfile, cloud-hypervisor, VirtualBox, WinPmem; and our own.

QEMU's section headers may lie before the program headers, and its `e_ehsize` is wrong: neither
is relied on. A segment's physical address counts.
"""

from __future__ import annotations

import os
import struct

from dbs_address_space._core import _Pieces

from .copying import memory_parts
from .elf_file import LOAD, MANY, program_headers
from .stored import Dump, checked, mapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from dbs_address_space._core import AddressSpace

    from .copying import Copier, Part
    from .source import Source

__all__ = ["read", "write"]

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SEGMENT = struct.Struct("<IIQQQQQQ")
IDENTITY = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
BITS, CORE = 64, 4
SECTION_SIZE = 64
MACHINES = {"x86_64": 62, "aarch64": 183}
PAGE = 4096


def read(source: Source, *, absent: str = "error", partial: bool = False, copy: bool = False) -> AddressSpace:
    """The memory of a dump, mapped where it lies. A tail that is not in the file was left out: it is not zero."""
    found = program_headers(source)
    if found.bits != BITS:
        raise source.error(f"a {found.bits}-bit ELF file: of dumps only ELF64 is read", offset=4)
    if found.kind != CORE:
        raise source.error(f"an ELF file of type {found.kind}, not a core dump, which is {CORE}", offset=16)
    pieces = checked(source, lambda: _Pieces.of_elf(found.table, found.stride, source.size, partial))
    return mapped(source, Dump(pieces), absent=absent, partial=partial, copy=copy)


def write(space: AddressSpace, file: BinaryIO, copy: Copier) -> None:
    """A segment for each region, by ascending address, as crash, drgn, gdb, makedumpfile and volatility3 all read it.

    What can't be read is a segment without bytes in the file.
    """
    readable, unreadable = memory_parts(space)
    parts = sorted([*readable, *unreadable])
    count = len(parts)
    offset = HEADER.size + count * SEGMENT.size + SECTION_SIZE
    places = []
    for part in parts:
        offset = -(-offset // PAGE) * PAGE + part.base % PAGE
        places.append((part, offset if part.prot_flags & 1 else 0))
        offset += part.size if part.prot_flags & 1 else 0
    file.write(_header(count))
    file.writelines(_program_header(part, offset) for part, offset in places)
    file.write(_section(count))
    copy(space, file, [(part.base, part.size, offset) for part, offset in places if offset])


def _header(count: int) -> bytes:
    """The ELF header; a number of segments that has no room in it is in a section header behind them."""
    machine = MACHINES.get(os.uname().machine, 0)
    many, sections = min(count, MANY), int(count >= MANY)
    shoff = (HEADER.size + count * SEGMENT.size) * sections
    sizes = (HEADER.size, SEGMENT.size, many, SECTION_SIZE * sections, sections, 0)
    return HEADER.pack(IDENTITY, CORE, machine, 1, 0, HEADER.size, shoff, 0, *sizes)


def _section(count: int) -> bytes:
    return struct.pack("<44xI16x", count) if count >= MANY else b""


def _program_header(part: Part, offset: int) -> bytes:
    flags = sum(theirs for ours, theirs in ((1, 4), (2, 2), (4, 1)) if part.prot_flags & ours)
    stored = part.size if offset else 0
    return SEGMENT.pack(LOAD, flags, offset, part.base, part.base, stored, part.size, PAGE)
