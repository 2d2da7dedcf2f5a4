"""The memory of a running QEMU as a space of ours: real machines, whose guests and monitors see what is written here."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import (
    AddressRange,
    AddressSpace,
    AddressSpaceBuilder,
    InvalidArgument,
    NumaRegionInfo,
    RegionBusy,
    Unsupported,
)
from dbs_address_space.adapters import qemu
from dbs_address_space.adapters._qemu_map import flat_view
from memory_helpers import GIB, MIB, PAGE, ram
from test_qemu import Qmp, running
from threads import until

MEMFD = "memory-backend-memfd,share=on"
HOLE = {"pc": 3 * GIB, "q35": 2 * GIB}
"""Where RAM ends below 4 GiB when there are 6 GiB of it."""


def machine(kind: str, size: str, backend: str = MEMFD) -> list[str]:
    return [
        "-M",
        f"{kind},memory-backend=ram0",
        "-m",
        size,
        "-object",
        f"{backend},id=ram0,size={size.partition(',')[0]}",
    ]


def seen_by_guest(qmp: Qmp, directory: Path, addr: int, size: int) -> bytes:
    dump = directory / "dump"
    qmp("pmemsave", {"val": addr, "size": size, "filename": str(dump)})
    return dump.read_bytes()


def monitor(qmp: Qmp, line: str) -> str:
    said: str = qmp("human-monitor-command", {"command-line": line})
    return said


def shows_ram_below(qmp: Qmp, end: int) -> None:
    """Shows RAM behind the BIOS of a stopped "pc", as firmware does for a while: all PAM registers (0x59-0x5f)."""
    for register, value in ((0x59, 0x30), *((one, 0x33) for one in range(0x5A, 0x60))):
        monitor(qmp, f"o /w 0xcf8 {0x80000000 | register & ~3:#x}")
        monitor(qmp, f"o /b {0xCFC + register % 4:#x} {value:#x}")
    bases = {found.base for found in flat_view(monitor(qmp, "info mtree -f")) if found.kind == "ram"}
    assert bases
    assert end not in bases


def reserved(space: AddressSpace) -> list[AddressRange]:
    return [AddressRange(reservation.base, reservation.size) for reservation in space.reservations]


@pytest.mark.parametrize("kind", ["pc", "q35"])
def test_bytes_lie_where_the_guest_has_them(tmp_path: Path, kind: str) -> None:
    with running(tmp_path, *machine(kind, "6G,slots=2,maxmem=16G"), "-S") as qmp, qemu.open_space(qmp) as opened:
        space, memory = opened.space, opened.memory
        assert memory.mapping(4 * GIB).file_offset == HOLE[kind]
        assert space.find_region(HOLE[kind] - 1).end == HOLE[kind]  # type: ignore[union-attr]
        assert space["ram0"].base == 0
        assert space.last_addr == 4 * GIB + 6 * GIB - HOLE[kind] - 1
        for addr in (0x1000, 0x9F000, MIB, HOLE[kind] - 16, 4 * GIB, space.last_addr - 15):
            memory.write(addr, b"%016x" % addr)
            assert seen_by_guest(qmp, tmp_path, addr, 16) == b"%016x" % addr
        *holes, room = reserved(space)
        assert AddressRange(HOLE[kind], 4 * GIB - HOLE[kind]) in holes
        # Room for memory devices: 10 GiB, and 1 GiB for each of two slots to be aligned in.
        assert room.base == space.last_addr + 1
        assert room.size >= 10 * GIB


@pytest.mark.parametrize("kind", ["pc", "q35"])
def test_what_firmware_moves_is_followed(tmp_path: Path, kind: str) -> None:
    """The RAM behind the BIOS comes to light without an event; what has not moved keeps its views."""
    with running(tmp_path, *machine(kind, "5G"), "-S") as qmp, qemu.open_space(qmp) as opened:
        assert opened.space.find_region(0xC0000) is None
        assert not opened.refresh()
        with opened.memory.view(4 * GIB, PAGE, unguarded=True):
            qmp("cont", {})
            until(lambda: [opened.refresh(), opened.space.find_region(0xC0000)][1])
        qmp("stop", {})
        opened.refresh()
        assert opened.memory.read(0xC0000, 64) == seen_by_guest(qmp, tmp_path, 0xC0000, 64)
        shown = opened.memory.mapping(0xC0000)
        assert shown.file_offset == shown.base


def test_a_range_that_goes_while_it_is_held_changes_nothing(tmp_path: Path) -> None:
    with running(tmp_path, *machine("pc", "1G"), "-S") as qmp, qemu.open_space(qmp) as opened:
        before, reservations = opened.space.snapshot(), len(opened.space.reservations)
        with opened.memory.view(MIB, PAGE, unguarded=True):
            shows_ram_below(qmp, MIB)
            with pytest.raises(RegionBusy):
                opened.refresh()
            assert opened.space.snapshot() == before
            assert len(opened.space.reservations) == reservations
        assert opened.refresh()
        assert opened.space.find_region(0xC0000)


@pytest.mark.parametrize("path", ["file", "directory"])
def test_a_file_is_found_whatever_its_path(tmp_path: Path, path: str) -> None:
    place = "/dev/shm" if path == "directory" else str(tmp_path / "ram")
    backend = f"memory-backend-file,share=on,mem-path={place}"
    with running(tmp_path, *machine("q35", "256M", backend), "-S") as qmp, qemu.open_space(qmp) as opened:
        opened.memory.write(MIB, b"through a file")
        assert seen_by_guest(qmp, tmp_path, MIB, 14) == b"through a file"


def test_two_equal_backends_are_told_apart(tmp_path: Path) -> None:
    nodes = []
    for node in (0, 1):
        nodes += ["-object", f"{MEMFD},id=node{node},size=64M", "-numa", f"node,nodeid={node},memdev=node{node}"]
    with running(tmp_path, "-M", "q35", "-m", "128M", *nodes, "-S") as qmp, qemu.open_space(qmp) as opened:
        assert {"node0", "node1"} <= {region.name for region in opened.space}
        for number, base in enumerate((MIB, 64 * MIB)):
            opened.memory.write(base, b"node %d" % number)
        assert [seen_by_guest(qmp, tmp_path, base, 6) for base in (MIB, 64 * MIB)] == [b"node 0", b"node 1"]


@pytest.mark.parametrize(
    "backend", ["memory-backend-memfd,share=off", "memory-backend-ram", "memory-backend-ram,share=on"]
)
def test_memory_that_no_file_shows_is_refused(tmp_path: Path, backend: str) -> None:
    with (
        running(tmp_path, *machine("q35", "64M", backend), "-S") as qmp,
        pytest.raises(Unsupported, match="RAM 'ram0'") as refused,
    ):
        qemu.open_space(qmp)
    assert "share=on" in refused.value.how


def test_the_default_memory_is_refused(tmp_path: Path) -> None:
    with running(tmp_path, "-M", "q35", "-m", "64M", "-S") as qmp, pytest.raises(Unsupported, match="is private to it"):
        qemu.open_space(qmp)


def test_video_memory_and_what_devices_share_are_not_ram(tmp_path: Path) -> None:
    devices = ["-object", f"{MEMFD},id=shared,size=4M", "-device", "ivshmem-plain,memdev=shared", "-device", "VGA"]
    with running(tmp_path, *machine("pc", "256M"), *devices) as qmp:
        # Firmware gives them their addresses.
        until(lambda: all(name in monitor(qmp, "info mtree -f") for name in ("vga.vram", "ram): shared")))
        with qemu.open_space(qmp) as opened:
            assert {str(region.name).partition("@")[0] for region in opened.space} == {"ram0"}
        read = qemu.read_space(qmp)
        kinds = {str(region.name).partition("@")[0]: region.region_type.value for region in read}
        assert (kinds["ram0"], kinds["vga.vram"], kinds["shared"]) == ("ram", "device", "device")
        tree = qemu.space_of_tree(monitor(qmp, "info mtree -f"))
        assert tree["vga.vram"].region_type.value == "device"
        above = next(region for region in tree if region.base <= MIB < region.end)
        assert above.name == f"ram0@{above.base:#x}"


def test_a_module_that_is_plugged_is_followed(tmp_path: Path) -> None:
    with running(tmp_path, *machine("q35", "256M,slots=2,maxmem=4G"), "-S") as qmp, qemu.open_space(qmp) as opened:
        before = opened.space.snapshot()
        backend = {"qom-type": "memory-backend-memfd", "id": "more", "size": 128 * MIB, "share": True}
        qmp("object-add", backend)
        qmp("device_add", {"driver": "pc-dimm", "id": "dimm1", "memdev": "more"})
        change = opened.refresh()
        assert (change.before, [region.name for region in change.added]) == (before, ["dimm1"])
        plugged = opened.space["dimm1"]
        assert (plugged.is_hotplug, plugged.size) == (True, 128 * MIB)
        opened.memory.write(plugged.base, b"plugged")
        assert seen_by_guest(qmp, tmp_path, plugged.base, 7) == b"plugged"
        assert not any(plugged.base in room for room in reserved(opened.space))
        assert any(plugged.end in room for room in reserved(opened.space))
        qmp("device_del", {"id": "dimm1"})
        # Nobody runs there who could let it go.
        assert not opened.refresh()


def test_what_a_virtio_mem_device_has_not_plugged_is_reserved(tmp_path: Path) -> None:
    resizable = ["-object", f"{MEMFD},id=more,size=1G", "-device", "virtio-mem-pci,id=vm0,memdev=more,requested-size=0"]
    with running(tmp_path, *machine("q35", "256M,maxmem=4G"), *resizable, "-S") as qmp, qemu.open_space(qmp) as opened:
        (device,) = qmp("query-memory-devices", {})
        assert opened.space.find_region(device["data"]["memaddr"]) is None
        assert any(device["data"]["memaddr"] in room for room in reserved(opened.space))


def test_a_loop_may_await_the_answers(tmp_path: Path) -> None:
    with running(tmp_path, *machine("q35", "64M"), "-S") as qmp:
        pid = qemu.open_space(qmp).pid

        async def execute(command: str, arguments: dict[str, Any]) -> Any:
            return await asyncio.to_thread(qmp, command, arguments)

        async def main() -> None:
            with await qemu.open_space_async(execute, pid=pid) as opened:
                opened.memory.write(MIB, b"awaited")
                assert not await opened.refresh_async()

        asyncio.run(main())
        assert seen_by_guest(qmp, tmp_path, MIB, 7) == b"awaited"
        with pytest.raises(TypeError, match="returned a coroutine"):
            qemu.open_space(execute, pid=pid)


def test_a_process_that_is_not_known_and_a_map_that_never_rests_are_errors(tmp_path: Path) -> None:
    with running(tmp_path, *machine("q35", "64M"), "-S") as qmp:
        with pytest.raises(InvalidArgument, match="pid is not given"):
            qemu.open_space(qmp.__call__)
        looks = iter(range(1000))

        def moving(command: str, arguments: dict[str, Any]) -> Any:
            answer = qmp(command, arguments)
            return f"{answer} {next(looks)}" if arguments.get("command-line") == "info mtree -f" else answer

        with pytest.raises(TimeoutError, match="moved during each of 20 looks"):
            qemu.open_space(moving, pid=qemu.open_space(qmp).pid)
        with pytest.raises(FileNotFoundError):
            qemu.open_space(qmp, pid=1 << 22)


@pytest.mark.parametrize("kind", ["pc", "q35"])
def test_a_plan_gives_the_nodes_their_memory_and_processors(tmp_path: Path, kind: str) -> None:
    """The first node has RAM on both sides of the hole, and processors that are not neighbours."""
    sizes = {0: "3840MiB", 1: "1GiB"}
    nodes = [NumaRegionInfo(size, guest_numa_node_id=node, vcpu_ids=[node, 3 - node]) for node, size in sizes.items()]
    plan = AddressSpaceBuilder(kind, numa_regions=nodes).plan()
    with qemu.space_of_plan(plan) as space:
        assert len(plan.numa_nodes[0].region_infos) == 2
        arguments = qemu.memory_arguments(space.memory, plan=plan)
        with running(tmp_path, "-M", kind, *arguments, "-S") as qmp, qemu.open_space(qmp) as opened:
            said = monitor(qmp, "info numa").replace("\r", "")
            for node, parts in plan.numa_nodes.items():
                assert f"node {node} cpus: {' '.join(map(str, sorted(parts.vcpu_ids)))}\n" in said
                assert f"node {node} size: {sum(info.size for info in parts.region_infos) // MIB} MB" in said
                for info in parts.region_infos:
                    last = info.base + info.size - 16
                    space.memory.write(last, b"%016x" % last)
                    assert opened.memory.read(last, 16) == seen_by_guest(qmp, tmp_path, last, 16) == b"%016x" % last


def test_nodes_that_qemu_can_not_have_are_refused() -> None:
    nodes = [NumaRegionInfo("3GiB", guest_numa_node_id=0), NumaRegionInfo("64MiB", guest_numa_node_id=1)]
    plan = AddressSpaceBuilder("q35", numa_regions=nodes).plan()
    with plan.build() as space, pytest.raises(Unsupported, match="RAM of node 0, from 0x0 on, is not one file"):
        qemu.memory_arguments(space.memory, plan=plan)
    swapped = [NumaRegionInfo("64MiB", guest_numa_node_id=1), NumaRegionInfo("64MiB", guest_numa_node_id=0)]
    plan = AddressSpaceBuilder("q35", numa_regions=swapped).plan()
    with qemu.space_of_plan(plan) as space, pytest.raises(Unsupported, match="node 0, from 0x4000000 on"):
        qemu.memory_arguments(space.memory, plan=plan)
    plan = AddressSpaceBuilder("q35", numa_regions=nodes[1:]).plan()
    with qemu.space_of_plan(plan) as space:
        space.insert_region(ram(GIB, name="more"))
        with pytest.raises(Unsupported, match="the RAM at 0x40000000 is in no node"):
            qemu.memory_arguments(space.memory, plan=plan)
    devices = [NumaRegionInfo("64MiB"), NumaRegionInfo(0, guest_numa_node_id=1, generic_initiators=["0000:01:00.0"])]
    plan = AddressSpaceBuilder("q35", numa_regions=devices).plan()
    with qemu.space_of_plan(plan) as space, pytest.raises(Unsupported, match="generic initiator 0000:01"):
        qemu.memory_arguments(space.memory, plan=plan)
    private = [NumaRegionInfo("3GiB", guest_numa_node_id=0)]
    plan = AddressSpaceBuilder("q35", numa_regions=private, mem_type="mmap").plan()
    with pytest.raises(Unsupported, match="must be one file of small pages"):
        qemu.space_of_plan(plan)
