"""LiME dumps, version 1: records of a header of 32 bytes and the bytes of a range, whose last address it has.

After LiME's documentation of its format. AVML writes it too, in records of at most 16 MiB, and leaves out blocks of zeroes: the
map of a LiME file is what it holds, not all the memory that the machine had.
"""

from __future__ import annotations

import struct
from io import SEEK_CUR

from dbs_address_space._core import _Pieces

from .copying import memory_parts
from .stored import Dump, checked, mapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from dbs_address_space._core import AddressSpace

    from .copying import Copier
    from .source import Source

__all__ = ["read", "write"]

MAGIC, VERSION = 0x4C694D45, 1
HEADER = struct.Struct("<IIQQ8x")


def read(source: Source, *, partial: bool = False, copy: bool = False) -> AddressSpace:
    """The memory of a dump, mapped where it lies."""
    pieces = checked(source, lambda: _Pieces.of_lime(source.fd, source.size, partial))
    return mapped(source, Dump(pieces), partial=partial, copy=copy)


def write(space: AddressSpace, file: BinaryIO, copy: Copier) -> None:
    """A record for each region, by ascending address; what can't be read is left out."""
    parts, _ = memory_parts(space)
    places = []
    for part in parts:
        file.write(HEADER.pack(MAGIC, VERSION, part.base, part.last_addr))
        places.append((part.base, part.size, file.tell()))
        file.seek(part.size, SEEK_CUR)
    copy(space, file, places)
