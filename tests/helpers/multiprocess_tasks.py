"""The tasks of worker processes that were given a space or memory."""

import os
from multiprocessing.synchronize import Event

from dbs_address_space import AddressSpace, GuestMemory


def count(memory: GuestMemory, addr: int) -> int:
    memory.fetch_add(addr, 1)
    return os.getpid()


def describe(space: AddressSpace) -> tuple[bool, int | None, list[str | None]]:
    return space.is_follower, space.leader, [region.name for region in space.regions]


def wait_for_region(space: AddressSpace, has_begun: Event) -> None:
    """Ends with the number 7 once a region is there that holds it."""
    has_begun.set()
    while "late" not in space:
        space.wait_for_change(space.generation, timeout=60)
    os._exit(space.memory.read_u8(space["late"].base))
