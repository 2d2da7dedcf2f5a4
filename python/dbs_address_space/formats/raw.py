"""Raw memory: bytes without a header, where the caller says which addresses they have.

Padded dumps (LiME's `padded`, QEMU's `pmemsave`) begin at an address and go on; glued ones (a Firecracker memory file, LiME's
`raw`) have ranges one behind the other, which `ranges` lists.
"""

from __future__ import annotations

from typing import Any, SupportsIndex

from dbs_address_space._core import checked_range
from dbs_address_space.errors import InvalidArgument

from .copying import memory_parts
from .stored import Piece, mapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

    from dbs_address_space._core import AddressSpace

    from .copying import Copier
    from .source import Source

__all__ = ["pieces_of", "read", "write"]


def read(
    source: Source,
    *,
    base: SupportsIndex = 0,
    ranges: Iterable[tuple[SupportsIndex, SupportsIndex | str]] | None = None,
    partial: bool = False,
    copy: bool = False,
) -> AddressSpace:
    """All of the file from an address on, or its ranges of base and size, one behind the other."""
    wanted = [checked_range(base, source.size)] if ranges is None else [_checked(range_) for range_ in ranges]
    return mapped(source, pieces_of(source, wanted, partial=partial), partial=partial, copy=copy)


def _checked(given: Any) -> tuple[int, int]:
    if not isinstance(given, tuple | list) or len(given) != 2:  # noqa: PLR2004  a pair
        raise TypeError(f"ranges must hold pairs of a base and a size, not {type(given).__name__}")
    return checked_range(*given)


def pieces_of(source: Source, ranges: Iterable[tuple[int, int]], *, partial: bool = False) -> list[Piece]:
    """Ranges that lie in the file one behind the other, and are all of it."""
    pieces, offset = [], 0
    for base, size in ranges:
        pieces.append(Piece(base, size, offset))
        offset += size
    if offset < source.size or (offset > source.size and not partial):
        raise source.error(f"it has {source.size:#x} bytes; the ranges have {offset:#x}")
    return pieces


def write(space: AddressSpace, file: BinaryIO, copy: Copier) -> None:
    """From address 0 on, with zeroes, which are holes of the file, where there is no memory."""
    parts, unreadable = memory_parts(space)
    if unreadable:
        raise InvalidArgument(f"raw has zeroes for what is not there, and {unreadable[0].region} can't be read")
    copy(space, file, [(part.base, part.size, part.base) for part in parts])
