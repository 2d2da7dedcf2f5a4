"""QEMU's command line: what it says of memory, nodes and processors, after QEMU's documentation of its options."""

from __future__ import annotations

import json
import re
import shlex
from decimal import Decimal
from itertools import pairwise, product

from dbs_address_space._core import Hotplug, NumaPolicy, NumaRegionInfo
from dbs_address_space.enums import MapFlags

from .planned import (
    HUGE_PAGE,
    MANY,
    Described,
    Dimm,
    checked,
    machine_name,
    number_of,
    numbers_of,
    unsupported,
    zones_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from dbs_address_space._core import AddressSpace, AddressSpacePlan, AddressSpaceRegion

    from .source import Source

__all__ = ["arguments", "described", "read"]

SIZE = re.compile(r"(0x[0-9a-f]+|\d+(?:\.\d+)?)([bkmgtpe]?)", re.IGNORECASE)
UNITS = {unit: 1 << 10 * power for power, unit in enumerate("bkmgtpe")}
MIB = 1 << 20
MOST_DIGITS = 32
FILE, MEMFD, RAM = (f"memory-backend-{kind}" for kind in ("file", "memfd", "ram"))
OBJECTS = {None: FILE, "hugetlbfs": FILE, "shmem": MEMFD, "hugeshmem": MEMFD, "mmap": RAM}
"""QEMU's object for each source of memory."""


def read(source: Source) -> AddressSpace:
    """An unmapped space with the RAM of the machine, where QEMU puts it, and its DIMMs."""
    return described(source).space(source)


def described(source: Source) -> Described:
    """The machine of a command line, as a text or with zeroes between, as `/proc/PID/cmdline` is."""
    return _Line(source).described()


class _Line:
    """The options of a command line that tell of memory, each with its values."""

    def __init__(self, source: Source) -> None:
        text = source.text()
        try:
            self.words = text.split("\0") if "\0" in text else shlex.split(text.replace("\\\n", " "))
        except ValueError as error:
            raise source.error(f"not a command line: {error}") from error
        self.source = source
        self.objects = {}
        for value in self.all("object"):
            options = self.pairs(value, "qom-type")
            self.objects[_last(options, "id")] = options

    def all(self, *names: str) -> list[str]:
        """The values of an option, in their order."""
        return [value for name, value in pairwise(self.words) if name.lstrip("-") in names and name.startswith("-")]

    def merged(self, implied: str, *names: str) -> dict[str, list[str]]:
        """The keys of an option that may be given more than once."""
        return self.pairs(",".join(self.all(*names)), implied)

    def pairs(self, text: str, implied: str) -> dict[str, list[str]]:
        """Keys and values, of which the first may lack the key; two commas are one in a value. Or JSON."""
        found: dict[str, list[str]] = {}
        if text.startswith("{"):
            return {key: [_plain(part) for part in _listed(value)] for key, value in self.json(text).items()}
        for number, part in enumerate(text.replace(",,", "\0").split(",")):
            key, equals, value = part.replace("\0", ",").partition("=")
            key, value = (key, value) if equals else (implied, key) if not number else (key, "on")
            if key:
                found.setdefault(key, []).append(value)
        return found

    def json(self, text: str) -> dict[str, Any]:
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.source.error(f"not JSON: {text[:40]!r}: {error}") from error
        if not isinstance(content, dict):
            raise self.source.error(f"JSON that is not an object: {text[:40]!r}")
        return content

    def size(self, text: str, unit: int = 1) -> int:
        """A size with a unit, or in that one."""
        match = SIZE.fullmatch(text)
        if match is None:
            raise self.source.error(f"{text!r} is not a size")
        number, scale = match[1], UNITS[match[2].lower()] if match[2] else unit
        if len(number) > MOST_DIGITS:
            raise self.source.error(f"{text!r} is too large")
        # By fractions of a unit; in hexadecimal there are none.
        return int(number, 16) * scale if number.lower().startswith("0x") else int(Decimal(number) * scale)

    def number(self, text: str, default: int = 0) -> int:
        return number_of(self.source, text) if text else default

    def described(self) -> Described:
        machine = self.merged("type", "machine", "M")
        arch = "aarch64" if "aarch64" in self.words[0] else "x86_64"
        name = machine_name(self.source, _last(machine, "type") or ("virt" if arch == "aarch64" else "pc"))
        memory = self.merged("size", "m")
        options: dict[str, Any] = {"arch": arch, "numa_regions": self.zones(machine, memory)}
        if "maxmem" in memory:
            maximum, slots = self.size(_last(memory, "maxmem"), MIB), self.number(_last(memory, "slots"))
            options["hotplug"] = checked(self.source, Hotplug, maximum, slots)
        bits = _last(self.merged("model", "cpu"), "phys-bits")
        if bits:
            options["phys_bits"] = self.number(bits)
        return Described(name, options, tuple(self.dimms()))

    def numa(self, kind: str) -> list[dict[str, list[str]]]:
        """The `-numa` options of a kind: `node`, `cpu`."""
        found = (self.pairs(value, "type") for value in self.all("numa"))
        return [options for options in found if _last(options, "type") == kind]

    def zones(self, machine: dict[str, list[str]], memory: dict[str, list[str]]) -> list[NumaRegionInfo]:
        nodes = self.numa("node")
        size = self.size(_last(memory, "size") or "128M", MIB)
        if not nodes:
            backend = _last(machine, "memory-backend")
            return [checked(self.source, NumaRegionInfo, size, **(self.zone(backend) if backend else self.plain()))]
        vcpus = self.vcpus()
        zones = []
        for position, options in enumerate(nodes):
            node = self.number(_last(options, "nodeid"), position)
            backend, mem = _last(options, "memdev"), _last(options, "mem")
            own = self.size(_last(self.backend(backend), "size")) if backend else self.size(mem, MIB) if mem else 0
            ids = [vcpu for text in options.get("cpus", []) for vcpu in numbers_of(self.source, text)]
            ids += vcpus.get(node, [])
            kind = self.zone(backend) if backend else {}
            zones.append(checked(self.source, NumaRegionInfo, own, None, node, ids, **kind))
        found = sum(zone.size for zone in zones)
        if found != size:
            raise self.source.error(f"the nodes have {found:#x} bytes, and -m says {size:#x}")
        # QEMU gives them addresses in the order of their numbers.
        return sorted(zones, key=lambda zone: zone.guest_numa_node_id or 0)

    def plain(self) -> dict[str, Any]:
        """The memory of a machine without a backend object."""
        path = self.all("mem-path")
        prefault = {"prefault": True} if "-mem-prealloc" in self.words else {}
        return {"file": path[-1], "shared": False, **prefault} if path else {"mem_type": "mmap", **prefault}

    def backend(self, name: str) -> dict[str, list[str]]:
        if name not in self.objects:
            raise self.source.error(f"there is no -object with id={name}")
        backend = self.objects[name]
        if _last(backend, "qom-type") not in (FILE, MEMFD, RAM):
            kind = _last(backend, "qom-type")
            raise self.source.error(
                f"the object {name!r} is {kind!r}: only memory-backend-ram, -memfd and -file are read"
            )
        return backend

    def zone(self, name: str) -> dict[str, Any]:
        """The options of a zone, of a backend object."""
        backend = self.backend(name)
        kind, shared = _last(backend, "qom-type"), _last(backend, "share")
        zone: dict[str, Any] = {"name": name}
        if kind == FILE:
            zone.update(file=_last(backend, "mem-path"), shared=shared == "on")
        elif kind == MEMFD and _last(backend, "hugetlb") == "on":
            zone["mem_type"] = "hugemmap" if shared == "off" else "hugeshmem"
            if size := _last(backend, "hugetlbsize"):
                zone["page_size"] = self.size(size)
        else:
            is_shared = shared != "off" if kind == MEMFD else shared == "on"
            zone["mem_type"] = "shmem" if is_shared else "mmap"
        if _last(backend, "prealloc") == "on":
            zone["prefault"] = True
        nodes = [node for text in backend.get("host-nodes", []) for node in numbers_of(self.source, text)]
        if nodes:
            zone["policy"] = checked(self.source, NumaPolicy, _last(backend, "policy") or "default", nodes)
        return zone

    def vcpus(self) -> dict[int, list[int]]:
        """The processors of each node by `-numa cpu`, which names them by socket, core and thread."""
        smp = self.merged("cpus", "smp")
        # QEMU makes cores of the rest, since version 6.2.
        counts = {key: self.number(_last(smp, key)) for key in ("cpus", "maxcpus", "sockets", "cores", "threads")}
        sockets, threads = counts["sockets"] or 1, counts["threads"] or 1
        cores = counts["cores"] or max((counts["maxcpus"] or counts["cpus"] or 1) // (sockets * threads), 1)
        if sockets * cores * threads > MANY:
            raise self.source.error(f"-smp has {sockets * cores * threads} processors: {MANY} at most are read")
        found: dict[int, list[int]] = {}
        for options in self.numa("cpu"):
            ids = [_last(options, key) for key in ("socket-id", "core-id", "thread-id")]
            ranges = [
                range(self.number(one), self.number(one) + 1) if one else range(count)
                for one, count in zip(ids, (sockets, cores, threads), strict=True)
            ]
            numbers = ((socket * cores + core) * threads + thread for socket, core, thread in product(*ranges))
            found.setdefault(self.number(_last(options, "node-id")), []).extend(numbers)
        return found

    def dimms(self) -> Iterator[Dimm]:
        for options in (self.pairs(value, "driver") for value in self.all("device")):
            driver = _last(options, "driver")
            if driver in ("pc-dimm", "nvdimm") or driver.startswith(("virtio-mem", "virtio-pmem")):
                backend = _last(options, "memdev")
                size = self.size(_last(self.backend(backend), "size"))
                base = _last(options, "addr" if driver in ("pc-dimm", "nvdimm") else "memaddr")
                align = self.size(_last(self.backend(backend), "hugetlbsize") or "2M")
                yield Dimm(
                    _last(options, "id") or backend, size, self.size(base) if base else None, max(align, HUGE_PAGE)
                )


def _last(options: dict[str, list[str]], key: str) -> str:
    """The last value of a key, which counts for QEMU; empty where there is none."""
    return options.get(key, [""])[-1]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _plain(value: Any) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def arguments(plan: AddressSpacePlan) -> list[str]:
    """The arguments of a QEMU whose machine, memory, nodes and processors are those of a plan; the memory is QEMU's own.

    Each guest node is one backend object: a node of several zones is `Unsupported`, and so are private huge pages,
    `hotplug_size`, generic initiators, and machines that are not QEMU's. `adapters.qemu.memory_arguments` is for the memory of
    a space. Raises `InvalidPlan` for a plan with problems.

    >>> from dbs_address_space import AddressSpaceBuilder
    >>> arguments(AddressSpaceBuilder("q35", numa_regions=["4GiB"]).plan())[:4]
    ['-machine', 'q35,memory-backend=ram0', '-m', 'size=4194304K']
    """
    zones = zones_of(plan)
    (machine,), _ = plan.builder.__getnewargs_ex__()
    objects = [part for zone, region in zones if region for part in ("-object", _object(region, zone.size))]
    hotplug = plan.hotplug
    room = f",slots={hotplug.slots},maxmem={hotplug.max_memory >> 10}K" if hotplug else ""
    memory = ["-m", f"size={sum(zone.size for zone, _ in zones) >> 10}K{room}"]
    (first, region), *others = zones
    if region and not others and not first.vcpu_ids:
        return ["-machine", f"{machine.name},memory-backend={region.name}", *memory, *objects]
    vcpus = sum(len(zone.vcpu_ids) for zone, _ in zones)
    nodes = [part for zone, region in zones for part in ("-numa", _node(zone, region))]
    return ["-machine", machine.name, *memory, *(["-smp", str(vcpus)] if vcpus else []), *objects, *nodes]


def _node(zone: NumaRegionInfo, region: AddressSpaceRegion | None) -> str:
    memory = f",memdev={region.name}" if region else ""
    return f"node,nodeid={zone.guest_numa_node_id or 0}{memory}" + "".join(f",cpus={vcpu}" for vcpu in zone.vcpu_ids)


def _object(region: AddressSpaceRegion, size: int) -> str:
    """The backend object of a zone, of its first region."""
    kind = region.mem_type and region.mem_type.value
    if kind == "hugemmap":
        raise unsupported(f"private huge pages of {region}", 'plan it with mem_type="hugeshmem"')
    options = {"id": region.name, "size": f"{size >> 10}K"}
    shared = "on" if region.perm_flags & MapFlags.SHARED else "off"
    if kind in (None, "hugetlbfs"):
        options.update({"mem-path": region.mem_file_path, "share": shared})
    if kind == "hugeshmem":
        options["hugetlb"] = "on"
        if region.page_size:
            options["hugetlbsize"] = f"{region.page_size >> 10}K"
    if region.perm_flags & MapFlags.POPULATE:
        options["prealloc"] = "on"
    policy = region.backing.policy
    if policy and policy.nodes:
        options["policy"] = policy.mode
    keys = [f"{key}={value.replace(',', ',,')}" for key, value in options.items() if value]
    nodes = [f"host-nodes={node}" for node in policy.nodes] if policy else []
    return ",".join([OBJECTS[kind], *keys, *nodes])
