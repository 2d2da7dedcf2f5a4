"""DAX windows: files mapped and unmapped while the space lives, read through guest memory, safe whatever becomes of them."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from children import in_child
from dbs_address_space import (
    AccessDenied,
    AddressSpace,
    AddressSpaceRegion,
    BackingError,
    DaxMapping,
    GuestMemory,
    InvalidAddressRange,
    InvalidArgument,
    MemoryFault,
    Misaligned,
    NotMapped,
    Prot,
    RegionBusy,
    Unsupported,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_view import maps_of, protection
from memory_helpers import MIB, PAGE, WINDOW, mapped, ram
from userfaultfd import EVENT_UNMAP, MESSAGE, register

SIZE = 2 * MIB


def numbered(pages: int) -> bytes:
    return b"".join(bytes([page]) * PAGE for page in range(1, pages + 1))


@pytest.fixture
def file(tmp_path: Path) -> Iterator[BinaryIO]:
    path = tmp_path / "dax-file"
    path.write_bytes(numbered(16))
    with path.open("r+b") as opened:
        yield opened


@pytest.fixture
def regions() -> list[AddressSpaceRegion]:
    return [ram(0), AddressSpaceRegion.create_dax_region(WINDOW, SIZE, name="fs0")]


def test_files_are_seen_through_the_window_and_written_through(memory: GuestMemory, file: BinaryIO) -> None:
    window = memory.dax_window("fs0")
    window.map_file(4 * PAGE, file, 2 * PAGE, 3 * PAGE)
    assert memory.read(WINDOW + 4 * PAGE, 3 * PAGE) == numbered(16)[2 * PAGE : 5 * PAGE]
    assert memory.read_u8(WINDOW + 6 * PAGE) == 5
    memory.write(WINDOW + 4 * PAGE, b"written")
    memory.write_u64(WINDOW + 5 * PAGE, 7)
    file.seek(2 * PAGE)
    assert file.read(7) == b"written"
    assert window.mappings == (DaxMapping(4 * PAGE, 3 * PAGE, 2 * PAGE, Prot.READ | Prot.WRITE),)
    assert "1 mappings" in repr(window)


def test_elsewhere_it_is_denied_and_nothing_is_done(memory: GuestMemory, file: BinaryIO) -> None:
    window = memory.dax_window(WINDOW)
    window.map_file(0, file, 0, PAGE)
    window.map_file(2 * PAGE, file, 0, PAGE, "r--")
    with pytest.raises(AccessDenied) as raised:
        memory.read(WINDOW + PAGE - 4, 8)
    assert raised.value.address == WINDOW + PAGE
    with pytest.raises(AccessDenied, match=r"where a file is mapped r--$"):
        memory.write(WINDOW + 2 * PAGE, b"x")
    with pytest.raises((AccessDenied, MemoryFault)):
        memory.write(WINDOW + 2 * PAGE, b"x", force=True)
    assert memory.read(WINDOW, PAGE) == memory.read(WINDOW + 2 * PAGE, PAGE) == b"\x01" * PAGE
    with pytest.raises(AccessDenied, match=r"where no file is mapped$"):
        memory.read(WINDOW + 3 * PAGE, 1)


def test_unmapping_cuts_and_splits(memory: GuestMemory, file: BinaryIO) -> None:
    window = memory.dax_window("fs0")
    window.map_file(0, file, 0, 16 * PAGE)
    window.unmap(4 * PAGE, 4 * PAGE)
    assert [mapping[:3] for mapping in window.mappings] == [(0, 4 * PAGE, 0), (8 * PAGE, 8 * PAGE, 8 * PAGE)]
    assert memory.read(WINDOW + 8 * PAGE, 1) == b"\x09"
    with pytest.raises(AccessDenied):
        memory.read(WINDOW + 4 * PAGE, 1)
    window.map_file(4 * PAGE, file, 0, PAGE)
    window.unmap(0, SIZE)
    assert window.mappings == ()
    assert not maps_of(file.name)


def test_bad_requests_change_nothing(memory: GuestMemory, file: BinaryIO, tmp_path: Path) -> None:
    window = memory.dax_window("fs0")
    window.map_file(0, file, 0, 2 * PAGE)
    before = window.mappings
    for offset, size in [
        (0, PAGE),
        (PAGE, 4 * PAGE),
        (SIZE, PAGE),
        (SIZE - PAGE, 2 * PAGE),
        (3 * PAGE, 0),
        ((1 << 64) - PAGE, PAGE),
    ]:
        with pytest.raises(InvalidAddressRange):
            window.map_file(offset, file, 0, size)
    for offset, at, size in [(1, 0, PAGE), (4 * PAGE, 1, PAGE), (4 * PAGE, 0, 1)]:
        with pytest.raises(Misaligned):
            window.map_file(offset, file, at, size)
    with (tmp_path / "dax-file").open("rb") as read_only, pytest.raises(BackingError) as raised:
        window.map_file(4 * PAGE, read_only, 0, PAGE, "rw-")
    assert raised.value.errno == 13
    read, write = os.pipe()
    with pytest.raises(BackingError):
        window.map_file(4 * PAGE, read, 0, PAGE)
    os.close(read)
    os.close(write)
    with pytest.raises(InvalidAddressRange):
        window.unmap(0, SIZE + PAGE)
    assert window.mappings == before
    with pytest.raises(AccessDenied):
        memory.read(WINDOW + 4 * PAGE, 1)
    with pytest.raises(InvalidArgument, match="not a DAX window"):
        memory.dax_window(0)


def test_what_the_file_does_not_have_is_a_fault(memory: GuestMemory, file: BinaryIO) -> None:
    window = memory.dax_window("fs0")
    window.map_file(0, file, 15 * PAGE, 4 * PAGE)
    assert memory.read(WINDOW, PAGE) == b"\x10" * PAGE
    with pytest.raises(MemoryFault):
        memory.read(WINDOW + PAGE, 1)
    os.ftruncate(file.fileno(), 0)
    with pytest.raises(MemoryFault):
        memory.read(WINDOW, 1)
    with pytest.raises(MemoryFault):
        memory.write_u64(WINDOW, 1)


def test_a_view_holds_its_part(memory: GuestMemory, file: BinaryIO) -> None:
    window = memory.dax_window("fs0")
    window.map_file(0, file, 0, 2 * PAGE)
    view = memory.view(WINDOW, PAGE, unguarded=True)
    assert view[0] == 1
    with pytest.raises(RegionBusy):
        window.unmap(0, PAGE)
    window.unmap(PAGE, PAGE)
    view.release()
    window.unmap(0, PAGE)


def test_a_window_ends_with_its_region(space: AddressSpace, memory: GuestMemory, file: BinaryIO) -> None:
    window = memory.dax_window("fs0")
    window.map_file(0, file, 0, PAGE)
    region = space["fs0"]
    space.replace_region("fs0", region.replace(name="fs1"))
    window.map_file(PAGE, file, 0, PAGE)
    space.remove_region("fs1")
    assert not maps_of(file.name)
    space.insert_region(region)
    with pytest.raises(NotMapped, match="removed"):
        window.map_file(0, file, 0, PAGE)
    with pytest.raises(NotMapped, match="removed"):
        window.unmap(0, PAGE)
    assert window.mappings == ()
    memory.close()
    with pytest.raises(NotMapped):
        window.unmap(0, PAGE)


def test_a_replacement_leaves_the_protection_of_the_files(
    space: AddressSpace, memory: GuestMemory, file: BinaryIO
) -> None:
    memory.dax_window("fs0").map_file(0, file, 0, PAGE, "r--")
    region = space["fs0"]
    with pytest.raises(InvalidArgument, match="prot_flags="):
        region.replace(prot_flags="rw-")
    space.replace_region("fs0", region.replace(name="fs1"))
    assert protection(memory.host_address(region.base))[:2] == "r-"
    with pytest.raises(AccessDenied):
        memory.write(region.base, b"x")


def test_windows_are_not_discarded(memory: GuestMemory, file: BinaryIO) -> None:
    memory.dax_window("fs0").map_file(0, file, 0, PAGE)
    with pytest.raises(Unsupported, match="unmap"):
        memory.discard(WINDOW, PAGE)


def test_looks_at_a_window_wait_for_no_change_of_it(regions: list[AddressSpaceRegion], file: BinaryIO) -> None:
    """The change is held up in the kernel: it unmaps pages, and nobody reads the event of that."""

    def look() -> None:
        _, memory = mapped(*regions)
        window = memory.dax_window("fs0")
        handler = register(memory.host_address(WINDOW), SIZE, EVENT_UNMAP)
        change = threading.Thread(target=window.map_file, args=(0, file, 0, PAGE))
        change.start()
        handler.wait()
        with pytest.raises(AccessDenied):
            memory.read(WINDOW + PAGE, 8)
        assert window.mappings == ()
        assert "0 mappings" in repr(window)
        os.read(handler.fd, MESSAGE)
        change.join()
        assert memory.read(WINDOW, 1) == b"\1"
        os.close(handler.fd)  # or the end of the memory would wait, too

    in_child(look, timeout=20)


def test_children_share_it(memory: GuestMemory, file: BinaryIO) -> None:
    memory.dax_window("fs0").map_file(0, file, 0, PAGE)

    def child() -> None:
        memory.write(WINDOW, b"child")

    in_child(child)
    assert memory.read(WINDOW, 5) == b"child"


PAGES = 12
steps = st.lists(
    st.tuples(st.booleans(), st.integers(0, PAGES - 1), st.integers(1, 6), st.integers(0, 10)), max_size=25
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_any_order_is_what_a_list_of_pages_says(steps: list[tuple[bool, int, int, int]], file: BinaryIO) -> None:
    _, memory = mapped(AddressSpaceRegion.create_dax_region(WINDOW, PAGES * PAGE, name="fs0"))
    window = memory.dax_window("fs0")
    model: list[int | None] = [None] * PAGES
    for is_map, first, most, at in steps:
        count = min(most, PAGES - first)
        if not is_map:
            window.unmap(first * PAGE, count * PAGE)
            model[first : first + count] = [None] * count
        elif any(page is not None for page in model[first : first + count]):
            with pytest.raises(InvalidAddressRange):
                window.map_file(first * PAGE, file, at * PAGE, count * PAGE, "r--")
        else:
            window.map_file(first * PAGE, file, at * PAGE, count * PAGE, "r--")
            model[first : first + count] = [at + index + 1 for index in range(count)]
    for page, expected in enumerate(model):
        if expected is None:
            with pytest.raises(AccessDenied):
                memory.read(WINDOW + page * PAGE, 1)
        else:
            assert memory.read(WINDOW + page * PAGE, PAGE) == bytes([expected]) * PAGE
    assert sum(mapping.size for mapping in window.mappings) == PAGE * sum(page is not None for page in model)
    memory.close()
