"""`check`: problems of a map."""

from __future__ import annotations

import sys

from dbs_address_space._core import Machine
from dbs_address_space.errors import AddressSpaceError, LayoutViolation, RegionOverlap

from .output import print_json
from .parsing import Parser
from .sources import map_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dbs_address_space._core import AddressSpace

__all__ = ["HELP", "parser", "run"]

HELP = """\
Look for problems of a map: overlaps, regions outside of a machine's layout.

usage: dbs-address-space check [options] SOURCE

  dbs-address-space check vm.json
  dbs-address-space check vm.json --machine q35

arguments
  SOURCE               a FILE, pid:1234, qmp:/path, space:/path, or - for standard input
options
  --machine NAME       the layout to keep: dragonball, pc, q35, microvm, virt; else the source's own
  --json               as JSON
  --from FORMAT        do not guess the format
everywhere
  --color WHEN         auto (default), always, never; NO_COLOR is respected
  -q, --quiet          only the exit status
  -h, --help           this text
exit status  0 no problem, 1 problems, 2 usage or a source that can't be read"""


def parser() -> Parser:
    """The options."""
    options = Parser.of_source("check", "source")
    options.add_argument("--machine")
    return options


def run(arguments: list[str]) -> int:
    """Checks a map."""
    options = parser().parse(arguments)
    machine = Machine.named(options.machine) if options.machine else None
    count, problems = 0, []
    try:
        space = map_of(options.source, format=options.format)
        count = len(space)
        problems = _problems(space, machine) if machine else []
    except AddressSpaceError as error:
        # How the map is wrong is what was asked; a source that can't be read is not a map.
        if not isinstance(error.__cause__ or error, LayoutViolation | RegionOverlap):
            raise
        problems = [_problem(error)]
    if options.json:
        print_json("check", regions=count, errors=len(problems), warnings=0, problems=problems)
    elif not options.quiet:
        print("\n".join(f"error   {problem['code']:<10}  {problem['message']}" for problem in problems), end="")
        print("\n" if problems else "", end="", flush=True)
        print(f"{len(problems)} errors in {count} regions", file=sys.stderr)
    return 1 if problems else 0


def _problems(space: AddressSpace, machine: Machine) -> list[dict[str, Any]]:
    found = []
    for region in space.regions:
        try:
            machine.layout.check_region(region)
        except LayoutViolation as error:
            found.append(_problem(error) | {"region": region.name})
    return found


def _problem(error: AddressSpaceError) -> dict[str, Any]:
    cause = error.__cause__ if isinstance(error.__cause__, AddressSpaceError) else error
    code = "overlap" if isinstance(cause, RegionOverlap) else "layout"
    return {"severity": "error", "code": code, "message": ascii(str(error))[1:-1], "fix": None}
