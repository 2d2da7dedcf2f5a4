"""Saving a space as an image: what `AddressSpace.save` is given, made ready for the memory's own writer."""

# ruff: noqa: SLF001  the private verbs of memory and images are the package's own

from __future__ import annotations

import os
from pathlib import PurePath

from ._core import AddressSpace, DirtyPages, DirtyTracker, _Image, _ImagePart
from .blobs import copied_blobs
from .errors import InvalidArgument
from .image_description import BlobPlace, encoded
from .images import SavedSpace
from .paths import path_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import SupportsIndex

    from .images import Path
    from .progress import Progress

__all__ = ["saved"]


def saved(  # noqa: PLR0913  those of `save`
    space: AddressSpace,
    path: Path,
    parent: SavedSpace | Path | None,
    dirty: DirtyPages | DirtyTracker | None,
    blobs: dict[str, bytes] | None,
    *,
    sync: bool,
    check: bool,
    threads: SupportsIndex | None,
    progress: Callable[[Progress], object] | None,
) -> SavedSpace:
    """Saves a space: `AddressSpace.save`."""
    target, places, content = path_text(path, "path"), *_laid_out(copied_blobs(blobs, "blobs"))
    older = _older(parent)
    if dirty is not None:
        if not isinstance(dirty, (DirtyPages, DirtyTracker)):
            raise TypeError(f"dirty must be DirtyPages or a DirtyTracker, not {type(dirty).__name__}")
        if older is None:
            raise InvalidArgument("dirty= says what changed since the parent: give parent= too")
    memory = space.memory
    name = None
    if older is not None:
        name = os.path.relpath(os.path.realpath(older.path), PurePath(os.path.realpath(target)).parent)
    pages = dirty.collect() if isinstance(dirty, DirtyTracker) else dirty
    try:
        memory._save(
            target,
            lambda base, areas, regions: encoded(base, areas, regions, places, name),
            content,
            parent=older._opened() if older else None,
            known=older._description.known() if older else [],
            dirty=pages,
            sync=sync,
            check=check,
            threads=threads,
            progress=progress,
        )
    except BaseException:
        if isinstance(dirty, DirtyTracker) and pages is not None:
            dirty.put_back(pages)
        raise
    parts = [_ImagePart(target), *(older._parts if older else [])]
    return SavedSpace._of(parts, [target, *(older._paths if older else [])])


def _older(parent: SavedSpace | Path | None) -> SavedSpace | None:
    if parent is None or isinstance(parent, SavedSpace):
        return parent
    if isinstance(parent, (str, os.PathLike)):
        return SavedSpace.open(parent)
    raise TypeError(f"parent must be a SavedSpace or its path, not {type(parent).__name__}")


def _laid_out(blobs: dict[str, bytes]) -> tuple[dict[str, BlobPlace], bytes]:
    """The place of each blob, and all of them one behind the other."""
    places, end = {}, 0
    for name, blob in blobs.items():
        places[name] = BlobPlace(end, len(blob), _Image.digest(blob))
        end += len(blob)
    return places, b"".join(blobs.values())
