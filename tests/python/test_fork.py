"""A forked child: shared memory is shared, private memory a copy, changes are refused, and nothing hangs or dies."""

import ctypes
import mmap
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from children import finish_child, in_child, start_child
from dbs_address_space import (
    MAP_PRIVATE,
    MAP_SHARED,
    AddressSpace,
    ForkedProcess,
    GuestMemory,
    MemoryFault,
    UnmappedAddress,
    Unsupported,
)
from host import huge_pages
from kernel_view import protection
from memory_helpers import GIB, LAYOUT, MIB, PAGE, libc, make_file, mapped, ram
from verbs import OTHER, VERBS, data

SHARED: dict[str, dict[str, Any]] = {
    "memfd": {"mem_type": "shmem"},
    "shared anonymous": {"mem_type": "mmap", "perm_flags": MAP_SHARED},
    "file": {"perm_flags": MAP_SHARED},
}
PRIVATE: dict[str, dict[str, Any]] = {
    "private memfd": {"mem_type": "shmem", "perm_flags": MAP_PRIVATE},
    "anonymous": {"mem_type": "mmap"},
    "private file": {"perm_flags": MAP_PRIVATE},
}

CHANGES: dict[str, Callable[[AddressSpace], object]] = {
    "insert_region": lambda space: space.insert_region(ram(GIB)),
    "remove_region": lambda space: space.remove_region(0),
    "remove_region that waits": lambda space: space.remove_region(0, timeout=None),
    "replace_region": lambda space: space.replace_region(0, space[0].replace(name="new")),
    "split_region": lambda space: space.split_region(0, 8),
    "join_regions": lambda space: space.join_regions(0, 8),
    "grow_region": lambda space: space.grow_region(0, MIB),
    "protect": lambda space: space.protect(0, PAGE, "r--"),
    "move_region": lambda space: space.move_region(0, GIB),
    "transaction": lambda space: space.transaction().__enter__(),
    "map_memory": lambda space: space.map_memory(),
    "close": lambda space: space.memory.close(),
    "wait_for_change": lambda space: space.wait_for_change(space.generation),
}


AT = GIB
SIZE = 2 * PAGE


def memory_of(options: dict[str, Any], directory: Path) -> tuple[AddressSpace, GuestMemory]:
    if "mem_type" in options:
        return mapped(ram(OTHER, SIZE), ram(AT, SIZE, **options))
    with make_file(directory / "file", SIZE).open("r+b") as file:
        return mapped(ram(OTHER, SIZE), ram(AT, SIZE, file=file, **options))


# Bytes.


def all_are_right(memory: GuestMemory) -> None:
    """Does with every verb what it does in the parent, one after the other on the same bytes."""
    there = memory.read(AT, SIZE)
    for verb in VERBS:
        if verb.right and not (verb.direct and memory.mapping(AT).guarded):
            size = verb.fitting(PAGE)
            memory.write(OTHER, data(size))
            result, after = verb.right(there[:size])
            assert verb(memory, AT, size) == result, verb
            there = after + there[size:]
            assert memory.read(AT, SIZE) == there, verb


@pytest.mark.parametrize("options", SHARED.values(), ids=SHARED)
def test_shared_memory_is_shared(options: dict[str, Any], tmp_path: Path) -> None:
    _, memory = memory_of(options, tmp_path)
    memory.write(AT, b"parent")

    def child() -> None:
        assert memory.read(AT, 6) == b"parent"
        all_are_right(memory)
        memory.write(AT + PAGE - 2, b"child")

    in_child(child)
    assert memory.read(AT + PAGE - 2, 5) == b"child"


@pytest.mark.parametrize("options", PRIVATE.values(), ids=PRIVATE)
def test_private_memory_is_a_copy(options: dict[str, Any], tmp_path: Path) -> None:
    _, memory = memory_of(options, tmp_path)
    memory.write(AT, b"parent")

    def child() -> None:
        assert memory.read(AT, 6) == b"parent"
        all_are_right(memory)

    in_child(child)
    assert memory.read(AT, SIZE) == b"parent".ljust(SIZE, b"\0")


def test_atomics_and_long_copies_work_in_a_child() -> None:
    _, memory = mapped(ram(0, 16 * MIB))

    def child() -> None:
        for _ in range(1000):
            memory.fetch_add(8, 1)
        memory.write(MIB, b"\5" * (8 * MIB))
        assert memory.read(0, 16 * MIB).count(5) == 8 * MIB

    in_child(child)
    assert memory.load(8) == 1000
    assert memory.read_u8(9 * MIB - 1) == 5


def test_refusals_are_the_same_in_a_child() -> None:
    _, memory = mapped(ram(OTHER), ram(AT))

    def child() -> None:
        for verb in VERBS:
            if verb.ranged and not verb.holes and verb.name != "discard":
                with pytest.raises(UnmappedAddress) as refused:
                    verb(memory, AT + PAGE, verb.fitting(8))
                assert refused.value.address == AT + PAGE

    in_child(child)


def test_force_works_in_a_child() -> None:
    _, memory = mapped(ram(0, prot_flags="r--"))
    in_child(lambda: memory.write(0, b"rom", force=True))
    assert memory.read(0, 3) == b"rom"


# Changes.


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_are_refused(change: Callable[[AddressSpace], object]) -> None:
    space, memory = mapped(ram(0))
    before = space.snapshot()

    def child() -> None:
        with pytest.raises(ForkedProcess, match="parent process"):
            change(space)
        assert space.snapshot() == before
        assert space.is_mapped
        assert memory.read(0, 4) == bytes(4)

    in_child(child)


def test_a_transaction_that_was_open_is_refused_at_its_end() -> None:
    space = AddressSpace.from_regions([ram(0)], LAYOUT)
    with space.transaction() as change:
        change.insert_region(ram(PAGE))

        def child() -> None:
            assert len(change.insert_region(ram(2 * PAGE))) == 3
            with pytest.raises(ForkedProcess):
                change.__exit__(None, None, None)

        in_child(child)
    assert len(space) == 2


def test_a_child_has_spaces_of_its_own() -> None:
    def child() -> None:
        space, memory = mapped(ram(0))
        space.insert_region(ram(PAGE))
        with memory.view(0, 4) as view:
            view[:] = b"mine"
        assert memory.read(0, 2 * PAGE)[:4] == b"mine"

        def grandchild() -> None:
            with pytest.raises(ForkedProcess):
                space.remove_region(PAGE)

        assert finish_child(*start_child(grandchild), 30) == ""
        space.remove_region(PAGE)
        memory.close()

    in_child(child)


def test_the_parent_goes_on() -> None:
    space, memory = mapped(ram(0))
    in_child(lambda: memory.write(0, b"x"))
    space.insert_region(ram(PAGE))
    space.remove_region(0)
    assert memory.read(PAGE, 1) == b"\0"


# Leases.


def test_views_work_in_a_child_and_veto_nothing_in_the_parent() -> None:
    space, memory = mapped(ram(0), ram(PAGE))
    ours = memory.view(0, 8)
    ready, go = os.pipe()

    def child() -> None:
        taken = memory.view(PAGE, 8)
        taken[:] = b"in child"
        ours[:] = b"and ours"
        os.write(go, b"!")
        signal.pause()

    started = start_child(child)
    assert os.read(ready, 1) == b"!"
    assert memory.read(PAGE, 8) + bytes(ours) == b"in childand ours"
    space.remove_region(PAGE)
    ours.release()
    space.remove_region(0)
    os.kill(started[0], signal.SIGKILL)
    assert "SIGKILL" in finish_child(*started, 30)
    os.close(ready)
    os.close(go)


def test_a_child_may_release_what_its_parent_took() -> None:
    space, memory = mapped(ram(0))
    view = memory.view(0, 8)
    in_child(view.release)
    assert bytes(view) == bytes(8)
    view.release()
    space.remove_region(0)


def test_a_child_may_drop_everything() -> None:
    space, memory = mapped(ram(0))
    host = memory.host_address(0)
    owners: list[object] = [space, memory.view(0, 4)]
    del space

    def child() -> None:
        nonlocal memory
        owners.clear()
        del memory
        assert protection(host) == ""

    in_child(child)
    assert memory.read(0, 4) == bytes(4)


# Forks amid work.


def test_a_fork_amid_forced_writes() -> None:
    """The lock of a protection may be left taken by a thread that is not in the child: refused, not waited for."""
    _, memory = mapped(ram(0, 8 * MIB, prot_flags="r--"))
    stop = threading.Event()

    def write() -> None:
        data = bytes(8 * MIB)
        while not stop.is_set():
            memory.write(0, data, force=True)

    def child() -> None:
        # It may also succeed.
        with suppress(ForkedProcess):
            memory.write(0, b"x", force=True)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(20):
            in_child(child, timeout=30)
    finally:
        stop.set()
        thread.join()


# Memory that a child can lose.


@pytest.mark.parametrize("mem_type", ["hugemmap", "hugeshmem"])
def test_huge_pages_are_guarded_in_a_child(mem_type: str) -> None:
    def probe(size: int) -> None:
        _, memory = mapped(ram(0, 2 * size, mem_type=mem_type))
        memory.fill(0, 2 * size, 0x5A)
        assert memory.load(0, 1) == 0x5A

        def child() -> None:
            assert memory.mapping(0).guarded
            assert memory.read(size - 2, 4) == b"\x5a" * 4
            for refused in (partial(memory.load, 0), partial(memory.view, 0, 4)):
                with pytest.raises(Unsupported):
                    refused()

        assert finish_child(*start_child(child), 30) == ""
        assert not memory.mapping(0).guarded

    # The kernel copies what it reads of private memory for us, so the child needs pages too.
    with huge_pages(4) as size:
        in_child(lambda: probe(size))


def test_private_huge_pages_without_a_pool_fault_in_a_child() -> None:
    """A write needs a page for the child's copy, and there is none; the parent's bytes stay."""

    def probe(size: int) -> None:
        _, memory = mapped(ram(OTHER), ram(AT, 2 * size, mem_type="hugemmap"))
        memory.fill(AT, 2 * size, 0x5A)

        def child() -> None:
            for verb in VERBS:
                if verb.touches and verb.writes and not verb.direct:
                    with pytest.raises(MemoryFault, match="no huge page was free"):
                        verb(memory, AT, verb.fitting(64))

        assert finish_child(*start_child(child), 30) == ""
        assert memory.read(AT, 2 * size) == b"\x5a" * (2 * size)

    with huge_pages(2) as size:
        in_child(lambda: probe(size))


def test_memory_that_is_not_inherited_is_a_fault_where_it_is_guarded(tmp_path: Path) -> None:
    """A private file mapping with `MADV_DONTFORK`: the child finds nothing there."""
    _, memory = memory_of({"perm_flags": MAP_PRIVATE}, tmp_path)
    host = memory.host_address(AT)
    assert libc.madvise(ctypes.c_void_p(host), ctypes.c_size_t(SIZE), mmap.MADV_DONTFORK) == 0

    def child() -> None:
        for verb in VERBS:
            # A loop of asyncio maps memory, which may come to lie where nothing was inherited.
            if verb.touches and not verb.direct and verb.name != "wait_value_async":
                with pytest.raises(MemoryFault) as fault:
                    verb(memory, AT, verb.fitting(PAGE))
                assert (fault.value.address, fault.value.completed) == (AT, 0)

    in_child(child)
