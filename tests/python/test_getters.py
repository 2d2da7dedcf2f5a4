"""Getters and frequent queries call no Python code: at the interpreter's end a thread inside such a call could not come back."""

import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from dbs_address_space import (
    AddressSpaceBuilder,
    AddressSpaceError,
    AddressSpacePlan,
    BackingOptions,
    DirtyPages,
    PreallocHandle,
)
from memory_helpers import PAGE

MAKE_A_NAMED_TUPLE = {(PreallocHandle, "report"), (AddressSpacePlan, "cost")}
"""Getters that are asked once, whose value is a class in Python."""


def python_calls(work: Callable[[], object]) -> list[str]:
    """The Python functions that are entered below."""
    calls = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename != __file__:
            calls.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        work()
    except AddressSpaceError:
        # The getter of something that is not there.
        calls.clear()
    finally:
        sys.setprofile(None)
    return calls


def handles() -> Iterator[object]:
    """One of each class that has getters."""
    space = AddressSpaceBuilder(numa_regions=["4MiB"], dax_window="2MiB").build()
    memory = space.memory
    yield from (space, memory, space.snapshot(), *space.regions, *memory.mappings(), space.layout)
    yield from (space.reserve("4KiB", owner="getters"), space.request_unplug(0), space.subscribe(repr))
    yield from (space.transaction(), memory.pin(0, 8), memory.prealloc(background=True), memory.open())
    yield from (AddressSpaceBuilder(numa_regions=["4MiB"]).plan(), BackingOptions(), DirtyPages([(0, PAGE)]))


def getters(handle: object) -> list[str]:
    members = ((name, getattr(type(handle), name)) for name in dir(type(handle)) if not name.startswith("_"))
    return [name for name, member in members if not callable(member)]


def test_getters_call_no_python_code() -> None:
    found: dict[tuple[str, str], Any] = {}
    count = 0
    for handle in handles():
        for name in getters(handle):
            if type(handle).__module__ == "dbs_address_space" and (type(handle), name) not in MAKE_A_NAMED_TUPLE:
                # The first time it may import, and make the members of an enum.
                python_calls(lambda: getattr(handle, name))  # noqa: B023
                count += 1
                if calls := python_calls(lambda: getattr(handle, name)):  # noqa: B023
                    found[type(handle).__name__, name] = calls
    assert found == {}
    assert count >= 100


def test_queries_call_no_python_code() -> None:
    space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    memory = space.memory
    queries: list[Callable[[], object]] = [
        lambda: space.prot_flags(0),
        lambda: space.find_region(0),
        lambda: space.is_dax_region(0),
        lambda: space.numa_node_id(0),
        space.ranges,
        space.gaps,
        lambda: space.overlapping(0, PAGE),
        lambda: 0 in space,
        lambda: list(space),
        lambda: memory.read(0, 8),
        lambda: memory.read_u64(0),
    ]
    for query in queries:
        query()
        assert python_calls(query) == []


def test_members_are_those_of_the_enums() -> None:
    space = AddressSpaceBuilder(numa_regions=["4MiB"], dax_window="2MiB").build()
    for region in [*space.regions, *space.regions]:
        for value in (region.region_type, region.mem_type, region.prot_flags, region.perm_flags):
            assert value is None or value is type(value)(value.value)
