"""A memory file of Firecracker: RAM without its holes, which depend on the architecture and the release."""

from __future__ import annotations

import platform

from dbs_address_space.errors import InvalidArgument

from .raw import pieces_of
from .stored import mapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dbs_address_space._core import AddressSpace

    from .source import Source

__all__ = ["read"]

GIB = 1 << 30
HOLES = {"x86_64": [(3 * GIB, 4 * GIB), (256 * GIB, 512 * GIB)], "aarch64": [(256 * GIB, 512 * GIB)]}
START = {"x86_64": 0, "aarch64": 2 * GIB}


def read(source: Source, *, arch: str | None = None, copy: bool = False) -> AddressSpace:
    """The memory of a full snapshot, mapped where it lies; a diff snapshot has to be merged with its base first."""
    machine = platform.machine() if arch is None else arch
    if machine not in HOLES:
        raise InvalidArgument(f"arch={machine!r} is neither 'x86_64' nor 'aarch64'")
    return mapped(source, pieces_of(source, _ranges(machine, source.size)), copy=copy)


def _ranges(machine: str, left: int) -> Iterator[tuple[int, int]]:
    """The ranges of base and size round the holes."""
    base = START[machine]
    for begin, end in HOLES[machine]:
        size = min(left, begin - base)
        if size:
            yield base, size
        base, left = end, left - size
    if left:
        yield base, left
