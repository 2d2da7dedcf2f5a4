"""Zones: parts of a machine's memory with their own source, pages, policy and name; nodes without memory."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import (
    AddressSpaceBuilder,
    AddressSpacePlan,
    AddressSpaceRegion,
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
)


@settings(max_examples=100, deadline=None)
@given(infos=st.lists(zones, min_size=1, max_size=6), machine=st.sampled_from(["dragonball", "pc", "q35", "virt"]))
def test_any_zones_hold_what_was_asked_and_travel(infos: list[NumaRegionInfo], machine: str) -> None:
    made = plan(*infos, machine=machine, mem_type="mmap")
    assert made.problems == ()
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
