"""Backing options against the kernel: what was asked for is there, or it is an error, and `effective()` tells the truth."""

import fcntl
import os
import pickle
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import in_child
from dbs_address_space import (
    MAP_PRIVATE,
    AddressSpaceBuilder,
    AddressSpaceRegion,
    BackingError,
    BackingOptions,
    GuestMemory,
    HugePagesShort,
    InvalidAddressRange,
    InvalidArgument,
    MemoryFault,
    Misaligned,
    NumaPolicy,
    Unsupported,
)
from host import ask_host, free_huge_pages, huge_page_size, huge_pages, pool, require
from kernel_view import covers, maps, smaps
from memory_helpers import GIB, LAYOUT, MIB, PAGE, WINDOW, make_file, mapped, ram

SOURCES = ["shmem", "mmap"]
NODE_0 = NumaPolicy("bind", "0")
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def memory_with(size: int = 4 * MIB, mem_type: str = "mmap", **options: Any) -> GuestMemory:
    return mapped(ram(0, size, mem_type=mem_type, backing=BackingOptions(**options)))[1]


# The value.


def test_options_that_are_arguments_too_agree() -> None:
    region = ram(0, mem_type="mmap", is_mergeable=True, is_hugepage=True)
    assert region == ram(0, mem_type="mmap", backing=BackingOptions(ksm=True, transparent_hugepage=True))
    assert region.backing == BackingOptions(ksm=True, transparent_hugepage=True)
    assert region.replace(is_mergeable=False).backing == BackingOptions(transparent_hugepage=True)
    assert not region.replace(backing=BackingOptions()).is_hugepage
    huge = ram(0, "2MiB", mem_type="hugeshmem", page_size="2MiB")
    assert huge == ram(0, "2MiB", mem_type="hugeshmem", backing=BackingOptions(page_size="2MiB"))
    assert ram(0).backing == BackingOptions()


def test_regions_with_options_travel() -> None:
    options = BackingOptions(
        alignment="1GiB", reserve=False, dontdump=True, dontfork=True, guard_pages=True, seals=["seal"]
    )
    region = ram(0, backing=options.replace(policy=NumaPolicy("bind", [0, 64], strict=True), mlock=True))
    again = pickle.loads(pickle.dumps(region))
    assert again == region
    assert hash(again) == hash(region)
    assert again.backing.seals == ("seal",)
    assert again != region.replace(backing=options)


@pytest.mark.parametrize(
    ("options", "backing", "reason"),
    [
        ({"mem_type": "hugeshmem", "page_size": "2MiB"}, {"page_size": "1GiB"}, "page_size= contradicts page_size"),
        ({"is_mergeable": True}, {"ksm": False}, "is_mergeable= contradicts ksm"),
        ({"is_mergeable": False}, {"ksm": True}, "is_mergeable= contradicts ksm"),
        ({"is_hugepage": True}, {"transparent_hugepage": False}, "is_hugepage= contradicts transparent_hugepage"),
        ({"is_hugepage": False}, {"transparent_hugepage": True}, "is_hugepage= contradicts transparent_hugepage"),
        ({"mem_type": "hugeshmem"}, {"transparent_hugepage": True}, "small pages"),
        ({"mem_type": "mmap"}, {"seals": []}, "goes with a memfd"),
        ({"mem_type": "shmem"}, {"page_size": "2MiB"}, "goes with a huge mem_type"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], backing: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason) as refused:
        ram(PAGE, "2MiB", **options, backing=BackingOptions(**backing))
    assert (refused.value.address, refused.value.size) == (PAGE, 2 * MIB)


def test_a_replacement_may_say_an_option_by_its_argument() -> None:
    region = ram(0, backing=BackingOptions(ksm=False, transparent_hugepage=False, mlock=True))
    changed = region.replace(is_mergeable=True, is_hugepage=True)
    assert changed.backing == BackingOptions(ksm=True, transparent_hugepage=True, mlock=True)
    huge = ram(0, "2MiB", mem_type="hugeshmem", page_size="2MiB").replace(page_size="1GiB")
    assert (huge.page_size, huge.backing) == (GIB, BackingOptions(page_size="1GiB"))
    with pytest.raises(InvalidArgument, match="is_mergeable= contradicts ksm"):
        region.replace(is_mergeable=True, backing=BackingOptions(ksm=False))


def test_a_device_has_no_options() -> None:
    with pytest.raises(InvalidArgument, match="no memory"):
        AddressSpaceRegion("device", WINDOW, PAGE, backing=BackingOptions(mlock=True))


# The kernel.


@pytest.mark.parametrize("mem_type", SOURCES)
@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"dontdump": True}, "dd"),
        ({"dontfork": True}, "dc"),
        ({"transparent_hugepage": True}, "hg"),
        ({"transparent_hugepage": False}, "nh"),
        ({"mlock": True}, "lo"),
    ],
)
def test_advice_is_what_smaps_says(mem_type: str, options: dict[str, bool], flag: str) -> None:
    memory = memory_with(mem_type=mem_type, **options)
    host = memory.host_address(0)
    assert flag in smaps(host)["VmFlags"].split()
    (state,) = memory.effective()
    assert flag in state.flags
    assert state.region == memory.regions[0]
    plain = memory_with(mem_type=mem_type)
    assert flag not in plain.effective()[0].flags


def test_anonymous_memory_is_offered_for_merging() -> None:
    assert "mg" in memory_with(ksm=True).effective()[0].flags
    assert "mg" not in memory_with(mem_type="shmem", ksm=True).effective()[0].flags


def test_a_replacement_changes_the_advice_and_not_the_bytes() -> None:
    space, memory = mapped(ram(0, 4 * MIB, mem_type="mmap", backing=BackingOptions(dontdump=True, mlock=True)))
    memory.write(0, b"stays")
    space.replace_region(0, space[0].replace(backing=BackingOptions(transparent_hugepage=True)))
    flags = memory.effective()[0].flags
    assert "hg" in flags
    assert not flags & {"dd", "lo"}
    assert memory.read(0, 5) == b"stays"
    with pytest.raises(InvalidAddressRange, match="backing"):
        space.replace_region(0, space[0].replace(backing=BackingOptions(guard_pages=True)))


@pytest.mark.parametrize("mem_type", SOURCES)
@pytest.mark.parametrize("alignment", ["64KiB", "2MiB", "1GiB"])
def test_alignment(mem_type: str, alignment: str) -> None:
    memories = [memory_with(PAGE, mem_type, alignment=alignment) for _ in range(3)]
    for memory in memories:
        assert memory.host_address(0) % BackingOptions(alignment=alignment).alignment == 0  # type: ignore[operator]
        memory.write_u64(0, 1)


@pytest.mark.parametrize("mem_type", SOURCES)
def test_guard_pages_lie_around_and_go_with_the_mapping(mem_type: str) -> None:
    before = len(maps())
    memory = memory_with(2 * PAGE, mem_type, guard_pages=True)
    host = memory.host_address(0)
    for around in (host - 1, host + 2 * PAGE):
        (line,) = (line for line in maps() if covers(line, around))
        assert line.split()[1] == "---p"
    memory.fill(0, 2 * PAGE, 7)
    memory.close()
    assert not [line for line in maps() if covers(line, host) or covers(line, host - 1)]
    assert len(maps()) <= before + 1


@pytest.mark.parametrize("reserve", [True, False])
def test_reserve(reserve: bool) -> None:  # noqa: FBT001
    memory = memory_with(reserve=reserve)
    assert ("nr" in memory.effective()[0].flags) is not reserve


@pytest.mark.parametrize(
    ("seals", "expected"), [(None, 0x7), ([], 0), (["shrink", "future-write"], 0x12), (["seal", "grow", "shrink"], 0x7)]
)
def test_seals(seals: list[str] | None, expected: int) -> None:
    memory = memory_with(PAGE, "shmem", seals=seals)
    fd = memory.mapping(0).fd
    assert fd is not None
    assert fcntl.fcntl(fd, 1034) & 0x1F == expected
    assert memory.mapping(0).guarded is (seals == [])


def test_memory_that_children_do_not_get_is_a_fault_there() -> None:
    memory = memory_with(dontfork=True)
    memory.write(0, b"parent")

    def child() -> None:
        with pytest.raises(MemoryFault):
            memory.read(0, 6)
        with pytest.raises(MemoryFault):
            memory.write_u64(0, 1)

    in_child(child)
    assert memory.read(0, 6) == b"parent"


def test_locked_memory_is_there_and_counted() -> None:
    (state,) = memory_with(mlock=True).effective()
    assert state.resident == state.locked == 4 * MIB


def test_a_lock_above_the_limit_names_it_and_leaves_nothing() -> None:
    def child() -> None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (PAGE, PAGE))
        if os.geteuid() == 0:
            os.setresuid(65534, 65534, 65534)
        before = maps()
        with pytest.raises(BackingError, match="RLIMIT_MEMLOCK") as raised:
            memory_with(64 * MIB, mlock=True)
        assert raised.value.errno in {1, 12}
        assert len(maps()) <= len(before) + 1
        plan = AddressSpaceBuilder(numa_regions=["64MiB"], backing=BackingOptions(mlock=True)).plan()
        assert any("RLIMIT_MEMLOCK" in problem for problem in plan.check_host())

    in_child(child)


# Huge pages.


def test_transparent_huge_pages_are_reported_as_they_are() -> None:
    ask_host("[never]" not in THP.read_text(), "transparent huge pages are switched off")
    memory = memory_with(8 * MIB, transparent_hugepage=True)
    assert memory.host_address(0) % (2 * MIB) == 0
    memory.prealloc()
    (state,) = memory.effective()
    assert (state.huge, state.huge_share) == (8 * MIB, 1.0)
    small = memory_with(8 * MIB, transparent_hugepage=False)
    small.prealloc()
    (state,) = small.effective()
    assert (state.resident, state.huge, state.page_size) == (8 * MIB, 0, PAGE)


@pytest.mark.parametrize("mem_type", ["hugeshmem", "hugemmap"])
def test_huge_pages_are_from_the_pool(mem_type: str) -> None:
    with huge_pages(4) as size:
        plan = AddressSpaceBuilder(
            numa_regions=[4 * size], mem_type=mem_type, mem_prealloc=True, backing=BackingOptions(page_size=size)
        ).plan()
        assert plan.check_host() == ()
        with plan.build().memory as memory:
            (state,) = memory.effective()
            assert (state.page_size, state.resident, state.huge) == (size, 4 * size, 4 * size)
            assert memory.mapping(0).page_size == size
            assert free_huge_pages(size) == 0
        assert free_huge_pages(size) == 4


@pytest.mark.parametrize("mem_type", ["hugeshmem", "hugemmap"])
def test_one_huge_page_short(mem_type: str) -> None:
    with huge_pages(3) as size:
        plan = AddressSpaceBuilder(numa_regions=[2 * size, 2 * size], mem_type=mem_type).plan()
        assert any("add 1 to" in problem for problem in plan.check_host())
        with pytest.raises(HugePagesShort) as raised:
            plan.build()
        assert raised.value.missing == 1
        assert free_huge_pages(size) == 3


@pytest.mark.parametrize("mem_type", ["hugeshmem", "hugemmap"])
def test_an_unreserved_pool_that_runs_dry_is_found_out_when_populating(mem_type: str) -> None:
    with huge_pages(2) as size:
        memory = memory_with(4 * size, mem_type, reserve=False)
        memory.write(0, b"safe")
        with pytest.raises(HugePagesShort) as raised:
            memory.prealloc()
        assert (raised.value.missing, raised.value.page_size) == (2, size)
        assert memory.read(0, 4) == b"safe"
        memory.close()
        with pytest.raises(HugePagesShort):
            memory_with(4 * size, mem_type, reserve=False, mlock=True)
        assert free_huge_pages(size) == 2


def test_a_page_size_that_the_host_has_not_is_named() -> None:
    require(huge_page_size(), "the kernel has no huge pages")
    absent = next(size for size in (1 << 40, 1 << 41) if not pool(size).exists())
    plan = AddressSpaceBuilder(
        numa_regions=[absent], mem_type="hugeshmem", backing=BackingOptions(page_size=absent)
    ).plan()
    assert any("has no huge pages of" in problem for problem in plan.check_host())


# Discarding.


def private_file(directory: Path) -> AddressSpaceRegion:
    path = make_file(directory / "private", 4 * MIB)
    path.write_bytes(b"f" * 4 * MIB)
    with path.open("r+b") as file:
        return AddressSpaceRegion.from_file(0, 4 * MIB, file, shared=False)


def shared_file(directory: Path) -> AddressSpaceRegion:
    path = make_file(directory / "shared", 8 * MIB)
    with path.open("r+b") as file:
        return AddressSpaceRegion.from_file(0, 4 * MIB, file, 2 * MIB)


DISCARDED: dict[str, Callable[[Path], AddressSpaceRegion]] = {
    "memfd": lambda _: ram(0, 4 * MIB, mem_type="shmem"),
    "anonymous": lambda _: ram(0, 4 * MIB, mem_type="mmap"),
    "locked": lambda _: ram(0, 4 * MIB, mem_type="mmap", backing=BackingOptions(mlock=True)),
    "shared anonymous": lambda _: ram(0, 4 * MIB, perm_flags=0x21),
    "private file": private_file,
    "file at an offset": shared_file,
}


@pytest.mark.parametrize("name", DISCARDED)
def test_discarded_pages_are_zero_and_given_back(name: str, tmp_path: Path) -> None:
    _, memory = mapped(DISCARDED[name](tmp_path))
    memory.fill(0, 4 * MIB, 0xAA)
    memory.discard(MIB, 2 * MIB)
    assert memory.read(MIB, 2 * MIB) == bytes(2 * MIB)
    assert memory.read(0, MIB) == memory.read(3 * MIB, MIB) == b"\xaa" * MIB
    memory.write(MIB, b"again")
    assert memory.read(MIB, 5) == b"again"
    with pytest.raises(Misaligned):
        memory.discard(1, PAGE)


def test_a_hole_in_a_file_is_where_the_region_lies_in_it(tmp_path: Path) -> None:
    _, memory = mapped(shared_file(tmp_path))
    path = tmp_path / "shared"
    path.write_bytes(b"x" * 8 * MIB)
    memory.discard(0, MIB)
    content = path.read_bytes()
    assert content == b"x" * 2 * MIB + bytes(MIB) + b"x" * 5 * MIB


def test_discarded_huge_pages_go_back_to_the_pool_and_no_touch_dies() -> None:
    with huge_pages(2) as size:
        _, memory = mapped(ram(0, 2 * size, mem_type="hugeshmem"))
        memory.fill(0, 2 * size, 1)
        view = memory.view(0, 8)
        with pytest.raises(BufferError):
            memory.discard(0, size)
        view.release()
        memory.discard(0, size)
        assert free_huge_pages(size) == 1 or memory.read(size, 1) == b"\x01"
        assert memory.read(0, 8) == bytes(8)
        with pytest.raises(Misaligned):
            memory.discard(0, PAGE)
        memory.close()


def test_adopted_memory_is_not_given_back() -> None:
    _, memory = mapped(AddressSpaceRegion.from_buffer(0, bytearray(PAGE)))
    with pytest.raises(Unsupported):
        memory.discard(0, PAGE)


def test_effective_of_many_and_one() -> None:
    space, memory = mapped(
        ram(0, MIB, name="a"), ram(MIB, MIB, name="b", mem_type="mmap"), ram(2 * MIB, MIB, mem_type="mmap")
    )
    assert space.layout == LAYOUT
    memory.fill(MIB, PAGE, 1)
    states = {state.region.base: state for state in memory.effective()}
    assert [states[base].resident for base in (0, MIB, 2 * MIB)] == [0, PAGE, 0]
    assert memory.effective("b")[0].resident == PAGE
    assert sum(states[MIB].nodes.values()) == 1


def test_discarded_pages_of_a_private_file_keep_the_options(tmp_path: Path) -> None:
    options = BackingOptions(
        dontdump=True, dontfork=True, mlock=True, transparent_hugepage=True, ksm=True, policy=NODE_0
    )
    with make_file(tmp_path / "file", 8 * PAGE).open("r+b") as file:
        _, memory = mapped(ram(0, 8 * PAGE, file=file, perm_flags=MAP_PRIVATE, backing=options))
    before = memory.effective()[0]
    memory.discard(2 * PAGE, PAGE)
    after = memory.effective()[0]
    assert (before.locked, after.locked, after.resident) == (8 * PAGE, 7 * PAGE, 7 * PAGE)
    assert {"dd", "dc", "lo", "hg", "mg"} <= after.flags & before.flags
    memory.write(2 * PAGE, b"back")
    assert memory.effective()[0].locked == 8 * PAGE
    places = [f"{memory.host_address(page * PAGE):x} bind:0 " for page in (0, 2, 3)]
    assert all(place in Path("/proc/self/numa_maps").read_text() for place in places)


def test_what_may_not_be_accessed_is_not_locked() -> None:
    region = ram(0, prot_flags="---", backing=BackingOptions(mlock=True))
    with pytest.raises(
        BackingError, match=r"mlock can't bring in pages that may not be accessed; give .* another"
    ) as refused:
        mapped(region)
    assert "RLIMIT" not in str(refused.value)
