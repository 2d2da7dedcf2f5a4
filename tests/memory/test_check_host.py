"""`AddressSpacePlan.check_host()` against hosts of other people, and against this one."""

import os
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import (
    AddressSpaceBuilder,
    AddressSpacePlan,
    BackingOptions,
    Hotplug,
    Machine,
    NumaPolicy,
    NumaRegionInfo,
)
from dbs_address_space.testing import FakeHost
from memory_helpers import GIB, MIB

BIND = BackingOptions(policy="bind")


def plan(*infos: NumaRegionInfo | int | str, machine: str | Machine = "q35", **options: Any) -> AddressSpacePlan:
    made = AddressSpaceBuilder(machine, numa_regions=infos, **options).plan()
    assert made.problems == ()
    return made


def on_nodes(*sizes: str, **options: Any) -> AddressSpacePlan:
    """So much on each node of a host, bound to it, and populated at once."""
    infos = [NumaRegionInfo(size, host_numa_node_id=node, guest_numa_node_id=node) for node, size in enumerate(sizes)]
    return plan(*infos, **{"backing": BIND, "mem_prealloc": True, **options})


@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_each_node_must_have_what_is_bound_to_it(tmp_path: Path, count: int) -> None:
    host = FakeHost(tmp_path, [4] * count)
    assert on_nodes(*["4GiB"] * count).check_host(**host.files) == ()
    sizes = ["1GiB"] * (count - 1) + ["5GiB"]
    expected = f"5 GiB must be populated on NUMA node {count - 1} at build time, but only 4 GiB are available there"
    assert on_nodes(*sizes).check_host(**host.files) == (expected,)
    # A node that is only preferred may be left for others, and memory that is not populated may come later.
    assert on_nodes(*sizes, backing=None).check_host(**host.files) == ()
    assert on_nodes(*sizes, mem_prealloc=False).check_host(**host.files) == ()


@pytest.mark.parametrize("count", [2, 5, 8])
def test_each_node_must_have_the_huge_pages_that_are_bound_to_it(tmp_path: Path, count: int) -> None:
    host = FakeHost(tmp_path, [4] * count, huge=[512] * (count - 1) + [511])
    for mem_type in ("hugeshmem", "hugemmap"):
        fits = on_nodes(*["1GiB"] * (count - 1), mem_type=mem_type)
        assert fits.check_host(**host.files) == ()
    short = on_nodes(*["2MiB"] * (count - 1), "1GiB", mem_type="hugeshmem")
    (problem,) = short.check_host(**host.files)
    assert f"512 huge pages of 2 MiB are needed on NUMA node {count - 1}, 511 are free: add 1 to " in problem
    assert problem.endswith(f"sys/devices/system/node/node{count - 1}/hugepages/hugepages-2048kB/nr_hugepages")


def test_what_is_bound_to_several_nodes_may_come_from_all_of_them(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, [4, 4, 4])
    both = BackingOptions(policy=NumaPolicy("bind", "0-1"))
    assert plan("8GiB", backing=both, mem_prealloc=True).check_host(**host.files) == ()
    (problem,) = plan("9GiB", backing=both, mem_prealloc=True).check_host(**host.files)
    assert "9 GiB must be populated on NUMA node 0-1 at build time, but only 8 GiB are available there" in problem


def test_locked_memory_is_populated_too(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, [1, 4])
    locked = BackingOptions(policy="bind", mlock=True)
    (problem,) = on_nodes("2GiB", mem_prealloc=False, backing=locked).check_host(**host.files)
    assert "2 GiB must be populated on NUMA node 0" in problem


def test_more_than_the_host_has_is_overcommitted(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, [24])
    assert plan("10TiB").check_host(**host.files) == ("10 TiB on a host of 24 GiB: overcommitted",)
    assert plan("24GiB").check_host(**host.files) == ()
    # A window of addresses is not memory; swap is.
    assert plan("1GiB", dax_window="1TiB").check_host(**host.files) == ()
    host.tell(SwapTotal=1 << 20)
    assert plan("25GiB").check_host(**host.files) == ()


def test_strict_overcommit_promises_no_more_than_it_has(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, [24])
    host.tell(CommitLimit=(4 * GIB) >> 10, Committed_AS=GIB >> 10)
    private = plan("4GiB", mem_type="mmap")
    assert private.check_host(**host.files) == ()
    host.write("proc/sys/vm/overcommit_memory", "2\n")
    (problem,) = private.check_host(**host.files)
    assert "4 GiB must be committed, but only 3 GiB can be" in problem
    assert plan("3GiB", mem_type="mmap").check_host(**host.files) == ()
    # A memfd is charged for pages that are touched.
    assert plan("4GiB").check_host(**host.files) == ()
    assert "committed" in plan("4GiB", mem_prealloc=True).check_host(**host.files)[0]


@pytest.mark.parametrize(("bits", "flags", "reaches"), [(39, "", 39), (46, "", 46), (52, "", 48), (52, "la57", 52)])
def test_a_guest_has_no_more_addresses_than_the_host(tmp_path: Path, bits: int, flags: str, reaches: int) -> None:
    host = FakeHost(tmp_path, [1 << 15], bits=bits)
    cpuinfo = (tmp_path / "proc/cpuinfo").read_text().replace("vme", flags)
    host.write("proc/cpuinfo", cpuinfo)
    fits = plan("1GiB", machine=at_the_top_of(reaches))
    assert fits.check_host(**host.files) == ()
    if reaches < 52:
        (problem,) = plan("1GiB", machine=at_the_top_of(reaches + 1)).check_host(**host.files)
        assert f"but a guest of this host only to {1 << reaches:#_x}" in problem
    plugged = plan("1GiB", phys_bits=52, hotplug=Hotplug(1 << 51, slots=1))
    assert ("a guest of this host" in "".join(plugged.check_host(**host.files))) == (reaches < 52)


def at_the_top_of(bits: int) -> Machine:
    return Machine("high", mem_start=(1 << bits) - GIB, mem_end=1 << bits, phys_bits=bits)


@pytest.mark.parametrize("source", ["arch", "cpuinfo"])
@pytest.mark.parametrize(
    ("machine", "arch", "host"),
    [("virt", None, "aarch64"), ("q35", None, "x86_64"), ("dragonball", "aarch64", "aarch64")],
)
def test_a_machine_runs_on_its_own_architecture(
    tmp_path: Path, machine: str, arch: str | None, host: str, source: str
) -> None:
    made = plan("1GiB", machine=Machine.named(machine, arch=arch))
    for theirs in ("x86_64", "aarch64"):
        fake = FakeHost(tmp_path / theirs, [4], arch=theirs)
        if source == "arch":
            fake.write("proc/cpuinfo", "")
            fake.write("proc/sys/kernel/arch", f"{theirs}\n")
        problems = made.check_host(**fake.files)
        other = (f"the machine '{machine}' is {host}, the host is {theirs}: KVM can't run it",)
        assert problems == (() if theirs == host else other)
    mine = Machine("mine", mem_start=0, mem_end=1 << 40, phys_bits=41)
    assert plan("1GiB", machine=mine).check_host(**fake.files) == ()


GROUPS = {
    "unified": ("0::/vm\n", "sys/fs/cgroup/vm", ("memory.max", "memory.current"), ("max", "current")),
    "legacy": (
        "7:cpu,memory:/vm\n4:hugetlb:/vm\n0::/\n",
        "sys/fs/cgroup/{}/vm",
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ("limit_in_bytes", "usage_in_bytes"),
    ),
}


@pytest.mark.parametrize("version", GROUPS)
def test_groups_limit_memory_and_huge_pages(tmp_path: Path, version: str) -> None:
    host = FakeHost(tmp_path, [8], huge=[2048])
    text, folder, memory, huge = GROUPS[version]
    host.write("proc/self/cgroup", text)
    for name, number in zip(memory, (3 * GIB, GIB), strict=True):
        host.write(f"{folder.format('memory')}/{name}", f"{number}\n")
    assert plan("2GiB", mem_prealloc=True).check_host(**host.files) == ()
    (problem,) = plan("3GiB", mem_prealloc=True).check_host(**host.files)
    assert "only 2 GiB are available in this process's cgroup" in problem
    for kind, limit in (("rsvd.", 2 * GIB), ("", GIB)):
        assert plan("2GiB", mem_type="hugeshmem").check_host(**host.files) == ()
        for name, number in zip(huge, (limit, 512 * MIB), strict=True):
            host.write(f"{folder.format('hugetlb')}/hugetlb.2MB.{kind}{name}", f"{number}\n")
        (problem,) = plan("2GiB", mem_type="hugeshmem").check_host(**host.files)
        left = {2 * GIB: "1536 MiB", GIB: "512 MiB"}[limit]
        assert f"2 GiB of huge pages of 2 MiB are needed, but only {left} are left in this process's cgroup" in problem
        host.write(f"{folder.format('hugetlb')}/hugetlb.2MB.{kind}{huge[0]}", f"{1 << 62}\n")


def test_limits_count_what_the_process_has_already(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, [8])
    host.write("proc/self/status", "Name: python\nVmSize: 1048576 kB\n")
    host.limit("Max address space", 3 * GIB)
    assert plan("2GiB").check_host(**host.files) == ()
    (problem,) = plan("2GiB", "1MiB").check_host(**host.files)
    assert "are to be mapped beside 1 GiB: raise RLIMIT_AS (3 GiB)" in problem
    host.limit("Max address space", "unlimited")
    host.write("proc/self/maps", "a line\n" * 9)
    host.write("proc/sys/vm/max_map_count", "10\n")
    assert plan("1GiB").check_host(**host.files) == ()
    (problem,) = plan("1GiB", "1GiB").check_host(**host.files)
    assert "2 mappings are needed beside 9: raise vm.max_map_count (10)" in problem


def test_a_page_size_that_a_host_lacks_is_told_with_those_that_it_has(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, [8], huge=[512])
    (problem,) = plan("1GiB", mem_type="hugeshmem", backing=BackingOptions(page_size="1GiB")).check_host(**host.files)
    assert problem == "the host has no huge pages of 1 GiB; it has [2 MiB]"


def test_a_host_that_tells_nothing_is_not_in_the_way(tmp_path: Path) -> None:
    assert plan("1GiB").check_host(sysfs=tmp_path, procfs=tmp_path) == ()


def files_of(size: str, path: Path) -> tuple[str, ...]:
    zone = NumaRegionInfo(size, file=str(path))
    return AddressSpaceBuilder("q35", numa_regions=[zone]).plan().check_host()


def test_the_files_of_zones_are_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "ram"
    assert files_of("64MiB", path) == (f"{path} is not there: make it (truncate -s {64 << 20} {path})",)
    path.touch()
    os.truncate(path, 4096)
    too_short = f"{path} has 0x1000 bytes, the plan needs 0x400_0000: extend it (truncate -s {64 << 20} {path})"
    assert files_of("64MiB", path) == (too_short,)
    os.truncate(path, 64 << 20)
    assert files_of("64MiB", path) == files_of("64MiB", tmp_path) == ()
    room = os.statvfs(tmp_path)
    more = -(-(room.f_bavail * room.f_frsize + GIB) // GIB)
    os.truncate(path, more * GIB)
    for place in (path, tmp_path):
        assert any(f"{place} may take {more}" in told and "left" in told for told in files_of(f"{more}GiB", place))


def test_the_files_of_another_host_are_not_looked_at(tmp_path: Path) -> None:
    zone = NumaRegionInfo("64MiB", file=str(tmp_path / "missing"))
    host = FakeHost(tmp_path, [8])
    assert AddressSpaceBuilder("q35", numa_regions=[zone]).plan().check_host(**host.files) == ()


def test_files_of_huge_pages_are_on_their_mount(tmp_path: Path) -> None:
    zone = NumaRegionInfo("64MiB", mem_type="hugetlbfs", mem_file_path=str(tmp_path / "ram"))
    told = AddressSpaceBuilder("q35", numa_regions=[zone]).plan().check_host()
    assert any(f"{tmp_path} is not on a hugetlbfs mount" in problem for problem in told)
