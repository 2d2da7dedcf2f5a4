"""Domains of libvirt as XML: their memory, nodes and processors, after libvirt's documentation of its format."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from dbs_address_space._core import Hotplug, NumaPolicy, NumaRegionInfo
from dbs_address_space.enums import MapFlags, MemorySourceType

from .planned import HUGE_PAGE, Described, Dimm, checked, machine_name, number_of, numbers_of, unsupported, zones_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from dbs_address_space._core import AddressSpace, AddressSpacePlan, AddressSpaceRegion

    from .source import Source

    Zones = list[tuple[NumaRegionInfo, AddressSpaceRegion | None]]

__all__ = ["described", "read", "xml"]

KIB = 1 << 10
UNITS: dict[str, int] = {
    **dict.fromkeys(("b", "bytes"), 1),
    **{f"{unit}b": 1000**power for power, unit in enumerate("kmgtpe", 1)},
    **{f"{unit}{end}": 1 << 10 * power for power, unit in enumerate("kmgtpe", 1) for end in ("", "ib")},
}
MODES = {"strict": "bind", "preferred": "preferred", "interleave": "interleave", "restrictive": "bind"}
"""Our policies by libvirt's modes."""
THEIRS = {"bind": "strict", "preferred": "preferred", "interleave": "interleave"}
ACCESS = {True: "shared", False: "private"}


def read(source: Source) -> AddressSpace:
    """An unmapped space with the RAM of the machine, where QEMU puts it, and its memory devices."""
    return described(source).space(source)


def described(source: Source) -> Described:
    """The machine of a domain."""
    text = source.text()
    if re.search(r"<!(DOCTYPE|ENTITY)", text):
        raise source.error("it has declarations, which no domain has")
    try:
        root = ET.fromstring(text)  # noqa: S314  without declarations there is nothing to expand
    except ET.ParseError as error:
        line, column = error.position
        raise source.error(f"not XML: {error.msg} (column {column})", line=line) from error
    if root.tag != "domain":
        raise source.error(f"it is a <{root.tag}>, not a <domain>")
    return _Domain(source, root).described()


class _Domain:
    """The elements of a domain that tell of memory."""

    def __init__(self, source: Source, root: ET.Element) -> None:
        self.source, self.root = source, root

    def size(self, element: ET.Element | None, what: str) -> int:
        """The bytes of an element with a unit, KiB where it has none."""
        text = (element.text or "").strip() if element is not None else ""
        unit = element.get("unit", "KiB") if element is not None else ""
        return self.scaled(text, unit, what)

    def scaled(self, text: str, unit: str, what: str) -> int:
        if unit.lower() not in UNITS:
            raise self.source.error(f"{what}: {unit!r} is not a unit of sizes")
        return number_of(self.source, text) * UNITS[unit.lower()]

    def described(self) -> Described:
        kind = self.root.find("os/type")
        theirs = kind.get("machine", "pc") if kind is not None else "pc"
        arch = kind.get("arch", "x86_64") if kind is not None else "x86_64"
        dimms = tuple(self.dimms())
        total = self.size(self.root.find("memory"), "<memory>")
        # What is plugged in at the start counts, but is not in a cell.
        size = total - sum(dimm.size for dimm in dimms) if self.cells() else total
        options: dict[str, Any] = {"arch": arch, "numa_regions": self.zones(size)}
        maximum = self.root.find("maxMemory")
        if maximum is not None:
            slots = maximum.get("slots", "0")
            options["hotplug"] = checked(self.source, Hotplug, self.size(maximum, "<maxMemory>"), self.number(slots))
        address = self.root.find("cpu/maxphysaddr")
        if address is not None and address.get("bits"):
            options["phys_bits"] = self.number(address.get("bits", ""))
        return Described(machine_name(self.source, theirs), options, dimms)

    def number(self, text: str) -> int:
        return number_of(self.source, text)

    def cells(self) -> list[ET.Element]:
        return self.root.findall("cpu/numa/cell")

    def zones(self, size: int) -> list[NumaRegionInfo]:
        cells = self.cells()
        if not cells:
            return [checked(self.source, NumaRegionInfo, size, **self.zone(None, None))]
        zones = []
        for position, cell in enumerate(cells):
            node = self.number(cell.get("id", str(position)))
            own = self.scaled(cell.get("memory", "0"), cell.get("unit", "KiB"), f"cell {node}")
            cpus = numbers_of(self.source, cell.get("cpus", "")) if cell.get("cpus") else []
            zones.append(checked(self.source, NumaRegionInfo, own, None, node, cpus, **self.zone(node, cell)))
        if sum(zone.size for zone in zones) != size:
            found = sum(zone.size for zone in zones)
            raise self.source.error(f"the cells have {found:#x} bytes, and <memory> without its devices {size:#x}")
        return zones

    def zone(self, node: int | None, cell: ET.Element | None) -> dict[str, Any]:
        """The options of the memory of a cell, or of all of it."""
        backing = self.root.find("memoryBacking")
        page_size = self.page_size(node)
        access = cell.get("memAccess") if cell is not None else None
        default = backing.find("access") if backing is not None else None
        mode = access or (default.get("mode", "private") if default is not None else None)
        source = backing.find("source") if backing is not None else None
        kind = source.get("type", "anonymous") if source is not None else "anonymous"
        is_shared = mode == "shared" or (mode is None and kind == "memfd")
        zone: dict[str, Any] = {"mem_type": ("huge" if page_size else "") + ("shmem" if is_shared else "mmap")}
        if page_size:
            zone["page_size"] = page_size
        allocation = backing.find("allocation") if backing is not None else None
        if allocation is not None and allocation.get("mode") == "immediate":
            zone["prefault"] = True
        return {**zone, **self.policy(node)}

    def page_size(self, node: int | None) -> int | None:
        """The size of a cell's huge pages; 2 MiB where pages have no size."""
        pages = self.root.find("memoryBacking/hugepages")
        if pages is None:
            return None
        for page in pages.findall("page"):
            nodes = page.get("nodeset")
            if nodes is None or node in numbers_of(self.source, nodes):
                return self.scaled(page.get("size", ""), page.get("unit", "KiB"), "a <page>")
        return None if pages.findall("page") else HUGE_PAGE

    def policy(self, node: int | None) -> dict[str, Any]:
        own = (one for one in self.root.findall("numatune/memnode") if one.get("cellid") == str(node))
        tune = next(own, self.root.find("numatune/memory"))
        if tune is None or tune.get("nodeset") is None:
            return {}
        mode = tune.get("mode", "strict")
        if mode not in MODES:
            raise self.source.error(f"numatune: mode {mode!r} is not one of {', '.join(MODES)}")
        nodes = numbers_of(self.source, tune.get("nodeset", ""))
        return {"policy": checked(self.source, NumaPolicy, MODES[mode], nodes)}

    def dimms(self) -> Iterator[Dimm]:
        for number, device in enumerate(self.root.findall("devices/memory")):
            size = self.size(device.find("target/size"), f"memory device {number}")
            page = device.find("source/pagesize")
            align = self.size(page, "<pagesize>") if page is not None else HUGE_PAGE
            address = device.find("address")
            base = address.get("base") if address is not None else None
            alias = device.find("alias")
            name = alias.get("name") if alias is not None else f"{device.get('model', 'dimm')}{number}"
            try:
                place = None if base is None else int(base, 0)
            except ValueError as error:
                raise self.source.error(f"memory device {number}: base {base!r} is not an address") from error
            yield Dimm(name, size, place, max(align, HUGE_PAGE))


def xml(plan: AddressSpacePlan, *, name: str = "guest") -> str:
    """The domain of libvirt whose machine, memory, nodes and processors are those of a plan, for more elements to be added.

    A guest node of several zones, one over a file, `hotplug_size`, generic initiators, and zones that differ in what libvirt has
    for all of them, populating and the kind of source, are `Unsupported`. Raises `InvalidPlan` for a plan with problems.

    >>> from dbs_address_space import AddressSpaceBuilder
    >>> print(xml(AddressSpaceBuilder("q35", numa_regions=["4GiB"]).plan()))
    <domain type="kvm">
      <name>guest</name>
      <memory unit="KiB">4194304</memory>
      <vcpu>1</vcpu>
      <os>
        <type arch="x86_64" machine="q35">hvm</type>
      </os>
      <memoryBacking>
        <source type="memfd" />
        <access mode="shared" />
      </memoryBacking>
    </domain>
    """
    zones = zones_of(plan)
    (machine,), _ = plan.builder.__getnewargs_ex__()
    root = ET.Element("domain", type="kvm")
    ET.SubElement(root, "name").text = name
    hotplug = plan.hotplug
    if hotplug:
        slots = ET.SubElement(root, "maxMemory", slots=str(hotplug.slots), unit="KiB")
        slots.text = str(hotplug.max_memory // KIB)
    ET.SubElement(root, "memory", unit="KiB").text = str(sum(zone.size for zone, _ in zones) // KIB)
    vcpus = sum(len(zone.vcpu_ids) for zone, _ in zones)
    ET.SubElement(root, "vcpu").text = str(max(vcpus, 1))
    kind = ET.SubElement(ET.SubElement(root, "os"), "type", arch=machine.arch or "x86_64", machine=machine.name)
    kind.text = "hvm"
    _add_backing(root, zones)
    has_cells = len(zones) > 1 or vcpus > 0 or hotplug is not None
    _add_policies(root, zones, has_cells=has_cells)
    if has_cells:
        _add_cells(root, zones)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode")


def _add_backing(root: ET.Element, zones: Zones) -> None:
    """The kind of source that all zones have, the huge pages of each, and whether they are populated."""
    regions = [(zone, region) for zone, region in zones if region]
    for _, region in regions:
        if region.mem_type is None or region.mem_type is MemorySourceType.FILE_ON_HUGETLBFS:
            raise unsupported(f"the file of {region}", 'plan memory that has none, such as mem_type="shmem"')
    backing = ET.SubElement(root, "memoryBacking")
    huge = [(zone, region) for zone, region in regions if region.page_size]
    pages = ET.SubElement(backing, "hugepages") if huge else backing
    for zone, region in huge:
        nodes = {} if len(zones) == 1 else {"nodeset": str(zone.guest_numa_node_id or 0)}
        ET.SubElement(pages, "page", {"size": str((region.page_size or 0) // KIB), "unit": "KiB", **nodes})
    is_shared = [_is_shared(region) for _, region in regions]
    ET.SubElement(backing, "source", type="memfd" if any(is_shared) else "anonymous")
    # Of private memory libvirt would make a file, if it were told so: it is the default.
    if is_shared and all(is_shared):
        ET.SubElement(backing, "access", mode="shared")
    populated = {bool(region.perm_flags & MapFlags.POPULATE) for _, region in regions}
    if len(populated) > 1:
        raise unsupported("populating some zones", "populate all of them, or none")
    if True in populated:
        ET.SubElement(backing, "allocation", mode="immediate")


def _is_shared(region: AddressSpaceRegion) -> bool:
    return bool(region.perm_flags & MapFlags.SHARED)


def _add_cells(root: ET.Element, zones: Zones) -> None:
    numa = ET.SubElement(ET.SubElement(root, "cpu"), "numa")
    is_any_shared = any(region and _is_shared(region) for _, region in zones)
    for zone, region in zones:
        cpus = {"cpus": ",".join(map(str, zone.vcpu_ids))} if zone.vcpu_ids else {}
        access = {"memAccess": ACCESS[_is_shared(region)]} if region and is_any_shared else {}
        size = {"memory": str(zone.size // KIB), "unit": "KiB"}
        ET.SubElement(numa, "cell", {"id": str(zone.guest_numa_node_id or 0), **cpus, **size, **access})


def _add_policies(root: ET.Element, zones: Zones, *, has_cells: bool) -> None:
    policies = [(zone, region.backing.policy) for zone, region in zones if region and region.backing.policy]
    if not policies:
        return
    tune = ET.SubElement(root, "numatune")
    for zone, policy in policies:
        if policy.mode not in THEIRS or not policy.nodes:
            raise unsupported(f"the policy {policy.mode!r}", f"use one of {', '.join(THEIRS)}, with nodes")
        options = {"mode": THEIRS[policy.mode], "nodeset": ",".join(map(str, policy.nodes))}
        cell = {"cellid": str(zone.guest_numa_node_id or 0)} if has_cells else {}
        ET.SubElement(tune, "memnode" if has_cells else "memory", {**cell, **options})
