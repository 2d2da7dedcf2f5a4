"""Values in the formats of `struct`, strings that end with a zero, and records of NumPy."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dbs_address_space import AccessDenied, AddressSpaceRegion, GuestMemory, InvalidAddressRange, UnmappedAddress
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_helpers import PAGE, make_file, mapped, numbered, ram

ODD = 3 * PAGE
"""Where an adopted region of 100 bytes begins."""


@pytest.fixture
def regions(tmp_path: Path) -> list[AddressSpaceRegion]:
    """A memfd and a file that touch, then 100 bytes of a buffer, then a page that can't be read."""
    with make_file(tmp_path / "ram", 2 * PAGE).open("r+b") as file:
        return [
            ram(0),
            AddressSpaceRegion.from_file(PAGE, PAGE, file, 7),
            AddressSpaceRegion.from_buffer(ODD, bytearray(100)),
            ram(4 * PAGE, prot_flags=0),
        ]


FIELDS = {
    "b": st.integers(-128, 127),
    "H": st.integers(0, 0xFFFF),
    "i": st.integers(-(1 << 31), (1 << 31) - 1),
    "Q": st.integers(0, (1 << 64) - 1),
    "?": st.booleans(),
    "d": st.floats(allow_nan=False),
    "5s": st.binary(min_size=5, max_size=5),
}


@settings(deadline=None)
@given(st.sampled_from("@=<>!"), st.lists(st.sampled_from(list(FIELDS)), max_size=6), st.data(), st.integers(1, 30))
def test_what_is_packed_is_unpacked(order: str, letters: list[str], data: st.DataObject, before: int) -> None:
    _, memory = mapped(ram(0), ram(PAGE))
    values = [data.draw(FIELDS[letter]) for letter in letters]
    format_ = order + "".join(letters)
    memory.pack(PAGE - before, format_, *values)
    assert memory.read(PAGE - before, struct.calcsize(format_)) == struct.pack(format_, *values)
    assert memory.unpack(PAGE - before, format_) == tuple(values)


@pytest.mark.parametrize("format_", ["<QIHH", b"<QIHH"], ids=["str", "bytes"])
def test_values_cross_from_direct_to_guarded_memory(memory: GuestMemory, format_: str | bytes) -> None:
    for addr in range(PAGE - 16, PAGE + 1):
        memory.pack(addr, format_, addr, 512, 1, 2)
        assert memory.unpack(addr, format_) == (addr, 512, 1, 2)


def test_a_format_of_nothing_needs_no_memory(memory: GuestMemory) -> None:
    memory.pack(2 * PAGE, "")
    assert memory.unpack(2 * PAGE, "") == ()
    assert memory.unpack(2 * PAGE, "0s") == (b"",)


@pytest.mark.parametrize("format_", ["z", "<P", "3", "<Q garbage"])
def test_a_bad_format_is_an_error_of_struct(memory: GuestMemory, format_: str) -> None:
    with pytest.raises(struct.error):
        memory.unpack(0, format_)
    with pytest.raises(struct.error):
        memory.pack(0, format_, 1)


@pytest.mark.parametrize("format_", [None, 1, ["Q"]])
def test_a_format_is_text(memory: GuestMemory, format_: Any) -> None:
    with pytest.raises(TypeError):
        memory.unpack(0, format_)


@pytest.mark.parametrize(
    "values",
    [(), (1,), (1, 2, 3), (1, 1 << 64), (1, -1), ("1", 2)],
    ids=["none", "one", "three", "big", "negative", "str"],
)
def test_values_that_do_not_fit_write_nothing(memory: GuestMemory, values: tuple[Any, ...]) -> None:
    with pytest.raises(struct.error):
        memory.pack(PAGE - 8, "<QQ", *values)
    assert memory.read(0, 2 * PAGE) == bytes(2 * PAGE)


def test_a_hole_refuses_values(memory: GuestMemory) -> None:
    for addr in range(2 * PAGE - 15, 2 * PAGE + 1):
        with pytest.raises(UnmappedAddress) as refused:
            memory.unpack(addr, "<QQ")
        assert (refused.value.address, refused.value.size) == (2 * PAGE, 16)
        with pytest.raises(UnmappedAddress) as refused:
            memory.pack(addr, "<QQ", 1, 2)
        assert refused.value.address == 2 * PAGE
    assert memory.read(0, 2 * PAGE) == bytes(2 * PAGE)


def test_an_absurd_format_is_no_memory_error(memory: GuestMemory) -> None:
    with pytest.raises(UnmappedAddress):
        memory.unpack(0, f"{1 << 45}s")
    with pytest.raises(InvalidAddressRange):
        memory.unpack((1 << 64) - 8, "<Q")


@pytest.mark.parametrize("length", [0, 1, 5, 255, 256, 257, 4000])
@pytest.mark.parametrize("addr", [0, 3, 250, PAGE - 100])
def test_a_string_ends_before_its_zero(memory: GuestMemory, addr: int, length: int) -> None:
    text = b"x" * length
    memory.fill(0, 2 * PAGE, ord("y"))
    memory.write(addr, text + b"\0")
    assert memory.read_c_string(addr) == text
    assert memory.read_c_string(addr, length + 1) == text
    assert memory.read_c_string(addr, length, encoding="ascii") == text.decode()
    assert memory.read_c_string(addr, length // 2) == text[: length // 2]


def test_a_string_may_end_with_the_memory(memory: GuestMemory) -> None:
    memory.fill(0, 2 * PAGE, ord("y"))
    memory.write(2 * PAGE - 4, b"end\0")
    memory.write(ODD, b"y" * 100)
    memory.write(ODD + 96, b"odd\0")
    assert memory.read_c_string(2 * PAGE - 4) == b"end"
    assert memory.read_c_string(ODD + 96) == b"odd"
    assert memory.read_c_string(ODD + 90, 9) == b"yyyyyyodd"


@pytest.mark.parametrize(("addr", "end"), [(2 * PAGE - 3, 2 * PAGE), (ODD + 60, ODD + 100)], ids=["page", "odd"])
def test_a_string_that_does_not_end_is_refused(memory: GuestMemory, addr: int, end: int) -> None:
    memory.fill(0, 2 * PAGE, ord("y"))
    memory.fill(ODD, 100, ord("y"))
    with pytest.raises(UnmappedAddress) as refused:
        memory.read_c_string(addr)
    assert refused.value.address == end


def test_a_string_that_cannot_be_read_is_refused(memory: GuestMemory) -> None:
    with pytest.raises(AccessDenied):
        memory.read_c_string(4 * PAGE)
    assert memory.read_c_string(4 * PAGE, 0) == b""
    for size in (-1, 1 << 64, True):
        with pytest.raises(InvalidAddressRange):
            memory.read_c_string(0, size)


def test_the_longest_string_is_as_long_as_the_memory(memory: GuestMemory) -> None:
    memory.write(0, b"\1" + numbered(2 * PAGE - 1).replace(b"\0", b"\1"))
    assert memory.read_c_string(0, 2 * PAGE) == memory.read(0, 2 * PAGE)
    memory.write_u8(2 * PAGE - 1, 0)
    assert memory.read_c_string(0, (1 << 64) - 1) == memory.read(0, 2 * PAGE - 1)


def test_a_string_has_an_encoding(memory: GuestMemory) -> None:
    memory.write(0, "Grüße".encode() + b"\0")
    assert memory.read_c_string(0, encoding="utf-8") == "Grüße"
    assert memory.read_c_string(0, encoding="latin-1") == "GrÃ¼Ã\x9fe"
    with pytest.raises(UnicodeDecodeError):
        memory.read_c_string(0, encoding="ascii")
    with pytest.raises(LookupError, match="unknown encoding"):
        memory.read_c_string(0, encoding="no such")
    with pytest.raises(TypeError):
        memory.read_c_string(0, encoding=8)  # type: ignore[call-overload]


def test_a_descriptor_table_is_a_record_array(memory: GuestMemory) -> None:
    """A virtqueue in one line, as the package promises; the driver's side is `struct`."""
    table = memory.array(0, 16, [("addr", "<u8"), ("len", "<u4"), ("flags", "<u2"), ("next", "<u2")])
    memory.pack(3 * 16, "<QIHH", 0x8000, 512, 1, 4)
    assert table[3].tolist() == (0x8000, 512, 1, 4)
    table["next"] = np.arange(16)
    assert [memory.unpack(16 * number, "<QIHH")[3] for number in range(16)] == list(range(16))
