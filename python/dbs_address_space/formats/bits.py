"""Bitmaps of pages in dumps: bit 0 of byte 0 is the first page."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["runs"]

PART = re.compile(rb"\xff+|[^\x00\xff]", re.DOTALL)
"""Bytes of ones, or one byte with some: zeroes are skipped at the speed of the search."""


def runs(bitmap: bytes, count: int) -> Iterator[tuple[int, int]]:
    """The runs of ones among the first `count` bits, each as its first bit and the one behind its last."""
    begin = end = 0
    for low, high in _parts(bitmap):
        if low > end:
            yield from _clipped(begin, end, count)
            begin = low
        end = high
    yield from _clipped(begin, end, count)


def _clipped(begin: int, end: int, count: int) -> Iterator[tuple[int, int]]:
    if begin < min(end, count):
        yield begin, min(end, count)


def _parts(bitmap: bytes) -> Iterator[tuple[int, int]]:
    """Runs of ones, which may touch."""
    for match in PART.finditer(bitmap):
        first, byte = match.start() * 8, bitmap[match.start()]
        if byte == 0xFF:  # noqa: PLR2004  all ones
            yield first, match.end() * 8
        else:
            yield from ((first + bit, first + bit + 1) for bit in range(8) if byte >> bit & 1)
