"""A snapshot folder of cloud-hypervisor: `state.json` tells of the ranges that lie one behind the other in `memory-ranges`."""

from __future__ import annotations

import json
from pathlib import Path

from .raw import pieces_of
from .source import Source
from .stored import mapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dbs_address_space._core import AddressSpace

__all__ = ["read"]


def read(source: Source, *, partial: bool = False, copy: bool = False) -> AddressSpace:
    """The memory of a snapshot, mapped where it lies. Memory in files that the user gave is not in it."""
    with Source(Path(source.path) / "state.json") as state, Source(Path(source.path) / "memory-ranges") as memory:
        state.format = memory.format = source.format
        text = state.text()
        try:
            listed = _memory_manager(json.loads(text))["memory_ranges"]["data"]
            ranges = [(range_["gpa"], range_["length"]) for range_ in listed]
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise state.error(f"no memory ranges of the memory manager: {error!r}") from error
        if not all(type(number) is int for range_ in ranges for number in range_):
            raise state.error("a memory range is not of numbers")
        return mapped(memory, pieces_of(memory, ranges, partial=partial), partial=partial, copy=copy)


def _memory_manager(tree: Any) -> dict[str, Any]:
    """The state of the memory manager: releases nest it differently, and have it as JSON in a string."""
    if isinstance(tree, str):
        return _memory_manager(json.loads(tree))
    if "memory_ranges" in tree:
        return dict(tree)
    if "memory-manager" in tree:
        return _memory_manager(tree["memory-manager"])
    name = next((name for name in ("snapshots", "snapshot_data", "state") if tree.get(name)), "memory-manager")
    return _memory_manager(tree[name])
