"""Changes of a space for asyncio: as an iterator, and told to coroutine functions."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import AddressSpace, AddressSpaceChange, AddressSpaceRegion, NotMapped
from hypothesis import given
from hypothesis import strategies as st
from memory_helpers import LAYOUT, PAGE, mapped, ram


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def run(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(main(), 60))


@pytest.fixture
def space() -> AddressSpace:
    return AddressSpace.from_regions([ram(0)], LAYOUT)


async def next_of(changes: AsyncIterator[AddressSpaceChange]) -> AddressSpaceChange:
    return await anext(changes)


def test_changes_while_the_loop_is_busy_are_one(space: AddressSpace) -> None:
    async def main() -> None:
        changes = space.changes()
        before = space.snapshot()
        for page in range(1, 20):
            space.insert_region(ram(page * PAGE))
        space.remove_region(PAGE)
        change = await anext(changes)
        assert (change.before, change.after) == (before, space.snapshot())
        assert [region.base for region in change.added] == [page * PAGE for page in range(2, 20)]
        waiter = asyncio.ensure_future(next_of(changes))
        await asyncio.sleep(0.01)
        assert not waiter.done()
        space.insert_region(ram(PAGE))
        assert [region.base for region in (await waiter).added] == [PAGE]

    run(main)


def test_a_change_that_leaves_the_regions_as_they_were_has_moved_the_generation(space: AddressSpace) -> None:
    async def main() -> None:
        changes = space.changes()
        waiter = asyncio.ensure_future(next_of(changes))
        await asyncio.sleep(0.01)
        space.insert_region(ram(PAGE))
        space.remove_region(PAGE)
        change = await waiter
        assert not change
        assert (change.before.generation, change.after.generation) == (0, 2)
        # Memory that comes is another matter: the map stays.
        waiter = asyncio.ensure_future(next_of(changes))
        space.map_memory()
        await asyncio.sleep(0.01)
        assert not waiter.done()
        waiter.cancel()

    run(main)


def test_who_was_away_has_all_that_is_there(space: AddressSpace) -> None:
    async def main() -> None:
        space.insert_region(ram(PAGE))
        change = await anext(space.changes(0))
        assert [region.base for region in change.added] == [0, PAGE]
        assert len(change.before) == 0
        for generation in (1, 7):
            waiter = asyncio.ensure_future(next_of(space.changes(generation)))
            await asyncio.sleep(0.01)
            assert not waiter.done()
            waiter.cancel()

    run(main)


def test_a_cancelled_iterator_leaves_nothing() -> None:
    async def main() -> Any:
        space = AddressSpace(LAYOUT)
        before = descriptors()
        task = asyncio.ensure_future(next_of(space.changes()))
        await asyncio.sleep(0.01)
        assert [repr(client) for client in space.clients] == ['Subscription("changes", attached)']
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert space.clients == ()
        assert descriptors() == before
        # One that is left by break ends by itself.
        space.insert_region(ram(0))
        async for _ in space.changes(0):
            break
        gc.collect()
        await asyncio.sleep(0.01)
        assert space.clients == ()
        assert descriptors() == before
        return weakref.ref(space)

    space = run(main)
    gc.collect()
    assert space() is None


def test_the_end_of_the_space_ends_the_iterator(space: AddressSpace) -> None:
    async def main() -> list[AddressSpaceChange]:
        async def all_of() -> list[AddressSpaceChange]:
            return [change async for change in space.changes()]

        task = asyncio.ensure_future(all_of())
        await asyncio.sleep(0.01)
        space.insert_region(ram(PAGE))
        await asyncio.to_thread(space.close)
        return await task

    assert [len(change.added) for change in run(main)] == [1]
    assert space.clients == ()


@given(steps=st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30))
def test_the_changes_lead_from_map_to_map(steps: list[tuple[int, bool]]) -> None:
    """A thread inserts and removes, the loop looks now and then: what it is told adds up to what is there."""
    space = AddressSpace(LAYOUT)

    def change() -> None:
        for page, pauses in steps:
            if space.find_region(page * PAGE):
                space.remove_region(page * PAGE)
            else:
                space.insert_region(ram(page * PAGE))
            if pauses:
                time.sleep(0.0001)

    async def main() -> None:
        changes, seen = space.changes(), space.snapshot()
        thread = threading.Thread(target=change)
        thread.start()
        there: set[AddressSpaceRegion] = set()
        while seen.generation < len(steps):
            told = await anext(changes)
            assert told.before == seen
            assert told.after.generation > seen.generation
            there = (there - set(told.removed)) | set(told.added)
            assert there == set(told.after)
            seen = told.after
        thread.join()
        assert seen == space.snapshot()

    run(main)


# Observers that are coroutine functions.


class Observer:
    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    async def __call__(self, change: AddressSpaceChange) -> None:
        await asyncio.sleep(0)
        self.seen.append((change.after.generation, threading.get_ident()))
        self.last = change.added[0], change


def test_the_loop_that_subscribed_runs_a_coroutine_function() -> None:
    space, _ = mapped(ram(0))

    async def main() -> None:
        observer = Observer()
        observing: list[Any] = [observer, partial(Observer.__call__, observer), observer.__call__]
        for function in observing:
            observer.seen.clear()
            subscription = space.subscribe(function)
            assert subscription.client is function
            generation = space.generation
            insert = partial(space.insert_region, ram(PAGE))
            await asyncio.to_thread(insert)
            space.remove_region(PAGE)
            await asyncio.sleep(0.01)
            # The removal, in which nothing was added, raised behind the note.
            assert observer.seen == [(generation + number, threading.get_ident()) for number in (1, 2)]
            subscription.detach()
            assert subscription.error is None
            region, change = observer.last
            with pytest.raises(NotMapped):
                change.mapping(region)

    told: list[dict[str, Any]] = []

    async def hearing() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        await main()

    run(hearing)
    assert [type(context["exception"]) for context in told] == [IndexError] * 3
    assert {context["message"] for context in told} == {"an observer of an AddressSpace failed"}


def test_what_is_there_is_replayed_to_a_coroutine_function(space: AddressSpace) -> None:
    async def main() -> None:
        seen = []

        async def observe(change: AddressSpaceChange) -> None:
            seen.append(change)

        with space.subscribe(observe, replay=True) as subscription:
            assert repr(subscription).startswith('Subscription("test_what')
            assert seen == []
            await asyncio.sleep(0.01)
        assert [region.base for region in seen[0].added] == [0]

    run(main)


def test_the_end_of_the_loop_ends_its_observers(space: AddressSpace, unraisable: list[Any]) -> None:
    async def main() -> Any:
        return space.subscribe(Observer())

    subscription = run(main)
    space.insert_region(ram(PAGE))
    assert not subscription.is_attached
    assert "loop is closed" in str(subscription.error)
    assert len(unraisable) == 1
    subscription.detach()


def test_in_a_loop_too_clients_and_generators_are_refused(space: AddressSpace) -> None:
    async def coroutine(_: object) -> None: ...

    async def generator(_: object) -> AsyncIterator[None]:
        yield

    class Client:
        prepare = commit = rollback = coroutine

    async def main() -> None:
        wrongs: list[Any] = [Client(), generator]
        for wrong in wrongs:
            with pytest.raises(TypeError, match="coroutine function"):
                space.subscribe(wrong)
        assert space.clients == ()

    run(main)
    with pytest.raises(TypeError, match="the observer is the coroutine function"):
        space.subscribe(coroutine)


def test_a_coroutine_observer_keeps_no_space() -> None:
    async def main() -> Any:
        space = AddressSpace(LAYOUT)

        async def observe(_: object) -> None:
            space.snapshot()

        space.subscribe(observe)
        return weakref.ref(space)

    space = run(main)
    gc.collect()
    assert space() is None
