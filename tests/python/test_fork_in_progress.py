"""A progress function that forks: the work goes on in the parent alone, and the child leaves files and sockets as they are."""

import inspect
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dbs_address_space
import pytest
from children import finish_child, fork, run_and_exit
from dbs_address_space import (
    AddressSpace,
    AddressSpaceBuilder,
    ForkedProcess,
    GuestMemory,
    MapFlags,
    dump,
    load,
)
from memory_helpers import LAYOUT, MIB, mapped, numbered, ram
from stream_peers import connection, receiving

SIZE = 48 * MIB
DATA = numbered(MIB)


class Work:
    """A guest, its image, and each call that can be told of progress, with a look at what it made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.space, self.memory = mapped(ram(0, SIZE))
        for at in range(0, SIZE, 2 * MIB):
            self.memory.write(at, DATA)
        self.saved = self.space.save(folder / "old.img", sync=False)

    def is_whole(self, space: AddressSpace) -> None:
        with space:
            assert space.memory.compare(0, self.memory.read(0, SIZE)) is None

    def save(self, **options: Any) -> None:
        self.is_whole(self.space.save(self.folder / "new.img", sync=False, **options).restore())

    def merge(self, **options: Any) -> None:
        self.is_whole(self.saved.merge(self.folder / "new.img", sync=False, **options).restore())

    def dump(self, **options: Any) -> None:
        dump(self.space, self.folder / "new.elf", **options)
        self.is_whole(load(self.folder / "new.elf"))

    def search(self, **options: Any) -> None:
        assert list(self.memory.search(b"absent", **options)) == []

    def copy(self, **options: Any) -> None:
        self.memory.copy(SIZE // 2, 0, SIZE // 2, **options)

    def send(self, **options: Any) -> None:
        there = AddressSpace(LAYOUT)
        with connection() as (ours, theirs):
            peer = receiving(theirs, there)
            self.memory.send(ours, **options)
            peer.wait()
        self.is_whole(there)

    def receive(self, **options: Any) -> None:
        there = AddressSpace(LAYOUT)
        with connection() as (ours, theirs):
            sender = threading.Thread(target=self.memory.send, args=(theirs,))
            sender.start()
            GuestMemory.receive(ours, there, **options)
            sender.join()
        self.is_whole(there)

    def map_memory(self, **options: Any) -> None:
        space = AddressSpace.from_regions([ram(0, SIZE, perm_flags=MapFlags.POPULATE | MapFlags.SHARED)], LAYOUT)
        space.map_memory(**options)

    def calls(self) -> dict[str, Callable[..., object]]:
        builder = AddressSpaceBuilder(numa_regions=[SIZE], mem_prealloc=True)
        return {
            "AddressSpace.map_memory": self.map_memory,
            "AddressSpace.restore": lambda **options: self.is_whole(AddressSpace.restore(self.saved.path, **options)),
            "AddressSpace.save": self.save,
            "AddressSpaceBuilder.build": builder.build,
            "AddressSpacePlan.build": builder.plan().build,
            "GuestMemory.checkpoint": self.memory.checkpoint,
            "GuestMemory.copy": self.copy,
            "GuestMemory.hash": lambda **options: self.memory.hash(0, SIZE, **options),
            "GuestMemory.prealloc": self.memory.prealloc,
            "GuestMemory.receive": self.receive,
            "GuestMemory.search": self.search,
            "GuestMemory.send": self.send,
            "SavedSpace.merge": self.merge,
            "SavedSpace.restore": lambda **options: self.is_whole(self.saved.restore(**options)),
            "SavedSpace.verify": self.saved.verify,
            "dump": self.dump,
        }


def fill_the_stack_cache() -> None:
    """The stacks of threads that have ended: with those, a fork unmaps the stacks of threads that the child has not."""
    event = threading.Event()
    ended = [threading.Thread(target=event.wait) for _ in range(16)]
    for thread in ended:
        thread.start()
    event.set()
    for thread in ended:
        thread.join()


def told() -> dict[str, bool]:
    """The public callables that take a progress function, and whether they share their work out."""
    public = [name for name in dir(dbs_address_space) if not name.startswith("_")]
    named = {name: getattr(dbs_address_space, name) for name in public}
    found = dict(named)
    for name, kind in named.items():
        if inspect.isclass(kind):
            found |= {f"{name}.{verb}": getattr(kind, verb) for verb in dir(kind) if not verb.startswith("_")}
    parameters = {name: options(function) for name, function in found.items() if callable(function)}
    return {name: "threads" in options for name, options in parameters.items() if "progress" in options}


def options(function: Callable[..., object]) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return set()


CASES = [(name, threads) for name, shares in sorted(told().items()) for threads in ((None, 3) if shares else (None,))]


def test_every_call_that_tells_of_progress_is_tried(tmp_path: Path) -> None:
    assert set(Work(tmp_path).calls()) == set(told())
    assert len(CASES) > len(told())


@pytest.mark.parametrize(("name", "threads"), CASES)
def test_the_work_is_the_parents(tmp_path: Path, name: str, threads: int | None) -> None:
    work, parent = Work(tmp_path), os.getpid()
    reading, writing = os.pipe()
    child, is_refused = -1, False
    fill_the_stack_cache()

    def forks(_: object) -> None:
        nonlocal child
        if child < 0:
            child = fork()

    try:
        work.calls()[name](progress=forks, **({} if threads is None else {"threads": threads}))
    except ForkedProcess:
        is_refused = True
    if os.getpid() != parent:
        run_and_exit(lambda: None if is_refused else pytest.fail("it went on"), writing)
    os.close(writing)
    assert finish_child(child, reading, 30) == ""
    assert not is_refused
    work.saved.verify()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
