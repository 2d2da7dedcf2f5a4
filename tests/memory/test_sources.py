"""Where memory comes from: the small sources, protections, flags and hints as the kernel sees them."""

import fcntl
import os
from pathlib import Path

import pytest
from dbs_address_space import (
    MAP_ANONYMOUS,
    MAP_HUGETLB,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_NONE,
    AddressSpace,
    AddressSpaceRegion,
    BackingError,
    Misaligned,
    NumaError,
)
from host import descriptor_limit
from kernel_view import descriptors, kilobytes, maps_of, nothing_left, protection, resident_bytes, smaps
from memory_helpers import GIB, LAYOUT, MIB, PAGE, WINDOW, mapped, ram

MAP_FIXED = 0x10
SMALL = {"shmem": "memfd", "memfd": "memfd", "mmap": "anonymous", "anon": "anonymous", None: "memfd"}
"""The sources of small pages, and what is behind each; the huge ones are in test_huge_pages.py."""
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


def flags_of(host: int) -> set[str]:
    return set(smaps(host)["VmFlags"].split())


def policy(host: int) -> str:
    """The memory policy of the mapping that holds a host address."""
    lines = [line.split() for line in Path("/proc/self/numa_maps").read_text().splitlines()]
    return next(line[1] for line in reversed(lines) if int(line[0], 16) <= host)


# The names of the sources.


@pytest.mark.parametrize(("mem_type", "behind"), SMALL.items())
def test_small_sources(mem_type: str | None, behind: str) -> None:
    _, memory = mapped(ram(0, 3 * PAGE, name="small", mem_type=mem_type))
    host, mapping = memory.host_address(0), memory.mapping(0)
    memory.write(PAGE, b"here")
    assert memory.read(PAGE, 4) == b"here"
    assert (mapping.page_size, mapping.guarded) == (PAGE, False)
    assert kilobytes(smaps(host)["KernelPageSize"]) == PAGE
    if behind == "memfd":
        assert [line.split()[1] for line in maps_of("/memfd:small ")] == ["rw-s"]
        assert mapping.fd is not None
    else:
        assert protection(host) == "rw-p"
        assert (mapping.fd, mapping.file_offset) == (None, None)


@pytest.mark.parametrize("name", ["ram", "Speicher № 1", "x" * 249, "x" * 400, "№" * 100])
def test_a_memfd_has_its_regions_name(name: str) -> None:
    _, memory = mapped(ram(0, name=name))
    shown = "/memfd:" + name.encode()[:249].decode(errors="ignore")
    assert descriptors()[str(memory.mapping(0).fd)] == f"{shown} (deleted)"


def test_a_nameless_memfd_has_its_address() -> None:
    _, _memory = mapped(ram(0x1234_5000))
    assert maps_of("/memfd:0x1234_5000 ")


def test_a_memfd_is_close_on_exec_and_sealed() -> None:
    _, memory = mapped(ram(0))
    fd = memory.mapping(0).fd
    assert fd is not None
    assert fcntl.fcntl(fd, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == SEALS
    for size in (0, 2 * PAGE):
        with pytest.raises(PermissionError):
            os.truncate(fd, size)
    assert os.fstat(fd).st_size == PAGE


def test_memfds_are_born_with_the_mapping_and_die_with_it() -> None:
    before = descriptors()
    space = AddressSpace.from_regions([ram(number * PAGE) for number in range(10)], LAYOUT)
    assert descriptors() == before
    with space.map_memory() as memory:
        assert len(descriptors()) == len(before) + 10
        assert sorted(set(descriptors()) - set(before)) == sorted(str(each.fd) for each in memory.mappings())
    assert descriptors() == before


def test_equal_regions_share_nothing() -> None:
    one, other = mapped(ram(0)), mapped(ram(0))
    one[1].write(0, b"one")
    assert other[1].read(0, 3) == bytes(3)


def test_a_device_has_no_mapping() -> None:
    space, memory = mapped(ram(0), AddressSpaceRegion.create_device_region(WINDOW, MIB))
    assert memory.regions == (space[0],)


# Protections and flags.


@pytest.mark.parametrize("mem_type", ["shmem", "mmap"])
@pytest.mark.parametrize("prot", ["---", "r--", "rw-", "r-x", "rwx", "--x"])
def test_protections_are_those_of_the_region(prot: str, mem_type: str) -> None:
    _, memory = mapped(ram(0, mem_type=mem_type, prot_flags=prot))
    assert protection(memory.host_address(0))[:3] == prot
    assert str(memory.mapping(0).prot_flags) == prot


@pytest.mark.parametrize(
    ("mem_type", "flags", "shown"),
    [
        ("shmem", MAP_SHARED, "s"),
        ("shmem", MAP_PRIVATE, "p"),
        ("mmap", MAP_PRIVATE | MAP_ANONYMOUS, "p"),
        ("mmap", MAP_SHARED | MAP_ANONYMOUS, "s"),
        ("mmap", MAP_PRIVATE, "p"),
        (None, MAP_PRIVATE | MAP_ANONYMOUS, "p"),
    ],
)
def test_sharing_is_that_of_the_region(mem_type: str | None, flags: int, shown: str) -> None:
    _, memory = mapped(ram(0, mem_type=mem_type, perm_flags=flags))
    assert protection(memory.host_address(0))[3] == shown
    memory.write(0, b"bytes")
    assert memory.read(0, 5) == b"bytes"


def test_private_writes_stay_out_of_the_memfd() -> None:
    _, memory = mapped(ram(0, perm_flags=MAP_PRIVATE))
    memory.write(0, b"mine")
    fd = memory.mapping(0).fd
    assert fd is not None
    assert os.pread(fd, 4, 0) == bytes(4)


def test_reserve_is_up_to_the_region() -> None:
    _, memory = mapped(ram(0, mem_type="mmap", perm_flags=MAP_PRIVATE | MAP_NORESERVE), ram(GIB, mem_type="mmap"))
    assert "nr" in flags_of(memory.host_address(0))
    assert "nr" not in flags_of(memory.host_address(GIB))


@pytest.mark.parametrize(
    "options",
    [
        {"perm_flags": 0},
        {"perm_flags": MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS},
        {"perm_flags": MAP_SHARED | MAP_ANONYMOUS, "mem_type": "shmem"},
        {"perm_flags": MAP_SHARED | MAP_HUGETLB},
        {"perm_flags": MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE},
        {"perm_flags": MAP_PRIVATE | MAP_HUGETLB, "mem_type": "mmap"},
    ],
    ids=["none", "fixed", "anonymous memfd", "huge memfd", "huge anonymous", "huge mmap"],
)
def test_flags_that_cannot_be_are_refused(options: dict[str, int]) -> None:
    with nothing_left(ram(0, name="left"), ram(GIB, **options)) as space, pytest.raises(BackingError) as refused:
        space.map_memory()
    assert refused.value.errno == 22
    assert refused.value.region == space[GIB]


@pytest.mark.parametrize(("base", "size"), [(WINDOW + 0x800, PAGE), (WINDOW, PAGE + 1), (WINDOW, 1)])
def test_a_dax_window_is_whole_pages(base: int, size: int) -> None:
    window = AddressSpaceRegion.create_dax_region(base, size)
    with nothing_left(ram(GIB, name="left"), window) as space, pytest.raises(Misaligned) as refused:
        space.map_memory()
    assert (refused.value.address, refused.value.size, refused.value.region) == (base, size, space[base])


# Population and hints.


@pytest.mark.parametrize("mem_type", ["shmem", "mmap"])
def test_populate_populates(mem_type: str) -> None:
    lazy, eager = 0, GIB
    flags = ram(0, mem_type=mem_type).perm_flags
    lazily = ram(lazy, 8 * MIB, mem_type=mem_type)
    _, memory = mapped(lazily, ram(eager, 8 * MIB, mem_type=mem_type, perm_flags=flags | MAP_POPULATE))
    assert resident_bytes(memory.host_address(lazy), 8 * MIB) == 0
    assert resident_bytes(memory.host_address(eager), 8 * MIB) == 8 * MIB
    region = AddressSpaceRegion.create_default_memory_region(2 * GIB, MIB, None, mem_type, "", mem_prealloc=True)
    assert region.perm_flags & MAP_POPULATE


def test_populate_of_what_cannot_be_written_reads() -> None:
    _, memory = mapped(ram(0, 8 * MIB, prot_flags="r--", perm_flags=MAP_SHARED | MAP_POPULATE), ram(GIB))
    assert resident_bytes(memory.host_address(0), 8 * MIB) == 8 * MIB
    _, memory = mapped(ram(0, prot_flags=PROT_NONE, perm_flags=MAP_SHARED | MAP_POPULATE))
    assert protection(memory.host_address(0)) == "---s"


def test_hints_reach_the_kernel() -> None:
    _, memory = mapped(ram(0, 2 * MIB), ram(GIB, 2 * MIB, is_hugepage=True), ram(2 * GIB, 2 * MIB, is_mergeable=True))
    plain, huge, merged = (flags_of(memory.host_address(addr)) for addr in (0, GIB, 2 * GIB))
    assert (plain & {"hg", "mg"}, huge & {"hg", "mg"}) == (set(), {"hg"})
    # The kernel takes the advice for shared memory too, and merges only what is private.
    assert "hg" not in merged


def test_mergeable_memory_is_offered_for_merging() -> None:
    _, memory = mapped(ram(0, mem_type="mmap", is_mergeable=True), ram(GIB, mem_type="mmap"))
    assert "mg" in flags_of(memory.host_address(0))
    assert "mg" not in flags_of(memory.host_address(GIB))


def test_hints_follow_a_replacement() -> None:
    space, memory = mapped(ram(0, 2 * MIB, mem_type="mmap"))
    host, plain = memory.host_address(0), space[0]
    space.replace_region(0, plain.replace(is_mergeable=True, is_hugepage=True, host_numa_node_id=0))
    assert {"mg", "hg"} <= flags_of(host)
    assert policy(host) == "prefer:0"
    space.replace_region(0, plain)
    assert not {"mg", "hg"} & flags_of(host)
    assert policy(host) == "default"


def test_hints_of_a_refused_change_are_taken_back() -> None:
    space, memory = mapped(ram(0, mem_type="mmap"), ram(GIB, mem_type="mmap"))
    hinted = space[0].replace(is_mergeable=True, host_numa_node_id=0, prot_flags="rwx")
    absent = space[GIB].replace(host_numa_node_id=1000)

    def replace_both() -> None:
        with space.transaction() as change:
            change.replace_region(0, hinted)
            change.replace_region(GIB, absent)

    with pytest.raises(NumaError):
        replace_both()
    host = memory.host_address(0)
    assert ("mg" in flags_of(host), policy(host), protection(host)) == (False, "default", "rw-p")
    assert space[0] != hinted


def test_memory_comes_from_its_node() -> None:
    _, memory = mapped(ram(0, host_numa_node_id=0), ram(GIB))
    assert policy(memory.host_address(0)) == "prefer:0"
    assert policy(memory.host_address(GIB)) == "default"


@pytest.mark.parametrize("node", [63, 64, 1000, 32768, 2**32 - 1])
def test_an_absent_node_is_refused(node: int) -> None:
    with (
        nothing_left(ram(0, name="left"), ram(GIB, host_numa_node_id=node)) as space,
        pytest.raises(NumaError, match=f"no NUMA node {node}") as refused,
    ):
        space.map_memory()
    assert (refused.value.errno, refused.value.region) == (22, space[GIB])


# Windows.


def test_a_dax_window_is_reserved() -> None:
    _, memory = mapped(AddressSpaceRegion.create_dax_region(WINDOW, 64 * GIB))
    host, mapping = memory.host_address(WINDOW), memory.mapping(WINDOW)
    assert protection(host) == protection(host + 64 * GIB - 1) == "---p"
    assert "nr" in flags_of(host)
    assert resident_bytes(host, 8 * MIB) == 0
    assert (mapping.fd, mapping.prot_flags, mapping.size) == (None, PROT_NONE, 64 * GIB)


# No descriptors.


def test_too_few_descriptors() -> None:
    with (
        nothing_left(*(ram(number * PAGE, name=f"left{number}") for number in range(10))) as space,
        descriptor_limit(5),
        pytest.raises(BackingError, match="RLIMIT_NOFILE") as refused,
    ):
        space.map_memory()
    assert (refused.value.errno, refused.value.region) == (24, space["left5"])
    assert len(space.map_memory().regions) == 10


def test_too_few_descriptors_for_a_hotplug() -> None:
    space, memory = mapped(ram(0))
    before = space.snapshot()
    with descriptor_limit(0), pytest.raises(BackingError) as refused:
        space.insert_region(ram(GIB))
    assert refused.value.errno == 24
    assert (space.snapshot(), space.generation) == (before, 0)
    assert memory.read(0, 4) == bytes(4)


def test_views_of_anonymous_memory_need_no_descriptor() -> None:
    """The process has asked the host once what it promises: before that, memory does not count as safe."""
    mapped(ram(0, mem_type="mmap"))
    with descriptor_limit(0):
        _, memory = mapped(ram(0, mem_type="mmap"))
        with memory.view(0, 4) as view:
            view[:] = b"none"
        assert memory.load(0, 4) == int.from_bytes(b"none", "little")
