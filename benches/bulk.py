"""Large copies and fills against `memmove` and `memset` on the same resident pages, and small reads against Unicorn's."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import spaces
from harness import MICROSECONDS, Measure, Pace, Result, statement
from unicorn import UC_ARCH_X86, UC_MODE_64, Uc  # type: ignore[attr-defined]

SIZES = {"64 KiB": 64 << 10, "1 MiB": 1 << 20, "64 MiB": 64 << 20}
STATEMENTS = {
    "read_into": ("read_into(address, target)", "memmove(to, source, size)"),
    "write": ("write(address, target)", "memmove(source, to, size)"),
    "fill": ("fill(address, size, 7)", "memset(source, 7, size)"),
    "copy": ("copy(address + size, address, size)", "memmove(source + size, source, size)"),
}
GOAL = 0.95


def copies(pace: Pace) -> Iterator[Result]:
    """Each verb at each size; both sides touch the same pages, which are there."""
    for label, size in SIZES.items():
        guest = spaces.memory_of(spaces.ram(spaces.FIRST, 2 * size))
        guest.fill(spaces.FIRST, 2 * size, 1)
        target = bytearray(size)
        names = {
            "read_into": guest.read_into,
            "write": guest.write,
            "fill": guest.fill,
            "copy": guest.copy,
            "memmove": ctypes.memmove,
            "memset": ctypes.memset,
            "address": spaces.FIRST,
            "source": guest.host_address(spaces.FIRST),
            "target": target,
            "to": ctypes.addressof(ctypes.c_char.from_buffer(target)),
            "size": size,
        }
        for verb, sides in STATEMENTS.items():
            ours, reference = (statement(side, **names) for side in sides)
            samples = pace.in_turns(ours, reference)
            yield Result("bulk", f"{verb}, {label}", *samples, Measure.SPEED, GOAL, MICROSECONDS)


def unicorn(pace: Pace) -> Iterator[Result]:
    """Reads through Unicorn's binding and ours, from the same address; the cost of an empty call is in both."""
    guest = spaces.memory_of(spaces.ram(0, 1 << 20))
    engine = Uc(UC_ARCH_X86, UC_MODE_64)  # type: ignore[no-untyped-call]
    engine.mem_map(0, 1 << 20)  # type: ignore[no-untyped-call]
    for size, goal in ((8, 20), (4096, 10)):
        ours = statement("read(64, size)", read=guest.read, size=size)
        reference = statement("read(64, size)", read=engine.mem_read, size=size)
        yield Result(
            "unicorn", f"read, {size} B, against mem_read", *pace.in_turns(ours, reference), Measure.SPEED, goal
        )
