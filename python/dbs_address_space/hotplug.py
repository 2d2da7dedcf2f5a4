"""Memory that comes and goes while the guest runs: DIMMs in slots, and blocks inside a region as virtio-mem has them."""

# ruff: noqa: SLF001  the keys of regions are the package's own

from __future__ import annotations

from _thread import allocate_lock

from ._core import (
    AddressSpace,
    AddressSpacePlan,
    AddressSpaceRegion,
    GuestMemory,
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
    NotMapped,
    RegionOverlap,
    UnknownName,
    UnmappedAddress,
)
from .ranges import AddressRange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, SupportsIndex

    from ._core import Reservation

__all__ = ["DimmSlots", "MemoryBlocks"]

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
        self._space = space
        self._keys: dict[int, Any] = {}
        self._lock = allocate_lock()

    def __repr__(self) -> str:
        dimms = self.dimms
        plugged = ", ".join(f"{slot}: {dimms[slot].name!r} {dimms[slot].size:#_x}" for slot in sorted(dimms))
        return f"DimmSlots({{{plugged}}}, slots={self.slots}, size={self.size:#_x})"

    @property
    def dimms(self) -> dict[int, AddressSpaceRegion]:
        """The regions by slot."""
        with self._lock:
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
        with self._lock:
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
        with self._lock:
            slot = next((slot for slot, region in self._here().items() if region.name == name), None)
            if slot is None:
                raise UnknownName(self._no_dimm(name))
            self._space.remove_region(self._keys[slot], timeout=timeout)
            # Only now: a region that is busy keeps its slot.
            del self._keys[slot]

    def _no_dimm(self, name: str) -> str:
        base = self._space.snapshot()
        other = f", and {base[name]!r} is not one: remove_region() removes it" if name in base else ""
        return f"no DIMM is named {name!r}{other}; there are {sorted(str(dimm.name) for dimm in self._here().values())}"

    def _here(self) -> dict[int, AddressSpaceRegion]:
        """The DIMMs that are plugged in, without those that others have removed meanwhile."""
        base = self._space.snapshot()
        found = {slot: base._find_key(key) for slot, key in sorted(self._keys.items())}
        here = {slot: region for slot, region in found.items() if region is not None}
        self._keys = {slot: self._keys[slot] for slot in here}
        return here

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


@guessed
class MemoryBlocks:
    """A region whose memory comes and goes in blocks while its addresses stay, as a virtio-mem device has it.

    At first no block is plugged in. Plugging makes memory the guest's (and populates it with `prealloc`); unplugging gives it
    back to the host, the right way for its backing, after which it reads as zero. Offsets are bytes in the region, multiples of
    `block_size`. A device may refuse accesses to an unplugged block; this class does not. Once the region was removed everything
    here raises `UnmappedAddress`, whatever has taken its place, and `NotMapped` once the memory was closed. Safe to use from any
    thread.

    >>> from dbs_address_space import AddressSpaceBuilder
    >>> memory = AddressSpaceBuilder(numa_regions=["64MiB"]).build().memory
    >>> blocks = MemoryBlocks(memory, "ram0", block_size=4 << 20)
    >>> blocks.plug(0, 16 << 20)
    >>> blocks.unplug(4 << 20, 4 << 20)
    >>> blocks.plugged_size >> 20, [str(part) for part in blocks]
    (12, ['[0x0, 0x40_0000)', '[0x80_0000, 0x100_0000)'])
    """

    def __init__(
        self,
        memory: GuestMemory,
        region: SupportsIndex | str | AddressSpaceRegion,
        *,
        block_size: SupportsIndex | str = 2 << 20,
    ) -> None:
        """Takes a mapped region; raises `Misaligned` when blocks are not whole pages of it or do not divide it."""
        check_type(memory, GuestMemory, "memory")
        if region is None:  # which means all regions elsewhere
            raise TypeError("region is None: give a region of the memory, its base or its name")
        # The region is this one: another that takes its place or its name later is not.
        self._key = memory._key(region)
        state = memory.effective(self._key)[0]
        self.region: AddressSpaceRegion = state.region
        self.block_size: int = checked_size(block_size, "block_size")
        page_size = max(state.page_size, 1)
        if not self.block_size or self.block_size % page_size or self.region.size % self.block_size:
            message = (
                f"blocks of {self.block_size:#x} bytes do not divide {self.region!r} into whole pages of {page_size:#x}"
            )
            raise Misaligned(message, address=self.region.base, size=self.region.size, region=self.region)
        self._memory = memory
        self._plugged = bytearray(self.region.size // self.block_size)
        self._lock = allocate_lock()

    def plug(self, offset: SupportsIndex, size: SupportsIndex | str, *, prealloc: bool = False) -> None:
        """Plugs blocks in; raises `RegionOverlap` when one is plugged in already, and then plugs none.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> blocks = MemoryBlocks(memory, "ram0")
        >>> blocks.plug(0, 2 << 20)
        >>> blocks.plugged_size
        2097152
        """
        with self._lock:
            blocks = self._blocks(offset, size)
            self._require(blocks, plugged=False)
            if prealloc:
                # They are zero already: this brings their pages in.
                self._memory._fill_part(self._key, *self._part_of(blocks))
            self._plugged[blocks.start : blocks.stop] = b"\1" * len(blocks)

    def unplug(self, offset: SupportsIndex, size: SupportsIndex | str) -> None:
        """Gives plugged blocks back to the host; raises `UnmappedAddress` when one is not plugged in, and then does nothing.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> blocks = MemoryBlocks(memory, "ram0")
        >>> blocks.plug(0, 4 << 20)
        >>> blocks.unplug(0, 2 << 20)
        >>> blocks.plugged_size
        2097152
        """
        with self._lock:
            blocks = self._blocks(offset, size)
            self._require(blocks, plugged=True)
            # Given back first: blocks whose discard fails are still plugged in.
            self._memory._discard_part(self._key, *self._part_of(blocks))
            self._plugged[blocks.start : blocks.stop] = bytes(len(blocks))

    def unplug_all(self) -> None:
        """Gives all blocks back to the host, as a reset of the machine does.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> blocks = MemoryBlocks(memory, "ram0")
        >>> blocks.plug(0, 4 << 20)
        >>> blocks.unplug_all()
        >>> blocks.plugged_size
        0
        """
        with self._lock:
            self._memory._discard_part(self._key, 0, self.region.size)
            self._plugged[:] = bytes(len(self._plugged))

    def is_plugged(self, offset: SupportsIndex, size: SupportsIndex | str) -> bool:
        """Whether all blocks of a range are plugged in.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> blocks = MemoryBlocks(memory, "ram0")
        >>> blocks.is_plugged(0, 4 << 20)
        False
        """
        with self._lock:
            blocks = self._blocks(offset, size)
            return all(self._plugged[blocks.start : blocks.stop])

    @property
    def plugged_size(self) -> int:
        """The bytes that are plugged in."""
        with self._lock:
            self._check_there()
            return sum(self._plugged) * self.block_size

    def _check_there(self) -> None:
        """Raises `UnmappedAddress` when the region was removed, `NotMapped` when the memory was closed."""
        self._memory._key(self._key)

    def _blocks(self, offset: SupportsIndex, size: SupportsIndex | str) -> range:
        """The indexes of the blocks of a range."""
        self._check_there()
        first, length = checked_int(offset, "offset"), checked_size(size, "size")
        base = self.region.base + first
        if not length or first + length > self.region.size:
            raise InvalidAddressRange(
                f"{length:#x} bytes at offset {first:#x} are not in {self.region!r}", address=base, size=length
            )
        if first % self.block_size or length % self.block_size:
            message = f"offset {first:#x} and size {length:#x} must be multiples of the block size {self.block_size:#x}"
            raise Misaligned(message, address=base, size=length, region=self.region)
        return range(first // self.block_size, (first + length) // self.block_size)

    def _part_of(self, blocks: range) -> tuple[int, int]:
        """The offset in the region and the number of bytes of blocks."""
        return blocks.start * self.block_size, len(blocks) * self.block_size

    def _require(self, blocks: range, *, plugged: bool) -> None:
        wrong = next((block for block in blocks if bool(self._plugged[block]) is not plugged), None)
        if wrong is None:
            return
        address = self.region.base + wrong * self.block_size
        if plugged:
            raise UnmappedAddress(f"the block at {address:#x} is not plugged in", address=address, region=self.region)
        raise RegionOverlap(f"the block at {address:#x} is plugged in already", address=address, region=self.region)

    def __iter__(self) -> Iterator[AddressRange]:
        """The guest physical ranges that are plugged in, joined, as they are now."""
        with self._lock:
            self._check_there()
            # A copy, for the caller may plug while it iterates; the zero ends the last run.
            plugged = bytes(self._plugged) + b"\0"
        start = plugged.find(1)
        while start >= 0:
            stop = plugged.index(0, start)
            yield AddressRange(self.region.base + start * self.block_size, (stop - start) * self.block_size)
            start = plugged.find(1, stop)

    def __repr__(self) -> str:
        try:
            plugged = f"{self.plugged_size:#x} of {self.region.size:#x} bytes plugged in"
        except (NotMapped, UnmappedAddress):
            plugged = "removed"
        return f"MemoryBlocks({self.region!r}, {plugged})"
