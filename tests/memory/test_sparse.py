"""Looking at memory that no one has written does not allocate it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bytes_helpers import blocks
from dbs_address_space import AddressSpaceRegion, BytePattern, GuestMemory
from memory_helpers import MIB, PAGE, huge_pages, mapped, ram, resident

SIZE = 256 * MIB
Scan = Callable[[GuestMemory], object]


def write_to_null(memory: GuestMemory) -> object:
    with Path("/dev/null").open("wb") as null:
        return memory.write_to(null, 0, SIZE)


def write_to_pipe(memory: GuestMemory) -> object:
    reader, writer = os.pipe()
    memory.write_to(writer, SIZE - PAGE, PAGE)
    os.close(writer)
    os.close(reader)
    return None


SCANS: dict[str, Scan] = {
    "search": lambda memory: list(memory.search(b"no such bytes")),
    "search for zeroes": lambda memory: list(memory.search(bytes(PAGE), align=PAGE, limit=3)),
    "search for a pattern": lambda memory: list(memory.search(BytePattern("?1 2?"))),
    "compare": lambda memory: memory.compare(0, bytes(SIZE)),
    "hash": lambda memory: memory.hash(0, SIZE),
    "hash of hashlib": lambda memory: memory.hash(0, SIZE, algorithm="sha1"),
    "find_zero_pages": lambda memory: memory.find_zero_pages(),
    "hexdump": lambda memory: memory.hexdump(0, SIZE),
    "write_to file": write_to_null,
    "write_to pipe": write_to_pipe,
}


@pytest.fixture
def memory() -> GuestMemory:
    return mapped(ram(0, SIZE))[1]


def test_a_read_does_allocate(memory: GuestMemory) -> None:
    """What the other tests look at can be seen to change."""
    memory.read(0, MIB)
    assert blocks(memory, 0) == MIB // 512


@pytest.mark.parametrize("scan", SCANS)
def test_a_scan_of_an_empty_memfd_leaves_it_empty(memory: GuestMemory, scan: str) -> None:
    SCANS[scan](memory)
    assert blocks(memory, 0) == 0


@pytest.mark.parametrize("scan", SCANS)
def test_a_scan_allocates_nothing_beside_what_is_there(memory: GuestMemory, scan: str) -> None:
    written = [0, MIB + 5, 128 * MIB - 1, 128 * MIB, SIZE - 1]
    for addr in written:
        memory.write_u8(addr, 0xFF)
    before = blocks(memory, 0)
    assert before == 8 * len(written)
    SCANS[scan](memory)
    assert blocks(memory, 0) == before


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("offset", [0, 1, PAGE - 1, 3 * PAGE])
def test_a_scan_of_a_sparse_file_leaves_it_sparse(scan: str, offset: int) -> None:
    file = os.memfd_create("sparse")
    os.ftruncate(file, SIZE + offset)
    _, memory = mapped(AddressSpaceRegion.from_file(0, SIZE, file, offset))
    memory.write_u8(5 * MIB, 1)
    before = os.fstat(file).st_blocks
    SCANS[scan](memory)
    assert os.fstat(file).st_blocks == before
    os.close(file)


@pytest.mark.parametrize("scan", SCANS)
def test_a_scan_of_anonymous_memory_makes_nothing_resident(scan: str) -> None:
    _, memory = mapped(ram(0, SIZE, mem_type="mmap"))
    SCANS[scan](memory)
    before = resident()
    SCANS[scan](memory)
    assert resident() - before < 64 * MIB


@pytest.fixture
def huge() -> Iterator[GuestMemory]:
    with huge_pages(4) as size, mapped(ram(0, 4 * size, mem_type="hugeshmem"))[1] as memory:
        yield memory


@pytest.mark.parametrize("scan", ["search", "compare", "hash", "find_zero_pages", "hexdump"])
def test_a_scan_of_huge_pages_takes_none(huge: GuestMemory, scan: str) -> None:
    size = huge.regions[0].size
    scans: dict[str, Scan] = SCANS | {
        "compare": lambda memory: memory.compare(0, bytes(size)),
        "hash": lambda memory: memory.hash(0, size),
        "hexdump": lambda memory: memory.hexdump(0, size),
    }
    scans[scan](huge)
    assert blocks(huge, 0) == 0
