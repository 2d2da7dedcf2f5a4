"""Going back: restores against copying all, and against KVM's dirty log in C; checkpoints, forks, untracked memory."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import spaces
from dbs_address_space import GuestMemory
from dbs_address_space.adapters import kvm_state
from harness import MICROSECONDS, MILLISECONDS, Measure, Pace, Result, Side, statement

sys.path.append(str(Path(__file__).parent.parent / "examples"))
from ring3_kvm import DEVICE, SIZE, Ring3Machine, new_space

GIB, PAGE = 1 << 30, 4096
CODE, LIST, DATA = 0x10000, 0x20000, 0x100000
WRITTEN = 50
PROGRAM = (
    (b"\x48\xbe" + LIST.to_bytes(8, "little"))
    + b"\x48\x8b\x06\x48\x83\xc6\x08\x48\x85\xc0\x74\x04\xfe\x00\xeb\xf0"
    + (b"\x48\xbb" + DEVICE.to_bytes(8, "little"))
    + b"\x88\x03"
)
"""Adds one to each byte of a list of addresses."""
C_LOOP = """
#include <string.h>
#include <sys/ioctl.h>
void loop(int vm, int vcpu, void *regs, void *log, unsigned long *bitmap, char *memory, char *copy, long words, long number) {
    while (number--) {
        ioctl(vcpu, 0x4090AE82, regs);
        ioctl(vcpu, 0xAE80, 0);
        ioctl(vm, 0x4010AE42, log);
        for (long word = 0; word < words; word++)
            for (unsigned long bits = bitmap[word]; bits; bits &= bits - 1) {
                long at = (word * 64 + __builtin_ctzl(bits)) << 12;
                memcpy(memory + at, copy + at, 4096);
            }
    }
}
"""


def run(pace: Pace) -> Iterator[Result]:
    """All of it."""
    if Path("/dev/kvm").exists():
        yield from guests(pace)
    yield from restores(pace)
    yield from forks(pace)
    yield untracked(pace)


def machine(*, dirty_log: bool) -> tuple[Ring3Machine, GuestMemory]:
    """A machine whose guest writes to fifty pages each time."""
    space = new_space()
    addresses = [DATA + index * 7 * PAGE for index in range(WRITTEN)]
    space.memory.write(CODE, PROGRAM)
    space.memory.write(LIST, struct.pack(f"<{WRITTEN + 1}Q", *addresses, 0))
    made = Ring3Machine(space, dirty_log=dirty_log)
    made.boot(CODE)
    made.run()
    made.boot(CODE)
    return made, space.memory


def guests(pace: Pace) -> Iterator[Result]:
    """The loop of a fuzzer: registers, run, memory."""
    plain, memory = machine(dirty_log=True)
    reference = by_dirty_log(plain, memory)
    for mode, factor, most in (("pagemap", 6, 35e-6), ("kvm", 8, 12e-6)):
        ours, guest = machine(dirty_log=mode == "kvm")
        registers = ours.registers(("regs",))
        point = guest.checkpoint(mode=mode, on_restore=registers.apply)  # type: ignore[arg-type]  # a mode
        loop = statement("run(); restore()", run=ours.run, restore=point.restore)
        name = f"reset of a guest, 64 MiB, {WRITTEN} pages, {mode}"
        samples = pace.in_turns(loop, reference)
        yield Result("resets", f"{name} (KVM_GET_DIRTY_LOG in C)", *samples, Measure.SPEED, factor, MICROSECONDS)
        floor = statement("run(); apply()", run=ours.run, apply=registers.apply)
        samples = pace.in_turns(loop, floor)
        yield Result("resets", f"{name}, beyond registers and run", *samples, Measure.DIFFERENCE, most, MICROSECONDS)
        point.close()
        ours.close()
    plain.close()


def by_dirty_log(plain: Ring3Machine, memory: GuestMemory) -> Side:
    """The same loop in C, as others do it."""
    with tempfile.TemporaryDirectory() as directory:
        source, library = Path(directory, "loop.c"), Path(directory, "loop.so")
        source.write_text(C_LOOP)
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        loop = ctypes.CDLL(str(library)).loop
    bitmap = ctypes.create_string_buffer(SIZE // PAGE // 8)
    log = ctypes.create_string_buffer(struct.pack("<IIQ", plain.slots.slot_of(0), 0, ctypes.addressof(bitmap)))
    regs: Any = kvm_state.capture(plain.vcpu, groups=("regs",))._values["regs"]  # noqa: SLF001  the same bytes
    copy = ctypes.create_string_buffer(memory.read(0, SIZE), SIZE)
    host = ctypes.c_void_p(memory.host_address(0))
    arguments = (plain.vm, plain.vcpu, regs, log, bitmap, host, copy, ctypes.c_long(SIZE // PAGE // 64))

    def side(number: int) -> float:
        begun = time.perf_counter()
        loop(*arguments, ctypes.c_long(number))
        return time.perf_counter() - begun

    return side


def restores(pace: Pace) -> Iterator[Result]:
    """Without a guest: 1 GiB, of which some pages were written."""
    memory = spaces.memory_of(spaces.ram(0, GIB))
    memory.fill(0, GIB, 1)
    view = memory.view(0, GIB)
    whole = bytes(view)
    with memory.checkpoint() as point:
        for pages, goal in ((10, 1000), (100, 500), (1000, 200), (10000, 10)):
            step = GIB // pages // PAGE * PAGE
            text = f"for at in range(0, {GIB}, {step}): view[at] = 7\nrestore()"
            ours = statement(text, view=view, restore=point.restore)
            full = statement("view[:] = whole", view=view, whole=whole)
            samples = pace.in_turns(ours, full)
            yield Result(
                "resets", f"write and restore, {pages} of 262,144 pages", *samples, Measure.SPEED, goal, MICROSECONDS
            )
    view.release()
    descriptor = memory.mapping(0).fd
    assert descriptor is not None

    def copied(number: int) -> float:
        begun = time.perf_counter()
        for _ in range(number):
            other = os.memfd_create("copy")
            os.sendfile(other, descriptor, 0, GIB)
            os.close(other)
        return time.perf_counter() - begun

    ours = statement("checkpoint().close()", checkpoint=memory.checkpoint)
    samples = Pace(min(pace.rounds, 5), pace.seconds).in_turns(ours, copied)
    yield Result("resets", "checkpoint of 1 GiB (sendfile to a memfd)", *samples, Measure.TIME, 1.1, MILLISECONDS)


def forks(pace: Pace) -> Iterator[Result]:
    """A fork takes as long whatever the size."""
    for label, size in (("64 MiB", 64 << 20), ("16 GiB", 16 * GIB)):
        memory = spaces.memory_of(spaces.ram(0, size))
        memory.fill(0, 32 << 20, 1)
        with memory.checkpoint() as point:
            samples = pace.alone(statement("fork()", fork=point.fork))
            yield Result("resets", f"fork of {label}", *samples, Measure.ALONE, 100e-6, MICROSECONDS)
        memory.close()


def untracked(pace: Pace) -> Result:
    """Memory that had a tracker and a checkpoint against memory that never had one."""
    ours, reference = (spaces.memory_of(spaces.ram(0, 32 << 20)) for _ in range(2))
    ours.dirty.start().stop()
    ours.checkpoint().close()
    sides = (statement("write(64, 7)", write=memory.write_u64) for memory in (ours, reference))
    samples = pace.in_turns(*sides)
    return Result("resets", "write_u64, tracked no more, against never", *samples, Measure.TIME, 1.02)
