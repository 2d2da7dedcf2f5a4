"""Memory that is plugged in and out while the guest runs: DIMMs in slots."""

# ruff: noqa: SLF001  the keys of regions are the package's own

from __future__ import annotations

from ._core import (
    AddressSpace,
    AddressSpacePlan,
    AddressSpaceRegion,
    check_type,
    checked_int,
    checked_size,
    guessed,
)
from .errors import (
    InvalidAddressRange,
    InvalidArgument,
    Misaligned,
    NoSpace,
    RegionOverlap,
    UnknownName,
    UnmappedAddress,
)
from .ranges import AddressRange
from .turn import Turn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, SupportsIndex

    from ._core import Reservation

__all__ = ["DimmSlots"]

_OWNER = "hotplug"
_DIMM_ALIGN = 128 << 20


@guessed
class DimmSlots:
    """The DIMM slots of a machine: a DIMM is a region in the window that a plan's `hotplug` has reserved.

    `slots` and `size`, the bytes that all DIMMs may have together, are given, or those of the `plan` that the space was built of.
    A DIMM's base and size are multiples of `align` (128 MiB, the unit in which Linux adds memory). Another part of the program
    may not insert into the window. Safe to use from any thread.

    >>> from dbs_address_space import AddressSpaceBuilder, Hotplug
    >>> plan = AddressSpaceBuilder("q35", numa_regions=["1GiB"], hotplug=Hotplug("4GiB", slots=2)).plan()
    >>> slots = DimmSlots(plan.build(), plan=plan)
    >>> slots.plug("1GiB", name="dimm0").base == 4 << 30
    True
    >>> slots.slots, slots.size == 3 << 30
    (2, True)
    >>> slots.unplug("dimm0")
    >>> slots.dimms
    {}
    """

    def __init__(
        self,
        space: AddressSpace,
        *,
        plan: AddressSpacePlan | None = None,
        slots: SupportsIndex | None = None,
        size: SupportsIndex | str | None = None,
        align: SupportsIndex | str = _DIMM_ALIGN,
    ) -> None:
        """Takes the window of the space; raises `UnmappedAddress` when it has none, `InvalidArgument` for bad arguments."""
        check_type(space, AddressSpace, "space")
        windows: list[Reservation] = [window for window in space.reservations if window.owner == _OWNER]
        if not windows:
            raise UnmappedAddress(f"{space!r} has no window reserved for {_OWNER!r}: plan it with hotplug=Hotplug(...)")
        self.window: Reservation = windows[0]
        if plan is not None:
            planned_slots, planned_size = _planned(plan, self.window)
            slots, size = planned_slots if slots is None else slots, planned_size if size is None else size
        if slots is None or size is None:
            raise TypeError("DimmSlots() needs plan=, or slots= and size=")
        self.slots: int = checked_int(slots, "slots")
        self.size: int = checked_size(size, "size")
        self.align: int = checked_size(align, "align")
        if not self.align:
            raise InvalidAddressRange("align is 0: give the bytes of which each DIMM's base and size are a multiple")
        self._space = space
        self._keys: dict[int, Any] = {}
        self._turn = Turn("these DIMM slots")

    def __repr__(self) -> str:
        dimms = self.dimms
        plugged = ", ".join(f"{slot}: {dimms[slot].name!r} {dimms[slot].size:#_x}" for slot in sorted(dimms))
        return f"DimmSlots({{{plugged}}}, slots={self.slots}, size={self.size:#_x})"

    @property
    def dimms(self) -> dict[int, AddressSpaceRegion]:
        """The regions by slot."""
        return self._here()

    def plug(
        self,
        size: SupportsIndex | str,
        *,
        name: str,
        slot: SupportsIndex | None = None,
        base: SupportsIndex | None = None,
        **options: Any,
    ) -> AddressSpaceRegion:
        """Plugs a DIMM in and returns its region; `options` are further arguments of `AddressSpaceRegion`.

        It goes into the first free slot and place, or the ones given. Raises `NoSpace` when slots or memory are used up or no
        place is large enough, `RegionOverlap` that names the DIMM in the way, `Misaligned`, and else as `insert_region` does.

        >>> from dbs_address_space import AddressSpaceBuilder, Hotplug
        >>> space = AddressSpaceBuilder("q35", numa_regions=["1GiB"], hotplug=Hotplug("4GiB", slots=2)).build()
        >>> slots = DimmSlots(space, slots=2, size=3 << 30)
        >>> slots.plug("1GiB", name="dimm0", slot=1).size
        1073741824
        """
        check_type(name, str, "name")
        with self._turn.taken():
            here = self._here()
            place = base if base is not None else self.window.base
            region = AddressSpaceRegion("ram", place, size, name=name, is_hotplug=True, **options)
            self._check(region, here)
            number = self._slot(None if slot is None else checked_int(slot, "slot"), here)
            region = region.replace(base=self._place(region, here, given=base is not None))
            # Inserted before the slot is taken: a refusal leaves the slot free.
            self._keys[number] = self.window.insert_region(region)._key(region.base)
            return region

    def unplug(self, name: str, *, timeout: float | None = 0.0) -> None:
        """Removes a DIMM, which the guest must have let go; raises `UnknownName`, or `RegionBusy` after `timeout` seconds.

        >>> from dbs_address_space import AddressSpaceBuilder, Hotplug
        >>> space = AddressSpaceBuilder("q35", numa_regions=["1GiB"], hotplug=Hotplug("4GiB", slots=2)).build()
        >>> slots = DimmSlots(space, slots=2, size=3 << 30)
        >>> dimm = slots.plug("1GiB", name="dimm0")
        >>> slots.unplug("dimm0")
        >>> slots.dimms
        {}
        """
        check_type(name, str, "name")
        # Without the turn, for it may wait long; a key is of this very DIMM, whatever comes into its slot meanwhile.
        keys = dict(self._keys)
        slot = next((slot for slot, region in self._found(keys).items() if region.name == name), None)
        if slot is None:
            raise UnknownName(self._no_dimm(name))
        self._space.remove_region(keys[slot], timeout=timeout)

    def _no_dimm(self, name: str) -> str:
        base = self._space.snapshot()
        other = f", and {base[name]!r} is not one: remove_region() removes it" if name in base else ""
        return f"no DIMM is named {name!r}{other}; there are {sorted(str(dimm.name) for dimm in self._here().values())}"

    def _here(self) -> dict[int, AddressSpaceRegion]:
        """The DIMMs that are plugged in, without those that others have removed meanwhile."""
        return self._found(dict(self._keys))

    def _found(self, keys: dict[int, Any]) -> dict[int, AddressSpaceRegion]:
        base = self._space.snapshot()
        found = {slot: base._find_key(key) for slot, key in sorted(keys.items())}
        return {slot: region for slot, region in found.items() if region is not None}

    def _check(self, region: AddressSpaceRegion, here: dict[int, AddressSpaceRegion]) -> None:
        for what, value in (("base", region.base), ("size", region.size)):
            if value % self.align and (what == "size" or value != self.window.base):
                raise Misaligned(
                    f"the {what} {value:#x} of DIMM {region.name!r} is not a multiple of {self.align:#x}",
                    address=region.base,
                    size=region.size,
                )
        plugged = sum(dimm.size for dimm in here.values())
        if plugged + region.size > self.size:
            free = self.size - plugged
            message = f"DIMM {region.name!r} of {region.size:#x} bytes exceeds the {free:#x} left of {self.size:#x} for all DIMMs"
            raise NoSpace(message, size=region.size, free=free, largest=free, align=self.align)

    def _slot(self, wanted: int | None, here: dict[int, AddressSpaceRegion]) -> int:
        if wanted is None:
            wanted = next((slot for slot in range(self.slots) if slot not in here), None)
        if wanted is None:
            raise NoSpace(f"all {self.slots} slots are taken: {[dimm.name for dimm in here.values()]}")
        if wanted not in range(self.slots):
            raise InvalidAddressRange(f"slot {wanted} does not exist: the machine has slots 0 to {self.slots - 1}")
        if wanted in here:
            raise RegionOverlap(f"slot {wanted} is taken by {here[wanted].name!r}", conflict=here[wanted])
        return wanted

    def _place(self, region: AddressSpaceRegion, here: dict[int, AddressSpaceRegion], *, given: bool) -> int:
        dimms = sorted(here.values(), key=lambda dimm: dimm.base)
        if given:
            if region.base < self.window.base or region.end > self.window.end:
                window = AddressRange(self.window.base, self.window.size)
                raise InvalidAddressRange(
                    f"{region!r} is not in the window {window}", address=region.base, size=region.size
                )
            for dimm in filter(region.intersect_with, dimms):
                raise RegionOverlap(f"cannot plug {region!r}: overlaps {dimm!r}", region=region, conflict=dimm)
            return region.base
        place = _aligned(self.window.base, self.align)
        for dimm in dimms:
            if dimm.base - place >= region.size:
                break
            place = max(place, _aligned(dimm.end, self.align))
        if place + region.size > self.window.end:
            free = self.window.size - sum(dimm.size for dimm in dimms)
            raise NoSpace(f"no place for {region!r} between {dimms}", size=region.size, free=free, align=self.align)
        return place


def _planned(plan: AddressSpacePlan, window: Reservation) -> tuple[int, int]:
    """The slots of a plan, and the bytes that it has for them."""
    check_type(plan, AddressSpacePlan, "plan")
    hotplug = plan.hotplug
    if hotplug is None or plan.hotplug_window != (window.base, window.size):
        raise InvalidArgument(
            f"{plan!r} does not have the window {AddressRange(window.base, window.size)} of the space"
        )
    begins_with = sum(region.size for region in plan.regions if region.region_type.value == "ram")
    return hotplug.slots, hotplug.max_memory - begins_with


def _aligned(address: int, align: int) -> int:
    return -(-address // align) * align
