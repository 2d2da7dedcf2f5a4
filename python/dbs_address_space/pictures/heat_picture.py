"""The pages of memory as a heat map: one band for each region, in lines whose columns are one set of low digits."""

from __future__ import annotations

from math import ceil

from dbs_address_space._core import size_text

from .palette import HEAT_DARK, HEAT_LIGHT
from .svg import BLOCK, LEFT, Drawing, clipped, described, is_wide, text
from .words import escaped, hexadecimal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dbs_address_space._core import AddressSpace, DirtyPages
    from dbs_address_space.map_row import MapRow
    from dbs_address_space.ranges import AddressRange

    from .palette import Heat

__all__ = ["RULES", "drawn"]

LINE = 64
"""Cells of a line."""
MOST_CELLS = 4096
PAGE = 4096
STEP = 10
"""The height of a line of cells."""
HEAD, TOP = 34, 84


def _colors(heat: Heat) -> str:
    resident = "".join(f".resident{level}{{fill:{color}}}" for level, color in enumerate(heat["resident"]))
    return resident + "".join(f".dirty{level}{{fill:{color}}}" for level, color in enumerate(heat["dirty"], 1))


RULES = _colors(HEAT_LIGHT), _colors(HEAT_DARK)


def drawn(space: AddressSpace, width: int, limit: int, dirty: DirtyPages | None) -> Drawing:
    """The picture of what is resident, and of what was written where a tracker tells."""
    rows = [row for row in space.rows(limit=limit) if row.regions and row.look not in ("device", "dax")]
    cell = _cell_of(rows)
    resident, written = space.memory.resident(), tuple(dirty or ())
    picture = _Picture(width, cell, TOP if is_wide(width) or dirty is None else TOP + 22)
    body = list(_legend(width, has_dirty=dirty is not None))
    for row in rows:
        body += picture.band(
            row, _Shares(row, cell, resident), _Shares(row, cell, written), has_dirty=dirty is not None
        )
    body.append(text(LEFT, picture.y + 24, NOTE if is_wide(width) else "", "muted plain"))
    words = "resident and dirty pages" if dirty is not None else "resident pages"
    summary = f"{words}; one cell is {size_text(cell)}, one line {size_text(cell * LINE)}"
    description = described(region for row in rows for region in row.regions)
    return Drawing(summary, description, width, picture.y + 44, body)


NOTE = "Lines begin at multiples of their length, so one column is one set of low digits. One page is enough to leave “none”."


def _cell_of(rows: list[MapRow]) -> int:
    """The bytes of a cell: the smallest power of two of which there are not too many."""
    cell = PAGE
    while sum(-(-(row.end - row.base) // cell) for row in rows) > MOST_CELLS:
        cell *= 2
    return cell


class _Shares:
    """How much of each cell of a row some ranges cover, by the number of the cell; and of the row."""

    def __init__(self, row: MapRow, cell: int, ranges: Iterable[AddressRange]) -> None:
        self.covered: dict[int, int] = {}
        self.total = 0
        for range_ in ranges:
            low, high = max(range_.base, row.base), min(range_.end, row.end)
            for number in range(low // cell, -(-high // cell) if low < high else 0):
                part = min(high, (number + 1) * cell) - max(low, number * cell)
                self.covered[number] = self.covered.get(number, 0) + part
                self.total += part

    def level(self, number: int, room: int) -> int:
        """From 0, for nothing, to 4, for all."""
        return min(4, ceil(4 * self.covered.get(number, 0) / room))


def _legend(width: int, *, has_dirty: bool) -> Iterator[str]:
    yield text(LEFT, 66, "resident", "muted plain")
    yield from (
        f'<rect class="resident{level}" x="{LEFT + 66 + 26 * level}" y="55" width="25" height="13"/>'
        for level in range(5)
    )
    yield text(LEFT + 204, 66, "none … all", "muted plain")
    if has_dirty:
        at, y = (LEFT + 300, 55) if is_wide(width) else (LEFT, 77)
        yield text(at, y + 11, "dirty", "muted plain")
        for level in range(4):
            yield f'<rect class="dirty{level + 1}" x="{at + 66 + 26 * level}" y="{y}" width="25" height="13"/>'
            yield _dot(at + 66 + 26 * level, y + 1.5, 25)
        yield text(at + 178, y + 11, "some … all, with a dot", "muted plain")


def _dot(x: float, y: float, width: float) -> str:
    return f'<rect class="paper" x="{x + width / 2 - 1.5:.1f}" y="{y + 3.5:g}" width="3" height="3"/>'


class _Picture:
    """Bands, one below the other."""

    def __init__(self, width: int, cell: int, top: int) -> None:
        self.cell, self.y, self.is_wide = cell, top, is_wide(width)
        self.width = (width - BLOCK - LEFT - (116 if self.is_wide else 0)) / LINE

    def band(self, row: MapRow, resident: _Shares, dirty: _Shares, *, has_dirty: bool) -> Iterator[str]:
        """The name and the facts of a row, and its lines of cells."""
        yield f'<g class="row" data-base="{row.base}" data-end="{row.end}">'
        yield f"<title>{escaped(row.name or row.type_text)} [{hexadecimal(row.base)}, {hexadecimal(row.end)})</title>"
        facts = [size_text(row.size), f"{_percent(resident.total, row.size)} resident"]
        facts += [f"{_percent(dirty.total, row.size)} dirty"] if has_dirty else []
        facts += [f"node {row.node}"] if row.node.isdecimal() else []
        yield text(BLOCK, self.y + 20, clipped(row.name or row.type_text, 22 if self.is_wide else 12), "text name")
        shown = " · ".join(facts if self.is_wide else facts[1:2])
        yield text(BLOCK + LINE * self.width, self.y + 20, shown, "muted right")
        self.y += HEAD - 6
        length = self.cell * LINE
        for number, start in enumerate(range(row.base // length * length, row.end, length)):
            if number % 2 == 0:
                yield text(BLOCK - 12, self.y + 9, hexadecimal(max(start, row.base)), "muted right")
            yield from self._line(row, start // self.cell, resident, dirty)
            self.y += STEP
        self.y += HEAD - 22
        yield "</g>"

    def _line(self, row: MapRow, first: int, resident: _Shares, dirty: _Shares) -> Iterator[str]:
        """The cells of a line, equal neighbours as one rectangle."""
        runs: list[tuple[str, int, int]] = []
        for number in range(max(first, row.base // self.cell), min(first + LINE, -(-row.end // self.cell))):
            room = min(row.end, (number + 1) * self.cell) - max(row.base, number * self.cell)
            written = dirty.level(number, room)
            look = f"dirty{written}" if written else f"resident{resident.level(number, room)}"
            at = number - first
            if runs and runs[-1][0] == look and runs[-1][2] == at:
                runs[-1] = (look, runs[-1][1], at + 1)
            else:
                runs.append((look, at, at + 1))
        for look, begin, end in runs:
            x, width = BLOCK + begin * self.width, (end - begin) * self.width - 1
            yield f'<rect class="{look}" x="{x:.1f}" y="{self.y}" width="{width:.1f}" height="{STEP - 1}"/>'
            if look.startswith("dirty"):
                yield from (_dot(BLOCK + at * self.width, self.y - 0.5, self.width - 1) for at in range(begin, end))


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole
    return "<0.1%" if 0 < share < 0.1 else f"{share:.1f}%".replace(".0%", "%")  # noqa: PLR2004
