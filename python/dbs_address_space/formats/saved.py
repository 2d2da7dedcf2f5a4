"""An image that `AddressSpace.save` wrote: the space as it was, with its memory."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from dbs_address_space.images import SavedSpace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from dbs_address_space._core import AddressSpace

    from .source import Source

__all__ = ["read"]


def read(
    source: Source, *, resolve: Callable[[str], str | os.PathLike[str]] | None = None, copy: bool = False
) -> AddressSpace:
    """The space over the file, or a verified copy: of a difference, and where it is asked for."""
    path = f"/proc/self/fd/{source.fd}"
    with suppress(OSError):
        # By its own name, next to which its parent is.
        if os.path.samestat(Path(source.path).stat(), os.fstat(source.fd)):
            path = source.path
    with SavedSpace(path, resolve=resolve) as saved:
        return saved.restore("copy" if copy or saved.parent else "cow")
