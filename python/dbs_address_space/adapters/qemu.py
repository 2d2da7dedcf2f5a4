"""QEMU on the memory of a space, and a space with the map of a running QEMU.

QEMU opens the descriptors through `/proc`, so it must run as the same user; it need not inherit anything.
"""

from __future__ import annotations

import os
import re
from itertools import groupby
from typing import TYPE_CHECKING, Any

from dbs_address_space._core import AddressSpace, AddressSpaceLayout, AddressSpaceRegion, checked_answer, checked_range
from dbs_address_space.adapters._qemu_map import END, flat_view, unique_name
from dbs_address_space.adapters._qemu_space import QemuSpace, open_space, open_space_async, ram_names, run_steps
from dbs_address_space.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import SupportsIndex

    from dbs_address_space._core import GuestMemory

__all__ = [
    "QemuSpace",
    "hotplug_commands",
    "memory_arguments",
    "open_space",
    "open_space_async",
    "read_space",
    "space_of_tree",
    "unplug_commands",
]

_VIDEO = re.compile(r"\b(vram|ram_bar|vgamem|framebuffer)\b|\.vram")
_TYPES = {"ram": "ram", "nv-ram": "ram", "rom": "firmware", "romd": "firmware"}
"""QEMU's types of ranges in its flat view, and ours; every other range is a device."""


def memory_arguments(memory: GuestMemory, *, slots: SupportsIndex = 0, max_size: SupportsIndex | str = 0) -> list[str]:
    """Command-line arguments that make the RAM of a space the RAM of a QEMU machine.

    Regions that are parts of one file, in order and without a gap in the file, are one backend. A single backend is the
    machine's memory, which QEMU lays out itself, with a hole below 4 GiB; each of several is a NUMA node. `slots` and
    `max_size` leave room for `hotplug_commands`. Raises `Unsupported` for RAM that is not shared, or that is not all of its file.
    """
    slots, max_size = checked_range(slots, max_size)
    backends = _backends(memory)
    room = f",slots={slots},maxmem={max_size >> 10}K" if slots else ""
    arguments = ["-m", f"size={sum(size for _, size in backends) >> 10}K{room}"]
    for number, (fd, size) in enumerate(backends):
        options = _backend(f"ram{number}", fd, size)
        kind = options.pop("qom-type")
        arguments += ["-object", ",".join([kind, *(f"{key}={_text(value)}" for key, value in options.items())])]
        if len(backends) > 1:
            arguments += ["-numa", f"node,nodeid={number},memdev=ram{number}"]
    # QEMU refuses memory-backend= beside NUMA nodes that have a memdev.
    return arguments if len(backends) > 1 else [*arguments, "-machine", "memory-backend=ram0"]


def _backends(memory: GuestMemory) -> list[tuple[int, int]]:
    """A descriptor and a size for each file behind the RAM."""
    found = []
    for _, parts in groupby(memory.vhost_user_regions(), key=lambda region: _identity(region.fd)):
        regions = list(parts)
        reached = 0
        for region in regions:
            if region.mmap_offset != reached:
                raise Unsupported(
                    f"QEMU takes all of a file: the RAM at {region.guest_phys_addr:#x} begins at {region.mmap_offset:#x}",
                    feature="part of a file",
                    how="give the RAM files of its own, or regions that follow each other in one file",
                )
            reached += region.memory_size
        found.append((regions[0].fd, reached))
    return found


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _backend(name: str, fd: int, size: int) -> dict[str, Any]:
    path = f"/proc/{os.getpid()}/fd/{fd}"
    return {"qom-type": "memory-backend-file", "id": name, "size": size, "mem-path": path, "share": True}


def _text(value: object) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def hotplug_commands(memory: GuestMemory, region: AddressSpaceRegion) -> list[tuple[str, dict[str, Any]]]:
    """QMP commands, each with its arguments, that plug a named region of a mapped space into a running QEMU as a pc-dimm.

    The machine must have been started with room for it. Raises `UnmappedAddress` for a region that is not mapped,
    `Unsupported` for one that is not shared.
    """
    mapping = memory.mapping(region.base)
    (shown,) = (shown for shown in memory.vhost_user_regions() if shown.guest_phys_addr == region.base)
    name = _device_name(region)
    backend = _backend(f"memory-{name}", shown.fd, mapping.size)
    device = {"driver": "pc-dimm", "id": name, "memdev": backend["id"], "addr": region.base}
    return [("object-add", backend), ("device_add", device)]


def unplug_commands(region: AddressSpaceRegion) -> list[tuple[str, dict[str, Any]]]:
    """QMP commands that undo `hotplug_commands`: the guest is asked first, and the second has to wait for `DEVICE_DELETED`."""
    name = _device_name(region)
    return [("device_del", {"id": name}), ("object-del", {"id": f"memory-{name}"})]


def _device_name(region: AddressSpaceRegion) -> str:
    return region.name or f"dimm-{region.base:x}"


def read_space(execute: Callable[[str, dict[str, Any]], Any]) -> AddressSpace:
    """The map of a running QEMU, unmapped: regions as its flat view has them, memory devices by their own names.

    `execute(command, arguments)` sends a QMP command and returns its result. Raises `TypeError` for one that returns a coroutine.
    """
    tree = checked_answer(execute("human-monitor-command", {"command-line": "info mtree -f"}), "execute")
    listed = checked_answer(execute("query-memory-devices", {}), "execute")
    devices = [device["data"] for device in listed]
    names = {device["addr"]: device["id"] for device in devices if device.get("id") and "addr" in device}
    return space_of_tree(tree, names, ram=run_steps(ram_names(), execute))


def space_of_tree(
    text: str, names: dict[int, str] | None = None, *, ram: Collection[str] | None = None
) -> AddressSpace:
    """A space from what `info mtree -f` prints; `names` are those of memory devices, which are hotplugged, by their address.

    RAM, ROM and other ranges become `ram`, `firmware` and `device` regions. A range that does not show the begin of something has
    the offset in its name, as `ram0@0x100000`. QEMU prints video memory and what devices share as RAM, too: `ram` has the names
    of what is RAM; without it, only what is named as video memory is a device.
    """
    names = names or {}
    regions: list[AddressSpaceRegion] = []
    seen: set[str] = set()
    for base, size, theirs, name, offset in flat_view(text):
        unique, plugged = unique_name(names.get(base, name), offset, seen), base in names
        is_ram = plugged or (name in ram if ram is not None else not _VIDEO.search(name))
        kind = "device" if theirs == "ram" and not is_ram else _TYPES.get(theirs, "device")
        regions.append(AddressSpaceRegion(kind, base, size, name=unique, is_hotplug=plugged))
    return AddressSpace.from_regions(regions, _layout(regions))


def _layout(regions: list[AddressSpaceRegion]) -> AddressSpaceLayout:
    """Devices between the RAM get windows; those behind it need none."""
    ram_end = max((region.end for region in regions if region.region_type.value == "ram"), default=0)
    devices = [region for region in regions if region.region_type.value == "device" and region.base < ram_end]
    return AddressSpaceLayout(END, 0, ram_end, mmio_windows=[(region.base, region.size) for region in devices])
