"""Blobs: bytes of the user's that go with memory, by their names."""

from __future__ import annotations

from ._core import check_type, copied_buffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Buffer

__all__ = ["copied_blobs"]


def copied_blobs(blobs: Mapping[str, Buffer] | None, name: str) -> dict[str, bytes]:
    """A copy of each, an error where one can't be reached; `name` is what errors call them all. `None` stands for none."""
    if blobs is None:
        return {}
    if not isinstance(blobs, dict):
        raise TypeError(f"{name} must be a dict of bytes by their names, not {type(blobs).__name__}")
    for key in blobs:
        check_type(key, str, "the name of a blob")
    return {key: copied_buffer(blob, f"the blob {key!a}") for key, blob in blobs.items()}
