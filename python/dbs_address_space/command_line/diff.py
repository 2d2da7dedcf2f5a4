"""`diff`: what changed from one map to another."""

from __future__ import annotations

import sys

from dbs_address_space._core import size_text
from dbs_address_space.pictures.changes import FIELDS, changes, differing, words

from . import terminal
from .output import print_json, region_json, write_picture
from .parsing import Parser, UsageError
from .sources import map_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence
    from typing import Any

    from dbs_address_space._core import AddressSpace, AddressSpaceChange
    from dbs_address_space.pictures.changes import Change

__all__ = ["HELP", "parser", "run"]

HELP = """\
Print what changed from one map to another, one line for each region.

usage: dbs-address-space diff [options] BEFORE AFTER

  dbs-address-space diff before.json qmp:/run/q.sock
  dbs-address-space diff before.json after.json --ignore name,node
  dbs-address-space diff -q a.json b.json && echo same

lines      + added    - removed    ~ changed    > moved (same name and size, another base)
arguments
  BEFORE, AFTER        a FILE, pid:1234, qmp:/path or space:/path each; one of them may be - for standard input
options
  --ignore A,B,...     of name type prot backing node page-size flags
  --json               as JSON
  --svg PATH           as a picture, light and dark; - for standard output
  --html PATH          as a page with the picture and a table; - for standard output
  --force              replace a file that is there
  --from FORMAT        do not guess the format
everywhere
  --color WHEN         auto (default), always, never; NO_COLOR is respected
  -q, --quiet          only the exit status
  -h, --help           this text
exit status  0 the same, 1 different, 2 usage or a source that can't be read"""

MARKS = {"added": "+", "removed": "-", "changed": "~", "moved": ">"}
COLORS = {"added": 94, "removed": 31, "changed": 33, "moved": 33}


def parser() -> Parser:
    """The options."""
    options = Parser.of_source("diff", "before", "after")
    options.add_argument("--ignore", default="")
    options.add_argument("--svg")
    options.add_argument("--html")
    options.add_argument("--force", action="store_true")
    return options


def run(arguments: list[str]) -> int:
    """Compares two maps."""
    options = parser().parse(arguments)
    ignored = [field for field in options.ignore.split(",") if field]
    unknown = next((field for field in ignored if field not in FIELDS), None)
    if unknown is not None:
        raise UsageError(f"--ignore knows no {unknown!r}", f"Use some of {', '.join(FIELDS)}.")
    if options.before == options.after == "-":
        raise UsageError("both maps are to come from the standard input", "Give a file for one of them.")
    before, after = (map_of(source, format=options.format) for source in (options.before, options.after))
    fields = [field for field in FIELDS if field not in ignored]
    found, unchanged = changes(before, after, fields)
    if options.svg or options.html:
        _write_pictures(before.snapshot().diff(after.snapshot()), options)
    elif options.json:
        _print_json((options.before, before), (options.after, after), found, unchanged, fields)
    elif not options.quiet:
        _print_text(found, unchanged, fields, is_colored=terminal.has_color(sys.stdout, options.color))
    return 1 if found else 0


def _write_pictures(change: AddressSpaceChange, options: Namespace) -> None:
    title = f"{options.before} → {options.after}"
    if options.svg:
        write_picture(options.svg, change.to_svg(title=title), is_forced=options.force)
    if options.html:
        from dbs_address_space.pictures.diff_page import to_html  # noqa: PLC0415  start-up

        write_picture(options.html, to_html(change, title), is_forced=options.force)


def _print_text(found: list[Change], unchanged: int, fields: Sequence[str], *, is_colored: bool) -> None:
    lines = list(_cells(found, fields))
    widths = [max(map(len, column), default=0) for column in zip(*lines, strict=True)]
    for (kind, *_), cells in zip(found, lines, strict=True):
        ends, size, type_text, name, words = (f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
        line = f"{MARKS[kind]} {ends}  {size.strip():>{widths[1]}}  {type_text}  {name}  {words}".rstrip()
        print(f"\x1b[{COLORS[kind]}m{line}\x1b[0m" if is_colored else line)
    kinds = [kind for kind, *_ in found]
    counts = [f"{kinds.count(kind)} {kind}" for kind in MARKS if kind in kinds]
    sys.stdout.flush()
    print(", ".join([*counts, f"{unchanged} unchanged"]), file=sys.stderr)


def _cells(found: list[Change], fields: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for kind, old, new in found:
        region = new or old
        if region is None:
            continue
        shown = ""
        if old is not None and new is not None:
            parts = [f"moved from {old.base:#_x}" if kind == "moved" else "", words(old, new, fields)]
            shown = ", ".join(filter(None, parts))
        ends = f"[{region.base:#_x}, {region.end:#_x})"
        yield ends, size_text(region.size), region.region_type.value, _shown(region.name or "-"), _shown(shown)


def _shown(text: str) -> str:
    """A name of a stranger's can't move the cursor."""
    return text if text.isprintable() and text.isascii() else ascii(text)[1:-1]


def _print_json(
    before: tuple[str, AddressSpace],
    after: tuple[str, AddressSpace],
    found: list[Change],
    unchanged: int,
    fields: Sequence[str],
) -> None:
    def told(source: str, space: AddressSpace) -> dict[str, Any]:
        return {"source": source, "generation": space.generation}

    print_json(
        "diff",
        before=told(*before),
        after=told(*after),
        equal=not found,
        unchanged=unchanged,
        changes=[
            {
                "change": kind,
                "before": region_json(old),
                "after": region_json(new),
                "fields": differing(old, new, fields) if old and new else [],
            }
            for kind, old, new in found
        ],
    )
