"""`dump`: the memory of a guest into a file."""

from __future__ import annotations

from .parsing import Parser, UsageError
from .sources import memory_of
from .writing import add_options, write

__all__ = ["HELP", "parser", "run"]

HELP = """\
Write the memory of a source to a file, sparse, for debuggers and forensic tools. The guest may run.

usage: dbs-address-space dump [options] SOURCE FILE

  dbs-address-space dump pid:4711 vm.elf
  dbs-address-space dump qmp:/run/q.sock vm.lime

arguments
  SOURCE               pid:1234, qmp:/path, space:/path, a FILE with memory, or - for standard input
  FILE                 it appears when it is whole, in the format of its suffix: .elf, .lime, .raw
options
  --to FORMAT          elf, lime or raw, whatever the suffix
  --force              replace a file that is there
  --json               the summary as JSON
  --from FORMAT        do not guess the format of the source
everywhere
  --color WHEN         auto (default), always, never; NO_COLOR is respected
  -q, --quiet          no progress, no summary
  -h, --help           this text
exit status  0 done, 2 usage, or it could not be done; Ctrl-C leaves nothing behind"""

FORMATS = ("elf", "lime", "raw")
"""The formats that hold memory."""


def parser() -> Parser:
    """The options."""
    return add_options(Parser.of_source("dump", "source", "file"))


def run(arguments: list[str]) -> int:
    """Writes memory."""
    options = parser().parse(arguments)
    if options.to is not None and options.to not in FORMATS:
        raise UsageError(f"{options.to!r} has no memory in it", f"Use one of {', '.join(FORMATS)}, or convert.")
    space, _ = memory_of(options.source, format=options.format)
    write(space, options, to=options.to or "elf")
    return 0
