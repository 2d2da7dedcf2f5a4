"""MMIO that does something: accesses reach the handler of their device, and nothing else does."""

import gc
import threading
import weakref
from typing import Any

import pytest
from dbs_address_space import (
    AddressSpace,
    AddressSpaceRegion,
    InvalidAddressRange,
    InvalidArgument,
    InvalidRegionType,
    UnmappedAddress,
)
from memory_helpers import PAGE, WINDOW, mapped, ram


class Device:
    """Answers with what it is told to, and notes what it is asked."""

    def __init__(self, answer: Any = 7) -> None:
        self.answer = answer
        self.trace: list[tuple[int, ...]] = []

    def read(self, offset: int, size: int) -> Any:
        self.trace.append((offset, size))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def write(self, offset: int, size: int, value: int) -> None:
        self.trace.append((offset, size, value))
        if isinstance(self.answer, BaseException):
            raise self.answer


@pytest.fixture
def regions() -> list[AddressSpaceRegion]:
    uart = AddressSpaceRegion("device", WINDOW, 0x20, name="uart")
    timer = AddressSpaceRegion("device", WINDOW + 0x20, PAGE, name="timer")
    return [ram(0, name="low"), uart, timer]


def test_accesses_reach_the_device_that_holds_them(space: AddressSpace) -> None:
    uart, timer = Device(1), Device(2)
    space.attach_device("uart", uart)
    space.attach_device(WINDOW + 0x20, timer)
    assert space.dispatch(WINDOW + 0x1F, 1) == 1
    assert space.dispatch(WINDOW + 0x20, 8) == 2
    assert space.dispatch(WINDOW + 0x18, 8, 2**64 - 1) is None
    assert uart.trace == [(0x1F, 1), (0x18, 8, 2**64 - 1)]
    assert timer.trace == [(0, 8)]


@pytest.mark.parametrize(
    ("addr", "size", "value", "error", "text"),
    [
        pytest.param(WINDOW, 3, None, InvalidAddressRange, r"3 bytes .*'uart'.*\[1, 4\]", id="odd width"),
        pytest.param(WINDOW, 2, None, InvalidAddressRange, r"widths \[1, 4\]", id="width that it does not take"),
        pytest.param(WINDOW, 0, None, InvalidAddressRange, "widths", id="no width"),
        pytest.param(WINDOW, 16, None, InvalidAddressRange, "widths", id="wide"),
        pytest.param(WINDOW + 0x1E, 4, None, InvalidAddressRange, "crosses its end", id="across the end"),
        pytest.param(WINDOW, 1, 256, InvalidAddressRange, "256, which does not fit into 1 bytes", id="large value"),
        pytest.param(WINDOW, 1, -1, InvalidAddressRange, "does not fit", id="negative value"),
        pytest.param(WINDOW, 1, "a", TypeError, "not an int", id="text"),
        pytest.param(WINDOW, 1, True, InvalidAddressRange, "does not fit", id="bool"),
        pytest.param(WINDOW + 0x20, 4, None, UnmappedAddress, "'timer'.*attach_device", id="no handler"),
        pytest.param(0, 4, None, UnmappedAddress, "'low'.* is memory", id="memory"),
        pytest.param(WINDOW - PAGE, 4, None, UnmappedAddress, "no device answers", id="hole"),
        pytest.param(-1, 4, None, InvalidAddressRange, "out of range", id="negative address"),
    ],
)
def test_what_is_no_access_of_a_device_is_refused(
    space: AddressSpace, addr: int, size: int, value: Any, error: type[Exception], text: str
) -> None:
    uart = Device()
    space.attach_device("uart", uart, widths=(1, 4))
    with pytest.raises(error, match=text):
        space.dispatch(addr, size, value)
    assert not uart.trace


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(0x100, InvalidAddressRange, id="large"),
        pytest.param(-1, InvalidAddressRange, id="negative"),
        pytest.param(None, TypeError, id="nothing"),
        pytest.param(b"a", TypeError, id="bytes"),
    ],
)
def test_an_answer_that_is_none_names_the_device(space: AddressSpace, answer: Any, error: type[Exception]) -> None:
    space.attach_device("uart", Device(answer))
    with pytest.raises(error, match="the answer of 'uart'"):
        space.dispatch(WINDOW, 1)


def test_what_a_handler_raises_comes_through(space: AddressSpace) -> None:
    broken = KeyError("broken")
    space.attach_device("uart", Device(broken))
    for value in (None, 1):
        with pytest.raises(KeyError) as raised:
            space.dispatch(WINDOW, 1, value)
        assert raised.value is broken


@pytest.mark.parametrize(
    ("region", "handler", "widths", "error", "text"),
    [
        pytest.param("low", Device(), (1,), InvalidRegionType, "'low'.* is memory", id="memory"),
        pytest.param("none", Device(), (1,), UnmappedAddress, "no region is named", id="no region"),
        pytest.param(WINDOW + 4, Device(), (1,), UnmappedAddress, "lies inside 'uart'", id="inside"),
        pytest.param("uart", object(), (1,), TypeError, "no method read", id="no handler"),
        pytest.param("uart", Device(), (3,), InvalidAddressRange, "some of 1, 2, 4 and 8", id="odd width"),
        pytest.param("uart", Device(), (), InvalidAddressRange, "some of", id="no width"),
    ],
)
def test_what_can_not_be_attached(
    space: AddressSpace, region: Any, handler: Any, widths: tuple[int, ...], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        space.attach_device(region, handler, widths=widths)


def test_a_handler_goes_with_its_region_and_when_it_is_detached(space: AddressSpace) -> None:
    first, second = Device(1), Device(2)
    attachment = space.attach_device("uart", first)
    with pytest.raises(InvalidArgument, match="has a handler already"):
        space.attach_device("uart", second)
    space.replace_region("uart", space["uart"].replace(name="serial"))
    space.memory.close()
    space.map_memory()
    assert space.dispatch(WINDOW, 1) == 1
    attachment.detach()
    assert not attachment.is_attached
    with pytest.raises(UnmappedAddress, match="serial"):
        space.dispatch(WINDOW, 1)
    gone = weakref.ref(second)
    attachment = space.attach_device("serial", second)
    with space.transaction() as change:
        region = space["serial"]
        change.remove_region(region)
        change.insert_region(region)
    with pytest.raises(UnmappedAddress, match="no handler"):
        space.dispatch(WINDOW, 1)
    assert not attachment.is_attached
    attachment.detach()
    last = space.attach_device("serial", first)
    del second
    assert gone() is None
    assert space.clients == (last,)


def test_a_handler_may_change_the_space_and_be_called_from_any_thread(space: AddressSpace) -> None:
    class Plug(Device):
        def write(self, offset: int, size: int, value: int) -> None:
            space.insert_region(ram(value * PAGE))
            space.remove_region(value * PAGE)
            with lock:
                self.trace.append((offset, size, value))

    plug, lock = Plug(), threading.Lock()
    space.attach_device("uart", plug)
    numbers = range(1, 9)
    threads = [threading.Thread(target=space.dispatch, args=(WINDOW, 4, number)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(plug.trace) == [(0, 4, number) for number in numbers]


def test_a_handler_that_refers_to_its_space_is_garbage(space: AddressSpace) -> None:
    device = Device()
    own, _ = mapped(AddressSpaceRegion("device", WINDOW, PAGE, name="uart"))
    device.answer = own
    own.attach_device("uart", device)
    gone = weakref.ref(device)
    del device, own, _
    gc.collect()
    assert gone() is None
