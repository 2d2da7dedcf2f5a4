"""`diff`: what changed from one map to another."""

from __future__ import annotations

import sys

from dbs_address_space._core import size_text

from . import terminal
from .output import print_json, region_json
from .parsing import Parser, UsageError
from .sources import opened

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from dbs_address_space._core import AddressSpace, AddressSpaceRegion

    Change = tuple[str, AddressSpaceRegion | None, AddressSpaceRegion | None]
    Key = tuple[Any, ...]

__all__ = ["HELP", "changes", "parser", "run"]

HELP = """\
Print what changed from one map to another, one line for each region.

usage: dbs-address-space diff [options] BEFORE AFTER

  dbs-address-space diff before.json after.json
  dbs-address-space diff before.json after.json --ignore name,node
  dbs-address-space diff -q a.json b.json && echo same

lines      + added    - removed    ~ changed    > moved (same name and size, another base)
arguments
  BEFORE, AFTER        a FILE each; one of them may be - for standard input
options
  --ignore A,B,...     of name type prot backing node page-size flags
  --json               as JSON
everywhere
  --color WHEN         auto (default), always, never; NO_COLOR is respected
  -q, --quiet          only the exit status
  -h, --help           this text
exit status  0 the same, 1 different, 2 usage or a source that can't be read"""

FIELDS: dict[str, Callable[[AddressSpaceRegion], object]] = {
    "name": lambda region: region.name,
    "type": lambda region: region.region_type.value,
    "prot": lambda region: str(region.prot_flags),
    "backing": lambda region: region.mem_type and region.mem_type.value,
    "node": lambda region: region.host_numa_node_id,
    "page-size": lambda region: region.page_size,
    "flags": lambda region: "h" if region.is_hotplug else "-",
}
MARKS = {"added": "+", "removed": "-", "changed": "~", "moved": ">"}
COLORS = {"added": 94, "removed": 31, "changed": 33, "moved": 33}


def parser() -> Parser:
    """The options."""
    options = Parser("diff")
    options.add_argument("before")
    options.add_argument("after")
    options.add_argument("--ignore", default="")
    options.add_argument("--json", action="store_true")
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
    before, after = opened(options.before), opened(options.after)
    fields = [field for field in FIELDS if field not in ignored]
    found, unchanged = changes(before, after, fields)
    if options.json:
        _print_json((options.before, before), (options.after, after), found, unchanged, fields)
    elif not options.quiet:
        _print_text(found, unchanged, fields, is_colored=terminal.has_color(sys.stdout, options.color))
    return 1 if found else 0


def changes(before: AddressSpace, after: AddressSpace, fields: Sequence[str]) -> tuple[list[Change], int]:
    """The changes by ascending address, and how many regions are the same."""
    old, new = ({(region.base, region.size): region for region in space.regions} for space in (before, after))
    both = old.keys() & new.keys()
    found: list[Change] = [("changed", old[at], new[at]) for at in both if _differing(old[at], new[at], fields)]
    gone = {(one.name, one.size): one for at, one in old.items() if at not in both}
    come = {(one.name, one.size): one for at, one in new.items() if at not in both}
    moved = {key for key in gone.keys() & come.keys() if key[0] is not None}
    found += [("moved", gone[key], come[key]) for key in moved]
    left, arrived = ({gone[key].base for key in moved}, {come[key].base for key in moved})
    found += [("removed", one, None) for at, one in old.items() if at not in both and one.base not in left]
    found += [("added", None, one) for at, one in new.items() if at not in both and one.base not in arrived]
    return sorted(found, key=_place), len(both) - sum(kind == "changed" for kind, *_ in found)


def _place(change: Change) -> tuple[int, bool]:
    kind, old, new = change
    region = new or old
    return (region.base if region else 0), kind != "removed"


def _differing(old: AddressSpaceRegion, new: AddressSpaceRegion, fields: Sequence[str]) -> list[str]:
    return [field for field in fields if FIELDS[field](old) != FIELDS[field](new)]


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
        words = ""
        if old is not None and new is not None:
            differing = ((field, FIELDS[field]) for field in _differing(old, new, fields))
            shown = [f"{field} {_shown(value(old))} -> {_shown(value(new))}" for field, value in differing]
            words = ", ".join(([f"moved from {old.base:#_x}"] if kind == "moved" else []) + shown)
        ends = f"[{region.base:#_x}, {region.end:#_x})"
        yield ends, size_text(region.size), region.region_type.value, _shown(region.name), words


def _shown(value: object) -> str:
    """A name of a stranger's can't move the cursor."""
    text = "-" if value is None else str(value)
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
                "fields": _differing(old, new, fields) if old and new else [],
            }
            for kind, old, new in found
        ],
    )
