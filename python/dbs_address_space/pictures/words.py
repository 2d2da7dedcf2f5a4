"""Words and heights that all pictures share."""

from __future__ import annotations

import re
from math import log2

from dbs_address_space._core import size_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dbs_address_space._core import AddressSpace, AddressSpaceBase
    from dbs_address_space.map_row import MapRow

__all__ = ["ROW_HEIGHT", "doublings", "escaped", "facts", "heights", "hexadecimal", "summary", "tip", "totals"]

TYPES = ("ram", "device", "dax", "firmware")
ROW_HEIGHT, FREE_HEIGHT, LARGE_FREE_HEIGHT = 26, 22, 30
WANTED_HEIGHT = 900
LARGE = 1 << 30
FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})


def escaped(text: object) -> str:
    """Text for XML and HTML; what XML 1.0 forbids becomes U+FFFD."""
    return FORBIDDEN.sub("\ufffd", str(text)).translate(ENTITIES)


def hexadecimal(number: int) -> str:
    """`0xc000_0000`, as everywhere in this package."""
    return f"{number:#_x}"


def doublings(size: int) -> float:
    """How often 1 MiB doubles to be this size, which is what heights tell."""
    return max(0.0, log2(size / (1 << 20)))


def heights(rows: Sequence[MapRow]) -> tuple[list[int], float]:
    """The height of each row, and the pixels that a doubling has: fewer, to a point, when the picture gets high."""
    fixed = sum(_least(row) for row in rows)
    total = sum(doublings(row.end - row.base) for row in rows if row.kind != "free")
    each = min(4.0, max(2.0, (WANTED_HEIGHT - fixed) / (total or 1)))
    return [
        _least(row) + (0 if row.kind == "free" else round(each * doublings(row.end - row.base))) for row in rows
    ], each


def _least(row: MapRow) -> int:
    if row.kind != "free":
        return ROW_HEIGHT
    return LARGE_FREE_HEIGHT if row.size >= LARGE else FREE_HEIGHT


def totals(rows: Iterable[MapRow]) -> dict[str, tuple[int, int]]:
    """For each type that there is, its bytes and its regions."""
    regions = [(region.region_type.value, region.size) for row in rows for region in row.regions]
    sizes = {look: [size for of, size in regions if of == look] for look in TYPES}
    return {look: (sum(found), len(found)) for look, found in sizes.items() if found}


def summary(space: AddressSpace | AddressSpaceBase) -> str:
    """The map in a line: RAM, regions, generation, and of a live space whether it has memory."""
    count = len(space)
    is_mapped = getattr(space, "is_mapped", None)
    mapped = "" if is_mapped is None else ", mapped" if is_mapped else ", not mapped"
    regions = f"{count} region{'' if count == 1 else 's'}"
    return f"{size_text(space.ram_size)} RAM, {regions}, generation {space.generation}{mapped}"


def facts(row: MapRow) -> list[str]:
    """All that is known of a row beside its name, addresses and size."""
    node = f"node {row.node}" if row.node else ""
    return [fact for fact in (row.type_text, row.prot, row.backing, node, "hotplug" if row.is_hotplug else "") if fact]


def tip(row: MapRow) -> str:
    """All that is known of a row, in a few lines."""
    title = f"reserved for {row.name}" if row.kind == "reserved" else row.name or row.type_text
    ends = f"[{hexadecimal(row.base)}, {hexadecimal(row.end)})"
    last = f"  last byte {hexadecimal(row.end - 1)}" if row.kind == "region" else ""
    lines = [title, ends + last, f"{size_text(row.size)} ({row.size:,} bytes)"]
    return "\n".join(lines + ([" · ".join(facts(row))] if row.regions else []))
