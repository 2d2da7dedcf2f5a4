"""AVML dumps, version 2: as LiME, but each record's bytes are a stream of Snappy's framing format, and its length follows.

After AVML's documentation of its format and Snappy's of its frames. Blocks of zeroes are left out: the map is that of the file.
"""

from __future__ import annotations

from dbs_address_space._core import _DumpReader

from .stored import Dump, checked, mapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dbs_address_space._core import AddressSpace

    from .source import Source

__all__ = ["read"]


def read(source: Source, *, partial: bool = False, copy: bool = False) -> AddressSpace:
    """The memory of a dump; with `partial=True` up to the first record that can't be, whose rest is not in the dump."""
    reader, pieces = checked(source, lambda: _DumpReader.of_avml(source.fd, source.size, partial))
    return mapped(source, Dump(pieces, reader), partial=partial, copy=copy)
