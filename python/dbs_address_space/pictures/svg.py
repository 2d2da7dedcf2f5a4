"""Scalable pictures: the frame that all have, and the choice of what is drawn in it."""

from __future__ import annotations

from importlib import import_module

from dbs_address_space._core import AddressSpace, DirtyPages, check_type
from dbs_address_space._named_tuple import NamedTuple
from dbs_address_space.errors import InvalidArgument

from .palette import DARK, LIGHT
from .words import escaped, hexadecimal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from dbs_address_space._core import AddressSpaceBase, AddressSpaceRegion

    from .palette import Theme

__all__ = ["BLOCK", "DOTTED", "LEFT", "Drawing", "clipped", "described", "document", "is_wide", "text", "to_svg"]

NAMESPACE = "http://www.w3.org/2000/svg"
THEMES = ("auto", "light", "dark")
VIEWS = ("map", "host", "heat")
MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
SANS = "system-ui,-apple-system,'Segoe UI','Noto Sans','DejaVu Sans',sans-serif"
BASE_RULES = (
    f"text{{font:12px {MONO};white-space:pre}}.name{{font:600 13px {SANS}}}.plain{{font:12px {SANS}}}"
    f".title{{font:600 15px {SANS}}}.right{{text-anchor:end}}.middle{{text-anchor:middle}}.line{{fill:none;stroke-width:1}}"
)
LEFT = 24
BLOCK = 168
"""Where the blocks begin, right of their addresses."""
NARROW = 760
"""Below this many pixels only address, block and size remain."""
NARROWEST = 320
NAMED = 40
"""How many regions the description of the picture names."""
DOTTED = 'class="line axis" opacity=".55" stroke-dasharray="2 3"'
HATCH = (
    '<defs><pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<line class="axis" x1="0" y1="0" x2="0" y2="7" stroke-width="1.6" opacity=".55"/></pattern></defs>'
)


class Drawing(NamedTuple):
    """A picture without its frame: its subject in a line, in words for those who don't see it, its size and its elements."""

    summary: str
    description: str
    width: int
    height: int
    body: list[str]


def to_svg(  # noqa: PLR0913, PLR0917  the keywords of the binding
    space: AddressSpace | AddressSpaceBase,
    title: str,
    theme: str,
    width: int,
    limit: int,
    view: str,
    dirty: DirtyPages | None,
) -> str:
    """The picture of a map, its backings or its pages, row by row of `space.rows(limit=limit)`."""
    if dirty is not None:
        check_type(dirty, DirtyPages, "dirty")
    if view not in VIEWS:
        raise InvalidArgument(f"unknown view {view!r}: use one of {', '.join(VIEWS)}")
    if view != "heat" and dirty is not None:
        raise InvalidArgument('dirty= is for view="heat", which shows pages')
    check_width(width)
    picture = import_module(f"{__package__}.{view}_picture")
    if view != "heat":
        return document(picture.drawn(space, width, limit), title, theme)
    if not isinstance(space, AddressSpace):
        raise InvalidArgument('a map has no pages: view="heat" is of a mapped AddressSpace')
    return document(picture.drawn(space, width, limit, dirty), title, theme, picture.RULES)


def check_width(width: int) -> None:
    """Refuses a width in which nothing has room."""
    if width < NARROWEST:
        raise InvalidArgument(f"a picture of {width} pixels has no room for names: give at least {NARROWEST}")


def is_wide(width: int) -> bool:
    """Whether there is room for more than address, block and size."""
    return width >= NARROW


def document(drawing: Drawing, title: str, theme: str, rules: tuple[str, str] = ("", "")) -> str:
    """The file of a drawing; `rules` are colours of its own, for light and for dark paper."""
    if theme not in THEMES:
        raise InvalidArgument(f"unknown theme {theme!r}: use one of {', '.join(THEMES)}")
    width, height = drawing.width, drawing.height
    head = escaped(f"{title}: {drawing.summary}")
    return "\n".join(
        [
            f'<svg xmlns="{NAMESPACE}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">',
            f"<title>{head}</title><desc>{escaped(drawing.description)}</desc><style>{_rules(theme, *rules)}</style>",
            HATCH,
            f'<rect class="paper" width="{width}" height="{height}"/>',
            _header(title, drawing.summary if is_wide(width) else ""),
            *drawing.body,
            "</svg>\n",
        ]
    )


def described(regions: Iterable[AddressSpaceRegion]) -> str:
    """The first regions in words."""
    named = (f"{region.name or region.region_type.value} {_range(region)}" for region, _ in zip(regions, range(NAMED)))  # noqa: B905
    return "; ".join(named)


def _range(region: AddressSpaceRegion) -> str:
    return f"[{hexadecimal(region.base)}, {hexadecimal(region.end)})"


def _rules(theme: str, light: str, dark: str) -> str:
    """Literal colours in classes: Inkscape and librsvg know no variables. Paper is white."""
    light, dark = _colors(LIGHT) + light, _colors(DARK) + dark
    if theme != "auto":
        return BASE_RULES + (dark if theme == "dark" else light)
    return f"{BASE_RULES}{light}@media (prefers-color-scheme:dark){{{dark}}}@media print{{{light}}}"


def _colors(theme: Theme) -> str:
    (text, paper), (muted, line) = theme["paper"], theme["quiet"]
    common = (
        f".paper{{fill:{paper}}}.text{{fill:{text}}}.muted{{fill:{muted}}}.hair{{stroke:{line}}}.axis{{stroke:{muted}}}"
    )
    looks = (look for look in theme if look not in {"paper", "quiet"})
    return common + "".join(
        f".{look} .edge{{fill:{theme[look][0]}}}.{look} .fill{{fill:{theme[look][1]}}}.{look} .outline{{stroke:{theme[look][0]}}}"
        for look in looks
    )


def text(x: float, y: float, shown: str, classes: str = "text") -> str:
    """A text at a place; nothing for an empty one."""
    return f'<text x="{x:g}" y="{y:g}" class="{classes}">{escaped(shown)}</text>' if shown else ""


def _header(title: str, shown: str) -> str:
    # In one text, so that the second part begins where the first ends, however wide its letters are.
    return (
        f'<text x="{LEFT}" y="32"><tspan class="text title">{escaped(title)}</tspan>'
        f'<tspan dx="12" class="muted plain">{escaped(shown)}</tspan></text>'
    )


def clipped(shown: str, room: int) -> str:
    """A text of at most so many characters."""
    return shown if len(shown) <= room else shown[: room - 1] + "…"
