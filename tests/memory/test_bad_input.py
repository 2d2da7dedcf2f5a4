"""Bad arguments to the verbs of guest memory: an error, and nothing changed."""

import inspect
import threading
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dbs_address_space import (
    AddressSpace,
    AddressSpaceError,
    AddressSpaceRegion,
    GuestMemory,
    InvalidAddressRange,
    UnmappedAddress,
)
from memory_helpers import MIB, PAGE, drain, make_file, mapped, numbered, ram, track
from threads import run_threads
from verbs import VERBS, Verb

TOP = (1 << 64) - 1
END = 3 * PAGE
"""Where touching regions of all paths end."""
WINDOW = 5 * PAGE
UART = 1 << 45


@pytest.fixture
def regions(tmp_path: Path) -> list[AddressSpaceRegion]:
    with make_file(tmp_path / "ram", PAGE).open("r+b") as file:
        return [
            ram(0),
            AddressSpaceRegion.from_file(PAGE, PAGE, file),
            ram(2 * PAGE, mem_type="mmap"),
            ram(WINDOW, prot_flags=0),
            AddressSpaceRegion.create_device_region(UART, PAGE),
        ]


@pytest.fixture
def memory(space: AddressSpace) -> GuestMemory:
    space.memory.write(0, numbered(END))
    track(space.memory)
    drain(space.memory)
    return space.memory


ADDRESSED = [verb for verb in VERBS if verb.addressed and (not verb.widths or 1 in verb.widths)]
SIZED = [verb for verb in ADDRESSED if verb.sized]
OF_ONE_BYTE = [verb for verb in ADDRESSED if not verb.sized]

Wrong = tuple[Any, type[Exception] | tuple[type[Exception], ...]]

NUMBERS: list[Wrong] = [
    (-1, InvalidAddressRange),
    (-(1 << 64), InvalidAddressRange),
    (1 << 64, InvalidAddressRange),
    (1 << 1000, InvalidAddressRange),
    (True, InvalidAddressRange),
    (False, InvalidAddressRange),
    (np.True_, (InvalidAddressRange, TypeError)),
    (1.0, TypeError),
    (np.float64(1), TypeError),
    (None, TypeError),
    (b"1", TypeError),
    ([1], TypeError),
]


def unchanged(memory: GuestMemory) -> bool:
    return drain(memory) == [] and memory.read(0, END) == numbered(END)


@pytest.mark.parametrize("verb", ADDRESSED, ids=str)
def test_what_is_no_address(memory: GuestMemory, verb: Verb) -> None:
    wrong: list[Wrong] = [*NUMBERS, ("0x10", TypeError)]
    for number, error in wrong:
        with pytest.raises(error):
            verb(memory, number, 1)
    assert unchanged(memory)


@pytest.mark.parametrize("verb", SIZED, ids=str)
def test_what_is_no_size(memory: GuestMemory, verb: Verb) -> None:
    wrong: list[Wrong] = [*NUMBERS, ("", InvalidAddressRange), ("2GB", InvalidAddressRange)]
    for number, error in wrong:
        if number is None and "size=None" in str(inspect.signature(getattr(GuestMemory, verb.name))):
            continue
        with pytest.raises(error):
            verb(memory, 0, number)
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


@pytest.mark.parametrize("verb", [verb for verb in SIZED if not verb.holes], ids=str)
def test_every_edge_refuses_with_the_first_bad_address(memory: GuestMemory, verb: Verb) -> None:
    for edge in EDGES:
        addr, size, bad = (1, END, END) if verb.form == "inward" and edge[1] > END else edge
        with pytest.raises(UnmappedAddress) as refused:
            verb(memory, addr, size)
        assert (refused.value.address, refused.value.size) == (bad, size)
    assert unchanged(memory)


@pytest.mark.parametrize("verb", OF_ONE_BYTE, ids=str)
def test_every_edge_refuses_one_byte(memory: GuestMemory, verb: Verb) -> None:
    for addr in (END, WINDOW - 1, WINDOW + PAGE, UART - 1, UART, TOP - 1):
        with pytest.raises(UnmappedAddress) as refused:
            verb(memory, addr, 1)
        assert refused.value.address == addr
    assert unchanged(memory)


@pytest.mark.parametrize("verb", [verb for verb in ADDRESSED if verb.name != "read_c_string"], ids=str)
def test_nothing_wraps(memory: GuestMemory, verb: Verb) -> None:
    ranges = [(TOP, 1), (TOP - 1, 2), (1, TOP)] if verb.sized else [(TOP, 1)]
    for addr, size in ranges[:2] if verb.form == "inward" else ranges:
        with pytest.raises(InvalidAddressRange, match=r"past 2\^64 - 1"):
            verb(memory, addr, size)
    assert unchanged(memory)


def test_a_string_does_not_wrap(memory: GuestMemory) -> None:
    """Its size is the most that it may have."""
    assert memory.read_c_string(1, TOP) == numbered(END)[1:].split(b"\0")[0]
    with pytest.raises(InvalidAddressRange, match=r"past 2\^64 - 1"):
        memory.read_c_string(TOP, 1)
    with pytest.raises(UnmappedAddress):
        memory.read_c_string(TOP - 1, 2)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.ranged and not verb.widths], ids=str)
def test_a_size_of_0_does_nothing_anywhere(memory: GuestMemory, verb: Verb) -> None:
    for addr in (0, PAGE, END, WINDOW, UART, TOP):
        verb(memory, addr, 0)
    assert unchanged(memory)


# Buffers.

INPUTS: dict[str, Callable[[GuestMemory, Any], object]] = {
    "write": lambda memory, data: memory.write(0, data),
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


def test_the_tables_have_every_verb_that_takes_a_buffer() -> None:
    assert {verb.name for verb in VERBS if verb.parameters & {"data", "pairs", "needle"}} == INPUTS.keys() - {"file"}
    assert {verb.name for verb in VERBS if "buffer" in verb.parameters} == OUTPUTS.keys() - {"file"}


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


@pytest.mark.parametrize("verb", ADDRESSED, ids=str)
def test_an_address_may_take_its_region_away(space: AddressSpace, memory: GuestMemory, verb: Verb) -> None:
    def remove() -> None:
        if 0 in space:
            space.remove_region(0)

    if verb.holes and verb.name != "read_c_string":
        verb(memory, Address(0, remove), 1)
    else:
        with pytest.raises(UnmappedAddress):
            verb(memory, Address(0, remove), 1)
    assert memory.read(PAGE, PAGE) == numbered(END)[PAGE : 2 * PAGE]


@pytest.mark.parametrize("verb", ADDRESSED, ids=str)
def test_an_address_may_close_the_memory(memory: GuestMemory, verb: Verb) -> None:
    addr = Address(0, memory.close)
    with pytest.raises(AddressSpaceError, match="closed"):
        verb(memory, addr, 1)


def test_a_file_may_close_the_memory(memory: GuestMemory) -> None:
    class File:
        """An object that is read and written in Python, in the midst of the transfer."""

        def readinto(self, _buffer: object) -> int:
            memory.close()
            return 1

        def write(self, data: object) -> int:
            return self.readinto(data)

    for verb in (memory.read_from, memory.write_to):
        with pytest.raises(AddressSpaceError):
            verb(File(), 0, 1)
