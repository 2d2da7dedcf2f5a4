"""Paths that the package is given."""

from __future__ import annotations

import os

__all__ = ["path_text"]


def path_text(path: str | os.PathLike[str], name: str) -> str:
    """A path as text; `name` is that of the parameter. Raises `TypeError` for anything else."""
    if isinstance(path, str | os.PathLike):
        return os.fsdecode(path)
    raise TypeError(f"{name} must be a str or an os.PathLike, not {type(path).__name__}")
