"""HMAT and NFIT, read back by ACPICA's `iasl` and compared with QEMU's; page tables and segments."""

import struct
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import (
    AddressSpace,
    AddressSpaceBuilder,
    AddressSpaceLayout,
    InvalidAddressRange,
    InvalidArgument,
    NumaNode,
    NumaNodeInfo,
    NumaRegionInfo,
)
from dbs_address_space.tables import gdt, hmat, nfit, page_tables
from memory_helpers import GIB, MIB
from qemu_helpers import qemu
from test_firmware_tables import disassembled, fields

LATENCIES = {(0, 0): 80, (0, 1): 240, (0, 2): 400, (1, 1): 96, (1, 0): 250, (1, 2): 300}
BANDWIDTHS = {pair: 1 << 20 >> latency // 50 for pair, latency in LATENCIES.items()}


def nodes() -> dict[int, NumaNode]:
    infos = [NumaRegionInfo("1GiB", None, node, vcpus) for node, vcpus in enumerate([[0], [1], []])]
    return AddressSpaceBuilder("q35", numa_regions=infos).plan().numa_nodes


def table_of(tables: bytes, signature: bytes) -> bytes:
    at = tables.index(signature)
    return tables[at : at + int.from_bytes(tables[at + 4 : at + 8], "little")]


def numa_arguments() -> list[str]:
    arguments = ["-cpu", "Haswell,vendor=GenuineIntel,enforce=off,check=off", "-m", "3G", "-smp", "2,sockets=2"]
    for node in range(3):
        initiator = "" if node < 2 else ",initiator=1"
        arguments += ["-object", f"memory-backend-ram,id=m{node},size=1G,reserve=off"]
        arguments += ["-numa", f"node,nodeid={node},memdev=m{node}{initiator}"]
    for node in range(2):
        arguments += ["-numa", f"cpu,node-id={node},socket-id={node}"]
    return arguments


def hmat_arguments(kind: str, pairs: dict[tuple[int, int], int], unit: str) -> list[str]:
    return [
        part
        for (initiator, target), number in pairs.items()
        for part in (
            "-numa",
            f"hmat-lb,initiator={initiator},target={target},hierarchy=memory,data-type=access-{kind},{kind}={number}{unit}",
        )
    ]


def distances(table: bytes) -> dict[int, dict[tuple[int, int], int]]:
    """The numbers of an HMAT by their kind and pair, whatever units they have."""
    found, at = {}, 40
    while at < len(table):
        kind, length = struct.unpack_from("<H2xI", table, at)
        if kind == 1:
            what, rows, columns, unit = struct.unpack_from("<B2xII4xQ", table, at + 9)
            names = struct.unpack_from(f"<{rows + columns}I", table, at + 32)
            numbers = struct.unpack_from(f"<{rows * columns}H", table, at + 32 + 4 * (rows + columns))
            pairs = [(row, column) for row in names[:rows] for column in names[rows:]]
            found[what] = {pair: unit * number for pair, number in zip(pairs, numbers, strict=True)}
        at += length
    return found


def test_hmat_is_qemus() -> None:
    arguments = [*numa_arguments(), *hmat_arguments("latency", LATENCIES, "")]
    arguments += hmat_arguments("bandwidth", BANDWIDTHS, "M")
    with qemu("q35,hmat=on", *arguments) as oracle:
        theirs = table_of(oracle.fw_cfg_file("etc/acpi/tables"), b"HMAT")
    ours = hmat(nodes(), latencies=LATENCIES, bandwidths=BANDWIDTHS)
    assert ours[:9] == theirs[:9]
    assert ours[36 : 40 + 3 * 40] == theirs[36 : 40 + 3 * 40]
    assert distances(ours) == distances(theirs)
    assert distances(ours) == {0: {pair: 1000 * number for pair, number in LATENCIES.items()}, 3: BANDWIDTHS}
    assert sum(ours) % 256 == 0


def test_hmat_is_read_back_by_iasl(tmp_path: Path) -> None:
    text = disassembled(hmat(nodes(), latencies=LATENCIES), tmp_path)
    assert fields(text, "Attached Initiator Proximity Domain") == [0, 1, 1]
    assert fields(text, "Memory Proximity Domain") == [0, 1, 2]
    assert fields(text, "Processor Proximity Domain Valid") == [1, 1, 1]
    assert [value * fields(text, "Entry Base Unit")[0] for value in fields(text, "Entry")[:3]] == [
        80_000,
        240_000,
        400_000,
    ]


def test_memory_belongs_to_the_nearest_node_with_processors_or_devices() -> None:
    memory = NumaNode([NumaNodeInfo(0, GIB)])
    table = hmat({0: NumaNode(vcpu_ids=[0]), 1: NumaNode(vcpu_ids=[1]), 2: memory}, latencies={(1, 2): 9, (0, 2): 10})
    assert struct.unpack_from("<HHII", table, 40 + 8) == (1, 0, 1, 2)
    own = hmat(
        {0: NumaNode([NumaNodeInfo(0, GIB)], [0]), 1: NumaNode(vcpu_ids=[1])}, latencies={(0, 0): 50, (1, 0): 10}
    )
    assert struct.unpack_from("<HHI", own, 40 + 8) == (1, 0, 0)
    devices = NumaNode(generic_initiators=["0000:01:00.0"])
    table = hmat({0: memory, 1: devices, 2: NumaNode(vcpu_ids=[0])}, latencies={(1, 0): 9, (2, 0): 10})
    assert struct.unpack_from("<HHII", table, 40 + 8) == (1, 0, 1, 0)
    assert distances(table) == {0: {(1, 0): 9000, (1, 1): 0, (1, 2): 0, (2, 0): 10_000, (2, 1): 0, (2, 2): 0}}
    lonely = hmat({0: memory})
    assert struct.unpack_from("<H", lonely, 40 + 8) == (0,)


def test_only_nodes_with_memory_are_memory() -> None:
    window = NumaNode(hotplug_infos=[NumaNodeInfo(GIB, GIB)])
    table = hmat({0: NumaNode([NumaNodeInfo(0, GIB)], [0]), 1: NumaNode(vcpu_ids=[1]), 2: window})
    assert [struct.unpack_from("<I", table, 40 + 40 * number + 16)[0] for number in range(2)] == [0, 2]
    assert len(table) == 40 + 2 * 40


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"latencies": {(0, 3): 1}}, InvalidArgument, r"latencies\[0, 3\]"),
        ({"latencies": {(2, 0): 1}}, InvalidArgument, "the first one with vCPUs"),
        ({"bandwidths": {(0, 0): 0}}, InvalidArgument, "is 0"),
        ({"bandwidths": {(0, 0): 1, (0, 1): 1 << 16}}, InvalidArgument, "no unit"),
        ({"latencies": {(0, 0): -1}}, InvalidAddressRange, "latencies"),
        ({"latencies": {(0, 0): "1"}}, TypeError, "latencies"),
    ],
)
def test_numbers_that_no_hmat_has(given: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        hmat(nodes(), **given)
    with pytest.raises(TypeError, match="numa_nodes"):
        hmat({0: 1})  # type: ignore[dict-item]


def test_a_persistent_range_is_as_in_qemus_nfit(tmp_path: Path) -> None:
    backing = tmp_path / "pmem"
    with backing.open("wb") as file:
        file.truncate(256 * MIB)
    arguments = ["-m", "1G,slots=2,maxmem=8G", "-object", f"memory-backend-file,id=p,size=256M,mem-path={backing}"]
    arguments += ["-device", "nvdimm,id=n,memdev=p"]
    with qemu("q35,nvdimm=on", *arguments) as oracle:
        theirs = table_of(oracle.fw_cfg_file("etc/acpi/tables"), b"NFIT")
    layout = AddressSpaceLayout(1 << 40, 0, 1 << 39, reserved=[(4 * GIB, 256 * MIB, "persistent"), (0, MIB, "nvs")])
    ours = nfit(AddressSpace(layout))
    assert len(ours) == 40 + 56
    spa = theirs[40:96]
    # Of QEMU's, the number of the range and its flags with a node are its own.
    assert (ours[40:44], ours[56:96]) == (spa[:4], spa[16:])
    text = disassembled(ours, tmp_path)
    assert fields(text, "Address Range Base") == [4 * GIB]
    assert fields(text, "Address Range Length") == [256 * MIB]
    assert nfit(AddressSpace(layout).snapshot()) == ours
    with pytest.raises(TypeError):
        nfit(layout)  # type: ignore[arg-type]


def walk(tables: bytes, base: int, addr: int) -> int | None:
    """The physical address of a virtual one, as a processor finds it."""
    table = base
    for shift in (39, 30, 21):
        entry: int = struct.unpack_from("<Q", tables, table - base + (addr >> shift & 511) * 8)[0]
        if not entry & 1:
            return None
        assert entry & 0b11 == 0b11
        if entry & 0x80:
            return entry & ~((1 << shift) - 1) & ~0xFFF | addr & ((1 << shift) - 1)
        table = entry & ~0xFFF
    raise AssertionError("no page")


@pytest.mark.parametrize("page", [2 * MIB, GIB])
@pytest.mark.parametrize("size", [GIB, 6 * GIB, 513 * GIB])
def test_page_tables_map_all_below_their_size(page: int, size: int) -> None:
    tables = page_tables(0x7000, size, page_size=page)
    for addr in (0, 1, page - 1, size // 2 + 5, size - 1):
        assert walk(tables, 0x7000, addr) == addr
    for addr in (size, size + GIB, (1 << 47) - 1):
        assert walk(tables, 0x7000, addr) is None
    assert len(tables) % 4096 == 0


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((0x1001, GIB), {}),
        ((0, 0), {}),
        ((0, MIB), {}),
        ((0, (1 << 47) + GIB), {}),
        ((0, GIB), {"page_size": 4096}),
        ((-1, GIB), {}),
    ],
)
def test_page_tables_that_can_not_be(arguments: tuple[int, int], options: dict[str, Any]) -> None:
    with pytest.raises(InvalidAddressRange):
        page_tables(*arguments, **options)


def test_segments_are_flat() -> None:
    code, data = struct.unpack_from("<QQ", gdt(), 0x10)
    for descriptor in (code, data):
        assert descriptor & 0xFFFF == 0xFFFF
        assert descriptor >> 47 & 1
        assert descriptor >> 48 & 0xF == 0xF
    assert code >> 53 & 1
    assert not code >> 54 & 1
    assert [code >> 43 & 1, data >> 43 & 1] == [1, 0]
