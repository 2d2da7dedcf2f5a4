"""`read_u64` and `write_u64` against a prebuilt `struct.Struct` on one `mmap`."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import spaces
from dbs_address_space import AddressSpaceRegion, GuestMemory
from harness import Pace, Result, per_item, statement

READ, READ_REFERENCE = "read(address)", "unpack(memory, offset)[0]"
WRITE, WRITE_REFERENCE = "write(address, value)", "pack(memory, offset, value)"
SAME_GOALS = {"read_u64": 0.85, "write_u64": 1.0}
RANDOM_GOALS = {"read_u64": 1.0, "write_u64": 1.1}
VALUE = 0x0123_4567_89AB_CDEF


def run(pace: Pace) -> Iterator[Result]:
    """The same address again and again at each count, then random pages of the largest space."""
    for count in spaces.COUNTS:
        space = spaces.space_of(count)
        with space.map_memory() as guest:
            touch(guest, count)
            yield from same_address(pace, guest, count)
            if count == max(spaces.COUNTS):
                yield from random_pages(pace, guest, count)
    yield from atomics(pace)


def touch(guest: GuestMemory, count: int) -> None:
    """Makes every page resident."""
    for index in range(count):
        guest.write_u64(spaces.base(index), VALUE)


def names(guest: GuestMemory, count: int) -> dict[str, object]:
    """The names in the statements of both sides."""
    codec = struct.Struct("<Q")
    return {
        "read": guest.read_u64,
        "write": guest.write_u64,
        "unpack": codec.unpack_from,
        "pack": codec.pack_into,
        "memory": spaces.resident(count * spaces.PAGE),
        "value": VALUE,
    }


def same_address(pace: Pace, guest: GuestMemory, count: int) -> Iterator[Result]:
    """One aligned address in the middle."""
    known = names(guest, count) | {"address": spaces.base(count // 2) + 64, "offset": count // 2 * spaces.PAGE + 64}
    for verb, ours, reference in (("read_u64", READ, READ_REFERENCE), ("write_u64", WRITE, WRITE_REFERENCE)):
        samples = pace.in_turns(statement(ours, **known), statement(reference, **known))
        yield Result("integers", f"{verb}, {count:,} regions, same address", *samples, goal=SAME_GOALS[verb])


def atomics(pace: Pace) -> Iterator[Result]:
    """`load` and `store` against `read_u64` and `write_u64`, and all of them on a received memfd against its owner's."""
    owner = spaces.memory_of(spaces.ram(0, spaces.PAGE))
    fd = owner.mapping(0).fd
    assert fd is not None
    received = spaces.memory_of(AddressSpaceRegion.from_file(0, spaces.PAGE, fd))
    pairs = (
        ("load, against read_u64", owner.load, owner.read_u64, "call(64)", 1.1),
        ("store, against write_u64", owner.store, owner.write_u64, "call(64, 7)", 1.1),
        ("read_u64, received, against the owner", received.read_u64, owner.read_u64, "call(64)", 1.05),
        ("write_u64, received, against the owner", received.write_u64, owner.write_u64, "call(64, 7)", 1.05),
        ("fetch_add, received, against the owner", received.fetch_add, owner.fetch_add, "call(64, 7)", 1.05),
    )
    for name, ours, reference, text, goal in pairs:
        samples = pace.in_turns(statement(text, call=ours), statement(text, call=reference))
        yield Result("integers", name, *samples, goal=goal)


def random_pages(pace: Pace, guest: GuestMemory, count: int) -> Iterator[Result]:
    """Random pages on both sides: what the processor's caches and TLB make of it."""
    indexes = spaces.random_indexes(count)
    addresses = [spaces.base(index) + 64 for index in indexes]
    offsets = [index * spaces.PAGE + 64 for index in indexes]
    known = names(guest, count) | {"addresses": addresses, "offsets": offsets}
    for verb, ours, reference in (("read_u64", READ, READ_REFERENCE), ("write_u64", WRITE, WRITE_REFERENCE)):
        samples = pace.in_turns(
            per_item(statement(f"for address in addresses: {ours}", **known), addresses),
            per_item(statement(f"for offset in offsets: {reference}", **known), offsets),
        )
        yield Result("integers", f"{verb}, {count:,} regions, random pages", *samples, goal=RANDOM_GOALS[verb])
