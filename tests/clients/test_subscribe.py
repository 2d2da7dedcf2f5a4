"""The protocol: clients prepare, commit and roll back, observers hear, and nothing is lost or left behind."""

import gc
import os
import pickle
import select
import sys
import threading
import time
import weakref
from functools import partial
from typing import Any

import pytest
from children import in_child
from dbs_address_space import (
    AddressSpace,
    AddressSpaceChange,
    AddressSpaceRegion,
    ClientError,
    ForkedProcess,
    NotMapped,
    ReentrantChange,
    RegionBusy,
    UnmappedAddress,
)
from kernel_view import maps_of
from memory_helpers import LAYOUT, PAGE, WINDOW, mapped, ram
from threads import run_threads

Log = list[tuple[str, str, AddressSpaceChange]]


class Recorder:
    """A client that notes what it is asked, and fails where it is told to."""

    def __init__(self, name: str, log: Log) -> None:
        self.name = name
        self.log = log
        self.fail: dict[str, BaseException] = {}
        self.regions: set[AddressSpaceRegion] = set()

    def _note(self, phase: str, change: AddressSpaceChange) -> None:
        self.log.append((self.name, phase, change))
        if phase in self.fail:
            raise self.fail[phase]

    def prepare(self, change: AddressSpaceChange) -> None:
        self._note("prepare", change)

    def commit(self, change: AddressSpaceChange) -> None:
        self._note("commit", change)
        self.regions -= {*change.removed, *(old for old, _ in change.replaced)}
        self.regions |= {*change.added, *(new for _, new in change.replaced)}

    def rollback(self, change: AddressSpaceChange) -> None:
        self._note("rollback", change)


@pytest.fixture
def log() -> Log:
    return []


@pytest.fixture
def regions() -> list[AddressSpaceRegion]:
    return [ram(0, name="low"), AddressSpaceRegion("device", WINDOW, PAGE, name="uart")]


def phases(log: Log) -> list[tuple[str, str]]:
    return [(name, phase) for name, phase, _ in log]


def test_attaching_offers_every_region_and_each_change_has_two_phases(space: AddressSpace, log: Log) -> None:
    client = Recorder("one", log)
    subscription = space.subscribe(client)
    assert log[0][2].added == space.regions
    assert not log[0][2].before.regions
    space.insert_region(ram(PAGE, name="high"))
    space.replace_region("high", space["high"].replace(name="top"))
    space.remove_region("top")
    assert phases(log) == [("one", "prepare"), ("one", "commit")] * 4
    assert all(before is after for (_, _, before), (_, _, after) in zip(log[::2], log[1::2], strict=True))
    assert client.regions == set(space)
    assert space.clients == (subscription,)
    assert subscription.client is client


def test_a_refusal_rolls_back_in_reverse_and_changes_nothing(space: AddressSpace, log: Log) -> None:
    first, second, third = (Recorder(name, log) for name in ("first", "second", "third"))
    for client in (first, second, third):
        space.subscribe(client)
    before, mappings = space.snapshot(), len(maps_of("memfd:high"))
    log.clear()
    third.fail["prepare"] = KeyError("no room")
    with pytest.raises(ClientError, match=r'"third" refused the change in prepare') as refused:
        space.insert_region(ram(PAGE, name="high"))
    assert phases(log) == [
        ("first", "prepare"),
        ("second", "prepare"),
        ("third", "prepare"),
        ("second", "rollback"),
        ("first", "rollback"),
    ]
    assert refused.value.client is third
    assert refused.value.change is log[-1][2] or refused.value.change == log[-1][2]
    assert isinstance(refused.value.__cause__, KeyError)
    assert space.snapshot() is before
    assert len(maps_of("memfd:high")) == mappings
    copy = pickle.loads(pickle.dumps(refused.value))
    assert str(copy) == str(refused.value)
    third.fail.clear()
    assert "high" in space.insert_region(ram(PAGE, name="high"))


def test_a_client_that_refuses_to_be_attached_is_not_there(space: AddressSpace, log: Log) -> None:
    client = Recorder("one", log)
    for phase in ("prepare", "commit"):
        client.fail = {phase: ValueError(phase)}
        with pytest.raises(ClientError, match=phase):
            space.subscribe(client)
        assert space.clients == ()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_is_no_exception_comes_out_as_it_is(space: AddressSpace, log: Log, kind: type[BaseException]) -> None:
    raised = kind()
    first, second = Recorder("first", log), Recorder("second", log)
    space.subscribe(first)
    space.subscribe(second)
    second.fail["prepare"] = raised
    with pytest.raises(kind) as caught:
        space.remove_region("low")
    assert caught.value is raised
    assert phases(log)[-1] == ("first", "rollback")
    assert "low" in space


@pytest.mark.parametrize("phase", ["commit", "rollback"])
def test_an_error_after_the_decision_is_on_the_subscription(
    space: AddressSpace, log: Log, unraisable: list[Any], phase: str
) -> None:
    client, other = Recorder("one", log), Recorder("other", log)
    subscription = space.subscribe(client)
    others = space.subscribe(other)
    client.fail[phase] = OSError(5, "broken")
    if phase == "rollback":
        other.fail["prepare"] = ValueError()
        with pytest.raises(ClientError):
            space.insert_region(ram(PAGE))
    else:
        assert len(space.insert_region(ram(PAGE))) == 3
    error = subscription.error
    assert isinstance(error, ClientError)
    assert error.client is client
    assert isinstance(error.__cause__, OSError)
    assert unraisable == [error]
    assert space.clients == (others,)
    assert "failed" in repr(subscription)
    other.fail.clear()
    log.clear()
    space.insert_region(ram(2 * PAGE))
    assert phases(log) == [("other", "prepare"), ("other", "commit")]


def test_an_observer_hears_of_what_was_published(space: AddressSpace, unraisable: list[Any]) -> None:
    heard: list[AddressSpaceChange] = []
    replayed: list[AddressSpaceChange] = []
    space.subscribe(heard.append)
    space.subscribe(replayed.append, replay=True)
    assert not heard
    assert replayed[0].added == space.regions
    published = space.insert_region(ram(PAGE))
    assert [change.after for change in heard] == [published]
    assert heard == replayed[1:]

    def fail(_change: AddressSpaceChange) -> None:
        raise ValueError("deaf")

    subscription = space.subscribe(fail)
    assert len(space.insert_region(ram(2 * PAGE))) == 4
    assert isinstance(subscription.error, ClientError)
    assert isinstance(subscription.error.__cause__, ValueError)
    assert unraisable == [subscription.error]


@pytest.mark.parametrize(
    "wrong", [3, "text", type("Half", (), {"prepare": print, "commit": print})()], ids=["int", "str", "no rollback"]
)
def test_what_is_no_client_is_refused(space: AddressSpace, wrong: object) -> None:
    with pytest.raises(TypeError, match=r"prepare|rollback"):
        space.subscribe(wrong)  # type: ignore[arg-type]
    assert space.clients == ()


def test_a_client_sees_the_host_side_in_its_phases_only(space: AddressSpace) -> None:
    seen: dict[str, Any] = {}

    class Client:
        def prepare(self, change: AddressSpaceChange) -> None:
            for region in (*change.added, *change.removed):
                if region.region_type.value == "ram":
                    seen[region.name or ""] = change.mapping(region)
                else:
                    with pytest.raises(UnmappedAddress):
                        change.mapping(region)
            if change.added and change.added[0].name == "high":
                assert "high" not in space
            seen["change"] = change

        def commit(self, change: AddressSpaceChange) -> None:
            for region in change.removed:
                assert change.mapping(region) == seen[region.name or ""]

        def rollback(self, change: AddressSpaceChange) -> None: ...

    space.subscribe(Client())
    assert seen["low"] == space.memory.mapping(0)
    space.insert_region(ram(PAGE, name="high"))
    assert seen["high"] == space.memory.mapping(PAGE)
    space.remove_region("high")
    with pytest.raises(NotMapped):
        seen["change"].mapping(space["low"])
    with pytest.raises(NotMapped):
        space.snapshot().diff(space.snapshot()).mapping(space["low"])


def test_memory_that_comes_and_goes_is_a_change_too(log: Log) -> None:
    space = AddressSpace.from_regions([ram(0, name="low")], LAYOUT)
    client = Recorder("one", log)
    heard: list[AddressSpaceChange] = []
    space.subscribe(client)
    space.subscribe(heard.append)
    low = space["low"]

    def last() -> tuple[tuple[AddressSpaceRegion, ...], tuple[AddressSpaceRegion, ...]]:
        return log[-1][2].added, log[-1][2].removed

    memory = space.map_memory()
    assert last() == ((low,), (low,))
    assert not heard
    memory.close()
    assert last() == ((), (low,))
    assert heard[-1].removed == (low,)
    assert client.regions == set()
    space.insert_region(ram(PAGE, name="high"))
    assert len(heard) == 1
    memory = space.map_memory()
    assert last() == (space.regions, ())
    assert client.regions == set(space)
    client.fail["prepare"] = ValueError()
    with pytest.raises(ClientError):
        memory.close()
    assert memory.read(0, 1) == b"\0"


@pytest.mark.parametrize("phase", ["prepare", "commit", "rollback"])
def test_a_change_from_inside_a_change_is_refused_at_once(space: AddressSpace, phase: str) -> None:
    refused: list[Exception] = []
    view_error: list[Exception] = []

    class Client:
        def _try(self, here: str, change: AddressSpaceChange) -> None:
            if here != phase or not change.removed:
                return
            for verb in (lambda: space.insert_region(ram(4 * PAGE)), lambda: space.subscribe(print), space.map_memory):
                with pytest.raises(ReentrantChange, match=phase) as error:
                    verb()
                refused.append(error.value)
            if phase == "prepare":
                with pytest.raises(ReentrantChange) as error:
                    space.memory.view(0, 1)
                view_error.append(error.value)

        def prepare(self, change: AddressSpaceChange) -> None:
            self._try("prepare", change)

        def commit(self, change: AddressSpaceChange) -> None:
            self._try("commit", change)

        def rollback(self, change: AddressSpaceChange) -> None:
            self._try("rollback", change)

    space.subscribe(Client())
    veto = Recorder("veto", [])
    space.subscribe(veto)
    if phase == "rollback":
        veto.fail["prepare"] = ValueError()
        with pytest.raises(ClientError):
            space.remove_region("low")
    else:
        space.remove_region("low")
    assert len(refused) == 3
    assert len(view_error) == (phase == "prepare")


def test_clients_hear_of_an_insertion_through_a_reservation_whose_space_is_held_by_nothing_else(log: Log) -> None:
    space = AddressSpace(LAYOUT)
    space.subscribe(Recorder("one", log))
    room = space.reserve(PAGE, owner="dimm", base=0)
    log.clear()
    del space
    room.insert_region(ram(0))
    assert phases(log) == [("one", "prepare"), ("one", "commit")]


def test_closing_ends_it_also_from_inside(space: AddressSpace, log: Log) -> None:
    client = Recorder("one", log)
    with space.subscribe(client) as subscription:
        pass
    subscription.close()
    once: list[AddressSpaceChange] = []

    def only_once(change: AddressSpaceChange) -> None:
        once.append(change)
        observer.close()

    observer = space.subscribe(only_once)
    log.clear()
    space.insert_region(ram(PAGE))
    space.insert_region(ram(2 * PAGE))
    assert not log
    assert len(once) == 1
    assert space.clients == ()
    assert "detached" in repr(subscription)


def test_the_descriptor_is_readable_behind_each_change(space: AddressSpace) -> None:
    subscription = space.subscribe(lambda _: None)
    assert not select.select([subscription], [], [], 0)[0]
    space.insert_region(ram(PAGE))
    space.remove_region(PAGE)
    assert select.select([subscription], [], [], 0)[0]
    assert os.eventfd_read(subscription.fileno()) == 2
    assert not select.select([subscription], [], [], 0)[0]


def test_a_client_that_refers_to_its_space_is_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    space, memory = mapped(ram(0))

    class Client(Recorder):
        def __init__(self, space: AddressSpace, memory: object) -> None:
            super().__init__("mine", [])
            self.held = space, memory
            self.subscription = space.subscribe(self)

    client = Client(space, memory)
    client.fail["commit"] = ValueError()
    gone = weakref.ref(client)
    assert space.insert_region(ram(PAGE, name="garbage"))
    assert isinstance(client.subscription.error, ClientError)
    assert maps_of("memfd:garbage")
    del client, space, memory
    gc.collect()
    assert gone() is None
    assert not maps_of("memfd:garbage")


@pytest.mark.usefixtures("constant_switches")
def test_changes_and_subscriptions_from_many_threads_end(space: AddressSpace) -> None:
    """Each client keeps its own map of the regions, and all agree in the end."""
    clients = [Recorder(f"client {number}", []) for number in range(4)]
    done = threading.Event()

    def plug(number: int) -> None:
        base = (16 + number) * PAGE
        for _ in range(150):
            space.insert_region(ram(base))
            space.remove_region(base)

    def come_and_go(client: Recorder) -> None:
        while not done.is_set():
            client.regions = set()
            with space.subscribe(client):
                time.sleep(0.001)
                gc.collect(0)

    for client in clients[:2]:
        space.subscribe(client)

    def plug_all() -> None:
        try:
            run_threads(*(partial(plug, number) for number in range(3)))
        finally:
            done.set()

    run_threads(plug_all, *(partial(come_and_go, client) for client in clients[2:]))
    assert space.generation == 3 * 150 * 2
    assert [client.regions for client in clients[:2]] == [set(space)] * 2


def test_a_prepare_that_waits_for_a_thread_that_waits_for_it_is_named(space: AddressSpace) -> None:
    refused: list[BaseException] = []

    def change_or_lease(verb: Any) -> None:
        try:
            verb()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test looks at it
            refused.append(error)

    class Deadlocking:
        name = "deadlocking"

        def prepare(self, change: AddressSpaceChange) -> None:
            if change.removed:
                verbs = (lambda: space.insert_region(ram(PAGE)), lambda: space.memory.view(0, 1))
                threads = [threading.Thread(target=change_or_lease, args=(verb,)) for verb in verbs]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()

        def commit(self, change: AddressSpaceChange) -> None: ...
        def rollback(self, change: AddressSpaceChange) -> None: ...

    space.subscribe(Deadlocking())
    assert len(space.remove_region("low")) == 1
    assert len(refused) == 2
    for error in refused:
        assert isinstance(error, ClientError)
        assert 'prepare of client "deadlocking" since 10.' in str(error)


def test_a_removal_that_a_client_vetoes_makes_nobody_else_fail(space: AddressSpace) -> None:
    in_prepare, go_on = threading.Event(), threading.Event()

    class Veto:
        def prepare(self, change: AddressSpaceChange) -> None:
            if change.removed:
                in_prepare.set()
                go_on.wait(30)
                raise ValueError("stays")

        def commit(self, change: AddressSpaceChange) -> None: ...
        def rollback(self, change: AddressSpaceChange) -> None: ...

    space.subscribe(Veto())
    views: list[memoryview] = []

    def remove() -> None:
        with pytest.raises(ClientError):
            space.remove_region("low")

    remover = threading.Thread(target=remove)
    remover.start()
    assert in_prepare.wait(30)
    viewer = threading.Thread(target=lambda: views.append(space.memory.view(0, 16)))
    viewer.start()
    time.sleep(0.1)
    assert not views
    go_on.set()
    viewer.join(30)
    remover.join(30)
    assert len(views) == 1
    with pytest.raises(RegionBusy):
        space.remove_region("low")


def test_a_forked_child_subscribes_and_closes_nothing(space: AddressSpace, log: Log) -> None:
    subscription = space.subscribe(Recorder("one", log))
    log.clear()

    def child() -> None:
        for verb in (lambda: space.subscribe(print), subscription.close, lambda: space.remove_region("low")):
            with pytest.raises(ForkedProcess):
                verb()
        assert not log

    in_child(child)
