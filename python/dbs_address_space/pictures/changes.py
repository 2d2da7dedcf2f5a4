"""The differences between two maps, region by region."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dbs_address_space._core import AddressSpace, AddressSpaceBase, AddressSpaceRegion

    Change = tuple[str, AddressSpaceRegion | None, AddressSpaceRegion | None]
    Map = AddressSpace | AddressSpaceBase

__all__ = ["FIELDS", "changes", "differing", "words"]

FIELDS: dict[str, Callable[[AddressSpaceRegion], object]] = {
    "name": lambda region: region.name,
    "type": lambda region: region.region_type.value,
    "prot": lambda region: str(region.prot_flags),
    "backing": lambda region: region.mem_type and region.mem_type.value,
    "node": lambda region: region.host_numa_node_id,
    "page-size": lambda region: region.page_size,
    "flags": lambda region: "h" if region.is_hotplug else "-",
}


def changes(before: Map, after: Map, fields: Sequence[str]) -> tuple[list[Change], int]:
    """The changes by ascending address, and how many regions are the same. The same name and size at another base is a move."""
    old, new = ({(region.base, region.size): region for region in space.regions} for space in (before, after))
    both = old.keys() & new.keys()
    found: list[Change] = [("changed", old[at], new[at]) for at in both if differing(old[at], new[at], fields)]
    gone = {(one.name, one.size): one for at, one in old.items() if at not in both}
    come = {(one.name, one.size): one for at, one in new.items() if at not in both}
    moved = {key for key in gone.keys() & come.keys() if key[0] is not None}
    found += [("moved", gone[key], come[key]) for key in moved]
    left, arrived = ({gone[key].base for key in moved}, {come[key].base for key in moved})
    found += [("removed", one, None) for at, one in old.items() if at not in both and one.base not in left]
    found += [("added", None, one) for at, one in new.items() if at not in both and one.base not in arrived]
    return sorted(found, key=_place), len(both) - sum(kind == "changed" for kind, *_ in found)


def _place(change: Change) -> tuple[int, bool]:
    kind, old, new = change
    region = new or old
    return (region.base if region else 0), kind != "removed"


def differing(old: AddressSpaceRegion, new: AddressSpaceRegion, fields: Sequence[str]) -> list[str]:
    """The fields in which two regions differ."""
    return [field for field in fields if FIELDS[field](old) != FIELDS[field](new)]


def words(old: AddressSpaceRegion, new: AddressSpaceRegion, fields: Sequence[str]) -> str:
    """The changed fields, each with both values."""
    changed = ((field, FIELDS[field]) for field in differing(old, new, fields))
    return ", ".join(f"{field} {_shown(value(old))} -> {_shown(value(new))}" for field, value in changed)


def _shown(value: object) -> str:
    return "-" if value is None else str(value)
