"""The cost of safety: guarded copies against direct ones, and writes that are tracked against those that are not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import spaces
from dbs_address_space import AddressSpaceRegion, GuestMemory
from harness import MICROSECONDS, Measure, Pace, Result, statement

SIZE = 32 << 20
SIZES = {"64 KiB": 64 << 10, "1 MiB": 1 << 20, "16 MiB": 16 << 20}


def mapped(region: AddressSpaceRegion) -> GuestMemory:
    """Guest memory of one region, all of it resident."""
    memory = spaces.memory_of(region)
    memory.fill(0, SIZE, 1)
    return memory


def guarded(pace: Pace) -> Iterator[Result]:
    """A file on tmpfs, which anyone may cut, against a sealed memfd."""
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        file.truncate(SIZE)
        ours = mapped(AddressSpaceRegion.from_file(0, SIZE, file))
    direct = mapped(spaces.ram(0, SIZE))
    for label, size in SIZES.items():
        buffer = bytearray(size)
        for verb, goal in (("read_into", 0.4), ("write", 0.25)):
            text = f"{verb}(64, buffer)"
            sides = (statement(text, buffer=buffer, **{verb: getattr(memory, verb)}) for memory in (ours, direct))
            samples = pace.in_turns(*sides)
            yield Result("guarded", f"{verb}, {label}, against direct", *samples, Measure.SPEED, goal, MICROSECONDS)
    for name, text in (("read_u64", "call(64)"), ("write_u64", "call(64, 7)")):
        samples = pace.alone(statement(text, call=getattr(ours, name)))
        yield Result("guarded", name, *samples, Measure.ALONE, 1.6e-6, MICROSECONDS)


def tracked(pace: Pace) -> Iterator[Result]:
    """The same writes into two spaces, of which one marks them."""
    ours, reference = mapped(spaces.ram(0, SIZE)), mapped(spaces.ram(0, SIZE))
    ours.dirty.start("api")
    for name, text in (("write_u64", "memory.write_u64(64, 7)"), ("write, 1 MiB", "memory.write(64, data)")):
        sides = (statement(text, memory=memory, data=bytes(1 << 20)) for memory in (ours, reference))
        samples = pace.in_turns(*sides)
        yield Result("tracking", f"{name}, tracked, against untracked", *samples, Measure.TIME, 1.15, MICROSECONDS)
