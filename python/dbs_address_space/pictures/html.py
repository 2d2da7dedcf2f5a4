"""The map as a page of HTML: one file, without network, to read without scripts."""

from __future__ import annotations

from dbs_address_space._core import size_text

from .page import SCRIPT, style_sheet
from .words import LARGE, doublings, escaped, facts, hexadecimal, summary, tip, totals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dbs_address_space._core import AddressSpace, AddressSpaceBase, AddressSpaceRegion
    from dbs_address_space.map_row import MapRow

__all__ = ["to_html"]

MANY = 500
"""Groups of more regions list them as text: a thousand rows make a poor picture."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
NOTE = "Low addresses on top, ends are exclusive. Heights are logarithmic, free addresses are not to scale."


def to_html(space: AddressSpace | AddressSpaceBase, title: str, theme: str, limit: int) -> str:
    """The page of a map, row by row of `space.rows(limit=limit)`."""
    rows = space.rows(limit=limit)
    body = "\n".join(map(_row, rows))
    shown = escaped(title)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{shown}</title><style>{style_sheet(theme)}</style></head><body>
<header><h1>{shown}</h1><p>{escaped(summary(space))}</p>{_shares(rows)}</header>
<nav><input id="find" type="search" placeholder="name, type or address  ( / )" aria-label="find">
<output id="found"></output>
<label>height <input id="height" type="range" min="0" max="12" value="4"></label></nav>
<main><section><div class="row head">{_heads()}</div>
{body}
<div class="row last"><span class="address">{hexadecimal(rows[-1].end if rows else 0)}</span></div></section>
<aside aria-live="polite"><p>Point at a row, or step through with ↑ and ↓. A click keeps it.</p></aside></main>
<footer>{NOTE}</footer><script>{SCRIPT}</script></body></html>
"""


def _heads() -> str:
    columns = [("address", "address"), ("block", "name"), ("size", "size")]
    columns += [("fact", head) for head in ("type", "prot", "backing", "node")]
    return "".join(f'<span class="{kind}">{head}</span>' for kind, head in columns)


def _shares(rows: tuple[MapRow, ...]) -> str:
    """One bar in true proportion, and what the colours mean."""
    found = totals(rows).items()
    bars = "".join(f'<i class="{look}" style="flex:{size} 1 4px"></i>' for look, (size, _) in found)
    keys = (f'<span><i class="{look}"></i>{look} {size_text(size)} in {count}</span>' for look, (size, count) in found)
    return f'<div class="shares">{bars}</div><div class="keys">{"".join(keys)}</div>'


def _row(row: MapRow) -> str:
    if row.kind != "group":
        return _line(row)
    return f'<details>{_line(row, "summary")}<div class="members">{"".join(_members(row))}</div></details>'


def _members(row: MapRow) -> Iterator[str]:
    if len(row.regions) <= MANY:
        yield from (f"<div>{_described(region)}</div>" for region in row.regions)
    else:
        yield f"<pre>{chr(10).join(map(_described, row.regions))}</pre>"


def _described(region: AddressSpaceRegion) -> str:
    ends = f"[{hexadecimal(region.base)}, {hexadecimal(region.end)})"
    return escaped(f"{ends}  {size_text(region.size)}  {region.region_type.value}  {region.name or ''}")


def _line(row: MapRow, tag: str = "div") -> str:
    """A row that can be focused; its label says all that is known of it."""
    doubled = 0 if row.kind == "free" else doublings(row.end - row.base)
    classes = f"row {row.look}" + (" hotplug" if row.is_hotplug else "") + (" large" if row.size >= LARGE else "")
    label = f"{row.name or row.type_text}, {size_text(row.size)} at {hexadecimal(row.base)}, {', '.join(facts(row))}"
    cells = (row.type_text, row.prot, row.backing, row.node)
    return (
        f'<{tag} class="{classes}" tabindex="0" aria-label="{escaped(label)}" title="{escaped(tip(row))}" data-base="{row.base}"'
        f' data-end="{row.end}" style="--doublings:{doubled:.1f}"><span class="address">{hexadecimal(row.base)}</span>'
        f'<span class="block" data-facts="{escaped(" · ".join(facts(row)))}"><span>{escaped(row.name)}</span></span>'
        f'<span class="size">{size_text(row.size)}</span>'
        + "".join(f'<span class="fact">{escaped(cell)}</span>' for cell in cells)
        + f"</{tag}>"
    )
