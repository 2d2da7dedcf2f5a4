"""`GuestMemory`: bytes and integers, spans over touching regions, refusals that do nothing."""

import array
import mmap
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dbs_address_space import (
    MAP_PRIVATE,
    PROT_NONE,
    AccessDenied,
    AddressSpace,
    AddressSpaceLayout,
    AddressSpaceRegion,
    GuestMemory,
    InvalidAddressRange,
    InvalidArgument,
    Misaligned,
    NotMapped,
    UnmappedAddress,
    Unsupported,
)
from kernel_view import maps_of, protection
from memory_helpers import LAYOUT, MIB, PAGE, WINDOW, make_file, mapped, numbered, ram
from verbs import VERBS, Verb, data

JOINT = 2 * PAGE
"""Where 'low' ends and 'high' begins."""
HOLE = 4 * PAGE
UART = 6 * PAGE
ROM = 8 * PAGE
TOP = 9 * PAGE
END = 10 * PAGE

BACKINGS = ["shmem", "mmap", "file", "private file"]
WIDTHS = [1, 2, 4, 8]

REFUSED = [verb for verb in VERBS if verb.touches and verb.needs and not verb.holes and not verb.widths]


def low(backing: str, directory: Path) -> AddressSpaceRegion:
    """RAM of two pages, directly copied ("shmem", "mmap") or guarded (files)."""
    if "file" not in backing:
        return ram(0, JOINT, name="low", mem_type=backing)
    path = make_file(directory / "low", JOINT)
    with path.open("r+b") as file:
        return ram(0, JOINT, name="low", file=file, perm_flags=MAP_PRIVATE if "private" in backing else 1)


def guest(backing: str, directory: Path) -> AddressSpace:
    layout = AddressSpaceLayout(1 << 46, 0, 1 << 45, mmio_windows=((UART, PAGE),))
    regions = [
        low(backing, directory),
        ram(JOINT, 2 * PAGE, name="high"),
        AddressSpaceRegion.create_device_region(UART, PAGE, name="uart"),
        AddressSpaceRegion.create_firmware_region(ROM, PAGE, "r--", name="rom"),
        ram(TOP, name="top"),
    ]
    return AddressSpace.from_regions(regions, layout)


@pytest.fixture(params=BACKINGS)
def space(request: pytest.FixtureRequest, tmp_path: Path) -> AddressSpace:
    return guest(request.param, tmp_path)


@pytest.fixture
def memory(space: AddressSpace) -> Iterator[GuestMemory]:
    with space.map_memory() as memory:
        yield memory


def everything(memory: GuestMemory) -> bytes:
    return memory.read(0, END, pad=0xFF)


@pytest.mark.parametrize("size", [1, 7, 8, 64, PAGE, PAGE + 1, JOINT])
def test_what_is_written_is_read(memory: GuestMemory, size: int) -> None:
    memory.write(JOINT - size, numbered(size))
    assert memory.read(JOINT - size, size) == numbered(size)
    assert memory.read(0, JOINT - size) == bytes(JOINT - size)


def test_new_memory_is_zero(memory: GuestMemory) -> None:
    assert memory.read(0, HOLE) == bytes(HOLE)


@pytest.mark.parametrize("head", [1, 3, PAGE, JOINT])
def test_accesses_span_touching_regions(memory: GuestMemory, head: int) -> None:
    data = numbered(head + 5)
    memory.write(JOINT - head, data)
    assert memory.read(JOINT - head, len(data)) == data
    assert memory.read(JOINT, 5) == data[head:]
    memory.fill(JOINT - head, head + 5, 0x5A)
    assert memory.read(JOINT - head, head + 6) == b"\x5a" * (head + 5) + b"\0"


@pytest.mark.parametrize("size", [4 * MIB, 5 * MIB + 3])
def test_long_accesses_span_touching_regions(size: int, tmp_path: Path) -> None:
    with make_file(tmp_path / "ram", 3 * MIB).open("r+b") as file:
        _, memory = mapped(ram(0, 2 * MIB), ram(2 * MIB, 3 * MIB, file=file), ram(5 * MIB, 2 * MIB, mem_type="mmap"))
    data = numbered(size)
    memory.write(PAGE + 1, data)
    assert memory.read(PAGE + 1, size) == data
    target = bytearray(size)
    assert memory.read_into(PAGE + 1, target) == size
    assert target == data
    memory.fill(PAGE + 1, size, 7)
    assert memory.read(PAGE, size + 2) == b"\0" + b"\7" * size + b"\0"


@pytest.mark.parametrize(
    "data",
    [
        b"abcdefgh",
        bytearray(b"abcdefgh"),
        memoryview(b"_abcdefgh_")[1:9],
        array.array("H", b"abcdefgh"),
        np.frombuffer(b"abcdefgh", dtype=">u4").reshape(1, 2),
    ],
    ids=["bytes", "bytearray", "memoryview", "array", "ndarray"],
)
def test_any_contiguous_buffer_can_be_written(memory: GuestMemory, data: bytes) -> None:
    memory.write(JOINT - 4, data)
    assert memory.read(JOINT - 4, 8) == b"abcdefgh"


@pytest.mark.parametrize("buffer", [bytearray(8), array.array("Q", [0]), np.zeros((2, 2), "<u2"), mmap.mmap(-1, 8)])
def test_any_writable_buffer_can_be_read_into(memory: GuestMemory, buffer: bytearray) -> None:
    memory.write(JOINT - 4, b"abcdefgh")
    assert memory.read_into(JOINT - 4, buffer) == 8
    assert memoryview(buffer).cast("B").tobytes() == b"abcdefgh"


def test_read_into_refuses_what_it_cannot_fill(memory: GuestMemory) -> None:
    with pytest.raises(TypeError, match="read-only"):
        memory.read_into(0, b"constant")
    with pytest.raises(BufferError, match="not contiguous"):
        memory.read_into(0, memoryview(bytearray(8))[::2])
    with pytest.raises(TypeError):
        memory.read_into(0, "text")  # type: ignore[arg-type]


def test_write_refuses_what_has_no_bytes(memory: GuestMemory) -> None:
    with pytest.raises(TypeError):
        memory.write(0, "text")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        memory.write(0, 5)  # type: ignore[arg-type]
    with pytest.raises(BufferError, match="not contiguous"):
        memory.write(0, memoryview(b"12345678")[::2])
    assert everything(memory)[:8] == bytes(8)


@pytest.mark.parametrize("shift", [-3, 3])
def test_memory_can_be_moved_onto_itself(shift: int) -> None:
    _, memory = mapped(ram(0))
    memory.write(8, b"0123456789")
    with memory.view(8, 10) as view:
        memory.write(8 + shift, view)
    assert memory.read(8 + shift, 10) == b"0123456789"


def test_sizes_may_be_text(memory: GuestMemory) -> None:
    memory.fill(0, "4 KiB", 9)
    assert memory.read(0, "4KiB") == b"\x09" * 4096


def test_numbers_may_be_anything_with_an_index(memory: GuestMemory) -> None:
    memory.write_u16(np.uint64(4), np.uint8(7))
    assert memory.read(np.int64(4), np.int8(2)) == b"\7\0"


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_integers_at_every_alignment_and_over_the_joint(memory: GuestMemory, width: int, big: bool) -> None:  # noqa: FBT001
    read, write = getattr(memory, f"read_u{8 * width}"), getattr(memory, f"write_u{8 * width}")
    value = 0xF1E2_D3C4_B5A6_9788 >> 8 * (8 - width)
    for addr in [*range(9), *range(JOINT - 8, JOINT + 1), HOLE - width]:
        write(addr, value, big=big)
        assert memory.read(addr, width) == value.to_bytes(width, "big" if big else "little")
        assert read(addr, big=big) == value
        memory.fill(addr, width)


@pytest.mark.parametrize("width", WIDTHS)
def test_integers_keep_their_limits(memory: GuestMemory, width: int) -> None:
    read, write = getattr(memory, f"read_u{8 * width}"), getattr(memory, f"write_u{8 * width}")
    write(0, 2 ** (8 * width) - 1)
    for value in (2 ** (8 * width), -1, True):
        with pytest.raises(InvalidAddressRange):
            write(0, value)
    with pytest.raises(TypeError):
        write(0, 1.0)
    assert read(0) == 2 ** (8 * width) - 1


@pytest.mark.parametrize("order", ["relaxed", "release", "seq_cst"])
@pytest.mark.parametrize("size", WIDTHS)
def test_stores_are_loaded(size: int, order: str) -> None:
    _, memory = mapped(ram(0))
    value = 0x8877_6655_4433_2211 >> 8 * (8 - size)
    memory.store(2 * size, value, size, order=order)
    assert memory.read(2 * size, size) == value.to_bytes(size, "little")
    for reading in ("relaxed", "acquire", "seq_cst"):
        assert memory.load(2 * size, size, order=reading) == value


def test_atomics_refuse_what_they_cannot_be() -> None:
    _, memory = mapped(ram(0), AddressSpaceRegion.create_firmware_region(PAGE, PAGE, "r--"))
    with pytest.raises(Misaligned) as misaligned:
        memory.load(4)
    assert (misaligned.value.address, misaligned.value.size) == (4, 8)
    for size in (0, 3, 16):
        with pytest.raises(InvalidAddressRange):
            memory.load(0, size)
    with pytest.raises(InvalidArgument, match="order"):
        memory.load(0, order="release")
    with pytest.raises(InvalidArgument, match="order"):
        memory.store(0, 1, order="acquire")
    with pytest.raises(InvalidAddressRange):
        memory.store(0, 256, 1)
    with pytest.raises(AccessDenied):
        memory.store(PAGE, 1)
    with pytest.raises(UnmappedAddress):
        memory.load(2 * PAGE)
    assert memory.load(0) == 0


@pytest.mark.parametrize("backing", ["file", "private file"])
def test_atomics_need_memory_that_cannot_fault(backing: str, tmp_path: Path) -> None:
    _, memory = mapped(low(backing, tmp_path))
    for atomic in (lambda: memory.load(0), lambda: memory.store(0, 1)):
        with pytest.raises(Unsupported, match="read_u") as refused:
            atomic()
        assert refused.value.feature
        assert refused.value.region == memory.regions[0]


# Refusals: the first bad address, and nothing done.


BAD_RANGES = [
    (HOLE, 1, HOLE),
    (HOLE - 3, 8, HOLE),
    (1, 7 * PAGE, HOLE),
    (HOLE + 5, 2, HOLE + 5),
    (UART - 1, 2, UART - 1),
    (UART, 4, UART),
    (ROM - 4, 8, ROM - 4),
    (END, 1, END),
    (1 << 45, 1, 1 << 45),
    (2**64 - 2, 1, 2**64 - 2),
]


@pytest.mark.parametrize("verb", REFUSED, ids=str)
def test_holes_and_devices_refuse_and_nothing_is_done(memory: GuestMemory, verb: Verb) -> None:
    before = everything(memory)
    for addr, size, bad in BAD_RANGES:
        if verb.name == "copy" and size > JOINT:
            continue
        with pytest.raises(UnmappedAddress) as refused:
            verb(memory, addr, size)
        assert (refused.value.address, refused.value.size) == (bad, size)
        assert everything(memory) == before


def test_a_device_in_the_way_is_named(memory: GuestMemory) -> None:
    with pytest.raises(UnmappedAddress, match="device") as refused:
        memory.read(UART + 4, 1)
    assert refused.value.region is not None
    assert refused.value.region.name == "uart"


@pytest.mark.parametrize("width", WIDTHS)
def test_integers_refuse_too(memory: GuestMemory, width: int) -> None:
    for addr, bad in ((HOLE - width + 1, HOLE), (UART, UART), (END - width + 1, END)):
        with pytest.raises(UnmappedAddress) as refused:
            getattr(memory, f"read_u{8 * width}")(addr)
        assert refused.value.address == max(bad, addr)
        with pytest.raises(UnmappedAddress):
            getattr(memory, f"write_u{8 * width}")(addr, 1)
    assert memory.read(HOLE - 8, 8) == bytes(8)


@pytest.mark.parametrize("verb", [verb for verb in REFUSED if verb.needs == "w"], ids=str)
def test_a_protection_refuses_writes_and_nothing_is_done(memory: GuestMemory, verb: Verb) -> None:
    for addr, size, bad in ((ROM + 8, 4, ROM + 8), (ROM, PAGE + 4, ROM), (TOP - 1, 9, TOP - 1)):
        with pytest.raises(AccessDenied) as refused:
            verb(memory, addr, size)
        assert (refused.value.address, refused.value.errno) == (bad, 13)
        assert refused.value.region is not None
        assert refused.value.region.name == "rom"
        assert memory.read(ROM, 2 * PAGE) == bytes(2 * PAGE)


@pytest.mark.parametrize("verb", REFUSED, ids=str)
def test_prot_none_refuses_everything(verb: Verb) -> None:
    _, memory = mapped(ram(0), ram(PAGE, prot_flags=PROT_NONE), AddressSpaceRegion.create_dax_region(WINDOW, MIB))
    memory.write(0, data(PAGE))
    for addr, size, bad in ((PAGE - 1, 2, PAGE), (WINDOW, 1, WINDOW)):
        with pytest.raises(AccessDenied) as refused:
            verb(memory, addr, size)
        assert refused.value.address == bad
    assert memory.read(0, PAGE) == data(PAGE)


@pytest.mark.parametrize("size", [2**45, 2**60, 2**64 - 1])
def test_an_absurd_size_is_no_memory_error(memory: GuestMemory, size: int) -> None:
    with pytest.raises(UnmappedAddress) as refused:
        memory.read(0, size)
    assert refused.value.address == HOLE


@pytest.mark.parametrize(
    ("addr", "size"), [(-1, 1), (0, -1), (2**64, 0), (0, 2**64), (2**64 - 1, 1), (8, 2**64 - 8), (True, 1), (0, True)]
)
def test_ranges_that_cannot_be_are_refused(memory: GuestMemory, addr: int, size: int) -> None:
    for verb in (memory.read, memory.fill, memory.view, memory.check_range):
        with pytest.raises(InvalidAddressRange):
            verb(addr, size)


def test_wrong_types_are_type_errors(memory: GuestMemory) -> None:
    for addr, size in ((0.0, 1), ("0", 1), (None, 1), (0, 1.5), (0, None)):
        with pytest.raises(TypeError):
            memory.read(addr, size)  # type: ignore[arg-type]


@pytest.mark.parametrize("byte", [-1, 256, True])
def test_a_byte_is_a_byte(memory: GuestMemory, byte: int) -> None:
    with pytest.raises(InvalidAddressRange):
        memory.fill(0, 1, byte)
    with pytest.raises(InvalidAddressRange):
        memory.read(0, 1, pad=byte)


# Padding, force.


def test_padding_fills_what_has_no_memory(memory: GuestMemory) -> None:
    memory.fill(0, HOLE, 1)
    memory.write(ROM, b"\2" * PAGE, force=True)
    memory.fill(TOP, PAGE, 3)
    padded = memory.read(0, END + PAGE, pad=0xEE)
    assert padded == b"\1" * HOLE + b"\xee" * (ROM - HOLE) + b"\2" * PAGE + b"\3" * PAGE + b"\xee" * PAGE


def test_padding_is_no_way_around_a_protection() -> None:
    _, memory = mapped(ram(0), AddressSpaceRegion.create_dax_region(WINDOW, MIB))
    with pytest.raises(AccessDenied):
        memory.read(WINDOW - 1, 2, pad=0)
    assert memory.read(PAGE, 3, pad=0x55) == b"\x55" * 3


def test_force_loads_a_rom(memory: GuestMemory) -> None:
    memory.write(ROM + 100, b"bios", force=True)
    memory.fill(ROM + 200, 2, 0xCC, force=True)
    assert memory.read(ROM + 100, 4) + memory.read(ROM + 200, 2) == b"bios\xcc\xcc"
    assert protection(memory.host_address(ROM))[:3] == "r--"
    with pytest.raises(AccessDenied):
        memory.write(ROM + 100, b"BIOS")


def test_force_spans_a_rom_and_its_neighbour(memory: GuestMemory) -> None:
    memory.write(ROM, numbered(2 * PAGE), force=True)
    assert memory.read(ROM, 2 * PAGE) == numbered(2 * PAGE)
    assert protection(memory.host_address(TOP))[:3] == "rw-"


@pytest.mark.parametrize(("addr", "bad"), [(HOLE - 1, HOLE), (TOP, END), (UART, UART), (ROM - 1, ROM - 1)])
def test_force_writes_no_hole_and_no_device(memory: GuestMemory, addr: int, bad: int) -> None:
    before = everything(memory)
    with pytest.raises(UnmappedAddress) as refused:
        memory.write(addr, b"\xaa" * (PAGE + 1), force=True)
    assert refused.value.address == bad
    assert everything(memory) == before


@pytest.mark.parametrize("prot", ["r--", "r-x", "---"])
@pytest.mark.parametrize("backing", BACKINGS)
def test_force_writes_through_every_protection(backing: str, prot: str, tmp_path: Path) -> None:
    _, memory = mapped(low(backing, tmp_path).replace(prot_flags=prot))
    memory.write(PAGE - 2, b"over", force=True)
    assert protection(memory.host_address(0))[:3] == prot
    if prot != "---":
        assert memory.read(PAGE - 2, 4) == b"over"


def test_check_range_is_about_memory_not_protection(memory: GuestMemory) -> None:
    assert memory.check_range(0, HOLE)
    assert memory.check_range(ROM, 2 * PAGE)
    for addr, size in ((HOLE - 1, 2), (HOLE, 1), (UART, 1), (ROM - 1, 2), (TOP, PAGE + 1)):
        assert not memory.check_range(addr, size)


def test_regions_are_those_with_memory(space: AddressSpace, memory: GuestMemory) -> None:
    assert [region.name for region in memory.regions] == ["low", "high", "rom", "top"]
    assert memory.regions == tuple(region for region in space if region.name != "uart")


def test_a_mapping_tells_where_the_memory_is(space: AddressSpace, memory: GuestMemory) -> None:
    mapping = memory.mapping(JOINT + 5)
    assert (mapping.region, mapping.base, mapping.size) == (space["high"], JOINT, 2 * PAGE)
    assert mapping.host_address + 5 == memory.host_address(JOINT + 5)
    assert (mapping.page_size, mapping.guarded, mapping.prot_flags) == (PAGE, False, 3)
    assert mapping in memory.mappings()
    assert [each.base for each in memory.mappings()] == [0, JOINT, ROM, TOP]


@pytest.mark.parametrize(
    ("backing", "guarded", "offset"), [("shmem", False, 0), ("mmap", False, None), ("file", True, 0)]
)
def test_a_mapping_tells_what_is_behind_it(backing: str, guarded: bool, offset: int | None, tmp_path: Path) -> None:  # noqa: FBT001
    _, memory = mapped(low(backing, tmp_path))
    mapping = memory.mapping(0)
    assert (mapping.guarded, mapping.file_offset, mapping.fd is None) == (guarded, offset, offset is None)


@pytest.mark.parametrize("addr", [HOLE, UART, END])
def test_no_memory_has_no_host_address(memory: GuestMemory, addr: int) -> None:
    for verb in (memory.host_address, memory.mapping):
        with pytest.raises(UnmappedAddress) as refused:
            verb(addr)
        assert refused.value.address == addr


def test_map_memory_is_idempotent(space: AddressSpace) -> None:
    with pytest.raises(NotMapped):
        _ = space.memory
    memory = space.map_memory()
    assert space.map_memory() is memory is space.memory
    assert space.is_mapped
    assert space.generation == 0


def test_an_empty_space_can_be_mapped() -> None:
    space = AddressSpace(LAYOUT)
    memory = space.map_memory()
    assert (memory.regions, memory.mappings()) == ((), ())
    space.insert_region(ram(0))
    assert memory.read(0, 4) == bytes(4)


def test_a_closed_memory_stays_closed(space: AddressSpace) -> None:
    with space.map_memory() as memory:
        memory.write(0, b"old")
    with pytest.raises(NotMapped):
        _ = space.memory
    memory.close()
    again = space.map_memory()
    assert again is not memory
    assert again.read(TOP, 3) == bytes(3)
    for verb in VERBS:
        if verb.kind != "change":
            with pytest.raises(NotMapped):
                verb(memory, 0, verb.fitting(8))
    memory.close()
    assert again.read(TOP, 3) == bytes(3)


def test_closing_keeps_the_map(space: AddressSpace) -> None:
    before = space.snapshot()
    space.map_memory().close()
    assert (space.snapshot(), space.generation, space.is_mapped) == (before, 0, False)


def test_memory_keeps_its_space_alive(tmp_path: Path) -> None:
    memory = guest("shmem", tmp_path).map_memory()
    memory.write(0, b"still here")
    assert memory.read(0, 10) == b"still here"


def test_a_base_keeps_no_memory_alive(tmp_path: Path) -> None:
    space = guest("shmem", tmp_path)
    memory, base = space.map_memory(), space.snapshot()
    assert maps_of("/memfd:top ")
    del space, memory
    assert not maps_of("/memfd:top ")
    assert base["top"].base == TOP


def test_handles_cannot_be_pickled(memory: GuestMemory) -> None:
    for handle in (memory, memory.mapping(0)):
        with pytest.raises(TypeError):
            pickle.dumps(handle)


def test_refusals_can_be_pickled(memory: GuestMemory) -> None:
    for verb, addr in ((memory.read, HOLE), (memory.read, UART), (memory.fill, ROM)):
        with pytest.raises((UnmappedAddress, AccessDenied)) as refused:
            verb(addr, 1)
        copy = pickle.loads(pickle.dumps(refused.value))
        assert type(copy) is type(refused.value)
        assert (str(copy), copy.address, copy.size) == (str(refused.value), addr, 1)
        assert copy.region == refused.value.region


def test_it_says_what_it_is(memory: GuestMemory) -> None:
    assert repr(memory) == "GuestMemory(4 regions, 24 KiB)"
    assert "'high' [0x2000, 0x4000)" in repr(memory.mapping(JOINT))
