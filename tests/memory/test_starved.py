"""Work on more than there is memory for ends in `MemoryError`, whatever it is that needs the room."""

import itertools
import pickle
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from children import in_child
from dbs_address_space import (
    AddressSpace,
    AddressSpaceError,
    AddressSpaceLayout,
    BackingOptions,
    BytePattern,
    DirtyPages,
    GuestMemory,
    NumaNode,
    tables,
)
from memory_helpers import GIB, LAYOUT, MIB, PAGE, mapped, ram
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


MANY = 1 << 20
LARGE = bytes(12 * MIB)
TEXT = "00" * (4 * MIB)
MIXED = "0?" * (4 * MIB) + "11"
SCATTERED = range(0, 200_000 * PAGE * 64, 2 * 64 * PAGE)
CHOSEN: dict[str, Callable[[GuestMemory], object]] = {
    "readv of a list": lambda memory: memory.readv([(GIB, 0)] * MANY),
    "readv of an array": lambda memory: memory.readv(np.full(2 * MANY, GIB, "<u8")),
    "readv without end": lambda memory: memory.readv(itertools.repeat((GIB, 0))),
    "readv_into": lambda memory: memory.readv_into([(GIB, 8)] * MANY, bytearray(8 * MANY)),
    "readv_into without end": lambda memory: memory.readv_into(itertools.repeat((GIB, 0)), bytearray(8)),
    "writev": lambda memory: memory.writev([(GIB, b"")] * (MANY // 4)),
    "writev without end": lambda memory: memory.writev(itertools.repeat((GIB, b""))),
    "search for much": lambda memory: list(memory.search(LARGE, GIB, limit=3)),
    "search for zeroes": lambda memory: sum(1 for _ in memory.search(bytes(2), GIB + 1, GIB + MIB)),
    "BytePattern": lambda memory: list(memory.search(BytePattern(TEXT), GIB, GIB + SIZE)),
    "BytePattern as text": lambda _: [
        repr(BytePattern(MIXED)),
        str(BytePattern(MIXED)),
        pickle.dumps(BytePattern(MIXED)),
    ],
    "pack": lambda memory: memory.pack(GIB, f"{MANY}B", *b"\1" * MANY),
    "a tracker": lambda memory: memory.dirty.start("api"),
    "DirtyPages of many": lambda _: DirtyPages([(at, PAGE) for at in SCATTERED]),
    "DirtyPages without end": lambda _: DirtyPages(itertools.repeat((0, PAGE))),
    "sources": lambda _: DirtyPages(sources=["kvm"] * MANY),
    "a bitmap": lambda _: DirtyPages([(0, 1 << 45)]).bitmap(0, 1 << 45),
    "regions without end": lambda _: AddressSpace.from_regions(itertools.repeat(ram(0)), LAYOUT),
    "seals without end": lambda _: BackingOptions(seals=itertools.repeat("seal")),
    "CPUs without end": lambda _: NumaNode(vcpu_ids=itertools.count()),
    "distances without end": lambda _: tables.slit(itertools.repeat(itertools.repeat(10))),
    "windows without end": lambda _: AddressSpaceLayout(1 << 46, 0, 1 << 45, mmio_windows=itertools.repeat((0, PAGE))),
    "a name": lambda _: ram(0, name="n" * (12 * MIB)),
}
"""Calls that need as much memory as a caller chose."""


@pytest.mark.parametrize("call", CHOSEN)
def test_no_size_that_a_caller_chose_ends_the_process(call: str) -> None:
    def child() -> None:
        _, memory = mapped(ram(OTHER, SIZE), ram(GIB, SIZE), ram(8 * GIB, 1 << 40))
        memory.fill(GIB, SIZE, 1)
        starve()
        with suppress(MemoryError, AddressSpaceError, OSError):
            CHOSEN[call](memory)
        assert memory.read(GIB, 8) == b"\1" * 8

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
