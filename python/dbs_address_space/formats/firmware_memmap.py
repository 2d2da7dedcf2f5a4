"""`/sys/firmware/memmap`, the firmware's map as Linux keeps it.

Each entry is a folder there, and in a text a line `NUMBER START LAST TYPE`.
"""

from __future__ import annotations

import re
from pathlib import Path

from .memory_map import Entry, map_of, settled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from dbs_address_space._core import AddressSpace

    from .source import Source

__all__ = ["read"]

LINE = re.compile(r"\s*\d+\s+0x([0-9a-f]+)\s+0x([0-9a-f]+)\s+(\S.*)")


def read(source: Source) -> AddressSpace:
    """The map; the numbers of the entries mean nothing."""
    lines = _lines_of(Path(source.path)) if source.is_directory else source.lines()
    return map_of(source, settled(source, _entries(source, lines)))


def _lines_of(directory: Path) -> Iterable[tuple[int, str]]:
    for number, entry in enumerate(sorted(directory.iterdir()), 1):
        parts = [(entry / name).read_text(errors="replace").strip() for name in ("start", "end", "type")]
        yield number, f"{entry.name} {' '.join(parts)}"


def _entries(source: Source, lines: Iterable[tuple[int, str]]) -> Iterable[Entry]:
    for number, line in lines:
        if match := LINE.fullmatch(line):
            yield Entry(int(match[1], 16), int(match[2], 16) + 1, match[3], number)
        elif line:
            raise source.error(f"{line!r} is not a number, a start, an end and a type", line=number)
