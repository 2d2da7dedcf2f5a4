"""`search`: the places of a text or of bytes in memory."""

from __future__ import annotations

from dbs_address_space._core import BytePattern

from . import progress
from .parsing import Parser, count, range_of
from .sources import memory_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dbs_address_space._core import AddressSpace

__all__ = ["HELP", "parser", "run"]

HELP = """\
Print the addresses at which a text or bytes are found in memory.

usage: dbs-address-space search [options] NEEDLE SOURCE

  dbs-address-space search "Linux version" vm.elf
  dbs-address-space search --hex "7f 45 4c 46 ??" --align 4096 pid:4711
  dbs-address-space search -q secret vm.lime && echo it is there

arguments
  NEEDLE               a text, or bytes with --hex
  SOURCE               a FILE with memory, pid:1234, qmp:/path, space:/path, or - for standard input
options
  --hex                NEEDLE is bytes in hexadecimal; ? stands for any four bits
  --range FROM..TO     only what lies in these addresses (TO exclusive); FROM+SIZE too
  --align N            only at multiples of N
  --limit N            at most N of them
  --json               as JSON, one object a line
  --from FORMAT        do not guess the format
everywhere
  --color WHEN         auto (default), always, never; NO_COLOR is respected
  -q, --quiet          only the exit status
  -h, --help           this text
exit status  0 found, 1 not found, 2 usage or a source that can't be read"""


def parser() -> Parser:
    """The options."""
    options = Parser.of_source("search", "needle", "source")
    options.add_argument("--hex", action="store_true")
    options.add_argument("--range")
    options.add_argument("--align", type=count, default=1)
    options.add_argument("--limit", type=count)
    return options


def run(arguments: list[str]) -> int:
    """Searches."""
    options = parser().parse(arguments)
    space, memory = memory_of(options.source, format=options.format)
    base, size = range_of(options.range, space) if options.range else (0, None)
    needle = BytePattern(options.needle) if options.hex else options.needle.encode(errors="surrogateescape")
    limit = 1 if options.quiet else options.limit
    end = None if size is None else base + size
    found = 0
    with progress.shown("searching", is_quiet=options.quiet) as shown:
        for address in memory.search(needle, base, end, limit=limit, align=options.align, progress=shown):
            found += 1
            if not options.quiet:
                print(_line(space, address, is_json=options.json))
    return 0 if found else 1


def _line(space: AddressSpace, address: int, *, is_json: bool) -> str:
    region = space.find_region(address)
    name = (region.name if region else None) or ""
    if is_json:
        import json  # noqa: PLC0415  start-up

        return json.dumps({"address": hex(address), "region": name or None})
    place = f"{ascii(name)[1:-1]}+{address - region.base:#x}" if region and name else ""
    return f"{address:#_x}  {place}".rstrip()
