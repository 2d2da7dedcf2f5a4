"""Windows on one memory against memory that nobody has cut, moved or shown twice; their slots against the bare ioctls."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator

import spaces
from dbs_address_space import AddressSpace, AddressSpaceRegion
from harness import MICROSECONDS, Pace, Result, Side, statement

from clients import GIB, KVM_SET_USER_MEMORY_REGION, SLOTS, new_vm, slot

MIB = 1 << 20
ALIAS, FAR = 1 << 40, 1 << 41
VERBS = {
    "read_u64": "verb(addr)",
    "write_u64": "verb(addr, 7)",
    "fetch_add": "verb(addr, 1)",
    "read": "verb(addr, 65536)",
}


def run(pace: Pace) -> Iterator[Result]:
    """Verbs through windows, the way back from host addresses, and KVM's slots where there is KVM."""
    yield from verbs(pace)
    yield backwards(pace)
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        yield from reshaped(pace)
        yield moved(pace)
        yield protected(pace)


def mapped() -> AddressSpace:
    """A space of one region of RAM."""
    space = AddressSpace.from_regions([spaces.ram(0, MIB)], spaces.LAYOUT)
    space.map_memory()
    return space


def verbs(pace: Pace) -> Iterator[Result]:
    """The same verb at the same offset of a region that was cut 100 times, of an alias, and of a region never touched."""
    plain, cut, aliased = mapped(), mapped(), mapped()
    for number in range(1, 101):
        cut.split_region(0, MIB - number * spaces.PAGE)
    aliased.insert_region(AddressSpaceRegion.alias(ALIAS, aliased[0]))

    def side(space: AddressSpace, verb: str, addr: int) -> Side:
        return statement(VERBS[verb], verb=getattr(space.memory, verb), addr=addr)

    for verb in VERBS:
        for name, ours in (("cut 100 times", side(cut, verb, 0)), ("an alias", side(aliased, verb, ALIAS))):
            samples = pace.in_turns(ours, side(plain, verb, 0))
            yield Result("windows", f"{verb}, {name}, against untouched", *samples, goal=1.02)


def backwards(pace: Pace) -> Result:
    """From a host address to the guest's, against a look-up the other way."""
    space = mapped()
    space.insert_region(AddressSpaceRegion.alias(ALIAS, space[0]))
    host = space.memory.host_address(0x1000)
    ours = statement("find(host)", find=space.memory.guest_address, host=host)
    forwards = statement("find(addr)", find=space.find_region, addr=0x1000)
    return Result("windows", "guest_address, against find_region", *pace.in_turns(ours, forwards), goal=1.3)


def reshaped(pace: Pace) -> Iterator[Result]:
    """Cuts and unions beside 500 slots, none of which they touch, against as many changes of a name."""
    space = spaces.space_of(SLOTS)
    space.insert_region(AddressSpaceRegion("ram", FAR, MIB, name="cut"))
    space.map_memory()
    vm = new_vm()
    slots = space.attach_kvm(vm)
    names = {"space": space, "low": FAR, "high": FAR + MIB // 2}
    one, other = (space[FAR].replace(name=name) for name in ("cut", "named"))
    rename = "space.replace_region(low, other); space.replace_region(low, one)"
    samples = pace.in_turns(
        statement("space.split_region(low, high); space.join_regions(low, high)", **names),
        statement(rename, **names, one=one, other=other),
    )
    yield Result(
        "windows", f"cut and join, KVM at {SLOTS} slots, against renaming", *samples, goal=1.2, unit=MICROSECONDS
    )
    slots.detach()
    os.close(vm)


def ioctls(vm: int, *requests: bytes) -> Callable[[], None]:
    """Sets slots as they are said to be."""

    def run_all() -> None:
        for request in requests:
            fcntl.ioctl(vm, KVM_SET_USER_MEMORY_REGION, request)

    return run_all


def moved(pace: Pace) -> Result:
    """A region there and back, against the two ioctls that move its slot."""
    space = mapped()
    ours, bare = new_vm(), new_vm()
    slots = space.attach_kvm(ours)
    host = space.memory.host_address(0)
    fcntl.ioctl(bare, KVM_SET_USER_MEMORY_REGION, slot(0, 0, MIB, host))
    move = statement("move(0, far); move(far, 0)", move=space.move_region, far=FAR)
    both = ioctls(bare, slot(0, FAR, MIB, host), slot(0, 0, MIB, host))
    samples = pace.in_turns(move, statement("both()", both=both))
    slots.detach()
    os.close(ours)
    os.close(bare)
    return Result("windows", "move and move back (bare ioctls)", *samples, goal=1.5, unit=MICROSECONDS)


def protected(pace: Pace) -> Result:
    """A page of 4 GiB made read-only and writable again in slots of 128 MiB, against the ioctls that do so in one slot."""
    space = AddressSpace.from_regions([spaces.ram(0, 4 * GIB)], spaces.LAYOUT)
    space.map_memory()
    ours, bare = new_vm(), new_vm()
    slots = space.attach_kvm(ours, slot_size="128MiB")
    host, at, page = space.memory.host_address(0), GIB, spaces.PAGE
    whole, low = slot(0, 0, 4 * GIB, host), slot(0, 0, at, host)
    locked = slot(1, at, page, host + at)
    high = slot(2, at + page, 4 * GIB - at - page, host + at + page)
    gone = [slot(number, 0, 0, 0) for number in range(3)]
    fcntl.ioctl(bare, KVM_SET_USER_MEMORY_REGION, whole)
    both = ioctls(bare, gone[0], low, locked, high, *gone, whole)
    protect = statement(
        "protect(at, page, 'r--'); protect(at, page, 'rw-'); join(0, at); join(0, at + page)",
        protect=space.protect,
        join=space.join_regions,
        at=at,
        page=page,
    )
    samples = pace.in_turns(protect, statement("both()", both=both))
    slots.detach()
    os.close(ours)
    os.close(bare)
    name = "protect a page of 4 GiB and undo it, slots of 128 MiB (ioctls of one slot)"
    return Result("windows", name, *samples, goal=0.15, unit=MICROSECONDS)
