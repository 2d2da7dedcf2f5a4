"""Looking at memory that no one has written does not allocate it."""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from children import in_child
from dbs_address_space import AddressSpaceRegion, BytePattern, GuestMemory
from host import huge_pages
from kernel_view import resident
from memory_helpers import GIB, MIB, PAGE, blocks, libc, mapped, ram
from verbs import OTHER, VERBS, Verb

AT = GIB
SIZE = 128 * MIB
LOOKS = [verb for verb in VERBS if verb.touches and not verb.writes and verb.kind != "atomic"]
Scan = Callable[[GuestMemory, int, int], object]


def search_for_zeroes(memory: GuestMemory, addr: int, size: int) -> object:
    return list(memory.search(bytes(PAGE), addr, addr + size, align=PAGE, limit=3))


def search_for_a_pattern(memory: GuestMemory, addr: int, size: int) -> object:
    return list(memory.search(BytePattern("?1 2?"), addr, addr + size))


def compare_with_zeroes(memory: GuestMemory, addr: int, size: int) -> object:
    return memory.compare(addr, bytes(size))


def write_to_null(memory: GuestMemory, addr: int, size: int) -> object:
    with Path("/dev/null").open("wb") as null:
        return memory.write_to(null, addr, size)


def write_to_pipe(memory: GuestMemory, addr: int, size: int) -> object:
    reader, writer = os.pipe()
    memory.write_to(writer, addr + size - PAGE, PAGE)
    os.close(writer)
    os.close(reader)
    return None


SCANS: dict[str, Scan] = {
    **{str(verb): verb for verb in LOOKS if verb.sparse},
    "search for zeroes": search_for_zeroes,
    "search for a pattern": search_for_a_pattern,
    "compare with zeroes": compare_with_zeroes,
    "write_to null": write_to_null,
    "write_to pipe": write_to_pipe,
}


@pytest.fixture
def regions() -> list[AddressSpaceRegion]:
    return [ram(OTHER, SIZE), ram(AT, SIZE)]


@pytest.mark.parametrize("verb", LOOKS, ids=str)
def test_a_look_allocates_as_it_says(memory: GuestMemory, verb: Verb) -> None:
    verb(memory, AT, verb.fitting(MIB))
    assert (blocks(memory, AT) == 0) == verb.sparse


@pytest.mark.parametrize("scan", SCANS)
def test_a_scan_of_an_empty_memfd_leaves_it_empty(memory: GuestMemory, scan: str) -> None:
    SCANS[scan](memory, AT, SIZE)
    assert blocks(memory, AT) == 0


@pytest.mark.parametrize("scan", SCANS)
def test_a_scan_allocates_nothing_beside_what_is_there(memory: GuestMemory, scan: str) -> None:
    written = [0, MIB + 5, 64 * MIB - 1, 64 * MIB, SIZE - 1]
    for at in written:
        memory.write_u8(AT + at, 0xFF)
    before = blocks(memory, AT)
    assert before == 8 * len(written)
    SCANS[scan](memory, AT, SIZE)
    assert blocks(memory, AT) == before


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("offset", [0, 1, PAGE - 1, 3 * PAGE])
def test_a_scan_of_a_sparse_file_leaves_it_sparse(scan: str, offset: int) -> None:
    file = os.memfd_create("sparse")
    os.ftruncate(file, SIZE + offset)
    _, memory = mapped(AddressSpaceRegion.from_file(0, SIZE, file, offset))
    memory.write_u8(5 * MIB, 1)
    before = os.fstat(file).st_blocks
    SCANS[scan](memory, 0, SIZE)
    assert os.fstat(file).st_blocks == before
    os.close(file)


@pytest.mark.parametrize("scan", SCANS)
def test_a_scan_of_anonymous_memory_makes_nothing_resident(scan: str) -> None:
    size = 32 * MIB
    _, memory = mapped(ram(0, size, mem_type="mmap"))
    SCANS[scan](memory, 0, size)
    before = resident()
    SCANS[scan](memory, 0, size)
    assert resident() - before < size // 2


def take_back_by_discard(memory: GuestMemory) -> None:
    memory.discard(AT + MIB, MIB)


def take_back_in_a_child(memory: GuestMemory) -> None:
    in_child(lambda: memory.discard(AT + MIB, MIB))


def take_back_by_descriptor(memory: GuestMemory) -> None:
    fd = memory.mapping(AT).fd
    assert fd is not None
    punch = 3  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
    assert libc.fallocate(fd, punch, ctypes.c_long(MIB), ctypes.c_long(MIB)) == 0


@pytest.mark.parametrize("take_back", [take_back_by_discard, take_back_in_a_child, take_back_by_descriptor])
@pytest.mark.parametrize("scan", [str(verb) for verb in LOOKS if verb.sparse])
def test_what_was_there_is_not_taken_for_granted(
    memory: GuestMemory, scan: str, take_back: Callable[[GuestMemory], None]
) -> None:
    memory.fill(AT, 4 * MIB, 1)
    for at in range(0, 4 * MIB, 64 * PAGE):
        SCANS[scan](memory, AT + at, PAGE)
    take_back(memory)
    for at in range(0, 4 * MIB, PAGE):
        SCANS[scan](memory, AT + at, PAGE)
    assert blocks(memory, AT) == 3 * MIB // 512


@pytest.mark.parametrize("scan", [str(verb) for verb in LOOKS if verb.sparse])
def test_a_small_scan_of_written_memory_asks_the_kernel_once(memory: GuestMemory, scan: str) -> None:
    def calls() -> int:
        return int(Path("/proc/self/io").read_text().split("syscr: ")[1].split()[0])

    memory.fill(AT, MIB, 1)
    SCANS[scan](memory, AT, PAGE)
    before = calls()
    for at in range(0, 64 * PAGE, PAGE):
        SCANS[scan](memory, AT + at, PAGE)
    assert calls() - before < 8


@pytest.mark.parametrize("verb", [verb for verb in LOOKS if verb.sparse], ids=str)
def test_a_scan_of_huge_pages_takes_none(verb: Verb) -> None:
    with huge_pages(4) as size, mapped(ram(AT, 4 * size, mem_type="hugeshmem"))[1] as memory:
        verb(memory, AT, 4 * size)
        assert blocks(memory, AT) == 0
