"""Windows: the same bytes at many addresses, each with its own protection, leases and end."""

import gc
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from dbs_address_space import (
    AccessDenied,
    AddressSpace,
    AddressSpaceBase,
    AddressSpaceChange,
    AddressSpaceRegion,
    BackingOptions,
    DuplicateName,
    InvalidAddressRange,
    InvalidArgument,
    MemoryPart,
    Misaligned,
    NotContiguous,
    Prot,
    RegionBusy,
    RegionOverlap,
    UnmappedAddress,
    Unsupported,
)
from kernel_view import descriptors
from memory_helpers import LAYOUT, MIB, PAGE, WINDOW, blocks, drain, make_file, mapped, numbered, ram, track

SOURCES = ["shmem", "mmap"]
TOP = 64 * MIB


@pytest.fixture(params=SOURCES)
def space(request: pytest.FixtureRequest) -> AddressSpace:
    space, memory = mapped(ram(0, 4 * PAGE, mem_type=request.param, name="ram"))
    memory.write(0, numbered(4 * PAGE))
    return space


def alias(
    space: AddressSpace, base: int, offset: int = 0, size: int | None = None, **options: object
) -> AddressSpaceBase:
    window = AddressSpaceRegion.alias(base, space["ram"], offset, size, **options)  # type: ignore[arg-type]
    return space.insert_region(window)


def test_the_same_bytes_are_seen_at_each_address(space: AddressSpace) -> None:
    memory = space.memory
    alias(space, TOP, PAGE, 2 * PAGE, name="low")
    alias(space, 2 * TOP)
    assert memory.read(TOP, 2 * PAGE) == numbered(4 * PAGE)[PAGE : 3 * PAGE]
    memory.write_u64(TOP + 8, 5)
    assert memory.read_u64(PAGE + 8) == memory.read_u64(2 * TOP + PAGE + 8) == 5
    assert memory.host_address(TOP) == memory.host_address(PAGE)
    low, window, whole = memory.mappings()
    assert low.storage == window.storage == whole.storage
    assert [mapping.storage_offset for mapping in (low, window, whole)] == [0, PAGE, 0]
    assert [(other.base, other.size) for other in memory.aliases(PAGE + 8, 8)] == [
        (TOP + 8, 8),
        (2 * TOP + PAGE + 8, 8),
    ]
    assert [(other.base, other.size) for other in memory.aliases(TOP, 2 * PAGE)] == [
        (PAGE, 2 * PAGE),
        (2 * TOP + PAGE, 2 * PAGE),
    ]
    assert memory.aliases(TOP, 0) == ()


def test_no_window_is_the_original(space: AddressSpace) -> None:
    memory, first = space.memory, space["ram"]
    alias(space, TOP, PAGE, 2 * PAGE)
    space.remove_region("ram")
    assert memory.read(TOP, 2 * PAGE) == numbered(4 * PAGE)[PAGE : 3 * PAGE]
    space.insert_region(AddressSpaceRegion.alias(2 * TOP, first, 2 * PAGE, PAGE))
    space.insert_region(AddressSpaceRegion.alias(3 * TOP, space[TOP], PAGE))
    assert memory.read(2 * TOP, PAGE) == memory.read(3 * TOP, PAGE) == numbered(4 * PAGE)[2 * PAGE : 3 * PAGE]
    with pytest.raises(UnmappedAddress, match="whose bytes no region has here"):
        space.insert_region(AddressSpaceRegion.alias(4 * TOP, first, 0, PAGE))


def test_a_view_vetoes_the_end_of_its_own_window_alone(space: AddressSpace) -> None:
    memory = space.memory
    alias(space, TOP)
    with memory.view(TOP, 8) as view:
        space.remove_region("ram")
        with pytest.raises(RegionBusy, match="0x400_0000"):
            space.remove_region(TOP)
        assert bytes(view) == numbered(8)
    space.remove_region(TOP)


def test_each_window_has_its_own_protection(space: AddressSpace) -> None:
    memory = space.memory
    alias(space, TOP, prot_flags="r--")
    with pytest.raises(AccessDenied):
        memory.write_u8(TOP, 1)
    assert memory.view(TOP, 8).readonly
    memory.write_u8(0, 1)
    space.protect(0, 4 * PAGE, "r--")
    alias(space, 2 * TOP, PAGE, PAGE, prot_flags="rw-")
    memory.write_u8(2 * TOP, 7)
    assert memory.read_u8(TOP + PAGE) == memory.read_u8(PAGE) == 7
    for addr in (0, PAGE, TOP + PAGE):
        with pytest.raises(AccessDenied):
            memory.write_u8(addr, 1)
    # A forced write in what both protect differently leaves to each what it had.
    memory.write(0, b"x" * 4 * PAGE, force=True)
    memory.write_u8(2 * TOP, 9)
    space.remove_region(2 * TOP)
    assert permissions(memory.host_address(0)) == "r--"


def permissions(host: int) -> str:
    """The protection of a page, as the kernel has it."""
    with Path("/proc/self/maps").open(encoding="ascii") as lines:
        for line in lines:
            start, end = (int(number, 16) for number in line.split()[0].split("-"))
            if start <= host < end:
                return line.split()[1][:3]
    raise AssertionError(hex(host))


def test_pages_have_what_their_windows_allow_together(space: AddressSpace) -> None:
    host = space.memory.host_address(0)
    alias(space, TOP, prot_flags="r--")
    assert permissions(host) == "rw-"
    space.remove_region("ram")
    assert permissions(host) == "r--"
    with space.transaction() as change:
        change.protect(TOP + PAGE, PAGE, "rw-")
    assert [permissions(host + page * PAGE) for page in range(4)] == ["r--", "rw-", "r--", "r--"]
    space.memory.write_u8(TOP + PAGE, 1)


def test_protect_cuts_where_it_begins_and_ends(space: AddressSpace) -> None:
    memory = space.memory
    space.protect(PAGE, PAGE, "r--")
    assert [(region.base // PAGE, region.name, region.prot_flags) for region in space] == [
        (0, "ram", Prot.READ | Prot.WRITE),
        (1, None, Prot.READ),
        (2, None, Prot.READ | Prot.WRITE),
    ]
    with pytest.raises(AccessDenied):
        memory.write(0, bytes(4 * PAGE))
    memory.write(2 * PAGE, b"x")
    space.protect(PAGE // 2 * 2, PAGE, Prot.READ | Prot.WRITE)
    space.join_regions("ram", PAGE)
    space.join_regions("ram", 2 * PAGE)
    memory.write(0, bytes(4 * PAGE))
    space.protect(PAGE, PAGE, "---")
    with pytest.raises(AccessDenied):
        memory.read(PAGE, 1)


def test_readers_go_on_where_write_is_taken_away(space: AddressSpace) -> None:
    memory = space.memory
    with memory.view(0, 4 * PAGE, writable=False) as reader:
        space.protect(0, 2 * PAGE, "r--")
        assert bytes(reader[: 4 * PAGE]) == numbered(4 * PAGE)
        with pytest.raises(RegionBusy):
            space.protect(0, PAGE, "---")
    writer = memory.view(3 * PAGE, 8)
    space.protect(2 * PAGE, PAGE, "r--")
    with pytest.raises(RegionBusy, match="a view of 0x8 bytes at 0x3000"):
        space.protect(3 * PAGE, PAGE, "r--")
    assert not writer.readonly
    writer.release()
    space.protect(3 * PAGE, PAGE, "r--")
    with pytest.raises(AccessDenied):
        memory.write_u8(3 * PAGE, 1)


def test_an_exporter_learns_what_its_window_lost(space: AddressSpace) -> None:
    memory = space.memory
    alias(space, TOP)
    view = memory.view(0, 8)
    exporter = view.obj
    view.release()
    space.protect(0, PAGE, "r--")
    with pytest.raises(BufferError, match="was protected"):
        memoryview(exporter)
    memory.write_u8(TOP, 1)


def test_each_page_is_drained_at_every_address(space: AddressSpace) -> None:
    memory = space.memory
    track(memory)
    alias(space, TOP, PAGE, 2 * PAGE)
    memory.write_u8(TOP, 1)
    memory.write_u8(3 * PAGE, 1)
    assert drain(memory) == [(PAGE, PAGE), (3 * PAGE, PAGE), (TOP, PAGE)]
    memory.discard(2 * PAGE, PAGE)
    assert memory.read(TOP + PAGE, PAGE) == bytes(PAGE)
    assert drain(memory) == [(2 * PAGE, PAGE), (TOP + PAGE, PAGE)]


def test_bytes_go_when_nobody_shows_or_keeps_them() -> None:
    space, memory = mapped(ram(0, 4 * MIB, name="ram"))
    memory.fill(0, 4 * MIB, 7)
    alias(space, TOP, MIB, MIB)
    part = memory.part(2 * MIB, MIB)
    space.split_region(0, 3 * MIB)
    space.remove_region("ram")
    assert blocks(memory, TOP) == 3 * MIB // 512
    part.close()
    part.close()
    assert blocks(memory, TOP) == 2 * MIB // 512
    space.remove_region(3 * MIB)
    assert blocks(memory, TOP) == MIB // 512
    assert memory.read(TOP, MIB) == b"\7" * MIB


def blocks_of(name: str) -> int:
    """The blocks of a memfd, whose descriptor nobody is given for that: what others have keeps its bytes."""
    (fd,) = [fd for fd, link in descriptors().items() if f"memfd:{name} " in link]
    return os.fstat(int(fd)).st_blocks


def test_bytes_go_with_the_space_that_showed_them() -> None:
    space, memory = mapped(ram(0, 4 * MIB, name="dropped"))
    memory.fill(0, 4 * MIB, 7)
    other, others = mapped(ram(TOP))
    with memory.part(MIB, 2 * MIB) as part:
        for at in (0, MIB):
            other.insert_region(part.region(at, at, MIB))
    view = memory.view(0, 8)
    del space, memory
    gc.collect()
    # As long as somebody looks at a region, it is there as a whole.
    assert blocks_of("dropped") == 4 * MIB // 512
    assert bytes(view) == b"\7" * 8
    view.release()
    assert blocks_of("dropped") == 2 * MIB // 512
    other.remove_region(0)
    assert blocks_of("dropped") == MIB // 512
    assert others.read(MIB, MIB) == b"\7" * MIB


@pytest.mark.parametrize("source", SOURCES)
def test_a_part_keeps_bytes_that_nobody_sees(source: str) -> None:
    space, memory = mapped(ram(0, 4 * PAGE, mem_type=source, name="ram"), ram(MIB))
    memory.write(0, numbered(4 * PAGE))
    part = memory.part(PAGE, 2 * PAGE)
    assert part.size == 2 * PAGE
    space.remove_region("ram")
    with pytest.raises(UnmappedAddress):
        memory.read(PAGE, 1)
    space.insert_region(part.region(TOP, prot_flags="r--", name="first", region_type="firmware"))
    space.insert_region(part.region(2 * TOP, PAGE))
    assert memory.read(TOP, 2 * PAGE) == numbered(4 * PAGE)[PAGE : 3 * PAGE]
    memory.write_u8(2 * TOP, 9)
    assert memory.read_u8(TOP + PAGE) == 9
    assert [(other.base, other.size) for other in memory.aliases(2 * TOP, PAGE)] == [(TOP + PAGE, PAGE)]
    late = part.region(3 * TOP, PAGE)
    part.close()
    space.insert_region(late)
    assert memory.read_u8(3 * TOP) == 9
    with pytest.raises(InvalidArgument, match="closed"):
        part.region(4 * TOP)
    gone = space[3 * TOP]
    for base in (TOP, 2 * TOP, 3 * TOP):
        space.remove_region(base)
    with pytest.raises(UnmappedAddress, match="was closed"):
        space.insert_region(gone)


def test_a_part_is_seen_in_another_space(space: AddressSpace) -> None:
    memory = space.memory
    other, others = mapped(ram(TOP))
    part = memory.part(0, 2 * PAGE)
    other.insert_region(part.region(0, prot_flags="r--"))
    memory.write_u8(5, 77)
    assert others.read_u8(5) == 77
    with pytest.raises(AccessDenied):
        others.write_u8(5, 1)
    with others.view(0, 8):
        space.remove_region("ram")
        with pytest.raises(RegionBusy):
            other.remove_region(0)
    assert others.read_u8(5) == 77
    part.close()
    del space, memory
    gc.collect()
    assert others.read(6, PAGE) == numbered(4 * PAGE)[6 : PAGE + 6]
    others.close()
    other.map_memory().close()


def test_a_part_of_two_regions_and_of_two_memories(space: AddressSpace) -> None:
    memory = space.memory
    space.split_region("ram", PAGE)
    space.insert_region(ram(4 * PAGE))
    with memory.part(0, 4 * PAGE) as part:
        space.insert_region(part.region(TOP))
    assert memory.read(TOP, 4 * PAGE) == numbered(4 * PAGE)
    with pytest.raises(NotContiguous, match="part: the bytes from 0x4000 on are those of another memory than ram"):
        memory.part(2 * PAGE, 3 * PAGE)


def test_a_transaction_swaps_what_is_seen(space: AddressSpace) -> None:
    memory = space.memory
    space.insert_region(ram(TOP, PAGE, name="rom"))
    memory.write(TOP, b"ROM")
    below, rom = memory.part(PAGE, PAGE), memory.part(TOP, PAGE)
    with space.transaction() as change:
        change.split_region("ram", PAGE)
        change.split_region(PAGE, 2 * PAGE)
        change.remove_region(PAGE)
        change.insert_region(rom.region(PAGE, prot_flags="r-x", name="shadow"))
    assert memory.read(PAGE, 3) == b"ROM"
    with space.transaction() as change:
        change.remove_region("shadow")
        change.insert_region(below.region(PAGE))
    assert memory.read(0, 4 * PAGE) == numbered(4 * PAGE)
    with memory.view(PAGE, 1), pytest.raises(RegionBusy), space.transaction() as change:
        change.remove_region(PAGE)
        change.insert_region(rom.region(PAGE))
    assert memory.read(0, 4 * PAGE) == numbered(4 * PAGE)


def test_windows_of_one_transaction_share_their_memory() -> None:
    space, memory = mapped(ram(0))
    first = ram(MIB, 4 * PAGE)
    with space.transaction() as change:
        change.insert_region(first)
        change.insert_region(AddressSpaceRegion.alias(2 * MIB, first, PAGE, 2 * PAGE))
        change.insert_region(AddressSpaceRegion.alias(3 * MIB, first, 2 * PAGE))
        change.remove_region(first)
    memory.write_u8(2 * MIB + PAGE, 5)
    assert memory.read_u8(3 * MIB) == 5
    assert memory.read_u8(3 * MIB + PAGE) == 0


def test_windows_are_mapped_with_what_they_show() -> None:
    first = ram(0, 4 * PAGE, name="ram", prot_flags="r--")
    regions = [AddressSpaceRegion.alias(MIB, first, PAGE, PAGE, prot_flags="rw-"), first]
    space = AddressSpace.from_regions(regions, LAYOUT)
    space.split_region(0, PAGE)
    memory = space.map_memory()
    memory.write_u8(MIB, 3)
    assert memory.read_u8(PAGE) == 3
    with pytest.raises(AccessDenied):
        memory.write_u8(PAGE, 3)
    memory.close()
    memory = space.map_memory()
    assert memory.read_u8(PAGE) == 0
    memory.write_u8(MIB, 4)
    assert memory.read_u8(PAGE) == 4


def test_a_kept_part_outlives_the_memory() -> None:
    space, memory = mapped(ram(0, PAGE))
    memory.write_u8(0, 4)
    part = memory.part(0, PAGE)
    space.insert_region(part.region(MIB))
    memory.close()
    memory = space.map_memory()
    assert (memory.read_u8(0), memory.read_u8(MIB)) == (0, 4)
    part.close()
    assert memory.read_u8(MIB) == 4


def test_changes_tell_what_moved_and_what_was_cut(space: AddressSpace) -> None:
    changes: list[AddressSpaceChange] = []
    subscription = space.subscribe(changes.append)
    whole = space["ram"]
    space.split_region("ram", PAGE)
    space.move_region("ram", TOP)
    space.protect(2 * PAGE, PAGE, "r--")
    alias(space, 2 * TOP)
    assert [(old, [part.size for part in parts]) for old, parts in changes[0].cut] == [(whole, [PAGE, 3 * PAGE])]
    assert changes[0].moved == ()
    [(old, new)] = changes[1].moved
    assert (old.base, new.base, old.name, new.name) == (0, TOP, "ram", "ram")
    assert changes[1].cut == ()
    [(_, parts)] = changes[2].cut
    assert [part.base for part in parts] == [PAGE, 2 * PAGE, 3 * PAGE]
    assert (changes[3].moved, changes[3].cut, len(changes[3].added)) == ((), (), 1)
    subscription.close()


def test_bad_windows_change_nothing(space: AddressSpace) -> None:
    memory = space.memory
    space.insert_region(AddressSpaceRegion("device", WINDOW, PAGE, name="uart"))
    before, first = space.snapshot(), space["ram"]
    with pytest.raises(Unsupported, match="device"):
        AddressSpaceRegion.alias(TOP, space["uart"])
    for offset, size in ((4 * PAGE, None), (0, 5 * PAGE), (PAGE, 4 * PAGE), (0, 0)):
        with pytest.raises(InvalidAddressRange, match=r"0x4000\) of 0x4000 bytes has no"):
            AddressSpaceRegion.alias(TOP, first, offset, size)
    with pytest.raises(InvalidAddressRange):
        AddressSpaceRegion.alias(TOP, first, PAGE).replace(size=4 * PAGE)
    for window in (AddressSpaceRegion.alias(TOP, first, 8, PAGE), AddressSpaceRegion.alias(TOP, first, 0, 100)):
        with pytest.raises(Misaligned):
            space.insert_region(window)
    with pytest.raises(RegionOverlap):
        alias(space, PAGE)
    with pytest.raises(DuplicateName):
        alias(space, TOP, name="ram")
    with pytest.raises(UnmappedAddress, match="is a window on ram"):
        space.insert_region(AddressSpaceRegion.alias(TOP, ram(0, 8 * PAGE)))
    with pytest.raises(Misaligned):
        memory.part(8, PAGE)
    with pytest.raises(InvalidAddressRange):
        memory.part(0, 0)
    with pytest.raises(UnmappedAddress):
        memory.part(3 * PAGE, 2 * PAGE)
    part = memory.part(0, PAGE)
    for offset, size in ((PAGE, None), (0, 2 * PAGE), (0, 0)):
        with pytest.raises(InvalidAddressRange):
            part.region(TOP, offset, size)
    for kind in ("device", "dax"):
        with pytest.raises(InvalidArgument):
            part.region(TOP, region_type=kind)
    refusals: list[Callable[[], object]] = [
        lambda: space.protect(3 * PAGE, 2 * PAGE, "r--"),
        lambda: space.protect(TOP, PAGE, "r--"),
        lambda: memory.aliases(3 * PAGE, 2 * PAGE),
    ]
    for refused in refusals:
        with pytest.raises(UnmappedAddress):
            refused()
    with pytest.raises(InvalidAddressRange):
        space.protect(0, 0, "r--")
    with pytest.raises(InvalidArgument):
        space.protect(WINDOW, PAGE, "r--")
    for unpickled in (part, AddressSpaceRegion.alias(TOP, first)):
        with pytest.raises(TypeError, match="cannot pickle"):
            pickle.dumps(unpickled)
    assert space.snapshot() == before
    assert memory.read(0, 4 * PAGE) == numbered(4 * PAGE)


def test_a_buffer_is_seen_twice() -> None:
    space, memory = mapped(ram(0))
    buffer = bytearray(numbered(3 * PAGE))
    region = AddressSpaceRegion.from_buffer(MIB, buffer, name="buffer")
    space.insert_region(region)
    space.insert_region(AddressSpaceRegion.alias(2 * MIB, region, 100, PAGE))
    assert memory.read(2 * MIB, PAGE) == numbered(3 * PAGE)[100 : PAGE + 100]
    space.remove_region("buffer")
    del region
    memory.write_u8(2 * MIB, 1)
    assert buffer[100] == 1


def test_a_forked_child_gives_nothing_back() -> None:
    space, memory = mapped(ram(0, 2 * MIB))
    memory.fill(0, 2 * MIB, 3)
    part = memory.part(MIB, MIB)
    space.split_region(0, MIB)
    space.remove_region(MIB)
    child = os.fork()
    if child == 0:
        part.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    space.insert_region(part.region(TOP))
    assert memory.read(TOP, MIB) == b"\3" * MIB
    assert isinstance(part, MemoryPart)


def test_a_region_grows_in_its_own_memory() -> None:
    options = BackingOptions(max_size=4 * MIB)
    space, memory = mapped(ram(0, MIB, name="ram", backing=options), ram(8 * MIB))
    track(memory)
    memory.write(MIB - 4, b"last")
    host = memory.host_address(0)
    with memory.view(0, MIB) as view:
        assert [region.size for region in space.grow_region("ram", 2 * MIB)] == [2 * MIB, PAGE]
        assert bytes(view[MIB - 4 :]) == b"last"
    memory.write(MIB - 2, b"across")
    assert memory.host_address(0) == host
    assert bytes(memory.view(MIB - 2, 6)) == b"across"
    assert memory.read(MIB + 4, MIB - 4) == bytes(MIB - 4)
    assert drain(memory) == [(0, MIB + PAGE)]
    with pytest.raises(InvalidAddressRange, match=r"its memory has 0x40_0000 \(max_size=\)"):
        space.grow_region("ram", 4 * MIB + PAGE)
    with space.transaction() as change:
        change.grow_region("ram", 4 * MIB)
        change.split_region("ram", 3 * MIB)
        change.remove_region(3 * MIB)
    memory.write(2 * MIB, b"x")
    space.split_region("ram", MIB)
    space.remove_region(MIB)
    space.grow_region("ram", 3 * MIB)
    assert memory.read(MIB, 2 * MIB) == bytes(2 * MIB)
    memory.write(3 * MIB - 1, b"!")


def test_a_region_without_room_has_a_neighbour(tmp_path: Path) -> None:
    space, memory = mapped(ram(0, MIB, name="ram"))
    space.grow_region("ram", 2 * MIB)
    space.grow_region("ram-2", 2 * MIB)
    assert [(region.name, region.size) for region in space] == [("ram", MIB), ("ram-2", MIB), ("ram-2-2", MIB)]
    memory.write(MIB - 2, b"across")
    with pytest.raises(NotContiguous):
        memory.view(MIB - 2, 6)
    with make_file(tmp_path / "file", 2 * PAGE).open("r+b") as file:
        file.seek(PAGE)
        file.write(b"next")
        file.flush()
        space.insert_region(AddressSpaceRegion.from_file(8 * MIB, PAGE, file, name="file"))
        space.grow_region("file", 2 * PAGE)
    assert memory.read(8 * MIB + PAGE, 4) == b"next"


def test_bad_growth_changes_nothing(space: AddressSpace) -> None:
    space.insert_region(ram(4 * PAGE, name="neighbour"))
    space.insert_region(AddressSpaceRegion.alias(TOP, space["ram"], name="window"))
    space.insert_region(AddressSpaceRegion.from_buffer(2 * TOP, bytearray(PAGE), name="buffer"))
    space.insert_region(AddressSpaceRegion("device", WINDOW, PAGE, name="uart"))
    before = space.snapshot()
    for size in (0, PAGE, 4 * PAGE):
        with pytest.raises(InvalidAddressRange, match="split_region"):
            space.grow_region("ram", size)
    with pytest.raises(RegionOverlap):
        space.grow_region("ram", 5 * PAGE)
    for name in ("window", "buffer"):
        with pytest.raises(InvalidArgument, match="cannot grow"):
            space.grow_region(name, MIB)
    with pytest.raises(Unsupported, match="device"):
        space.grow_region("uart", MIB)
    for wrong in ({"max_size": PAGE, "mlock": True}, {"max_size": PAGE // 2}):
        with pytest.raises((InvalidArgument, InvalidAddressRange)):
            ram(0, PAGE, backing=BackingOptions(**wrong))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="leave backing="):
        AddressSpaceRegion.from_buffer(0, bytearray(PAGE)).replace(backing=BackingOptions(max_size=MIB))
    assert space.snapshot() == before
