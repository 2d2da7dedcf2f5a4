"""A space that other processes may look at: `AddressSpace.serve(path)`, which `dbs-address-space show space:PATH` reads."""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path

from .errors import AddressSpaceError, InvalidArgument
from .paths import path_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from ._core import AddressSpace

__all__ = ["FORMAT", "SpaceServer"]

FORMAT = "dbs-address-space/served"
PATIENCE = 2.0
"""Seconds for which one who asks may keep the others waiting."""
DESCRIPTORS = 200
"""Descriptors of one message; the kernel takes 253."""
CREDENTIALS = struct.Struct("3i")
LONGEST_PATH = 107
PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED}
"""Failures to accept somebody that pass, and do not end the server."""


class SpaceServer:
    """Answers who connects to a socket of the same user or of root with the map and the state of a space, until it is closed.

    Made by `AddressSpace.serve`; used in `with`, it is closed at the end. It keeps its space alive.

    >>> import tempfile
    >>> from dbs_address_space import AddressSpaceBuilder
    >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    >>> with tempfile.TemporaryDirectory() as directory, space.serve(directory + "/vm.sock") as server:
    ...     server.path == directory + "/vm.sock"
    True
    """

    path: str
    """The path of the socket."""

    def __init__(self, space: AddressSpace, path: str | os.PathLike[str]) -> None:
        """Binds the socket, in the place of one that nobody listens at any more, and starts a thread that answers."""
        self.path = path_text(path, "path")
        self._space, self._process = space, os.getpid()
        self._listener, bound = _listening(self.path)
        ended = threading.Event()
        self._end = weakref.finalize(self, _end, ended, self._listener, self.path, bound, self._process)
        self._thread = threading.Thread(
            target=_serve, args=(space, self._listener, ended), daemon=True, name="dbs-serve"
        )
        try:
            self._thread.start()
        except RuntimeError as error:
            self._end()
            self._listener.close()
            raise OSError(errno.EAGAIN, f"no thread can be started to serve it: {error}", self.path) from None

    def close(self) -> None:
        """Ends the answers and removes the socket. Closing twice does nothing."""
        self._end()
        if os.getpid() == self._process:
            self._thread.join()
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<SpaceServer of {self._space!r} at {self.path!r}>"


def _listening(path: str) -> tuple[socket.socket, os.stat_result]:
    """A socket that only this user and root can connect to, and its file."""
    if not path or "\0" in path or len(os.fsencode(path)) > LONGEST_PATH:
        raise InvalidArgument(
            f"path {path!a} can't be that of a socket: those have 1 to {LONGEST_PATH} bytes, none of them 0"
        )
    if _is_served(path):
        raise FileExistsError(errno.EADDRINUSE, "somebody listens there already", path)
    if Path(path).is_socket():
        Path(path).unlink()
    listener, bound = socket.socket(socket.AF_UNIX), None
    try:
        listener.bind(path)
        bound = os.lstat(path)
        Path(path).chmod(0o600)
        listener.listen(16)
    except OSError as error:
        listener.close()
        _unlink(path, bound)
        raise OSError(error.errno, error.strerror, path) from None
    return listener, bound


def _unlink(path: str, bound: os.stat_result | None) -> None:
    """Removes the file of a socket of ours, and not another server's that took its place."""
    with suppress(OSError):
        if bound is not None and os.path.samestat(os.lstat(path), bound):
            Path(path).unlink()


def _is_served(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as other:
        try:
            other.connect(path)
        except OSError:
            return False
    return True


def _end(ended: threading.Event, listener: socket.socket, path: str, bound: os.stat_result, process: int) -> None:
    """Ends the thread that answers, also of a server that nobody has any more; not out of a forked child."""
    if os.getpid() == process:
        ended.set()
        # A shutdown wakes the thread out of its wait; a close would not.
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        _unlink(path, bound)


def _serve(space: AddressSpace, listener: socket.socket, ended: threading.Event) -> None:
    """Answers one after another, each for a moment, until the listener is shut down."""
    with listener:
        _serve_all(space, listener, ended)


def _serve_all(space: AddressSpace, listener: socket.socket, ended: threading.Event) -> None:
    # Without descriptors the kernel does not say that the listener is shut down.
    while not ended.is_set():
        try:
            connection, _ = listener.accept()
        except OSError as error:
            if error.errno not in PASSING:
                return
            ended.wait(0.1)
            continue
        # One who asks and goes away, or sends nothing, concerns nobody else.
        with connection, suppress(OSError):
            connection.settimeout(PATIENCE)
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
            if CREDENTIALS.unpack(credentials)[1] in (0, os.geteuid()):
                _answer(space, connection, wants_memory=connection.recv(1) == b"M")


def _answer(space: AddressSpace, connection: socket.socket, *, wants_memory: bool) -> None:
    files: list[int] = []
    try:
        content = _content(space, files, wants_memory=wants_memory)
    except AddressSpaceError as error:
        content = {"format": FORMAT, "version": 1, "error": str(error)}
    try:
        text = json.dumps(content).encode()
        connection.sendall(struct.pack("<Q", len(text)) + text)
        for first in range(0, len(files), DESCRIPTORS):
            socket.send_fds(connection, [b"f"], files[first : first + DESCRIPTORS])
    finally:
        for file in files:
            os.close(file)


def _content(space: AddressSpace, files: list[int], *, wants_memory: bool) -> dict[str, Any]:
    from .formats.map_json import content_of  # noqa: PLC0415  only who is asked needs it

    stats = space.stats()._asdict()
    resident = space.memory.resident() if space.is_mapped else ()
    hosts = _hosts(space) if space.is_mapped else {}
    regions = [
        {
            "base": hex(region.base),
            "host_address": hosts.get(region.base),
            "resident": sum(max(0, min(one.end, region.end) - max(one.base, region.base)) for one in resident),
        }
        for region in space.regions
    ]
    return {
        "format": FORMAT,
        "version": 1,
        "time": time.time(),
        "process": os.getpid(),
        "map": content_of(space, "space"),
        "stats": stats,
        "regions": regions,
        "clients": [repr(client) for client in space.clients],
        "memory": _memory(space, files) if wants_memory and space.is_mapped else [],
    }


def _hosts(space: AddressSpace) -> dict[int, str]:
    """Where each region's memory lies in this process, by the region's base; what is read from a dump lies nowhere."""
    mappings = (mapping for mapping in space.memory.mappings() if mapping.region._runs() is None)  # noqa: SLF001  of this package
    return {mapping.base: hex(mapping.host_address) for mapping in mappings}


def _memory(space: AddressSpace, files: list[int]) -> list[dict[str, Any]]:
    """The files behind the regions, opened again for reading only; anonymous memory has none."""
    found: dict[int, int] = {}
    shown = []
    for mapping in space.memory.mappings():
        fd = mapping.fd
        if fd is None:
            continue
        if fd not in found:
            with suppress(OSError):
                files.append(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC))
                found[fd] = len(files) - 1
        if fd in found:
            shown.append({"base": hex(mapping.base), "file": found[fd], "offset": mapping.file_offset})
    return shown
