"""`pin`: host addresses that stay, for engines and system calls that need a raw pointer."""

import ctypes
import gc
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import unicorn
from children import in_child
from dbs_address_space import (
    AddressSpace,
    AddressSpaceRegion,
    GuestMemory,
    InvalidAddressRange,
    InvalidArgument,
    NotContiguous,
    NotMapped,
    Pin,
    RegionBusy,
    UnmappedAddress,
)
from kernel_view import maps_of
from memory_helpers import MIB, PAGE, make_file, mapped, numbered, ram
from unicorn import x86_const

TOP = (1 << 64) - 1


@pytest.fixture
def regions(tmp_path: Path) -> list[AddressSpaceRegion]:
    """Two that touch, a hole, a file, what can't be touched."""
    with make_file(tmp_path / "ram", 2 * PAGE).open("r+b") as file:
        return [
            ram(0, 2 * PAGE, name="low"),
            ram(2 * PAGE, 2 * PAGE, name="high", mem_type="mmap"),
            AddressSpaceRegion.from_file(8 * PAGE, PAGE, file, 5, name="file"),
            ram(16 * PAGE, name="window", prot_flags=0),
        ]


@pytest.fixture
def memory(space: AddressSpace) -> GuestMemory:
    space.memory.write(0, numbered(4 * PAGE))
    return space.memory


@pytest.mark.parametrize(
    "span", [(0, 1), (5, PAGE), (2 * PAGE - 1, 1), (2 * PAGE, 2 * PAGE), (8 * PAGE + 1, 7)], ids=str
)
def test_the_address_is_that_of_the_bytes(memory: GuestMemory, span: tuple[int, int]) -> None:
    addr, size = span
    with memory.pin(addr, size) as pin:
        assert isinstance(pin, Pin)
        assert (pin.size, pin.address) == (size, memory.host_address(addr))
        assert ctypes.string_at(pin.address, pin.size) == memory.read(addr, size)
        ctypes.memset(pin.address, 0xEE, pin.size)
    assert memory.read(addr, size) == b"\xee" * size


def test_system_calls_can_use_it(memory: GuestMemory, tmp_path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    path = make_file(tmp_path / "data", 0)
    path.write_bytes(b"from the file")
    with path.open("rb") as file, memory.pin(100, 13) as pin:
        assert libc.read(file.fileno(), ctypes.c_void_p(pin.address), ctypes.c_size_t(pin.size)) == 13
    assert memory.read(100, 13) == b"from the file"


def test_a_pin_vetoes_the_removal_and_is_named(space: AddressSpace, memory: GuestMemory) -> None:
    with memory.pin(5, 10), memory.pin(PAGE, 1):
        with pytest.raises(RegionBusy, match="a pin of 0xa bytes at 0x5") as busy:
            space.remove_region("low")
        assert [tuple(lease) for lease in busy.value.leases] == [("pin", 5, 10, None), ("pin", PAGE, 1, None)]
        with pytest.raises(RegionBusy):
            memory.close()
        space.remove_region("high")
    space.remove_region("low")


def test_a_pin_of_a_window_holds_it(space: AddressSpace, memory: GuestMemory) -> None:
    with memory.pin(16 * PAGE, PAGE), pytest.raises(RegionBusy):
        space.remove_region("window")
    space.remove_region("window")


@pytest.mark.parametrize(
    ("addr", "size", "error"),
    [
        (2 * PAGE - 1, 2, NotContiguous),
        (4 * PAGE - 1, 2, UnmappedAddress),
        (4 * PAGE, 1, UnmappedAddress),
        (0, 1 << 50, UnmappedAddress),
        (TOP, 1, InvalidAddressRange),
        (-1, 1, InvalidAddressRange),
        (0, -1, InvalidAddressRange),
        (True, 1, InvalidAddressRange),
        (0, 1.5, TypeError),
        ("0", 1, TypeError),
    ],
    ids=["joint", "over the end", "hole", "huge", "top", "negative", "negative size", "bool", "float", "str"],
)
def test_what_cannot_be_pinned(memory: GuestMemory, addr: Any, size: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        memory.pin(addr, size)


def test_a_pin_of_nothing_holds_nothing(space: AddressSpace, memory: GuestMemory) -> None:
    with memory.pin(TOP, 0) as nowhere, memory.pin(0, 0) as pin:
        assert (nowhere.size, nowhere.address, pin.size) == (0, 0, 0)
        space.remove_region("low")


def test_an_ended_pin_has_no_address(space: AddressSpace, memory: GuestMemory) -> None:
    pin = memory.pin(0, 8)
    assert repr(pin) == f"Pin(0x8 bytes at host {pin.address:#_x})"
    pin.release()
    pin.release()
    assert repr(pin) == "Pin(ended)"
    with pytest.raises(InvalidArgument, match="ended"):
        _ = pin.address
    assert pin.size == 8
    with pytest.raises(InvalidArgument, match="ended"), pin as again:
        _ = again.address
    space.remove_region("low")


def test_an_exception_ends_the_pin(space: AddressSpace, memory: GuestMemory) -> None:
    with pytest.raises(KeyError), memory.pin(0, 8):
        raise KeyError
    space.remove_region("low")


def test_a_forgotten_pin_ends_with_its_object(space: AddressSpace, memory: GuestMemory) -> None:
    pin: list[Any] = [memory.pin(0, 8)]
    pin.append(pin)
    del pin
    space.remove_region("low")


def test_a_pin_outlives_space_and_memory() -> None:
    name = "pin-that-outlives"
    space, memory = mapped(ram(0, MIB, name=name))
    memory.write(0, b"still there")
    pin = memory.pin(0, 11)
    del space, memory
    gc.collect()
    assert ctypes.string_at(pin.address, 11) == b"still there"
    assert maps_of(name)
    del pin
    gc.collect()
    assert not maps_of(name)


def test_a_removal_waits_for_the_end_of_a_pin(space: AddressSpace, memory: GuestMemory) -> None:
    pin = memory.pin(0, 8)
    threading.Timer(0.05, pin.release).start()
    space.remove_region("low", timeout=None)


def test_a_closed_memory_has_no_pins(memory: GuestMemory) -> None:
    memory.close()
    for size in (0, 8):
        with pytest.raises(NotMapped):
            memory.pin(0, size)


def test_a_pin_cannot_be_pickled(memory: GuestMemory) -> None:
    with memory.pin(0, 8) as pin, pytest.raises(TypeError, match="pickle"):
        pickle.dumps(pin)


# Unicorn.

CODE = bytes.fromhex("8b0425 0020000083c001890425 fc2f0000c70425 00300000 78563412f4")
"""mov eax, [0x2000]; add eax, 1; mov [0x2ffc], eax; mov dword [0x3000], 0x12345678; hlt"""


def test_unicorn_runs_in_pinned_memory(space: AddressSpace, memory: GuestMemory) -> None:
    """One region for code, one for data: the engine's loads and stores are ours, at the regions' edges."""
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    pins = [memory.pin(region.base, region.size) for region in memory.regions[:2]]
    for region, pin in zip(memory.regions, pins, strict=False):
        uc.mem_map_ptr(region.base, region.size, unicorn.UC_PROT_ALL, pin.address)
    memory.write(0, CODE)
    memory.write_u32(2 * PAGE, 41)
    uc.emu_start(0, len(CODE) - 1)
    assert memory.read_u32(3 * PAGE - 4) == 42
    assert memory.read_u32(3 * PAGE) == 0x12345678
    assert uc.reg_read(x86_const.UC_X86_REG_EAX) == 42
    assert uc.mem_read(2 * PAGE - 4, 8) == memory.read(2 * PAGE - 4, 8)
    uc.mem_write(4 * PAGE - 3, b"end")
    assert memory.read(4 * PAGE - 3, 3) == b"end"
    with pytest.raises(RegionBusy):
        space.remove_region("high")
    for region in memory.regions[:2]:
        uc.mem_unmap(region.base, region.size)
    for pin in pins:
        pin.release()
    space.remove_region("high")


def test_two_engines_share_one_memory() -> None:
    _, memory = mapped(ram(0, 4 * PAGE))
    with memory.pin(0, 4 * PAGE) as pin:
        engines = [unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64) for _ in range(2)]
        for uc in engines:
            uc.mem_map_ptr(0, 4 * PAGE, unicorn.UC_PROT_ALL, pin.address)
        memory.write(0, CODE)
        for number, uc in enumerate(engines):
            memory.write_u32(2 * PAGE, memory.read_u32(3 * PAGE - 4) + number)
            uc.emu_start(0, len(CODE) - 1)
        assert memory.read_u32(3 * PAGE - 4) == 3


def test_a_child_can_use_a_pin_of_shared_memory(memory: GuestMemory) -> None:
    with memory.pin(0, 8) as pin:
        in_child(lambda: ctypes.memmove(pin.address, b"children", 8))
    assert memory.read(0, 8) == b"children"
