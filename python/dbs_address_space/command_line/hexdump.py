"""`hexdump`: the bytes at an address."""

from __future__ import annotations

import sys

from dbs_address_space._core import checked_range

from .parsing import Parser, range_of
from .sources import memory_of

__all__ = ["HELP", "parser", "run"]

HELP = """\
Print the bytes at an address, in hexadecimal and as text; of equal lines only the first.

usage: dbs-address-space hexdump [options] RANGE SOURCE

  dbs-address-space hexdump 0x1000 vm.elf                256 bytes
  dbs-address-space hexdump ram0+64KiB qmp:/run/q.sock   the first 64 KiB of a region of a running QEMU
  dbs-address-space hexdump --raw 0x1000..0x2000 vm.lime > page

arguments
  RANGE                FROM..TO (TO exclusive), FROM+SIZE, or an address alone
  SOURCE               a FILE with memory, pid:1234, qmp:/path, space:/path, or - for standard input
options
  --raw                the bytes themselves; where there is no memory is then an error
  --from FORMAT        do not guess the format
everywhere
  --color WHEN         auto (default), always, never; NO_COLOR is respected
  -q, --quiet          no effect here
  -h, --help           this text
exit status  0 done, 2 usage or a source that can't be read"""

USUAL = 256
STEP = 16 << 20
"""So much is made into text at a time, for a pipe may be closed early."""


def parser() -> Parser:
    """The options."""
    options = Parser.of_source("hexdump", "range", "source", has_json=False)
    options.add_argument("--raw", action="store_true")
    return options


def run(arguments: list[str]) -> int:
    """Prints bytes."""
    options = parser().parse(arguments)
    space, memory = memory_of(options.source, format=options.format)
    base, size = range_of(options.range, space, usual=USUAL)
    if options.raw:
        memory.write_to(sys.stdout.buffer, base, size)
        return 0
    base, size = checked_range(base, min(size, space.layout.phys_end - base) if base < space.layout.phys_end else size)
    for start in range(base, base + size, STEP):
        print(memory.hexdump(start, min(STEP, base + size - start)))
    return 0
