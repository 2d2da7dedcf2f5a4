"""Going back: restores against copying all and against C; collections, checkpoints, forks, an emulator, untracked memory."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from typing import Any

import guests
import resets_in_c
import spaces
from dbs_address_space import AddressSpace, AddressSpaceRegion, BackingOptions
from harness import MICROSECONDS, MILLISECONDS, Measure, Pace, Result, statement

GIB, PAGE, SMALL = 1 << 30, 4096, 64 << 20
STRIDE = 7 * PAGE


def run(pace: Pace) -> Iterator[Result]:
    """All of it."""
    yield from guests.run(pace)
    yield hot_pages(pace)
    yield from restores(few(pace))
    yield from collections(pace)
    yield checkpoints(few(pace))
    yield from forks(pace)
    yield from emulator(pace)
    yield untracked(pace)


def few(pace: Pace) -> Pace:
    """For what takes long: a side goes through a GiB."""
    return Pace(min(pace.rounds, 7), 0)


def hot_pages(pace: Pace) -> Result:
    """Fifty pages of 64 MiB that are written each time."""
    memory = spaces.memory_of(spaces.ram(0, SMALL))
    memory.fill(0, SMALL, 1)
    host, pages, stride = ctypes.c_void_p(memory.host_address(0)), ctypes.c_ulong(50), ctypes.c_ulong(STRIDE)
    copy = ctypes.create_string_buffer(memory.read(0, SMALL), SMALL)
    write = resets_in_c.library().write_to
    with memory.checkpoint() as point:
        text = "write(host, pages, stride); restore()"
        ours = statement(text, write=write, host=host, pages=pages, stride=stride, restore=point.restore)
        size = ctypes.c_ulong(SMALL)
        reference = resets_in_c.side("put_back", resets_in_c.pagemap(), host, copy, size, pages, stride)
        samples = pace.in_turns(ours, reference)
    return Result("resets", "restore of 50 hot pages of 64 MiB (C)", *samples, Measure.TIME, 1.2, MICROSECONDS)


def restores(pace: Pace) -> Iterator[Result]:
    """Without a guest: 1 GiB, of which some pages were written, against one that is copied whole."""
    memory, other = (spaces.memory_of(spaces.ram(0, GIB)) for _ in range(2))
    memory.fill(0, GIB, 1)
    view, target = memory.view(0, GIB), other.view(0, GIB)
    whole = bytes(view)
    full = statement("target[:] = whole", target=target, whole=whole)
    with memory.checkpoint() as point:
        for pages, goal in ((10, 1000), (100, 500), (1000, 200), (10000, 10)):
            step = GIB // pages // PAGE * PAGE
            text = f"for at in range(0, {GIB}, {step}): view[at] = 7\nrestore()"
            samples = pace.in_turns(statement(text, view=view, restore=point.restore), full)
            name = f"write and restore, {pages} of 262,144 pages (copy of all)"
            yield Result("resets", name, *samples, Measure.SPEED, goal, MICROSECONDS)
    view.release()
    target.release()


def collections(pace: Pace) -> Iterator[Result]:
    """Of a GiB that nobody wrote to."""
    advised = BackingOptions(transparent_hugepage=True)
    anonymous = AddressSpaceRegion("ram", 0, GIB, mem_type="mmap", backing=advised)
    kinds: tuple[tuple[str, AddressSpaceRegion, float | None], ...] = (
        ("a memfd", spaces.ram(0, GIB), None),
        ("huge anonymous pages", anonymous, 60e-6),
    )
    for name, region, most in kinds:
        memory = spaces.memory_of(region)
        memory.fill(0, GIB, 1)
        with memory.dirty.start("pagemap") as tracker:
            tracker.collect()
            ours = statement("collect()", collect=tracker.collect)
            is_private = ctypes.c_ulong(region is anonymous)
            arguments = ctypes.c_void_p(memory.host_address(0)), ctypes.c_ulong(GIB), is_private
            samples = pace.in_turns(ours, resets_in_c.side("scan", resets_in_c.pagemap(), *arguments))
        title = f"collect() of a clean GiB of {name} (PAGEMAP_SCAN in C)"
        yield Result("resets", title, *samples, Measure.TIME, 1.15, MICROSECONDS)
        if most is not None:
            yield Result(
                "resets",
                f"collect() of a clean GiB of {name}",
                samples[0],
                samples[0],
                Measure.ALONE,
                most,
                MICROSECONDS,
            )
        memory.close()


def checkpoints(pace: Pace) -> Result:
    """A checkpoint of what is resident, against a copy of its file in the kernel."""
    memory = spaces.memory_of(spaces.ram(0, GIB))
    memory.fill(0, GIB, 1)
    descriptor = memory.mapping(0).fd
    assert descriptor is not None

    def copied(number: int) -> float:
        begun = time.perf_counter()
        for _ in range(number):
            other, left = os.memfd_create("copy"), GIB
            while left:
                left -= os.sendfile(other, descriptor, GIB - left, left)
            os.close(other)
        return time.perf_counter() - begun

    samples = pace.in_turns(statement("checkpoint().close()", checkpoint=memory.checkpoint), copied)
    return Result("resets", "checkpoint of 1 GiB (sendfile to a memfd)", *samples, Measure.TIME, 1.1, MILLISECONDS)


def forks(pace: Pace) -> Iterator[Result]:
    """A fork takes as long whatever the size."""
    for label, size in (("64 MiB", SMALL), ("16 GiB", 16 * GIB)):
        memory = spaces.memory_of(spaces.ram(0, size))
        memory.fill(0, 32 << 20, 1)
        with memory.checkpoint() as point:
            samples = pace.alone(statement("fork()", fork=point.fork))
            yield Result("resets", f"fork of {label}", *samples, Measure.ALONE, 100e-6, MICROSECONDS)
        memory.close()


def emulator(pace: Pace) -> Iterator[Result]:
    """Fifty pages of Unicorn's, against its own calls for the pages that one knows, and for all of 64 MiB."""
    try:
        from unicorn import UC_ARCH_X86, UC_MODE_64, UC_PROT_ALL, Uc  # noqa: PLC0415  it may not be installed
    except ImportError:
        return
    ours, bare = Uc(UC_ARCH_X86, UC_MODE_64), Uc(UC_ARCH_X86, UC_MODE_64)
    space, other = (AddressSpace.from_regions([spaces.ram(0, SMALL)], spaces.LAYOUT) for _ in range(2))
    for each in (space, other):
        each.map_memory().fill(0, SMALL, 1)
    space.attach_unicorn(ours)
    bare.mem_map_ptr(0, SMALL, UC_PROT_ALL, other.memory.host_address(0))
    pages, stride = ctypes.c_ulong(50), ctypes.c_ulong(STRIDE)
    write: dict[str, Any] = {"write": resets_in_c.library().write_to, "pages": pages, "stride": stride}
    text = "write(host, pages, stride)\n"
    plain: dict[str, Any] = {
        "put": bare.mem_write,
        "resume": bare.context_restore,
        "context": bare.context_save(),
    } | write
    plain |= {"host": ctypes.c_void_p(other.memory.host_address(0)), "page": b"\1" * PAGE, "whole": b"\1" * SMALL}
    known = statement(text + f"for at in range(0, {50 * STRIDE}, {STRIDE}): put(at, page)\nresume(context)", **plain)
    full = statement(text + "put(0, whole)\nresume(context)", **plain)
    with space.memory.checkpoint() as point:
        host = ctypes.c_void_p(space.memory.host_address(0))
        back = statement(text + "restore()", host=host, restore=point.restore, **write)
        samples = pace.in_turns(back, known)
        yield Result("resets", "Unicorn, 50 pages (mem_write of these)", *samples, Measure.SPEED, 1.0, MICROSECONDS)
        samples = few(pace).in_turns(back, full)
        yield Result("resets", "Unicorn, 50 pages (mem_write of all)", *samples, Measure.SPEED, 20, MICROSECONDS)


def untracked(pace: Pace) -> Result:
    """Memory that had a tracker and a checkpoint against memory that never had one."""
    ours, reference = (spaces.memory_of(spaces.ram(0, 32 << 20)) for _ in range(2))
    ours.dirty.start().stop()
    ours.checkpoint().close()
    sides = (statement("write(64, 7)", write=memory.write_u64) for memory in (ours, reference))
    samples = pace.in_turns(*sides)
    return Result("resets", "write_u64, tracked no more, against never", *samples, Measure.TIME, 1.02)
