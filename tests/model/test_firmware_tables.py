"""Tables for guests: parsed back by ACPICA's `iasl` and by `dtc`, compared with golden files and with QEMU's own."""

import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import (
    AddressSpace,
    AddressSpaceBuilder,
    AddressSpaceLayout,
    AddressSpaceRegion,
    Hotplug,
    InvalidAddressRange,
    InvalidArgument,
    NumaNode,
    NumaRegionInfo,
    dump,
)
from dbs_address_space.tables import device_tree, e820, slit, srat
from host import require
from memory_helpers import LAYOUT, MIB, PAGE, WINDOW, ram
from qemu_helpers import qemu

GIB = 1 << 30
GOLDEN = Path(__file__).parent / "golden"
NODES = [NumaRegionInfo("3GiB", None, 0, [0, 1]), NumaRegionInfo("2GiB", None, 1, [2, 255])]


def plan(machine: str = "q35", **options: Any) -> Any:
    return AddressSpaceBuilder(machine, numa_regions=NODES, **options).plan()


def run(*command: object) -> str:
    require(shutil.which(str(command[0])), f"{command[0]} is not installed")
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout


def disassembled(table: bytes, directory: Path) -> str:
    """The output of iasl for a table, without the lines about time and versions."""
    path = directory / "table.dat"
    path.write_bytes(table)
    said = run("iasl", "-d", path)
    assert "rror" not in said
    text = (directory / "table.dsl").read_text()
    assert "Invalid" not in text
    assert "Checksum" in text
    return text[text.index("[000h") :]


def fields(text: str, name: str) -> list[int]:
    return [int(value, 16) for value in re.findall(rf"{re.escape(name)} : ([0-9A-F]+)", text)]


def check_golden(name: str, content: bytes) -> None:
    assert content.hex(" ", 4) + "\n" == (GOLDEN / name).read_text()


def entries(table: bytes) -> list[tuple[int, int, int]]:
    return [struct.unpack_from("<QQI", table, at) for at in range(0, len(table), 20)]


def test_memory_that_is_seen_twice_is_given_to_the_guest_once(tmp_path: Path) -> None:
    space = AddressSpaceBuilder("q35", numa_regions=["64MiB"]).build()
    again = 0x8_0000_0000
    space.insert_region(AddressSpaceRegion.alias(again, space["ram0"], 0, "1MiB"))
    space.split_region("ram0", 32 << 20)
    assert entries(e820(space)) == [(0, 64 << 20, 1), (again, 1 << 20, 2)]
    dump(space, tmp_path / "boot.log", format="log")
    text = (tmp_path / "boot.log").read_text()
    assert text.count("usable") == 2
    assert "[mem 0x0000000800000000-0x00000008000fffff] reserved" in text
    assert b"memory@800000000" not in device_tree(space)


def test_e820_of_a_plan() -> None:
    space = plan(firmware=True, dax_window="2GiB", hotplug=Hotplug("16GiB")).build()
    expected = [(0, 2 * GIB, 1), (0xFFFC_0000, 0x4_0000, 2), (4 * GIB, 3 * GIB, 1)]
    assert entries(e820(space)) == expected
    assert e820(space.snapshot()) == e820(space)
    check_golden("q35.e820", e820(space))


def test_e820_joins_what_touches_and_leaves_out_what_was_plugged_in() -> None:
    regions = [
        ram(0, MIB),
        ram(MIB, MIB),
        ram(2 * MIB, MIB, is_hotplug=True),
        AddressSpaceRegion.create_device_region(WINDOW, PAGE),
    ]
    space = AddressSpace.from_regions(regions, LAYOUT)
    assert entries(e820(space)) == [(0, 2 * MIB, 1)]
    assert entries(e820(space, bios_hole=True)) == [(0, 0x9FC00, 1), (0x9FC00, 0x60400, 2), (MIB, MIB, 1)]
    assert e820(AddressSpace(LAYOUT)) == b""


RESERVED = [
    (1 * MIB, MIB, "reserved"),
    (2 * MIB, MIB, "acpi"),
    (4 * MIB, MIB, "nvs"),
    (6 * MIB, MIB, "persistent"),
    (8 * MIB, MIB, "soft-reserved"),
]
"""Of which all but the first have RAM; the last lies above all RAM of the space."""


def with_reserved() -> AddressSpace:
    space = AddressSpace(AddressSpaceLayout(1 << 40, 0, 1 << 39, reserved=RESERVED))
    for base, size in [(0, MIB), (2 * MIB, MIB), (3 * MIB, MIB), (4 * MIB, MIB), (5 * MIB, MIB), (6 * MIB, MIB)]:
        space.insert_region(ram(base, size))
    return space


def test_e820_tells_of_reserved_ranges_by_their_kind() -> None:
    kinds = [1, 2, 3, 1, 4, 1, 7, 0xEFFFFFFF]
    bases = [number * MIB for number in [0, 1, 2, 3, 4, 5, 6, 8]]
    space = with_reserved()
    assert entries(e820(space)) == [(base, MIB, kind) for base, kind in zip(bases, kinds, strict=True)]
    assert e820(space.snapshot()) == e820(space)
    space.insert_region(AddressSpaceRegion.create_firmware_region(MIB // 2 * 3, MIB // 2))
    assert entries(e820(space))[1] == (MIB, MIB, 2)


def test_reserved_memory_is_read_back_by_dtc(tmp_path: Path) -> None:
    path = tmp_path / "memory.dtb"
    path.write_bytes(device_tree(with_reserved()))
    text = run("dtc", "-I", "dtb", "-O", "dts", path)
    inner = text[text.index("reserved-memory {") :]
    assert re.findall(r"([a-z-]+)@([0-9a-f]+) \{", inner) == [
        ("reserved", "100000"),
        ("acpi", "200000"),
        ("nvs", "400000"),
        ("soft-reserved", "800000"),
    ]
    assert inner.count("no-map;") == 4
    assert "ranges;" in inner
    pmem = re.findall(r"pmem@600000 \{(.*?)\};", text, re.DOTALL)
    assert ['compatible = "pmem-region"' in pmem[0], "reg = <0x00 0x600000 0x00 0x100000>;" in pmem[0]] == [True, True]
    assert re.findall(r"memory@([0-9a-f]+) \{", text) == ["0", "200000"]
    assert "reg = <0x00 0x200000 0x00 0x400000>;" in text


@pytest.mark.parametrize("size", [16, 2048, 4096])
def test_e820_is_qemus(size: int) -> None:
    space = AddressSpaceBuilder("q35", numa_regions=[size * MIB]).build()
    arguments = ["-cpu", "Haswell,vendor=GenuineIntel,enforce=off,check=off", "-m", f"{size}M"]
    with qemu("q35", *arguments) as oracle:
        assert sorted(oracle.e820()) == entries(e820(space))


def test_srat_is_read_back_by_iasl(tmp_path: Path) -> None:
    made = plan(hotplug=Hotplug("16GiB", 4))
    table = srat(made.numa_nodes, hotplug_window=made.hotplug_window)
    text = disassembled(table, tmp_path)
    assert fields(text, "Base Address") == [0, 4 * GIB, 5 * GIB, made.hotplug_window.base]
    assert fields(text, "Address Length") == [2 * GIB, GIB, 2 * GIB, made.hotplug_window.size]
    assert fields(text, "Apic ID") == [0, 1, 2, 255]
    assert len(re.findall("x2APIC", text, re.IGNORECASE)) == 1
    assert fields(text, "Hot Pluggable") == [0, 0, 0, 1]
    assert set(fields(text, "Enabled")) == {1}
    assert sum(table) % 256 == 0
    check_golden("q35.srat", table)


def test_srat_of_an_arm_machine(tmp_path: Path) -> None:
    made = plan("virt")
    text = disassembled(srat(made.numa_nodes, arch="aarch64"), tmp_path)
    assert fields(text, "Acpi Processor UID") == [0, 1, 2, 255]
    assert fields(text, "Base Address") == [GIB, 4 * GIB]


def test_generic_initiators_are_read_back_by_iasl(tmp_path: Path) -> None:
    devices = ["0000:01:1f.7", "abcd:ff:00.0"]
    infos = [NumaRegionInfo("1GiB", None, 0, [0]), NumaRegionInfo(0, None, 3, generic_initiators=devices)]
    table = srat(AddressSpaceBuilder("q35", numa_regions=infos).plan().numa_nodes)
    text = disassembled(table, tmp_path)
    assert text.count("[Generic Initiator Affinity]") == 2
    assert fields(text, "Device Handle Type") == [1, 1]
    assert fields(text, "Proximity Domain")[-2:] == [3, 3]
    assert set(fields(text, "Enabled")) == {1}
    handles = re.findall(r"Device Handle : ([0-9A-F ]+)", text)
    # ACPI 6.4: the segment, then the bus in a byte, then device and function in one.
    assert [bytes.fromhex(handle) for handle in handles] == [
        struct.pack("<HBB12x", 0, 1, 0x1F << 3 | 7),
        struct.pack("<HBB12x", 0xABCD, 0xFF, 0),
    ]
    assert sum(table) % 256 == 0


def test_slit_is_read_back_by_iasl(tmp_path: Path) -> None:
    table = slit([[10, 20, 30], [21, 10, 40], [31, 255, 10]])
    text = disassembled(table, tmp_path)
    assert fields(text, "Localities") == [3]
    assert re.findall(r"Locality +\d+ : ([0-9A-F ]+)", text) == ["0A 14 1E", "15 0A 28", "1F FF 0A"]
    check_golden("three.slit", table)


@pytest.mark.parametrize(
    "distances",
    [
        [[10, 20]],
        [[20]],
        [[10, 10], [20, 10]],
        [[10, 9], [20, 10]],
        [[10, 256], [20, 10]],
        [[10, 20], [20]],
        [[10, -1], [20, 10]],
    ],
)
def test_distances_that_no_slit_has(distances: list[list[int]]) -> None:
    with pytest.raises(InvalidAddressRange):
        slit(distances)


def test_memory_nodes_are_read_back_by_dtc(tmp_path: Path) -> None:
    made = plan("virt")
    blob = device_tree(made.build(), numa_nodes=made.numa_nodes)
    path = tmp_path / "memory.dtb"
    path.write_bytes(blob)
    text = run("dtc", "-I", "dtb", "-O", "dts", path)
    nodes = re.findall(r"memory@([0-9a-f]+) \{(.*?)\};", text, re.DOTALL)
    assert [name for name, _ in nodes] == ["40000000", "100000000"]
    assert "reg = <0x00 0x40000000 0x00 0xc0000000>;" in nodes[0][1]
    assert "numa-node-id = <0x01>;" in nodes[1][1]
    assert all('device_type = "memory"' in body for _, body in nodes)
    check_golden("virt.dtb", blob)


def test_nodes_are_optional_and_touching_ram_is_joined(tmp_path: Path) -> None:
    path = tmp_path / "memory.dtb"
    path.write_bytes(device_tree(plan("virt").build()))
    assert len(re.findall(r"memory@", run("dtc", "-I", "dtb", "-O", "dts", path))) == 1


def test_the_distance_map_is_qemus(tmp_path: Path) -> None:
    infos = [NumaRegionInfo("1GiB", None, 0, [0]), NumaRegionInfo("1GiB", None, 1, [1])]
    made = AddressSpaceBuilder("virt", numa_regions=infos).plan()
    blobs = {"ours": device_tree(made.build(), numa_nodes=made.numa_nodes, distances=[[10, 21], [21, 10]])}
    require(shutil.which("qemu-system-aarch64"), "qemu-system-aarch64 is not installed")
    command = ["qemu-system-aarch64", "-display", "none", "-machine", f"virt,dumpdtb={tmp_path}/qemu", "-cpu", "max"]
    command += ["-m", "2G", "-smp", "2"]
    for node in (0, 1):
        command += ["-object", f"memory-backend-ram,id=m{node},size=1G,reserve=off"]
        command += ["-numa", f"node,nodeid={node},cpus={node},memdev=m{node}"]
    run(*command, "-numa", "dist,src=0,dst=1,val=21")
    blobs["qemu"] = (tmp_path / "qemu").read_bytes()
    parts = {}
    for name, blob in blobs.items():
        (tmp_path / "blob").write_bytes(blob)
        text = run("dtc", "-q", "-I", "dtb", "-O", "dts", tmp_path / "blob")
        memory = {
            tuple(sorted(body.split("\n"))) for body in re.findall(r"memory@[0-9a-f]+ \{(.*?)\};", text, re.DOTALL)
        }
        distances = re.findall(r"distance-map \{(.*?)\};", text, re.DOTALL)
        parts[name] = memory, sorted(distances[0].split("\n"))
    assert parts["ours"] == parts["qemu"]
    assert b"distance-map" not in device_tree(made.build())
    for wrong in ([[10, 9], [9, 10]], [[10, 20]]):
        with pytest.raises(InvalidAddressRange):
            device_tree(made.build(), distances=wrong)


def test_bad_arguments() -> None:
    with pytest.raises(InvalidArgument, match="mips"):
        srat({0: NumaNode()}, arch="mips")
    with pytest.raises(InvalidAddressRange, match="ends past"):
        srat({0: NumaNode()}, hotplug_window=((1 << 64) - 1, 1))
    with pytest.raises(TypeError):
        e820(LAYOUT)  # type: ignore[arg-type]


def affinities(table: bytes) -> tuple[dict[int, int], list[tuple[int, int, int, bool]]]:
    """The processors by their id, and the memory: node, base, end, whether it is hot-pluggable. Empty entries are left out."""
    processors, memory = {}, []
    at = 48
    while at < len(table):
        kind, length = table[at], table[at + 1]
        if kind == 0:
            low, apic = table[at + 2], table[at + 3]
            processors[apic] = low
        elif kind == 1:
            node, base, size, flags = struct.unpack_from("<I2xQQ4xI", table, at + 2)
            if flags & 1 and size:
                memory.append((node, base, base + size, bool(flags & 2)))
        at += length
    return processors, memory


def without_bios_hole(memory: list[tuple[int, int, int, bool]]) -> list[tuple[int, int, int, bool]]:
    """QEMU leaves 640 KiB to 1 MiB out."""
    (node, low, end, _), (_, again, top, _), *rest = memory
    assert (low, end, again) == (0, 0xA0000, MIB)
    return [(node, 0, top, False), *rest]


def test_srat_says_what_qemus_says() -> None:
    infos = [NumaRegionInfo("3GiB", None, 0, [0, 2]), NumaRegionInfo("2GiB", None, 1, [1, 3])]
    made = AddressSpaceBuilder("q35", numa_regions=infos, hotplug=Hotplug("16GiB", 4)).plan()
    arguments = [
        "-cpu",
        "Haswell,vendor=GenuineIntel,enforce=off,check=off",
        "-m",
        "5G,slots=4,maxmem=16G",
        "-smp",
        "4,sockets=4",
    ]
    for node, (size, cpus) in enumerate([("3G", (0, 2)), ("2G", (1, 3))]):
        arguments += [
            "-object",
            f"memory-backend-ram,id=m{node},size={size},reserve=off",
            "-numa",
            f"node,nodeid={node},memdev=m{node}",
        ]
        arguments += [part for cpu in cpus for part in ("-numa", f"cpu,node-id={node},socket-id={cpu}")]
    with qemu("q35", *arguments) as oracle:
        tables = oracle.fw_cfg_file("etc/acpi/tables")
    at = tables.index(b"SRAT")
    theirs = affinities(tables[at : at + int.from_bytes(tables[at + 4 : at + 8], "little")])
    ours = affinities(srat(made.numa_nodes, hotplug_window=made.hotplug_window))
    assert ours[0] == theirs[0] == {0: 0, 1: 1, 2: 0, 3: 1}
    assert ours[1] == without_bios_hole(theirs[1])


def test_a_node_without_memory_is_as_in_qemus_srat() -> None:
    infos = [NumaRegionInfo("3GiB", None, 0, [0]), NumaRegionInfo(0, None, 1, [1])]
    made = AddressSpaceBuilder("q35", numa_regions=infos).plan()
    arguments = ["-cpu", "Haswell,vendor=GenuineIntel,enforce=off,check=off", "-m", "3G", "-smp", "2,sockets=2"]
    arguments += ["-object", "memory-backend-ram,id=m0,size=3G,reserve=off", "-numa", "node,nodeid=0,memdev=m0"]
    arguments += ["-numa", "node,nodeid=1", "-numa", "cpu,node-id=0,socket-id=0", "-numa", "cpu,node-id=1,socket-id=1"]
    with qemu("q35", *arguments) as oracle:
        tables = oracle.fw_cfg_file("etc/acpi/tables")
    at = tables.index(b"SRAT")
    theirs = affinities(tables[at : at + int.from_bytes(tables[at + 4 : at + 8], "little")])
    ours = affinities(srat(made.numa_nodes))
    assert ours[0] == theirs[0] == {0: 0, 1: 1}
    assert ours[1] == without_bios_hole(theirs[1])
