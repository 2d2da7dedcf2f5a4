"""An axis of the matrix: events that happen to a mapped region, each a context around the call."""

import ctypes
import mmap
import os
import resource
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from children import fork
from dbs_address_space import AddressSpaceChange, AddressSpaceError, AddressSpaceRegion
from kill_cells import HUGE, World
from memory_helpers import GIB, PAGE, libc, mapped, ram
from userfaultfd import register
from verbs import data

PUNCH_HOLE = 3
"""FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE"""

Event = Callable[[World], Any]


@contextmanager
def nothing(_: World) -> Iterator[None]:
    yield


@contextmanager
def truncated(world: World) -> Iterator[None]:
    with suppress(OSError):
        os.truncate(world.descriptor() or -1, PAGE)
        world.there = None
    yield


def punch(world: World) -> None:
    fd = world.descriptor()
    if fd is not None and libc.fallocate(fd, PUNCH_HOLE, ctypes.c_long(0), ctypes.c_long(world.size)) == 0:
        is_shared = world.space[world.base].perm_flags & mmap.MAP_SHARED
        world.there = bytes(world.size) if is_shared else None


@contextmanager
def punched(world: World) -> Iterator[None]:
    punch(world)
    yield


@contextmanager
def stolen(world: World) -> Iterator[None]:
    """The pages are given back, and the pool is another's."""
    punch(world)
    thieves = []
    with suppress(AddressSpaceError):
        while True:
            _, thief = mapped(ram(GIB, HUGE, mem_type="hugemmap"))
            thieves.append(thief)
            thief.fill(GIB, HUGE, 1)
    yield
    for thief in thieves:
        thief.close()


@contextmanager
def limited(world: World) -> Iterator[None]:
    """The process may have one huge page more than it has."""
    group = world.directory / "cgroup"
    (group / "cgroup.procs").write_text(str(os.getpid()))
    yield


@contextmanager
def full(world: World) -> Iterator[None]:
    """Another file takes what is left of the small file system."""
    fd = os.open(world.directory / "small" / "other", os.O_RDWR | os.O_CREAT)
    with suppress(OSError):
        while os.write(fd, bytes(PAGE)):
            continue
    yield
    os.truncate(fd, 0)
    os.close(fd)


@contextmanager
def protected(world: World) -> Iterator[None]:
    world.space.replace_region(world.base, world.space[world.base].replace(prot_flags="r--"))
    yield


@contextmanager
def removed(world: World) -> Iterator[None]:
    world.space.remove_region(world.base)
    yield


@contextmanager
def discarded(world: World) -> Iterator[None]:
    with suppress(AddressSpaceError):
        world.memory.discard(world.base, world.size)
        world.there = bytes(world.size)
    yield


@contextmanager
def starved(_: World) -> Iterator[None]:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), resource.RLIM_INFINITY))
    yield


class Slow:
    """A client that keeps a change waiting, and may refuse it."""

    def __init__(self, *, vetoes: bool) -> None:
        self.vetoes = vetoes
        self.begun = threading.Event()

    def prepare(self, _: AddressSpaceChange) -> None:
        self.begun.set()
        threading.Event().wait(0.005)
        if self.vetoes:
            raise ValueError

    def commit(self, change: AddressSpaceChange) -> None: ...
    def rollback(self, change: AddressSpaceChange) -> None: ...


@contextmanager
def changing(world: World, client: Slow, change: Callable[[], object]) -> Iterator[None]:
    """Another thread is amid a change."""

    def run() -> None:
        with suppress(AddressSpaceError):
            change()
        client.begun.set()

    subscription = world.space.subscribe(client)
    client.begun.clear()
    thread = threading.Thread(target=run)
    thread.start()
    client.begun.wait()
    try:
        yield
    finally:
        thread.join()
        subscription.close()


ELSEWHERE = 8 * GIB
"""Where another window of the region lies."""


@contextmanager
def aliased(world: World) -> Iterator[None]:
    """The bytes are seen at another address too, where they can only be read."""
    with suppress(AddressSpaceError):
        region = world.space[world.base]
        world.space.insert_region(AddressSpaceRegion.alias(ELSEWHERE, region, prot_flags="r--"))
        world.space.insert_region(AddressSpaceRegion.alias(2 * ELSEWHERE, region, prot_flags="rw-"))
        world.space.remove_region(2 * ELSEWHERE)
    yield


@contextmanager
def shown_again(world: World) -> Iterator[None]:
    """The region goes, and another window on its bytes takes its place."""
    with (
        suppress(AddressSpaceError),
        world.memory.part(world.base, world.size) as part,
        world.space.transaction() as change,
    ):
        change.remove_region(world.base)
        change.insert_region(part.region(world.base))
    yield


def being_protected(world: World) -> Any:
    region = world.space[world.base]
    return changing(
        world, Slow(vetoes=False), lambda: world.space.replace_region(region, region.replace(prot_flags="r--"))
    )


def being_removed(world: World) -> Any:
    return changing(world, Slow(vetoes=False), lambda: world.space.remove_region(world.base, timeout=0.005))


@contextmanager
def repeated(work: Callable[[], object]) -> Iterator[None]:
    """Another thread does it again and again."""
    done, begun = threading.Event(), threading.Event()

    def run() -> None:
        while not done.is_set():
            with suppress(AddressSpaceError):
                work()
            begun.set()

    thread = threading.Thread(target=run)
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()


def being_discarded(world: World) -> Any:
    world.there = None
    return repeated(lambda: world.memory.discard(world.base, world.size))


def cut_and_join(world: World) -> None:
    world.space.split_region(world.base, world.base + world.size // 2)
    world.space.join_regions(world.base, world.base + world.size // 2)


def move_and_return(world: World) -> None:
    away = world.base + 4 * world.size
    world.space.move_region(world.base, away)
    world.space.move_region(away, world.base)


@contextmanager
def cut(world: World) -> Iterator[None]:
    world.space.split_region(world.base, world.base + world.size // 2)
    yield


@contextmanager
def being_cut(world: World) -> Iterator[None]:
    cut_and_join(world)
    with repeated(lambda: cut_and_join(world)):
        yield


@contextmanager
def moved(world: World) -> Iterator[None]:
    move_and_return(world)
    yield


@contextmanager
def being_moved(world: World) -> Iterator[None]:
    move_and_return(world)
    with repeated(lambda: move_and_return(world)):
        yield


@contextmanager
def followed(world: World) -> Iterator[None]:
    """Two trackers follow the memory, of which one is asked again and again."""
    with world.memory.dirty.start(), world.memory.dirty.start() as tracker, repeated(tracker.collect):
        yield


def vetoed(world: World) -> Any:
    return changing(world, Slow(vetoes=True), lambda: world.space.remove_region(world.base, timeout=0.005))


@contextmanager
def handled(world: World) -> Iterator[None]:
    """Another process answers for the pages, and dies meanwhile."""
    handler = register(world.memory.host_address(world.base), world.size)
    child = fork()
    if child == 0:
        time.sleep(0.01)
        os._exit(0)
    handler.close()
    try:
        yield
    finally:
        os.waitpid(child, 0)


@contextmanager
def answered(world: World) -> Iterator[None]:
    """A thread of this interpreter answers for the pages, with zeroes: a page that is given back is asked for again."""
    handler = register(world.memory.host_address(world.base), world.size)
    try:
        with repeated(lambda: select.select([handler.fd], [], [], 0.01)[0] and handler.answer(0)):
            yield
    finally:
        handler.close()


@contextmanager
def window_mapped(world: World) -> Iterator[None]:
    """A file lies in the DAX window."""
    fd = os.memfd_create("window")
    world.stack.callback(os.close, fd)
    os.truncate(fd, world.size)
    os.pwrite(fd, data(world.size), 0)
    world.memory.dax_window(world.base).map_file(0, fd, 0, world.size)
    world.file, world.there = fd, data(world.size)
    yield


@contextmanager
def window_truncated(world: World) -> Iterator[None]:
    with window_mapped(world):
        os.truncate(world.file or -1, PAGE)
        world.there = None
        yield


@dataclass(frozen=True)
class Happening:
    event: Event
    is_fresh: bool = False
    """Whether the memory is untouched before."""
    is_last: bool = False
    """Whether the process is of no use afterwards."""
    forks: bool = False
    """Whether the call is made in a child."""
    is_large: bool = False
    """Whether the call is about much."""


EVENTS: dict[str, Happening] = {
    "nothing": Happening(nothing),
    "untouched": Happening(nothing, is_fresh=True),
    "truncated": Happening(truncated),
    "punched": Happening(punched),
    "stolen": Happening(stolen),
    "limited": Happening(limited, is_fresh=True, is_last=True),
    "full": Happening(full, is_fresh=True),
    "forked": Happening(nothing, forks=True),
    "forked untouched": Happening(nothing, is_fresh=True, forks=True),
    "protected": Happening(protected),
    "being protected": Happening(being_protected),
    "discarded": Happening(discarded),
    "being discarded": Happening(being_discarded),
    "vetoed": Happening(vetoed),
    "aliased": Happening(aliased),
    "shown again": Happening(shown_again),
    "removed": Happening(removed),
    "being removed": Happening(being_removed),
    "cut": Happening(cut),
    "being cut": Happening(being_cut),
    "moved": Happening(moved),
    "being moved": Happening(being_moved),
    "followed": Happening(followed),
    "handler dies": Happening(handled, is_fresh=True),
    "answered": Happening(answered, is_fresh=True),
    "starved": Happening(starved, is_last=True, is_large=True),
    "window mapped": Happening(window_mapped),
    "window truncated": Happening(window_truncated),
}
HUGE_ONLY, DAX_ONLY = ("stolen", "limited"), ("window mapped", "window truncated")
