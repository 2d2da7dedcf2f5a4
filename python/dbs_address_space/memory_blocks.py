"""Memory that comes and goes in blocks inside a region, as virtio-mem has it."""

# ruff: noqa: SLF001  the keys of regions are the package's own

from __future__ import annotations

from ._core import AddressSpace, AddressSpaceRegion, GuestMemory, check_type, checked_int, checked_size, guessed
from .enums import Prot
from .errors import InvalidAddressRange, Misaligned, NoSpace, NotMapped, RegionOverlap, UnmappedAddress
from .ranges import AddressRange
from .turn import Turn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, SupportsIndex

    from ._core import AddressSpaceBase, Transaction

__all__ = ["MemoryBlocks"]

_USABLE_EXTENT = 256 << 20
"""How much more than was requested a guest may use, so that it finds blocks which it can plug in; as in QEMU."""


@guessed
class MemoryBlocks:
    """A region whose memory comes and goes in blocks while its addresses stay, as a virtio-mem device has it.

    At first no block is plugged in. Plugging makes memory the guest's (and populates it with `prealloc`); unplugging gives it
    back to the host, the right way for its backing, after which it reads as zero. Offsets are bytes in the region, multiples of
    `block_size`, a power of two. `request()` says how much the guest should have, which bounds what can be plugged in.

    With `inaccessible` an unplugged block can't be touched: it is a part of the region with the protection `"---"`, cut and
    joined as blocks come and go, reads and writes of it are `AccessDenied`, and KVM has no slot for it, so that a guest that
    touches it leaves `KVM_RUN` by an exit for MMIO. Else it is memory that reads as zero.

    Once the region was removed everything here raises `UnmappedAddress`, whatever has taken its place, and `NotMapped` once the
    memory was closed. Safe to use from any thread.

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
        inaccessible: bool = False,
    ) -> None:
        """Takes a mapped region; raises `Misaligned` when blocks are not whole pages of it or do not divide it.

        With `inaccessible` all of it is unplugged memory from now on, which a view of it refuses with `RegionBusy`.
        """
        check_type(memory, GuestMemory, "memory")
        if region is None:  # which means all regions elsewhere
            raise TypeError("region is None: give a region of the memory, its base or its name")
        # The region is this one: another that takes its place or its name later is not.
        self._key = memory._key(region)
        state = memory.effective(self._key)[0]
        self.region: AddressSpaceRegion = state.region
        self.block_size: int = checked_size(block_size, "block_size")
        page_size = max(state.page_size, 1)
        is_power = self.block_size > 0 and self.block_size & (self.block_size - 1) == 0
        if not is_power or self.block_size % page_size or self.region.size % self.block_size:
            message = (
                f"blocks of {self.block_size:#x} bytes, which must be a power of two, do not divide {self.region!r}"
            )
            message += f" into whole pages of {page_size:#x}"
            raise Misaligned(message, address=self.region.base, size=self.region.size, region=self.region)
        self._memory = memory
        self._plugged = bytearray(self.region.size // self.block_size)
        self._requested = self._usable = self.region.size
        self._turn = Turn("these blocks")
        check_type(inaccessible, bool, "inaccessible")
        self.inaccessible: bool = inaccessible
        if inaccessible:
            self._protect(range(len(self._plugged)), Prot.NONE)

    def request(self, size: SupportsIndex | str) -> None:
        """Says how many bytes the guest should have plugged in: it may plug no more, and is to unplug what it has beyond.

        The usable part of the region grows to that and 256 MiB more, as in QEMU; it shrinks by `unplug_all()` alone, and with
        the first request. Raises `Misaligned` for a size that is not whole blocks, `InvalidAddressRange` for more than the region
        has.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["1GiB"]).build().memory
        >>> blocks = MemoryBlocks(memory, "ram0")
        >>> blocks.request("128MiB")
        >>> blocks.requested_size >> 20, blocks.usable_size >> 20
        (128, 384)
        """
        with self._turn.taken():
            self._check_there()
            wanted = checked_size(size, "size")
            if wanted > self.region.size:
                raise InvalidAddressRange(f"{wanted:#x} bytes are more than {self.region!r} has", size=wanted)
            if wanted % self.block_size:
                raise Misaligned(
                    f"size {wanted:#x} must be a multiple of the block size {self.block_size:#x}", size=wanted
                )
            is_first = self._usable == self._requested == self.region.size
            self._requested = wanted
            self._usable = max(self._enough(), 0 if is_first else self._usable)

    def _enough(self) -> int:
        """The usable part for what is requested, and for what is plugged in."""
        last = self._plugged.rfind(1) + 1
        return max(min(self._requested + _USABLE_EXTENT, self.region.size), last * self.block_size)

    @property
    def requested_size(self) -> int:
        """The bytes that the guest should have plugged in; all of the region until `request()` says less."""
        return self._requested

    @property
    def usable_size(self) -> int:
        """The bytes from the region's start among which blocks can be plugged in."""
        return self._usable

    def state(self, offset: SupportsIndex, size: SupportsIndex | str) -> str:
        """The state of a range of blocks: `"plugged"`, `"unplugged"`, or `"mixed"`.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["8MiB"]).build().memory
        >>> blocks = MemoryBlocks(memory, "ram0")
        >>> blocks.plug(0, 4 << 20)
        >>> blocks.state(0, 4 << 20), blocks.state(4 << 20, 4 << 20), blocks.state(0, 8 << 20)
        ('plugged', 'unplugged', 'mixed')
        """
        blocks = self._blocks(offset, size)
        plugged = self._plugged.count(1, blocks.start, blocks.stop)
        return "unplugged" if not plugged else "plugged" if plugged == len(blocks) else "mixed"

    def plug(self, offset: SupportsIndex, size: SupportsIndex | str, *, prealloc: bool = False) -> None:
        """Plugs blocks in; raises `RegionOverlap` when one is plugged in already, and then plugs none.

        Raises `InvalidAddressRange` for blocks behind the usable ones, `NoSpace` for more than was requested.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> blocks = MemoryBlocks(memory, "ram0")
        >>> blocks.plug(0, 2 << 20)
        >>> blocks.plugged_size
        2097152
        """
        check_type(prealloc, bool, "prealloc")
        with self._turn.taken():
            blocks = self._blocks(offset, size)
            self._require(blocks, plugged=False)
            self._check_room(blocks)
            if self.inaccessible:
                self._protect(blocks, self.region.prot_flags)
            if prealloc:
                # They are zero already: this brings their pages in.
                self._populate(blocks)
            self._plugged[blocks.start : blocks.stop] = b"\1" * len(blocks)

    def _check_room(self, blocks: range) -> None:
        offset, size = self._part_of(blocks)
        if offset + size > self._usable:
            message = (
                f"{size:#x} bytes at offset {offset:#x} end behind the usable {self._usable:#x} of {self.region!r}"
            )
            raise InvalidAddressRange(message, address=self.region.base + offset, size=size)
        left = self._requested - self._plugged.count(1) * self.block_size
        if size > left:
            free = max(left, 0)
            message = f"{size:#x} bytes are more than the {free:#x} that are left of the {self._requested:#x} requested"
            raise NoSpace(message, size=size, free=free, largest=free, align=self.block_size)

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
        with self._turn.taken():
            blocks = self._blocks(offset, size)
            self._require(blocks, plugged=True)
            # Given back first: blocks whose discard fails are still plugged in.
            self._give_back(blocks)
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
        with self._turn.taken():
            everything = range(len(self._plugged))
            if self.inaccessible:
                self._check_there()
                # What is unplugged can't be given back again.
                for part in list(self._runs()):
                    self._give_back(part)
                    self._plugged[part.start : part.stop] = bytes(len(part))
            else:
                self._give_back(everything)
                self._plugged[:] = bytes(len(everything))
            self._usable = self._enough()

    def _give_back(self, blocks: range) -> None:
        if not self.inaccessible:
            return self._discard(blocks)
        # Hidden first: nobody writes to them once they are zero.
        self._protect(blocks, Prot.NONE)
        try:
            self._discard(blocks)
        except BaseException:
            self._protect(blocks, self.region.prot_flags)
            raise

    def _discard(self, blocks: range) -> None:
        self._memory._discard_part(*self._place(blocks))

    def _populate(self, blocks: range) -> None:
        try:
            self._memory._fill_part(*self._place(blocks))
        except BaseException:
            if self.inaccessible:
                self._protect(blocks, Prot.NONE)
            raise

    def _place(self, blocks: range) -> tuple[Any, int, int]:
        """The key of the region that has blocks, or of the part of it, their offset there and their size."""
        offset, size = self._part_of(blocks)
        if not self.inaccessible:
            return self._key, offset, size
        base = self._part_at(AddressSpace._of_memory(self._memory).snapshot(), self.region.base + offset).base
        return self._memory._key(base), self.region.base + offset - base, size

    def _protect(self, blocks: range, protection: Prot) -> None:
        """Gives the part of the region that blocks have a protection. Bytes, host addresses and other parts stay."""
        offset, size = self._part_of(blocks)
        low, high = self.region.base + offset, self.region.base + offset + size
        with AddressSpace._of_memory(self._memory).transaction() as change:
            self._join(change, change.protect(low, size, protection), low, high)

    def _part_at(self, base: AddressSpaceBase, addr: int) -> AddressSpaceRegion:
        part = base.find_region(addr)
        if part is None:
            raise UnmappedAddress(
                f"the part of {self.region!r} at {addr:#x} was removed", address=addr, region=self.region
            )
        return part

    def _join(self, change: Transaction, base: AddressSpaceBase, low: int, high: int) -> None:
        """Makes one of neighbouring parts that are alike, those around a range among them."""
        low, high = max(low - 1, self.region.base), min(high + 1, self.region.end)
        parts = base.overlapping(low, high - low)
        lower = parts[0] if parts else None
        for upper in parts[1:]:
            is_alike = lower is not None and lower.end == upper.base and upper.prot_flags == lower.prot_flags
            lower = change.join_regions(lower.base, upper.base)[lower.base] if lower and is_alike else upper

    def is_plugged(self, offset: SupportsIndex, size: SupportsIndex | str) -> bool:
        """Whether all blocks of a range are plugged in.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> blocks = MemoryBlocks(memory, "ram0")
        >>> blocks.is_plugged(0, 4 << 20)
        False
        """
        return self.state(offset, size) == "plugged"

    @property
    def plugged_size(self) -> int:
        """The bytes that are plugged in."""
        self._check_there()
        return self._plugged.count(1) * self.block_size

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
        wrong = self._plugged.find(int(not plugged), blocks.start, blocks.stop)
        if wrong < 0:
            return
        address = self.region.base + wrong * self.block_size
        if plugged:
            raise UnmappedAddress(f"the block at {address:#x} is not plugged in", address=address, region=self.region)
        raise RegionOverlap(f"the block at {address:#x} is plugged in already", address=address, region=self.region)

    def __iter__(self) -> Iterator[AddressRange]:
        """The guest physical ranges that are plugged in, joined, as they are now."""
        self._check_there()
        for blocks in self._runs():
            offset, size = self._part_of(blocks)
            yield AddressRange(self.region.base + offset, size)

    def _runs(self) -> Iterator[range]:
        """Neighbouring blocks that are plugged in; the zero ends the last run."""
        plugged = bytes(self._plugged) + b"\0"
        start = plugged.find(1)
        while start >= 0:
            stop = plugged.index(0, start)
            yield range(start, stop)
            start = plugged.find(1, stop)

    def __repr__(self) -> str:
        try:
            plugged = f"{self.plugged_size:#x} of {self.region.size:#x} bytes plugged in"
        except (NotMapped, UnmappedAddress):
            plugged = "removed"
        return f"MemoryBlocks({self.region!r}, {plugged})"
