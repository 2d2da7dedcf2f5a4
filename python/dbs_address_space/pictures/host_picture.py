"""The guest's addresses beside the host's files and memory behind them, with ribbons between."""

from __future__ import annotations

import os
from itertools import groupby
from pathlib import Path

from dbs_address_space._core import AddressSpace, size_text
from dbs_address_space._named_tuple import NamedTuple

from .svg import BLOCK, LEFT, Drawing, clipped, described, is_wide, text
from .words import escaped, heights, hexadecimal, tip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dbs_address_space._core import AddressSpaceBase, Mapping
    from dbs_address_space.map_row import MapRow

__all__ = ["drawn"]

TOP = 88
GAP = 12
HEAD = 24
"""The height of a backing's name."""
SOURCES = {
    "shmem": "memfd",
    "hugeshmem": "huge memfd",
    "mmap": "anonymous",
    "hugemmap": "huge anonymous",
    "hugetlbfs": "huge file",
}


class _Part(NamedTuple):
    """A row on the guest's side, the backing that it shows, its name and page size, and the offset in it."""

    row: MapRow
    backing: object
    name: str
    pages: str
    offset: int | None


def drawn(space: AddressSpace | AddressSpaceBase, width: int, limit: int) -> Drawing:
    """The picture of what has memory: devices and free addresses are left out."""
    rows = [row for row in space.rows(limit=limit) if row.regions and row.look not in ("device", "dax")]
    mappings = {mapping.base: mapping for mapping in _mappings(space)}
    parts = [_part(row, mappings.get(row.base)) for row in rows]
    picture = _Picture(parts, width)
    description = described(region for row in rows for region in row.regions)
    return Drawing("guest addresses, and what holds them on the host", description, width, picture.bottom, picture.body)


def _mappings(space: AddressSpace | AddressSpaceBase) -> tuple[Mapping, ...]:
    return space.memory.mappings() if isinstance(space, AddressSpace) and space.is_mapped else ()


def _part(row: MapRow, mapping: Mapping | None) -> _Part:
    region, count = row.regions[0], len(row.regions)
    word = row.backing.partition(" ")[0]
    kind = SOURCES.get(word, word)
    pages = f"{size_text(mapping.page_size if mapping else region.page_size or 4096)} pages"
    if count > 1:
        return _Part(row, row.base, f"{count} of {kind}" if row.backing != "…" else f"{count} backings", pages, None)
    offset = region.file_offset if region.has_file else None
    # Looking at the descriptor of huge pages would make their memory guarded.
    if mapping is None or word.startswith("huge") or mapping.fd is None:
        name = region.mem_file_path or region.name or ""
        return _Part(row, row.base, f"{kind} {name}".strip(), pages, offset)
    status = os.fstat(mapping.fd)
    name = str(Path(f"/proc/self/fd/{mapping.fd}").readlink()).removesuffix(" (deleted)").removeprefix("/memfd:")
    return _Part(row, (status.st_dev, status.st_ino), f"{kind} {name}", pages, mapping.file_offset)


class _Picture:
    """Where the blocks of both sides are. Backings stand in the order of their first guest address, so that few ribbons cross."""

    def __init__(self, parts: list[_Part], width: int) -> None:
        room = width - BLOCK - LEFT - (76 if is_wide(width) else 0)
        self.each = (room - (180 if is_wide(width) else 40)) // 2
        self.right = BLOCK + room - self.each
        self.is_wide = is_wide(width)
        sizes, _ = heights([part.row for part in parts])
        first = {part.backing: number for number, part in reversed(list(enumerate(parts)))}
        order = sorted(range(len(parts)), key=lambda number: (first[parts[number].backing], parts[number].offset or 0))
        self.guest = list(_guest_tops(parts, sizes))
        self.host = dict(_host_tops(parts, sizes, order))
        self.body = [*self._heads(), *self._boxes(parts, sizes, order)]
        for number, (part, y, height) in enumerate(zip(parts, self.guest, sizes, strict=True)):
            self.body += self._pair(part, y, self.host[number], height)
        tops = [*zip(self.guest, sizes, strict=True), *((self.host[number], sizes[number]) for number in order)]
        self.bottom = max((top + size for top, size in tops), default=TOP) + 50
        note = "Devices and DAX windows are left out. Heights are logarithmic."
        self.body.append(
            text(LEFT, self.bottom - 18, note if self.is_wide else "Heights are logarithmic.", "muted plain")
        )

    def _heads(self) -> Iterator[str]:
        yield text(BLOCK, TOP - 18, "guest-physical", "muted plain")
        yield text(self.right, TOP - 18, "host: backing, offset, pages" if self.is_wide else "host", "muted plain")

    def _boxes(self, parts: list[_Part], sizes: list[int], order: list[int]) -> Iterator[str]:
        """A box with its name for each backing, around its parts."""
        for _, numbers in groupby(order, key=lambda number: parts[number].backing):
            inside = list(numbers)
            part, y = parts[inside[0]], self.host[inside[0]] - HEAD
            height = HEAD + sum(sizes[number] for number in inside)
            size = size_text(sum(parts[number].row.size for number in inside)) if self.is_wide else ""
            yield f'<rect class="line axis" x="{self.right + 0.5}" y="{y + 0.5}" width="{self.each}" height="{height}" rx="3"/>'
            yield text(self.right + 12, y + 17, clipped(part.name, (self.each - 30 - 8 * len(size)) // 9), "text name")
            yield text(self.right + self.each - 10, y + 17, size, "muted right")
            node = part.row.node
            if self.is_wide:
                yield text(self.right + self.each + 12, y + 17, f"node {node}" if node.isdecimal() else "any node")

    def _pair(self, part: _Part, y: int, other: int, height: int) -> Iterator[str]:
        """A block on each side, and the ribbon between."""
        row, each, edge = part.row, self.each, BLOCK + self.each
        dashes = ' stroke-dasharray="6 3"' if row.is_hotplug else ""
        middle, half = (edge + self.right) / 2, height / 2
        upper = f"M{edge},{y} C{middle:g},{y} {middle:g},{other} {self.right},{other}"
        lower = f"V{other + height} C{middle:g},{other + height} {middle:g},{y + height} {edge},{y + height} Z"
        yield f'<g class="row {row.look}" data-base="{row.base}" data-end="{row.end}"><title>{escaped(tip(row))}</title>'
        yield f'<path class="fill" opacity=".7" d="{upper} {lower}"/>'
        yield f'<path class="outline line" opacity=".5" d="{upper} {lower}"/>'
        yield f'<rect class="fill" x="{BLOCK}" y="{y}" width="{each}" height="{height}"/>'
        yield f'<rect class="outline line" x="{BLOCK + 0.5}" y="{y + 0.5}" width="{each - 1}" height="{height - 1}"{dashes}/>'
        yield f'<rect class="edge" x="{edge - 6}" y="{y}" width="6" height="{height}"/>'
        yield f'<rect class="fill" x="{self.right + 1}" y="{other}" width="{each - 1}" height="{height}"/>'
        yield f'<rect class="edge" x="{self.right}" y="{other}" width="6" height="{height}"/>'
        size = size_text(row.size) if self.is_wide else ""
        yield text(BLOCK - 12, y + 4, hexadecimal(row.base), "text right")
        yield text(BLOCK + 12, y + half + 4.5, clipped(row.name, (each - 34 - 8 * len(size)) // 9), "text name")
        yield text(edge - 14, y + half + 4, size, "text right")
        offset = "" if part.offset is None else f"@{hexadecimal(part.offset)}"
        yield text(self.right + 14, other + half + 4, offset)
        yield text(self.right + each - 10, other + half + 4, part.pages if self.is_wide else "", "muted right")
        yield "</g>"


def _guest_tops(parts: list[_Part], sizes: list[int]) -> Iterator[int]:
    """The places on the guest's side; what does not touch has a gap between."""
    y = TOP
    for number, (part, size) in enumerate(zip(parts, sizes, strict=True)):
        if number and parts[number - 1].row.end != part.row.base:
            y += GAP
        yield y
        y += size


def _host_tops(parts: list[_Part], sizes: list[int], order: list[int]) -> Iterator[tuple[int, int]]:
    """The places on the host's side, by the number of the part."""
    y, before = TOP + HEAD, None
    for number in order:
        if before is not None and parts[number].backing != parts[before].backing:
            y += GAP + HEAD
        yield number, y
        y, before = y + sizes[number], number
