"""Nothing hangs: the writers' turn against the interpreter's lock, re-entry, finalizers, Ctrl-C, exit, fork.

Each probe runs in a child that must end in time.
"""

import gc
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest
from children import finish_child, in_child, run_python, start_child
from dbs_address_space import (
    AddressSpace,
    ForkedProcess,
    Progress,
    ReentrantChange,
    RegionOverlap,
    UnmappedAddress,
)
from kernel_view import maps_of
from memory_helpers import LAYOUT, PAGE, mapped, ram
from threads import run_threads
from verbs import VERBS, Verb

ROUNDS = 300


pytestmark = pytest.mark.usefixtures("any_switches")


@contextmanager
def turn_taken() -> Iterator[AddressSpace]:
    """A space whose turn another thread has for as long as the block runs."""
    space = AddressSpace.from_regions([ram(0)], LAYOUT)
    taken, done = threading.Event(), threading.Event()

    def hold(_: Progress) -> None:
        taken.set()
        done.wait()

    thread = threading.Thread(target=lambda: space.map_memory(progress=hold))
    thread.start()
    taken.wait()
    yield space
    done.set()
    thread.join()


class Finalizer:
    """Garbage that only the collector frees, and that then does something."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.work = work
        self.me = self

    def __del__(self) -> None:
        self.work()


# The turn and the interpreter's lock.


def test_who_has_the_turn_may_need_the_interpreter_and_the_other_way_round() -> None:
    """A plain mutex hangs here: its owner waits for the interpreter, which has a thread that waits for the mutex."""

    def probe() -> None:
        space = AddressSpace.from_regions([ram(number * PAGE) for number in range(8)], LAYOUT)

        def remap() -> None:
            for _ in range(ROUNDS // 10):
                space.map_memory(progress=lambda p: sum(range(p.done >> 8))).close()

        def change(base: int) -> None:
            for _ in range(ROUNDS):
                space.insert_region(ram(base))
                assert base in space.snapshot()
                space.remove_region(base)

        run_threads(remap, *(partial(change, base * PAGE) for base in (100, 200, 300)))
        assert len(space) == 8

    in_child(probe)


def test_threads_may_share_a_transaction() -> None:
    def probe() -> None:
        space = AddressSpace.from_regions([ram(0)], LAYOUT)
        refused = []
        with space.transaction() as change:

            def stage() -> None:
                for _ in range(ROUNDS):
                    try:
                        change.insert_region(ram(0))
                    except RegionOverlap as overlap:
                        refused.append(overlap)

            run_threads(stage, stage, stage)
        assert len(refused) == 3 * ROUNDS

    in_child(probe)


# Changes from inside a change.


def stage_and_publish(space: AddressSpace) -> None:
    with space.transaction() as change:
        change.insert_region(ram(PAGE))


CHANGES: dict[str, Callable[[AddressSpace], object]] = {
    "insert": lambda space: space.insert_region(ram(PAGE)),
    "remove": lambda space: space.remove_region(0),
    "remove and wait": lambda space: space.remove_region(0, timeout=None),
    "replace": lambda space: space.replace_region(0, space[0].replace(name="new")),
    "transaction": stage_and_publish,
    "map": lambda space: space.map_memory(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_from_inside_a_change_is_refused_at_once(change: Callable[[AddressSpace], object]) -> None:
    def probe() -> None:
        space = AddressSpace.from_regions([ram(0)], LAYOUT)
        refused = []

        def reenter(_: Progress) -> None:
            assert space.snapshot()[0].size == PAGE
            with pytest.raises(ReentrantChange, match="from inside a change") as error:
                change(space)
            refused.append(error.value)

        with space.map_memory(progress=reenter) as memory:
            assert refused
            assert memory.read(0, 4) == bytes(4)
        assert (len(space), space.generation) == (1, 0)
        space.insert_region(ram(PAGE))

    in_child(probe)


def test_a_refused_change_may_fail_the_change_around_it() -> None:
    def probe() -> None:
        space = AddressSpace.from_regions([ram(0)], LAYOUT)
        with pytest.raises(ReentrantChange):
            space.map_memory(progress=lambda _: space.insert_region(ram(PAGE)))
        assert not space.is_mapped
        space.insert_region(ram(PAGE))
        assert space.map_memory().read(0, 2 * PAGE) == bytes(2 * PAGE)

    in_child(probe)


def test_a_signal_handler_may_change_the_space_that_the_signal_interrupts() -> None:
    def probe() -> None:
        space = AddressSpace.from_regions([ram(0)], LAYOUT)
        handled: list[object] = []
        bases = itertools.count(100 * PAGE, PAGE)

        def change(*_: object) -> None:
            handled.append(space.insert_region(ram(next(bases))))

        signal.signal(signal.SIGALRM, change)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        while len(handled) < 50:
            space.insert_region(ram(PAGE))
            with suppress(UnmappedAddress):
                space.snapshot()[1 << 40]
            space.remove_region(PAGE)
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert len(space) == 1 + len(handled)

    in_child(probe)


# Finalizers, which run wherever Python happens to collect garbage.


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.ranged and not verb.holes], ids=str)
def test_a_finalizer_may_change_the_space_that_is_being_read(verb: Verb) -> None:
    """A reader that makes an exception while it holds the snapshot hangs here: the removal waits for that reader."""

    def probe() -> None:
        space, memory = mapped(*(ram(number * PAGE) for number in range(50)))
        gc.set_threshold(1)
        for number in range(1, 50):
            gc.disable()
            Finalizer(partial(space.remove_region, number * PAGE))
            gc.enable()
            try:
                verb(memory, 1 << 40, verb.fitting(8))
            except UnmappedAddress:
                continue
            pytest.fail("the access was not refused")
        assert len(space) == 1

    in_child(probe)


def test_a_finalizer_inside_a_change_is_refused() -> None:
    def probe() -> None:
        space = AddressSpace.from_regions([ram(0)], LAYOUT)
        said = []

        def change() -> None:
            try:
                space.insert_region(ram(PAGE))
            except ReentrantChange as refused:
                said.append(refused)

        Finalizer(change)
        space.map_memory(progress=lambda _: gc.collect())
        assert len(said) == 1
        space.insert_region(ram(PAGE))

    in_child(probe)


def test_the_last_lease_may_be_dropped_by_who_has_the_turn() -> None:
    def probe() -> None:
        other, memory = mapped(ram(0, name="last"))
        Finalizer([memory.view(0, 4), other, memory].clear)
        del other, memory
        space = AddressSpace.from_regions([ram(0)], LAYOUT)
        assert maps_of("/memfd:last")
        space.map_memory(progress=lambda _: gc.collect())
        assert not maps_of("/memfd:last")

    gc.disable()
    try:
        in_child(probe)
    finally:
        gc.enable()


# Ctrl-C.


def wait_for_turn(space: AddressSpace) -> object:
    return space.insert_region(ram(PAGE))


def wait_for_change(space: AddressSpace) -> object:
    return space.wait_for_change(space.generation, None)


@contextmanager
def region_held() -> Iterator[AddressSpace]:
    space, memory = mapped(ram(0))
    with memory.view(0, 4):
        yield space


@contextmanager
def nothing_held() -> Iterator[AddressSpace]:
    yield AddressSpace.from_regions([ram(0)], LAYOUT)


WAITS: dict[str, tuple[Any, Callable[[AddressSpace], object]]] = {
    "for the turn": (turn_taken, wait_for_turn),
    "for a view": (region_held, lambda space: space.remove_region(0, timeout=None)),
    "for a view, a minute": (region_held, lambda space: space.remove_region(0, timeout=60)),
    "for a change": (nothing_held, wait_for_change),
    "for a change, a minute": (nothing_held, lambda space: space.wait_for_change(space.generation, 60)),
}


@pytest.mark.parametrize(("held", "wait"), WAITS.values(), ids=WAITS)
def test_ctrl_c_ends_every_wait(held: Any, wait: Callable[[AddressSpace], object]) -> None:
    def probe() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # A busy region has the garbage collected: a Ctrl-C that comes in a finalizer is lost, as everywhere in Python.
        gc.freeze()
        with held() as space:
            before, main = space.snapshot(), threading.main_thread().ident
            assert main is not None
            interrupting = threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                interrupting.start()
                wait(space)
            assert space.snapshot() == before
        space.insert_region(ram(PAGE))

    in_child(probe)


def test_ctrl_c_ends_a_mapping_and_undoes_it() -> None:
    def probe() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        space = AddressSpace.from_regions([ram(number * PAGE, name=f"part{number}") for number in range(20)], LAYOUT)

        def interrupt(progress: Progress) -> None:
            if progress.done > PAGE:
                os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            space.map_memory(progress=interrupt)
        assert not space.is_mapped
        assert not maps_of("/memfd:part")
        assert space.map_memory().read(0, 4) == bytes(4)

    in_child(probe)


# The interpreter's end.

EXIT = """
import threading, time
from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion

def ram(base, size=4096, **options):
    return AddressSpaceRegion("ram", base, size, **options)

space = AddressSpace.from_regions([ram(0, "16MiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
memory = space.map_memory()
ready = threading.Event()

def daemon(work):
    def run():
        ready.set()
        while True:
            work()
    threading.Thread(target=run, daemon=True).start()
"""

AT_EXIT = {
    "waits for a view": "view = memory.view(0, 4); daemon(lambda: space.remove_region(0, timeout=None))",
    "waits for a change": "daemon(lambda: space.wait_for_change(space.generation))",
    "has and waits for the turn": (
        "memory.close()\n"
        "for _ in range(2): daemon(lambda: space.map_memory(progress=lambda p: (ready.set(), time.sleep(60))))"
    ),
    "reads long": "daemon(lambda: memory.read(0, 16 << 20))",
    "views": "daemon(lambda: memory.view(0, 4).release())",
    "hotplugs": "daemon(lambda: (space.insert_region(ram(1 << 30)), space.remove_region(1 << 30)))",
}


@pytest.mark.parametrize("work", AT_EXIT.values(), ids=AT_EXIT)
def test_the_interpreter_ends_while_a_thread(work: str) -> None:
    interval = f"import sys; sys.setswitchinterval({sys.getswitchinterval()})\n"
    run_python(f"{EXIT}{interval}{work}\nready.wait(); time.sleep(0.1)\n", timeout=30)


def test_objects_that_die_with_the_interpreter() -> None:
    program = """
class Last:
    def __del__(self, space=space, memory=memory, ram=ram):
        memory.read(0, 8 << 20)
        space.insert_region(ram(1 << 30))
        space.remove_region(1 << 30)
        memory.close()
        print("closed")
cycle = [Last(), memory]
cycle.append(cycle)
"""
    assert run_python(EXIT + program, timeout=30) == "closed\n"


# Fork.


def test_a_child_of_a_fork_does_not_wait_for_the_turn() -> None:
    def child(space: AddressSpace) -> None:
        for change in CHANGES.values():
            with pytest.raises(ForkedProcess):
                change(space)
        assert space.snapshot()[0].size == PAGE

    with turn_taken() as space:
        in_child(lambda: child(space))


def test_forks_amid_changes() -> None:
    def probe() -> None:
        space, memory = mapped(ram(0), ram(1 << 20, mem_type="mmap"))
        stop = threading.Event()

        def hotplug() -> None:
            while not stop.is_set():
                space.insert_region(ram(PAGE))
                with memory.view(PAGE, 8):
                    pass
                space.remove_region(PAGE)

        def child() -> None:
            memory.write(1 << 20, b"child")
            with memory.view(0, 8), memory.view(1 << 20, 8):
                memory.fill(0, 8, 1)
            with suppress(UnmappedAddress, BufferError):
                memory.view(PAGE, 8).release()
            for change in (space.insert_region, space.remove_region):
                with pytest.raises(ForkedProcess):
                    change(ram(0))

        def fork() -> None:
            for _ in range(20):
                assert finish_child(*start_child(child), 30) == ""
            stop.set()

        run_threads(hotplug, fork)
        assert memory.read(1 << 20, 5) == bytes(5)
        assert memory.read(0, 8) == b"\1" * 8

    in_child(probe)


# The heartbeat of another thread.
