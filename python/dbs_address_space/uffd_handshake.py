"""The handshake of a VMM that has its memory filled by another process: mappings as JSON, and its userfaultfd beside them.

It is that of Firecracker's `mem_backend` of type `Uffd`. Nothing else is sent, and the socket may be closed behind it.
"""

from __future__ import annotations

import array
import errno
import json
import math
import os
import select
import socket
import time
from itertools import pairwise
from pathlib import Path

from ._named_tuple import NamedTuple
from .errors import BackingError, ImageMismatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Mapping", "received"]

MOST = 1 << 20
"""Bytes that a handshake may have."""
MOST_DESCRIPTORS = 16
LINK = "anon_inode:[userfaultfd]"
FORK_AND_REMAP = 1 << 1 | 1 << 2
INITIALIZED = 1 << 31
LOWEST = 1 << 20
"""No memory of a guest lies below this host address."""
SLICE = 50
"""Milliseconds."""


class Mapping(NamedTuple):
    """Memory of a VMM: its host address there, its size, the place of its first byte in the image, and the size of its pages."""

    base: int
    size: int
    offset: int
    page_size: int


def received(sock: int, timeout: float | None, room: int) -> tuple[int, list[Mapping]]:
    """The VMM's userfaultfd, which is the caller's to close, and its mappings, which lie in `room` bytes of memory."""
    text, descriptors = b"", array.array("i")
    try:
        content = None
        until = math.inf if timeout is None else time.monotonic() + timeout
        while content is None:
            text += _more(sock, until, descriptors)
            content = _content(text)
        descriptor = _userfaultfd(descriptors)
        mappings = _mappings(content, room)
        descriptors.remove(descriptor)
    finally:
        for other in descriptors:
            os.close(other)
    return descriptor, mappings


def _refused(why: str, number: int = errno.EPROTO) -> BackingError:
    error = BackingError(f"the VMM's handshake: {why}")
    error.errno = number
    return error


def _more(sock: int, until: float, descriptors: array.array[int]) -> bytes:
    """The bytes that have come by then; its descriptors are added to the others."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    while time.monotonic() < until:
        if poll.poll(SLICE):
            break
    else:
        raise _refused("its mappings did not come in time", errno.ETIMEDOUT)
    with _shared(sock) as received_on:
        flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        size = socket.CMSG_SPACE(MOST_DESCRIPTORS * descriptors.itemsize)
        try:
            data, beside, said, _ = received_on.recvmsg(1 << 16, size, flags)
        except BlockingIOError:
            return b""
    for level, kind, value in beside:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(value[: len(value) - len(value) % descriptors.itemsize])
    if said & socket.MSG_CTRUNC:
        raise _refused("it has more descriptors than one")
    if not data:
        raise _refused("the connection ended before its mappings had come", errno.ECONNRESET)
    return data


def _shared(sock: int) -> socket.socket:
    """A duplicate, so that the caller's socket stays his, and whether that may block, too."""
    duplicate = os.dup(sock)
    try:
        return socket.socket(fileno=duplicate)
    except OSError as error:
        os.close(duplicate)
        raise _refused(f"descriptor {sock} is not a socket", error.errno or errno.ENOTSOCK) from None


def _content(text: bytes) -> Any:
    """The JSON, or `None` while it is not whole."""
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError) as error:
        if text.startswith(b"[") and not text.endswith(b"]") and len(text) <= MOST:
            return None
        raise _refused(f"it is not a JSON array of mappings: {error}") from None


def _userfaultfd(descriptors: array.array[int]) -> int:
    """The one descriptor, when it is a userfaultfd that can be served."""
    if len(descriptors) != 1:
        raise _refused(f"it has {len(descriptors)} descriptors, and one userfaultfd is needed")
    descriptor = descriptors[0]
    info = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    lines = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    kind = str(Path(f"/proc/self/fd/{descriptor}").readlink())
    if kind != LINK or "API" not in lines:
        raise _refused(f"its descriptor is {kind}, not a userfaultfd")
    features = int(lines["API"].split(":")[1], 16)
    if not features & INITIALIZED:
        raise _refused("its userfaultfd is not initialised (UFFDIO_API)")
    if features & FORK_AND_REMAP:
        raise _refused("its userfaultfd tells of forks or of memory that moves (UFFD_FEATURE_EVENT_FORK, EVENT_REMAP)")
    return descriptor


def _mappings(content: Any, room: int) -> list[Mapping]:
    if not isinstance(content, list) or not content:
        raise _refused("its JSON is not an array of mappings")
    mappings = [_mapping(given, index) for index, given in enumerate(content)]
    order = sorted(mappings)
    for before, behind in pairwise(order):
        if before.base + before.size > behind.base:
            raise _refused(f"its mappings at {before.base:#_x} and {behind.base:#_x} overlap")
    for mapping in mappings:
        if mapping.offset + mapping.size > room:
            message = f"the VMM has memory up to {mapping.offset + mapping.size:#_x}, and the image up to {room:#_x}"
            raise ImageMismatch(f"{message}: give it the image of this machine")
    return mappings


def _mapping(given: Any, index: int) -> Mapping:
    where = f"mapping {index}"
    if not isinstance(given, dict):
        raise _refused(f"{where} is not an object")
    base, size, offset = (_number(given, name, where) for name in ("base_host_virt_addr", "size", "offset"))
    page_size = _page_size(given, where)
    if page_size < os.sysconf("SC_PAGE_SIZE") or page_size & (page_size - 1) or page_size > 1 << 30:
        raise _refused(f"{where} has pages of {page_size:#_x} bytes")
    if size == 0 or base < LOWEST or base + size >= 1 << 63:
        raise _refused(f"{where} has {size:#_x} bytes at {base:#_x}")
    if (base | size) % page_size or offset % os.sysconf("SC_PAGE_SIZE"):
        raise _refused(f"{where} has {size:#_x} bytes at {base:#_x} from {offset:#_x} on, which are not whole pages")
    return Mapping(base, size, offset, page_size)


def _page_size(given: dict[str, Any], where: str) -> int:
    """In bytes, as `page_size_kib` says it too, in spite of its name, but for the first versions that had it."""
    if "page_size" in given:
        return _number(given, "page_size", where)
    if "page_size_kib" not in given:
        return os.sysconf("SC_PAGE_SIZE")
    size = _number(given, "page_size_kib", where)
    return size if size >= os.sysconf("SC_PAGE_SIZE") else size << 10


def _number(given: dict[str, Any], name: str, where: str) -> int:
    value = given.get(name)
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise _refused(f"{where} has {name}={value!a}, which is not a number of 64 bits")
    return value
