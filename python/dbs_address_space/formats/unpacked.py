"""Memory that lies packed in a dump, unpacked into memory of this process, where zeroes take no room."""

from __future__ import annotations

import os

from .source import Source
from .stored import Piece, mapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from dbs_address_space._core import AddressSpace

__all__ = ["Unpacked"]


class Unpacked:
    """A memfd that is filled, and the pieces of memory in it and not in the dump."""

    def __init__(self, source: Source) -> None:
        """Begins empty; `source` is the file that is unpacked."""
        self._source, self._size = source, 0
        self._pieces: list[Piece] = []
        self._fd = os.memfd_create("dbs-address-space unpacked", os.MFD_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def add(self, base: int, data: bytes) -> None:
        """Memory at an address."""
        self._note(Piece(base, len(data), self._size))
        if data.count(0) != len(data):
            view, at = memoryview(data), self._size
            while view:
                written = os.pwrite(self._fd, view, at)
                view, at = view[written:], at + written
        self._size += len(data)

    def add_absent(self, base: int, size: int) -> None:
        """Memory that is not in the dump."""
        self._note(Piece(base, size, None))

    def reached(self, base: int) -> int:
        """The end of what was added at an address and behind it, one after the other; the address itself if nothing was."""
        last = self._pieces[-1] if self._pieces else None
        return last.end if last is not None and last.offset is not None and last.base <= base <= last.end else base

    def _note(self, piece: Piece) -> None:
        last = self._pieces[-1] if self._pieces else None
        if last is not None and last.end == piece.base and last.shift == piece.shift:
            self._pieces[-1] = last._replace(size=last.size + piece.size)
        else:
            self._pieces.append(piece)

    def space(self, *, absent: str = "error") -> AddressSpace:
        """The mapped space of all that was added."""
        os.ftruncate(self._fd, self._size)
        with Source.of_descriptor(self._fd, self._source) as content:
            return mapped(content, self._pieces, absent=absent)
