"""Where maps come from."""

from __future__ import annotations

import sys
from pathlib import Path

from .map_file import space_of
from .parsing import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dbs_address_space._core import AddressSpace

__all__ = ["opened"]


def opened(source: str) -> AddressSpace:
    """The space of a source: a file with a map as JSON, or the standard input."""
    kind, colon, _ = source.partition(":")
    if colon and kind in {"pid", "qmp", "space"}:
        raise UsageError(f"{source}: a running program is not read yet", f"A file of this name is ./{source}.")
    return space_of(sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes(), source)
