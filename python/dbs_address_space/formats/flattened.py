"""Streams of makedumpfile (`-F`), as QEMU writes them too: blocks of another dump, each with its place in that.

Blocks may go back and write over earlier ones, so the dump is put together in memory of this process first.
"""

from __future__ import annotations

import os

from . import registry
from .source import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dbs_address_space._core import AddressSpace

__all__ = ["read"]

HEADER, KIND, VERSION = 4096, 1, 1
END = (-1, -1)
MOST_GROWTH, MOST_HOLE = 8, 64 << 20
"""How much larger a dump may be than the stream: its holes are not in there, and it is as long as a block says."""


def read(source: Source, *, partial: bool = False, **options: object) -> AddressSpace:
    """The memory of the dump inside, which has its own options."""
    kind, version = source.unpack(">qq", 16, "the header")
    if (kind, version) != (KIND, VERSION):
        raise source.error(f"a stream of type {kind}, version {version}: only {KIND}, {VERSION} is known", offset=16)
    fd = os.memfd_create("dbs-address-space flattened", os.MFD_CLOEXEC)
    try:
        _put_together(source, fd, partial)
        with Source.of_descriptor(fd, source) as dump:
            found = registry.recognized(dump)
            if found is None or found.name not in ("elf", "kdump") or found.read is None:
                raise source.error("neither an ELF nor a kdump file is in the stream")
            return found.read(dump, partial=partial, **options)
    finally:
        os.close(fd)


def _put_together(source: Source, fd: int, partial: bool) -> None:  # noqa: FBT001  as it was given
    position, most = HEADER, source.size * MOST_GROWTH + MOST_HOLE
    while True:
        if partial and position + 16 > source.size:
            return
        at, size = source.unpack(">qq", position, "the next block or the end of the stream")
        if (at, size) == END:
            return
        if at < 0 or size < 1 or at + size > most:
            raise source.error(f"a block of {size:#x} bytes at {at:#x} can't be", offset=position)
        position += 16
        if not partial:
            source.check(position, size, "a block")
        _copy(source, position, fd, at, min(size, max(source.size - position, 0)))
        position += size


def _copy(source: Source, position: int, fd: int, at: int, size: int) -> None:
    os.lseek(fd, at, os.SEEK_SET)
    while size:
        count = os.sendfile(fd, source.fd, position, size)
        if not count:
            raise source.error("truncated while it was read", offset=position)
        position, size = position + count, size - count
