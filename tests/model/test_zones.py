"""Zones: parts of a machine's memory with their own source, pages, policy and name; nodes without memory."""

import copy
import json
import os
import pickle
import re
import struct
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import (
    AddressSpace,
    AddressSpaceBuilder,
    AddressSpacePlan,
    AddressSpaceRegion,
    BackingError,
    BackingOptions,
    Hotplug,
    InvalidAddressRange,
    InvalidArgument,
    InvalidMemorySourceType,
    Machine,
    MapFlags,
    NumaNode,
    NumaNodeInfo,
    NumaPolicy,
    NumaRegionInfo,
)
from dbs_address_space.tables import srat
from hypothesis import given, settings
from hypothesis import strategies as st

MIB, GIB = 1 << 20, 1 << 30


def plan(*infos: NumaRegionInfo | int | str, machine: str | Machine = "q35", **options: Any) -> AddressSpacePlan:
    return AddressSpaceBuilder(machine, numa_regions=infos, **options).plan()


def described(region: AddressSpaceRegion) -> tuple[Any, ...]:
    policy, populated = region.backing.policy, bool(region.perm_flags & MapFlags.POPULATE)
    source = region.mem_type and region.mem_type.value
    return region.name, source, region.page_size, policy and policy.mode, populated, region.host_numa_node_id


def test_each_zone_has_its_own_choices() -> None:
    made = plan(
        NumaRegionInfo("1GiB", 0, 0, [0], mem_type="hugeshmem", page_size="1GiB", policy="bind", prefault=True),
        NumaRegionInfo("1GiB", 1, 1, [1], mem_type="mmap", prefault=False, name="slow"),
        NumaRegionInfo("1GiB", 1, 1, policy=NumaPolicy("interleave", "0-1")),
        mem_prealloc=True,
        backing=BackingOptions(policy="preferred", dontdump=True),
    )
    assert made.problems == ()
    assert [described(region) for region in made.regions] == [
        ("ram0", "hugeshmem", GIB, "bind", True, 0),
        ("slow", "mmap", None, "preferred", False, 1),
        ("ram2", "shmem", None, "interleave", True, 1),
    ]
    assert all(region.backing.dontdump for region in made.regions)
    assert made.cost.pages == {GIB: 1, 4096: 2 * GIB // 4096}
    assert made.cost.nodes == {0: GIB, 1: GIB, None: GIB}


def test_a_zone_that_is_split_has_numbered_names() -> None:
    made = plan(NumaRegionInfo("3GiB", name="low"), NumaRegionInfo("1GiB"))
    assert [region.name for region in made.regions] == ["low", "low-1", "ram2"]
    (problem,) = plan(NumaRegionInfo("1GiB", name="ram1"), "1GiB").problems
    assert problem.startswith("two regions have the name of 'ram1' [0x4000_0000")
    assert "name" in plan(NumaRegionInfo("1GiB", name="it"), NumaRegionInfo("1GiB", name="it")).problems[0]


def test_every_huge_zone_on_files_needs_a_path() -> None:
    zone = NumaRegionInfo("4MiB", mem_type="hugetlbfs", mem_file_path="/dev/hugepages/vm", page_size="2MiB")
    made = plan("1GiB", zone)
    assert made.problems == ()
    assert [region.mem_file_path for region in made.regions] == ["", "/dev/hugepages/vm1"]
    (problem,) = plan("1GiB", NumaRegionInfo("4MiB", mem_type="hugetlbfs")).problems
    assert "needs mem_file_path" in problem


@pytest.mark.parametrize(
    ("before", "said"), [("512MiB", "512 MiB more or 512 MiB less"), ("1792MiB", "256 MiB more or 768 MiB less")]
)
def test_a_zone_that_would_not_begin_at_a_page_is_a_problem(before: str, said: str) -> None:
    big = NumaRegionInfo("1GiB", mem_type="hugeshmem", page_size="1GiB")
    made = plan(before, big, "1GiB")
    assert made.problems == (
        f"numa_regions[1] has pages of 1 GiB and would not begin at one: give the memory before it {said}",
    )
    assert plan("1GiB", big, "1GiB").problems == plan("512MiB", "512MiB", big).problems == ()


def test_pages_of_each_zone_are_whole_at_the_hole() -> None:
    odd = Machine("odd", mem_start=0, mem_end=64 * GIB, phys_bits=40, min_split=0, mmio_windows=[(5 * GIB // 2, GIB)])
    zone = NumaRegionInfo("3GiB", mem_type="hugeshmem", page_size="1GiB")
    made = plan(zone, machine=odd)
    assert made.problems == ()
    assert [(region.base, region.size) for region in made.regions] == [(0, 2 * GIB), (4 * GIB, GIB)]
    (problem,) = plan(NumaRegionInfo(GIB + 2 * MIB, mem_type="hugeshmem", page_size="1GiB"), machine=odd).problems
    assert "not a multiple of its page size 1 GiB" in problem


def test_a_node_may_have_no_memory() -> None:
    made = plan(
        NumaRegionInfo("1GiB", None, 0, [0]),
        NumaRegionInfo(0, None, 1, [1, 2]),
        NumaRegionInfo(0, None, 2),
        hotplug=Hotplug("4GiB", 1),
    )
    assert made.problems == ()
    assert made.numa_nodes == {0: NumaNode([NumaNodeInfo(0, GIB)], [0]), 1: NumaNode([], [1, 2]), 2: NumaNode()}
    assert [region.size for region in made.regions] == [GIB]
    assert "guest node 1: 0 B, vCPUs 1-2" in str(made).splitlines()
    (space, *_) = [made.build()]
    assert space.ram_size == GIB
    with pytest.raises(InvalidAddressRange, match="needs its guest_numa_node_id"):
        NumaRegionInfo(0)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"mem_type": "SHMEM"}, InvalidMemorySourceType),
        ({"page_size": -1}, InvalidAddressRange),
        ({"policy": "local"}, InvalidArgument),
        ({"policy": 5}, TypeError),
        ({"prefault": "yes"}, TypeError),
        ({"name": 5}, TypeError),
        ({"pagesize": 5}, TypeError),
    ],
)
def test_wrong_choices_are_refused_at_once(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        NumaRegionInfo("1GiB", **options)


def test_a_node_may_have_devices_alone() -> None:
    devices = ("0000:01:00.0", "0000:02:1f.7")
    made = plan(NumaRegionInfo("1GiB", None, 0, [0]), NumaRegionInfo(0, None, 1, generic_initiators=iter(devices)))
    assert made.problems == ()
    assert made.numa_nodes[1] == NumaNode(generic_initiators=devices) != NumaNode()
    assert "guest node 1: 0 B, no vCPUs, generic initiators 0000:01:00.0 0000:02:1f.7" in str(made).splitlines()
    assert json.loads(made.to_json())["numa_nodes"]["1"]["generic_initiators"] == list(devices)
    assert NumaNode(generic_initiators=["1:A.3"]).generic_initiators == ("0000:01:0a.3",)
    shared = [NumaRegionInfo("1GiB", None, node, generic_initiators=devices[:1]) for node in (0, 1, 1)]
    assert plan(*shared).problems == ("the PCI device 0000:01:00.0 is twice in the guest node 1",)


@pytest.mark.parametrize(
    ("devices", "error"),
    [(["01:20.0"], InvalidArgument), (["gpu"], InvalidArgument), ("01:00.0", TypeError), ([1], TypeError)],
)
@pytest.mark.parametrize("make", [NumaNode, partial(NumaRegionInfo, 0, None, 1)])
def test_what_is_not_a_pci_device_is_refused(make: Any, devices: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="generic_initiators"):
        make(generic_initiators=devices)


def test_what_no_zone_can_have_is_a_problem() -> None:
    (problem,) = plan(NumaRegionInfo("1GiB", page_size="2MiB")).problems
    assert "page_size" in problem
    problems = plan(NumaRegionInfo("1GiB", name="")).problems
    assert ["name" in problem for problem in problems] == [True]


zones = st.builds(
    NumaRegionInfo,
    st.integers(1, 64).map(lambda count: count << 30),
    st.none() | st.integers(0, 3),
    st.integers(0, 3),
    mem_type=st.sampled_from([None, "shmem", "mmap", "hugeshmem", "hugemmap"]),
    policy=st.sampled_from([None, "bind", NumaPolicy("interleave", "0-1", strict=True)]),
    prefault=st.sampled_from([None, True, False]),
    generic_initiators=st.sampled_from([(), ("0000:01:00.0",), ("0001:ff:1f.7", "0000:00:02.0")]),
)


@settings(max_examples=100, deadline=None)
@given(infos=st.lists(zones, min_size=1, max_size=6), machine=st.sampled_from(["dragonball", "pc", "q35", "virt"]))
def test_any_zones_hold_what_was_asked_and_travel(infos: list[NumaRegionInfo], machine: str) -> None:
    made = plan(*infos, machine=machine, mem_type="mmap")
    devices = [(info.guest_numa_node_id, device) for info in infos for device in info.generic_initiators]
    assert bool(made.problems) == (len(set(devices)) < len(devices))
    sources = {info.mem_type.value if info.mem_type else "mmap" for info in infos}
    assert {region.mem_type.value for region in made.regions if region.mem_type} == sources
    assert sum(region.size for region in made.regions) == sum(info.size for info in infos)
    for again in (AddressSpacePlan.from_json(made.to_json()), pickle.loads(pickle.dumps(made))):
        assert (again, again.regions) == (made, made.regions)
    for info in infos:
        assert copy.deepcopy(info) == pickle.loads(pickle.dumps(info)) == info
        assert eval(repr(info)) == info


def test_zones_are_keyed_in_json() -> None:
    info = NumaRegionInfo("1GiB", mem_type="hugetlbfs", mem_file_path=Path("/x"), policy="bind", name="a")
    (zone,) = json.loads(plan(info).to_json())["builder"]["numa_regions"]
    assert {key: zone[key] for key in ("size", "mem_type", "mem_file_path", "name")} == {
        "size": GIB,
        "mem_type": "hugetlbfs",
        "mem_file_path": "/x",
        "name": "a",
    }
    assert zone["policy"]["mode"] == "bind"
    assert "prefault" not in zone


# Files.


def filled(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_the_parts_of_a_zone_lie_one_behind_the_other_in_its_file(tmp_path: Path) -> None:
    path = filled(tmp_path / "ram", 3 * GIB)
    made = plan(NumaRegionInfo("3GiB", file=path, name="ram"), "1GiB")
    assert made.problems == ()
    assert [(region.mem_file_path, region.file_offset) for region in made.regions[:2]] == [
        (str(path), 0),
        (str(path), 2 * GIB),
    ]
    space = made.build()
    space.memory.write(2 * GIB - 4, b"last")
    space.memory.write(4 * GIB, b"next")
    with path.open("rb") as file:
        file.seek(2 * GIB - 4)
        assert file.read(8) == b"lastnext"
    assert space["ram"].has_file
    assert made == pickle.loads(pickle.dumps(made)) == AddressSpacePlan.from_json(made.to_json())
    assert pickle.loads(pickle.dumps(space["ram"])) == space["ram"]


def test_a_private_zone_leaves_its_file_alone(tmp_path: Path) -> None:
    path = filled(tmp_path / "golden", MIB)
    path.write_bytes(b"golden".ljust(MIB, b"\0"))
    path.chmod(0o400)
    made = plan(NumaRegionInfo("1MiB", file=path, shared=False))
    memories = [made.build().memory for _ in range(2)]
    memories[0].write(0, b"brazen")
    assert [memory.read(0, 6) for memory in memories] == [b"brazen", b"golden"]
    assert path.read_bytes()[:6] == b"golden"
    assert not memories[0].regions[0].perm_flags & MapFlags.SHARED


def test_a_folder_has_a_new_file_without_a_name(tmp_path: Path) -> None:
    memory = plan(NumaRegionInfo("1MiB", file=tmp_path)).build().memory
    memory.write(0, b"x")
    fd = memory.mapping(0).fd
    assert fd is not None
    assert Path(f"/proc/self/fd/{fd}").readlink().parent == tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["none", "short", "fifo"])
def test_a_file_that_does_not_do_is_told_when_it_is_mapped(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "short":
        filled(path, MIB - 1)
    elif kind == "fifo":
        os.mkfifo(path)
    for shared in (True, False):
        with pytest.raises(BackingError, match="ram0"):
            plan(NumaRegionInfo("1MiB", file=path, shared=shared)).build()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"file": "x", "mem_type": "shmem"}, "file= is the source"),
        ({"file": "x", "page_size": "2MiB"}, "file= is the source"),
        ({"file": "x", "mem_file_path": "y"}, "file= is the source"),
        ({"shared": False}, "goes with file="),
    ],
)
def test_a_zone_has_one_source(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        NumaRegionInfo("1GiB", **options)


def test_a_zone_over_a_file_takes_no_huge_pages_of_the_builder(tmp_path: Path) -> None:
    path = filled(tmp_path / "ram", MIB)
    made = plan(NumaRegionInfo("2MiB"), NumaRegionInfo("1MiB", file=path), mem_type="hugeshmem")
    assert made.problems == ()
    assert [region.page_size for region in made.regions] == [2 * MIB, None]


def test_a_region_may_name_its_file(tmp_path: Path) -> None:
    path = filled(tmp_path / "ram", MIB)
    region = AddressSpaceRegion("ram", 0, MIB // 2, mem_file_path=str(path), file_offset=MIB // 2)
    layout = AddressSpaceBuilder(numa_regions=["1MiB"]).plan().layout
    with AddressSpace.from_regions([region], layout).map_memory() as memory:
        memory.write(0, b"half")
    assert path.read_bytes()[MIB // 2 :][:4] == b"half"
    for wrong in ({"mem_type": "shmem"}, {"file": 0}):
        with pytest.raises(InvalidArgument):
            AddressSpaceRegion("ram", 0, MIB, mem_file_path=str(path), **wrong)


# Room for more.


def test_each_zone_has_its_own_room() -> None:
    zones = [
        NumaRegionInfo("1GiB", None, 0, hotplug_size="2GiB", name="a"),
        NumaRegionInfo(0, None, 1, hotplug_size="1GiB"),
    ]
    made = plan(*zones, hotplug=Hotplug("2GiB", slots=1))
    assert made.problems == ()
    window = made.hotplug_window
    assert window is not None
    rooms = [(info.base, info.size) for node in made.numa_nodes.values() for info in node.hotplug_infos]
    assert rooms == [(window.end, 2 * GIB), (window.end + 2 * GIB, GIB)]
    assert made.layout.mem_end >= rooms[-1][0] + GIB
    assert AddressSpacePlan.from_json(made.to_json()) == made
    assert "hotplug of 'a'" in str(made)
    space = made.build()
    owners = {one.owner: (one.base, one.size) for one in space.reservations}
    assert owners["hotplug a"] == rooms[0]
    assert owners["hotplug node1"] == rooms[1]
    assert {"hotplug"} == owners.keys() - {"hotplug a", "hotplug node1"}
    table = srat(made.numa_nodes)
    for node, (base, size) in enumerate(rooms):
        assert struct.pack("<IHQQIIQ", node, 0, base, size, 0, 3, 0) in table


def test_room_that_can_not_be_is_a_problem() -> None:
    small = Machine("small", mem_start=0, mem_end=2 * GIB, phys_bits=36)
    for size, text in (("4KiB", "whole pages of 2 MiB"), (0, "whole pages"), ("8GiB", "does not fit below mem_end")):
        made = plan(NumaRegionInfo("1GiB", hotplug_size=size, mem_type="hugeshmem"), machine=small)
        assert [text in problem for problem in made.problems] == [True]


# A DAX window where one wants it.


def test_a_dax_window_lies_where_it_is_asked_for() -> None:
    made = plan("1GiB", dax_window=(3 * GIB, 512 * MIB))
    assert made.problems == ()
    assert (made.regions[-1].base, made.regions[-1].size) == (3 * GIB, 512 * MIB)
    assert AddressSpacePlan.from_json(made.to_json()) == pickle.loads(pickle.dumps(made)) == made
    with made.build() as space:
        assert space.memory.dax_window("dax0").mappings == ()


@pytest.mark.parametrize(
    ("window", "text"),
    [
        ((3 * GIB + 4096, GIB), "a multiple of 2 MiB"),
        ((0, GIB), "overlaps .*ram0"),
        ((GIB, GIB), "must lie between mem_end"),
        ((3 * GIB, 4096), "multiple of 2 MiB"),
        ((1 << 60, 2 * MIB), "past phys_end"),
        ((4 * GIB - 2 * MIB, 2 * MIB), "the firmware|overlaps"),
    ],
)
def test_a_dax_window_that_can_not_be_there_is_a_problem(window: tuple[int, int], text: str) -> None:
    problems = plan("1GiB", dax_window=window, firmware=True).problems
    assert any(re.search(text, problem) for problem in problems)
