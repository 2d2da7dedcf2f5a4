"""`convert`: a map or memory from one format into another."""

from __future__ import annotations

from .parsing import Parser
from .sources import map_of
from .writing import add_options, write

__all__ = ["HELP", "parser", "run"]

HELP = """\
Write the map or the memory of a source in another format.

usage: dbs-address-space convert [options] SOURCE FILE

  dbs-address-space convert vm.vmem vm.elf
  dbs-address-space convert qmp:/run/q.sock vm.json
  dbs-address-space convert iomem.txt - --to memmap

arguments
  SOURCE               a FILE, pid:1234, qmp:/path, space:/path, or - for standard input
  FILE                 it appears when it is whole, in the format of its suffix; - for standard output
options
  --to FORMAT          elf, lime, raw; of the map alone json, e820, log, memmap
  --force              replace a file that is there
  --json               the summary as JSON
  --from FORMAT        do not guess the format of the source
everywhere
  --color WHEN         auto (default), always, never; NO_COLOR is respected
  -q, --quiet          no progress, no summary
  -h, --help           this text
exit status  0 done, 2 usage, or it could not be done; Ctrl-C leaves nothing behind"""


def parser() -> Parser:
    """The options."""
    return add_options(Parser.of_source("convert", "source", "file"))


def run(arguments: list[str]) -> int:
    """Converts."""
    options = parser().parse(arguments)
    write(map_of(options.source, format=options.format), options, to=options.to)
    return 0
