"""Address spaces and plain memory of the same size, for both sides of a comparison."""

from __future__ import annotations

import mmap
import random
import resource

from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion, GuestMemory

COUNTS = (1, 4, 64, 4096)
PAGE = 0x1000
FIRST = 0x1_0000_0000
STRIDE = 2 * PAGE
LAYOUT = AddressSpaceLayout(1 << 46, 0, 1 << 45)


def raise_descriptor_limit(needed: int = 2 * max(COUNTS)) -> None:
    """Each mapped memfd holds a descriptor: the usual soft limit of 1,024 is too low for the largest space."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def base(index: int) -> int:
    """Where the region with this index begins; between two regions lies a hole of a page."""
    return FIRST + index * STRIDE


def ram(at: int, size: int = PAGE) -> AddressSpaceRegion:
    """A region of RAM behind a memfd."""
    return AddressSpaceRegion("ram", at, size, mem_type="shmem")


def memory_of(region: AddressSpaceRegion) -> GuestMemory:
    """The memory of a space of one region."""
    return AddressSpace.from_regions([region], LAYOUT).map_memory()


def space_of(count: int) -> AddressSpace:
    """An unmapped space of regions of a page each."""
    return AddressSpace.from_regions([ram(base(index)) for index in range(count)], LAYOUT)


def resident(size: int) -> mmap.mmap:
    """Shared anonymous memory, which is of the same kind as a memfd, with every page touched."""
    memory = mmap.mmap(-1, size)
    memory[:] = bytes(size)
    return memory


def random_indexes(count: int, number: int = 16384) -> list[int]:
    """The same indexes at every run."""
    return random.Random(count).choices(range(count), k=number)
