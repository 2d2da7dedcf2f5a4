"""`GuestMemory.open()`: guest physical memory as a file."""

import io
import os
import pickle
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import (
    AccessDenied,
    AddressSpace,
    AddressSpaceRegion,
    GuestMemory,
    InvalidAddressRange,
    InvalidArgument,
    MemoryFault,
    NotMapped,
    UnmappedAddress,
)
from memory_helpers import PAGE, make_file, mapped, numbered, ram

FIRST = 2 * PAGE
"""A hole lies below the first region."""
JOINT = 4 * PAGE
HOLE = 6 * PAGE
BEHIND = 8 * PAGE
WINDOW = 10 * PAGE
"""Unreadable addresses, directly behind memory."""
TAIL = 11 * PAGE
END = TAIL + 77


@pytest.fixture
def regions(tmp_path: Path) -> list[AddressSpaceRegion]:
    with make_file(tmp_path / "ram", 2 * PAGE).open("r+b") as file:
        return [
            ram(FIRST, 2 * PAGE),
            AddressSpaceRegion.from_file(JOINT, 2 * PAGE, file),
            ram(BEHIND, 2 * PAGE, mem_type="mmap"),
            ram(WINDOW, PAGE, prot_flags=0),
            AddressSpaceRegion.from_buffer(TAIL, bytearray(77)),
            AddressSpaceRegion.create_device_region(1 << 45, PAGE),
        ]


@pytest.fixture
def memory(space: AddressSpace) -> GuestMemory:
    memory = space.memory
    for base, size in ((FIRST, 4 * PAGE), (BEHIND, 2 * PAGE), (TAIL, 77)):
        memory.write(base, numbered(size, base // PAGE))
    return memory


def test_it_is_a_raw_binary_file(memory: GuestMemory) -> None:
    with memory.open() as file:
        assert isinstance(file, io.RawIOBase)
        assert (file.readable(), file.writable(), file.seekable(), file.closed) == (True, False, True, False)
        assert (file.mode, file.tell()) == ("rb", 0)
    assert file.closed
    for mode in ("r+b", "rb+"):
        assert memory.open(mode).writable()
        assert memory.open(mode).mode == "rb+"


@pytest.mark.parametrize("mode", ["", "r", "wb", "ab", "w+b", "rb ", "xb", "rt"])
def test_other_modes_are_refused(memory: GuestMemory, mode: str) -> None:
    with pytest.raises(InvalidArgument, match=r"'rb' or 'r\+b'"):
        memory.open(mode)


def test_holes_are_errors_or_zeroes(memory: GuestMemory) -> None:
    for holes in ("", "skip", "ZERO"):
        with pytest.raises(InvalidArgument, match="'error' nor 'zero'"):
            memory.open(holes=holes)
    with pytest.raises(TypeError):
        memory.open(3)  # type: ignore[arg-type]


def test_positions_are_addresses(memory: GuestMemory) -> None:
    file = memory.open()
    assert file.seek(FIRST) == file.tell() == FIRST
    assert file.read(5) == memory.read(FIRST, 5)
    assert file.tell() == FIRST + 5
    assert file.seek(-3, os.SEEK_CUR) == FIRST + 2
    assert file.seek(0, os.SEEK_END) == END
    assert file.seek(-7, os.SEEK_END) == END - 7
    assert file.read(100) == memory.read(END - 7, 7)
    assert file.read(100) == b""
    assert file.seek(array("Q", [FIRST])[0]) == FIRST


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((-1,), InvalidAddressRange),
        ((-1 - FIRST, os.SEEK_CUR), InvalidAddressRange),
        ((-(1 << 70), os.SEEK_END), InvalidAddressRange),
        ((0, 3), InvalidArgument),
        ((0, -1), InvalidArgument),
        ((1.5,), TypeError),
        (("0",), TypeError),
        ((None,), TypeError),
    ],
    ids=repr,
)
def test_a_position_that_cannot_be_keeps_the_old(
    memory: GuestMemory, arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    file = memory.open()
    file.seek(FIRST)
    with pytest.raises(error):
        file.seek(*arguments)
    assert file.tell() == FIRST


@pytest.mark.parametrize("position", [END, END + 1, 1 << 45, (1 << 64) - 1, 1 << 64, 1 << 100])
@pytest.mark.parametrize("holes", ["error", "zero"])
def test_there_is_nothing_behind_the_end(memory: GuestMemory, position: int, holes: str) -> None:
    file = memory.open(holes=holes)
    assert file.seek(position) == position
    assert file.read(10) == b""
    assert file.readinto(bytearray(10)) == 0
    assert file.tell() == position


@pytest.mark.parametrize("end", [HOLE, WINDOW, END])
@pytest.mark.parametrize("before", [1, 3, PAGE, 2 * PAGE])
def test_a_read_stops_short_where_the_memory_ends(memory: GuestMemory, end: int, before: int) -> None:
    if end == END:
        before = min(before, 77)
    file = memory.open()
    file.seek(end - before)
    assert file.read(10 * PAGE) == memory.read(end - before, before)
    assert file.tell() == end


@pytest.mark.parametrize(
    ("addr", "error"),
    [(0, UnmappedAddress), (FIRST - 1, UnmappedAddress), (HOLE, UnmappedAddress), (WINDOW, AccessDenied)],
    ids=["zero", "first", "hole", "window"],
)
def test_a_read_that_begins_without_memory_is_an_error(
    memory: GuestMemory, addr: int, error: type[UnmappedAddress | AccessDenied]
) -> None:
    file = memory.open()
    file.seek(addr)
    target = bytearray(b"?" * 10)
    for read in (lambda: file.read(10), lambda: file.readinto(target), file.readall):
        with pytest.raises(error) as refused:
            read()
        assert refused.value.address == addr
    assert file.tell() == addr
    assert target == b"?" * 10
    assert file.read(0) == b""


def test_holes_may_read_as_zeroes(memory: GuestMemory) -> None:
    file = memory.open(holes="zero")
    assert file.read(FIRST + 10) == bytes(FIRST) + memory.read(FIRST, 10)
    file.seek(HOLE - 5)
    assert file.read(2 * PAGE + 10) == memory.read(HOLE - 5, 5) + bytes(2 * PAGE) + memory.read(BEHIND, 5)
    file.seek(BEHIND)
    assert file.read(3 * PAGE) == memory.read(BEHIND, 2 * PAGE)
    with pytest.raises(AccessDenied):
        file.read(1)
    file.seek(TAIL)
    assert file.readall() == memory.read(TAIL, 77)


@pytest.mark.parametrize("target", [bytearray(64), array("I", bytes(64)), memoryview(bytearray(64)).cast("Q", (2, 4))])
def test_readinto_fills_any_buffer(memory: GuestMemory, target: Any) -> None:
    file = memory.open()
    file.seek(JOINT - 10)
    assert file.readinto(target) == 64
    assert memoryview(target).tobytes() == memory.read(JOINT - 10, 64)


@pytest.mark.parametrize(
    ("target", "error"),
    [
        (b"bytes", TypeError),
        ("text", TypeError),
        (None, TypeError),
        (memoryview(bytearray(8))[::2], (TypeError, BufferError)),
    ],
    ids=["bytes", "str", "None", "strided"],
)
def test_readinto_refuses_what_it_cannot_fill(memory: GuestMemory, target: Any, error: type[Exception]) -> None:
    file = memory.open()
    file.seek(FIRST)
    with pytest.raises(error):
        file.readinto(target)
    assert file.tell() == FIRST


def test_writes_go_to_memory(memory: GuestMemory) -> None:
    file = memory.open("r+b")
    file.seek(JOINT - 3)
    assert file.write(b"across") == 6
    assert file.write(array("H", [1, 2])) == 4
    assert file.write(b"") == 0
    assert file.tell() == JOINT + 7
    assert memory.read(JOINT - 3, 10) == b"across\1\0\2\0"


@pytest.mark.parametrize(
    ("addr", "data", "error"),
    [
        (HOLE - 2, b"four", UnmappedAddress),
        (HOLE, b"x", UnmappedAddress),
        (WINDOW, b"x", AccessDenied),
        (END - 1, b"xx", UnmappedAddress),
        (1 << 64, b"x", InvalidAddressRange),
        (FIRST, "text", TypeError),
        (FIRST, 5, TypeError),
    ],
    ids=["joint", "hole", "window", "end", "top", "str", "int"],
)
def test_a_refused_write_writes_nothing(memory: GuestMemory, addr: int, data: Any, error: type[Exception]) -> None:
    before = memory.read(FIRST, 4 * PAGE)
    file = memory.open("r+b")
    file.seek(addr)
    with pytest.raises(error):
        file.write(data)
    assert file.tell() == addr
    assert memory.read(FIRST, 4 * PAGE) == before
    assert memory.read(TAIL, 77) == numbered(77, TAIL // PAGE)


def test_a_file_for_reading_is_not_written(memory: GuestMemory) -> None:
    file = memory.open()
    for change in (lambda: file.write(b"x"), lambda: file.truncate(0), lambda: file.writelines([b"x"])):
        with pytest.raises(io.UnsupportedOperation):
            change()
    with pytest.raises(io.UnsupportedOperation):
        memory.open("r+b").truncate(0)
    with pytest.raises(io.UnsupportedOperation):
        file.fileno()


def test_a_closed_file_does_nothing(memory: GuestMemory) -> None:
    file = memory.open("r+b")
    file.close()
    file.close()
    verbs: list[Callable[[], object]] = [
        file.tell,
        lambda: file.seek(0),
        lambda: file.read(1),
        file.readall,
        lambda: file.readinto(bytearray(1)),
        lambda: file.write(b"x"),
    ]
    for verb in verbs:
        with pytest.raises(ValueError, match="closed file"):
            verb()


def test_a_closed_memory_has_no_bytes(memory: GuestMemory) -> None:
    file = memory.open("r+b")
    file.seek(FIRST)
    memory.close()
    for verb in (lambda: file.read(1), lambda: file.write(b"x"), lambda: file.seek(0, os.SEEK_END)):
        with pytest.raises(NotMapped):
            verb()


def test_it_holds_no_region_and_follows_the_map(space: AddressSpace, memory: GuestMemory) -> None:
    file = memory.open()
    file.seek(FIRST)
    assert file.read(1)
    space.remove_region(FIRST)
    with pytest.raises(UnmappedAddress):
        file.read(1)
    space.insert_region(ram(0, 4 * PAGE))
    assert file.read(1) == b"\0"
    space.insert_region(ram(64 * PAGE, PAGE))
    assert file.seek(0, os.SEEK_END) == 65 * PAGE


def test_a_fault_is_a_fault(memory: GuestMemory, tmp_path: Path) -> None:
    os.truncate(tmp_path / "ram", PAGE)
    file = memory.open()
    file.seek(JOINT)
    with pytest.raises(MemoryFault) as fault:
        file.read(2 * PAGE)
    assert fault.value.completed == PAGE
    assert file.read(PAGE) == memory.read(JOINT, PAGE)


@pytest.mark.parametrize("size", [1, 16, 1000, 8192, 8193])
def test_a_buffered_reader_reads_to_the_last_byte(memory: GuestMemory, size: int) -> None:
    """It reads ahead: that must neither fail nor lose what there is, at a hole, at what can't be read, at the end."""
    for base, end in ((FIRST, HOLE), (BEHIND, WINDOW), (TAIL, END)):
        file = io.BufferedReader(memory.open())
        file.seek(base)
        parts = [file.read(min(size, end - at)) for at in range(base, end, size)]
        assert b"".join(parts) == memory.read(base, end - base)
        assert file.tell() == end


def test_a_buffered_writer_writes_through(memory: GuestMemory) -> None:
    with io.BufferedRandom(memory.open("r+b")) as file:
        file.seek(JOINT - 2)
        assert file.read(2) == memory.read(JOINT - 2, 2)
        file.write(b"written")
        file.flush()
        assert memory.read(JOINT, 7) == b"written"
        file.seek(JOINT - 1)
        assert file.read(9) == memory.read(JOINT - 1, 9)


def test_lines_can_be_read(memory: GuestMemory) -> None:
    memory.write(FIRST, b"one\ntwo\nthree\0")
    file = io.BufferedReader(memory.open())
    file.seek(FIRST)
    assert [file.readline(), file.readline()] == [b"one\n", b"two\n"]
    raw = memory.open()
    raw.seek(FIRST)
    assert raw.readline() == b"one\n"
    assert raw.tell() == FIRST + 4


def test_a_file_cannot_be_pickled(memory: GuestMemory) -> None:
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(memory.open())


def test_it_answers_as_files_do() -> None:
    with mapped(ram(0, PAGE))[1].open() as opened:
        assert opened.read(None) == bytes(PAGE)
        assert opened.read(None) == b""
    for question in (opened.readable, opened.writable, opened.seekable, opened.tell, opened.read):
        with pytest.raises(ValueError, match="closed"):
            question()
