"""Threads beside the long verbs, progress, Ctrl-C, and locks made of atomics."""

import mmap
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from children import finish_child, start_child
from dbs_address_space import GuestMemory, Progress
from interrupts import interrupted
from memory_helpers import GIB, MIB, PAGE, mapped, ram
from threads import beats_during, beats_in_time, run_threads, switch_interval
from verbs import OTHER, VERBS, Verb, copy_outward, data, integer

AT = 16 * GIB
SIZE = 64 * MIB


@pytest.fixture(scope="module")
def memory() -> GuestMemory:
    _, memory = mapped(ram(OTHER, SIZE), ram(AT, SIZE))
    memory.fill(OTHER, SIZE, 1)
    return memory


LOOKED_AT = [verb for verb in VERBS if verb.ranged and (verb.long or (verb.touches and not verb.widths))]


def beats_more(verb: Verb, memory: GuestMemory) -> bool:
    """Whether another thread gets more turns while the verb works on much than while it works on little."""
    size = SIZE // 4 if "addresses" in verb.parameters else SIZE
    little, much = (beats_during(partial(verb, memory, AT, size)) for size in (8, size))
    return much > little + 5


@pytest.mark.parametrize("verb", LOOKED_AT, ids=str)
def test_other_threads_go_on_meanwhile(memory: GuestMemory, verb: Verb) -> None:
    if verb.kind == "scan":
        memory.fill(AT, SIZE)
    else:
        memory.write(AT, data(SIZE))
    assert beats_in_time(lambda: beats_more(verb, memory), 30 if verb.long else 0.5) == verb.long


GIVEN: dict[str, Callable[[GuestMemory, mmap.mmap], object]] = {
    "write": lambda memory, given: memory.write(AT, given),
    "writev": lambda memory, given: memory.writev([(AT, given)]),
    "read_into": lambda memory, given: memory.read_into(AT, given),
    "readv_into": lambda memory, given: memory.readv_into([(AT, len(given))], given),
    "compare": lambda memory, given: memory.compare(AT, given),
}
"""The verbs of more bytes than `data` has."""


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.form == "forced"], ids=str)
def test_a_short_forced_write_lets_other_threads_go_on(memory: GuestMemory, verb: Verb) -> None:
    """It may have to wait for a long one."""

    def write_often() -> None:
        for _ in range(1000):
            verb(memory, AT, 8)

    assert beats_in_time(lambda: beats_during(write_often) > 0)


PROGRESSING = [verb for verb in VERBS if verb.progress]


@pytest.mark.parametrize("verb", PROGRESSING, ids=str)
def test_progress_is_told(memory: GuestMemory, verb: Verb) -> None:
    told: list[tuple[Progress, int]] = []
    began = time.monotonic()
    verb(memory, AT, SIZE, progress=lambda p: told.append((p, threading.get_ident())))
    assert len(told) <= 20 * (time.monotonic() - began) + 2
    last = told[-1][0]
    assert (last.stage, last.done) == ({"prealloc": "populate"}.get(verb.name, verb.name), last.total)
    assert {thread for _, thread in told} == {threading.get_ident()}
    assert [p.done for p, _ in told] == sorted(p.done for p, _ in told)


@pytest.mark.parametrize("verb", PROGRESSING, ids=str)
def test_an_exception_from_progress_ends_it(memory: GuestMemory, verb: Verb) -> None:
    class Enough(Exception):
        pass

    def refuse(_: Progress) -> None:
        raise Enough

    with pytest.raises(Enough):
        verb(memory, AT, SIZE, progress=refuse)
    assert memory.read(OTHER, 8) != bytes(8)


# `load_image` is a write of a mapped file, which has an end.
INTERRUPTED = [verb for verb in VERBS if verb.interruptible and verb.name not in {*GIVEN, "load_image"}]


@pytest.mark.parametrize("verb", INTERRUPTED, ids=str)
def test_ctrl_c_ends_it(verb: Verb) -> None:
    size = 8 * GIB
    _, memory = mapped(ram(OTHER, size, mem_type="mmap"), ram(AT, size, mem_type="mmap"))
    endless = Path("/dev/null" if verb.name == "write_to" else "/dev/zero")
    with endless.open("r+b", buffering=0) as file, interrupted():
        verb(memory, AT, size, **({"file": file} if "file" in verb.parameters else {}))


@pytest.mark.parametrize("name", GIVEN)
def test_ctrl_c_ends_what_is_given_bytes(name: str) -> None:
    size = 8 * GIB
    _, memory = mapped(ram(AT, size, mem_type="mmap"))
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as given, interrupted():
        GIVEN[name](memory, given)


def test_a_ticket_lock_over_guest_memory_holds() -> None:
    """Tickets at 0, the one who is served at 8, and at 64 a counter that only the lock protects."""
    _, memory = mapped(ram(0))
    rounds = 3000

    def work() -> None:
        for _ in range(rounds):
            ticket = memory.fetch_add(0, 1)
            while memory.load(8) != ticket:
                time.sleep(0)
            memory.write_u64(64, memory.read_u64(64) + 1)
            memory.store(8, ticket + 1)

    with switch_interval(1e-5):
        run_threads(work, work)
    assert memory.read_u64(64) == 2 * rounds
    assert memory.load(0) == memory.load(8) == 2 * rounds


TEARABLE: dict[str, tuple[Callable[[GuestMemory, int, bytes], object], Callable[[GuestMemory, int, int], bytes]]] = {
    "integers": (
        lambda memory, addr, value: getattr(memory, f"write_u{8 * len(value)}")(addr, integer(value)),
        lambda memory, addr, size: getattr(memory, f"read_u{8 * size}")(addr).to_bytes(size, "little"),
    ),
    "byte strings": (GuestMemory.write, GuestMemory.read),
    "vectors": (
        lambda memory, addr, value: memory.writev([(addr, value)]),
        lambda memory, addr, size: memory.readv([(addr, size)])[0],
    ),
    "copies": (
        lambda memory, addr, value: memory.copy(addr, PAGE if value[0] else 2 * PAGE, len(value)),
        copy_outward,
    ),
}
"""How a small value is written, and read."""


@pytest.mark.parametrize("width", [2, 4, 8])
@pytest.mark.parametrize("form", TEARABLE)
def test_aligned_values_do_not_tear(form: str, width: int) -> None:
    """Another process writes, for within this one the verbs take turns."""
    write, read = TEARABLE[form]
    _, memory = mapped(ram(0, 3 * PAGE))
    values = [bytes(width), b"\xff" * width]
    memory.write(PAGE, values[1])

    def write_on() -> None:
        while True:
            for value in values:
                write(memory, 64, value)

    seen, changes, deadline = [values[0]], 0, time.monotonic() + 5
    child, report = start_child(write_on)
    try:
        # As often as the value changes under the reads, the two processes have met.
        while changes < 1000 and time.monotonic() < deadline:
            value = read(memory, 64, width)
            changes += value != seen[-1]
            seen = [*set(seen) - {value}, value]
    finally:
        os.kill(child, signal.SIGKILL)
        finish_child(child, report, 10)
    assert set(seen) <= set(values)


def test_hotplug_during_a_long_search() -> None:
    space, memory = mapped(ram(0, 64 * MIB))
    memory.write(64 * MIB - 6, b"needle")
    stop = threading.Event()

    def plug() -> None:
        while not stop.is_set():
            space.insert_region(ram(GIB, 4 * MIB, name="dimm"))
            memory.write(GIB, b"needle")
            space.remove_region("dimm", timeout=60)

    def search() -> None:
        for _ in range(20):
            found = list(memory.search(b"needle"))
            assert found in ([64 * MIB - 6], [64 * MIB - 6, GIB])
        stop.set()

    run_threads(plug, search)
