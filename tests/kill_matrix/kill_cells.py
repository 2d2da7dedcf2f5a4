"""The axes of the matrix: backings of a region, verbs, and events that happen to it meanwhile."""

import ctypes
import mmap
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from children import fork
from dbs_address_space import (
    AddressSpace,
    AddressSpaceChange,
    AddressSpaceError,
    AddressSpaceRegion,
    BackingOptions,
    GuestMemory,
    NumaPolicy,
)
from host import huge_page_size
from memory_helpers import GIB, PAGE, WINDOW, libc, mapped, ram
from userfaultfd import register
from verbs import data

HUGE = huge_page_size()
MFD_HUGETLB = 4
PUNCH_HOLE = 3
"""FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE"""


@dataclass
class World:
    """One mapped region, what is behind it, and the bytes that it must have; None where that is not known."""

    directory: Path
    stack: ExitStack
    size: int
    base: int
    file: int | None = None
    there: bytes | None = None
    host: int = 0
    """The address at which the region is mapped."""
    space: AddressSpace = field(init=False)
    memory: GuestMemory = field(init=False)

    def use(self, fd: int, more: int = PAGE) -> int:
        """The test's own file is behind the region, and a little larger."""
        self.stack.callback(os.close, fd)
        os.truncate(fd, self.size + more)
        self.file = fd
        return fd

    def descriptor(self) -> int | None:
        """The file that is behind the region: the test's own, or the one that the space made."""
        return self.file if self.file is not None else self.memory.mapping(self.base).fd


# Sources.

Source = Callable[[World], AddressSpaceRegion]


def made(mem_type: str) -> Source:
    return lambda world: ram(world.base, world.size, mem_type=mem_type)


def of_file(where: str = "disk", *, shared: bool = True) -> Source:
    def source(world: World) -> AddressSpaceRegion:
        fd = os.open(world.directory / where / "file", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)
        return AddressSpaceRegion.from_file(world.base, world.size, world.use(fd), 0, shared=shared)

    return source


def read_only_file(world: World) -> AddressSpaceRegion:
    path = world.directory / "disk" / "file"
    path.write_bytes(data(world.size))
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    world.use(fd)
    with path.open("rb") as file:
        return AddressSpaceRegion.from_file(world.base, world.size, file)


def users_memfd(world: World) -> AddressSpaceRegion:
    return AddressSpaceRegion.from_file(world.base, world.size, world.use(os.memfd_create("users")))


def users_huge_memfd(world: World) -> AddressSpaceRegion:
    fd = world.use(os.memfd_create("users", MFD_HUGETLB), more=0)
    return AddressSpaceRegion.from_file(world.base, world.size, fd)


def hugetlbfs(world: World) -> AddressSpaceRegion:
    return ram(world.base, world.size, mem_type="hugetlbfs", mem_file_path=world.directory / "huge" / "made")


SOURCES: dict[str, Source] = {
    "shmem": made("shmem"),
    "mmap": made("mmap"),
    "hugeshmem": made("hugeshmem"),
    "hugemmap": made("hugemmap"),
    "hugetlbfs": hugetlbfs,
    "file": of_file(),
    "private file": of_file(shared=False),
    "file on a small tmpfs": of_file("small"),
    "read-only file": read_only_file,
    "users memfd": users_memfd,
    "users huge memfd": users_huge_memfd,
    "bytearray": lambda world: AddressSpaceRegion.from_buffer(world.base, bytearray(world.size)),
    "mmap object": lambda world: AddressSpaceRegion.from_buffer(world.base, mmap.mmap(-1, world.size)),
}


def is_huge(source: str) -> bool:
    return "huge" in source


TYPES = {"ram": GIB, "firmware": GIB, "dax": WINDOW}
"""With the address at which such a region may lie."""
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "private": {"perm_flags": mmap.MAP_PRIVATE},
    "read-only": {"prot_flags": "r--"},
    "inaccessible": {"prot_flags": "---"},
    "off by a bit": {"file_offset": 100},
    "pages of 4 KiB": {"page_size": PAGE},
    "huge pages": {"page_size": HUGE},
    **{
        name: {"backing": options}
        for name, options in {
            "reserve": BackingOptions(reserve=True),
            "no reserve": BackingOptions(reserve=False),
            "guard pages": BackingOptions(guard_pages=True),
            "locked": BackingOptions(mlock=True),
            "not inherited": BackingOptions(dontfork=True),
            "unsealed": BackingOptions(seals=()),
            "bound": BackingOptions(policy=NumaPolicy("bind", [0])),
            "transparent huge pages": BackingOptions(transparent_hugepage=True),
        }.items()
    },
}


# What happens meanwhile: a context around the call, entered when the memory is mapped.

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
def being_discarded(world: World) -> Iterator[None]:
    """Another thread gives the pages back, again and again."""
    done, begun = threading.Event(), threading.Event()

    def run() -> None:
        while not done.is_set():
            with suppress(AddressSpaceError):
                world.memory.discard(world.base, world.size)
            begun.set()

    world.there = None
    thread = threading.Thread(target=run)
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()


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
    "handler dies": Happening(handled, is_fresh=True),
    "starved": Happening(starved, is_last=True, is_large=True),
    "window mapped": Happening(window_mapped),
    "window truncated": Happening(window_truncated),
}
HUGE_ONLY, DAX_ONLY = ("stolen", "limited"), ("window mapped", "window truncated")
