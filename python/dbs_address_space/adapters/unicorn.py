"""A Unicorn engine that follows an address space: `AddressSpace.attach_unicorn`."""

from __future__ import annotations

from bisect import bisect_right
from contextlib import suppress
from ctypes import addressof, c_char
from functools import partial
from itertools import islice, takewhile
from mmap import mmap
from typing import TYPE_CHECKING, Any

from dbs_address_space.adapters import needs

try:
    from unicorn import (
        UC_CTL_CONTEXT_MEMORY,
        UC_CTL_CONTEXT_MODE,
        UC_PROT_EXEC,
        UC_PROT_NONE,
        UC_PROT_READ,
        UC_PROT_WRITE,
        Uc,
        UcError,
    )
except ModuleNotFoundError as _error:
    raise needs("unicorn", _error) from _error

from dbs_address_space.enums import AddressSpaceRegionType, Prot
from dbs_address_space.errors import (
    InvalidArgument,
    Misaligned,
    NotMapped,
    RegionOverlap,
    UnmappedAddress,
    Unsupported,
)
from dbs_address_space.ranges import AddressRange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dbs_address_space._core import (
        AddressSpace,
        AddressSpaceBase,
        AddressSpaceChange,
        AddressSpaceRegion,
        Subscription,
    )

__all__ = ["attach"]

PAGE = 0x1000
"""The unit of Unicorn's mappings, whatever the guest's pages are."""
MANY = 32
"""From so many ranges on it takes less time to translate all code anew than to name them."""
KEPT = "_address_spaces"
"""The attribute of an engine that keeps the clients whose memory it has pointers into."""


def attach(space: AddressSpace, uc: Uc, *, partial_pages: str = "refuse") -> Subscription:
    """Maps every region of a mapped space into an engine, which follows it from here on.

    Unicorn takes whole pages: memory that begins or ends inside one is `Misaligned`, or mapped without such parts with
    `partial_pages="skip"`; they are in `left_out` of the attachment's `client`.

    The engine keeps the space and its memory alive until `detach()`, which unmaps what was mapped. Memory that it refuses to
    unmap stays mapped for as long as the engine lives. Pages that its owner unmaps with `uc.mem_unmap` are his from then on.
    """
    _ = space.memory  # NotMapped, when there is none
    if not isinstance(uc, Uc):
        raise TypeError(f"uc must be a unicorn.Uc, not {type(uc).__name__}")
    if _contexts_have_memory(uc):
        raise _refusal()
    if partial_pages not in ("refuse", "skip"):
        raise InvalidArgument(f"unknown partial_pages {partial_pages!r}: use 'refuse', 'skip'")
    return space.subscribe(UnicornClient(space, uc, skips=partial_pages == "skip"))


class Mapped:
    """The parts of a region, or of the pages of a device, that the engine has: its owner may have unmapped others."""

    def __init__(self, parts: list[AddressRange], kept: object = None) -> None:
        """`kept` keeps the memory behind the parts mapped."""
        self.parts: list[AddressRange] = parts
        self._kept = kept

    def cut(self, gone: AddressRange) -> None:
        """Notes that a range is not mapped any more; the memory is let go with the last pointer to it."""
        self.parts = [left for part in self.parts for left in _without(part, gone)]
        if not self.parts:
            self._kept = None


class UnicornClient:
    """Maps regions by pointer and devices by their pages; each step of a change can be undone."""

    name = "Unicorn"

    def __init__(self, space: AddressSpace, uc: Uc, *, skips: bool = False) -> None:
        """Nothing is mapped yet; `skips` leaves parts of pages out."""
        self._space = space
        self._uc = uc
        self._skips = skips
        self._undo: list[Callable[[], object]] = []
        self._late: list[AddressRange] = []
        self._mapped: dict[AddressRange, Mapped] = {}
        self._devices: set[AddressRange] = set()

    def prepare(self, change: AddressSpaceChange) -> None:
        """Maps regions that are added; regions in their way, and pages that become a device or cease to be one, go first."""
        try:
            self._prepare(change)
        except BaseException:
            self.rollback(change)
            raise

    def _prepare(self, change: AddressSpaceChange) -> None:
        self._late = []
        for region in _memory(change.removed):
            if any(_range(region).intersect(_range(added)) for added in change.added):
                parts = self._parts(region)
                self._step(partial(self._unmap, _range(region)), partial(self._map_memory, change, region, parts))
            else:
                self._late.append(_range(region))
        before, after = set(self._devices), device_pages(change.after)
        # Devices go before memory comes, and come behind it: a page of theirs may become memory, or the reverse.
        for pages in before - after:
            self._step(partial(self._unmap, pages), partial(self._map_device, pages))
        for region in _memory(change.added):
            parts = self._pages(region)
            self._step(partial(self._map_memory, change, region, parts), partial(self._unmap, _range(region)))
        for pages in after - before:
            self._step(partial(self._map_device, pages), partial(self._unmap, pages))
        for old, new in change.replaced:
            if old.prot_flags != new.prot_flags:
                self._step(partial(self._protect, new), partial(self._protect, old))

    def _step(self, do: Callable[[], object], undo: Callable[[], object]) -> None:
        # Noted first, for a step may fail halfway: what undoes it does only what is missing.
        self._undo.append(undo)
        do()

    def commit(self, _change: AddressSpaceChange) -> None:
        """Unmaps the memory that was removed."""
        self._undo = []
        self._unmap_all(self._late)

    def rollback(self, _change: AddressSpaceChange) -> None:
        """Undoes what `prepare` did, in reverse."""
        while self._undo:
            self._undo.pop()()

    def _capture(self) -> object:
        """The registers, for a checkpoint."""
        return self._uc.context_save()

    def _restored(self, state: object, pages: tuple[AddressRange, ...]) -> None:
        """Puts the registers back, and forgets what was translated of pages that are other bytes now."""
        if state is not None:
            self._uc.context_restore(state)
        if len(pages) > MANY:
            self._uc.ctl_flush_tb()
            return
        for part in pages:
            self._uc.ctl_remove_cache(part.base, part.end)

    def leave(self) -> None:
        """Unmaps all of it."""
        self._unmap_all(list(self._mapped))

    def _unmap_all(self, ranges: Iterable[AddressRange]) -> None:
        """A range that the engine refuses to unmap stops none of the others, and is raised at the end. Its memory is kept."""
        refused: list[UcError] = []
        # Listed once: what is unmapped here is in no other of these ranges.
        there = _mapped_ranges(self._uc)
        for whole in ranges:
            try:
                self._unmap(whole, there)
            except UcError as error:
                refused.append(error)
        if refused:
            raise refused[0]

    @property
    def left_out(self) -> tuple[AddressRange, ...]:
        """The memory that the engine is not shown: parts of pages, with `partial_pages="skip"`."""
        if not self._skips:
            return ()
        memory = _memory(self._space.regions)
        return tuple(part for region in memory for part in _without(_range(region), _whole_pages(region)))

    def _pages(self, region: AddressSpaceRegion) -> list[AddressRange]:
        """The whole pages of a region, which are refused when they are not all of it and parts are not to be left out."""
        if region._runs() is not None:  # noqa: SLF001  of this package
            message = f"Unicorn can't show {region}: its bytes are those of a dump, and in no page"
            raise Unsupported(
                message, region=region, feature="pages of a dump that is not mapped", how="load(..., copy=True)"
            )
        whole = _whole_pages(region)
        if whole != _range(region) and not self._skips:
            how = "partial_pages='skip' leaves such parts out"
            message = f"Unicorn can't show {region}, for it takes whole pages of {PAGE:#x}: {how}"
            raise Misaligned(message, address=region.base, size=region.size, region=region)
        return [whole] if whole.size else []

    def _parts(self, region: AddressSpaceRegion) -> list[AddressRange]:
        mapped = self._mapped.get(_range(region))
        return list(mapped.parts) if mapped else []

    def _map_memory(self, change: AddressSpaceChange, region: AddressSpaceRegion, parts: list[AddressRange]) -> None:
        """Maps those of the parts that are not mapped."""
        host = change.mapping(region).host_address - region.base
        mapped = self._mapped.get(_range(region)) or Mapped([], change._keep(region))  # noqa: SLF001  of this package
        self._note(_range(region), mapped)
        for part in (part for part in parts if part not in mapped.parts):
            self._map(part, partial(self._uc.mem_map_ptr, *part, _protection(region), host + part.base))
            mapped.parts.append(part)

    def _map(self, wanted: AddressRange, do: Callable[[], object]) -> None:
        try:
            do()
        except UcError as error:
            others = (client for client in getattr(self._uc, KEPT, ()) if client is not self)
            other = next((client for client in others if client.has(wanted)), None)
            if other is None and not _shared(_mapped_ranges(self._uc), wanted):
                raise
            whose = f"this engine follows {other._space!r} there: detach() that" if other else "its owner mapped them"  # noqa: SLF001
            message = f"Unicorn has pages of {wanted} already: {whose}"
            raise RegionOverlap(message, address=wanted.base, size=wanted.size) from error

    def has(self, wanted: AddressRange) -> bool:
        """Whether it has mapped some of a range."""
        return any(part.intersect(wanted) for mapped in self._mapped.values() for part in mapped.parts)

    def _note(self, whole: AddressRange, mapped: Mapped) -> None:
        self._mapped[whole] = mapped
        self._keep()

    def _map_device(self, pages: AddressRange) -> None:
        if pages in self._devices:
            return
        dispatch, base = self._space.dispatch, pages.base

        def read(uc: Uc, offset: int, size: int, _data: object) -> int:
            """The guest's load."""
            try:
                return dispatch(base + offset, size)
            except BaseException as error:  # noqa: BLE001  comes out of emu_start
                return _stop(uc, error)

        def write(uc: Uc, offset: int, size: int, value: int, _data: object) -> None:
            """The guest's store."""
            try:
                dispatch(base + offset, size, value & (1 << 8 * size) - 1)
            except BaseException as error:  # noqa: BLE001  comes out of emu_start
                _stop(uc, error)

        self._map(pages, partial(self._uc.mmio_map, *pages, read, None, write, None))
        self._devices.add(pages)
        self._note(pages, Mapped([pages]))

    def _unmap(self, whole: AddressRange, there: list[AddressRange] | None = None) -> None:
        mapped = self._mapped.get(whole, Mapped([]))
        there = _mapped_ranges(self._uc) if there is None else there
        for part in mapped.parts:
            # Only what is still there: the engine's owner may have unmapped pages where we do not see it.
            for shared in _shared(there, part):
                self._uc.mem_unmap(*shared)
                mapped.cut(shared)
        self._mapped.pop(whole, None)
        self._devices.discard(whole)
        self._keep()

    def forget(self, unmapped: AddressRange) -> None:
        """The engine's owner has unmapped pages: what he maps there is his."""
        for whole, mapped in self._mapped.items():
            if whole.base < unmapped.end and unmapped.base < whole.end:
                mapped.cut(unmapped)

    def protects(self, wanted: AddressRange) -> bool:
        """Whether some of it may not be written: the host protects it, too, and the engine's own store would be a signal."""
        return any(not region.prot_flags & Prot.WRITE and _range(region).intersect(wanted) for region in self._shown())

    def _shown(self) -> list[AddressSpaceRegion]:
        """The regions that the engine has."""
        return [region for region in self._space.regions if _range(region) in self._mapped]

    def write(self, address: int, data: bytes) -> None:
        """Writes as the engine's `mem_write` does: through a protection."""
        self._space.memory.write(address, data, force=True)
        self._uc.ctl_remove_cache(address, address + len(data))

    def written(self, wanted: AddressRange) -> None:
        """Lets the engine translate the bytes anew where else they are seen: it knows the address that was written."""
        for region in self._shown():
            if there := _range(region).intersect(wanted):
                # Removed meanwhile, it is seen nowhere.
                with suppress(UnmappedAddress, NotMapped):
                    for other in self._space.memory.aliases(*there):
                        self._uc.ctl_remove_cache(other.base, other.end)

    def _keep(self) -> None:
        """Lets the engine keep this client, and so the memory, while it has pointers into that; its owner's calls are heard."""
        attributes = vars(self._uc)
        kept = attributes.setdefault(KEPT, set())
        kept.add(self) if self._mapped else kept.discard(self)
        for name, heard in HEARD.items():
            if kept:
                attributes.setdefault(name, partial(heard, self._uc))
            elif getattr(attributes.get(name), "func", None) is heard:
                del attributes[name]
        if not kept:
            del attributes[KEPT]

    def _protect(self, region: AddressSpaceRegion) -> None:
        for part in self._parts(region):
            type(self._uc).mem_protect(self._uc, part.base, part.size, _protection(region))


def _contexts_have_memory(uc: Uc) -> bool:
    """Whether a saved context has the memory, too (`UC_CTL_CONTEXT_MEMORY`): Unicorn does not tell, but a page of ours does."""
    place, page = 0, mmap(-1, PAGE)
    for first, last, _ in sorted(uc.mem_regions()):
        if first >= place + PAGE:
            break
        place = last + 1
    uc.mem_map_ptr(place, PAGE, UC_PROT_READ | UC_PROT_WRITE, addressof(c_char.from_buffer(page)))
    try:
        context = uc.context_save()
        uc.mem_write(place, b"1")
        if is_copied := page[0] == 0:
            uc.context_restore(context)
        return is_copied
    finally:
        uc.mem_unmap(place, PAGE)


def _ctl(uc: Uc, ctl: int, op: int, *args: Any) -> Any:
    """The engine's `ctl` while it has memory of a space."""
    if ctl == UC_CTL_CONTEXT_MODE and any(getattr(arg, "value", arg) & UC_CTL_CONTEXT_MEMORY for arg in args):
        raise _refusal()
    return type(uc).ctl(uc, ctl, op, *args)


def _mem_unmap(uc: Uc, address: int, size: int) -> None:
    """The engine's `mem_unmap` while it has memory of a space."""
    type(uc).mem_unmap(uc, address, size)
    for client in getattr(uc, KEPT, ()):
        client.forget(AddressRange(address, size))


def _protecting(uc: Uc, wanted: AddressRange) -> UnicornClient | None:
    return next((client for client in getattr(uc, KEPT, ()) if client.protects(wanted)), None)


def _mem_write(uc: Uc, address: int, data: bytes) -> None:
    """The engine's `mem_write` while it has memory of a space."""
    if client := _protecting(uc, AddressRange(address, len(data))):
        client.write(address, data)
    else:
        type(uc).mem_write(uc, address, data)
    for client in getattr(uc, KEPT, ()):
        client.written(AddressRange(address, len(data)))


def _mem_protect(uc: Uc, address: int, size: int, perms: int = UC_PROT_READ | UC_PROT_WRITE | UC_PROT_EXEC) -> None:
    """The engine's `mem_protect` while it has memory of a space."""
    if perms & UC_PROT_WRITE and _protecting(uc, AddressRange(address, size)):
        how = "give the region another protection with replace_region"
        message = f"Unicorn can't be let write {AddressRange(address, size)}, which the space protects: {how}"
        raise Unsupported(message, feature="writes through a protection", how=how)
    type(uc).mem_protect(uc, address, size, perms)


HEARD: dict[str, Callable[..., Any]] = {
    "ctl": _ctl,
    "mem_protect": _mem_protect,
    "mem_unmap": _mem_unmap,
    "mem_write": _mem_write,
}
"""The engine's methods in whose place others stand while it has memory of a space."""


def _refusal() -> Unsupported:
    how = "use contexts of the processor alone (UC_CTL_CONTEXT_CPU), in a new engine when this one was in that mode"
    message = (
        "Unicorn can't save memory in contexts (UC_CTL_CONTEXT_MEMORY) and follow an address space: it would copy what is "
        f"written, so that both part, and restore what was removed; {how}"
    )
    return Unsupported(message, feature="UC_CTL_CONTEXT_MEMORY", how=how)


def _stop(uc: Uc, error: BaseException) -> int:
    """Lets `emu_start` raise the exception of a handler.

    An exception that leaves a read's callback reaches it too, but not before ctypes has complained that it is not a number.
    """
    if not hasattr(uc, "_hook_exception"):
        raise error
    uc._hook_exception = error  # noqa: SLF001  where Unicorn keeps what a callback raised
    uc.emu_stop()
    return 0


def device_pages(base: AddressSpaceBase) -> set[AddressRange]:
    """The pages of all devices; devices that share a page, or touch, are mapped together."""
    joined: list[AddressRange] = []
    for low, size in base.ranges(AddressSpaceRegionType.DEVICE_MEMORY):
        first, end = low // PAGE * PAGE, -(-(low + size) // PAGE) * PAGE
        if joined and first <= joined[-1].end:
            first = joined.pop().base
        joined.append(AddressRange(first, end - first))
    return set(joined)


def _memory(regions: Iterable[AddressSpaceRegion]) -> list[AddressSpaceRegion]:
    return [region for region in regions if region.region_type is not AddressSpaceRegionType.DEVICE_MEMORY]


def _mapped_ranges(uc: Uc) -> list[AddressRange]:
    """The ranges that an engine has mapped, by address."""
    return sorted(AddressRange(first, last + 1 - first) for first, last, _ in uc.mem_regions())


def _shared(there: list[AddressRange], wanted: AddressRange) -> list[AddressRange]:
    """The parts of a range that are in sorted ones."""
    first = bisect_right(there, wanted.base, key=lambda one: one.end)
    near = takewhile(lambda one: one.base < wanted.end, islice(there, first, None))
    return [shared for one in near if (shared := one.intersect(wanted))]


def _without(part: AddressRange, gone: AddressRange) -> list[AddressRange]:
    ends = (part.base, min(part.end, gone.base)), (max(part.base, gone.end), part.end)
    return [AddressRange(first, end - first) for first, end in ends if first < end]


def _range(region: AddressSpaceRegion) -> AddressRange:
    return AddressRange(region.base, region.size)


def _whole_pages(region: AddressSpaceRegion) -> AddressRange:
    first, end = -(-region.base // PAGE) * PAGE, region.end // PAGE * PAGE
    return AddressRange(first, max(end - first, 0))


def _protection(region: AddressSpaceRegion) -> int:
    """Guests execute what they can read: a region's protection is the host's, which need not execute it."""
    protection = UC_PROT_READ | UC_PROT_EXEC if Prot.READ in region.prot_flags else UC_PROT_NONE
    return int(protection | (UC_PROT_WRITE if Prot.WRITE in region.prot_flags else 0))
