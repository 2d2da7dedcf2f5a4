"""`/proc/iomem`, the physical addresses as Linux uses them: lines that are indented below what holds them.

RAM is one region, whatever lies in it. A bus, and whatever has RAM plugged into it, is a window: the regions are what lies in it.
"""

from __future__ import annotations

import re

from .memory_map import RAM, Entry, map_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from dbs_address_space._core import AddressSpace

    from .source import Source

__all__ = ["read"]

LINE = re.compile(r"( *)([0-9a-f]+)-([0-9a-f]+) : (.+)")

MOST_LEVELS = 32
"""More than windows in windows on any machine."""


class _Node:
    """A line and those below it."""

    def __init__(self, entry: Entry) -> None:
        self.entry, self.below = entry, list[_Node]()

    @property
    def is_window(self) -> bool:
        kind = self.entry.kind
        return kind.startswith("PCI Bus") or any(node.entry.kind == RAM or node.is_window for node in self.below)


def read(source: Source) -> AddressSpace:
    """The map of a kernel. It lacks page 0, which Linux keeps for itself, and what `memmap=` took away."""
    nodes = _tree(source)
    if nodes and not any(node.entry.end > 1 for node in nodes):
        raise source.error(
            "every address is 0: it was read without privilege. Take it again with sudo cat /proc/iomem", line=1
        )
    return map_of(source, sorted(_regions(nodes)))


def _tree(source: Source) -> list[_Node]:
    levels: list[list[_Node]] = [[]]
    for number, line in source.lines():
        match = LINE.fullmatch(line)
        if match is None:
            raise source.error(f"{line!r} is not 'START-END : NAME'", line=number)
        depth = len(match[1]) // 2
        if depth >= min(len(levels), MOST_LEVELS):
            raise source.error("it is indented too far below the line before", line=number)
        name = RAM if match[4].startswith(RAM) else match[4]
        node = _Node(Entry(int(match[2], 16), int(match[3], 16) + 1, name, number))
        del levels[depth + 1 :]
        levels[depth].append(node)
        levels.append(node.below)
    return levels[0]


def _regions(nodes: list[_Node]) -> Iterable[Entry]:
    for node in nodes:
        if node.is_window:
            yield from _regions(node.below)
        else:
            yield node.entry
