"""Every write of ours marks the pages that it touched, and nothing else does."""

import threading
from collections.abc import Callable

import pytest
from bytes_helpers import drain, track
from dbs_address_space import AddressSpace, GuestMemory, RegionBusy
from memory_helpers import GIB, MIB, PAGE, mapped, ram

SIZE = 256 * PAGE
JOINT = SIZE
Write = Callable[[GuestMemory, int, int], object]


def read_from(memory: GuestMemory, addr: int, size: int) -> None:
    import tempfile  # noqa: PLC0415

    with tempfile.TemporaryFile() as file:
        file.write(bytes(size))
        file.seek(0)
        memory.read_from(file, addr, size)


def through_file(memory: GuestMemory, addr: int, size: int) -> None:
    with memory.open("r+b") as file:
        file.seek(addr)
        file.write(bytes(size))


def through_view(memory: GuestMemory, addr: int, size: int) -> None:
    with memory.view(addr, size) as view:
        view[:] = bytes(size)


def through_pin(memory: GuestMemory, addr: int, size: int) -> None:
    with memory.pin(addr, size):
        pass


RANGES: dict[str, Write] = {
    "write": lambda memory, addr, size: memory.write(addr, bytes(size)),
    "fill": lambda memory, addr, size: memory.fill(addr, size, 1),
    "copy": lambda memory, addr, size: memory.copy(addr, 200 * PAGE, size),
    "pack": lambda memory, addr, size: memory.pack(addr, f"{size}s", b"x"),
    "writev": lambda memory, addr, size: memory.writev([(addr, bytes(size))]),
    "read_from": read_from,
    "open": through_file,
    "view": through_view,
    "pin": through_pin,
}
INTEGERS: dict[str, Callable[[GuestMemory, int], object]] = {
    "write_u8": lambda memory, addr: memory.write_u8(addr, 1),
    "write_u64": lambda memory, addr: memory.write_u64(addr, 1),
    "store": lambda memory, addr: memory.store(addr, 1),
    "swap": lambda memory, addr: memory.swap(addr, 1),
    "fetch_add": lambda memory, addr: memory.fetch_add(addr, 1),
    "fetch_xor": lambda memory, addr: memory.fetch_xor(addr, 1),
    "compare_exchange": lambda memory, addr: memory.compare_exchange(addr, 0, 1),
}
READS: dict[str, Callable[[GuestMemory], object]] = {
    "read": lambda memory: memory.read(0, SIZE),
    "read_u64": lambda memory: memory.read_u64(0),
    "load": lambda memory: memory.load(0),
    "search": lambda memory: list(memory.search(b"none")),
    "hash": lambda memory: memory.hash(0, SIZE),
    "compare": lambda memory: memory.compare(0, bytes(SIZE)),
    "find_zero_pages": lambda memory: memory.find_zero_pages(),
    "hexdump": lambda memory: memory.hexdump(0, SIZE),
    "read-only view": lambda memory: memory.view(0, SIZE, writable=False).release(),
}


@pytest.fixture(params=["shmem", "mmap"])
def space(request: pytest.FixtureRequest) -> AddressSpace:
    space, memory = mapped(ram(0, SIZE, mem_type=request.param), ram(JOINT, SIZE, mem_type=request.param))
    track(memory)
    return space


@pytest.mark.parametrize("verb", RANGES)
@pytest.mark.parametrize(("addr", "size"), [(0, 1), (PAGE - 1, 2), (63 * PAGE, 2 * PAGE), (7 * PAGE + 5, 65 * PAGE)])
def test_a_write_marks_its_pages(space: AddressSpace, verb: str, addr: int, size: int) -> None:
    RANGES[verb](space.memory, addr, size)
    first, last = addr // PAGE, (addr + size - 1) // PAGE
    assert drain(space.memory) == [(first * PAGE, (last - first + 1) * PAGE)]
    assert drain(space.memory) == []


@pytest.mark.parametrize("verb", [verb for verb in RANGES if verb not in ("view", "pin")])
def test_a_write_over_a_joint_marks_both_sides(space: AddressSpace, verb: str) -> None:
    RANGES[verb](space.memory, JOINT - 8, 16)
    assert drain(space.memory) == [(JOINT - PAGE, PAGE), (JOINT, PAGE)]


@pytest.mark.parametrize("verb", INTEGERS)
def test_an_integer_marks_its_page(space: AddressSpace, verb: str) -> None:
    INTEGERS[verb](space.memory, 9 * PAGE + 16)
    assert drain(space.memory) == [(9 * PAGE, PAGE)]


@pytest.mark.parametrize("verb", READS)
def test_a_read_marks_nothing(space: AddressSpace, verb: str) -> None:
    READS[verb](space.memory)
    assert drain(space.memory) == []


def test_a_long_write_marks_its_pages() -> None:
    space, memory = mapped(ram(0, 16 * MIB))
    track(memory)
    memory.write(PAGE, bytes(8 * MIB))
    memory.fill(12 * MIB, 4 * MIB)
    assert drain(space.memory) == [(PAGE, 8 * MIB), (12 * MIB, 4 * MIB)]


def test_what_is_held_for_writing_counts_each_time(space: AddressSpace) -> None:
    memory = space.memory
    with memory.view(3 * PAGE, 10), memory.pin(8 * PAGE, 1):
        for _ in range(3):
            assert drain(memory) == [(3 * PAGE, PAGE), (8 * PAGE, PAGE)]
    assert drain(memory) == [(3 * PAGE, PAGE), (8 * PAGE, PAGE)]
    assert drain(memory) == []


def test_a_forced_write_is_a_write() -> None:
    space, memory = mapped(ram(0, name="rom", prot_flags="r--"))
    track(memory)
    memory.write(0, b"rom", force=True)
    assert drain(space.memory) == [(0, PAGE)]


def test_a_refused_write_marks_nothing(space: AddressSpace) -> None:
    with pytest.raises(LookupError):
        space.memory.write(2 * SIZE - 4, bytes(8))
    assert drain(space.memory) == []


def test_off_is_off(space: AddressSpace) -> None:
    memory = space.memory
    memory.write(0, b"x")
    track(memory, is_tracked=False)
    memory.write_u64(PAGE, 1)
    assert drain(memory) == []


def test_a_new_start_forgets_what_was_marked_before(space: AddressSpace) -> None:
    memory = space.memory
    memory.write(0, b"x")
    track(memory, is_tracked=False)
    track(memory)
    assert drain(memory) == []
    memory.write(PAGE, b"x")
    track(memory)
    assert drain(memory) == [(PAGE, PAGE)]


def test_a_hotplugged_region_is_tracked_from_its_first_write(space: AddressSpace) -> None:
    space.insert_region(ram(GIB, 4 * PAGE, name="dimm"))
    space.memory.write_u8(GIB + PAGE, 1)
    assert drain(space.memory) == [(GIB + PAGE, PAGE)]
    space.replace_region("dimm", space["dimm"].replace(name="dimm0"))
    space.memory.write_u8(GIB, 1)
    assert drain(space.memory) == [(GIB, PAGE)]


def test_adopted_memory_is_tracked() -> None:
    buffer = bytearray(3 * PAGE)
    region = ram(0).from_buffer(GIB + 1, buffer)
    space, memory = mapped(region)
    track(memory)
    memory.write(GIB + 1 + PAGE, b"x")
    assert drain(space.memory) == [(GIB + 1 + PAGE, PAGE)]
    with pytest.raises(RegionBusy), memory.view(GIB + 1, 1, unguarded=True):
        space.remove_region(GIB + 1)


def test_no_write_is_lost_between_marks_and_drains() -> None:
    """A writer counts up in one page after the other; whatever a drain has not shown yet is shown by a later one."""
    _, memory = mapped(ram(0, SIZE))
    track(memory)
    done = threading.Event()
    rounds = 30_000

    def write() -> None:
        for count in range(1, rounds + 1):
            memory.write_u64(count % 64 * PAGE, count)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = dict.fromkeys(range(64), 0)
    is_last = False
    while not is_last:
        is_last = done.is_set()
        for base, size in drain(memory):
            for page in range(base // PAGE, (base + size) // PAGE):
                seen[page] = memory.read_u64(page * PAGE)
    writer.join()
    assert seen == {page: memory.read_u64(page * PAGE) for page in range(64)}
