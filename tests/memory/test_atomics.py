"""Atomic operations: what they do, what they refuse, and that nothing is lost between threads."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import (
    AccessDenied,
    AddressSpaceError,
    AddressSpaceRegion,
    GuestMemory,
    InvalidAddressRange,
    Misaligned,
    UnmappedAddress,
    Unsupported,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_helpers import PAGE, drain, make_file, mapped, ram, track
from threads import run_threads, switch_interval

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "swap": lambda _, value: value,
    "fetch_add": lambda old, value: old + value,
    "fetch_sub": lambda old, value: old - value,
    "fetch_and": lambda old, value: old & value,
    "fetch_or": lambda old, value: old | value,
    "fetch_xor": lambda old, value: old ^ value,
}
CHANGES = [*OPERATIONS, "compare_exchange"]
ORDERS = ["relaxed", "acquire", "release", "acq_rel", "seq_cst"]
WIDTHS = [1, 2, 4, 8]
TOP = (1 << 64) - 1


def call(memory: GuestMemory, name: str, addr: Any, *arguments: Any, **keywords: Any) -> int:
    values = (0, 1) if name == "compare_exchange" else (1,)
    result: int = getattr(memory, name)(addr, *values, *arguments, **keywords)
    return result


@pytest.fixture
def regions() -> list[AddressSpaceRegion]:
    """Two touching pages, a hole, a page that can only be read, a device."""
    uart = AddressSpaceRegion.create_device_region(1 << 45, PAGE, name="uart")
    return [ram(0), ram(PAGE, mem_type="mmap"), ram(3 * PAGE, prot_flags="r--", name="rom"), uart]


@settings(deadline=None)
@given(
    name=st.sampled_from(list(OPERATIONS)),
    width=st.sampled_from(WIDTHS),
    old=st.integers(0, TOP),
    value=st.integers(0, TOP),
    order=st.sampled_from(ORDERS),
)
def test_an_operation_gives_the_old_value_and_leaves_the_new(
    name: str, width: int, old: int, value: int, order: str
) -> None:
    _, memory = mapped(ram(0))
    mask = (1 << 8 * width) - 1
    memory.write(8, b"\xa5" * 24)
    memory.write(16, (old & mask).to_bytes(width, "little"))
    assert getattr(memory, name)(16, value & mask, width, order=order) == old & mask
    expected = OPERATIONS[name](old, value) & mask
    assert memory.read(8, 24) == b"\xa5" * 8 + expected.to_bytes(width, "little") + b"\xa5" * (16 - width)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("order", ORDERS)
def test_compare_exchange_writes_only_over_what_was_expected(memory: GuestMemory, width: int, order: str) -> None:
    top = (1 << 8 * width) - 1
    assert memory.compare_exchange(8, 0, top, width, order=order) == 0
    assert memory.compare_exchange(8, 0, 1, width, order=order) == top
    assert memory.read(8, 8) == b"\xff" * width + bytes(8 - width)


@pytest.mark.parametrize("name", ["load", "store", *CHANGES])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_last_place_of_a_region_can_be_used(memory: GuestMemory, name: str, width: int) -> None:
    addr = 2 * PAGE - width
    assert (memory.load(addr, width) if name == "load" else call(memory, name, addr, width)) in (0, None)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("width", [2, 4, 8])
def test_a_place_must_be_aligned(memory: GuestMemory, name: str, width: int) -> None:
    for addr in range(1, width):
        with pytest.raises(Misaligned, match="multiple") as refused:
            call(memory, name, PAGE - width + addr, width)
        assert (refused.value.address, refused.value.size) == (PAGE - width + addr, width)
    assert memory.read(0, 2 * PAGE) == bytes(2 * PAGE)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize(
    ("addr", "error"),
    [
        (2 * PAGE, UnmappedAddress),
        (3 * PAGE, AccessDenied),
        (1 << 45, UnmappedAddress),
        (TOP - 15, UnmappedAddress),
        (TOP - 7, InvalidAddressRange),
    ],
    ids=["hole", "read-only", "device", "high", "top"],
)
def test_what_cannot_be_written_is_refused(
    memory: GuestMemory, name: str, addr: int, error: type[AddressSpaceError]
) -> None:
    with pytest.raises(error) as refused:
        call(memory, name, addr)
    assert refused.value.address == addr


def test_what_can_only_be_read_can_be_loaded(memory: GuestMemory) -> None:
    memory.write(3 * PAGE, b"\x01\x02", force=True)
    assert memory.load(3 * PAGE, 2) == 0x201
    with pytest.raises(AccessDenied):
        memory.store(3 * PAGE, 1)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("size", [0, 3, 5, 16, 1 << 40])
def test_a_width_must_be_one_of_four(memory: GuestMemory, name: str, size: int) -> None:
    with pytest.raises(InvalidAddressRange, match=r"1, 2, 4 or 8"):
        call(memory, name, 0, size)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("order", ["", "consume", "SEQ_CST"])
def test_an_order_must_be_known(memory: GuestMemory, name: str, order: str) -> None:
    with pytest.raises(ValueError, match="use one of relaxed, acquire, release, acq_rel, seq_cst"):
        call(memory, name, 0, order=order)


@pytest.mark.parametrize("value", [-1, 1 << 16, 1 << 64, -(1 << 70), True])
def test_an_operand_must_fit(memory: GuestMemory, value: int) -> None:
    for name in OPERATIONS:
        with pytest.raises(InvalidAddressRange):
            getattr(memory, name)(0, value, 2)
    for pair in [(value, 0), (0, value)]:
        with pytest.raises(InvalidAddressRange):
            memory.compare_exchange(0, *pair, 2)
    assert memory.read(0, 8) == bytes(8)


@pytest.mark.parametrize("argument", [1.0, "1", None, b"\1"])
def test_an_operand_must_be_an_int(memory: GuestMemory, argument: Any) -> None:
    with pytest.raises(TypeError):
        memory.fetch_add(0, argument)
    with pytest.raises(TypeError):
        memory.fetch_add(argument, 1)
    with pytest.raises(TypeError):
        memory.compare_exchange(0, 0, argument)
    with pytest.raises(TypeError):
        memory.fetch_add(0, 1, 8, order=argument if argument != "1" else 7)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CHANGES)
def test_memory_that_may_fault_has_no_atomics(name: str, tmp_path: Path) -> None:
    with make_file(tmp_path / "ram", PAGE).open("r+b") as file:
        _, memory = mapped(
            AddressSpaceRegion.from_file(0, PAGE, file), AddressSpaceRegion.from_buffer(PAGE, (ctypes.c_char * 8)())
        )
    for addr in (0, PAGE):
        with pytest.raises(Unsupported, match="may fault") as refused:
            call(memory, name, addr)
        assert "read_u64" in refused.value.how
        assert refused.value.region == memory.mapping(addr).region


def test_only_changes_are_marked(memory: GuestMemory) -> None:
    track(memory)
    memory.load(0)
    assert drain(memory) == []
    for name in ["store", *CHANGES]:
        call(memory, name, PAGE)
        assert drain(memory) == [(PAGE, PAGE)], name


@pytest.mark.parametrize("width", WIDTHS)
def test_no_addition_of_two_threads_is_lost(memory: GuestMemory, width: int) -> None:
    def add() -> None:
        for _ in range(20_000):
            memory.fetch_add(PAGE - 8, 1, width)

    with switch_interval(1e-6):
        run_threads(add, add)
    assert memory.load(PAGE - 8, width) == 40_000 % (1 << 8 * width)
    assert memory.read(PAGE - 8 + width, 8 - width) == bytes(8 - width)


def test_compare_exchange_lets_one_thread_win(memory: GuestMemory) -> None:
    wins: list[int] = []

    def count() -> None:
        numbers = range(10_000)
        wins.extend(number for number in numbers if memory.compare_exchange(0, number, number + 1) == number)

    with switch_interval(1e-6):
        run_threads(count, count)
    assert sorted(wins) == list(range(10_000))


def test_what_gives_the_old_value_back_needs_to_read() -> None:
    memory = mapped(ram(0, prot_flags="-w-"))[1]
    memory.store(0, 1, 4)
    for call in (memory.fetch_add, memory.fetch_or):
        with pytest.raises(AccessDenied):
            call(0, 1)
    with pytest.raises(AccessDenied):
        memory.compare_exchange(0, 0, 1)
