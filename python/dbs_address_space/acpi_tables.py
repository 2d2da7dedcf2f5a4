"""ACPI tables of memory that is not all alike: how far away and how fast it is (HMAT), and which is persistent (NFIT)."""

from __future__ import annotations

import struct
from functools import reduce

from ._core import AddressSpace, AddressSpaceBase, NumaNode, check_type, checked_int
from .errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["hmat", "nfit"]

OEM, OEM_TABLE, CREATOR = b"DBSASP", b"DBSASMEM", b"RVAT\0\0\0\1"
HEADER_SIZE = 36
ACCESS_LATENCY, ACCESS_BANDWIDTH = 0, 3
HAS_INITIATOR, HAS_NO_NODE = 1, 0
PICOSECONDS = 1000
"""In a nanosecond; bandwidths are in MiB a second as they are."""
MOST = 0xFFFE
"""The largest entry; the next one means that the memory can't be reached."""
PERSISTENT = bytes.fromhex("79d3f066f3b47440ac430d3318b78cdb")
"""The GUID of a range of persistent memory, 66F0D379-B4F3-4074-AC43-0D3318B78CDB."""
WRITE_BACK, NON_VOLATILE = 0x8, 0x8000


def hmat(
    numa_nodes: Mapping[int, NumaNode],
    *,
    latencies: Mapping[tuple[int, int], int] | None = None,
    bandwidths: Mapping[tuple[int, int], int] | None = None,
) -> bytes:
    """The ACPI HMAT (revision 2) of guest NUMA nodes, a dict of `NumaNode` by id such as `AddressSpacePlan.numa_nodes`.

    `latencies` are nanoseconds of an access and `bandwidths` MiB a second, by pairs of a node with vCPUs or generic initiators
    and the node whose memory it uses. The node nearest to memory is its own, if it has any of them, else the one with the lowest
    latency. The numbers of a table have 16 bits and one unit, the largest power of two that all can have. Raises
    `InvalidArgument` for other nodes and numbers.

    >>> from dbs_address_space import AddressSpaceBuilder, NumaRegionInfo
    >>> near, far = NumaRegionInfo("1GiB", None, 0, [0, 1]), NumaRegionInfo("1GiB", None, 1)
    >>> nodes = AddressSpaceBuilder("q35", numa_regions=[near, far]).plan().numa_nodes
    >>> len(hmat(nodes, latencies={(0, 0): 80, (0, 1): 240}, bandwidths={(0, 0): 65536, (0, 1): 16384}))
    216
    """
    for node, info in numa_nodes.items():
        checked_int(node, "numa_nodes")
        check_type(info, NumaNode, "numa_nodes")
    given = {ACCESS_LATENCY: _pairs(numa_nodes, latencies, "latencies")}
    given[ACCESS_BANDWIDTH] = _pairs(numa_nodes, bandwidths, "bandwidths")
    with_memory = (node for node, info in sorted(numa_nodes.items()) if info.region_infos or info.hotplug_infos)
    # Linux refuses a table that names other nodes as memory.
    entries = b"".join(_nearest(numa_nodes, node, given[ACCESS_LATENCY]) for node in with_memory)
    for kind, pairs in given.items():
        if pairs:
            entries += _distances(numa_nodes, kind, pairs)
    return _table(b"HMAT", 2, bytes(4) + entries)


def _pairs(
    nodes: Mapping[int, NumaNode], given: Mapping[tuple[int, int], int] | None, name: str
) -> dict[tuple[int, int], int]:
    pairs, initiators = {}, set(_initiators(nodes))
    for (initiator, target), number in (given or {}).items():
        if initiator not in initiators or target not in nodes:
            message = "both must be nodes, and the first one with vCPUs or generic initiators"
            raise InvalidArgument(f"{name}[{initiator}, {target}]: {message}")
        pairs[initiator, target] = checked_int(number, name)
        if not number:
            raise InvalidArgument(f"{name}[{initiator}, {target}] is 0: leave the pair out, or say how much it is")
    return pairs


def _initiators(nodes: Mapping[int, NumaNode]) -> list[int]:
    return sorted(node for node, info in nodes.items() if info.vcpu_ids or info.generic_initiators)


def _nearest(nodes: Mapping[int, NumaNode], node: int, latencies: dict[tuple[int, int], int]) -> bytes:
    """The structure that says which node is attached to the memory of a node."""
    candidates = [(one != node, latencies.get((one, node), 1 << 64), one) for one in _initiators(nodes)]
    nearest = min(candidates)[2] if candidates else None
    flags = 0 if nearest is None else HAS_INITIATOR
    return struct.pack("<HHIHHII20x", 0, 0, 40, flags, 0, nearest or 0, node)


def _distances(nodes: Mapping[int, NumaNode], kind: int, pairs: dict[tuple[int, int], int]) -> bytes:
    """The structure with a number for each pair, in a unit of its own."""
    initiators, targets = _initiators(nodes), sorted(nodes)
    bits = reduce(int.__or__, pairs.values())
    unit = bits & -bits
    if max(pairs.values()) // unit > MOST:
        raise InvalidArgument(f"{sorted(pairs.values())} have no unit in which all have 16 bits: round them")
    scale = PICOSECONDS if kind == ACCESS_LATENCY else 1
    numbers = [pairs.get((initiator, target), 0) // unit for initiator in initiators for target in targets]
    lists = struct.pack(f"<{len(initiators)}I{len(targets)}I{len(numbers)}H", *initiators, *targets, *numbers)
    head = struct.pack("<HHIBBHIIIQ", 1, 0, 32 + len(lists), 0, kind, 0, len(initiators), len(targets), 0, unit * scale)
    return head + lists


def nfit(space: AddressSpace | AddressSpaceBase) -> bytes:
    """The ACPI NFIT of a space: each `"persistent"` range that its layout reserves is a device `/dev/pmem` of the guest.

    RAM inserted there, for example over a file, is what the guest stores. It is for the same memory as type 7 of `e820()`: give a
    guest one of the two. Raises `TypeError`.

    >>> from dbs_address_space import AddressSpace, AddressSpaceLayout
    >>> layout = AddressSpaceLayout(1 << 40, 0, 1 << 39, reserved=[(4 << 30, 1 << 30, "persistent")])
    >>> len(nfit(AddressSpace(layout)))
    96
    """
    if not isinstance(space, AddressSpaceBase):
        check_type(space, AddressSpace, "space")
    ranges = [(base, size) for base, size, kind in space.layout.reserved if kind == "persistent"]
    structures = (
        struct.pack(
            "<HHHHII16sQQQ", 0, 56, number, HAS_NO_NODE, 0, 0, PERSISTENT, base, size, WRITE_BACK | NON_VOLATILE
        )
        for number, (base, size) in enumerate(ranges, 1)
    )
    return _table(b"NFIT", 1, bytes(4) + b"".join(structures))


def _table(signature: bytes, revision: int, content: bytes) -> bytes:
    """A table with its header, whose bytes add up to 0."""
    size = HEADER_SIZE + len(content)
    table = struct.pack("<4sIBB6s8sI8s", signature, size, revision, 0, OEM, OEM_TABLE, 1, CREATOR) + content
    return table[:9] + bytes([-sum(table) & 0xFF]) + table[10:]
