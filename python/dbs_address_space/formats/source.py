"""A file to read: nothing is believed of it but its size."""

from __future__ import annotations

import io
import mmap
import os
import stat
import struct
from functools import cached_property

from dbs_address_space._core import checked_answer, copied_buffer
from dbs_address_space.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, BinaryIO, Protocol, Self, TypeGuard

    from typing_extensions import Buffer

    class Stream(Protocol):
        """A binary file, or what reads like one."""

        def read(self, size: int, /) -> bytes: ...


__all__ = ["Source"]

HEAD = 64 << 10
"""How much of a file its recognition may look at."""
MAX_TEXT = 16 << 20
"""The most that is taken of a text, a pipe, or a file whose size the kernel does not tell."""
STEP = 1 << 20
"""How much of a stream is read at a time."""
_BUFFERED = (io.BufferedReader, io.BufferedWriter, io.BufferedRandom)


class Source:
    """A path, an open file or the bytes of one. A read beyond the file's end is a `FormatError` that says where."""

    path: str
    """The name in errors."""
    format: str
    """The name of the format, once it is known."""
    fd: int
    size: int
    is_directory: bool

    def __init__(self, source: str | os.PathLike[str] | Stream | Buffer, parameter: str = "source") -> None:
        """Opens a path; duplicates the descriptor of a file; keeps bytes, and what other streams read, in a memfd.

        Raises what opening does. `parameter` is the name of what was given, for a `TypeError`.
        """
        self.path, self.format = "<bytes>", ""
        if isinstance(source, str | os.PathLike):
            self.path = os.fspath(source)
            self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        elif _is_plain(source):
            self.path = str(source.name)
            # What was written to it is to be in the file.
            source.flush()
            self.fd = os.dup(source.fileno())
        elif hasattr(source, "read") and not isinstance(source, mmap.mmap):
            self.path = str(getattr(source, "name", "<stream>"))
            self.fd = _kept_of(source, parameter)
        else:
            try:
                content = copied_buffer(source, parameter)
            except TypeError as error:
                kind = type(source).__name__
                raise TypeError(f"{parameter} must be a path, a binary file or bytes-like, not {kind}") from error
            self.fd = _kept(content)
        try:
            self._settle()
        except BaseException:
            os.close(self.fd)
            raise

    @classmethod
    def of_descriptor(cls, fd: int, source: Source) -> Self:
        """A file that was made of another one, whose path and format its errors tell."""
        made = cls.__new__(cls)
        made.path, made.format, made.fd = source.path, source.format, os.dup(fd)
        made.is_directory, made.size = False, os.fstat(fd).st_size
        return made

    def _settle(self) -> None:
        status = os.fstat(self.fd)
        self.is_directory = stat.S_ISDIR(status.st_mode)
        if stat.S_ISBLK(status.st_mode):
            self.size = os.lseek(self.fd, 0, os.SEEK_END)
        elif self.is_directory or (stat.S_ISREG(status.st_mode) and _has_all(self.fd, status.st_size)):
            self.size = status.st_size
        else:
            content = self._all_there_is()
            os.dup2(kept := _kept(content), self.fd, inheritable=False)
            os.close(kept)
            self.size = len(content)

    def _all_there_is(self) -> bytes:
        """The content of a pipe, or of a file of the kernel's, which has no size."""
        content = bytearray()
        while part := os.read(self.fd, 1 << 20):
            content += part
            if len(content) > MAX_TEXT:
                raise self.error(f"a pipe is read up to {MAX_TEXT >> 20} MiB: save it in a file first")
        return bytes(content)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    @cached_property
    def head(self) -> bytes:
        """The first 64 KiB, or less; none of a directory."""
        return b"" if self.is_directory else os.pread(self.fd, HEAD, 0)

    def read(self, offset: int, size: int, what: str = "it") -> bytes:
        """Bytes at an offset; a `FormatError` where the file has fewer, before anything is allocated."""
        self.check(offset, size, what)
        data = os.pread(self.fd, size, offset)
        while len(data) < size:
            part = os.pread(self.fd, size - len(data), offset + len(data))
            if not part:
                raise self.error(f"truncated while it was read: {what} ends early", offset=offset + len(data))
            data += part
        return data

    def check(self, offset: int, size: int, what: str = "it") -> None:
        """Refuses a part of the file that it does not have."""
        if offset < 0 or size < 0 or offset + size > self.size:
            missing = offset + size - max(self.size, offset)
            part = f"[{offset:#x}, {offset + size:#x})"
            problem = f"truncated: of {what}, {part}, {missing:#x} bytes are missing; the file has {self.size:#x}"
            raise self.error(problem, offset=offset)

    def unpack(self, fmt: str, offset: int, what: str = "it") -> tuple[Any, ...]:
        """Numbers at an offset, in a format of `struct`."""
        return struct.unpack(fmt, self.read(offset, struct.calcsize(fmt), what))

    def text(self) -> str:
        """The whole as text; what is not UTF-8 becomes a replacement character. A `FormatError` for more than 16 MiB."""
        if self.size > MAX_TEXT:
            raise self.error(f"{self.size >> 20} MiB are too much for a text: the most is {MAX_TEXT >> 20}")
        return self.read(0, self.size).decode(errors="replace")

    def lines(self) -> list[tuple[int, str]]:
        """The lines of a text and their numbers, without white space at their ends: patterns would try each of it as an end."""
        return [(number, line.rstrip()) for number, line in enumerate(self.text().splitlines(), 1)]

    def error(self, problem: str, *, line: int | None = None, offset: int | None = None) -> FormatError:
        """The error that says what is wrong, and where."""
        where = f"{self.path}:{line}" if line else self.path
        at = f" (at offset {offset:#x})" if offset is not None else ""
        return FormatError(f"{where}: {problem}{at}", path=self.path, format=self.format, line=line, offset=offset)


def _has_all(fd: int, size: int) -> bool:
    """Whether a file has as many bytes as it says: the kernel's own say 0, or a page, whatever they have."""
    return size > 0 and len(os.pread(fd, 1, size - 1)) == 1


def _is_plain(source: object) -> TypeGuard[BinaryIO]:
    """Whether it is a file whose bytes are those of its descriptor: others may unpack, count or hold back."""
    raw = source.raw if type(source) in _BUFFERED else source  # type: ignore[attr-defined]
    return type(raw) is io.FileIO


def _kept_of(stream: Any, parameter: str) -> int:
    """A new memfd with all that a stream has, whose position stays; of one that can't be sought, with what is still to come."""
    is_seekable = stream.seekable() if hasattr(stream, "seekable") else False
    position = stream.tell() if is_seekable else 0
    try:
        if is_seekable:
            stream.seek(0)
        return _kept(iter(lambda: _read(stream, parameter), b""))
    finally:
        if is_seekable:
            stream.seek(position)


def _read(stream: Stream, parameter: str) -> bytes:
    try:
        part = checked_answer(stream.read(STEP), f"{parameter}.read()")
    except SystemError as error:
        # `io.RawIOBase.read()` does not look at what a `readinto()` of a caller's answers.
        raise TypeError(f"{parameter}.read() failed: {error}") from error
    if not isinstance(part, bytes):
        raise TypeError(f"{parameter}.read() gives {type(part).__name__} and not bytes: open the file in a binary mode")
    return part


def _kept(content: bytes | Iterable[bytes]) -> int:
    """A new memfd with the content."""
    fd = os.memfd_create("dbs-address-space source", os.MFD_CLOEXEC)
    try:
        for part in (content,) if isinstance(content, bytes) else content:
            view = memoryview(part)
            while view:
                view = view[os.write(fd, view) :]
    except BaseException:
        os.close(fd)
        raise
    return fd
