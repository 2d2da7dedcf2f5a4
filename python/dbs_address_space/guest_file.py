"""Guest physical memory as a file."""

from __future__ import annotations

import io
import operator
import os

from ._core import GuestMemory, check_type, checked_int, fill_buffer
from .errors import AccessDenied, InvalidAddressRange, InvalidArgument, UnmappedAddress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import SupportsIndex

    from typing_extensions import Buffer

__all__ = ["GuestFile"]


def _offset(value: SupportsIndex, name: str) -> int:
    """An int of any size, for files have positions that memory has not; a `bool` is refused as everywhere."""
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        checked_int(value, name)
    return operator.index(value)


class GuestFile(io.RawIOBase):
    """An unbuffered, seekable file whose positions are guest physical addresses. Made by `GuestMemory.open`.

    A read stops short at the end of the memory that it begins in; the next one goes on from there, or says that there is none.
    """

    def __init__(self, memory: GuestMemory, mode: str = "rb", holes: str = "error") -> None:
        """Opens `memory`; raises `InvalidArgument` for another mode or treatment of holes than `GuestMemory.open` knows."""
        check_type(memory, GuestMemory, "memory")
        check_type(mode, str, "mode")
        check_type(holes, str, "holes")
        if mode not in ("rb", "r+b", "rb+"):
            raise InvalidArgument(
                f"unsupported mode {mode!r}: guest memory cannot be created or truncated; use 'rb' or 'r+b'"
            )
        if holes not in ("error", "zero"):
            raise InvalidArgument(f"holes={holes!r} is neither 'error' nor 'zero'")
        self._memory = memory
        self._writable = "+" in mode
        self._fills_holes = holes == "zero"
        self._position = 0

    @property
    def mode(self) -> str:
        """The mode in which it was opened."""
        return "rb+" if self._writable else "rb"

    def __repr__(self) -> str:
        status = "closed" if self.closed else f"at {self._position:#_x}"
        return f"<GuestFile mode={self.mode!r} {status}>"

    def readable(self) -> bool:
        """Whether it can be read: always."""
        self._checkClosed()
        return True

    def writable(self) -> bool:
        """Whether it was opened for writing."""
        self._checkClosed()
        return self._writable

    def seekable(self) -> bool:
        """Whether it can be sought: always."""
        self._checkClosed()
        return True

    def tell(self) -> int:
        """The address that the next read or write begins at."""
        self._checkClosed()
        return self._position

    def seek(self, offset: SupportsIndex, whence: int = os.SEEK_SET, /) -> int:
        """Moves to an address, or relative to the position or to the end of the last region; returns the address."""
        self._checkClosed()
        match checked_int(whence, "whence"):
            case os.SEEK_SET:
                origin = 0
            case os.SEEK_CUR:
                origin = self._position
            case os.SEEK_END:
                origin = self._end()
            case _:
                raise InvalidArgument(f"whence is {whence}: use os.SEEK_SET, SEEK_CUR or SEEK_END")
        position = origin + _offset(offset, "offset")
        if position < 0:
            raise InvalidAddressRange(f"cannot seek to {position:#_x}: the first address of the file is 0x0")
        self._position = position
        return position

    def read(self, size: SupportsIndex | None = -1, /) -> bytes:
        """Reads up to `size` bytes, or all to the end of the last region for `None` and numbers below 0."""
        return super().read(self._limit(size, "size")) or b""

    def readline(self, size: SupportsIndex | None = -1, /) -> bytes:
        """Reads up to the end of a line, and at most `size` bytes of it where that is not below 0."""
        return super().readline(self._limit(size, "size"))

    def readlines(self, hint: SupportsIndex | None = -1, /) -> list[bytes]:
        """Reads lines until they have `hint` bytes together, or all where that is not above 0."""
        return super().readlines(self._limit(hint, "hint"))

    def readinto(self, buffer: Buffer, /) -> int:
        """Reads up to as many bytes as `buffer` has; 0 at the end of the last region."""
        self._checkClosed()
        with memoryview(buffer) as whole:
            if whole.readonly:
                raise TypeError(
                    f"{type(buffer).__name__} is read-only: give a buffer that can be written, as a bytearray"
                )
            # Behind the last region is the end of the file, and no error.
            size = min(whole.nbytes, self._left())
            if size:
                with whole.cast("B") as view:
                    size = self._read(view[:size])
        self._position += size
        return size

    def write(self, data: Buffer, /) -> int:
        """Writes all bytes, or none; raises as `GuestMemory.write` does."""
        self._checkClosed()
        if not self._writable:
            raise io.UnsupportedOperation("the file is open for reading only")
        with memoryview(data) as view:
            self._memory.write(self._position, view)
            self._position += view.nbytes
            return view.nbytes

    def _end(self) -> int:
        regions = self._memory.regions
        return regions[-1].end if regions else 0

    def _left(self) -> int:
        return max(self._end() - self._position, 0)

    def _limit(self, size: SupportsIndex | None, name: str) -> int:
        """The number of bytes that a read may have: `io` would make room for all that it is asked for."""
        self._checkClosed()
        number = -1 if size is None else _offset(size, name)
        return min(number, self._left()) if number >= 0 else -1

    def _read(self, view: memoryview) -> int:
        """Fills `view` as far as it can be; raises when its first byte can't."""
        try:
            return self._read_all(view)
        except (UnmappedAddress, AccessDenied) as refused:
            size = (refused.address or 0) - self._position
            if size <= 0:
                raise
        # Outside the handler, and anew: the map may have changed, and a further refusal lies nearer.
        return self._read(view[:size])

    def _read_all(self, view: memoryview) -> int:
        try:
            return self._memory.read_into(self._position, view)
        except UnmappedAddress:
            if not self._fills_holes:
                raise
        fill_buffer(view, self._memory.read(self._position, len(view), pad=0), "buffer")
        return len(view)
