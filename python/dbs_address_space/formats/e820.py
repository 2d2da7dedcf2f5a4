"""E820 in binary: entries of 20 bytes, as in a kernel's boot parameters and QEMU's `etc/e820`; of 24 for ACPI 3 and PVH."""

from __future__ import annotations

import struct

from dbs_address_space.errors import InvalidArgument

from .memory_map import NAMES, TYPES, Entry, entries_of, map_of, settled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from dbs_address_space._core import AddressSpace

    from .copying import Copier
    from .source import Source

__all__ = ["read", "write"]

ENTRY = struct.Struct("<QQI")
SIZES = (20, 24)


def read(source: Source, *, entry_size: int = 20) -> AddressSpace:
    """The map of a table of entries; attributes behind 20 bytes are passed over."""
    if entry_size not in SIZES:
        raise InvalidArgument(f"entry_size={entry_size!r} is neither of {SIZES}")
    if source.size % entry_size or not source.size:
        raise source.error(f"{source.size} bytes are not a number of entries of {entry_size}; entry_size= may be 24")
    table = source.read(0, source.size)
    numbers = (ENTRY.unpack_from(table, at) for at in range(0, len(table), entry_size))
    entries = (Entry(base, base + size, TYPES.get(kind, f"type {kind}"), 0) for base, size, kind in numbers)
    return map_of(source, settled(source, entries))


def write(space: AddressSpace, file: BinaryIO, _copy: Copier) -> None:
    """RAM, firmware as reserved, and what has the name of a kind; memory that was plugged in is left to ACPI."""
    file.writelines(ENTRY.pack(entry.base, entry.end - entry.base, NAMES[entry.kind]) for entry in entries_of(space))
