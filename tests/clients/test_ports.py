"""Ports: a space of devices beside that of memory, whose handlers answer `in` and `out`."""

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from dbs_address_space import (
    AddressSpace,
    AddressSpaceRegion,
    InvalidAddressRange,
    InvalidArgument,
    LayoutViolation,
    NoSpace,
    RegionOverlap,
    UnmappedAddress,
)
from memory_helpers import LAYOUT, WINDOW, ram

COM1 = AddressSpaceRegion("device", 0x3F8, 8, name="com1")


class Echo:
    """Answers with the offset, and notes what is written."""

    def __init__(self) -> None:
        self.written: list[tuple[int, int, int]] = []

    def read(self, offset: int, _size: int) -> int:
        return offset

    def write(self, offset: int, size: int, value: int) -> None:
        self.written.append((offset, size, value))


@pytest.fixture
def ports(space: AddressSpace) -> AddressSpace:
    space.ports.insert_region(COM1)
    return space.ports


def test_ports_and_memory_have_the_same_verbs(space: AddressSpace, ports: AddressSpace) -> None:
    space.insert_region(AddressSpaceRegion("device", WINDOW, 8, name="com1"))
    device = Echo()
    for bus, base in ((space, WINDOW), (ports, 0x3F8)):
        attachment = bus.attach_device("com1", device, widths=(1, 2))
        assert bus.dispatch(base + 5, 1) == 5
        assert bus.dispatch(base, 2, 0xBEEF) is None
        assert bus.clients == (attachment,)
        with pytest.raises(InvalidAddressRange, match="widths"):
            bus.dispatch(base, 4)
    assert device.written == [(0, 2, 0xBEEF)] * 2
    with pytest.raises(UnmappedAddress, match="0x2f8"):
        ports.dispatch(0x2F8, 1)
    assert space.ports is ports
    assert len(space) == 2


def test_ports_can_be_reserved_at_any_address(ports: AddressSpace) -> None:
    with ports.reserve(3, owner="pci", base=0xCF9) as room:
        room.insert_region(AddressSpaceRegion("device", 0xCF9, 1, name="reset"))
        with pytest.raises(RegionOverlap, match="pci"):
            ports.insert_region(AddressSpaceRegion("device", 0xCFA, 1))
    assert ports.find_free(8) == 0
    assert ports.find_free(8, low=0x3F1) == 0x400
    assert ports.find_free(8, align=0x100, policy="last") == 0xFF00
    with pytest.raises(NoSpace):
        ports.find_free(0x1_0001)


@pytest.mark.parametrize(
    ("region", "text"),
    [
        (ram(0, 0x1000), "I/O ports are of devices only"),
        (AddressSpaceRegion("firmware", 0, 0x1000), "I/O ports are of devices only"),
        (AddressSpaceRegion.create_dax_region(0, 0x1000), "I/O ports are of devices only"),
        (AddressSpaceRegion("device", 0xFFFC, 8), "phys_end 0x1_0000"),
    ],
)
def test_what_does_not_belong_there_is_refused(ports: AddressSpace, region: AddressSpaceRegion, text: str) -> None:
    with pytest.raises(LayoutViolation, match=text):
        ports.insert_region(region)
    if region.region_type.value != "device":
        with pytest.raises(NoSpace):
            ports.find_free(0x1000, region_type=region.region_type)


def test_ports_have_no_ports(ports: AddressSpace) -> None:
    with pytest.raises(InvalidArgument, match="none of their own"):
        _ = ports.ports


def test_a_closed_space_has_no_handlers_left(space: AddressSpace, ports: AddressSpace) -> None:
    attachment = ports.attach_device("com1", Echo())
    space.close()
    assert not attachment.is_attached
    with pytest.raises(UnmappedAddress, match="no handler"):
        ports.dispatch(0x3F8, 1)


def test_a_handler_of_ports_that_refers_to_the_space_is_garbage() -> None:
    space = AddressSpace(LAYOUT)
    device: Any = SimpleNamespace(read=lambda *_: 0, write=lambda *_: None, space=space)
    device.mark = Echo()
    gone = weakref.ref(device.mark)
    space.ports.insert_region(COM1)
    space.ports.attach_device("com1", device)
    del space, device
    gc.collect()
    assert gone() is None
