"""Every write of ours marks the pages that it touched, and nothing else does."""

import threading

import pytest
from dbs_address_space import AddressSpace, RegionBusy
from memory_helpers import GIB, MIB, PAGE, drain, mapped, ram, track
from verbs import OTHER, VERBS, Verb

SIZE = 256 * PAGE
AT = GIB
JOINT = AT + SIZE
WRITES = [verb for verb in VERBS if verb.writes and not verb.widths]
INTEGERS = [verb for verb in VERBS if verb.writes and 8 in verb.widths]
READS = [verb for verb in VERBS if verb.ranged and not verb.writes]


@pytest.fixture(params=["shmem", "mmap"])
def space(request: pytest.FixtureRequest) -> AddressSpace:
    space, memory = mapped(ram(OTHER, SIZE), *(ram(base, SIZE, mem_type=request.param) for base in (AT, JOINT)))
    track(memory)
    return space


@pytest.mark.parametrize("verb", WRITES, ids=str)
@pytest.mark.parametrize(("at", "size"), [(0, 1), (PAGE - 1, 2), (63 * PAGE, 2 * PAGE), (7 * PAGE + 5, 65 * PAGE)])
def test_a_write_marks_its_pages(space: AddressSpace, verb: Verb, at: int, size: int) -> None:
    verb(space.memory, AT + at, size)
    first, last = at // PAGE, (at + size - 1) // PAGE
    assert drain(space.memory) == [(AT + first * PAGE, (last - first + 1) * PAGE)]
    assert drain(space.memory) == []


@pytest.mark.parametrize("verb", [verb for verb in WRITES if not verb.contiguous], ids=str)
def test_a_write_over_a_joint_marks_both_sides(space: AddressSpace, verb: Verb) -> None:
    verb(space.memory, JOINT - 8, 16)
    assert drain(space.memory) == [(JOINT - PAGE, 2 * PAGE)]


@pytest.mark.parametrize("verb", INTEGERS, ids=str)
def test_an_integer_marks_its_page(space: AddressSpace, verb: Verb) -> None:
    verb(space.memory, AT + 9 * PAGE + 16, 8)
    assert drain(space.memory) == [(AT + 9 * PAGE, PAGE)]


@pytest.mark.parametrize("verb", READS, ids=str)
def test_a_read_marks_nothing(space: AddressSpace, verb: Verb) -> None:
    verb(space.memory, AT, verb.fitting(SIZE))
    assert [pages for pages in drain(space.memory) if pages[0] >= AT] == []


def test_a_long_write_marks_its_pages() -> None:
    space, memory = mapped(ram(0, 16 * MIB))
    track(memory)
    memory.write(PAGE, bytes(8 * MIB))
    memory.fill(12 * MIB, 4 * MIB)
    assert drain(space.memory) == [(PAGE, 8 * MIB), (12 * MIB, 4 * MIB)]


def test_what_is_held_for_writing_counts_each_time(space: AddressSpace) -> None:
    memory = space.memory
    held = [(AT + 3 * PAGE, PAGE), (AT + 8 * PAGE, PAGE)]
    with memory.view(AT + 3 * PAGE, 10), memory.pin(AT + 8 * PAGE, 1):
        for _ in range(3):
            assert drain(memory) == held
    assert drain(memory) == held
    assert drain(memory) == []


def test_a_forced_write_is_a_write() -> None:
    space, memory = mapped(ram(0, name="rom", prot_flags="r--"))
    track(memory)
    memory.write(0, b"rom", force=True)
    assert drain(space.memory) == [(0, PAGE)]


def test_a_refused_write_marks_nothing(space: AddressSpace) -> None:
    with pytest.raises(LookupError):
        space.memory.write(JOINT + SIZE - 4, bytes(8))
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
    dimm = 2 * GIB
    space.insert_region(ram(dimm, 4 * PAGE, name="dimm"))
    space.memory.write_u8(dimm + PAGE, 1)
    assert drain(space.memory) == [(dimm + PAGE, PAGE)]
    space.replace_region("dimm", space["dimm"].replace(name="dimm0"))
    space.memory.write_u8(dimm, 1)
    assert drain(space.memory) == [(dimm, PAGE)]


def test_adopted_memory_is_tracked() -> None:
    buffer = bytearray(3 * PAGE)
    region = ram(0).from_buffer(GIB + 1, buffer)
    space, memory = mapped(region)
    track(memory)
    memory.write(GIB + 1 + PAGE, b"x")
    assert drain(space.memory) == [(GIB + PAGE, PAGE)]
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
