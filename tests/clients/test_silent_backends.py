"""vhost-user: a back-end that says nothing holds up nobody who presses Ctrl-C, detaches it or drops the space."""

import gc
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from children import in_child
from dbs_address_space import AddressSpace, BackingError, ReentrantChange, VhostUserClient
from memory_helpers import MIB, PAGE, mapped, ram
from vhost_user_backend import ADD_MEM_REG, GET_FEATURES, KINDS, REM_MEM_REG, SET_OWNER, Backend

FREE = 64 * MIB
SOON = 20
"""Seconds within which something must have happened that could take for ever."""


@contextmanager
def ctrl_c(after: float = 0.1) -> Iterator[None]:
    """A signal that raises KeyboardInterrupt in the main thread, as Ctrl-C does."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, after)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def attached(timeout: float) -> tuple[AddressSpace, Backend, VhostUserClient]:
    space, _ = mapped(ram(0, MIB, name="low"))
    backend = Backend(KINDS["slots"])
    return space, backend, space.attach_vhost_user(backend.front, timeout=timeout)


class Veto:
    """Refuses each change behind the others."""

    armed = False

    def prepare(self, _change: Any) -> None:
        if self.armed:
            raise ValueError("veto")

    def commit(self, _change: Any) -> None: ...
    def rollback(self, _change: Any) -> None: ...


def end_attach(timeout: float) -> None:
    space, _ = mapped(ram(0, MIB))
    for request in (GET_FEATURES, ADD_MEM_REG):
        backend = Backend(KINDS["slots"])
        backend.silent.add(request)
        with ctrl_c():
            space.attach_vhost_user(backend.front, timeout=timeout)
        assert space.clients == ()
        assert len(space.insert_region(ram(FREE))) == 2
        space.remove_region(FREE)


def end_prepare(timeout: float) -> None:
    space, backend, client = attached(timeout)
    before = space.snapshot()
    backend.silent.add(ADD_MEM_REG)
    with ctrl_c():
        space.insert_region(ram(FREE))
    assert space.snapshot() is before
    assert client.is_attached
    with pytest.raises(BackingError, match=r"lost, detach it: .* was interrupted"):
        space.insert_region(ram(FREE))
    client.detach()
    space.insert_region(ram(FREE))


def end_commit(timeout: float) -> None:
    space, backend, client = attached(timeout)
    backend.silent.add(REM_MEM_REG)
    with ctrl_c():
        space.remove_region("low")
    assert len(space) == 0
    assert not client.is_attached
    assert "request 38 was interrupted" in str(client.error)


def end_rollback(timeout: float) -> None:
    space, backend, client = attached(timeout)
    veto = Veto()
    space.subscribe(veto)
    veto.armed = True
    before = space.snapshot()
    backend.silent.add(REM_MEM_REG)
    with ctrl_c():
        space.insert_region(ram(FREE))
    assert space.snapshot() is before
    assert "request 38 was interrupted" in str(client.error)


def end_messages(timeout: float) -> None:
    for verb in (VhostUserClient.send, VhostUserClient.ask):
        _, backend, client = attached(timeout)
        backend.silent.add(77)
        with ctrl_c():
            verb(client, 77)


def end_a_wait_for_another_message(timeout: float) -> None:
    space, backend, client = attached(timeout)
    backend.silent.add(77)

    def ask() -> None:
        with suppress(BackingError):
            client.ask(77)

    waiting = threading.Thread(target=ask)
    waiting.start()
    while 77 not in backend.requests:
        time.sleep(0.001)
    assert len(client.table) == 1
    with ctrl_c():
        client.send(SET_OWNER)
    with ctrl_c():
        space.insert_region(ram(FREE))
    client.detach()
    waiting.join(SOON)
    assert not waiting.is_alive()


ENDS = [end_attach, end_prepare, end_commit, end_rollback, end_messages, end_a_wait_for_another_message]


@pytest.mark.parametrize("timeout", [500, math.inf])
@pytest.mark.parametrize("end", ENDS)
def test_ctrl_c_ends_every_wait_for_a_back_end(end: Callable[[float], None], timeout: float) -> None:
    def run() -> None:
        # Signals are what this is about, unraisable exceptions what it brings.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.unraisablehook", lambda _: None)
            end(timeout)

    in_child(run, timeout=SOON)


def test_a_handler_that_returns_ends_no_wait() -> None:
    _, backend, client = attached(SOON)
    handled: list[object] = []

    def handle(*_: object) -> None:
        handled.append(client.table)
        # The wait for the answer goes on behind it, so that this message would wait for itself.
        with pytest.raises(ReentrantChange):
            client.send(SET_OWNER)

    backend.delay = 0.5
    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        assert len(client.ask(GET_FEATURES)) == 8
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(handled) == 1
    client.send(SET_OWNER)
    client.detach()


@pytest.mark.parametrize("timeout", [500, math.inf])
def test_detaching_does_not_wait_for_a_silent_back_end(timeout: float) -> None:
    def detach() -> None:
        _, backend, client = attached(timeout)
        backend.silent.add(REM_MEM_REG)
        with pytest.raises(BackingError, match="did not answer request 38 within 1 s"):
            client.detach()
        assert not client.is_attached

    in_child(detach, timeout=SOON)


def test_detaching_ends_the_change_that_waits_for_the_back_end() -> None:
    def detach() -> None:
        space, backend, client = attached(math.inf)
        backend.silent.add(ADD_MEM_REG)
        raised: list[BackingError] = []

        def insert() -> None:
            try:
                space.insert_region(ram(FREE))
            except BackingError as error:
                raised.append(error)

        change = threading.Thread(target=insert)
        change.start()
        while backend.requests.count(ADD_MEM_REG) < 2:
            time.sleep(0.001)
        client.detach()
        change.join(SOON)
        assert raised
        assert len(space) == 1
        assert space.clients == ()

    in_child(detach, timeout=SOON)


def test_a_space_is_dropped_without_a_wait_for_a_silent_back_end() -> None:
    def drop() -> None:
        space, backend, client = attached(math.inf)
        backend.silent.add(REM_MEM_REG)
        del space, client
        gc.collect()
        backend.front.close()
        # The duplicate is closed, too: the back-end sees the end.
        backend.join(SOON)
        assert not backend.is_alive()

    in_child(drop, timeout=SOON)


def test_a_region_in_the_place_of_another_is_taken_back() -> None:
    """A refused change brings back what was at the same base, whichever step of it failed."""
    space, backend, client = attached(SOON)
    veto = Veto()
    space.subscribe(veto)
    table = dict(backend.table)

    def swap() -> None:
        with space.transaction() as change:
            change.remove_region("low")
            change.insert_region(ram(0, 2 * MIB, name="larger"))
            change.insert_region(ram(FREE, PAGE, name="refused"))

    veto.armed = True
    with pytest.raises(Exception, match="veto"):
        swap()
    assert backend.table == table
    backend.refuse_bases.add(FREE)
    with pytest.raises(BackingError, match="refused request 37"):
        swap()
    assert backend.table == table
    assert client.is_attached
    client.detach()
