"""The package's part for asyncio: waiting for values and for changes of a space, and observers that are coroutine functions."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from dbs_address_space._core import AddressSpaceBase, _ValueBell

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future, Task
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from typing import Any

    from dbs_address_space._core import AddressSpace, AddressSpaceChange, DirtyPages, DirtyTracker, GuestMemory

__all__: list[str] = []
_IDLE = 0.002
"""Seconds without a waiter after which a loop's thread ends: the next wait of a coroutine that waits again comes before."""
_FOREVER = float("inf")


class _Waiter:
    """A value that a coroutine waits for."""

    def __init__(self, place: tuple[GuestMemory, int, int, int], poll: float) -> None:
        self.place = place
        self.poll = poll
        self.future: Future[int] = asyncio.get_running_loop().create_future()

    def tell(self, found: int | Exception) -> None:
        """Hands over to the loop what the thread has found, unless the loop is closed by now."""
        with suppress(RuntimeError):
            self.future.get_loop().call_soon_threadsafe(self._settle, found)

    def _settle(self, found: int | Exception) -> None:
        if self.future.done():
            return
        if isinstance(found, Exception):
            self.future.set_exception(found)
        else:
            self.future.set_result(found)


class _ValueThread:
    """The thread of one loop that sleeps for all its waiters. It begins with the first, and ends soon after the last."""

    def __init__(self) -> None:
        self.bell = _ValueBell()
        self.waiters: set[_Waiter] = set()
        self.lock = threading.Lock()
        self.thread: threading.Thread | None = None

    def add(self, waiter: _Waiter) -> None:
        """Sleeps for a waiter too."""
        with self.lock:
            self.waiters.add(waiter)
            # In a forked child it is not alive.
            if self.thread is None or not self.thread.is_alive():
                self.thread = threading.Thread(target=self._run, name="dbs-address-space-values", daemon=True)
                self.thread.start()
        self.bell.ring()

    def remove(self, waiter: _Waiter) -> None:
        """Forgets a waiter, whether it was told or not."""
        with self.lock:
            was_there = waiter in self.waiters
            self.waiters.discard(waiter)
        if was_there:
            self.bell.ring()

    def _run(self) -> None:
        # A call each: while nobody waits, no local name keeps a memory.
        while self._serve(self._next()):
            pass

    def _next(self) -> list[_Waiter]:
        """The waiters of this moment; none when there were none for a while, and the thread has to end."""
        for timeout in (_IDLE, 0.0):
            # Before the look: who comes or goes behind it rings.
            self.bell.clear()
            with self.lock:
                waiters = list(self.waiters)
                if not waiters and not timeout:
                    self.thread = None
            if waiters:
                return waiters
            if timeout:
                self.bell.wait((), timeout, timeout)
        return []

    def _serve(self, waiters: list[_Waiter]) -> bool:
        """Sleeps until some have their value, or others come or go; false without any."""
        if not waiters:
            return False
        poll = min(waiter.poll for waiter in waiters)
        try:
            found = self.bell.wait([waiter.place for waiter in waiters], _FOREVER, poll)
        except Exception as error:  # noqa: BLE001  whatever it is, nobody may wait for ever
            found = [(number, error) for number in range(len(waiters))]
        with self.lock:
            self.waiters.difference_update(waiters[number] for number, _ in found)
        for number, value in found:
            waiters[number].tell(value)
        return True


_threads: WeakKeyDictionary[AbstractEventLoop, _ValueThread] = WeakKeyDictionary()


async def wait_value(memory: GuestMemory, place: tuple[int, int, int], seconds: float | None, poll: float) -> int:
    """`GuestMemory.wait_value_async`, of an address, the expected value and a size, which were checked."""
    thread = _threads.setdefault(asyncio.get_running_loop(), _ValueThread())
    waiter = _Waiter((memory, *place), poll)
    thread.add(waiter)
    try:
        done, _ = await asyncio.wait([waiter.future], timeout=seconds)
        # The thread may not have looked in time.
        return waiter.future.result() if done else memory.wait_value(*place, timeout=0)
    finally:
        thread.remove(waiter)
        # What comes now, nobody hears: neither a value nor an error.
        waiter.future.cancel()


async def wait_written(tracker: DirtyTracker, place: DirtyPages, seconds: float | None, poll: float) -> DirtyPages:
    """`DirtyTracker.wait`, for some pages."""
    loop = asyncio.get_running_loop()
    end = None if seconds is None else loop.time() + seconds
    # Nobody tells of a store: it is looked for.
    while not (found := tracker.peek() & place) and (end is None or loop.time() < end):  # noqa: ASYNC110
        await asyncio.sleep(poll if end is None else min(poll, end - loop.time()))
    return found


class _Follower:
    """A client for `changes`: the descriptor of its subscription tells of changes, and itself of the end."""

    name = "changes"

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.news = asyncio.Event()
        self.has_left = False

    def __call__(self, change: AddressSpaceChange) -> None:
        """Hears of the changes that move regions, and not of all."""

    def leave(self) -> None:
        """Ends the changes: the space lets its clients go."""
        self.has_left = True
        # Its loop may be closed.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.news.set)

    @contextmanager
    def listening(self, descriptor: int) -> Iterator[None]:
        """Hears while it lasts; by a descriptor of its own, for the subscription's may be closed at any time."""
        own = os.dup(descriptor)

        def hear() -> None:
            os.eventfd_read(own)
            self.news.set()

        self.loop.add_reader(own, hear)
        try:
            yield
        finally:
            self.loop.remove_reader(own)
            os.close(own)


def changes(space: AddressSpace, generation: int | None) -> AsyncIterator[AddressSpaceChange]:
    """`AddressSpace.changes`."""
    seen = space.snapshot()
    if generation is not None and seen.generation > generation:
        seen = AddressSpaceBase.from_regions([], space.layout)
    return _changes_since(space, seen)


async def _changes_since(space: AddressSpace, seen: AddressSpaceBase) -> AsyncIterator[AddressSpaceChange]:
    follower = _Follower()
    with space.subscribe(follower) as subscription, follower.listening(subscription.fileno()):
        while True:
            # Before the look: what comes behind it is heard.
            follower.news.clear()
            now = space.snapshot()
            if now.generation != seen.generation:
                yield seen.diff(now)
                seen = now
            elif follower.has_left or (space.is_follower and space.leader is None):
                return
            else:
                await follower.news.wait()


_tasks: set[Task[Any]] = set()
"""A loop keeps its tasks only weakly."""


def begin(observer: Callable[[AddressSpaceChange], Coroutine[Any, Any, Any]], change: AddressSpaceChange) -> None:
    """Begins, in its loop, an observer that is a coroutine function."""
    task = asyncio.get_running_loop().create_task(observer(change))
    _tasks.add(task)
    task.add_done_callback(_end)


def _end(task: Task[Any]) -> None:
    _tasks.discard(task)
    if not task.cancelled() and (error := task.exception()):
        message = "an observer of an AddressSpace failed"
        task.get_loop().call_exception_handler({"message": message, "exception": error, "task": task})
