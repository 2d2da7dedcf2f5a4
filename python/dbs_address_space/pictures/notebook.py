"""The map as a table for notebooks: viewers such as GitHub's leave out scripts and styles, and it still has to read well."""

from __future__ import annotations

from dbs_address_space._core import size_text

from .palette import NOTEBOOK
from .words import doublings, escaped, hexadecimal, summary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dbs_address_space._core import AddressSpace, AddressSpaceBase
    from dbs_address_space.map_row import MapRow

__all__ = ["to_table"]

LIMIT = 40
HEADS = ("address", "name", "size", "type", "prot", "backing", "node")


def to_table(space: AddressSpace | AddressSpaceBase) -> str:
    """A real table with what style it has inside its cells; no script, no identifiers."""
    heads = "".join(f'<th style="text-align:{_side(head)}">{head}</th>' for head in HEADS)
    rows = "\n".join(map(_row, space.rows(limit=LIMIT)))
    caption = f'<caption style="text-align:left">{escaped(summary(space))}</caption>'
    return f"<table>{caption}<thead><tr>{heads}</tr></thead><tbody>\n{rows}\n</tbody></table>"


def _side(head: str) -> str:
    return "right" if head in {"address", "size"} else "left"


def _row(row: MapRow) -> str:
    height = 22 if row.kind == "free" else 24 + round(1.5 * doublings(row.end - row.base))
    style = f"height:{height}px" + (";opacity:.65" if row.kind == "free" else "")
    line = "double" if row.kind == "reserved" else "solid"
    edge = f"border-left:6px {line} {NOTEBOOK.get(row.look, 'transparent')};padding-left:8px"
    weight = 400 if row.kind == "free" else 600
    name = f'<span style="font-weight:{weight}">{escaped(row.name)}</span>'
    cells = [f"<code>{hexadecimal(row.base)}</code>", name, size_text(row.size)]
    cells += map(escaped, (row.type_text, row.prot, row.backing, row.node))
    styles = {"name": f"text-align:left;{edge}"}
    shown = (
        f'<td style="{styles.get(head, "text-align:" + _side(head))}">{cell}</td>'
        for head, cell in zip(HEADS, cells, strict=True)
    )
    return f'<tr style="{style}">{"".join(shown)}</tr>'
