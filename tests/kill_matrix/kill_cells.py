"""Two axes of the matrix: backings of a region, and options."""

import mmap
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbs_address_space import (
    AddressSpace,
    AddressSpaceRegion,
    BackingOptions,
    GuestMemory,
    NumaPolicy,
)
from host import huge_page_size
from memory_helpers import GIB, PAGE, WINDOW, ram
from verbs import data

HUGE = huge_page_size()
MFD_HUGETLB = 4


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
            "may block": BackingOptions(may_block=True),
            "locked": BackingOptions(mlock=True),
            "not inherited": BackingOptions(dontfork=True),
            "unsealed": BackingOptions(seals=()),
            "bound": BackingOptions(policy=NumaPolicy("bind", [0])),
            "transparent huge pages": BackingOptions(transparent_hugepage=True),
        }.items()
    },
}
