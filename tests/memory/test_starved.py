"""Work on more than there is memory for ends in `MemoryError`, whatever it is that needs the room."""

import resource
from pathlib import Path

import pytest
from children import in_child
from dbs_address_space import AddressSpaceError
from memory_helpers import GIB, MIB, PAGE, mapped, ram
from verbs import OTHER, VERBS, Verb, data

SIZE = 64 * MIB
LEFT = 16 * MIB


def starve() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
    resource.setrlimit(resource.RLIMIT_AS, (used + LEFT, resource.RLIM_INFINITY))


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.ranged and not verb.widths], ids=str)
def test_no_verb_ends_the_process(verb: Verb) -> None:
    def child() -> None:
        _, memory = mapped(ram(OTHER, SIZE), ram(GIB, SIZE))
        for at in range(0, SIZE, MIB):
            memory.write(GIB + at, data(MIB))
        starve()
        try:
            verb(memory, GIB, SIZE)
        except (MemoryError, AddressSpaceError, OSError):
            return

    in_child(child)


def test_results_of_rust_are_memory_errors() -> None:
    def child() -> None:
        _, memory = mapped(ram(GIB, SIZE))
        for at in range(0, SIZE, MIB):
            memory.write(GIB + at, data(MIB))
        starve()
        with pytest.raises(MemoryError):
            memory.hexdump(GIB, SIZE)
        with pytest.raises(MemoryError):
            memory.read_c_string(GIB, SIZE)
        with pytest.raises(MemoryError):
            memory.read(GIB, SIZE)
        assert memory.read(GIB, PAGE) == data(PAGE)

    in_child(child)
