"""Maps as firmware hands them to a kernel: ranges, each of a kind, under the names that `/sys/firmware/memmap` has for them.

RAM becomes `ram`; ACPI's tables and what else the firmware keeps in memory `firmware`; everything else, reserved or persistent,
a `device`, behind which no memory is mapped.
"""

from __future__ import annotations

import itertools

from dbs_address_space._core import AddressSpaceRegion, _ram_once
from dbs_address_space._named_tuple import NamedTuple
from dbs_address_space.errors import InvalidArgument

from .stored import space_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from dbs_address_space._core import AddressSpace

    from .source import Source

__all__ = ["NAMES", "RAM", "RESERVED", "TYPES", "Entry", "Names", "entries_of", "map_of", "settled", "without"]

RAM, RESERVED = "System RAM", "Reserved"
TYPES = {
    1: RAM,
    2: RESERVED,
    3: "ACPI Tables",
    4: "ACPI Non-volatile Storage",
    5: "Unusable memory",
    7: "Persistent Memory",
    12: "Persistent Memory (legacy)",
    0xEFFF_FFFF: "Soft Reserved",
}
"""The types of E820, and their names."""
NAMES = {name: number for number, name in TYPES.items()}
MOST_ENTRIES = 8192
_FIRMWARE = ("ACPI ", "Runtime ")


class Entry(NamedTuple):
    """A range of a kind, and the line that has it, or 0."""

    base: int
    end: int
    kind: str
    line: int

    def __str__(self) -> str:
        where = f" in line {self.line}" if self.line else ""
        return f"{self.kind!r} [{self.base:#x}, {self.end:#x}){where}"


class Names:
    """Names of regions, numbered where there are several of one."""

    def __init__(self) -> None:
        """Knows no name yet."""
        self._seen: dict[str, int] = {}

    def unique(self, name: str) -> str:
        """The name, or the name and its number from the second one on."""
        self._seen[name] = self._seen.get(name, 0) + 1
        return name if self._seen[name] == 1 else f"{name}#{self._seen[name]}"


def map_of(source: Source, entries: Iterable[Entry]) -> AddressSpace:
    """An unmapped space of entries that do not overlap; a kind that has several is numbered."""
    regions, names = [], Names()
    for entry in entries:
        regions.append(_region(source, entry, names.unique(entry.kind)))
        if len(regions) > MOST_ENTRIES:
            raise source.error(f"more than {MOST_ENTRIES} ranges are not a machine's", line=entry.line or None)
    if not regions:
        raise source.error("there is no range in it")
    return space_of(source, regions)


def _region(source: Source, entry: Entry, name: str) -> AddressSpaceRegion:
    kind = "ram" if entry.kind == RAM else "firmware" if entry.kind.startswith(_FIRMWARE) else "device"
    try:
        return AddressSpaceRegion(kind, entry.base, entry.end - entry.base, name=name)
    except InvalidArgument as error:
        raise source.error(str(error), line=entry.line or None) from error


def settled(source: Source, entries: Iterable[Entry]) -> list[Entry]:
    """The entries of a firmware's table as kernels take them: empty ones mean nothing, and any other kind beats RAM."""
    ordered = sorted(entry for entry in entries if entry.base != entry.end)
    others = _united(source, [entry for entry in ordered if entry.kind != RAM])
    ram = _united(source, [entry for entry in ordered if entry.kind == RAM])
    return sorted([*others, *without(ram, others)])


def _united(source: Source, entries: list[Entry]) -> list[Entry]:
    """One entry for those of a kind that overlap."""
    united: list[Entry] = []
    for entry in entries:
        last = united[-1] if united else None
        if last is None or last.end <= entry.base:
            united.append(entry)
        elif last.kind == entry.kind:
            united[-1] = last._replace(end=max(last.end, entry.end))
        else:
            raise source.error(f"{last} and {entry} overlap", line=entry.line or None)
    return united


def without(entries: list[Entry], others: list[Entry], *, kind: str | None = None) -> list[Entry]:
    """The parts of sorted entries that sorted others leave; of one kind only, if it is given."""
    parts, first = list[Entry](), 0
    for entry in entries:
        if kind not in (None, entry.kind):
            parts.append(entry)
            continue
        base = entry.base
        while first < len(others) and others[first].end <= base:
            first += 1
        for other in itertools.takewhile(lambda other: other.base < entry.end, itertools.islice(others, first, None)):  # noqa: B023
            if base < other.base:
                parts.append(entry._replace(base=base, end=other.base))
            base = max(base, other.end)
        if base < entry.end:
            parts.append(entry._replace(base=base))
    return parts


def entries_of(space: AddressSpace) -> list[Entry]:
    """A space as a firmware tells of it: devices only where their name is a kind's, and nothing that was plugged in later."""
    first, again = _ram_once(space)
    entries = [
        Entry(part.base, part.end, kind, 0) for kind, parts in ((RAM, first), (RESERVED, again)) for part in parts
    ]
    for region in space.regions:
        named = (region.name or "").partition("#")[0]
        kind = RESERVED if region.region_type.value == "firmware" else None
        kind = named if named in NAMES and named != RAM else kind
        if kind and not region.is_hotplug and region.region_type.value != "ram":
            entries.append(Entry(region.base, region.end, kind, 0))
    return sorted(entries)
