"""`find`: what lies at an address."""

from __future__ import annotations

from dbs_address_space._core import size_text

from .output import print_json, region_json
from .parsing import Parser, address
from .sources import map_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dbs_address_space._core import AddressSpace
    from dbs_address_space.map_row import MapRow

__all__ = ["HELP", "parser", "run"]

HELP = """\
Tell what lies at an address: the region, reserved or free addresses, the neighbours, and of a
program that serves its space the host address.

usage: dbs-address-space find [options] ADDRESS SOURCE

  dbs-address-space find 0x1_9000_0123 vm.json
  dbs-address-space find ram0+0x1000 vm.json

arguments
  ADDRESS              a number, or NAME+OFFSET in a region
  SOURCE               a FILE, pid:1234, qmp:/path, space:/path, or - for standard input
options
  --json               as JSON
  --from FORMAT        do not guess the format
everywhere
  --color WHEN         auto (default), always, never; NO_COLOR is respected
  -q, --quiet          only the exit status
  -h, --help           this text
exit status  0 in a region, 1 free or reserved, 2 usage or a source that can't be read"""


def parser() -> Parser:
    """The options."""
    return Parser.of_source("find", "address", "source")


def run(arguments: list[str]) -> int:
    """Finds an address."""
    options = parser().parse(arguments)
    space = map_of(options.source, format=options.format)
    wanted = address(options.address, space)
    host = _host(options.source, space, wanted)
    rows = space.rows()
    at = next((index for index, row in enumerate(rows) if row.base <= wanted < row.end), None)
    if options.json:
        _print_json(space, wanted, rows, at, host)
    elif not options.quiet:
        print("\n".join(_lines(wanted, rows, at, space.layout.phys_end, host)))
    return 0 if at is not None and rows[at].regions else 1


def _host(source: str, space: AddressSpace, wanted: int) -> tuple[int, int] | None:
    """The address in the program that has the memory, and its process, where it tells them."""
    kind, _, path = source.partition(":")
    region = space.find_region(wanted)
    if kind != "space" or region is None:
        return None
    from .served import host_address  # noqa: PLC0415  start-up

    found = host_address(path, region.base)
    return found and (found[0] + wanted - region.base, found[1])


def _lines(wanted: int, rows: tuple[MapRow, ...], at: int | None, end: int, host: tuple[int, int] | None) -> list[str]:
    if at is None:
        return [f"{wanted:#_x} is outside: the addresses end at {end:#_x}"]
    row = rows[at]
    ends = f"[{row.base:#_x}, {row.end:#_x})"
    if row.kind == "free":
        window = ", in an MMIO window" if row.name != "free" else ""
        return [f"{wanted:#_x} is free: {ends}, {size_text(row.size)}{window}"]
    if row.kind == "reserved":
        return [f"{wanted:#_x} is reserved for {row.name!a}: {ends}, {size_text(row.size)}"]
    offset = wanted - row.base
    name = ascii(row.name) if row.name else row.type_text
    lines = [f"{wanted:#_x} is in {name} {ends}, {offset:#_x} ({size_text(offset)}) from its start"]
    shown = f"{host[0]:#_x} in process {host[1]}" if host else ""
    texts = ("type", row.type_text), ("backing", row.backing), ("prot", row.prot), ("node", row.node), ("host", shown)
    lines += [f"{head:<10} {text}" for head, text in texts if text]
    lines += [f"before     {_neighbour(rows[at - 1])}"] if at else []
    return lines + ([f"after      {_neighbour(rows[at + 1])}"] if at + 1 < len(rows) else [])


def _neighbour(row: MapRow) -> str:
    what = f"{size_text(row.size)} {row.name}" if row.kind == "free" else ascii(row.name) if row.name else row.type_text
    return f"{what} [{row.base:#_x}, {row.end:#_x})"


def _print_json(
    space: AddressSpace, wanted: int, rows: tuple[MapRow, ...], at: int | None, host: tuple[int, int] | None
) -> None:
    region = space.find_region(wanted)
    around = space.snapshot()
    print_json(
        "find",
        address=hex(wanted),
        found="outside" if at is None else "region" if region else rows[at].kind,
        region=region_json(region),
        offset=region and hex(wanted - region.base),
        host_address=host and hex(host[0]),
        process=host and host[1],
        before=region_json(max((one for one in around if one.end <= wanted), key=lambda one: one.base, default=None)),
        after=region_json(min((one for one in around if one.base > wanted), key=lambda one: one.base, default=None)),
    )
