"""A program that serves its space as a source: see `AddressSpace.serve`."""

from __future__ import annotations

import json
import os
import socket
import struct

from dbs_address_space._core import AddressSpace
from dbs_address_space.errors import FormatError
from dbs_address_space.formats import map_json
from dbs_address_space.formats.source import Source
from dbs_address_space.serving import FORMAT

from .parsing import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dbs_address_space._core import AddressSpaceRegion

__all__ = ["looked_at", "of_socket"]

PATIENCE = 5.0
MOST = 1 << 30
"""The most bytes of an answer: a map of millions of regions."""
LENGTH = struct.Struct("<Q")
DESCRIPTORS = 253


def looked_at(path: str, *, wants_memory: bool = False) -> tuple[dict[str, Any], list[int]]:
    """The answer of a program, and descriptors of its memory where they are wanted, which the caller closes."""
    source = f"space:{path}"
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(path)
            connection.sendall(b"M" if wants_memory else b"m")
            (length,) = LENGTH.unpack(_received(connection, LENGTH.size))
            content = _content(_received(connection, min(length, MOST)))
            files = _files(connection, content)
    except (OSError, ValueError, LookupError, TypeError, RecursionError, struct.error) as error:
        hint = f'In the program, call space.serve("{path}"); it answers its own user and root.'
        raise UsageError(
            f"{source}: {getattr(error, 'strerror', None) or 'not a socket of space.serve()'}", hint
        ) from error
    if "error" in content:
        raise UsageError(f"{source}: {content['error']}")
    return content, files


def host_address(path: str, base: int) -> tuple[int, int] | None:
    """Where the memory of the region at an address lies in the program, and the number of its process; `None` if it has none."""
    content, _ = looked_at(path)
    found = (one.get("host_address") for one in content["regions"] if int(one["base"], 16) == base)
    host = next(found, None)
    return (int(host, 16), content["process"]) if host else None


def _content(text: bytes) -> dict[str, Any]:
    content = json.loads(text)
    if not isinstance(content, dict) or content.get("format") != FORMAT or not content.keys() & {"map", "error"}:
        raise FormatError("another format")
    return content


def _received(connection: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length and (part := connection.recv(min(length - len(data), 1 << 20))):
        data += part
    return bytes(data)


def _files(connection: socket.socket, content: dict[str, Any]) -> list[int]:
    wanted = len({file for file, _ in _places(content).values()})
    files: list[int] = []
    try:
        while len(files) < wanted:
            files += _more_files(connection)
    except BaseException:
        _close(files)
        raise
    return files


def _more_files(connection: socket.socket) -> list[int]:
    _, more, _, _ = socket.recv_fds(connection, 1, DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    if not more:
        raise FormatError("descriptors are missing")
    return more


def _places(content: dict[str, Any]) -> dict[int, tuple[int, int]]:
    """The number of the file of each base, and the offset in it."""
    places = {int(one["base"], 16): (one["file"], one["offset"]) for one in content.get("memory", ())}
    files = {file for file, _ in places.values()}
    if any(type(number) is not int for place in places.values() for number in place) or files != set(range(len(files))):
        raise FormatError("the numbers of its files are none")
    return places


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)


def of_socket(path: str, *, wants_memory: bool) -> AddressSpace:
    """The space of a program: its map, and with its memory where that is in files, to read only."""
    content, files = looked_at(path, wants_memory=wants_memory)
    try:
        with Source(json.dumps(content["map"]).encode()) as source:
            source.path = f"space:{path}"
            described = map_json.read(source)
        if not wants_memory:
            return described
        memory = {base: (files[number], offset) for base, (number, offset) in _places(content).items()}
        regions = [_region(region, memory.get(region.base)) for region in described.regions]
        space = AddressSpace.from_regions(regions, described.layout)
        space.map_memory()
        return space
    finally:
        _close(files)


def _region(region: AddressSpaceRegion, place: tuple[int, int] | None) -> AddressSpaceRegion:
    """A region over the program's file; what has none can't be read."""
    if region.region_type.value not in ("ram", "firmware"):
        return region
    if place is None:
        return type(region)("ram", region.base, region.size, name=region.name, mem_type="mmap", prot_flags="---")
    file, offset = place
    return type(region).from_file(region.base, region.size, file, offset, name=region.name, prot_flags="r--")
