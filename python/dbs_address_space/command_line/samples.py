"""Looks at a running program, as `top` takes them."""

from __future__ import annotations

import time

from dbs_address_space._named_tuple import NamedTuple

from .parsing import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dbs_address_space._core import AddressSpace

__all__ = ["Sample", "of_source"]


_LAST_SECOND = 1 << 36
"""Behind any time that a calendar tells."""


class Sample(NamedTuple):
    """A look: bytes of RAM, and of these the resident ones.

    `regions` are base, name, size and resident bytes of each, `clients` what follows the space. `stats` are the numbers of
    `AddressSpace.stats()`, where the program tells them.
    """

    time: float
    generation: int
    ram: int
    resident: int
    stats: dict[str, Any] | None
    regions: list[tuple[int, str, int, int]]
    clients: list[str]


def of_source(source: str) -> Callable[[], Sample]:
    """The function that looks at a source."""
    kind, _, where = source.partition(":")
    if kind == "space":
        return lambda: _served(where)
    if kind not in ("pid", "qmp"):
        raise UsageError(f"{source}: not a running program", "Give space:/path, pid:1234 or qmp:/path.")
    from .sources import memory_of  # noqa: PLC0415  start-up

    space, _ = memory_of(source)
    return lambda: _of_files(space)


def _served(path: str) -> Sample:
    from .served import looked_at  # noqa: PLC0415  start-up

    content, _ = looked_at(path)
    try:
        return _told(content)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UsageError(f"space:{path}: not an answer of space.serve()") from error


def _told(content: dict[str, Any]) -> Sample:
    """The look that a program tells of, in numbers: a text instead of one would reach the terminal."""
    resident = {one["base"]: one["resident"] for one in content["regions"]}
    regions = [
        (int(one["base"], 16), one["name"] or one["region_type"], int(one["size"]), int(resident.get(one["base"], 0)))
        for one in content["map"]["regions"]
        if one["backing"]
    ]
    stats = {name: float(value) if type(value) is float else int(value) for name, value in content["stats"].items()}
    missing = {"leases", "faults", "refused"} - stats.keys()
    at = float(content["time"])
    if missing or not 0 <= at < _LAST_SECOND:
        raise LookupError(missing or at)
    return _sample(at, int(content["map"]["generation"]), stats, regions, list(content["clients"]))


def _of_files(space: AddressSpace) -> Sample:
    """A look at the files of a QEMU: what they have is in memory, or was."""
    data = space.memory.data_ranges()
    regions = [
        (
            region.base,
            region.name or region.region_type.value,
            region.size,
            sum(max(0, min(one.end, region.end) - max(one.base, region.base)) for one in data),
        )
        for region in space.memory.regions
    ]
    return _sample(time.time(), space.generation, None, regions, [])


def _sample(
    at: float,
    generation: int,
    stats: dict[str, Any] | None,
    regions: list[tuple[int, str, int, int]],
    clients: list[str],
) -> Sample:
    ram, resident = sum(size for _, _, size, _ in regions), sum(part for *_, part in regions)
    return Sample(at, generation, ram, resident, stats, regions, clients)
