"""The map that QEMU prints."""

from __future__ import annotations

import re
from typing import NamedTuple

from dbs_address_space.errors import InvalidArgument

__all__ = ["END", "Range", "flat_view", "unique_name"]

END = 1 << 52
_LINE = re.compile(r"\s*([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, ([^)]*)\): (.*?)(?: @([0-9a-f]+))?(?: KVM)?\s*$")


class Range(NamedTuple):
    """A range of the flat view: QEMU's kind and name of what is there, and the offset in that."""

    base: int
    size: int
    kind: str
    name: str
    offset: int


def flat_view(text: str) -> list[Range]:
    """The ranges of the address space named memory, from what `info mtree -f` prints."""
    for view in re.split(r"^FlatView ", text, flags=re.MULTILINE):
        if re.search(r'^ AS "memory"', view, flags=re.MULTILINE):
            matches = filter(None, map(_LINE.match, view.splitlines()))
            return [
                Range(
                    base := int(match[1], 16),
                    int(match[2], 16) + 1 - base,
                    match[3],
                    match[4],
                    int(match[5] or "0", 16),
                )
                for match in matches
            ]
    raise InvalidArgument("this is not what info mtree -f prints: it has no address space named memory")


def unique_name(name: str, offset: int, seen: set[str]) -> str:
    """A name for a range of something, by the offset in it, that no other has."""
    label = f"{name}@{offset:#x}" if offset else name
    unique, number = label, 1
    while unique in seen:
        number += 1
        unique = f"{label}#{number}"
    seen.add(unique)
    return unique
