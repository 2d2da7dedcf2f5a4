"""Many ranges or addresses in one call."""

import ctypes
import os
import threading
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import in_child
from dbs_address_space import (
    AccessDenied,
    AddressRange,
    AddressSpace,
    AddressSpaceRegion,
    GuestMemory,
    InvalidAddressRange,
    InvalidArgument,
    MemoryFault,
    NotMapped,
    RegionBusy,
    UnmappedAddress,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_helpers import MIB, PAGE, drain, make_file, mapped, numbered, ram, track

FILE = 4 * PAGE
ROM = 6 * PAGE
TOP = (1 << 64) - 1


@pytest.fixture
def regions(tmp_path: Path) -> list[AddressSpaceRegion]:
    """Two touching regions, a hole, a file, a page that can only be read, a device."""
    with make_file(tmp_path / "ram", 2 * PAGE).open("r+b") as file:
        return [
            ram(0, PAGE, name="low"),
            ram(PAGE, 2 * PAGE, name="high", mem_type="mmap"),
            AddressSpaceRegion.from_file(FILE, PAGE, file, 1, name="file"),
            ram(ROM, PAGE, name="rom", prot_flags="r--"),
            AddressSpaceRegion.create_device_region(1 << 45, PAGE),
        ]


@pytest.fixture
def memory(space: AddressSpace) -> GuestMemory:
    space.memory.write(0, numbered(3 * PAGE))
    space.memory.write(FILE, numbered(PAGE, 1))
    return space.memory


RANGES = [(0, 3), (PAGE - 5, 10), (FILE + 9, 20), (ROM, 2), (7, 0), (0, 3), (1 << 40, 0)]


def spellings() -> dict[str, Any]:
    return {
        "list": RANGES,
        "tuple": tuple(RANGES),
        "iterator": iter(RANGES),
        "AddressRange": [AddressRange(*pair) for pair in RANGES],
        "array": array("Q", [number for pair in RANGES for number in pair]),
        "numpy": np.array(RANGES, dtype="u8"),
        "numpy pages": np.array(RANGES, dtype="<u8").reshape(-1),
    }


@pytest.mark.parametrize("spelling", list(spellings()))
def test_ranges_may_be_given_in_many_ways(memory: GuestMemory, spelling: str) -> None:
    expected = [memory.read(*pair) for pair in RANGES]
    assert memory.readv(spellings()[spelling]) == expected
    target = bytearray(b"?" * 50)
    assert memory.readv_into(spellings()[spelling], target) == 38
    assert target == b"".join(expected) + b"?" * 12


def test_a_size_may_be_text(memory: GuestMemory) -> None:
    assert memory.readv([(0, "2KiB")]) == [memory.read(0, 2048)]


def test_no_ranges_are_no_bytes(memory: GuestMemory) -> None:
    assert memory.readv([]) == []
    assert memory.readv_into(np.zeros((0, 2), dtype="u8"), bytearray()) == 0
    memory.writev([])


BAD_RANGES: dict[str, tuple[Any, type[Exception]]] = {
    "not iterable": (7, TypeError),
    "text": ("0,1", TypeError),
    "bytes": (b"\0" * 16, TypeError),
    "single numbers": ([1, 2], TypeError),
    "triples": ([(0, 1, 2)], (TypeError, ValueError)),  # type: ignore[dict-item]
    "floats": ([(0.0, 1)], TypeError),
    "float array": (np.zeros((2, 2)), TypeError),
    "signed array": (np.zeros((2, 2), dtype="i8"), TypeError),
    "big-endian array": (np.zeros((2, 2), dtype=">u8"), TypeError),
    "half a pair": (array("Q", [1, 2, 3]), InvalidAddressRange),
    "not contiguous": (np.zeros((4, 4), dtype="u8")[:, :2], BufferError),
    "negative address": ([(-1, 1)], InvalidAddressRange),
    "negative size": ([(0, -1)], InvalidAddressRange),
    "bool": ([(True, 1)], InvalidAddressRange),
    "huge": ([(0, 1 << 64)], InvalidAddressRange),
    "wrapping": ([(TOP, 2)], InvalidAddressRange),
    "wrapping array": (np.array([[TOP, 2]], dtype="u8"), InvalidAddressRange),
    "more than there is": ([(0, TOP), (0, TOP)], (InvalidAddressRange, UnmappedAddress)),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("name", list(BAD_RANGES))
def test_bad_ranges_are_refused(memory: GuestMemory, name: str) -> None:
    ranges, error = BAD_RANGES[name]
    target = bytearray(b"?" * 100)
    with pytest.raises(error):
        memory.readv(ranges)
    with pytest.raises(error):
        memory.readv_into(ranges, target)
    assert target == b"?" * 100


@pytest.mark.parametrize("bad", [3 * PAGE - 1, 5 * PAGE, TOP - 1, 1 << 45], ids=["joint", "hole", "top", "device"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_bad_range_refuses_all(memory: GuestMemory, bad: int, place: int) -> None:
    ranges = [(0, 8), (FILE, 8)]
    ranges.insert(place, (bad, 1) if bad == TOP - 1 else (bad, 2))
    target = bytearray(b"?" * 100)
    with pytest.raises(UnmappedAddress) as refused:
        memory.readv_into(ranges, target)
    assert refused.value.address == (3 * PAGE if bad == 3 * PAGE - 1 else bad)
    assert target == b"?" * 100
    with pytest.raises(UnmappedAddress):
        memory.readv(ranges)
    before = memory.read(0, 8), memory.read(FILE, 8)
    with pytest.raises(UnmappedAddress):
        memory.writev([(addr, b"!" * size) for addr, size in ranges])
    assert (memory.read(0, 8), memory.read(FILE, 8)) == before


@pytest.mark.parametrize("size", [4 * MIB, 5 * MIB])
def test_many_ranges_may_be_long_together(size: int) -> None:
    _, memory = mapped(ram(0, 2 * MIB), ram(2 * MIB, 4 * MIB))
    memory.write(0, numbered(6 * MIB))
    ranges = [(at, MIB) for at in range(13, size, MIB)]
    target = bytearray(size)
    assert memory.readv_into(ranges, target) == size
    assert target == numbered(6 * MIB)[13 : 13 + size]
    assert b"".join(memory.readv(ranges)) == target
    memory.writev([(at, target[at : at + MIB]) for at in range(0, size, MIB)])
    assert memory.read(0, size) == target


@pytest.mark.parametrize(
    ("buffer", "error"),
    [
        (bytes(100), TypeError),
        (memoryview(bytearray(100)).toreadonly(), TypeError),
        (memoryview(bytearray(200))[::2], BufferError),
        (bytearray(37), InvalidAddressRange),
        ("x" * 100, TypeError),
        (None, TypeError),
    ],
    ids=["bytes", "read-only", "strided", "short", "str", "None"],
)
def test_a_buffer_that_cannot_be_filled_is_refused(memory: GuestMemory, buffer: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        memory.readv_into(RANGES, buffer)


def test_the_buffer_may_have_any_items(memory: GuestMemory) -> None:
    target: Any = np.zeros((2, 3), dtype="<f8")
    assert memory.readv_into([(1, 16), (PAGE - 1, 32)], target) == 48
    assert target.tobytes() == memory.read(1, 16) + memory.read(PAGE - 1, 32)


def test_writes_are_done_in_their_order(memory: GuestMemory) -> None:
    memory.writev([(0, b"aaaa"), (FILE, b"file"), (2, memoryview(b"bbbb")), (PAGE - 2, array("H", [1, 2])), (9, b"")])
    assert memory.read(0, 7) == b"aabbbb" + numbered(7)[6:]
    assert memory.unpack(PAGE - 2, "<HH") == (1, 2)
    assert memory.read(FILE, 4) == b"file"


@pytest.mark.parametrize(
    ("pair", "error"),
    [
        ((0, "text"), TypeError),
        ((0, 5), TypeError),
        ((0, memoryview(b"abcd")[::2]), BufferError),
        ((ROM, b"x"), AccessDenied),
        ((3 * PAGE - 1, b"xx"), UnmappedAddress),
        ((-1, b"x"), InvalidAddressRange),
        ((TOP, b"x"), InvalidAddressRange),
        ((0,), (TypeError, ValueError)),
        (0, TypeError),
    ],
    ids=["str", "int", "strided", "read-only", "hole", "negative", "top", "single", "number"],
)
def test_one_bad_pair_writes_nothing(memory: GuestMemory, pair: Any, error: type[Exception]) -> None:
    track(memory)
    with pytest.raises(error):
        memory.writev([(0, b"good"), (FILE, b"good"), pair, (PAGE, b"good")])
    assert memory.read(0, 3 * PAGE) == numbered(3 * PAGE)
    assert memory.read(FILE, PAGE) == numbered(PAGE, 1)
    assert drain(memory) == []


def test_a_fault_says_how_far_it_came(memory: GuestMemory, tmp_path: Path) -> None:
    os.truncate(tmp_path / "ram", 101)
    with pytest.raises(MemoryFault) as fault:
        memory.readv_into([(0, 50), (FILE + 90, 20)], bytearray(70))
    assert (fault.value.completed, fault.value.address, fault.value.size) == (60, FILE + 100, 70)
    os.truncate(tmp_path / "ram", 0)
    with pytest.raises(MemoryFault) as fault:
        memory.writev([(0, b"." * 50), (FILE + 90, b"." * 20)])
    assert (fault.value.completed, fault.value.address) == (50, FILE + 90)


# Addresses.

ADDRESSES = [0, 1, PAGE, 3 * PAGE - 8, FILE, FILE + PAGE - 8, ROM, 0, PAGE - 8]


@pytest.mark.parametrize(
    "make",
    [
        lambda numbers: array("Q", numbers),
        lambda numbers: array("L", numbers),
        lambda numbers: memoryview(array("Q", numbers)),
        lambda numbers: (ctypes.c_uint64 * len(numbers))(*numbers),
    ],
    ids=["Q", "L", "memoryview", "ctypes"],
)
def test_any_buffer_of_u64_is_a_list_of_addresses(memory: GuestMemory, make: Callable[[list[int]], Any]) -> None:
    hosts, indexes = memory.translate(make(ADDRESSES))
    assert isinstance(hosts, memoryview)
    assert hosts.tolist() == [memory.host_address(addr) for addr in ADDRESSES]
    assert [memory.regions[index].name for index in indexes] == [memory.mapping(addr).region.name for addr in ADDRESSES]
    assert memory.read_many_u64(make(ADDRESSES)).tolist() == [memory.read_u64(addr) for addr in ADDRESSES]


@pytest.mark.parametrize("shape", [(9,), (3, 3), (9, 1, 1)])
def test_arrays_keep_their_shape(memory: GuestMemory, shape: tuple[int, ...]) -> None:
    addresses = np.array(ADDRESSES, dtype="u8").reshape(shape)
    hosts, indexes = memory.translate(addresses)
    assert [hosts.dtype.str, indexes.dtype.str, hosts.shape, indexes.shape] == ["<u8", "<i8", shape, shape]
    assert hosts.reshape(-1).tolist() == [memory.host_address(addr) for addr in ADDRESSES]
    values = memory.read_many_u64(addresses)
    assert [values.dtype.str, values.shape] == ["<u8", shape]
    assert values.reshape(-1).tolist() == [memory.read_u64(addr) for addr in ADDRESSES]


@pytest.mark.parametrize("make", [lambda: array("Q"), lambda: np.zeros((0, 3), dtype="u8")], ids=["array", "numpy"])
def test_no_addresses_are_no_results(memory: GuestMemory, make: Callable[[], Any]) -> None:
    hosts, indexes = memory.translate(make())
    assert (len(hosts), len(indexes), len(memory.read_many_u64(make()))) == (0, 0, 0)


BAD_ADDRESSES: dict[str, tuple[Any, type[Exception]]] = {
    "list of floats": ([0.5], TypeError),
    "text": ("00000000", TypeError),
    "bytes": (bytes(16), TypeError),
    "u4": (np.zeros(4, dtype="u4"), TypeError),
    "i8": (array("q", [0]), TypeError),
    "f8": (array("d", [0]), TypeError),
    "big-endian": (np.zeros(4, dtype=">u8"), TypeError),
    "records": (np.zeros(2, dtype=[("a", "u8")]), TypeError),
    "strided": (np.zeros(8, dtype="u8")[::2], BufferError),
    "Fortran": (np.zeros((2, 3), dtype="u8", order="F"), BufferError),
    "None": (None, TypeError),
}


@pytest.mark.parametrize("name", list(BAD_ADDRESSES))
def test_bad_addresses_are_refused(memory: GuestMemory, name: str) -> None:
    addresses, error = BAD_ADDRESSES[name]
    with pytest.raises(error):
        memory.translate(addresses)
    with pytest.raises(error):
        memory.read_many_u64(addresses)


HOLES = [3 * PAGE, FILE - 1, FILE + PAGE, ROM - 1, ROM + PAGE, 1 << 45, TOP]


@pytest.mark.parametrize("hole", HOLES)
def test_addresses_without_memory_are_marked_or_raised(memory: GuestMemory, hole: int) -> None:
    addresses = array("Q", [PAGE, hole, 0, hole])
    hosts, indexes = memory.translate(addresses, missing="mark")
    assert (hosts[1], indexes[1], hosts[3], indexes[3]) == (0, -1, 0, -1)
    assert (hosts[0], hosts[2]) == (memory.host_address(PAGE), memory.host_address(0))
    with pytest.raises(UnmappedAddress) as refused:
        memory.translate(addresses)
    assert refused.value.address == hole
    with pytest.raises((UnmappedAddress, InvalidAddressRange)) as refused_read:
        memory.read_many_u64(addresses)
    assert refused_read.value.address == hole


def test_missing_is_one_of_two_words(memory: GuestMemory) -> None:
    for missing in ("", "ignore", "Mark"):
        with pytest.raises(InvalidArgument, match="neither"):
            memory.translate(array("Q"), missing=missing)


def test_integers_may_cross_a_joint_and_not_a_hole(memory: GuestMemory) -> None:
    addresses = array("Q", range(PAGE - 9, PAGE + 2))
    assert memory.read_many_u64(addresses).tolist() == [memory.read_u64(addr) for addr in addresses]
    with pytest.raises(UnmappedAddress) as refused:
        memory.read_many_u64(array("Q", [0, 3 * PAGE - 7]))
    assert refused.value.address == 3 * PAGE


def test_what_cannot_be_read_is_translated_all_the_same() -> None:
    _, memory = mapped(ram(0), ram(PAGE, prot_flags=0))
    assert memory.translate(array("Q", [PAGE]))[0][0] == memory.host_address(PAGE)
    with pytest.raises(AccessDenied):
        memory.read_many_u64(array("Q", [PAGE]))


@settings(deadline=None)
@given(
    parts=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2)), min_size=1, max_size=40),
    pages=st.lists(st.integers(0, 250), max_size=100),
    is_sorted=st.booleans(),
)
def test_translation_finds_what_bisection_finds(
    parts: list[tuple[int, int]], pages: list[int], *, is_sorted: bool
) -> None:
    at, regions = 0, []
    for size, gap in parts:
        regions.append(ram(at, size * PAGE, mem_type="mmap"))
        at += (size + gap) * PAGE
    _, memory = mapped(*regions)
    addresses = np.array(sorted(pages) if is_sorted else pages, dtype="u8") * PAGE + 5
    hosts, indexes = memory.translate(addresses, missing="mark")
    bases = np.array([region.base for region in regions], dtype="u8")
    ends = np.array([region.end for region in regions], dtype="u8")
    expected = np.searchsorted(bases, addresses, side="right").astype("i8") - 1
    expected[addresses >= ends[expected]] = -1
    assert indexes.tolist() == expected.tolist()
    starts = np.array([mapping.host_address for mapping in memory.mappings()], dtype="u8")
    assert hosts.tolist() == np.where(expected < 0, 0, starts[expected] + addresses - bases[expected]).tolist()


def test_a_long_list_is_as_right_as_a_short_one(memory: GuestMemory) -> None:
    addresses = np.random.default_rng(4).integers(0, 3 * PAGE - 8, 50_000, dtype="u8")
    addresses[::1000] = FILE + 3
    data = np.frombuffer(memory.read(0, 3 * PAGE), dtype="u1")
    expected = np.lib.stride_tricks.sliding_window_view(data, 8).copy().view("<u8")[addresses % (3 * PAGE), 0]
    expected[::1000] = memory.read_u64(FILE + 3)
    assert memory.read_many_u64(addresses).tolist() == expected.tolist()
    addresses[40_000] = 3 * PAGE - 1
    with pytest.raises(UnmappedAddress):
        memory.read_many_u64(addresses)
    addresses[40_000] = 3 * PAGE
    with pytest.raises(UnmappedAddress):
        memory.translate(addresses)
    assert memory.translate(addresses, missing="mark")[1][40_000] == -1


def test_a_closed_memory_refuses_all(memory: GuestMemory) -> None:
    memory.close()
    verbs: list[Callable[[], object]] = [
        lambda: memory.readv([(0, 1)]),
        lambda: memory.readv_into([(0, 1)], bytearray(1)),
        lambda: memory.writev([(0, b"x")]),
        lambda: memory.translate(array("Q", [0])),
        lambda: memory.read_many_u64(array("Q", [0])),
    ]
    for verb in verbs:
        with pytest.raises(NotMapped):
            verb()


def test_a_buffer_that_is_in_use_cannot_be_resized_meanwhile(memory: GuestMemory) -> None:
    """Another thread tries to resize the list of addresses and the target while they are used."""
    addresses, target, ended = array("Q", [0] * 20_000), bytearray(20_000 * 8), threading.Event()

    def resize() -> None:
        while not ended.is_set():
            for buffer in (addresses, target):
                try:
                    buffer.append(0)
                    buffer.pop()
                except BufferError:
                    continue

    thread = threading.Thread(target=resize)
    thread.start()
    try:
        ranges = [(0, 8)] * 20_000
        for _ in range(50):
            assert set(memory.read_many_u64(addresses)) == {memory.read_u64(0)}
            memory.readv_into(ranges, target)
    finally:
        ended.set()
        thread.join()


def restrict_and_read(path: Path) -> None:
    """One range is read directly, the next under a lease on a region whose protection is being taken away."""
    with make_file(path, PAGE).open("r+b") as file:
        writable = AddressSpaceRegion.from_file(PAGE, PAGE, file)
    space, memory = mapped(ram(0), writable)
    ended = threading.Event()

    def read() -> None:
        target = bytearray(16)
        while not ended.is_set():
            memory.readv_into([(0, 8), (PAGE, 8)], target)
            memory.writev([(0, b"12345678"), (0, b"1")])

    thread = threading.Thread(target=read)
    thread.start()
    restrictions = 0
    for number in range(2_000):
        try:
            space.replace_region(PAGE, writable.replace(prot_flags=["r--", "rw-"][number % 2]))
            restrictions += 1
        except RegionBusy:
            continue
    ended.set()
    thread.join()
    assert restrictions


def test_a_restriction_does_not_wait_for_a_reader_that_waits_for_it(tmp_path: Path) -> None:
    in_child(lambda: restrict_and_read(tmp_path / "ram"), timeout=60)
