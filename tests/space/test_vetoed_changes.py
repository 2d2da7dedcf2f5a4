"""A change that is refused in the end fails nobody else: whoever meets a closing region waits for the outcome."""

import tempfile
import threading
from collections.abc import Callable
from typing import Any

import pytest
from dbs_address_space import AddressSpace, AddressSpaceRegion, ClientError, GuestMemory
from memory_helpers import GIB, MIB, PAGE, WINDOW, mapped, ram
from verbs import OTHER, VERBS, Verb

AT, SIZE = GIB, 8 * MIB
LONG = 5 * MIB


class Meanwhile:
    """Begins something in another thread while a change is being decided, and then refuses the change."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.thread = threading.Thread(target=self.run)
        self.work = work
        self.raised: BaseException | None = None
        self.is_armed = False

    def run(self) -> None:
        try:
            self.work()
        except BaseException as error:  # noqa: BLE001  raised again in the test
            self.raised = error

    def prepare(self, _change: Any) -> None:
        if self.is_armed:
            self.thread.start()
            # It waits for the outcome, so this gives it time to begin.
            self.thread.join(0.05)
            raise ValueError("veto")

    def commit(self, _change: Any) -> None: ...
    def rollback(self, _change: Any) -> None: ...


def during_a_vetoed(change: Callable[[], object], space: AddressSpace, work: Callable[[], object]) -> None:
    client = Meanwhile(work)
    with space.subscribe(client):
        client.is_armed = True
        with pytest.raises(ClientError, match="veto"):
            change()
        client.thread.join()
    if client.raised:
        raise client.raised


CHANGES: dict[str, Callable[[AddressSpace], object]] = {
    "remove": lambda space: space.remove_region("attacked"),
    "restrict": lambda space: space.replace_region("attacked", space["attacked"].replace(prot_flags="r--")),
    "close": lambda space: space.memory.close(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.kind not in {"query", "change"}], ids=str)
def test_no_verb_fails_for_a_change_that_is_vetoed(verb: Verb, change: str) -> None:
    space, memory = mapped(ram(OTHER, SIZE, name="other"), ram(AT, SIZE, name="attacked"))
    size = verb.fitting(LONG)
    during_a_vetoed(lambda: CHANGES[change](space), space, lambda: verb(memory, AT, size))


WINDOW_VERBS: dict[str, Callable[[Any, Any], object]] = {
    "map_file": lambda window, file: window.map_file(PAGE, file, 0, PAGE),
    "unmap": lambda window, _file: window.unmap(0, PAGE),
    "mappings": lambda window, _file: window.mappings,
}


@pytest.mark.parametrize("change", ["remove", "close"])
@pytest.mark.parametrize("verb", WINDOW_VERBS)
def test_no_verb_of_a_window_fails_for_it(verb: str, change: str) -> None:
    space, memory = mapped(AddressSpaceRegion.create_dax_region(WINDOW, 16 * PAGE, name="attacked"))
    window = memory.dax_window("attacked")
    with tempfile.TemporaryFile() as file:
        file.truncate(PAGE)
        window.map_file(0, file, 0, PAGE)
        during_a_vetoed(lambda: CHANGES[change](space), space, lambda: WINDOW_VERBS[verb](window, file))
    assert len(window.mappings) == {"map_file": 2, "unmap": 0, "mappings": 1}[verb]


def export(memory: GuestMemory) -> Callable[[], object]:
    view = memory.view(AT, PAGE)
    exporter = view.obj
    view.release()
    return lambda: bytes(memoryview(exporter)[:4])


def open_file(memory: GuestMemory) -> Callable[[], object]:
    file = memory.open()
    file.seek(AT)
    return lambda: file.read(LONG)


HANDLES: dict[str, Callable[[GuestMemory], Callable[[], object]]] = {
    "an exporter": export,
    "a file": open_file,
    "background": lambda memory: lambda: memory.prealloc("attacked", background=True).wait(20),
    "search": lambda memory: lambda: list(memory.search(b"needle")),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("handle", HANDLES)
def test_no_handle_fails_for_it(handle: str, change: str) -> None:
    space, memory = mapped(ram(AT, SIZE, name="attacked"))
    during_a_vetoed(lambda: CHANGES[change](space), space, HANDLES[handle](memory))
