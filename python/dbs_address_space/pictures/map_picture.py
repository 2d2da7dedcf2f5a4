"""The map as a picture: low addresses on top, sizes as heights, types as colours."""

from __future__ import annotations

from dbs_address_space._core import size_text

from .svg import BLOCK, DOTTED, LEFT, Drawing, clipped, described, is_wide, text
from .words import LARGE, escaped, heights, hexadecimal, summary, tip, totals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dbs_address_space._core import AddressSpace, AddressSpaceBase, AddressSpaceLayout
    from dbs_address_space.map_row import MapRow

__all__ = ["drawn"]

BLOCK_WIDTH = 244
FACTS = (("type", 106), ("prot", 200), ("backing", 240), ("node", 340))
"""The columns of facts, in pixels behind the block."""


def drawn(space: AddressSpace | AddressSpaceBase, width: int, limit: int) -> Drawing:
    """The picture of a map."""
    rows = space.rows(limit=limit)
    picture = _Picture(rows, width)
    description = described(region for row in rows for region in row.regions)
    return Drawing(summary(space), description, width, picture.bottom, [*picture.lines(space.layout)])


class _Picture:
    """Where everything is in a picture of some rows."""

    def __init__(self, rows: tuple[MapRow, ...], width: int) -> None:
        self.rows = rows
        self.width = width
        self.is_wide = is_wide(width)
        self.block_width = BLOCK_WIDTH if self.is_wide else max(60, width - BLOCK - 110)
        self.size_at = BLOCK + self.block_width + 86
        self.right = BLOCK + self.block_width + 396 if self.is_wide else self.size_at
        self.totals = totals(rows)
        self.top = 114 if self.is_wide else 96 + 18 * len(self.totals)
        self.heights, self.each = heights(rows)
        self.tops = [self.top + sum(self.heights[:index]) for index in range(len(rows))]
        self.end = self.top + sum(self.heights)
        self.bottom = self.end + 50

    def lines(self, layout: AddressSpaceLayout) -> Iterator[str]:
        yield from self._shares()
        yield from self._heads()
        for row, y, height in zip(self.rows, self.tops, self.heights, strict=True):
            yield f'<path class="line hair" d="M{BLOCK - 8},{y + 0.5} H{self.right}"/>'
            yield text(BLOCK - 12, y + 4, hexadecimal(row.base), f"{'muted' if row.kind == 'free' else 'text'} right")
            yield from self._row(row, y, height)
        yield f'<path class="line hair" d="M{BLOCK - 8},{self.end + 0.5} H{self.right}"/>'
        yield text(BLOCK - 12, self.end + 4, hexadecimal(self.rows[-1].end if self.rows else 0), "muted right")
        if self.is_wide:
            yield from (line for window in layout.mmio_windows for line in self._window(window.base, window.end))
        scale = f"each doubling above 1 MiB adds {self.each:.1f} px; free addresses are not to scale."
        note = f"Low addresses on top, ends are exclusive. Heights: {scale}"
        yield text(LEFT, self.end + 32, note if self.is_wide else "Heights are logarithmic.", "muted plain")

    def _shares(self) -> Iterator[str]:
        """One bar in true proportion, a type at least 3 px, and what the colours mean."""
        whole = sum(size for size, _ in self.totals.values())
        room = self.width - 2 * LEFT - 4 * len(self.totals)
        x: float = LEFT
        for number, (look, (size, count)) in enumerate(self.totals.items()):
            share = 4 + room * size / whole
            words = f"{look} {size_text(size)}" + (f" in {count}" if count > 1 else "")
            key_x, key_y = (LEFT + 190 * number, 65) if self.is_wide else (LEFT, 65 + 18 * number)
            yield f'<g class="{look}"><title>{words}</title>'
            yield f'<rect class="edge" x="{x:.1f}" y="46" width="{share - 1:.1f}" height="8" rx="1"/>'
            yield f'<rect class="edge" x="{key_x}" y="{key_y}" width="10" height="10" rx="2"/></g>'
            yield text(key_x + 15, key_y + 9, words, "muted plain")
            x += share

    def _heads(self) -> Iterator[str]:
        y = self.top - 11
        yield text(BLOCK - 12, y, "address", "muted plain right")
        yield text(self.size_at, y, "size", "muted plain right")
        if self.is_wide:
            yield from (text(BLOCK + self.block_width + at, y, head, "muted plain") for head, at in FACTS)

    def _row(self, row: MapRow, y: int, height: int) -> Iterator[str]:
        yield f'<g class="row {row.look}" data-base="{row.base}" data-end="{row.end}" tabindex="0">'
        yield f"<title>{escaped(tip(row))}</title>"
        yield from self._free(row, y, height) if row.kind == "free" else self._block(row, y, height)
        middle = y + height / 2 + 4
        yield text(self.size_at, middle, size_text(row.size), f"{'muted' if row.kind == 'free' else 'text'} right")
        if self.is_wide:
            node = f"node {row.node}" if row.node.isdecimal() else row.node
            texts = (row.type_text, row.prot, row.backing, node)
            behind = BLOCK + self.block_width
            yield from (text(behind + at, middle, fact) for (_, at), fact in zip(FACTS, texts, strict=True))
        yield "</g>"

    def _free(self, row: MapRow, y: int, height: int) -> Iterator[str]:
        """Two dotted sides, broken where much is left out."""
        left, right, middle = BLOCK + 0.5, BLOCK + self.block_width - 0.5, y + height / 2
        yield f'<rect x="{BLOCK}" y="{y}" width="{self.block_width}" height="{height}" fill="none" pointer-events="all"/>'
        if row.size < LARGE:
            yield f'<path {DOTTED} d="M{left},{y} v{height} M{right},{y} v{height}"/>'
        else:
            sides = " ".join(f"M{x},{y} V{middle - 4} M{x},{middle + 4} V{y + height}" for x in (left, right))
            yield f'<path {DOTTED} d="{sides}"/>'
            wave = "l6,-3 l6,6 l6,-6"
            breaks = " ".join(f"M{x - 9},{middle + dy} {wave}" for x in (left, right) for dy in (-3, 3))
            yield f'<path class="line axis" d="{breaks}"/>'
        yield text(BLOCK + 22, middle + 4, row.name, "muted plain")

    def _block(self, row: MapRow, y: int, height: int) -> Iterator[str]:
        width = self.block_width
        dashes = ' stroke-dasharray="6 3"' if row.is_hotplug else ""
        yield f'<rect class="fill" x="{BLOCK}" y="{y}" width="{width}" height="{height}"/>'
        room = width // 9
        if row.kind == "reserved":
            dashes = ' stroke-dasharray="4 3"'
            yield f'<rect x="{BLOCK}" y="{y}" width="{width}" height="{height}" fill="url(#hatch)"/>'
            plate = min(width - 24, 8 * min(len(row.name), room) + 12)
            yield f'<rect class="fill" x="{BLOCK + 12}" y="{y + height / 2 - 9}" width="{plate}" height="18" rx="3"/>'
        else:
            yield f'<rect class="edge" x="{BLOCK}" y="{y}" width="6" height="{height}"/>'
        yield f'<rect class="outline line" x="{BLOCK + 0.5}" y="{y + 0.5}" width="{width - 1}" height="{height - 1}"{dashes}/>'
        if row.kind == "group":
            room = (width - 94) // 8
            yield from self._members(row, y + height / 2)
        yield text(BLOCK + 16, y + height / 2 + 4.5, clipped(row.name, room), "text name")

    def _members(self, row: MapRow, middle: float) -> Iterator[str]:
        """A bar code of a group: where its regions are; of many, how full each part is."""
        left, width, parts = BLOCK + self.block_width - 78, 70, 35
        yield f'<rect class="paper" x="{left - 2}" y="{middle - 7}" width="{width + 4}" height="14" rx="2"/>'
        for at, share, full in _bar_code(row, parts):
            yield (
                f'<rect class="edge" x="{left + width * at:.1f}" y="{middle - 5}" width="{width * share:.1f}" height="10"'
                f' opacity="{full:.2f}"/>'
            )

    def _window(self, base: int, end: int) -> Iterator[str]:
        """A bracket right of the table."""
        inside = [index for index, row in enumerate(self.rows) if row.base < end and base < row.end]
        if not inside:
            return
        x, top = self.right + 16, self.tops[inside[0]]
        bottom = self.tops[inside[-1]] + self.heights[inside[-1]]
        yield f"<g><title>MMIO window [{hexadecimal(base)}, {hexadecimal(end)})</title>"
        yield f'<path class="line axis" d="M{x - 5},{top + 2} H{x} V{bottom - 2} H{x - 5}"/>'
        middle = (top + bottom) / 2
        yield text(x + 8, middle - 3, "MMIO window", "muted plain")
        yield text(x + 8, middle + 12, size_text(end - base), "muted plain") + "</g>"


def _bar_code(row: MapRow, parts: int) -> Iterator[tuple[float, float, float]]:
    """Place and width of each bar as shares of the group, and how full it is."""
    whole = row.end - row.base
    if len(row.regions) <= parts:
        for region in row.regions:
            yield (region.base - row.base) / whole, max(region.size / whole * 0.94, 0.015), 1.0
        return
    filled = [0.0] * parts
    for region in row.regions:
        first, last = ((address - row.base) * parts / whole for address in (region.base, region.end))
        for part in range(int(first), min(int(last), parts - 1) + 1):
            filled[part] += max(0.0, min(last, part + 1) - max(first, part))
    for part, share in enumerate(filled):
        if share:
            yield part / parts, 1 / parts, 0.25 + 0.75 * min(1.0, share)
