"""Between two looks at the interrupt the work is bounded, whatever a caller gives: Ctrl-C ends it midway."""

import itertools
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from children import in_child
from dbs_address_space import (
    AddressSpaceBase,
    AddressSpaceBuilder,
    AddressSpaceLayout,
    AddressSpacePlan,
    AddressSpaceRegion,
    BytePattern,
    DirtyPages,
    GuestMemory,
    NumaRegionInfo,
)
from dbs_address_space.formats.json_text import parsed
from interrupts import interrupted
from memory_helpers import GIB, MIB, PAGE, mapped, ram
from verbs import VERBS

AT = 16 * GIB
MANY = 1 << 19
NEEDLE = 64 << 10
ENDLESS = itertools.repeat((AT, 0))

WORK: dict[str, Callable[[GuestMemory], object]] = {
    "search where each place nearly matches": lambda memory: next(
        memory.search(BytePattern("00" * NEEDLE + "?1")), None
    ),
    "search without a fixed byte": lambda memory: next(memory.search(BytePattern("0?" * NEEDLE + "?1")), None),
    "search for what is never aligned": lambda memory: next(memory.search(bytes(NEEDLE), AT + 1, align=1 << 60), None),
    "search for much": lambda memory: list(memory.search(bytes(GIB // 2), limit=1 << 40)),
    "search for as much": lambda memory: memory.search(bytes(GIB // 2)),
    "translate": lambda memory: memory.translate(np.zeros(1 << 27, "<u8"), missing="mark"),
    "readv": lambda memory: memory.readv(ENDLESS),
    "readv of a list": lambda memory: memory.readv([(AT, 0)] * (1 << 25)),
    "readv_into": lambda memory: memory.readv_into(ENDLESS, bytearray(8)),
    "writev": lambda memory: memory.writev(itertools.repeat((AT, b""))),
    "read_c_string": lambda memory: memory.read_c_string(AT, GIB),
    "read_many_u64": lambda memory: memory.read_many_u64(np.full(1 << 26, AT, "<u8")),
    "read_many_u64 of ints": lambda memory: memory.read_many_u64(itertools.repeat(AT)),
    "open": lambda memory: [file.read(GIB) for file in [memory.open()] * 100 if file.seek(AT)],
    "pack": lambda memory: list(map(partial(memory.pack, AT), [f"{GIB // 2}s"] * 100, [b""] * 100)),
    "bitmap": lambda _: DirtyPages([(0, 1 << 45)]).bitmap(0, 1 << 45),
}
"""Work that takes seconds at least; that of verbs which are `interruptible` is in `test_long_verbs.py`."""


@pytest.mark.parametrize("work", WORK)
def test_ctrl_c_ends(work: str) -> None:
    def child() -> None:
        _, memory = mapped(ram(AT, GIB, mem_type="mmap"))
        if work == "read_c_string":
            memory.fill(AT, GIB, 1)
        with interrupted():
            WORK[work](memory)

    in_child(child, timeout=20)


def many_sizes() -> AddressSpaceBuilder:
    return AddressSpaceBuilder("q35", phys_bits=52, numa_regions=[NumaRegionInfo("2MiB")] * MANY)


def many_wrong_vcpus() -> AddressSpaceBuilder:
    return AddressSpaceBuilder(numa_regions=[NumaRegionInfo("2MiB", vcpu_ids=range(4 * MANY))])


def many_regions() -> AddressSpaceBase:
    device = AddressSpaceRegion.create_device_region
    layout = AddressSpaceLayout(1 << 46, 0, 0)
    return AddressSpaceBase.from_regions([device(index * 2 * PAGE, PAGE) for index in range(MANY)], layout)


MAPS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "a plan": (many_sizes, AddressSpaceBuilder.plan),
    "a plan's problems": (many_wrong_vcpus, AddressSpaceBuilder.plan),
    "a plan's regions": (lambda: many_sizes().plan(), lambda plan: plan.regions),
    "a plan's text": (lambda: many_sizes().plan(), str),
    "a plan's JSON": (lambda: many_sizes().plan(), AddressSpacePlan.to_json),
    "a map's text": (many_regions, str),
    "a map's regions": (many_regions, lambda base: base.regions),
    "a map's gaps": (many_regions, AddressSpaceBase.gaps),
    "a map's ranges": (many_regions, AddressSpaceBase.ranges),
}


@pytest.mark.parametrize("case", MAPS)
def test_ctrl_c_ends_work_on_many_regions(case: str) -> None:
    make, work = MAPS[case]

    def child() -> None:
        made = make()
        with interrupted(0.001):
            work(made)

    in_child(child, timeout=60)


def test_signals_are_looked_at_between_the_objects_of_json() -> None:
    """They are wherever Python code is called; a text that takes a moment needs none."""
    text = "[" + '{"base": "0x1000"}, ' * 500_000 + "{}]"
    calls: list[str] = []
    sys.setprofile(lambda _frame, event, _called: calls.append(event) if event == "call" else None)
    parsed(text)
    sys.setprofile(None)
    assert len(calls) > len(text) // PAGE


SHORT = {
    "array": "a view",
    "view": "maps nothing",
    "pin": "a lease",
    "slices": "views",
    "aliases": "a walk over regions",
    "load_elf": "a read_from and a fill of each segment",
    "check_range": "a walk over regions",
    "discard": "below, midway",
    "_fill_part": "a part of a region, of zeroes",
    "_discard_part": "as discard",
}
"""Verbs of any size that are not interrupted, and why they need not be."""


def test_every_verb_of_any_size_is_interrupted_somewhere() -> None:
    worked = {name.split()[0] for name in WORK}
    sized = {verb.name for verb in VERBS if verb.sized or verb.long}
    assert sized - {verb.name for verb in VERBS if verb.interruptible} - worked - set(SHORT) == set()


def test_ctrl_c_ends_a_discard_midway() -> None:
    def child() -> None:
        # A GiB takes about as long as two looks.
        _, memory = mapped(ram(AT, 2 * GIB))
        memory.fill(AT, 2 * GIB, 1)
        with interrupted(0.001):
            memory.discard(AT, 2 * GIB)
        assert memory.read_u8(AT) == 0
        assert memory.read_u8(AT + 2 * GIB - 1) == 1

    in_child(child)


def test_a_match_is_given_before_the_next_is_looked_for() -> None:
    def child() -> None:
        _, memory = mapped(ram(AT, 4 * MIB))
        assert next(memory.search(bytes(NEEDLE))) == AT
        assert list(itertools.islice(memory.search(bytes(NEEDLE), AT + 5, align=2), 3)) == [AT + 6, AT + 8, AT + 10]

    in_child(child, timeout=5)
