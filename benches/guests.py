"""The loop of a fuzzer on KVM: registers, run, memory; against KVM's dirty log in C, and against the run alone."""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import resets_in_c
from dbs_address_space import GuestMemory
from dbs_address_space.adapters import kvm_state
from harness import MICROSECONDS, Measure, Pace, Result, Side, statement

sys.path.append(str(Path(__file__).parent.parent / "examples"))
from ring3_kvm import DEVICE, SIZE, Ring3Machine, new_space

PAGE = 4096
CODE, LIST, DATA = 0x10000, 0x20000, 0x100000


def at_each(work: bytes) -> bytes:
    """Does something with the byte at each address of a list, which rsi shows and a zero ends."""
    return b"\x48\x8b\x06\x48\x83\xc6\x08\x48\x85\xc0\x74\x04" + work + b"\xeb\xf0"


PROGRAM = (
    (b"\x48\xbe" + LIST.to_bytes(8, "little"))
    + (at_each(b"\x8a\x00") + at_each(b"\xfe\x00"))
    + (b"\x48\xbb" + DEVICE.to_bytes(8, "little"))
    + b"\x88\x03"
)
"""Reads a byte at each address of a list, and adds one to each of a second list."""


def machine(log: str = "", written: int = 50, read: int = 0) -> tuple[Ring3Machine, GuestMemory]:
    """A machine whose guest reads and writes some pages each time; its log, if it has one, is cleared by hand or by each look."""
    space = new_space()
    lists = [DATA + index * PAGE for index in range(read)], [DATA + index * 7 * PAGE for index in range(written)]
    numbers = [*lists[0], 0, *lists[1], 0]
    space.memory.write(CODE, PROGRAM)
    space.memory.write(LIST, struct.pack(f"<{len(numbers)}Q", *numbers))
    made = Ring3Machine(space, dirty_log=bool(log), manual_clear=log == "by hand")
    made.boot(CODE)
    made.run()
    made.boot(CODE)
    return made, space.memory


def run(pace: Pace) -> Iterator[Result]:
    """All of it, where there is KVM."""
    if not Path("/dev/kvm").exists():
        return
    for mode, factor, most in (("pagemap", 6, 35e-6), ("kvm", 8, 12e-6)):
        yield from resets(pace, mode, factor, most)
    yield runs_behind(pace)


def resets(pace: Pace, mode: Any, factor: float, most: float) -> Iterator[Result]:
    """Fifty pages of 64 MiB."""
    (ours, guest), (plain, memory) = machine("by hand" if mode == "kvm" else ""), machine("by each look")
    registers = ours.registers(("regs",))
    name = f"reset of a guest, 64 MiB, 50 pages, {mode}"
    with guest.checkpoint(mode=mode, on_restore=registers.apply) as point:
        loop = statement("run(); restore()", run=ours.run, restore=point.restore)
        samples = pace.in_turns(loop, by_dirty_log(plain, memory))
        yield Result("resets", f"{name} (KVM_GET_DIRTY_LOG in C)", *samples, Measure.SPEED, factor, MICROSECONDS)
        floor = statement("run(); apply()", run=ours.run, apply=registers.apply)
        samples = pace.in_turns(loop, floor)
        yield Result("resets", f"{name}, beyond registers and run", *samples, Measure.DIFFERENCE, most, MICROSECONDS)
    ours.close()
    plain.close()


def by_dirty_log(plain: Ring3Machine, memory: GuestMemory) -> Side:
    """The same loop in C, as others do it."""
    bitmap = ctypes.create_string_buffer(SIZE // PAGE // 8)
    log = ctypes.create_string_buffer(struct.pack("<IIQ", plain.slots.slot_of(0), 0, ctypes.addressof(bitmap)))
    regs = kvm_state.capture(plain.vcpu, groups=("regs",))._values["regs"]  # noqa: SLF001  the same bytes
    copy = ctypes.create_string_buffer(memory.read(0, SIZE), SIZE)
    host, words = ctypes.c_void_p(memory.host_address(0)), ctypes.c_ulong(SIZE // PAGE // 64)
    return resets_in_c.side("by_dirty_log", plain.vm, plain.vcpu, regs, log, bitmap, host, copy, words)


def runs_behind(pace: Pace) -> Result:
    """A run behind a reset that reads 400 pages and writes 20, against the run of a guest that nobody tracks."""
    (ours, guest), (plain, _) = machine(written=20, read=400), machine(written=20, read=400)
    registers, others = ours.registers(("regs",)), plain.registers(("regs",))
    with guest.checkpoint(mode="pagemap") as point:
        timed = stopwatch("run()", "restore(); apply()", run=ours.run, restore=point.restore, apply=registers.apply)
        reference = stopwatch("run()", "apply()", run=plain.run, apply=others.apply)
        samples = pace.in_turns(timed, reference)
    ours.close()
    plain.close()
    name = "guest run behind a reset, 400 pages read, 20 written, against untracked"
    return Result("resets", name, *samples, Measure.TIME, 1.3, MICROSECONDS)


def stopwatch(work: str, between: str, **names: object) -> Side:
    """A side that times one statement, and not what comes between two of them."""
    text = f"begun = clock(); {work}; spent[0] += clock() - begun; {between}"

    def side(number: int) -> float:
        spent = [0.0]
        statement(text, clock=perf_counter, spent=spent, **names)(number)
        return spent[0]

    return side
