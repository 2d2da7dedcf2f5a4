"""QEMU on the memory of a space, and a space with the map of a running QEMU.

QEMU opens the descriptors through `/proc`, so it must run as the same user; it need not inherit anything.
"""

from __future__ import annotations

import os
import re
from itertools import groupby
from typing import TYPE_CHECKING, Any

from dbs_address_space._core import (
    AddressSpace,
    AddressSpaceLayout,
    AddressSpaceRegion,
    GuestMemory,
    check_type,
    checked_answer,
    checked_int,
    checked_size,
)
from dbs_address_space.errors import InvalidArgument, Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import SupportsIndex

__all__ = ["hotplug_commands", "memory_arguments", "read_space", "space_of_tree", "unplug_commands"]

_LINE = re.compile(r"\s*([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, ([^)]*)\): (.*?)(?: @([0-9a-f]+))?(?: KVM)?\s*$")
_TYPES = {"ram": "ram", "nv-ram": "ram", "rom": "firmware", "romd": "firmware"}
"""QEMU's types of ranges in its flat view, and ours; every other range is a device."""
_END = 1 << 52


def memory_arguments(memory: GuestMemory, *, slots: SupportsIndex = 0, max_size: SupportsIndex | str = 0) -> list[str]:
    """Command-line arguments that make the RAM of a space the RAM of a QEMU machine.

    Regions that are parts of one file, in order and without a gap in the file, are one backend. A single backend is the
    machine's memory, which QEMU lays out itself, with a hole below 4 GiB; each of several is a NUMA node. `slots` and
    `max_size` leave room for `hotplug_commands`. Raises `Unsupported` for RAM that is not shared, or that is not all of its file.
    """
    check_type(memory, GuestMemory, "memory")
    slots, max_size = checked_int(slots, "slots"), checked_size(max_size, "max_size")
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
    check_type(memory, GuestMemory, "memory")
    check_type(region, AddressSpaceRegion, "region")
    mapping = memory.mapping(region.base)
    (shown,) = (shown for shown in memory.vhost_user_regions() if shown.guest_phys_addr == region.base)
    name = _device_name(region)
    backend = _backend(f"memory-{name}", shown.fd, mapping.size)
    device = {"driver": "pc-dimm", "id": name, "memdev": backend["id"], "addr": region.base}
    return [("object-add", backend), ("device_add", device)]


def unplug_commands(region: AddressSpaceRegion) -> list[tuple[str, dict[str, Any]]]:
    """QMP commands that undo `hotplug_commands`: the guest is asked first, and the second has to wait for `DEVICE_DELETED`."""
    check_type(region, AddressSpaceRegion, "region")
    name = _device_name(region)
    return [("device_del", {"id": name}), ("object-del", {"id": f"memory-{name}"})]


def _device_name(region: AddressSpaceRegion) -> str:
    return region.name or f"dimm-{region.base:x}"


def read_space(execute: Callable[[str, dict[str, Any]], Any]) -> AddressSpace:
    """The map of a running QEMU, unmapped: regions as its flat view has them, memory devices by their own names.

    `execute(command, arguments)` sends a QMP command and returns its result. Raises `TypeError` for one that returns a coroutine.
    """
    if not callable(execute):
        raise TypeError(f"execute must be a function that sends a QMP command, not {type(execute).__name__}")
    tree = checked_answer(execute("human-monitor-command", {"command-line": "info mtree -f"}), "execute")
    listed = checked_answer(execute("query-memory-devices", {}), "execute")
    devices = [device["data"] for device in listed]
    return space_of_tree(tree, {device["addr"]: device["id"] for device in devices if device.get("id")})


def space_of_tree(text: str, names: dict[int, str] | None = None) -> AddressSpace:
    """A space from what `info mtree -f` prints; `names` are those of memory devices, which are hotplugged, by their address.

    RAM, ROM and other ranges become `ram`, `firmware` and `device` regions. A name that QEMU gives several ranges is numbered.
    """
    check_type(text, str, "text")
    check_type(names or {}, dict, "names")
    names = names or {}
    regions: list[AddressSpaceRegion] = []
    seen: dict[str, int] = {}
    for base, end, theirs, name in _flat_view(text):
        label = names.get(base, name)
        seen[label] = seen.get(label, 0) + 1
        unique = label if seen[label] == 1 else f"{label}#{seen[label]}"
        kind, plugged = _TYPES.get(theirs, "device"), base in names
        regions.append(AddressSpaceRegion(kind, base, end - base, name=unique, is_hotplug=plugged))
    return AddressSpace.from_regions(regions, _layout(regions))


def _flat_view(text: str) -> list[tuple[int, int, str, str]]:
    """The ranges of the address space named memory: base, exclusive end, kind, name."""
    for view in re.split(r"^FlatView ", text, flags=re.MULTILINE):
        if re.search(r'^ AS "memory"', view, flags=re.MULTILINE):
            found = [match for line in view.splitlines() if (match := _LINE.match(line))]
            return [(int(match[1], 16), int(match[2], 16) + 1, match[3], match[4]) for match in found]
    raise InvalidArgument("this is not what info mtree -f prints: it has no address space named memory")


def _layout(regions: list[AddressSpaceRegion]) -> AddressSpaceLayout:
    """Devices between the RAM get windows; those behind it need none."""
    ram_end = max((region.end for region in regions if region.region_type.value == "ram"), default=0)
    devices = [region for region in regions if region.region_type.value == "device" and region.base < ram_end]
    return AddressSpaceLayout(_END, 0, ram_end, mmio_windows=[(region.base, region.size) for region in devices])
