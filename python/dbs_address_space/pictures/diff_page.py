"""A change of a map as a page of HTML: its picture, and what changed as a table; one file, to read without scripts."""

from __future__ import annotations

from dbs_address_space._core import size_text

from .changes import FIELDS, changes, words
from .page import style_sheet
from .words import escaped, hexadecimal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dbs_address_space._core import AddressSpaceChange

    from .changes import Change

__all__ = ["to_html"]

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
WIDTH = 984
HEADS = ("change", "begins", "ends", "size", "type", "name", "what")

RULES = """
figure{margin:0;padding:18px 24px;overflow:auto}figure svg{max-width:100%;height:auto}
table{border-collapse:collapse;margin:0 24px;font:12px ui-monospace,monospace}body>p{color:var(--muted);padding:0 24px 30px}
th,td{text-align:left;padding:4px 14px 4px 0;border-bottom:1px solid var(--line)}tbody th{border-left:6px solid var(--edge);
padding-left:8px}thead th{color:var(--muted);font-weight:400;padding-left:14px}
"""


def to_html(change: AddressSpaceChange, title: str) -> str:
    """The page of a change, light and dark."""
    found, unchanged = changes(change.before, change.after, tuple(FIELDS))
    heads = "".join(f"<th>{head}</th>" for head in HEADS)
    rows = "\n".join(map(_row, found))
    shown = escaped(title)
    picture = change.to_svg(title=title, width=WIDTH)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{shown}</title><style>{style_sheet("auto")}{RULES}</style></head><body>
<figure>{picture}</figure>
<table><thead><tr>{heads}</tr></thead><tbody>
{rows}
</tbody></table><p>{unchanged} unchanged. Ends are exclusive.</p></body></html>
"""


def _row(change: Change) -> str:
    kind, old, new = change
    region = new or old
    if region is None:
        return ""
    moved = f"moved from {hexadecimal(old.base)}" if old and kind == "moved" else ""
    what = ", ".join(filter(None, (moved, words(old, new, tuple(FIELDS)) if old and new else "")))
    cells = (hexadecimal(region.base), hexadecimal(region.end), size_text(region.size), region.region_type.value)
    look = "changed" if kind == "moved" else kind
    told = "".join(f"<td>{escaped(cell)}</td>" for cell in (*cells, region.name or "", what))
    return f'<tr class="{look}" data-base="{region.base}" data-end="{region.end}"><th>{kind}</th>{told}</tr>'
