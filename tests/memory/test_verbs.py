"""The table of verbs is complete, and every trait in it is true."""

from pathlib import Path

import pytest
from dbs_address_space import (
    AccessDenied,
    AddressSpaceError,
    AddressSpaceRegion,
    GuestMemory,
    NotContiguous,
    UnmappedAddress,
    Unsupported,
)
from memory_helpers import GIB, MIB, PAGE, drain, make_file, numbered, ram, track
from verbs import OTHER, VERBS, Verb, data

AT = GIB
SIZE = 4 * PAGE
JOINT = AT + 2 * PAGE
END = AT + SIZE
FILE, ROM, NONE = 2 * GIB, 3 * GIB, 4 * GIB
RANGED = [verb for verb in VERBS if verb.ranged]


@pytest.fixture
def regions(tmp_path: Path) -> list[AddressSpaceRegion]:
    with make_file(tmp_path / "file", PAGE).open("r+b") as file:
        return [
            ram(OTHER, MIB),
            ram(AT, 2 * PAGE),
            ram(JOINT, 2 * PAGE, mem_type="mmap"),
            AddressSpaceRegion.from_file(FILE, PAGE, file),
            ram(ROM, prot_flags="r--"),
            ram(NONE, prot_flags="---"),
        ]


def refusal(verb: Verb, memory: GuestMemory, addr: int, size: int) -> type[AddressSpaceError] | None:
    try:
        verb(memory, addr, verb.fitting(size))
    except AddressSpaceError as error:
        return type(error)
    return None


def test_every_name_has_a_verb(memory: GuestMemory) -> None:
    # Halves of other verbs, and looked at with those.
    halves = {"__module__", "_save", "_fill", "_write_sparse", "_sender", "_receive"}
    names = {name for name in dir(memory) if name not in halves and not hasattr(object, name)}
    assert {verb.name for verb in VERBS} == names
    assert len({str(verb) for verb in VERBS}) == len(VERBS)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.right], ids=str)
def test_it_does_what_is_right(memory: GuestMemory, verb: Verb) -> None:
    memory.write(OTHER, data(MIB))
    before = bytes(PAGE) + numbered(SIZE - PAGE, 3)
    for size in verb.widths or (1, 3, 8, PAGE, PAGE + 5):
        for at in (0, PAGE) if size <= PAGE or not verb.contiguous else (0,):
            memory.write(AT, before)
            assert verb.right
            result, after = verb.right(before[at : at + size])
            assert verb(memory, AT + at, size) == result
            assert memory.read(AT, SIZE) == before[:at] + after + before[at + size :]


@pytest.mark.parametrize("verb", RANGED, ids=str)
def test_it_needs_what_it_says(memory: GuestMemory, verb: Verb) -> None:
    assert (refusal(verb, memory, ROM, PAGE) is AccessDenied) == (verb.needs == "w")
    assert (refusal(verb, memory, NONE, PAGE) is AccessDenied) == (verb.needs != "")


@pytest.mark.parametrize("verb", RANGED, ids=str)
def test_it_takes_the_memory_that_it_says(memory: GuestMemory, verb: Verb) -> None:
    assert (refusal(verb, memory, FILE, PAGE) is Unsupported) == verb.direct
    assert (refusal(verb, memory, JOINT - 4, 8) is NotContiguous) == verb.contiguous
    crossing = END if verb.widths or verb.kind == "query" else END - 4
    assert (refusal(verb, memory, crossing, PAGE) is UnmappedAddress) == (not verb.holes)


@pytest.mark.parametrize("verb", RANGED, ids=str)
def test_it_marks_what_it_writes(memory: GuestMemory, verb: Verb) -> None:
    track(memory)
    verb(memory, AT, verb.fitting(PAGE))
    assert ((AT, PAGE) in drain(memory)) == verb.writes
