"""`plan`: the address space of a machine that is yet to be."""

from __future__ import annotations

from dbs_address_space._core import AddressSpaceBuilder, Hotplug, NumaRegionInfo, size_text

from .parsing import Parser, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dbs_address_space._core import AddressSpacePlan

__all__ = ["HELP", "parser", "run"]

HELP = """\
Plan the address space of a machine: where its memory lies, why, and whether this host has it.

usage: dbs-address-space plan [options] MACHINE --node SIZE[@HOST][:CPUS] ...

  dbs-address-space plan q35 --node 5GiB
  dbs-address-space plan q35 --node 3GiB@0:0-1 --node 5GiB@1:2-3 --hotplug 16GiB:4
  dbs-address-space plan virt --arch aarch64 --node 4GiB --json

arguments
  MACHINE              dragonball, pc, q35, microvm, virt
options
  --node SIZE[@HOST][:CPUS]  a guest node: its memory, from which host node, its virtual CPUs (again for more)
  --hotplug MAX[:SLOTS]      a window for memory up to MAX in all
  --mem-type TYPE            shmem (default), hugeshmem, mmap, hugemmap
  --firmware                 with the machine's firmware region
  --arch ARCH                x86_64 or aarch64
  --json                     as JSON, which AddressSpacePlan.from_json() reads
everywhere
  --color WHEN         auto (default), always, never; NO_COLOR is respected
  -q, --quiet          only the exit status
  -h, --help           this text
exit status  0 it can be built here, 1 there are problems, 2 usage"""

MOST_DIGITS = 7
"""Nodes and CPUs have fewer."""


def parser() -> Parser:
    """The options."""
    options = Parser("plan")
    options.add_argument("machine")
    options.add_argument("--node", action="append", required=True)
    options.add_argument("--hotplug")
    options.add_argument("--mem-type", default="shmem")
    options.add_argument("--firmware", action="store_true")
    options.add_argument("--arch")
    options.add_argument("--json", action="store_true")
    return options


def run(arguments: list[str]) -> int:
    """Plans a machine."""
    options = parser().parse(arguments)
    plan = AddressSpaceBuilder(
        options.machine,
        arch=options.arch,
        numa_regions=[_node(text, number) for number, text in enumerate(options.node)],
        hotplug=_hotplug(options.hotplug) if options.hotplug else None,
        mem_type=options.mem_type,
        firmware=options.firmware,
    ).plan()
    problems = [*plan.problems, *(() if plan.problems else plan.check_host())]
    if options.json:
        print(plan.to_json())
    elif not options.quiet:
        print("\n".join([*_lines(plan), *(f"problem  {problem}" for problem in problems)]))
    return 1 if problems else 0


def _node(text: str, number: int) -> NumaRegionInfo:
    memory, _, cpus = text.partition(":")
    size, at, host = memory.partition("@")
    return NumaRegionInfo(
        size, int(_digits(host, text)) if at else None, number, _cpus(cpus.removeprefix("cpus="), text)
    )


def _cpus(text: str, given: str) -> list[int]:
    cpus: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        cpus += range(int(_digits(first, given)), int(_digits(last or first, given)) + 1)
    return cpus


def _digits(text: str, given: str) -> str:
    if text.isdecimal() and len(text) < MOST_DIGITS:
        return text
    raise UsageError(f"{given!r} is not a node", "Write SIZE, SIZE@HOSTNODE or SIZE@HOSTNODE:CPUS, as 3GiB@0:0-1.")


def _hotplug(text: str) -> Hotplug:
    size, colon, slots = text.partition(":")
    return Hotplug(size, int(_digits(slots, text))) if colon else Hotplug(size)


def _lines(plan: AddressSpacePlan) -> list[str]:
    rows = [
        (f"{region.base:#_x}", size_text(region.size), region.region_type.value, region.name or "", reason)
        for region, reason in zip(plan.regions, plan.reasons, strict=True)
    ]
    window = plan.hotplug_window
    rows += [(f"{window.base:#_x}", size_text(window.size), "", "", "hotplug window")] if window else []
    rows.insert(0, ("start", "size", "type", "name", "reason"))
    starts, sizes, types, names, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [
        f"{start:>{starts}}  {size:>{sizes}}  {kind:<{types}}  {name:<{names}}  {reason}".rstrip()
        for start, size, kind, name, reason in rows
    ]
    pages = ", ".join(f"{count:,} pages of {size_text(size)}" for size, count in plan.cost.pages.items())
    return [*lines, f"cost     {size_text(plan.cost.size)} at most: {pages}"]
