"""Machines that libvirt and QEMU describe: their maps are those that QEMU makes, and plans travel there and back."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import (
    AddressSpace,
    AddressSpaceBuilder,
    AddressSpacePlan,
    FormatError,
    Hotplug,
    InvalidPlan,
    Machine,
    MapFlags,
    MemorySourceType,
    NumaPolicy,
    NumaRegionInfo,
    Unsupported,
    load,
)
from dbs_address_space.formats import libvirt, qemu_arguments
from host import require
from memory_helpers import GIB, MIB
from qemu_helpers import qemu

NOBODY = 65534
SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")
ZONES = [
    NumaRegionInfo("2GiB", None, 0, [0, 2], mem_type="shmem", policy=NumaPolicy("bind", "0"), name="a"),
    NumaRegionInfo("1GiB", None, 1, [1], mem_type="mmap", name="b"),
    NumaRegionInfo(0, None, 2, [3]),
]
PLANS: dict[str, dict[str, Any]] = {
    "one": {"machine": "q35", "numa_regions": [NumaRegionInfo("4GiB", mem_type="shmem")]},
    "pc": {"machine": "pc", "numa_regions": [NumaRegionInfo("1GiB", mem_type="mmap", prefault=True)]},
    "private": {
        "machine": "pc",
        "numa_regions": [NumaRegionInfo("1GiB", None, node, [node], mem_type="mmap") for node in range(2)],
    },
    "zones": {"machine": "q35", "numa_regions": ZONES, "hotplug": Hotplug("16GiB", slots=4)},
    "huge": {
        "machine": "virt",
        "numa_regions": [
            NumaRegionInfo("2GiB", None, 0, [0], mem_type="hugeshmem", page_size="1GiB", prefault=True, name="a"),
            NumaRegionInfo("1GiB", None, 1, [1], mem_type="hugeshmem", page_size="2MiB", prefault=True, name="b"),
        ],
    },
}
DOMAIN = """
<domain type='kvm'>
  <name>guest</name>
  <maxMemory slots='8' unit='GiB'>16</maxMemory>
  <memory>3145728</memory>
  <vcpu>4</vcpu>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <memoryBacking>
    <hugepages><page size='2' unit='M' nodeset='0'/></hugepages>
    <source type='memfd'/>
    <access mode='shared'/>
    <allocation mode='immediate'/>
  </memoryBacking>
  <numatune><memnode cellid='1' mode='preferred' nodeset='0'/></numatune>
  <cpu><numa>
    <cell id='0' cpus='0-3,^1' memory='1' unit='GiB'/>
    <cell id='1' cpus='1' memory='1048576' memAccess='private'/>
  </numa></cpu>
  <devices>
    <memory model='dimm'><target><size unit='MiB'>512</size><node>0</node></target>
      <address type='dimm' slot='0' base='0x180000000'/></memory>
    <memory model='virtio-mem'><target><size unit='MiB'>512</size><node>1</node><block unit='MiB'>2</block></target></memory>
  </devices>
</domain>
"""
LINE = (
    "/usr/bin/qemu-system-x86_64 -nodefaults -machine pc-q35-7.2,accel=kvm -cpu host,phys-bits=40 -m 3G,slots=4,maxmem=16G "
    '-smp 4,sockets=2,cores=2 -object \'{"qom-type": "memory-backend-memfd", "id": "m0", "size": 2147483648}\' '
    "-object memory-backend-memfd,id=m1,size=1G,hugetlb=on,hugetlbsize=2M,prealloc=on,host-nodes=0-1,policy=interleave "
    "-numa node,nodeid=0,memdev=m0 -numa cpu,node-id=0,socket-id=0 -numa node,nodeid=1,memdev=m1 -numa cpu,node-id=1,socket-id=1 "
    "-object memory-backend-ram,id=d0,size=1G -device pc-dimm,id=dimm0,memdev=d0 "
    "-object memory-backend-file,id=d1,size=512M,mem-path=/a,,b,share=on -device pc-dimm,id=dimm1,memdev=d1,addr=0x200000000"
)


def ram(space: AddressSpace) -> list[tuple[int, int, str | None, bool]]:
    return [(one.base, one.size, one.name, one.is_hotplug) for one in space.regions if one.region_type.value == "ram"]


def plan_of(name: str) -> AddressSpacePlan:
    return AddressSpaceBuilder(**PLANS[name]).plan()


def described(plan: AddressSpacePlan | AddressSpace) -> list[tuple[Any, ...]]:
    """All that libvirt knows too: it has no names of zones."""
    return [
        (one.base, one.size, one.mem_type, one.page_size, one.backing.policy, one.perm_flags, one.has_file)
        for one in plan.regions
    ]


@pytest.fixture(scope="module")
def libvirt_home() -> Iterator[Path]:
    """A folder for libvirt's driver, which as root would need a user of libvirt's."""
    with tempfile.TemporaryDirectory() as folder:
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        yield Path(folder)


def libvirts_line(xml: str, home: Path) -> str:
    """The command line that libvirt makes of a domain, without a daemon."""
    require(shutil.which("virsh"), "there is no virsh (Debian: libvirt-clients, libvirt-daemon-driver-qemu)")
    (home / "domain.xml").write_text(xml)
    command = ["virsh", "-q", "-c", f"qemu:///embed?root={home}/root", "domxml-to-native", "qemu-argv"]
    nobody: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home)}
    done = subprocess.run(
        [*command, home / "domain.xml"], check=True, stdout=subprocess.PIPE, text=True, env=environment, **nobody
    )
    said: str = done.stdout
    return said[said.index("/usr/bin/qemu") :]


@pytest.mark.parametrize("name", PLANS)
def test_libvirt_starts_qemu_with_the_memory_of_a_plan(name: str, libvirt_home: Path) -> None:
    plan = plan_of(name)
    xml = libvirt.xml(plan).replace('"kvm"', '"qemu"', 1)
    theirs = load(libvirts_line(xml, libvirt_home).encode())
    assert described(theirs) == described(plan) == described(load(xml.encode()))


def test_a_domain_is_laid_out_as_qemu_does_it() -> None:
    space = load(DOMAIN.encode())
    assert ram(space) == [
        (0, GIB, "ram0", False),
        (GIB, GIB, "ram1", False),
        (6 * GIB, 512 * MIB, "dimm0", True),
        (6 * GIB + 512 * MIB, 512 * MIB, "virtio-mem1", True),
    ]
    low, high = space["ram0"], space["ram1"]
    assert [str(one.mem_type and one.mem_type.value) for one in (low, high)] == ["hugeshmem", "mmap"]
    assert (low.page_size, high.page_size) == (2 * MIB, None)
    assert high.backing.policy == NumaPolicy("preferred", "0")
    assert low.perm_flags & high.perm_flags & MapFlags.POPULATE


def test_a_command_line_is_laid_out_as_qemu_does_it() -> None:
    arguments = ["-m", "3G,slots=4,maxmem=16G", "-smp", "4,sockets=2,cores=2", "-numa", "node,nodeid=0,memdev=m0"]
    arguments += ["-numa", "cpu,node-id=0,socket-id=0", "-numa", "node,nodeid=1,memdev=m1"]
    arguments += ["-numa", "cpu,node-id=1,socket-id=1", "-device", "pc-dimm,id=dimm0,memdev=d0"]
    arguments += ["-device", "pc-dimm,id=dimm1,memdev=d1,addr=0x200000000"]
    for name, size in (("m0", "2G"), ("m1", "1G"), ("d0", "1G"), ("d1", "512M")):
        arguments += ["-object", f"memory-backend-ram,id={name},size={size},reserve=off"]
    with qemu("pc-q35-7.2", *arguments) as oracle:
        devices = [device["data"] for device in oracle.ask("query-memory-devices")]
        flat = oracle.flat_view()
    space = load(LINE.encode())
    plugged = [(device["addr"], device["size"], device["id"], True) for device in devices]
    assert ram(space) == [(0, 2 * GIB, "m0", False), (4 * GIB, GIB, "m1", False), *plugged]
    assert [(low, end) for low, end, _, name in flat if name == "m1"] == [(4 * GIB, 5 * GIB)]
    high = space["m1"]
    assert high.mem_type is MemorySourceType.MEMFD_ON_HUGETLBFS
    assert (high.page_size, high.backing.policy) == (2 * MIB, NumaPolicy("interleave", "0-1"))
    assert space["m0"].mem_type is MemorySourceType.MEMFD_SHARED


@pytest.mark.parametrize("name", ["one", "zones"])
def test_qemu_takes_our_arguments_and_makes_the_plan(name: str) -> None:
    plan = plan_of(name)
    _, machine, *arguments = qemu_arguments.arguments(plan)
    # Nothing is allocated: an address space is all that is asked for.
    small = [argument.replace("memory-backend-memfd", "memory-backend-ram") for argument in arguments]
    with qemu(machine, *small) as oracle:
        flat = [
            (low, end, name)
            for low, end, _, name in oracle.flat_view()
            if low >= 1 << 32 and name in ("ram0", "a", "b")
        ]
    ours = [(one.base, one.end) for one in plan.regions if one.base >= 1 << 32]
    assert [(low, end) for low, end, _ in flat] == ours


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_comes_back_from_qemus_arguments(name: str) -> None:
    plan = plan_of(name)
    program = "qemu-system-aarch64" if name == "huge" else "qemu-system-x86_64"
    line = "\0".join([program, *qemu_arguments.arguments(plan), ""]).encode()
    assert described_space(load(line)) == described(plan)


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_comes_back_from_libvirts_xml(name: str) -> None:
    plan = plan_of(name)
    assert described_space(load(libvirt.xml(plan).encode())) == described(plan)


def described_space(space: AddressSpace) -> list[tuple[Any, ...]]:
    return [
        (one.base, one.size, one.mem_type, one.page_size, one.backing.policy, one.perm_flags, one.has_file)
        for one in space.regions
    ]


@pytest.mark.parametrize("name", PLANS)
def test_libvirts_schema_takes_our_xml(tmp_path: Path, name: str) -> None:
    require(SCHEMA.exists(), "libvirt's schemas are not installed (libvirt0)")
    require(shutil.which("xmllint"), "xmllint is not installed (libxml2-utils)")
    path = tmp_path / "domain.xml"
    path.write_text(libvirt.xml(plan_of(name), name="a & b"))
    done = subprocess.run(
        ["xmllint", "--noout", "--relaxng", SCHEMA, path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("<name>", "<!DOCTYPE domain><name>", "declarations"),
        ("</domain>", "", "not XML"),
        ("domain", "network", "a <network>, not a <domain>"),
        ("pc-q35-7.2", "s390-ccw-virtio", "'s390-ccw-virtio' are not known"),
        ("<memory>3145728<", "<memory>3145729<", "the cells have 0x80000000 bytes"),
        ("<memory>3145728<", "<memory>many<", "'many' is not a number"),
        ("unit='M' nodeset", "unit='pages' nodeset", "'pages' is not a unit"),
        ("cpus='0-3,^1'", "cpus='0-99999'", "not a range of numbers"),
        ("mode='preferred'", "mode='nearest'", "mode 'nearest'"),
        ("base='0x180000000'", "base='top'", "base 'top'"),
        ("base='0x180000000'", "base='0x1000'", "overlaps"),
        ("memory='1' unit='GiB'", "memory='3' unit='b'", "did you mean"),
        ("slots='8'", "slots='0'", "hotplug has 0 slots"),
    ],
)
def test_a_domain_that_can_not_be_is_refused(old: str, new: str, reason: str) -> None:
    text = DOMAIN.replace(old, new)
    assert text != DOMAIN
    with pytest.raises(FormatError, match=reason):
        load(text.encode(), format="libvirt")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("-m 3G,", "-m 4G,", "the nodes have 0xc0000000 bytes, and -m says 0x100000000"),
        ("-m 3G,", "-m many,", "'many' is not a size"),
        ("pc-q35-7.2", "isapc", "'isapc' are not known"),
        ("memdev=m1", "memdev=m7", "no -object with id=m7"),
        ("memory-backend-ram,id=d0", "secret,id=d0", "the object 'd0' is 'secret'"),
        ("slots=4", "slots=some", "'some' is not a number"),
        ("{", "{{", "not JSON"),
        ("policy=interleave", "policy=nearest", "nearest"),
        ("-nodefaults", "'", "not a command line"),
    ],
)
def test_a_command_line_that_can_not_be_is_refused(old: str, new: str, reason: str) -> None:
    text = LINE.replace(old, new, 1)
    assert text != LINE
    with pytest.raises(FormatError, match=reason):
        load(text.encode())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"numa_regions": ["1GiB", "1GiB"]}, "several zones"),
        ({"numa_regions": [NumaRegionInfo("1GiB", hotplug_size="1GiB")]}, "hotplug_size"),
        ({"numa_regions": [NumaRegionInfo("1GiB", generic_initiators=["1:0.0"])]}, "generic initiator 0000:01"),
    ],
)
@pytest.mark.parametrize("write", [libvirt.xml, qemu_arguments.arguments])
def test_what_the_others_do_not_have_is_refused(write: Any, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        write(AddressSpaceBuilder("q35", **options).plan())
    with pytest.raises(InvalidPlan):
        write(AddressSpaceBuilder("microvm", numa_regions=["1GiB"], hotplug=Hotplug("2GiB")).plan())
    with pytest.raises(TypeError):
        write(load(LINE.encode()))


def test_what_one_of_them_does_not_have_is_refused() -> None:
    own = Machine("own", mem_start=0, mem_end=GIB, phys_bits=36)
    for write in (libvirt.xml, qemu_arguments.arguments):
        with pytest.raises(Unsupported, match="the machine 'own'"):
            write(AddressSpaceBuilder(own, numa_regions=["1MiB"]).plan())
    with pytest.raises(Unsupported, match="private huge pages"):
        qemu_arguments.arguments(AddressSpaceBuilder("q35", numa_regions=["2MiB"], mem_type="hugemmap").plan())
    for zones in (
        [NumaRegionInfo("1GiB", file="/ram")],
        [NumaRegionInfo("1GiB", policy=NumaPolicy("preferred-many", "0"))],
    ):
        with pytest.raises(Unsupported):
            libvirt.xml(AddressSpaceBuilder("q35", numa_regions=zones).plan())
    uneven = [NumaRegionInfo("1GiB", None, node, prefault=bool(node)) for node in range(2)]
    with pytest.raises(Unsupported, match="populate all"):
        libvirt.xml(AddressSpaceBuilder("q35", numa_regions=uneven).plan())


def test_this_process_is_not_a_qemu() -> None:
    with pytest.raises(FormatError, match="its format is not recognized"):
        load(Path(f"/proc/{os.getpid()}/cmdline"))
