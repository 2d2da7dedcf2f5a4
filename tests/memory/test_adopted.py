"""Regions over memory that someone else made: buffers of any kind, and files at any offset."""

import array
import ctypes
import gc
import mmap
import os
import pickle
import weakref
from collections.abc import Callable
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dbs_address_space import (
    AccessDenied,
    AddressSpaceRegion,
    BackingError,
    InvalidAddressRange,
    Prot,
    RegionBusy,
    Unsupported,
)
from host import ask_host
from kernel_view import covers, maps
from memory_helpers import GIB, PAGE, make_file, mapped, ram

BASE = 0x10_0123
"""Guest addresses of a buffer need no alignment."""
BUFFERS: dict[str, Callable[[], Any]] = {
    "bytearray": lambda: bytearray(range(256)) * 40,
    "odd bytearray": lambda: bytearray(range(251)),
    "memoryview": lambda: memoryview(bytearray(range(256)))[3:77],
    "array": lambda: array.array("I", range(1000)),
    "numpy": lambda: np.arange(5000, dtype="<u2").reshape(50, 100),
    "mmap": lambda: mmap.mmap(-1, 3 * PAGE),
    "ctypes": lambda: (ctypes.c_uint64 * 100)(*range(100)),
    "ctypes value": lambda: ctypes.c_uint64(0x1234),
}


@pytest.mark.parametrize("kind", BUFFERS)
def test_a_region_is_the_buffer_itself(kind: str) -> None:
    buffer = BUFFERS[kind]()
    with memoryview(buffer) as whole:
        before = whole.tobytes()
    region = AddressSpaceRegion.from_buffer(BASE, buffer, name="shared")
    assert (region.base, region.size, region.has_file) == (BASE, len(before), False)
    _, memory = mapped(region)
    assert memory.read(BASE, region.size) == before
    memory.write(BASE + region.size - 4, b"tail")
    memory.fill(BASE, 2, 0xEE)
    with memoryview(buffer) as whole:
        assert whole.tobytes() == b"\xee\xee" + before[2:-4] + b"tail"
    assert "buffer" in repr(region)


def test_shared_memory_is_shared() -> None:
    block = shared_memory.SharedMemory(create=True, size=2 * PAGE)
    try:
        assert block.buf is not None
        region = AddressSpaceRegion.from_buffer(BASE, block.buf)
        space, memory = mapped(region)
        memory.write(BASE, b"hello")
        other = shared_memory.SharedMemory(block.name)
        assert bytes(memoryview(other.buf or b"")[:5]) == b"hello"
        other.close()
        space.remove_region(BASE)
        del region, space, memory
    finally:
        gc.collect()
        block.close()
        block.unlink()


def test_the_owner_can_neither_close_nor_resize_it() -> None:
    buffer, plain = bytearray(100), mmap.mmap(-1, PAGE)
    regions = [AddressSpaceRegion.from_buffer(0, buffer), AddressSpaceRegion.from_buffer(GIB, plain)]
    space, _ = mapped(*regions)
    del regions
    with pytest.raises(BufferError):
        buffer.append(0)
    with pytest.raises(BufferError):
        plain.close()
    space.remove_region(0)
    gc.collect()
    buffer.append(0)
    space.remove_region(GIB)
    gc.collect()
    plain.close()


def test_the_buffer_is_held_as_long_as_the_region_is_anywhere() -> None:
    class Owned(np.ndarray[Any, Any]):
        pass

    owner: Any = np.zeros(100, "u1").view(Owned)
    watch = weakref.ref(owner)
    space, _ = mapped(AddressSpaceRegion.from_buffer(0, owner))
    before = space.snapshot()
    del owner
    space.remove_region(0)
    gc.collect()
    assert watch() is not None
    assert before.regions[0].size == 100
    del before
    gc.collect()
    assert watch() is None


def test_a_view_of_a_buffer_needs_to_be_asked_for() -> None:
    buffer = (ctypes.c_ubyte * PAGE)()
    space, memory = mapped(AddressSpaceRegion.from_buffer(BASE, buffer))
    with pytest.raises(Unsupported, match="unguarded=True"):
        memory.view(BASE, 4)
    with memory.view(BASE + 8, 4, unguarded=True) as view:
        view[:] = b"view"
        with pytest.raises(RegionBusy):
            space.remove_region(BASE)
    assert bytes(buffer)[8:12] == b"view"


def test_atomics_have_no_guarded_form() -> None:
    _, memory = mapped(AddressSpaceRegion.from_buffer(0, (ctypes.c_char * PAGE)()))
    with pytest.raises(Unsupported):
        memory.fetch_add(0, 1)


def test_a_protected_region_of_a_buffer_is_protected_by_us() -> None:
    buffer = bytearray(b"rom" * 10)
    region = AddressSpaceRegion.from_buffer(0, buffer).replace(prot_flags="r--")
    _, memory = mapped(region)
    with pytest.raises(AccessDenied):
        memory.write(0, b"x")
    memory.write(0, b"ROM", force=True)
    assert buffer[:3] == b"ROM"


@pytest.mark.parametrize(
    ("buffer", "error"),
    [
        (np.zeros((4, 4), "u1")[:, 1], BufferError),
        (bytearray(), InvalidAddressRange),
        ("text", TypeError),
        (7, TypeError),
        (None, TypeError),
    ],
    ids=["strided", "empty", "str", "int", "none"],
)
def test_what_is_no_buffer_for_a_region(buffer: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        AddressSpaceRegion.from_buffer(0, buffer)


def test_a_buffer_at_the_end_of_the_address_space() -> None:
    with pytest.raises(InvalidAddressRange):
        AddressSpaceRegion.from_buffer(2**64 - 8, bytearray(9))


def test_its_size_is_the_buffers() -> None:
    region = AddressSpaceRegion.from_buffer(0, bytearray(8))
    with pytest.raises(InvalidAddressRange, match="0x8 bytes"):
        region.replace(size=4)
    assert region.replace(base=GIB, name="moved").base == GIB


def test_equal_buffers_are_equal_regions_and_pickle_never() -> None:
    buffer = bytearray(8)
    one, same = AddressSpaceRegion.from_buffer(0, buffer), AddressSpaceRegion.from_buffer(0, buffer)
    assert one == same
    assert hash(one) == hash(same)
    assert one != AddressSpaceRegion.from_buffer(0, bytearray(8))
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(one)


@pytest.mark.parametrize("offset", [0, 1, 100, PAGE - 1, PAGE, PAGE + 17])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "private"])
def test_a_file_may_begin_anywhere(offset: int, shared: bool, tmp_path: Path) -> None:  # noqa: FBT001
    path = make_file(tmp_path / "image", 4 * PAGE)
    path.write_bytes(bytes(range(256)) * (4 * PAGE // 256))
    with path.open("r+b") as file:
        region = AddressSpaceRegion.from_file(GIB, 2 * PAGE, file, offset, name="image", shared=shared)
    _, memory = mapped(region)
    assert memory.read(GIB, 2 * PAGE) == path.read_bytes()[offset : offset + 2 * PAGE]
    assert memory.mapping(GIB).file_offset == offset
    memory.write(GIB + PAGE - 3, b"across")
    expected = b"across" if shared else path.read_bytes()[offset + PAGE - 3 : offset + PAGE + 3]
    assert path.read_bytes()[offset + PAGE - 3 : offset + PAGE + 3] == expected
    assert memory.read(GIB + PAGE - 3, 6) == b"across"


def test_a_file_is_unmapped_whole(tmp_path: Path) -> None:
    with make_file(tmp_path / "odd", 4 * PAGE).open("r+b") as file:
        region = AddressSpaceRegion.from_file(0, 2 * PAGE, file, 100)
    space, memory = mapped(region)
    host = memory.mapping(0).host_address
    space.remove_region(0)
    assert not any(covers(line, host) for line in maps())


def test_a_memfd_of_someone_else_is_shared() -> None:
    fd = os.memfd_create("theirs")
    os.ftruncate(fd, 2 * PAGE)
    _, memory = mapped(AddressSpaceRegion.from_file(0, PAGE, fd, PAGE))
    memory.write(8, b"ours")
    assert os.pread(fd, 4, PAGE + 8) == b"ours"
    os.pwrite(fd, b"theirs", PAGE + 16)
    assert memory.read(16, 6) == b"theirs"
    os.close(fd)
    assert memory.read(8, 4) == b"ours"


def test_protection_is_what_the_descriptor_allows(tmp_path: Path) -> None:
    path = make_file(tmp_path / "file", PAGE)
    with path.open("rb") as file:
        region = AddressSpaceRegion.from_file(0, PAGE, file)
        copy = AddressSpaceRegion.from_file(0, PAGE, file, shared=False)
        asked = AddressSpaceRegion.from_file(0, PAGE, file, prot_flags="rw-")
    assert region.prot_flags == Prot.READ
    assert copy.prot_flags == Prot.READ | Prot.WRITE
    _, memory = mapped(region)
    with pytest.raises(AccessDenied):
        memory.write(0, b"x")
    with pytest.raises(BackingError) as refused:
        mapped(asked)
    assert refused.value.errno == 13


def test_a_file_that_is_too_short_is_refused(tmp_path: Path) -> None:
    with make_file(tmp_path / "file", 2 * PAGE).open("r+b") as file:
        region = AddressSpaceRegion.from_file(0, 2 * PAGE, file, 1)
    with pytest.raises(BackingError, match="extend it first"):
        mapped(region)


def test_secret_memory_is_refused_with_the_reason() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(447, 0)
    ask_host(fd >= 0, "this kernel has no memfd_secret")
    os.ftruncate(fd, PAGE)
    with pytest.raises(Unsupported, match="memfd_secret"):
        mapped(AddressSpaceRegion.from_file(0, PAGE, fd))
    os.close(fd)


def test_a_device_without_pages_is_no_memory() -> None:
    with Path("/dev/null").open("r+b", buffering=0) as device, pytest.raises(BackingError):
        mapped(AddressSpaceRegion.from_file(0, PAGE, device))


def test_touching_regions_of_every_kind_are_one_memory(tmp_path: Path) -> None:
    buffer = bytearray(PAGE)
    with make_file(tmp_path / "file", 2 * PAGE).open("r+b") as file:
        regions = [
            ram(0),
            AddressSpaceRegion.from_buffer(PAGE, buffer),
            AddressSpaceRegion.from_file(2 * PAGE, PAGE, file, 10),
        ]
    _, memory = mapped(*regions)
    data = bytes(range(250)) * 40
    memory.write(PAGE // 2, data)
    assert memory.read(PAGE // 2, len(data)) == data
    assert bytes(buffer) == data[PAGE // 2 : PAGE // 2 + PAGE]
