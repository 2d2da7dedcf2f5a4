"""`show`: the map of a source."""

from __future__ import annotations

import sys

from dbs_address_space._core import AddressSpaceBase, size_text

from . import terminal
from .output import region_json, write_picture
from .parsing import Parser, count, range_of
from .sources import map_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from dbs_address_space._core import AddressSpace
    from dbs_address_space.map_row import MapRow

    Map = AddressSpace | AddressSpaceBase

__all__ = ["HELP", "parser", "run"]

HELP = """\
Print the map of a source: regions, free ranges, reservations.

usage: dbs-address-space show [options] SOURCE

  dbs-address-space show pid:4711                    the table, with bars where the terminal has them
  dbs-address-space show --tree vm.json              windows and what lies in them
  dbs-address-space show vm.elf --svg map.svg        a picture; --html for one to search in
  dbs-address-space show --json - < iomem.txt        for programs

arguments
  SOURCE               a FILE, pid:1234, qmp:/path, space:/path, or - for standard input
what
  --region-type TYPE   only ram, device, dax, firmware (again for more)
  --range FROM..TO     only what meets these addresses (TO exclusive); FROM+SIZE too
  --no-free            leave out free ranges
  --group N            at most N lines of regions: neighbours of one look become one
how
  --tree               as a tree
  --json               as JSON
  --svg PATH           as a picture, light and dark; - for standard output
  --view VIEW          the picture is of the map, or of the host behind it: map (default), host, heat (of pages)
  --html PATH          as a page to search in; - for standard output
  --force              replace a file that is there
  --ascii              no characters beyond ASCII
  --width N            instead of the terminal's width
  --from FORMAT        do not guess the format
everywhere
  --color WHEN         auto (default), always, never; NO_COLOR is respected
  -q, --quiet          no summary
  -h, --help           this text
exit status  0 done, 2 usage or a source that can't be read"""


def parser() -> Parser:
    """The options."""
    options = Parser.of_source("show", "source")
    options.add_argument("--region-type", action="append", choices=["ram", "device", "dax", "firmware"])
    options.add_argument("--range")
    options.add_argument("--no-free", action="store_true")
    options.add_argument("--group", type=count)
    options.add_argument("--tree", action="store_true")
    options.add_argument("--svg")
    options.add_argument("--view", choices=["map", "host", "heat"], default="map")
    options.add_argument("--html")
    options.add_argument("--force", action="store_true")
    options.add_argument("--ascii", action="store_true")
    options.add_argument("--width", type=count)
    return options


def run(arguments: list[str]) -> int:
    """Shows a map."""
    options = parser().parse(arguments)
    space = map_of(options.source, format=options.format)
    shown = _chosen(space, options)
    limit = options.group or 48
    if options.svg:
        picture = shown.to_svg(title=options.source, limit=limit, view=options.view)
        write_picture(options.svg, picture, is_forced=options.force)
    if options.html:
        write_picture(options.html, shown.to_html(title=options.source, limit=limit), is_forced=options.force)
    if options.json:
        _print_json(space, shown, options.source)
    elif not options.svg and not options.html:
        _print_text(shown, options)
    return 0


def _chosen(space: AddressSpace, options: Namespace) -> Map:
    """The map with only those regions that are asked for."""
    if not options.region_type and not options.range:
        return space
    base = space.snapshot()
    found = base.overlapping(*range_of(options.range, space)) if options.range else base.regions
    types = options.region_type or ["ram", "device", "dax", "firmware"]
    options.no_free = True
    return AddressSpaceBase.from_regions([one for one in found if one.region_type.value in types], base.layout)


def _print_json(space: AddressSpace, shown: Map, source: str) -> None:
    """The regions that are shown, and all that the space says of addresses."""
    import json  # noqa: PLC0415  start-up

    from dbs_address_space.formats.map_json import content_of  # noqa: PLC0415  as above

    content = content_of(space, source) | {"regions": [region_json(region) for region in shown.regions]}
    print(json.dumps(content, indent=1))


def _print_text(space: Map, options: Namespace) -> None:
    is_ascii = options.ascii or terminal.is_ascii(sys.stdout)
    width = options.width or terminal.width(sys.stdout)
    color = terminal.has_color(sys.stdout, options.color)
    if options.tree:
        print("\n".join(tree(space, is_ascii=is_ascii)))
    else:
        free = not options.no_free
        print(space.table(width=width, limit=options.group, ascii=is_ascii, color=color, free=free))
    if not options.quiet:
        sys.stdout.flush()
        print(_summary(space), file=sys.stderr)


def _summary(space: Map) -> str:
    types = [region.region_type.value for region in space.regions]
    counts = [f"{size_text(space.ram_size)} RAM in {types.count('ram')}"]
    counts += [f"{types.count(kind)} {kind}" for kind in ("device", "dax", "firmware") if kind in types]
    hotplug = "; h = hotplugged" if any(region.is_hotplug for region in space.regions) else ""
    return f"{len(types)} regions ({', '.join(counts)}){hotplug}"


def tree(space: Map, *, is_ascii: bool) -> list[str]:
    """The windows and, in them, the regions, as lines."""
    last, branch, bar = ("`- ", "|- ", "|  ") if is_ascii else ("└─ ", "├─ ", "│  ")
    windows = [(window.base, window.end) for window in space.layout.mmio_windows]
    rows = [row for row in space.rows() if row.kind != "free"]
    inside = {window: [row for row in rows if window[0] <= row.base and row.end <= window[1]] for window in windows}
    within = {row.base for found in inside.values() for row in found}
    top: list[tuple[int, str, list[str]]] = [(row.base, _line(row), []) for row in rows if row.base not in within]
    top += [(window[0], _window(window, found), [_line(row) for row in found]) for window, found in inside.items()]
    lines = [f"ends at {space.layout.phys_end:#_x}"]
    for number, (_, line, below) in enumerate(sorted(top), 1):
        is_last = number == len(top)
        lines.append((last if is_last else branch) + line)
        lines += [("   " if is_last else bar) + (last if one is below[-1] else branch) + one for one in below]
    return lines


def _line(row: MapRow) -> str:
    node = f"node {row.node}" if row.node else ""
    hotplug = "hotplugged" if row.is_hotplug else ""
    name = "".join(char if char.isprintable() else repr(char)[1:-1] for char in row.name)
    texts = (row.type_text, row.prot, row.backing, node, hotplug)
    return f"{row.base:#_x}  {name or '-'}  {size_text(row.size)}  {' '.join(text for text in texts if text)}"


def _window(window: tuple[int, int], rows: list[MapRow]) -> str:
    size = window[1] - window[0]
    free = size - sum(row.end - row.base for row in rows)
    return f"{window[0]:#_x}  MMIO window {size_text(size)}, {size_text(free)} free"
