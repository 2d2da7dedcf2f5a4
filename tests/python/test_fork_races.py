"""A fork at any moment of other threads' work: in the child every verb and every handle answers or raises, and none waits."""

import faulthandler
import inspect
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from children import finish_child, fork, in_child, run_and_exit
from dbs_address_space import (
    AddressSpace,
    AddressSpaceChange,
    AddressSpaceError,
    AddressSpaceRegion,
    ForkedProcess,
    GuestMemory,
)
from memory_helpers import GIB, MIB, PAGE, WINDOW, make_file, mapped, ram
from threads import switch_interval
from verbs import OTHER, VERBS
from vhost_user_backend import CONFIGURE_MEM_SLOTS, GET_FEATURES, REPLY_ACK, Backend
from virtual_machines import Vm

FORKS = 40
RAM, READ_ONLY, CHANGING = GIB, 2 * GIB, 3 * GIB
LONG = 8 * MIB
DEADLINE = 20
"""Seconds for a child, which needs a fraction of one."""


def hammers(space: AddressSpace, memory: GuestMemory, file: int) -> Iterator[Callable[[], object]]:
    """Work that takes every lock there is without the interpreter's, and gives it back at once."""
    window, data = memory.dax_window("window"), bytes(LONG)

    def changes() -> None:
        space.insert_region(ram(CHANGING))
        space.request_unplug(CHANGING).wait(0)
        space.remove_region(CHANGING)

    def files() -> None:
        window.map_file(0, file, 0, PAGE)
        window.unmap(0, PAGE)

    def looks_at_files() -> None:
        memory.read(WINDOW + PAGE, LONG // 2)
        window.mappings  # noqa: B018

    def views() -> None:
        with memory.view(RAM, 8), memory.pin(RAM, 8):
            memory.read(RAM, LONG)

    yield from (changes, files, looks_at_files, views)
    yield lambda: memory.write(READ_ONLY, data, force=True)
    yield lambda: memory.prealloc("background", background=True).wait()
    yield lambda: space.reserve("4KiB", owner="fork").release()
    yield lambda: space.subscribe(repr).detach()
    yield lambda: space.wait_for_change(space.generation, timeout=0.001)
    yield lambda: list(memory.search(b"needle", RAM, RAM + LONG))


@contextmanager
def hammered(*works: Callable[[], object]) -> Iterator[None]:
    """Each of them over and over in a thread of its own."""
    stop = threading.Event()

    def run(work: Callable[[], object]) -> None:
        while not stop.is_set():
            work()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def handles(space: AddressSpace, memory: GuestMemory) -> list[Any]:
    """One of each class that is of a live space."""
    return [
        memory.dax_window("window"),
        space.reserve("4KiB", owner="handle"),
        space.request_unplug(RAM),
        space.subscribe(lambda _: None),
        space.transaction(),
        memory.prealloc("background", background=True),
        memory.pin(RAM, 8),
        memory.view(RAM, 8),
        memory.mapping(RAM),
        memory.search(b"needle"),
        memory.open("r+b"),
        space.snapshot(),
        space,
        memory,
    ]


def is_optional(parameter: inspect.Parameter) -> bool:
    return parameter.default is not parameter.empty or parameter.kind in (
        parameter.VAR_POSITIONAL,
        parameter.VAR_KEYWORD,
    )


def every_handle_answers(objects: list[Any]) -> None:
    """Looks at each attribute, and calls what can be called without arguments: a wait then is one for ever."""
    for handle in objects:
        for name in [name for name in dir(handle) if not name.startswith("_")] + ["__repr__", "__enter__"]:
            with suppress(AddressSpaceError, AttributeError, OSError, TypeError, ValueError):
                member = getattr(handle, name)
                if callable(member) and all(map(is_optional, inspect.signature(member).parameters.values())):
                    member()


def every_verb_answers(memory: GuestMemory, *addresses: int) -> None:
    for verb in VERBS:
        for addr in addresses:
            with suppress(AddressSpaceError, TypeError, ValueError):
                verb(memory, addr, verb.fitting(PAGE))


def shared_memory_is_shared(memory: GuestMemory) -> None:
    memory.write(OTHER, b"child")
    assert memory.read(OTHER, 5) == b"child"
    assert len(memory.read(RAM, LONG)) == LONG
    with memory.view(RAM, 8) as view:
        assert len(bytes(view)) == 8


def test_no_child_waits_for_a_thread_that_is_not_there(tmp_path: Path) -> None:
    space, memory = mapped(
        ram(OTHER, MIB),
        ram(RAM, 2 * LONG),
        ram(READ_ONLY, LONG, prot_flags="r--"),
        AddressSpaceRegion.create_dax_region(WINDOW, LONG, name="window"),
        ram(8 * GIB, PAGE, name="background"),
    )
    path = make_file(tmp_path / "file", LONG)
    objects = handles(space, memory)
    # An import in each child would take longer than all the rest.
    memory.array(RAM, 8, "u1")

    def child() -> None:
        # Where it hangs is said: the deadline of the child itself would only say that it does.
        faulthandler.dump_traceback_later(DEADLINE, exit=True, file=2)
        shared_memory_is_shared(memory)
        every_verb_answers(memory, RAM, READ_ONLY, WINDOW, WINDOW + PAGE, CHANGING)
        every_handle_answers(objects)

    with path.open("r+b") as file, switch_interval(0.0001):
        memory.dax_window("window").map_file(PAGE, file, 0, LONG // 2)
        with hammered(*hammers(space, memory, file.fileno())):
            for _ in range(FORKS):
                in_child(child, timeout=DEADLINE + 10)


@contextmanager
def with_kvm(space: AddressSpace) -> Iterator[tuple[list[Any], list[Callable[[], object]]]]:
    """Slots that change, and are asked for their dirty pages."""
    with closing(Vm()) as vm, space.attach_kvm(vm.fd, dirty_log=True) as slots:
        yield [slots], [slots.dirty_log, lambda: slots.slot_of(OTHER)]


@contextmanager
def with_vhost_user(space: AddressSpace) -> Iterator[tuple[list[Any], list[Callable[[], object]]]]:
    """A back-end that is told of each change, and asked in between."""
    backend = Backend(REPLY_ACK | CONFIGURE_MEM_SLOTS, slots=8)
    with closing(backend), space.attach_vhost_user(backend.front) as client:
        yield [client], [lambda: client.ask(GET_FEATURES)]


@contextmanager
def with_followers(space: AddressSpace) -> Iterator[tuple[list[Any], list[Callable[[], object]]]]:
    """A follower in the same process: both ends of each change are under way."""
    ours, theirs = socket.socketpair()
    with ours, theirs, space.share(ours) as share, AddressSpace.attach(theirs) as follower:
        yield [share, follower], [lambda: share.followers, lambda: follower.memory.read(RAM, LONG)]


@pytest.mark.parametrize("attached", [with_kvm, with_vhost_user, with_followers])
def test_no_child_waits_for_a_client_that_is_not_there(
    attached: Callable[[AddressSpace], AbstractContextManager[tuple[list[Any], list[Callable[[], object]]]]],
) -> None:
    space, memory = mapped(ram(OTHER, MIB), ram(RAM, 2 * LONG))
    memory.array(RAM, 8, "u1")

    def changes() -> None:
        space.insert_region(ram(CHANGING))
        space.split_region(RAM, RAM + LONG)
        space.join_regions(RAM, RAM + LONG)
        space.remove_region(CHANGING)

    with attached(space) as (objects, works), switch_interval(0.0001):

        def child() -> None:
            faulthandler.dump_traceback_later(DEADLINE, exit=True, file=2)
            shared_memory_is_shared(memory)
            every_verb_answers(memory, RAM)
            for change in (space.insert_region, space.remove_region):
                with pytest.raises(ForkedProcess):
                    change(ram(CHANGING))
            every_handle_answers([*objects, space, memory])

        with hammered(changes, *works):
            for _ in range(4):
                in_child(child, timeout=DEADLINE + 10)


class Forks:
    """A client that forks in one of its phases, and comes back in both processes."""

    def __init__(self, phase: str) -> None:
        self.phase, self.child = phase, -1
        self.reading, self.report = os.pipe()

    def __getattr__(self, phase: str) -> Callable[[AddressSpaceChange], None]:
        if phase not in ("prepare", "commit", "rollback"):
            raise AttributeError(phase)

        def run(_: AddressSpaceChange) -> None:
            if phase == self.phase and self.child < 0:
                self.child = fork()

        return run


def test_a_report_of_threads_may_fork() -> None:
    """The child comes back from it, and has none of the threads that populate."""
    _, memory = mapped(ram(0, 64 * MIB))
    client, parent = Forks(""), os.getpid()

    def forks(_: object) -> None:
        if client.child < 0:
            client.child = fork()

    refused = False
    try:
        memory.prealloc(threads=2, progress=forks)
    except ForkedProcess:
        refused = True
    if os.getpid() != parent:
        run_and_exit(lambda: memory.read(0, 4) if refused else pytest.fail("populated"), client.report)
    os.close(client.report)
    assert finish_child(client.child, client.reading, 30) == ""
    assert not refused


@pytest.mark.parametrize("phase", ["prepare", "commit"])
def test_a_change_whose_client_forks_goes_on_in_the_parent_alone(phase: str) -> None:
    space, memory = mapped(ram(OTHER))
    told: list[tuple[int, int]] = []
    client = Forks("")
    space.subscribe(client)
    space.subscribe(lambda change: told.append((os.getpid(), change.after.generation)))
    parent, client.phase = os.getpid(), phase

    def change() -> None:
        space.insert_region(ram(RAM))

    def child() -> None:
        """The rest of the change ends, and the memory that was there is there."""
        assert not told
        with pytest.raises(ForkedProcess):
            space.remove_region(OTHER)
        assert memory.read(OTHER, 4) == bytes(4)

    refused = False
    try:
        change()
    except ForkedProcess:
        refused = True
    if os.getpid() != parent:
        run_and_exit(lambda: child() if refused or phase == "commit" else pytest.fail("published"), client.report)
    os.close(client.report)
    assert finish_child(client.child, client.reading, 30) == ""
    assert told == [(parent, 1)]
    assert not refused
    space.remove_region(RAM)
