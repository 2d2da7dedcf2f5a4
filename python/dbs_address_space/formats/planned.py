"""Machines that another program describes by their sizes: a builder plans their addresses, as it does for one of ours."""

from __future__ import annotations

from dbs_address_space._core import AddressSpace, AddressSpaceBuilder, AddressSpacePlan, AddressSpaceRegion, check_type
from dbs_address_space._named_tuple import NamedTuple
from dbs_address_space.errors import AddressSpaceError, InvalidPlan, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, TypeVar

    from dbs_address_space._core import NumaNode, NumaRegionInfo

    from .source import Source

    Made = TypeVar("Made")

__all__ = [
    "Described",
    "Dimm",
    "checked",
    "machine_name",
    "numbers_of",
    "refuse_generic_initiators",
    "unsupported",
    "zones_of",
]

HUGE_PAGE = 2 << 20
"""The alignment of memory that QEMU plugs in, unless its pages are larger."""
MACHINES = {"pc-q35": "q35", "q35": "q35", "pc": "pc", "microvm": "microvm", "virt": "virt"}
"""Our machines by the beginnings of QEMU's names, the longer ones first."""
MANY = 4096
"""The most numbers of a list: QEMU has fewer processors, and fewer nodes."""
MOST_DIGITS = 20


class Dimm(NamedTuple):
    """A memory device that the machine begins with; without a base it lies in the first room of the hotplug window."""

    name: str | None
    size: int
    base: int | None
    align: int


class Described(NamedTuple):
    """The arguments of a builder, and the memory devices beside."""

    machine: str
    options: dict[str, Any]
    dimms: tuple[Dimm, ...]

    def space(self, source: Source) -> AddressSpace:
        """The unmapped space of the plan and the devices; a `FormatError` for what the plan finds wrong."""
        plan = checked(source, AddressSpaceBuilder, self.machine, **self.options).plan()
        if plan.problems:
            raise source.error("; ".join(plan.problems))
        return checked(source, AddressSpace.from_regions, [*plan.regions, *_plugged(plan, self.dimms)], plan.layout)


def _plugged(plan: AddressSpacePlan, dimms: Iterable[Dimm]) -> Iterator[AddressSpaceRegion]:
    window = plan.hotplug_window
    place = window.base if window else plan.layout.mem_end
    for dimm in dimms:
        place = -(-place // dimm.align) * dimm.align if dimm.base is None else dimm.base
        yield AddressSpaceRegion("ram", place, dimm.size, name=dimm.name, is_hotplug=True)
        place += dimm.size


def checked(source: Source, make: Callable[..., Made], *arguments: object, **options: object) -> Made:
    """A value of ours; a `FormatError` for what it refuses."""
    try:
        return make(*arguments, **options)
    except (AddressSpaceError, TypeError) as error:
        raise source.error(str(error)) from error


def machine_name(source: Source, theirs: str) -> str:
    """Our name of a machine of QEMU, whatever its version."""
    for begin, ours in MACHINES.items():
        if theirs == begin or theirs.startswith(f"{begin}-"):
            return ours
    raise source.error(f"the addresses of a machine {theirs!r} are not known: those of pc, q35, microvm and virt are")


def number_of(source: Source, text: str) -> int:
    """A number in decimal digits."""
    if not (text.isascii() and text.isdecimal()) or len(text) > MOST_DIGITS:
        raise source.error(f"{text!r} is not a number")
    return int(text)


def numbers_of(source: Source, text: str) -> list[int]:
    """The numbers of a list such as `0-3,^2,7`."""
    found: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = part.removeprefix("^").partition("-")
        low = number_of(source, first)
        high = number_of(source, last) if dash else low
        if not 0 <= high - low < MANY:
            raise source.error(f"{part!r} is not a range of numbers, of {MANY} at most")
        for number in range(low, high + 1):
            if part.startswith("^"):
                found.pop(number, None)
            else:
                found[number] = None
    return list(found)


def zones_of(plan: AddressSpacePlan) -> list[tuple[NumaRegionInfo, AddressSpaceRegion | None]]:
    """The zones of a plan, each with its first region, which has its options; for programs in which a node has one zone."""
    check_type(plan, AddressSpacePlan, "plan")
    if plan.problems:
        raise InvalidPlan("; ".join(plan.problems), problems=plan.problems)
    (machine,), keywords = plan.builder.__getnewargs_ex__()
    if machine.name not in MACHINES.values():
        raise unsupported(f"the machine {machine.name!r}", "plan pc, q35, microvm or virt")
    regions = iter(plan.regions)
    found: list[tuple[NumaRegionInfo, AddressSpaceRegion | None]] = []
    for zone in keywords["numa_regions"]:
        parts, left = [], zone.size
        while left:
            parts.append(next(regions))
            left -= parts[-1].size
        found.append((zone, parts[0] if parts else None))
    if len({zone.guest_numa_node_id or 0 for zone, _ in found}) < len(found):
        raise unsupported("a guest node of several zones", "give each zone a guest_numa_node_id of its own")
    refuse_generic_initiators(zone for zone, _ in found)
    if any(zone.hotplug_size for zone, _ in found):
        raise unsupported("room of a zone's own (hotplug_size)", "use hotplug=Hotplug(...)")
    return found


def refuse_generic_initiators(nodes: Iterable[NumaRegionInfo | NumaNode]) -> None:
    """Raises `Unsupported` for a node with generic initiators: QEMU names them by the ids of its devices, which no plan has."""
    devices = [device for node in nodes for device in node.generic_initiators]
    if devices:
        how = "plan it without, and give QEMU 9.0 or newer -object acpi-generic-initiator,id=,pci-dev=,node="
        raise unsupported(f"the generic initiator {devices[0]}", how)


def unsupported(what: str, how: str) -> Unsupported:
    """The refusal of what another program does not have."""
    return Unsupported(f"{what} can't be told to another program: {how}", feature=what, how=how)
