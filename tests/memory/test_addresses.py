"""Ways into memory that is not of one region, and the way back from host addresses; integers with a sign."""

import os

import pytest
from dbs_address_space import (
    AccessDenied,
    AddressSpaceRegion,
    InvalidAddressRange,
    NotMapped,
    RegionBusy,
    UnmappedAddress,
    Unsupported,
)
from hypothesis import given
from hypothesis import strategies as st
from memory_helpers import GIB, MIB, PAGE, mapped, numbered, ram


def test_the_way_back_is_the_way_there_reversed() -> None:
    buffer = bytearray(3 * PAGE)
    regions = [ram(0, MIB), ram(GIB, 0x123, mem_type="mmap"), AddressSpaceRegion.from_buffer(2 * GIB + 1, buffer)]
    _, memory = mapped(*regions)
    for region in regions:
        for address in (region.base, region.end - 1):
            assert memory.guest_address(memory.host_address(address)) == address
            assert memory.guest_addresses(memory.host_address(address)) == (address,)
    # The first address behind a region, which is in the middle of a page.
    for host in (0, memory.host_address(GIB) + 0x123, (1 << 64) - 1):
        assert memory.guest_addresses(host) == ()
        with pytest.raises(UnmappedAddress, match=r"no region shows the host address 0x") as refused:
            memory.guest_address(host)
        assert refused.value.address == host


def test_bytes_that_are_seen_twice_have_two_addresses() -> None:
    buffer = bytearray(3 * PAGE)
    upper = AddressSpaceRegion.from_buffer(GIB, memoryview(buffer)[PAGE:])
    inside = AddressSpaceRegion.from_buffer(3 * GIB, memoryview(buffer)[PAGE + 1 : PAGE + 3])
    space, memory = mapped(AddressSpaceRegion.from_buffer(2 * GIB, buffer), upper, inside)
    host = memory.host_address(GIB + 5)
    assert memory.guest_addresses(host) == (GIB + 5, 2 * GIB + PAGE + 5)
    assert memory.guest_address(host) == GIB + 5
    space.remove_region(upper)
    assert memory.guest_addresses(host) == (2 * GIB + PAGE + 5,)
    space.move_region(2 * GIB, 0)
    assert memory.guest_address(host) == PAGE + 5
    memory.close()
    with pytest.raises(NotMapped):
        memory.guest_address(host)


def test_slices_are_the_parts_of_each_region() -> None:
    space, memory = mapped(
        ram(0, PAGE + 3, name="low"), ram(PAGE + 3, 5, name="five"), ram(PAGE + 8, PAGE, name="high")
    )
    memory.write(PAGE, numbered(20))
    slices = memory.slices(PAGE, 20)
    assert [bytes(part) for part in slices] == [numbered(20)[:3], numbered(20)[3:8], numbered(20)[8:]]
    slices[1][:] = b"fives"
    assert memory.read(PAGE + 3, 5) == b"fives"
    with pytest.raises(RegionBusy):
        space.remove_region("five")
    read, write = os.pipe()
    assert os.writev(write, slices) == 20
    assert os.read(read, 30) == memory.read(PAGE, 20)
    os.close(read)
    os.close(write)
    for part in slices:
        part.release()
    space.remove_region("five")
    for addr, size in ((PAGE, 20), (PAGE + 3, 1)):
        with pytest.raises(UnmappedAddress) as refused:
            memory.slices(addr, size)
        assert refused.value.address == PAGE + 3
    # Nothing is held by a refusal.
    space.remove_region("low")
    assert memory.slices(0, 0) == ()


def test_slices_have_the_protection_that_is_asked_for() -> None:
    with os.fdopen(os.memfd_create("users"), "w+b") as file:
        file.truncate(PAGE)
        user = AddressSpaceRegion.from_file(2 * PAGE, PAGE, file)
    _, memory = mapped(ram(0), ram(PAGE, prot_flags="r--"), user)
    assert [part.readonly for part in memory.slices(0, 2 * PAGE)] == [False, True]
    assert [part.readonly for part in memory.slices(0, PAGE, writable=False)] == [True]
    with pytest.raises(AccessDenied):
        memory.slices(0, 2 * PAGE, writable=True)
    with pytest.raises(Unsupported, match="unguarded=True takes the risk"):
        memory.slices(0, 3 * PAGE)
    assert len(memory.slices(0, 3 * PAGE, unguarded=True)) == 3


@given(width=st.sampled_from([1, 2, 4, 8]), value=st.integers(-(1 << 63), (1 << 63) - 1), big=st.booleans())
def test_signed_integers(width: int, value: int, big: bool) -> None:  # noqa: FBT001
    _, memory = mapped(ram(0))
    value >>= 64 - 8 * width
    getattr(memory, f"write_i{8 * width}")(3, value, big=big)
    assert memory.read(3, width) == value.to_bytes(width, "big" if big else "little", signed=True)
    assert getattr(memory, f"read_i{8 * width}")(3, big=big) == value


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_what_does_not_fit_is_not_written(width: int) -> None:
    _, memory = mapped(ram(0))
    write, limit = getattr(memory, f"write_i{8 * width}"), 1 << (8 * width - 1)
    for value in (limit, -limit - 1, 1 << 70, -(1 << 70)):
        with pytest.raises(InvalidAddressRange, match=r"out of range: it must lie between -0x8.* and 0x7.*f"):
            write(0, value)
    for odd in (True, 1.0, "1"):
        with pytest.raises((TypeError, InvalidAddressRange)):
            write(0, odd)
    assert memory.read(0, 8) == bytes(8)
    write(0, limit - 1)
    write(8, -limit)
    assert memory.unpack(0, f"<{'bhiq'[width.bit_length() - 1]}") == (limit - 1,)
