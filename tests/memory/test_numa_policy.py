"""NUMA policies: real on the nodes that there are, refused by name on those that there are not, checked on fake hosts."""

from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import (
    AddressSpaceBuilder,
    AddressSpaceRegion,
    BackingOptions,
    GuestMemory,
    InvalidAddressRange,
    NumaError,
    NumaPolicy,
    NumaRegionInfo,
)
from memory_helpers import MIB, WINDOW, mapped, ram

NODES = Path("/sys/devices/system/node")
ABSENT = [1, 62, 63, 64, 65, 1023, 1024, 65535, (1 << 32) - 1]


def absent(node: int) -> bool:
    return not (NODES / f"node{node}").exists()


def memory_with(policy: NumaPolicy | str | None, node: int | None = None, **options: Any) -> GuestMemory:
    backing = BackingOptions(policy=policy, **options)
    return mapped(ram(0, 4 * MIB, mem_type="mmap", host_numa_node_id=node, backing=backing))[1]


@pytest.mark.parametrize("mode", ["bind", "preferred", "preferred-many", "interleave", "weighted-interleave"])
@pytest.mark.parametrize("strict", [False, True])
def test_policies_on_node_0(mode: str, strict: bool) -> None:  # noqa: FBT001
    memory = memory_with(NumaPolicy(mode, [0], strict=strict), alignment="2MiB")
    memory.prealloc()
    (state,) = memory.effective()
    assert state.policy == NumaPolicy(mode, [0])
    (place,) = memory.verify_placement()
    assert place.nodes == {0: place.sampled} == {0: 1024}
    assert place.misplaced == 0
    assert place.policy == NumaPolicy(mode, [0], strict=strict)


def test_pages_that_are_not_there_are_on_no_node() -> None:
    memory = memory_with("bind", 0)
    memory.write(0, b"x")
    memory.write(2 * MIB, b"x")
    (place,) = memory.verify_placement()
    assert (place.sampled, place.nodes) == (1024, {0: 2})


def test_the_regions_own_node_is_preferred_or_what_the_policy_says() -> None:
    assert memory_with(None, 0).effective()[0].policy == NumaPolicy("preferred", [0])
    assert memory_with("bind", 0).effective()[0].policy == NumaPolicy("bind", [0])
    assert memory_with(None).effective()[0].policy == NumaPolicy("default")
    assert memory_with("default", 0).effective()[0].policy == NumaPolicy("default")


@pytest.mark.parametrize("mode", ["bind", "interleave", "weighted-interleave", "preferred-many"])
def test_a_policy_without_nodes_is_refused(mode: str) -> None:
    with pytest.raises(NumaError, match="host_numa_node_id"):
        memory_with(mode)


@pytest.mark.parametrize("node", [node for node in ABSENT if absent(node)])
def test_absent_nodes_are_named(node: int) -> None:
    for policy, own in [(None, node), ("bind", node), (NumaPolicy("interleave", [0, node]), None)]:
        if node < 1 << 16 or not isinstance(policy, NumaPolicy):
            with pytest.raises(NumaError, match=f"no NUMA node {node}") as raised:
                memory_with(policy, own)
            assert raised.value.region is not None
            assert raised.value.errno == 22


def test_a_replacement_changes_the_policy() -> None:
    space, memory = mapped(
        ram(0, 4 * MIB, mem_type="mmap", backing=BackingOptions(alignment="2MiB", policy=NumaPolicy("bind", [0])))
    )
    memory.prealloc()
    space.replace_region(
        0, space[0].replace(backing=BackingOptions(alignment="2MiB", policy=NumaPolicy("interleave", "0", strict=True)))
    )
    assert memory.effective()[0].policy == NumaPolicy("interleave", [0])
    space.replace_region(0, space[0].replace(backing=BackingOptions(alignment="2MiB")))
    assert memory.effective()[0].policy == NumaPolicy("default")


def test_node_lists_are_written_as_the_kernel_writes_them() -> None:
    policy = NumaPolicy("interleave", [3, 0, 1, 2, 64, 1023, 3])
    assert policy.nodes == (0, 1, 2, 3, 64, 1023)
    assert repr(policy) == "NumaPolicy('interleave', '0-3,64,1023')"
    assert NumaPolicy("interleave", "0-3,64,1023") == policy
    with pytest.raises(InvalidAddressRange):
        NumaPolicy("bind", [-1])
    with pytest.raises(InvalidAddressRange):
        NumaPolicy("bind", [1 << 32])


def test_devices_have_no_policy_and_firmware_may() -> None:
    firmware = AddressSpaceRegion("firmware", 0, MIB, host_numa_node_id=0)
    _, memory = mapped(firmware, AddressSpaceRegion.create_device_region(WINDOW, 4096))
    assert [place.region for place in memory.verify_placement()] == [firmware]


# Hosts of other people.


def host(where: Path, online: str, has_memory: str | None, free: int = 0) -> dict[str, Path]:
    """A sysfs and procfs with these nodes, and free huge pages of 2 MiB."""
    nodes = where / "sys/devices/system/node"
    nodes.mkdir(parents=True)
    (nodes / "online").write_text(online + "\n")
    if has_memory is not None:
        (nodes / "has_memory").write_text(has_memory + "\n")
    pool = where / "sys/kernel/mm/hugepages/hugepages-2048kB"
    pool.mkdir(parents=True)
    numbers = {"free_hugepages": free, "resv_hugepages": 1, "nr_overcommit_hugepages": 2, "surplus_hugepages": 1}
    for name, number in numbers.items():
        (pool / name).write_text(f"{number}\n")
    (where / "proc/self/fd").mkdir(parents=True)
    (where / "proc/meminfo").write_text("MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n")
    return {"sysfs": where / "sys", "procfs": where / "proc"}


@pytest.mark.parametrize(
    ("online", "has_memory", "nodes", "problem"),
    [
        ("0-1", "0-1", [0, 1], None),
        ("0-63,64,1023", "0,64,1023", [64, 1023], None),
        ("0-1", None, [1], None),
        ("0-3", "0,2", [1, 3], "NUMA node 1 has no memory; 0,2 has"),
        ("0,2-4", "0,2-4", [0, 1], "no NUMA node 1; it has 0,2-4"),
        ("0-63", "0-63", [64], "no NUMA node 64; it has 0-63"),
    ],
)
def test_plans_are_checked_against_any_host(
    tmp_path: Path, online: str, has_memory: str | None, nodes: list[int], problem: str | None
) -> None:
    infos = [NumaRegionInfo("64MiB", node) for node in nodes]
    problems = AddressSpaceBuilder(numa_regions=infos).plan().check_host(**host(tmp_path, online, has_memory))
    if problem is None:
        assert problems == ()
    else:
        assert problem in problems[0]


def test_pools_memory_and_addresses_are_checked_too(tmp_path: Path) -> None:
    files = host(tmp_path, "0", "0", free=10)
    huge = AddressSpaceBuilder(numa_regions=["20MiB"], mem_type="hugeshmem")
    assert huge.plan().check_host(**files) == ()
    short = AddressSpaceBuilder(numa_regions=["20MiB", "4MiB"], mem_type="hugeshmem").plan().check_host(**files)
    assert "12 huge pages of 2 MiB are needed, 10 are free: add 2" in short[0]
    filled = AddressSpaceBuilder(numa_regions=["5GiB"], mem_prealloc=True).plan().check_host(**files)
    assert "5 GiB must be populated at build time, but only 4 GiB are available on the host" in filled[0]
    wide = AddressSpaceBuilder(numa_regions=["128TiB"], phys_bits=52).plan().check_host(**files)
    assert "addresses of a process" in wide[0]


def test_guest_nodes_may_come_from_any_host_node() -> None:
    infos = [NumaRegionInfo("64MiB", 0, 1, [0]), NumaRegionInfo("64MiB", 0, 0, [1])]
    memory = (
        AddressSpaceBuilder(numa_regions=infos, mem_prealloc=True, backing=BackingOptions(policy="bind")).build().memory
    )
    assert [place.policy for place in memory.verify_placement()] == [NumaPolicy("bind", [0])] * 2
    assert all(place.misplaced == 0 and place.nodes for place in memory.verify_placement())
