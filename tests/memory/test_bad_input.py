"""What no verb of guest memory takes: an error that says so, and nothing changed."""

import threading
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bytes_helpers import drain, numbered, track
from dbs_address_space import (
    AccessDenied,
    AddressSpace,
    AddressSpaceError,
    AddressSpaceRegion,
    GuestMemory,
    InvalidAddressRange,
    UnmappedAddress,
)
from memory_helpers import MIB, PAGE, make_file, mapped, ram, run_threads

TOP = (1 << 64) - 1
END = 3 * PAGE
"""Where touching regions of all paths end."""
WINDOW = 5 * PAGE
UART = 1 << 45

Sized = Callable[[GuestMemory, Any, Any], object]


@pytest.fixture
def space(tmp_path: Path) -> AddressSpace:
    with make_file(tmp_path / "ram", PAGE).open("r+b") as file:
        regions = [
            ram(0),
            AddressSpaceRegion.from_file(PAGE, PAGE, file),
            ram(2 * PAGE, mem_type="mmap"),
            ram(WINDOW, prot_flags=0),
            AddressSpaceRegion.create_device_region(UART, PAGE),
        ]
    return mapped(*regions)[0]


@pytest.fixture
def memory(space: AddressSpace) -> GuestMemory:
    space.memory.write(0, numbered(END))
    track(space.memory)
    drain(space.memory)
    return space.memory


SIZED: dict[str, Sized] = {
    "read": lambda memory, addr, size: memory.read(addr, size),
    "fill": lambda memory, addr, size: memory.fill(addr, size),
    "forced fill": lambda memory, addr, size: memory.fill(addr, size, force=True),
    "copy from": lambda memory, addr, size: memory.copy(0, addr, size),
    "copy to": lambda memory, addr, size: memory.copy(addr, 0, size),
    "hash": lambda memory, addr, size: memory.hash(addr, size),
    "hash of hashlib": lambda memory, addr, size: memory.hash(addr, size, algorithm="md5"),
    "readv": lambda memory, addr, size: memory.readv([(addr, size)]),
    "view": lambda memory, addr, size: memory.view(addr, size, unguarded=True),
    "pin": lambda memory, addr, size: memory.pin(addr, size),
}
"""Verbs that need all bytes of a range."""
LENIENT: dict[str, Sized] = {
    "check_range": lambda memory, addr, size: memory.check_range(addr, size),
    "padded read": lambda memory, addr, size: memory.read(addr, size, pad=0),
    "read_c_string": lambda memory, addr, size: memory.read_c_string(addr, size),
    "hexdump": lambda memory, addr, size: memory.hexdump(addr, size),
}
ADDRESSED: dict[str, Callable[[GuestMemory, Any], object]] = {
    "read_into": lambda memory, addr: memory.read_into(addr, bytearray(1)),
    "readv_into": lambda memory, addr: memory.readv_into([(0, 1), (addr, 1)], bytearray(2)),
    "write": lambda memory, addr: memory.write(addr, b"x"),
    "read_u8": lambda memory, addr: memory.read_u8(addr),
    "write_u8": lambda memory, addr: memory.write_u8(addr, 1),
    "load": lambda memory, addr: memory.load(addr, 1),
    "fetch_or": lambda memory, addr: memory.fetch_or(addr, 1, 1),
    "unpack": lambda memory, addr: memory.unpack(addr, "B"),
    "pack": lambda memory, addr: memory.pack(addr, "B", 1),
    "compare": lambda memory, addr: memory.compare(addr, b"x"),
    "writev": lambda memory, addr: memory.writev([(0, b"x"), (addr, b"x")]),
    "array": lambda memory, addr: memory.array(addr, 1, "u1", unguarded=True),
    "host_address": lambda memory, addr: memory.host_address(addr),
    "mapping": lambda memory, addr: memory.mapping(addr),
}
"""Verbs whose size is that of something else: here 1."""

NUMBERS: list[tuple[Any, type[Exception]]] = [
    (-1, InvalidAddressRange),
    (-(1 << 64), InvalidAddressRange),
    (1 << 64, InvalidAddressRange),
    (1 << 1000, InvalidAddressRange),
    (True, InvalidAddressRange),
    (False, InvalidAddressRange),
    (np.True_, (InvalidAddressRange, TypeError)),  # type: ignore[list-item]
    (1.0, TypeError),
    (np.float64(1), TypeError),
    (None, TypeError),
    (b"1", TypeError),
    ([1], TypeError),
]
IDS = [repr(number)[:12] for number, _ in NUMBERS]


def unchanged(memory: GuestMemory) -> bool:
    return drain(memory) == [] and memory.read(0, END) == numbered(END)


@pytest.mark.parametrize("verb", [*SIZED, *LENIENT, *ADDRESSED])
@pytest.mark.parametrize(("number", "error"), [*NUMBERS, ("0x10", TypeError)], ids=[*IDS, "text"])
def test_what_is_no_address(memory: GuestMemory, verb: str, number: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        if verb in ADDRESSED:
            ADDRESSED[verb](memory, number)
        else:
            (SIZED | LENIENT)[verb](memory, number, 1)
    assert unchanged(memory)


@pytest.mark.parametrize("verb", [*SIZED, *LENIENT])
@pytest.mark.parametrize(
    ("number", "error"), [*NUMBERS, ("", InvalidAddressRange), ("2GB", InvalidAddressRange)], ids=[*IDS, "empty", "GB"]
)
def test_what_is_no_size(memory: GuestMemory, verb: str, number: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        (SIZED | LENIENT)[verb](memory, 0, number)
    assert unchanged(memory)


EDGES: list[tuple[int, int, int]] = [
    (END - 1, 2, END),
    (END, 1, END),
    (WINDOW - 1, 1, WINDOW - 1),
    (WINDOW + PAGE, 1, WINDOW + PAGE),
    (UART - 1, 1, UART - 1),
    (UART, 1, UART),
    (0, TOP, END),
    (TOP - 1, 1, TOP - 1),
]


@pytest.mark.parametrize("verb", SIZED)
@pytest.mark.parametrize(("addr", "size", "bad"), EDGES)
def test_every_edge_refuses_with_the_first_bad_address(
    memory: GuestMemory, verb: str, addr: int, size: int, bad: int
) -> None:
    if verb == "copy to" and size > END:
        addr, size, bad = 1, END, END
    with pytest.raises(UnmappedAddress) as refused:
        SIZED[verb](memory, addr, size)
    assert (refused.value.address, refused.value.size) == (bad, size)
    assert unchanged(memory)


@pytest.mark.parametrize("verb", ADDRESSED)
@pytest.mark.parametrize("addr", [END, WINDOW - 1, WINDOW + PAGE, UART - 1, UART, TOP - 1])
def test_every_edge_refuses_one_byte(memory: GuestMemory, verb: str, addr: int) -> None:
    with pytest.raises(UnmappedAddress) as refused:
        ADDRESSED[verb](memory, addr)
    assert refused.value.address == addr
    assert unchanged(memory)


@pytest.mark.parametrize("verb", [verb for verb in (*SIZED, *LENIENT, *ADDRESSED) if verb != "read_c_string"])
@pytest.mark.parametrize(("addr", "size"), [(TOP, 1), (TOP - 1, 2), (1, TOP)])
def test_nothing_wraps(memory: GuestMemory, verb: str, addr: int, size: int) -> None:
    if verb in ADDRESSED:
        addr, size = TOP, 1
    if verb == "copy to":
        addr, size = TOP - 1, 2
    with pytest.raises(InvalidAddressRange, match=r"past 2\^64 - 1"):
        if verb in ADDRESSED:
            ADDRESSED[verb](memory, addr)
        else:
            (SIZED | LENIENT)[verb](memory, addr, size)
    assert unchanged(memory)


def test_a_string_does_not_wrap(memory: GuestMemory) -> None:
    """Its size is the most that it may have."""
    assert memory.read_c_string(1, TOP) == numbered(END)[1:].split(b"\0")[0]
    with pytest.raises(InvalidAddressRange, match=r"past 2\^64 - 1"):
        memory.read_c_string(TOP, 1)
    with pytest.raises(UnmappedAddress):
        memory.read_c_string(TOP - 1, 2)


@pytest.mark.parametrize("verb", [*SIZED, *LENIENT])
@pytest.mark.parametrize("addr", [0, PAGE, END, WINDOW, UART, TOP])
def test_a_size_of_0_does_nothing_anywhere(memory: GuestMemory, verb: str, addr: int) -> None:
    (SIZED | LENIENT)[verb](memory, addr, 0)
    assert unchanged(memory)


@pytest.mark.parametrize("verb", SIZED)
def test_a_protection_refuses(memory: GuestMemory, verb: str) -> None:
    if verb in ("forced fill", "pin"):
        SIZED[verb](memory, WINDOW, 1)
        drain(memory)
    else:
        with pytest.raises(AccessDenied) as refused:
            SIZED[verb](memory, WINDOW, 1)
        assert refused.value.address == WINDOW
    assert unchanged(memory)


# Buffers.

INPUTS: dict[str, Callable[[GuestMemory, Any], object]] = {
    "write": lambda memory, data: memory.write(0, data),
    "forced write": lambda memory, data: memory.write(0, data, force=True),
    "compare": lambda memory, data: memory.compare(0, data),
    "writev": lambda memory, data: memory.writev([(0, b"x"), (0, data)]),
    "search": lambda memory, data: memory.search(data),
    "file": lambda memory, data: memory.open("r+b").write(data),
}
OUTPUTS: dict[str, Callable[[GuestMemory, Any], object]] = {
    "read_into": lambda memory, target: memory.read_into(0, target),
    "readv_into": lambda memory, target: memory.readv_into([(0, 1)], target),
    "file": lambda memory, target: memory.open().readinto(target),
}
NO_BUFFERS: dict[str, Any] = {
    "str": "text",
    "int": 7,
    "None": None,
    "list": [1, 2],
    "float": 1.5,
    "object": object(),
    "strided": memoryview(bytearray(8))[::2],
    "reversed": memoryview(bytearray(8))[::-1],
    "column": np.zeros((4, 4))[:, 1],
    "Fortran": np.zeros((4, 4), order="F"),
}


@pytest.mark.parametrize("verb", INPUTS)
@pytest.mark.parametrize("data", NO_BUFFERS)
def test_what_has_no_bytes(memory: GuestMemory, verb: str, data: str) -> None:
    with pytest.raises((TypeError, BufferError)):
        INPUTS[verb](memory, NO_BUFFERS[data])
    assert unchanged(memory)


@pytest.mark.parametrize("verb", OUTPUTS)
@pytest.mark.parametrize("target", [*NO_BUFFERS, "bytes", "read-only"])
def test_what_cannot_be_filled(memory: GuestMemory, verb: str, target: str) -> None:
    read_only = {"bytes": b"12345678", "read-only": memoryview(bytearray(8)).toreadonly()}
    with pytest.raises((TypeError, BufferError)):
        OUTPUTS[verb](memory, (NO_BUFFERS | read_only)[target])
    assert unchanged(memory)
    assert read_only["bytes"] == b"12345678"


def test_a_released_view_has_no_bytes(memory: GuestMemory) -> None:
    view = memoryview(bytearray(8))
    view.release()
    for verb in (*INPUTS.values(), *OUTPUTS.values()):
        with pytest.raises(ValueError, match="released"):
            verb(memory, view)
    assert unchanged(memory)


def test_items_of_any_size_are_bytes(memory: GuestMemory) -> None:
    """Only lists of addresses need items of their own size."""
    buffers: tuple[Any, ...] = (
        array("d", [1.5]),
        np.arange(6, dtype=">i2").reshape(2, 3),
        memoryview(b"abcdefgh").cast("Q"),
    )
    for data in buffers:
        memory.write(8, data)
        assert memory.read(8, memoryview(data).nbytes) == memoryview(data).tobytes()
        assert memory.compare(8, data) is None
        assert next(memory.search(data)) == 8


def test_buffers_that_another_thread_resizes(memory: GuestMemory) -> None:
    """They can't be resized while they are used: that is the other thread's error, never ours."""
    _, large = mapped(ram(0, 8 * MIB))
    buffer, ended = bytearray(5 * MIB), threading.Event()
    refused = [0]

    def resize() -> None:
        while not ended.is_set():
            try:
                buffer.append(1)
                del buffer[-1]
            except BufferError:
                refused[0] += 1

    def use() -> None:
        number = 0
        while not refused[0] or number < 10:
            number += 1
            assert large.read_into(0, buffer) in (5 * MIB, 5 * MIB + 1)
            large.write(0, buffer)
            large.compare(0, buffer)
        ended.set()

    run_threads(resize, use)


# Arguments that run code.


class Address:
    """An address that changes the map when it is asked for."""

    def __init__(self, value: int, change: Callable[[], object]) -> None:
        self.value, self.change = value, change

    def __index__(self) -> int:
        self.change()
        return self.value


@pytest.mark.parametrize("verb", [*SIZED, *LENIENT, *ADDRESSED])
def test_an_address_may_take_its_region_away(space: AddressSpace, memory: GuestMemory, verb: str) -> None:
    def remove() -> None:
        if 0 in space:
            space.remove_region(0)

    def call() -> object:
        addr = Address(0, remove)
        return ADDRESSED[verb](memory, addr) if verb in ADDRESSED else (SIZED | LENIENT)[verb](memory, addr, 1)

    if verb in ("check_range", "padded read", "hexdump"):
        call()
    else:
        with pytest.raises(UnmappedAddress):
            call()
    assert memory.read(PAGE, PAGE) == numbered(END)[PAGE : 2 * PAGE]


@pytest.mark.parametrize("verb", [*SIZED, *LENIENT, *ADDRESSED])
def test_an_address_may_close_the_memory(memory: GuestMemory, verb: str) -> None:
    addr = Address(0, memory.close)
    with pytest.raises(AddressSpaceError, match="closed"):
        ADDRESSED[verb](memory, addr) if verb in ADDRESSED else (SIZED | LENIENT)[verb](memory, addr, 1)


def test_a_file_may_close_the_memory(memory: GuestMemory) -> None:
    class File:
        def fileno(self) -> int:
            memory.close()
            return 0

    for verb in (memory.read_from, memory.write_to):
        with pytest.raises((AddressSpaceError, OSError)):
            verb(File(), 0, 1)
