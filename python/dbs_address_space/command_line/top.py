"""`top`: what the memory of a running program does, again and again."""

from __future__ import annotations

import sys
import time

from dbs_address_space._core import size_text

from . import terminal
from .parsing import Parser, UsageError, count
from .samples import Sample, of_source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator
    from types import ModuleType

__all__ = ["HELP", "parser", "run"]

HELP = """\
Show what the memory of a running program does: resident bytes, changes, leases, faults, clients, and their rates.

usage: dbs-address-space top [options] SOURCE

  dbs-address-space top space:/run/vm0.sock           on a screen, with the extra top; else a line a second
  dbs-address-space top --json --count 10 pid:4711    for programs

arguments
  SOURCE               space:/path, pid:1234, qmp:/path
options
  --interval N         seconds between two looks (default 1)
  --count N            end after N looks
  --plain              a line for each look, on a terminal too
  --json               one object a line
everywhere
  --color WHEN         auto (default), always, never; NO_COLOR is respected
  -q, --quiet          no effect here
  -h, --help           this text
exit status  0 done, 2 usage or a source that can't be read"""

COUNTED = ("changes", "faults", "refused")
"""The numbers of `AddressSpace.stats()` that only grow."""


def parser() -> Parser:
    """The options."""
    options = Parser("top", "source")
    options.add_argument("--interval", type=count, default=1)
    options.add_argument("--count", type=count)
    options.add_argument("--plain", action="store_true")
    options.add_argument("--json", action="store_true")
    return options


def run(arguments: list[str]) -> int:
    """Looks until it is interrupted."""
    options = parser().parse(arguments)
    look = of_source(options.source)
    screen = None if options.plain or options.json or not sys.stdout.isatty() else _screen()
    if screen is not None:
        return int(screen.run(options.source, look, options.interval))
    for sample, before in _samples(look, options):
        print(
            _json(sample, before) if options.json else line(sample, before, is_ascii=terminal.is_ascii(sys.stdout)),
            flush=True,
        )
    return 0


def _screen() -> ModuleType | None:
    """The module that draws screens, where its program is installed."""
    try:
        from . import _top_screen  # noqa: PLC0415  it takes as long to import as ten commands to run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        print("a line a second; pip install 'dbs-address-space[top]' brings a screen", file=sys.stderr)
        return None
    return _top_screen


def _samples(look: Callable[[], Sample], options: Namespace) -> Iterator[tuple[Sample, Sample | None]]:
    """Each look, with the one before; a program that has ended ends them."""
    before, left = None, options.count
    while left is None or left:
        try:
            sample = look()
        except UsageError:
            # A program that was never there is an error.
            if before is None:
                raise
            return
        yield sample, before
        before, left = sample, left and left - 1
        if left != 0:
            time.sleep(options.interval)


def line(sample: Sample, before: Sample | None, *, is_ascii: bool) -> str:
    """A look in a line."""
    cells = 20
    filled = round(cells * sample.resident / sample.ram) if sample.ram else 0
    full, empty = ("#", ".") if is_ascii else ("█", "░")
    clock = time.strftime("%H:%M:%S", time.localtime(sample.time))
    parts = [
        clock,
        f"generation {sample.generation}",
        f"resident {full * filled}{empty * (cells - filled)} {size_text(sample.resident)} of {size_text(sample.ram)}",
        growth(sample, before),
    ]
    if sample.stats:
        parts += [f"leases {sample.stats['leases']}", *(_counted(name, sample, before) for name in COUNTED)]
    parts += [f"clients {len(sample.clients)}"] if sample.clients else []
    return "  ".join(filter(None, parts))


def _counted(name: str, sample: Sample, before: Sample | None) -> str:
    """A count, and how fast it grows."""
    rate = rates(sample, before).get(name)
    return f"{name} {(sample.stats or {})[name]}" + (f" ({rate:g}/s)" if rate else "")


def rates(sample: Sample, before: Sample | None) -> dict[str, float]:
    """Compares two looks: resident bytes, and all that is counted, as more or fewer in a second."""
    if before is None or sample.time <= before.time:
        return {}
    seconds = sample.time - before.time
    grown = {"resident": sample.resident - before.resident}
    if sample.stats and before.stats:
        grown |= {name: sample.stats[name] - before.stats[name] for name in COUNTED}
    return {name: round(more / seconds, 1) for name, more in grown.items()}


def growth(sample: Sample, before: Sample | None) -> str:
    """How fast the resident bytes become more, or fewer."""
    rate = rates(sample, before).get("resident")
    return "" if rate is None else bytes_a_second(rate)


def bytes_a_second(rate: float) -> str:
    """A rate of bytes with its sign."""
    return f"{'-' if rate < 0 else '+'}{size_text(abs(int(rate)))}/s"


def _json(sample: Sample, before: Sample | None) -> str:
    import json  # noqa: PLC0415  start-up

    stats = sample.stats or {}
    regions = [
        {"base": hex(base), "name": name, "size": size, "resident": part} for base, name, size, part in sample.regions
    ]
    content = {
        "time": sample.time,
        "generation": sample.generation,
        "resident": sample.resident,
        "faults": stats.get("faults"),
        "leases": stats.get("leases"),
        "rates": rates(sample, before),
        "regions": regions,
        "clients": sample.clients,
    }
    return json.dumps(content)
