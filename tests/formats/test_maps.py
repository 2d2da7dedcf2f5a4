"""Maps as texts and tables: what each says, the traps of each, and what comes back of those that are written, too."""

import json
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from dbs_address_space import (
    AddressRange,
    AddressSpace,
    AddressSpaceBuilder,
    AddressSpaceRegion,
    FormatError,
    Hotplug,
    InvalidArgument,
    dump,
    load,
    tables,
)
from host import require
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_helpers import LAYOUT, MIB

SAMPLES = Path(__file__).parent / "samples"
LOG = SAMPLES / "dmesg-qemu-numa-memmap-arg.txt"
EFI = """\
[    0.0] efi: mem00: [Conventional Memory|   |  |  |WB|UC] range=[0x0000000000000000-0x000000000009ffff] (0MB)
[    0.0] efi: mem01: [Loader Data        |   |  |  |WB|UC] range=[0x0000000000100000-0x00000000001fffff] (1MB)
[    0.0] efi: mem02: [Conventional Memory|   |  |SP|WB|UC] range=[0x0000000000200000-0x00000000002fffff] (1MB)
[    0.0] efi: mem03: [Boot Code          |   |  |  |WB|UC] range=[0x00000000000a0000-0x00000000000fffff] (0MB)
[    0.0] efi: mem04: [Runtime Data       |RUN|  |  |WB|UC] range=[0x0000000000300000-0x00000000003fffff] (1MB)
[    0.1] efi: mem00: [Reserved           |   |  |  |WB|UC] range=[0x0000000000000000-0x000000000000ffff] (0MB)
"""


def kinds(space: AddressSpace) -> list[tuple[str | None, str, int, int]]:
    return [(region.name, region.region_type.value, region.base, region.end) for region in space.regions]


def ram(space: AddressSpace) -> list[tuple[int, int]]:
    return [(range_.base, range_.end) for range_ in space.ranges("ram")]


def test_the_log_the_kernel_and_sysfs_agree_on_what_the_firmware_said() -> None:
    assert load(LOG).snapshot() == load(SAMPLES / "sys-firmware-memmap.txt").snapshot()
    assert len(load(LOG)) == 9
    assert ram(load(LOG, table="user")) == [(0, 0x9_FC00), (0x10_0000, 0x1000_0000), (0x1100_0000, 0x3FFE_0000)]


def test_what_memmap_takes_is_what_the_kernel_took() -> None:
    """The command line of the sample's kernel makes of the firmware's map the one that it printed."""
    assert load(LOG, format="memmap", map=load(LOG)).snapshot() == load(LOG, table="user").snapshot()


def test_a_log_may_have_its_table_twice_but_not_two_of_them() -> None:
    text = LOG.read_text()
    assert load((text + text).encode()).snapshot() == load(LOG).snapshot()
    with pytest.raises(FormatError, match=r"the map in line 2 and the one in line \d+ differ") as raised:
        load((text + text.replace("3ffdffff] usable", "3ffcffff] usable")).encode())
    assert raised.value.line == len(text.splitlines()) + 2
    with pytest.raises(FormatError, match="the log has no user table"):
        load(b"BIOS-e820: [mem 0x0-0xfff] usable\n", table="user")
    with pytest.raises(InvalidArgument, match="table='bios'"):
        load(LOG, table="bios")


def test_an_old_kernel_printed_exclusive_ends() -> None:
    low = b"<6> BIOS-e820: 0000000000000000 - 000000000009fc00 (usable)\n"
    high = b" BIOS-e820: 00000000000f0000 - 0000000000100000 (ACPI NVS)\n"
    assert kinds(load(low + high)) == [
        ("System RAM", "ram", 0, 0x9_FC00),
        ("ACPI Non-volatile Storage", "firmware", 0xF_0000, 0x10_0000),
    ]


def test_efi_tells_of_memory_that_the_kernel_may_use() -> None:
    expected = [
        ("System RAM", "ram", 0, 0x20_0000),
        ("Soft Reserved", "device", 0x20_0000, 0x30_0000),
        ("Runtime Data", "firmware", 0x30_0000, 0x40_0000),
    ]
    assert kinds(load(EFI.encode())) == expected
    both = b"BIOS-e820: [mem 0x0-0xfff] usable\n" + EFI.encode()
    assert (ram(load(both)), kinds(load(both, table="efi"))) == ([(0, 0x1000)], expected)


def test_iomem_without_privilege_is_told_of() -> None:
    text = re.sub(
        r"[0-9a-f]{8,}-[0-9a-f]{8,}", "00000000-00000000", (SAMPLES / "iomem-qemu-numa-memmap-arg.txt").read_text()
    )
    with pytest.raises(FormatError, match="it was read without privilege") as raised:
        load(text.encode())
    assert raised.value.line == 1


def test_iomem_shows_what_lies_in_windows() -> None:
    text = b"""\
00001000-0009ffff : System RAM
  00002000-00002fff : Kernel code
c0000000-febfffff : PCI Bus 0000:00
  c0000000-c0ffffff : PCI Bus 0000:01
    c0000000-c0000fff : 0000:01:00.0
      c0000000-c0000fff : nvme
140000000-23fffffff : virtio0
  140000000-147ffffff : System RAM (virtio_mem)
"""
    assert kinds(load(text)) == [
        ("System RAM", "ram", 0x1000, 0xA_0000),
        ("0000:01:00.0", "device", 0xC000_0000, 0xC000_1000),
        ("System RAM#2", "ram", 0x1_4000_0000, 0x1_4800_0000),
    ]
    for wrong, line in (
        (b"00001000-0009ffff : a\nwhat\n", 2),
        (b"00001000-0009ffff : a\n    00001000-0009ffff : b\n", 2),
    ):
        with pytest.raises(FormatError) as raised:
            load(wrong)
        assert raised.value.line == line


def test_sysfs_itself_is_a_folder(tmp_path: Path) -> None:
    for number, start, end, kind in [(1, 0x10_0000, 0x1F_FFFF, "System RAM"), (0, 0, 0x9_FFFF, "System RAM")]:
        (tmp_path / f"{number}").mkdir()
        for name, text in (("start", hex(start)), ("end", hex(end)), ("type", kind)):
            (tmp_path / f"{number}" / name).write_text(text + "\n")
    assert ram(load(tmp_path)) == [(0, 0xA_0000), (0x10_0000, 0x20_0000)]


@pytest.mark.skipif(not Path("/proc/iomem").exists(), reason="this host tells of no addresses")
def test_this_host_can_be_read() -> None:
    """Files of the kernel's have no size."""
    try:
        space = load("/proc/iomem")
    except FormatError as error:
        assert error.line == 1  # noqa: PT017  without privilege
    else:
        assert space.ram_size


def test_qemus_memory_devices_have_their_names() -> None:
    devices = SAMPLES / "query-memory-devices.json"
    answer = json.loads(devices.read_text())
    space = load(SAMPLES / "mtree-q35-dimm-virtio-mem.txt", devices=devices)
    assert (space["dimm0"].base, space["dimm0"].is_hotplug, space["n0"].size) == (1 << 32, True, 0xC_0000)
    assert space.find_region(0x1_2000_0000) is None, "nothing of it is plugged"
    assert load(SAMPLES / "mtree-q35-dimm-virtio-mem.txt", devices=answer).snapshot() == space.snapshot()
    for wrong in ([7], b"[{}]", b"no"):
        with pytest.raises(InvalidArgument, match="query-memory-devices"):
            load(SAMPLES / "mtree-q35-dimm-virtio-mem.txt", devices=wrong)
    with pytest.raises(FormatError, match="no address space named memory"):
        load(b'FlatView #0\n AS "I/O", root: io\n')


def test_e820_lets_anything_beat_ram() -> None:
    entries = [(0, 0x3000, 1), (0x1000, 0x1000, 2), (0x2000, 0, 7), (0x2800, 0x1000, 1), (0x1800, 0x400, 2)]
    table = b"".join(struct.pack("<QQI", *entry) for entry in entries)
    assert kinds(load(table, format="e820")) == [
        ("System RAM", "ram", 0, 0x1000),
        ("Reserved", "device", 0x1000, 0x2000),
        ("System RAM#2", "ram", 0x2000, 0x3800),
    ]
    with pytest.raises(
        FormatError, match=r"'Reserved' \[0x1000, 0x2000\) and 'Unusable memory' \[0x1800, 0x2800\) overlap"
    ):
        load(table + struct.pack("<QQI", 0x1800, 0x1000, 5), format="e820")
    with pytest.raises(FormatError, match="48 bytes are not a number of entries of 20"):
        load(bytes(48), format="e820")
    with pytest.raises(InvalidArgument, match="entry_size=21"):
        load(bytes(48), format="e820", entry_size=21)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (
            "memmap=exactmap memmap=640K@0 memmap=1G@1M",
            [("System RAM", 0, 0xA_0000), ("System RAM#2", MIB, 0x4010_0000)],
        ),
        (
            "memmap=0x1000#0x2000,4K!0x8000",
            [("ACPI Tables", 0x2000, 0x3000), ("Persistent Memory (legacy)", 0x8000, 0x9000)],
        ),
        ("memmap=16M@0 memmap=16M@8M", [("System RAM", 0, 16 * MIB), ("System RAM#2", 16 * MIB, 24 * MIB)]),
        ("memmap=16M@0 memmap=8M", [("System RAM", 0, 8 * MIB)]),
        (
            "memmap=16M@0 memmap=1M\\$1M",
            [("System RAM", 0, MIB), ("Reserved", MIB, 2 * MIB), ("System RAM#2", 2 * MIB, 16 * MIB)],
        ),
        ("memmap=16M@0 memmap=1M%15M-1", [("System RAM", 0, 15 * MIB)]),
        ("memmap=16M@0 memmap=1M%15M+5", [("System RAM", 0, 15 * MIB), ("Unusable memory", 15 * MIB, 16 * MIB)]),
        (
            "memmap=16M@0 memmap=2M%15M-0x1+0xefffffff",
            [("System RAM", 0, 15 * MIB), ("Soft Reserved", 15 * MIB, 16 * MIB)],
        ),
        (
            "memmap=1M$1M memmap=4M@0",
            [("System RAM", 0, MIB), ("Reserved", MIB, 2 * MIB), ("System RAM#2", 2 * MIB, 4 * MIB)],
        ),
    ],
)
def test_each_form_of_memmap(parameters: str, expected: list[tuple[str, int, int]]) -> None:
    space = load(f"root=/dev/vda {parameters} quiet".encode())
    assert [(region.name, region.base, region.end) for region in space.regions] == expected


def test_a_part_of_memmap_that_is_wrong_is_named() -> None:
    for part in ("16M@", "x", "1M^2M", "16M@0,nothing"):
        with pytest.raises(FormatError, match="memmap="):
            load(f"memmap={part}".encode(), format="memmap")


KINDS = ("ram", "firmware", "Reserved", "ACPI Tables", "ACPI Non-volatile Storage", "Unusable memory", "Soft Reserved")


@st.composite
def firmware_maps(draw: st.DrawFn) -> AddressSpace:
    """As such a file gives them, but for how kinds are numbered."""
    entries, base = [], 0
    for _ in range(draw(st.integers(1, 8))):
        base += draw(st.integers(0, 3)) * 0x1400
        size = draw(st.integers(1, 5)) * 0xC00
        entries.append((base, base + size, draw(st.sampled_from(KINDS))))
        base += size
    lines = [
        f"{number} {base:#x} {end - 1:#x} {'System RAM' if kind == 'ram' else kind}"
        for number, (base, end, kind) in enumerate(entries)
    ]
    return load("\n".join(lines).replace("firmware", "Reserved").encode())


@pytest.mark.parametrize("format_", ["e820", "log", "memmap"])
@given(space=firmware_maps())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_firmwares_map_comes_back(tmp_path: Path, format_: str, space: AddressSpace) -> None:
    path = tmp_path / "map"
    dump(space, path, format=format_)
    assert load(path, format=format_).snapshot() == space.snapshot()


def test_a_machines_map_tells_its_firmware_of_memory_but_not_of_dimms(tmp_path: Path) -> None:
    regions = [
        AddressSpaceRegion("ram", 0, "1MiB", name="low"),
        AddressSpaceRegion.create_firmware_region(0xFFF0_0000, "1MiB", name="bios"),
        AddressSpaceRegion.create_device_region(1 << 45, "1MiB", name="uart"),
        AddressSpaceRegion("ram", 1 << 32, "1GiB", is_hotplug=True),
    ]
    dump(AddressSpace.from_regions(regions, LAYOUT), tmp_path / "table.e820")
    space = load(tmp_path / "table.e820", format="e820")
    assert kinds(space) == [("System RAM", "ram", 0, MIB), ("Reserved", "device", 0xFFF0_0000, 1 << 32)]


def test_srat_knows_nodes_and_room() -> None:
    space = load(SAMPLES / "srat-qemu72-2-nodes-hotplug.bin")
    assert kinds(space) == [
        ("node 0", "ram", 0, 0xA_0000),
        ("node 0#2", "ram", 0x10_0000, 0x2000_0000),
        ("node 1", "ram", 0x2000_0000, 0x4000_0000),
    ]
    assert space.layout.mem_end == 0x2_4000_0000, "RAM may be plugged in up to there"


def test_our_tables_are_read_back() -> None:
    plan = AddressSpaceBuilder("q35", numa_regions=["1GiB", "3GiB"], hotplug=Hotplug("16GiB")).plan()
    table = tables.srat(plan.numa_nodes, hotplug_window=plan.hotplug_window, arch="x86_64")
    there = [AddressRange(info.base, info.size) for node in plan.numa_nodes.values() for info in node.region_infos]
    space = load(table)
    assert sorted(AddressRange(region.base, region.size) for region in space.regions) == sorted(there)
    assert plan.hotplug_window is not None
    assert space.layout.mem_end == plan.hotplug_window.end
    with pytest.raises(FormatError, match="the checksum is wrong"):
        load(table[:-1] + bytes([table[-1] ^ 1]))


def test_a_device_tree_has_memory_and_keeps_some_of_it(tmp_path: Path) -> None:
    program = shutil.which("dtc")
    require(program, "there is no dtc (Debian: device-tree-compiler)")
    source = """/dts-v1/;
/memreserve/ 0x40100000 0x1000;
/ {
    #address-cells = <2>; #size-cells = <2>;
    memory@80000000 { device_type = "memory"; reg = <0 0x80000000 0 0x40000000>; numa-node-id = <1>; };
    memory@40000000 { device_type = "memory"; reg = <0 0x40000000 0 0x40000000 4 0 1 0>; };
    reserved-memory { #address-cells = <1>; #size-cells = <1>; ranges; secure@50000000 { reg = <0x50000000 0x1000>; no-map; }; };
};
"""
    tree = subprocess.run([str(program), "-O", "dtb"], input=source.encode(), capture_output=True, check=True).stdout
    assert ram(load(tree)) == [
        (0x4000_0000, 0x4010_0000),
        (0x4010_1000, 0x5000_0000),
        (0x5000_1000, 0xC000_0000),
        (4 << 32, 5 << 32),
    ]
    reserved = [(region.base, region.end) for region in load(tree).regions if region.region_type.value == "device"]
    assert reserved == [(0x4010_0000, 0x4010_1000), (0x5000_0000, 0x5000_1000)]
