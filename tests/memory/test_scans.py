"""Comparing, hashing, zero pages and dumps."""

import hashlib
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from bytes_model import undump
from children import in_child
from dbs_address_space import (
    AccessDenied,
    AddressSpaceRegion,
    GuestMemory,
    InvalidAddressRange,
    InvalidArgument,
    NotMapped,
    Progress,
    UnmappedAddress,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_helpers import GIB, MIB, PAGE, make_file, mapped, numbered, ram

TOP = (1 << 64) - 1
OFFSET = 100
"""Where in its file a region begins: so its pages are not the file's."""


@pytest.fixture
def regions(tmp_path: Path) -> list[AddressSpaceRegion]:
    """Touching: a memfd, a file at an odd offset, anonymous memory; then a hole, what can't be read, 77 bytes, a device."""
    with make_file(tmp_path / "ram", 2 * MIB).open("r+b") as file:
        return [
            ram(0, MIB, name="low"),
            AddressSpaceRegion.from_file(MIB, MIB, file, OFFSET, name="file"),
            ram(2 * MIB, MIB, mem_type="mmap"),
            ram(4 * MIB, PAGE, prot_flags=0, name="window"),
            AddressSpaceRegion.from_buffer(4 * MIB + PAGE, bytearray(77), name="odd"),
            AddressSpaceRegion.create_device_region(1 << 45, PAGE, name="uart"),
        ]


# Comparing.


@pytest.mark.parametrize("addr", [0, 1, PAGE - 1, MIB - 5, MIB + 3, 2 * MIB - 1])
def test_the_first_difference_is_found(memory: GuestMemory, addr: int) -> None:
    memory.write(addr, b"0123456789")
    assert memory.compare(addr, b"0123456789") is None
    for place in range(10):
        other = bytearray(b"0123456789")
        other[place:] = b"x" * (10 - place)
        assert memory.compare(addr, other) == addr + place


@pytest.mark.parametrize("place", [0, 128 * 1024 - 1, 128 * 1024, MIB - 1, MIB, MIB + 4097, 3 * MIB - 1])
@pytest.mark.parametrize("is_sparse", [True, False], ids=["sparse", "dense"])
def test_a_difference_may_lie_anywhere(memory: GuestMemory, place: int, is_sparse: bool) -> None:  # noqa: FBT001
    data = bytearray(3 * MIB) if is_sparse else bytearray(numbered(3 * MIB))
    if not is_sparse:
        memory.write(0, data)
    assert memory.compare(0, data) is None
    data[place] ^= 0x80
    assert memory.compare(0, data) == place
    memory.write_u8(place, data[place])
    assert memory.compare(0, data) is None


def test_nothing_is_equal_to_nothing(memory: GuestMemory) -> None:
    assert memory.compare(TOP, b"") is None
    memory.close()
    with pytest.raises(NotMapped):
        memory.compare(0, b"")


@pytest.mark.parametrize(
    ("addr", "data", "error"),
    [
        (3 * MIB - 1, b"xx", UnmappedAddress),
        (4 * MIB, b"x", AccessDenied),
        (1 << 45, b"x", UnmappedAddress),
        (TOP, b"x", InvalidAddressRange),
        (-1, b"x", InvalidAddressRange),
        (0, "text", TypeError),
        (0, memoryview(b"abcd")[::2], BufferError),
        (0, 5, TypeError),
    ],
    ids=["hole", "protection", "device", "top", "negative", "str", "strided", "int"],
)
def test_what_cannot_be_compared(memory: GuestMemory, addr: int, data: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        memory.compare(addr, data)


# Hashing.


@pytest.mark.parametrize("algorithm", ["blake3", "sha256", "md5", "blake2b", "sha3_256"])
@pytest.mark.parametrize("span", [(0, 0), (5, 1), (0, MIB), (PAGE + 1, 2 * MIB + 77), (0, 3 * MIB)], ids=str)
def test_a_digest_is_the_known_one(memory: GuestMemory, algorithm: str, span: tuple[int, int]) -> None:
    memory.write(MIB - 1000, numbered(2000))
    memory.write(2 * MIB + 9, numbered(300_000))
    data = memory.read(*span)
    expected = blake3(data).digest() if algorithm == "blake3" else hashlib.new(algorithm, data).digest()
    assert memory.hash(*span, algorithm=algorithm) == expected


def test_blake3_is_the_default(memory: GuestMemory) -> None:
    """The first and the last vector of the specification's own tests, as it gives them."""
    assert memory.hash(0, 0).hex() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    data = bytes(number % 251 for number in range(102_400))
    memory.write(MIB - 51_200, data)
    expected = "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085"
    assert memory.hash(MIB - 51_200, len(data)).hex() == expected


def test_four_sparse_gib_have_a_digest() -> None:
    """A digest of holes is one of as many zeroes."""
    _, memory = mapped(ram(0, GIB), ram(GIB, 3 * GIB))
    zeroes, expected = bytes(64 * MIB), blake3()
    for _ in range(4):
        expected.update(zeroes)
    assert memory.hash(GIB - 128 * MIB, 256 * MIB) == expected.digest()


@pytest.mark.parametrize("algorithm", ["", "crc32", "BLAKE3", "no such"])
def test_an_algorithm_must_be_known(memory: GuestMemory, algorithm: str) -> None:
    with pytest.raises(InvalidArgument, match=f'algorithm="{algorithm}"'):
        memory.hash(0, 1, algorithm=algorithm)


def test_an_algorithm_is_text_and_has_a_length(memory: GuestMemory) -> None:
    with pytest.raises(TypeError):
        memory.hash(0, 1, algorithm=3)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="length"):
        memory.hash(0, 1, algorithm="shake_128")


@pytest.mark.parametrize(
    ("addr", "size", "error"),
    [
        (3 * MIB - 1, 2, UnmappedAddress),
        (4 * MIB - 1, 2, UnmappedAddress),
        (4 * MIB, 1, AccessDenied),
        (0, 1 << 50, UnmappedAddress),
        (TOP, 1, InvalidAddressRange),
        (0, -1, InvalidAddressRange),
        (0, True, InvalidAddressRange),
        (0, "2 kittens", InvalidAddressRange),
        (0, 1.5, TypeError),
    ],
    ids=["hole", "before protection", "protection", "huge", "top", "negative", "bool", "text", "float"],
)
def test_what_has_no_digest(memory: GuestMemory, addr: int, size: Any, error: type[Exception]) -> None:
    for algorithm in ("blake3", "sha256"):
        with pytest.raises(error):
            memory.hash(addr, size, algorithm=algorithm)


@pytest.mark.parametrize("algorithm", ["blake3", "sha256"])
def test_progress_ends_with_the_whole(memory: GuestMemory, algorithm: str) -> None:
    told: list[Progress] = []
    memory.hash(0, 3 * MIB, algorithm=algorithm, progress=told.append)
    assert [(told[-1].stage, told[-1].done, told[-1].total)] == [("hash", 3 * MIB, 3 * MIB)]

    def refuse(progress: Progress) -> None:
        raise KeyError(progress.stage)

    with pytest.raises(KeyError, match="hash"):
        memory.hash(0, 3 * MIB, algorithm=algorithm, progress=refuse)


# Zero pages.


@settings(deadline=None)
@given(
    offset=st.sampled_from([0, 1, OFFSET, PAGE // 2, PAGE - 1, PAGE]),
    dirty=st.lists(st.integers(0, 16 * PAGE - 1), max_size=8),
    punched=st.lists(st.integers(0, 16), max_size=3),
)
def test_zero_pages_of_a_file_at_any_offset(offset: int, dirty: list[int], punched: list[int]) -> None:
    """The file has pages and holes where it likes; guest pages begin in the midst of them."""
    file = os.memfd_create("zero pages")
    os.ftruncate(file, 18 * PAGE)
    _, memory = mapped(AddressSpaceRegion.from_file(PAGE, 16 * PAGE, file, offset))
    for page in punched:
        os.pwrite(file, bytes(PAGE), page * PAGE)
    for place in dirty:
        memory.write_u8(PAGE + place, 1)
    os.close(file)
    zero = [page for page in range(PAGE, 17 * PAGE, PAGE) if memory.read(page, PAGE) == bytes(PAGE)]
    found = memory.find_zero_pages()
    assert [page for part in found for page in range(part.base, part.end, PAGE)] == zero
    assert all(before.end < behind.base for before, behind in pairwise(found))


def test_zero_pages_are_whole_pages_of_one_region(memory: GuestMemory) -> None:
    for place in (PAGE, 3 * PAGE, MIB - 1, 3 * MIB - PAGE):
        memory.write_u8(place, 1)
    found = [(part.base, part.end) for part in memory.find_zero_pages()]
    assert found == [(0, PAGE), (2 * PAGE, 3 * PAGE), (4 * PAGE, MIB - PAGE), (MIB, 3 * MIB - PAGE)]
    assert [tuple(part) for part in memory.find_zero_pages(1, 3 * PAGE)] == [(2 * PAGE, PAGE)]
    assert memory.find_zero_pages(2 * PAGE, 3 * PAGE - 1) == ()
    assert memory.find_zero_pages(3 * MIB) == ()


def test_zero_pages_of_nothing(memory: GuestMemory) -> None:
    for span in ((0, 0), (TOP, TOP), (1 << 45, (1 << 45) + PAGE), (5, 4 * PAGE // 5)):
        assert memory.find_zero_pages(*span) == ()
    for start, end in ((1, 0), (-1, None), (0, 1 << 64), (True, None)):
        with pytest.raises(InvalidAddressRange):
            memory.find_zero_pages(start, end)


# Dumps.


def test_a_dump_has_lines_stars_and_gaps(memory: GuestMemory) -> None:
    memory.write(3 * MIB - 0x20, b"The quick brown fox \x00\x1f\x20\x7e\x7f\x80\xff")
    assert memory.hexdump(3 * MIB - 0x60, 0x80).splitlines() == [
        "00000000002fffa0  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|",
        "*",
        "00000000002fffe0  54 68 65 20 71 75 69 63  6b 20 62 72 6f 77 6e 20  |The quick brown |",
        "00000000002ffff0  66 6f 78 20 00 1f 20 7e  7f 80 ff 00 00 00 00 00  |fox .. ~........|",
        "[0x30_0000, 0x30_0020) has nothing to read",
    ]


@pytest.mark.parametrize(
    "span",
    [(0, 3 * MIB), (1, 100), (MIB - 40, 80), (3 * MIB - 7, 5 * PAGE), (4 * MIB - 3, PAGE + 200), (0, 0), (1 << 45, 64)],
    ids=str,
)
def test_a_dump_shows_every_byte(memory: GuestMemory, span: tuple[int, int]) -> None:
    memory.write(MIB - 100, numbered(200))
    memory.write(4 * MIB + PAGE, numbered(77))
    addr, size = span
    shown = undump(memory.hexdump(addr, size))
    for base, data in shown:
        assert data is None or memory.read(base, len(data)) == data
    covered = sum(len(data) for _, data in shown if data)
    readable = [(0, 3 * MIB), (4 * MIB + PAGE, 4 * MIB + PAGE + 77)]
    assert covered == sum(max(0, min(addr + size, end) - max(addr, base)) for base, end in readable)


def test_a_dump_of_nothing_is_empty(memory: GuestMemory) -> None:
    assert memory.hexdump(0, 0) == ""
    assert memory.hexdump(TOP - 16, 16) == "[0xffff_ffff_ffff_ffef, 0xffff_ffff_ffff_ffff) has nothing to read"
    for addr, size in ((-1, 1), (0, -1), (TOP, 1), (0, True)):
        with pytest.raises(InvalidAddressRange):
            memory.hexdump(addr, size)


def test_a_dump_of_a_sparse_terabyte_is_short() -> None:
    _, memory = mapped(ram(0, 1024 * GIB))
    memory.write_u8(512 * GIB, 0x41)
    assert len(memory.hexdump(0, 1024 * GIB).splitlines()) == 6


def test_a_child_can_scan_shared_memory(memory: GuestMemory) -> None:
    memory.write(MIB - 3, b"parent")
    expected = memory.hash(0, 2 * MIB)

    def look() -> None:
        assert memory.hash(0, 2 * MIB) == expected
        assert list(memory.search(b"parent")) == [MIB - 3]
        assert memory.compare(MIB - 3, b"parens") == MIB + 2
        assert "parent" in memory.hexdump(MIB - 3, 6)

    in_child(look)
