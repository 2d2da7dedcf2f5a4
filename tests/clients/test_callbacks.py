"""Callbacks that would never run, because calling them only makes a coroutine, are refused by name."""

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from dbs_address_space import AddressSpace, AddressSpaceRegion, ClientError
from dbs_address_space.adapters import qemu
from memory_helpers import MIB, PAGE, WINDOW, mapped, ram


async def coroutine(*_: Any) -> None: ...


async def generator(*_: Any) -> Any:
    yield


class Called:
    async def __call__(self, *_: Any) -> None: ...


class Client:
    def prepare(self, change: Any) -> None: ...
    def commit(self, change: Any) -> None: ...
    def rollback(self, change: Any) -> None: ...
    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None: ...


def client(phase: str) -> Any:
    return type("Half", (Client,), {phase: coroutine})()


TAKERS: dict[str, Callable[[AddressSpace, Any], object]] = {
    "subscribe": lambda space, function: space.subscribe(function),
    "walk_regions": lambda space, function: space.walk_regions(function),
    "snapshot.walk_regions": lambda space, function: space.snapshot().walk_regions(function),
    "map_memory": lambda space, function: space.map_memory(progress=function),
    "copy": lambda space, function: space.memory.copy(0, PAGE, PAGE, progress=function),
    "hash": lambda space, function: space.memory.hash(0, PAGE, progress=function),
    "search": lambda space, function: space.memory.search(b"x", progress=function),
    "prealloc": lambda space, function: space.memory.prealloc(progress=function),
}


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize(
    "function", [coroutine, generator, Called(), partial(coroutine)], ids=["async", "generator", "call", "partial"]
)
def test_coroutine_functions_are_refused(taker: str, function: Any) -> None:
    space, _ = mapped(ram(0, MIB))
    with pytest.raises(TypeError, match="coroutine function"):
        TAKERS[taker](space, function)
    assert space.clients == ()


@pytest.mark.parametrize("phase", ["prepare", "commit", "rollback", "leave"])
def test_phases_that_are_coroutine_functions_are_refused(phase: str) -> None:
    space, _ = mapped(ram(0))
    with pytest.raises(TypeError, match=f"the client's {phase} is the coroutine function"):
        space.subscribe(client(phase))
    assert space.clients == ()


@pytest.mark.parametrize("verb", ["read", "write"])
def test_handlers_with_coroutine_functions_are_refused(verb: str) -> None:
    space, _ = mapped(AddressSpaceRegion("device", WINDOW, PAGE, name="uart"))
    with pytest.raises(TypeError, match=f"the handler's {verb} is the coroutine function"):
        space.attach_device("uart", client(verb))
    space.attach_device("uart", Client())


def makes_a_coroutine(*_: Any) -> Any:
    return coroutine()


def phase_that_makes_a_coroutine(phase: str) -> Any:
    return type("Half", (Client,), {phase: makes_a_coroutine})()


@pytest.mark.parametrize("taker", ["walk_regions", "snapshot.walk_regions", "prealloc"])
def test_a_function_that_returns_a_coroutine_is_an_error(taker: str) -> None:
    space, _ = mapped(ram(0, MIB))
    with pytest.raises(TypeError, match="returned a coroutine, which nobody awaits"):
        TAKERS[taker](space, makes_a_coroutine)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_observer_that_answers_with_a_coroutine_is_ended() -> None:
    space, _ = mapped(ram(0, MIB))
    attachment = space.subscribe(makes_a_coroutine)
    space.insert_region(ram(MIB))
    assert isinstance(attachment.error, ClientError)
    assert "returned a coroutine" in str(attachment.error)


@pytest.mark.parametrize("phase", ["prepare", "commit"])
def test_a_client_that_answers_with_a_coroutine_is_refused(phase: str) -> None:
    space, _ = mapped(ram(0, MIB))
    with pytest.raises(ClientError, match=f"{phase} returned a coroutine"):
        space.subscribe(phase_that_makes_a_coroutine(phase))


@pytest.mark.parametrize("value", [None, 1])
def test_a_handler_that_returns_a_coroutine_is_an_error(value: int | None) -> None:
    space, _ = mapped(AddressSpaceRegion("device", WINDOW, PAGE, name="uart"))
    space.attach_device("uart", SimpleNamespace(read=makes_a_coroutine, write=makes_a_coroutine))
    with pytest.raises(TypeError, match="returned a coroutine"):
        space.dispatch(WINDOW, 1, value)


def test_a_file_that_returns_a_coroutine_is_an_error() -> None:
    _, memory = mapped(ram(0, MIB))
    with pytest.raises(TypeError, match="the file returned a coroutine"):
        memory.read_from(SimpleNamespace(readinto=makes_a_coroutine), 0, 8)
    with pytest.raises(TypeError, match="the file returned a coroutine"):
        memory.write_to(SimpleNamespace(write=makes_a_coroutine), 0, 8)


@pytest.mark.parametrize("execute", [coroutine, makes_a_coroutine])
def test_a_monitor_that_returns_a_coroutine_is_an_error(execute: Any) -> None:
    with pytest.raises(TypeError, match="execute returned a coroutine"):
        qemu.read_space(execute)


def yields(*_: object) -> Iterator[None]:
    yield


class Yields:
    prepare = commit = rollback = yields


@pytest.mark.parametrize("client", [yields, Yields()])
def test_a_generator_function_would_never_run(client: Any) -> None:
    with pytest.raises(TypeError, match="is the generator function"):
        mapped(ram(0))[0].subscribe(client)
