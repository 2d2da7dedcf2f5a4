"""Two maps side by side, on one scale: what changed between them, and what did not as one row each."""

from __future__ import annotations

from itertools import pairwise

from dbs_address_space._core import size_text
from dbs_address_space._named_tuple import NamedTuple

from .changes import FIELDS, changes, words
from .svg import BLOCK, DOTTED, LEFT, Drawing, check_width, clipped, document, is_wide, text
from .words import doublings, escaped, hexadecimal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dbs_address_space._core import AddressSpaceBase, AddressSpaceChange, AddressSpaceRegion

    from .changes import Change

__all__ = ["to_svg"]

TOP = 104
UNCHANGED = 30
LEAST = 34
"""The height of a changed row without its doublings."""
MARKS = {"added": "+ added", "removed": "\N{MINUS SIGN} removed", "moved": "→ moved"}


class _Row(NamedTuple):
    """Addresses between two neighbouring ends of changed regions, and whether any of them is changed."""

    base: int
    end: int
    y: int
    height: int
    is_changed: bool


def to_svg(change: AddressSpaceChange, title: str, theme: str, width: int) -> str:
    """The picture of a change."""
    check_width(width)
    found, _ = changes(change.before, change.after, tuple(FIELDS))
    picture = _Picture(change.before, change.after, found, width)
    kinds = [kind for kind, *_ in found]
    counts = [f"{kinds.count(kind)} {kind}" for kind in ("added", "removed", "changed", "moved") if kind in kinds]
    summary = (
        f"{', '.join(counts) or 'nothing changed'}; generation {change.before.generation} → {change.after.generation}"
    )
    return document(Drawing(summary, str(change), width, picture.bottom, picture.body), title, theme)


def _rows(end: int, found: list[Change]) -> Iterator[_Row]:
    """The addresses from 0 to the end, cut at every end of a changed region."""
    changed = [(region.base, region.end) for _, *both in found for region in both if region is not None]
    y = TOP
    for base, high in pairwise(sorted({0, end, *(address for both in changed for address in both)})):
        is_changed = any(low <= base and high <= top for low, top in changed)
        height = LEAST + round(2.5 * doublings(high - base)) if is_changed else UNCHANGED
        yield _Row(base, high, y, height, is_changed)
        y += height


class _Picture:
    """Both sides of a change; between them the words."""

    def __init__(self, before: AddressSpaceBase, after: AddressSpaceBase, found: list[Change], width: int) -> None:
        self.maps = (before, after)
        room = width - BLOCK - LEFT - (76 if is_wide(width) else 0)
        self.each = (room - (180 if is_wide(width) else 30)) // 2
        self.sides = (BLOCK, BLOCK + room - self.each)
        self.is_wide = is_wide(width)
        self.rows = list(_rows(max(before.layout.phys_end, after.layout.phys_end), found))
        self.tops = {row.base: row.y for row in self.rows}
        self.end = self.rows[-1].y + self.rows[-1].height if self.rows else TOP
        self.tops[self.rows[-1].end if self.rows else 0] = self.end
        self.bottom = self.end + 30
        self.body = [*self._heads(), *(line for row in self.rows for line in self._row(row))]
        self.body += [text(BLOCK - 12, self.end + 4, hexadecimal(max(self.tops)), "muted right")]
        self.body += [line for change in found for line in self._change(change)]

    def _heads(self) -> Iterator[str]:
        for x, word, shown in zip(self.sides, ("before", "after"), self.maps, strict=True):
            generation = f" (generation {shown.generation})" if self.is_wide else ""
            yield text(x, TOP - 17, f"{word}{generation}", "muted plain")

    def _row(self, row: _Row) -> Iterator[str]:
        """The address, and on each side what is not changed there."""
        yield f'<path class="line hair" d="M{BLOCK - 8},{row.y + 0.5} H{self.sides[1] + self.each}"/>'
        yield text(BLOCK - 12, row.y + 4, hexadecimal(row.base), f"{'text' if row.is_changed else 'muted'} right")
        for x, shown in zip(self.sides, self.maps, strict=True):
            inside = [region for region in shown.overlapping(row.base, row.end - row.base) if not row.is_changed]
            size = sum(min(region.end, row.end) - max(region.base, row.base) for region in inside)
            words_ = (
                f"{len(inside)} unchanged, {size_text(size)}" if inside else f"free, {size_text(row.end - row.base)}"
            )
            if inside:
                yield '<g class="mixed">'
                yield f'<rect class="fill" x="{x}" y="{row.y + 1}" width="{self.each}" height="{row.height - 1}"/>'
                yield f'<rect class="edge" x="{x}" y="{row.y + 1}" width="2" height="{row.height - 1}"/></g>'
            else:
                sides = " ".join(f"M{at},{row.y} v{row.height}" for at in (x + 0.5, x + self.each - 0.5))
                yield f'<path {DOTTED} d="{sides}"/>'
            if not row.is_changed or not shown.overlapping(row.base, row.end - row.base):
                yield text(x + 16, row.y + row.height / 2 + 4, clipped(words_, (self.each - 20) // 7), "muted plain")

    def _change(self, change: Change) -> Iterator[str]:
        """The blocks of a changed region, and what became of it."""
        kind, old, new = change
        look = "changed" if kind == "moved" else kind
        region = new or old
        title = f"{kind}: {region.name if region and region.name else 'without a name'}"
        yield f'<g class="row change {look}" data-change="{kind}"><title>{escaped(title)}</title>'
        for x, side in zip(self.sides, (old, new), strict=True):
            if side is not None:
                yield from self._block(x, side, is_gone=new is None)
        middles = [self._middle(side) for side in (old, new) if side is not None]
        if kind == "moved":
            yield from self._arrow(*middles)
        shown = words(old, new, tuple(FIELDS)).replace("->", "→") if old and new else ""
        if self.is_wide:
            between = (self.sides[0] + self.each + self.sides[1]) / 2
            said = f"~ {shown}" if kind == "changed" else ", ".join(filter(None, (MARKS[kind], shown)))
            # An arrow leaves this corner free.
            at, anchor = (self.sides[1] - 12, "right") if kind == "moved" else (between, "middle")
            yield text(at, middles[0] + 4.5, clipped(said, 24), f"text name {anchor}")
        yield "</g>"

    def _block(self, x: int, region: AddressSpaceRegion, *, is_gone: bool) -> Iterator[str]:
        y, height = self.tops[region.base], self.tops[region.end] - self.tops[region.base]
        dashes = ' stroke-dasharray="4 3"' if is_gone else ""
        yield f'<rect class="paper" x="{x}" y="{y}" width="{self.each}" height="{height}"/>'
        yield f'<rect class="fill" x="{x}" y="{y}" width="{self.each}" height="{height}"/>'
        yield f'<rect class="edge" x="{x}" y="{y}" width="6" height="{height}"/>'
        yield f'<rect class="outline line" x="{x + 0.5}" y="{y + 0.5}" width="{self.each - 1}" height="{height - 1}"{dashes}/>'
        size = size_text(region.size) if self.is_wide else ""
        name = clipped(region.name or region.region_type.value, (self.each - 40 - 8 * len(size)) // 9)
        yield text(x + 16, y + height / 2 + 4.5, name, "text name")
        yield text(x + self.each - 10, y + height / 2 + 4, size, "text right")

    def _middle(self, region: AddressSpaceRegion) -> float:
        return (self.tops[region.base] + self.tops[region.end]) / 2

    def _arrow(self, start: float, end: float) -> Iterator[str]:
        left, right = self.sides[0] + self.each + 3, self.sides[1] - 4
        middle = (left + right) / 2
        yield f'<path class="outline line" d="M{left},{start:g} C{middle:g},{start:g} {middle:g},{end:g} {right - 6},{end:g}"/>'
        yield f'<path class="edge" d="M{right},{end:g} l-9,-4.5 v9 z"/>'
