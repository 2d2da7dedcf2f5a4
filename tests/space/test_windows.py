"""Regions that are cut, joined and moved while their bytes, views and host addresses stay."""

from pathlib import Path

import pytest
from dbs_address_space import (
    AccessDenied,
    AddressSpace,
    AddressSpaceRegion,
    InvalidAddressRange,
    InvalidArgument,
    MemoryFault,
    Misaligned,
    RegionBusy,
    RegionOverlap,
    UnmappedAddress,
    Unsupported,
)
from memory_helpers import MIB, PAGE, WINDOW, blocks, drain, mapped, numbered, ram, track

SOURCES = ["shmem", "mmap"]


@pytest.fixture(params=SOURCES)
def space(request: pytest.FixtureRequest) -> AddressSpace:
    space, memory = mapped(ram(0, 4 * PAGE, mem_type=request.param, name="ram"))
    memory.write(0, numbered(4 * PAGE))
    return space


def test_parts_that_were_moved_are_joined_while_nobody_holds_them(space: AddressSpace) -> None:
    memory = space.memory
    space.split_region("ram", 2 * PAGE)
    space.move_region(2 * PAGE, MIB)
    space.move_region(MIB, 2 * PAGE)
    low = memory.view(0, 8)
    with memory.view(3 * PAGE, 8), pytest.raises(RegionBusy, match="a view of 0x8 bytes at 0x3000"):
        space.join_regions("ram", 2 * PAGE)
    assert ranges(space) == [(0, 2, "ram"), (2, 2, None)]
    space.join_regions("ram", 2 * PAGE)
    assert ranges(space) == [(0, 4, "ram")]
    assert memory.read(0, 4 * PAGE) == numbered(4 * PAGE)
    memory.write_u64(3 * PAGE, 5)
    # Leases on both halves are of the whole, and nothing is left of the place that one of them had.
    for view in (low, memory.view(3 * PAGE, 8)):
        with pytest.raises(RegionBusy):
            space.remove_region("ram")
        view.release()
    with memory.part(0, PAGE):
        space.remove_region("ram")


def ranges(space: AddressSpace) -> list[tuple[int, int, str | None]]:
    return [(region.base // PAGE, region.size // PAGE, region.name) for region in space]


def test_bytes_views_and_host_addresses_stay(space: AddressSpace) -> None:
    memory, host = space.memory, space.memory.host_address(PAGE)
    with memory.view(0, 4 * PAGE) as view:
        space.split_region("ram", PAGE)
        space.split_region(PAGE, 3 * PAGE)
        assert ranges(space) == [(0, 1, "ram"), (1, 2, None), (3, 1, None)]
        assert memory.read(0, 4 * PAGE) == numbered(4 * PAGE)
        assert memory.host_address(PAGE) == host
        memory.write_u64(3 * PAGE, 5)
        assert view[3 * PAGE] == 5
        space.join_regions(PAGE, 3 * PAGE)
        space.join_regions("ram", PAGE)
        view[0] = 9
    assert ranges(space) == [(0, 4, "ram")]
    assert memory.read_u8(0) == 9
    assert memory.view(0, 4 * PAGE).nbytes == 4 * PAGE


def test_only_the_half_that_is_held_is_busy(space: AddressSpace) -> None:
    memory = space.memory
    with memory.view(0, PAGE):
        space.split_region(0, 2 * PAGE)
        with pytest.raises(RegionBusy, match="a view of 0x1000 bytes at 0x0"):
            space.remove_region(0)
        space.remove_region(2 * PAGE)
    with pytest.raises(UnmappedAddress):
        memory.read(2 * PAGE, 1)
    assert memory.read(0, 2 * PAGE) == numbered(4 * PAGE)[: 2 * PAGE]
    space.remove_region(0)


def test_what_is_removed_gives_its_pages_back() -> None:
    space, memory = mapped(ram(0, 2 * MIB))
    memory.fill(0, 2 * MIB, 0x31)
    assert blocks(memory, 0) == 2 * MIB // 512
    space.split_region(0, MIB)
    space.remove_region(MIB)
    assert blocks(memory, 0) == MIB // 512
    space.insert_region(ram(MIB, MIB))
    assert memory.read(MIB, 16) == bytes(16)
    assert memory.read(0, 1) == b"1"


def test_a_region_moves_with_its_bytes(space: AddressSpace) -> None:
    memory, host = space.memory, space.memory.host_address(0)
    for base in (MIB, MIB + PAGE, 0):
        space.move_region("ram", base)
        assert memory.read(base, 4 * PAGE) == numbered(4 * PAGE)
        assert memory.host_address(base) == host
        assert len(space) == 1
    space.move_region(0, MIB)
    with pytest.raises(UnmappedAddress):
        memory.read(0, 1)


def test_a_view_vetoes_a_move_and_means_its_address(space: AddressSpace) -> None:
    memory = space.memory
    view = memory.view(PAGE, 8)
    with pytest.raises(RegionBusy, match="0x1000"):
        space.move_region(0, MIB)
    assert memory.read(0, 4) == numbered(4)
    view.release()
    space.move_region(0, MIB)
    with memory.view(MIB + PAGE, 8), pytest.raises(RegionBusy, match="0x10_1000"):
        space.remove_region(MIB)


def test_a_part_has_its_own_protection(space: AddressSpace) -> None:
    memory = space.memory
    space.split_region(0, PAGE)
    space.split_region(PAGE, 2 * PAGE)
    space.replace_region(PAGE, space.regions[1].replace(prot_flags="r--"))
    with pytest.raises(PermissionError):
        memory.write_u8(PAGE, 1)
    memory.write(PAGE, b"forced", force=True)
    assert memory.read(PAGE, 6) == b"forced"
    memory.write_u8(0, 1)
    memory.write_u8(2 * PAGE, 1)
    assert memory.mapping(2 * PAGE).guarded is False
    with pytest.raises(InvalidArgument, match="differ"):
        space.join_regions(0, PAGE)
    space.replace_region(PAGE, space.regions[1].replace(prot_flags="rw-"))
    space.join_regions(0, PAGE)
    memory.write(0, b"x" * 4 * PAGE)


def test_each_page_is_drained_where_it_is_seen(space: AddressSpace) -> None:
    memory = space.memory
    track(memory)
    memory.write_u8(0, 1)
    memory.write_u8(3 * PAGE, 1)
    space.split_region(0, 2 * PAGE)
    space.move_region(2 * PAGE, MIB)
    assert drain(memory) == [(0, PAGE), (MIB + PAGE, PAGE)]
    memory.write_u8(MIB, 1)
    assert drain(memory) == [(MIB, PAGE)]


def test_a_transaction_does_all_or_nothing(space: AddressSpace) -> None:
    memory = space.memory
    with space.transaction() as change:
        change.split_region(0, PAGE)
        change.move_region(PAGE, MIB)
        change.insert_region(ram(PAGE, PAGE, name="new"))
    assert ranges(space) == [(0, 1, "ram"), (1, 1, "new"), (256, 3, None)]
    assert memory.read(MIB, 3 * PAGE) == numbered(4 * PAGE)[PAGE:]
    assert memory.read(PAGE, PAGE) == bytes(PAGE)
    with memory.view(MIB, 1), pytest.raises(RegionBusy), space.transaction() as change:
        change.split_region(MIB, MIB + PAGE)
        change.remove_region(0)
        change.move_region(MIB, 2 * MIB)
    assert len(space) == 3
    assert memory.read(0, PAGE) == numbered(PAGE)


def test_regions_of_one_transaction_are_cut_before_they_are_mapped() -> None:
    space, memory = mapped(ram(0))
    with space.transaction() as change:
        change.insert_region(ram(MIB, 4 * PAGE))
        change.split_region(MIB, MIB + PAGE)
        change.move_region(MIB + PAGE, 2 * MIB)
    memory.write_u8(2 * MIB, 7)
    memory.write_u8(MIB, 8)
    assert (memory.read_u8(2 * MIB), memory.read_u8(MIB)) == (7, 8)
    space.move_region(2 * MIB, MIB + PAGE)
    with pytest.raises(InvalidArgument, match="mapped apart"):
        space.join_regions(MIB, MIB + PAGE)


def test_a_file_is_cut_at_its_offset(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(numbered(4 * PAGE))
    with path.open("r+b") as file:
        space, memory = mapped(AddressSpaceRegion.from_file(0, 3 * PAGE, file, PAGE))
    space.split_region(0, PAGE)
    assert [region.file_offset for region in space] == [PAGE, 2 * PAGE]
    assert memory.mapping(PAGE).file_offset == 2 * PAGE
    with path.open("r+b") as file:
        file.truncate(3 * PAGE)
    with pytest.raises(MemoryFault) as fault:
        memory.read(2 * PAGE, 1)
    assert fault.value.file_offset == 3 * PAGE


def test_a_buffer_is_cut(space: AddressSpace) -> None:
    buffer = bytearray(numbered(3 * PAGE))
    space.insert_region(AddressSpaceRegion.from_buffer(MIB, buffer))
    space.split_region(MIB, MIB + 100)
    assert space.memory.read(MIB, 3 * PAGE) == numbered(3 * PAGE)
    space.join_regions(MIB, MIB + 100)
    space.remove_region(MIB)
    buffer.append(1)


def test_bad_cuts_joins_and_moves_change_nothing(space: AddressSpace) -> None:
    space.insert_region(ram(MIB, name="other"))
    space.insert_region(ram(4 * PAGE, name="neighbour"))
    space.insert_region(AddressSpaceRegion("device", WINDOW, PAGE, name="uart"))
    before = space.snapshot()
    for at in (0, 4 * PAGE, MIB):
        with pytest.raises(InvalidAddressRange):
            space.split_region("ram", at)
    with pytest.raises(Misaligned):
        space.split_region("ram", PAGE + 8)
    with pytest.raises(UnmappedAddress):
        space.split_region(PAGE, 2 * PAGE)
    with pytest.raises(RegionOverlap):
        space.move_region("ram", MIB - PAGE)
    with pytest.raises(Unsupported, match="device"):
        space.split_region("uart", WINDOW + 8)
    with pytest.raises(Unsupported, match="device"):
        space.move_region("uart", WINDOW + MIB)
    with pytest.raises(InvalidArgument, match="not cut from one"):
        space.join_regions("ram", "neighbour")
    with pytest.raises(InvalidArgument, match="does not begin where"):
        space.join_regions("ram", "other")
    space.reserve(MIB, owner="someone", base=2 * MIB)
    with pytest.raises(RegionOverlap, match="reserved for"):
        space.move_region("ram", 2 * MIB)
    assert space.snapshot() == before
    assert space.memory.read(0, 4 * PAGE) == numbered(4 * PAGE)


def test_a_reserved_region_can_be_cut() -> None:
    space, _ = mapped(ram(0))
    reservation = space.reserve(MIB, owner="owner", base=MIB)
    reservation.insert_region(ram(MIB, 2 * PAGE))
    space.split_region(MIB, MIB + PAGE)
    assert len(space) == 3


def test_a_part_that_is_cut_and_opened_in_one_change_can_be_written() -> None:
    space, memory = mapped(ram(0, 4 * PAGE, prot_flags="---"))
    with space.transaction() as change:
        change.split_region(0, PAGE)
        part = change.split_region(PAGE, 2 * PAGE)[PAGE]
        change.replace_region(PAGE, part.replace(prot_flags="rw-"))
    memory.write_u64(PAGE, 1)
    assert memory.read_u64(PAGE) == 1
    with pytest.raises(AccessDenied):
        memory.read_u64(0)
