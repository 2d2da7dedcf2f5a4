"""Objects that one thread at a time changes: a client, a signal and a forked child that use them meanwhile wait for nobody."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from children import in_child
from dbs_address_space import (
    AddressSpace,
    AddressSpaceBuilder,
    Balloon,
    DimmSlots,
    ForkedProcess,
    Hotplug,
    MemoryBlocks,
    ReentrantChange,
    RegionBusy,
)
from memory_helpers import GIB, MIB


def dimms() -> tuple[AddressSpace, Any, Callable[[], object], Callable[[], object]]:
    space = AddressSpaceBuilder("q35", numa_regions=["1GiB"], hotplug=Hotplug("8GiB", slots=7)).build()
    slots = DimmSlots(space, slots=7, size=7 * GIB)
    return space, slots, lambda: slots.plug("1GiB", name=f"dimm{len(slots.dimms)}"), lambda: (slots.dimms, repr(slots))


def blocks() -> tuple[AddressSpace, Any, Callable[[], object], Callable[[], object]]:
    space = AddressSpaceBuilder(numa_regions=["16MiB"]).build()
    blocks = MemoryBlocks(space.memory, 0, inaccessible=True)

    def look() -> object:
        return blocks.plugged_size, blocks.state(0, 2 * MIB), blocks.is_plugged(0, 2 * MIB), list(blocks), repr(blocks)

    return space, blocks, lambda: blocks.plug(blocks.plugged_size, 2 * MIB), look


KINDS = [dimms, blocks]


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_may_look_and_is_refused_a_change(kind: Any) -> None:
    def child() -> None:
        space, _, change, look = kind()
        refused: list[object] = []

        def observer(_: object) -> None:
            look()
            with pytest.raises(ReentrantChange) as raised:
                change()
            refused.append(raised.value)

        with space.subscribe(observer) as subscription:
            change()
            assert refused
            assert subscription.error is None
        change()

    in_child(child, timeout=20)


@pytest.mark.parametrize("kind", KINDS)
def test_a_forked_child_waits_for_no_thread_of_its_parent(kind: Any) -> None:
    def child() -> None:
        space, _, change, look = kind()
        began, end = threading.Event(), threading.Event()

        def observer(_: object) -> None:
            began.set()
            end.wait(20)

        with space.subscribe(observer):
            thread = threading.Thread(target=change)
            thread.start()
            assert began.wait(20)

            def grandchild() -> None:
                look()
                with pytest.raises(ForkedProcess):
                    change()

            in_child(grandchild, timeout=10)
            end.set()
            thread.join()

    in_child(child, timeout=30)


def test_slots_are_free_while_an_unplug_waits() -> None:
    space, slots, plug, look = dimms()
    plug()
    view = space.memory.view(slots.window.base, 1)
    raised: list[BaseException] = []

    def unplug() -> None:
        try:
            slots.unplug("dimm0", timeout=None)
        except RegionBusy as busy:
            raised.append(busy)

    thread = threading.Thread(target=unplug)
    thread.start()
    plug()
    look()
    assert len(slots.dimms) == 2
    view.release()
    thread.join(20)
    assert not raised
    assert [dimm.name for dimm in slots.dimms.values()] == ["dimm1"]


def test_a_signal_meets_a_balloon_that_changes() -> None:
    def child() -> None:
        balloon = Balloon(AddressSpaceBuilder(numa_regions=["16MiB"]).build().memory)
        seen: list[object] = []

        def handler(*_: object) -> None:
            seen.append(balloon.stats)
            try:
                balloon.deflate([0])
            except ReentrantChange as refused:
                seen.append(refused)

        signal.signal(signal.SIGUSR1, handler)
        real = balloon._discard  # noqa: SLF001

        def discard(*arguments: Any) -> Iterator[int]:
            os.kill(os.getpid(), signal.SIGUSR1)
            return real(*arguments)

        balloon._discard = discard  # type: ignore[method-assign, assignment]  # noqa: SLF001
        balloon.inflate([1, 2])
        assert [type(one).__name__ for one in seen] == ["BalloonStats", "ReentrantChange"]
        assert balloon.deflate([1]) == 4096

    in_child(child, timeout=20)
