"""A QEMU's map: `info mtree -f` of its monitor, and `query-memory-devices`, which knows what was plugged in."""

from __future__ import annotations

import json

from dbs_address_space.adapters.qemu import space_of_tree
from dbs_address_space.errors import AddressSpaceError, FormatError, InvalidArgument

from .source import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from typing import Any

    from dbs_address_space._core import AddressSpace

__all__ = ["read"]

LONGEST = 512
"""More characters than the name of a memory region makes a line have."""


def read(source: Source, *, devices: str | os.PathLike[str] | bytes | list[Any] = b"[]") -> AddressSpace:
    """The map, where memory devices have their own names; `devices` is the answer to `query-memory-devices`, or a file of it.

    QEMU shows a virtio-mem device as RAM up to its maximum. One that has nothing plugged is left out, if `devices` tells of it.
    """
    names, empty = _plugged(devices)
    lines = source.lines()
    for number, line in lines:
        if len(line) > LONGEST:
            raise source.error(f"a line of {len(line)} characters is not QEMU's", line=number)
    try:
        space = space_of_tree("\n".join(line for _, line in lines), names)
    except FormatError:
        raise
    except AddressSpaceError as error:
        raise source.error(str(error)) from error
    for region in space.regions:
        if region.base in empty:
            space.remove_region(region)
    return space


def _plugged(devices: str | os.PathLike[str] | bytes | list[Any]) -> tuple[dict[int, str], set[int]]:
    """The names of memory devices by their addresses, and the addresses of those that have no memory."""
    try:
        listed = [(device["type"], device["data"]) for device in _answer(devices)]
        names = {_address(data): data["id"] for _, data in listed if data.get("id")}
        return names, {_address(data) for kind, data in listed if kind == "virtio-mem" and data["size"] == 0}
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InvalidArgument(f"devices= is not what query-memory-devices answers: {error!r}") from error


def _answer(devices: str | os.PathLike[str] | bytes | list[Any]) -> list[Any]:
    if isinstance(devices, list):
        return devices
    with Source(devices) as file:
        answer = json.loads(file.text())
    return list(answer["return"] if isinstance(answer, dict) else answer)


def _address(data: dict[str, Any]) -> int:
    """DIMMs have an `addr`, virtio devices a `memaddr`."""
    return int(data["addr"] if "addr" in data else data["memaddr"])
