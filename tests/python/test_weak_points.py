"""The weak points of the original crate, one test each, by their number: what is better here."""

import fcntl
import os
import subprocess
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import dbs_address_space
import pytest
from children import in_child
from dbs_address_space import (
    AddressSpace,
    AddressSpaceBase,
    AddressSpaceError,
    AddressSpaceLayout,
    AddressSpaceRegion,
    BackingError,
    HugePagesShort,
    InvalidAddressRange,
    LayoutViolation,
    MemorySourceType,
    RegionOverlap,
    UnmappedAddress,
    usable_end,
)
from host import huge_pages, require
from kernel_view import maps_of, smaps
from memory_helpers import GIB, LAYOUT, MIB, PAGE, WINDOW, libc, make_file, mapped, ram

COUNT = 1000
"""Inserts a thread: so many that threads meet."""


def insert_and_count(
    space: AddressSpace,
    regions: list[AddressSpaceRegion],
    accepted: list[AddressSpaceRegion],
    together: threading.Barrier,
) -> None:
    for region in regions:
        together.wait()
        try:
            space.insert_region(region)
        except RegionOverlap:
            continue
        accepted.append(region)


def insert_from_threads(shares: list[list[AddressSpaceRegion]]) -> tuple[AddressSpace, list[AddressSpaceRegion]]:
    """The space, and what it said it accepted."""
    space, accepted, together = AddressSpace(LAYOUT), list[AddressSpaceRegion](), threading.Barrier(len(shares))
    threads = [threading.Thread(target=insert_and_count, args=(space, share, accepted, together)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return space, accepted


def test_w1_concurrent_inserts_are_neither_lost_nor_overlapping() -> None:
    space, accepted = insert_from_threads(
        [[ram((4 * number + thread) * PAGE) for number in range(COUNT)] for thread in range(4)]
    )
    assert len(accepted) == len(space) == 4 * COUNT


def test_w1_of_two_that_overlap_one_is_accepted() -> None:
    shares = [[ram(number * 2 * PAGE + thread * (PAGE // 4), PAGE) for number in range(COUNT)] for thread in range(4)]
    space, accepted = insert_from_threads(shares)
    assert sorted(accepted, key=lambda region: region.base) == list(space)
    assert len(space) == COUNT
    assert {region.base // (2 * PAGE) for region in space} == set(range(COUNT))


def test_w2_no_region_of_size_0_hides_an_overlap() -> None:
    with pytest.raises(InvalidAddressRange):
        ram(0x100, 0)
    with pytest.raises(RegionOverlap):
        AddressSpace.from_regions([ram(0x100, 0x200), ram(0x200, 0x200)], LAYOUT)


def test_w3_an_inclusive_end_is_recognized() -> None:
    inclusive = AddressSpaceLayout((1 << 46) - 1, 0, (1 << 45) - 1)
    with pytest.raises(LayoutViolation, match="looks like an inclusive last address: give 0x2000_0000_0000"):
        inclusive.check_region(ram(0, 1 << 45))
    with pytest.raises(LayoutViolation, match="looks like an inclusive last address: give 0x4000_0000_0000"):
        inclusive.check_region(AddressSpaceRegion.create_dax_region((1 << 46) - GIB, GIB))
    exclusive = AddressSpaceLayout(1 << 46, 0, 1 << 45)
    exclusive.check_region(ram(0, 1 << 45))
    exclusive.check_region(AddressSpaceRegion.create_dax_region((1 << 46) - GIB, GIB))


def test_w4_the_same_fault_is_the_same_error_everywhere() -> None:
    low, bad, outside = ram(0, 2 * PAGE), ram(PAGE), ram(WINDOW)
    for region, error in ((bad, RegionOverlap), (outside, LayoutViolation)):
        space, base = AddressSpace.from_regions([low], LAYOUT), AddressSpaceBase.from_regions([low], LAYOUT)
        for refuse in (
            partial(AddressSpace.from_regions, [low, region], LAYOUT),
            partial(AddressSpaceBase.from_regions, [low, region], LAYOUT),
            partial(space.insert_region, region),
            partial(base.insert_region, region),
        ):
            with pytest.raises(error) as refused:
                refuse()
            assert refused.value.region == region
        assert space.regions == (low,)


def test_w5_size_0_is_refused_by_every_constructor() -> None:
    makers: list[Callable[[], object]] = [
        lambda: ram(0x1000, 0),
        lambda: AddressSpaceRegion.create_default_memory_region(0x1000, 0, None, "shmem", ""),
        lambda: AddressSpaceRegion.create_memory_region(0x1000, 0, None, "shmem", "", mem_prealloc=False, prot_flags=3),
        lambda: AddressSpaceRegion.create_device_region(0x1000, 0),
        lambda: AddressSpaceRegion.create_firmware_region(0x1000, 0),
        lambda: AddressSpaceRegion.create_dax_region(0x1000, 0),
        lambda: ram(0x1000).replace(size=0),
    ]
    for make in makers:
        with pytest.raises(InvalidAddressRange, match="size above 0"):
            make()


def test_w6_regions_are_sorted_after_every_insert() -> None:
    space = AddressSpace.from_regions([ram(0x800, 1), ram(0x400, 1)], LAYOUT)
    for base in (0x100, 0x600):
        space.insert_region(ram(base, 1))
        bases = [region.base for region in space]
        assert bases == sorted(bases)
        assert all(space[base].base == base for base in bases)
    assert len(space) == 4


def test_w7_a_hole_has_no_protection_and_says_so() -> None:
    space = AddressSpace.from_regions([ram(0)], LAYOUT)
    with pytest.raises(UnmappedAddress, match="no region holds 0x1000") as refused:
        space.prot_flags(PAGE)
    assert refused.value.address == PAGE


def test_w8_no_region_is_not_no_node() -> None:
    space = AddressSpace.from_regions([ram(0), ram(PAGE, host_numa_node_id=0)], LAYOUT)
    assert (space.numa_node_id(0), space.numa_node_id(PAGE)) == (None, 0)
    with pytest.raises(UnmappedAddress):
        space.numa_node_id(2 * PAGE)


def test_w9_the_end_of_ram_is_not_that_of_firmware() -> None:
    """`last_addr` keeps the original's meaning; `ranges` and `is_hotplug` tell what an e820 table needs."""
    firmware = AddressSpaceRegion.create_firmware_region(0xFF00_0000, 16 * MIB)
    dimm = ram(4 * GIB, GIB, is_hotplug=True)
    space = AddressSpace.from_regions([ram(0, GIB), firmware, dimm], LAYOUT)
    assert space.last_addr == 5 * GIB - 1
    assert [str(each) for each in space.ranges("ram")] == ["[0x0, 0x4000_0000)", "[0x1_0000_0000, 0x1_4000_0000)"]
    assert [region.end for region in space if region.region_type.value == "ram" and not region.is_hotplug] == [GIB]
    assert space.ram_size == 2 * GIB


def test_w10_the_hole_below_4_gib_can_be_told_and_firmware_has_bounds() -> None:
    layout = AddressSpaceLayout(1 << 46, 0, 1 << 45, mmio_windows=[(0xC000_0000, GIB)])
    space = AddressSpace.from_regions([ram(0, 3 * GIB), ram(4 * GIB, GIB)], layout)
    assert 0xFEE0_0000 in space.insert_region(AddressSpaceRegion.create_device_region(0xFEE0_0000, PAGE))
    with pytest.raises(LayoutViolation, match="phys_end"):
        space.insert_region(AddressSpaceRegion.create_firmware_region(1 << 46, PAGE))


def test_w11_what_was_inserted_can_be_removed() -> None:
    window = AddressSpaceRegion.create_dax_region(WINDOW, GIB, name="fs")
    space = AddressSpace.from_regions([ram(0)], LAYOUT)
    space.insert_region(window)
    assert space.is_dax_region(WINDOW)
    space.remove_region(window)
    assert not space.is_dax_region(WINDOW)
    assert space.insert_region(window).generation == 3


@pytest.mark.parametrize("mem_type", ["hugeshmem", "hugemmap"])
def test_w12_huge_sources_are_huge(mem_type: str) -> None:
    with huge_pages(2) as size:
        space, memory = mapped(ram(0, 2 * size, mem_type=mem_type))
        assert memory.mapping(0).page_size == size
        memory.write(0, b"huge")
        assert smaps(memory.host_address(0))["KernelPageSize"] == f"{size >> 10} kB"
        with pytest.raises(HugePagesShort) as refused:
            space.insert_region(ram(GIB, 4 * size, mem_type=mem_type))
        assert (refused.value.missing, refused.value.page_size) == (4, size)
        memory.close()


def test_w13_a_memfd_is_close_on_exec_and_named_after_its_region() -> None:
    _, memory = mapped(ram(0, name="ram-low"))
    fd = memory.mapping(0).fd
    assert fd is not None
    assert fcntl.fcntl(fd, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
    assert os.readlink(f"/proc/self/fd/{fd}") == "/memfd:ram-low (deleted)"  # noqa: PTH115
    child = subprocess.run(["ls", f"/proc/self/fd/{fd}"], capture_output=True, close_fds=False, check=False)
    assert child.returncode != 0


def test_w14_an_existing_file_is_never_truncated_or_deleted(tmp_path: Path) -> None:
    path = make_file(tmp_path / "precious", MIB)
    path.write_bytes(b"precious" * (MIB // 8))
    region = AddressSpaceRegion.create_default_memory_region(0, 2 * MIB, None, "hugetlbfs", path)
    space = AddressSpace.from_regions([region], LAYOUT)
    with pytest.raises(BackingError, match="hugetlbfs"):
        space.map_memory()
    assert path.read_bytes() == b"precious" * (MIB // 8)
    missing = region.replace(mem_file_path=tmp_path / "new" / "directory" / "file")
    with pytest.raises(BackingError):
        mapped(missing)
    assert [entry.name for entry in tmp_path.iterdir()] == ["precious"]


def test_w15_a_plain_region_can_be_mapped() -> None:
    plain = AddressSpaceRegion("ram", 0, PAGE)
    assert plain.has_file
    _, memory = mapped(plain)
    memory.write(0, b"bytes")
    device = AddressSpaceRegion("device", WINDOW, PAGE)
    assert device == AddressSpaceRegion.create_device_region(WINDOW, PAGE)
    assert (device.perm_flags, device.prot_flags) == (0, 0)


def without_proc() -> None:
    """Hides /proc in a mount namespace of this process' own."""
    new_namespace, private, recursive = 0x2_0000, 1 << 18, 1 << 14
    assert libc.unshare(new_namespace) == 0
    assert libc.mount(None, b"/proc", None, private | recursive, None) == 0
    assert libc.mount(b"none", b"/proc", b"tmpfs", 0, None) == 0
    layout = AddressSpaceLayout(1 << 46, 0, 1 << 45)
    for ask in (usable_end, lambda: layout.usable_end):
        with pytest.raises(BackingError, match="/proc/meminfo"):
            ask()
    assert 0 in AddressSpace.from_regions([ram(0)], layout)


def test_w16_without_proc_there_is_an_error_and_no_panic() -> None:
    require(os.geteuid() == 0, "a mount namespace needs root")
    in_child(without_proc)


def test_w17_all_nine_names_of_a_source_are_told() -> None:
    with pytest.raises(AddressSpaceError) as refused:
        ram(0, mem_type="file")
    for name in ("shmem", "memfd", "hugeshmem", "hugememfd", "mmap", "anon", "hugemmap", "hugeanon", "hugetlbfs"):
        assert f'"{name}"' in str(refused.value)
        assert isinstance(MemorySourceType.parse(name), MemorySourceType)


@pytest.mark.parametrize("absent", ["GuestMemoryManager", "GuestRegionRaw", "GuestRegionHybrid", "GuestMemoryHybrid"])
def test_w18_w19_what_was_a_stub_or_unguarded_is_absent(absent: str) -> None:
    """The manager's hooks were stubs (W18), and nothing guarded the length of a raw region (W19): there is no such class here.

    A memory is filled by `map_memory()`, and its regions are as long as their descriptions.
    """
    assert not hasattr(dbs_address_space, absent)
    _, memory = mapped(ram(0), ram(2 * PAGE))
    assert [mapping.size for mapping in memory.mappings()] == [region.size for region in memory.regions] == [PAGE, PAGE]


def test_w20_a_write_that_does_not_fit_writes_nothing() -> None:
    _, memory = mapped(ram(0, name="w20"))
    assert maps_of("/memfd:w20 ")
    with pytest.raises(UnmappedAddress) as refused:
        memory.write(PAGE - 4, b"too long")
    assert refused.value.address == PAGE
    assert memory.read(PAGE - 4, 4) == bytes(4)
