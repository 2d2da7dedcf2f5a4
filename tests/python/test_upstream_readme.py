"""The example of the original crate's README, line by line, with the values that the original gives."""

import stat
from pathlib import Path

import pytest
from dbs_address_space import (
    MAP_SHARED,
    AddressSpace,
    AddressSpaceLayout,
    AddressSpaceRegion,
    AddressSpaceRegionType,
    LayoutViolation,
    Prot,
    RegionOverlap,
    UnmappedAddress,
)

GUEST_PHYS_END = (1 << 46) - 1
GUEST_MEM_START = 0
GUEST_MEM_END = GUEST_PHYS_END >> 1


@pytest.fixture
def region() -> AddressSpaceRegion:
    return AddressSpaceRegion.create_default_memory_region(0x100000, 0x100000, None, "shmem", "", False, False, False)  # noqa: FBT003


@pytest.fixture
def layout() -> AddressSpaceLayout:
    return AddressSpaceLayout(GUEST_PHYS_END, GUEST_MEM_START, GUEST_MEM_END)


@pytest.fixture
def space(region: AddressSpaceRegion, layout: AddressSpaceLayout) -> AddressSpace:
    return AddressSpace.from_regions([region], layout)


def test_the_region(region: AddressSpaceRegion) -> None:
    assert region.region_type is AddressSpaceRegionType.DEFAULT_MEMORY
    assert (region.base, region.size, len(region), region.last_addr) == (1048576, 1048576, 1048576, 2097151)
    assert (region.host_numa_node_id, region.has_file, region.file_offset) == (None, True, 0)
    assert (region.perm_flags, region.prot_flags) == (MAP_SHARED, Prot.READ | Prot.WRITE) == (1, 3)
    assert (region.is_hugepage, region.is_hotplug, region.is_anonpage) == (False, False, False)
    seven = AddressSpaceRegion.create_default_memory_region(0x100000, 0x100000, None, "shmem", "", False, False)  # noqa: FBT003
    assert region == seven


def test_the_layout(layout: AddressSpaceLayout) -> None:
    assert (layout.phys_end, layout.mem_start, layout.mem_end) == (70368744177663, 0, 35184372088831)
    total = Path("/proc/meminfo").read_text(encoding="ascii").split()[1]
    assert layout.usable_end == int(total) * 1024 - 1


def test_the_space(space: AddressSpace, region: AddressSpaceRegion, layout: AddressSpaceLayout) -> None:
    assert space.layout == layout
    assert space.regions == (region,)
    assert space.last_addr == 0x1FFFFF
    assert space.prot_flags(0x1FFFFF) == 3
    for addr in (0x200000, 0xFFFFF):
        with pytest.raises(UnmappedAddress):
            space.prot_flags(addr)
    assert not space.is_dax_region(0x100000)
    assert space.numa_node_id(0x100000) is None


def test_the_walk(space: AddressSpace, region: AddressSpaceRegion) -> None:
    seen: list[AddressSpaceRegion] = []
    space.walk_regions(seen.append)
    assert seen == [region]


def test_the_inserts(space: AddressSpace, region: AddressSpaceRegion) -> None:
    with pytest.raises(RegionOverlap) as refused:
        space.insert_region(region)
    assert (refused.value.address, refused.value.size) == (0x100000, 0x100000)
    assert space.regions == (region,)
    space.insert_region(AddressSpaceRegion.create_dax_region(0x1FFFFFFFFFFF, 0x1000))
    assert space.last_addr == 0x1FFFFF
    assert space.is_dax_region(0x1FFFFFFFFFFF)
    with pytest.raises(LayoutViolation, match="phys_end"):
        space.insert_region(AddressSpaceRegion.create_dax_region(0x3FFFFFFFF000, 0x1000))
    with pytest.raises(LayoutViolation, match="mem_end"):
        space.insert_region(AddressSpaceRegion("ram", 0x1FFFFFFFF000, 0x1000))
    assert len(space) == 2


def test_the_memfd_is_born_when_the_space_is_mapped(space: AddressSpace) -> None:
    """Where the original opens it with the region: a description owns no descriptor here."""
    with space.map_memory() as memory:
        mapping = memory.mapping(0x100000)
        link = Path(f"/proc/self/fd/{mapping.fd}")
        assert str(link.readlink()).startswith("/memfd:")
        assert (link.stat().st_size, mapping.file_offset) == (1048576, 0)
        assert stat.S_ISREG(link.stat().st_mode)
