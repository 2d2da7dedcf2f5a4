"""QEMU on the memory of a space, and a space with the map of a running QEMU.

QEMU opens the descriptors through `/proc`, so it must run as the same user; it need not inherit anything.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Collection
from itertools import accumulate, chain, groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from dbs_address_space._core import (
    AddressSpace,
    AddressSpaceLayout,
    AddressSpacePlan,
    AddressSpaceRegion,
    GuestMemory,
    check_type,
    checked_answer,
    checked_int,
    checked_size,
)
from dbs_address_space.adapters._qemu_map import END, flat_view, unique_name
from dbs_address_space.adapters._qemu_space import (
    QemuSpace,
    check_execute,
    open_space,
    open_space_async,
    ram_names,
    run_steps,
)
from dbs_address_space.enums import MemorySourceType
from dbs_address_space.errors import Unsupported
from dbs_address_space.formats.planned import refuse_generic_initiators

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import SupportsIndex

__all__ = [
    "QemuSpace",
    "hotplug_commands",
    "memory_arguments",
    "open_space",
    "open_space_async",
    "read_space",
    "space_of_plan",
    "space_of_tree",
    "unplug_commands",
]

_VIDEO = re.compile(r"\b(vram|ram_bar|vgamem|framebuffer)\b|\.vram")
_TYPES = {"ram": "ram", "nv-ram": "ram", "rom": "firmware", "romd": "firmware"}
"""QEMU's types of ranges in its flat view, and ours; every other range is a device."""


class _Backend(NamedTuple):
    """A file behind RAM, and the regions that follow each other in it, by base and size."""

    descriptor: int
    regions: tuple[tuple[int, int], ...]

    @property
    def size(self) -> int:
        """Bytes of all its regions."""
        return sum(size for _, size in self.regions)


def space_of_plan(plan: AddressSpacePlan) -> AddressSpace:
    """A mapped space of a plan, in which the RAM of each NUMA node is one file, as `memory_arguments` needs it.

    The regions of a node that has several are parts of one memfd, at rising offsets. Raises `Unsupported` for such a node whose
    memory is not `"shmem"`, and what `map_memory` raises.
    """
    check_type(plan, AddressSpacePlan, "plan")
    regions = {region.base: region for region in plan.regions}
    for node in plan.numa_nodes.values():
        if len(node.region_infos) > 1:
            regions.update(_in_one_file([regions[info.base] for info in node.region_infos]))
    space = AddressSpace.from_regions(list(regions.values()), plan.layout)
    space.map_memory()
    return space


def _in_one_file(regions: list[AddressSpaceRegion]) -> dict[int, AddressSpaceRegion]:
    for region in regions:
        if region.mem_type is not MemorySourceType.MEMFD_SHARED:
            raise Unsupported(
                f"{region} is a part of a NUMA node, whose parts must be one file of small pages",
                feature="parts of one file",
                how='plan it with mem_type="shmem", or give each node one region',
            )
    descriptor = os.memfd_create(regions[0].name or "node", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, sum(region.size for region in regions))
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        offsets = accumulate((region.size for region in regions), initial=0)
        parts = zip(regions, offsets, strict=False)
        return {
            region.base: region.replace(mem_type=None, file=descriptor, file_offset=offset) for region, offset in parts
        }
    finally:
        os.close(descriptor)


def memory_arguments(
    memory: GuestMemory,
    *,
    slots: SupportsIndex = 0,
    max_size: SupportsIndex | str = 0,
    plan: AddressSpacePlan | None = None,
) -> list[str]:
    """Command-line arguments that make the RAM of a space the RAM of a QEMU machine.

    Regions that are parts of one file, in order and without a gap in the file, are one backend. A single backend is the
    machine's memory, which QEMU lays out itself, with a hole below 4 GiB; each of several is a NUMA node. With the `plan` that
    the space was made of by `space_of_plan`, nodes and processors are those of the plan. `slots` and `max_size` leave room for
    `hotplug_commands`. Raises `Unsupported` for RAM that is not shared, or not all of its file, for nodes that are not
    one file each, by ascending addresses, and for generic initiators.
    """
    check_type(memory, GuestMemory, "memory")
    slots, max_size = checked_int(slots, "slots"), checked_size(max_size, "max_size")
    if plan is not None:
        check_type(plan, AddressSpacePlan, "plan")
    backends = _backends(memory)
    room = f",slots={slots},maxmem={max_size >> 10}K" if slots else ""
    arguments = ["-m", f"size={sum(backend.size for backend in backends) >> 10}K{room}"]
    for number, backend in enumerate(backends):
        options = _backend(f"ram{number}", backend.descriptor, backend.size)
        kind = options.pop("qom-type")
        arguments += ["-object", ",".join([kind, *(f"{key}={_text(value)}" for key, value in options.items())])]
    if plan is not None and plan.numa_nodes:
        return arguments + _planned_nodes(backends, plan)
    if len(backends) > 1:
        nodes = (["-numa", f"node,nodeid={number},memdev=ram{number}"] for number in range(len(backends)))
        return arguments + list(chain.from_iterable(nodes))
    # QEMU refuses memory-backend= beside NUMA nodes that have a memdev.
    return [*arguments, "-machine", "memory-backend=ram0"]


def _planned_nodes(backends: list[_Backend], plan: AddressSpacePlan) -> list[str]:
    """The NUMA nodes of a plan; QEMU gives them addresses in the order of their numbers."""
    refuse_generic_initiators(plan.numa_nodes.values())
    arguments: list[str] = []
    left = dict(enumerate(backends))
    for node, parts in sorted(plan.numa_nodes.items()):
        text = f"node,nodeid={node}"
        if parts.region_infos:
            number, backend = next(iter(left.items()), (0, _Backend(-1, ())))
            if backend.regions != tuple((info.base, info.size) for info in parts.region_infos):
                raise Unsupported(
                    f"the RAM of node {node}, from {parts.region_infos[0].base:#x} on, is not one file behind those before",
                    feature="a NUMA node of several files",
                    how="make the space by space_of_plan(plan), of nodes that ascend with their addresses",
                )
            del left[number]
            text += f",memdev=ram{number}"
        arguments += ["-numa", text + "".join(f",cpus={vcpu}" for vcpu in parts.vcpu_ids)]
    if left:
        (base, _), *_ = next(iter(left.values())).regions
        raise Unsupported(
            f"the RAM at {base:#x} is in no node of the plan", feature="RAM without a node", how="plan it"
        )
    vcpus = sum(len(parts.vcpu_ids) for parts in plan.numa_nodes.values())
    return [*arguments, "-smp", str(vcpus)] if vcpus else arguments


def _backends(memory: GuestMemory) -> list[_Backend]:
    """The files behind the RAM, each of them all."""
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
        found.append(_Backend(regions[0].fd, tuple((region.guest_phys_addr, region.memory_size) for region in regions)))
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
    check_execute(execute)
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
    check_type(text, str, "text")
    check_type(names or {}, dict, "names")
    # A text would have every part of itself.
    if ram is not None and (isinstance(ram, str) or not isinstance(ram, Collection)):
        raise TypeError(f"ram must be a Collection of names, such as a set, not {type(ram).__name__}")
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
