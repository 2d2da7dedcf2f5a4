"""One contract for all that follows a space: whatever attaches it, the same handle, the same ends, and no trace behind."""

import gc
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import drgn
import pytest
import unicorn
from dbs_address_space import (
    AddressSpace,
    AddressSpaceChange,
    AddressSpaceRegion,
    Attachment,
    BackingError,
    ClientError,
    ForkedProcess,
    KvmSlots,
    Subscription,
    UnmappedAddress,
    VhostUserClient,
)
from memory_helpers import MIB, PAGE, WINDOW, descriptors, in_child, mapped, maps_of, ram, run_threads
from test_vhost_user import KINDS, REM_MEM_REG, Backend
from virtual_machines import Vm

FREE, UART = 64 * MIB, WINDOW


class Kind:
    """One way to attach something, and what stands at the other side."""

    verb = "subscribe"
    is_region_bound = False
    """Whether it ends with its region."""

    def attach(self, space: AddressSpace) -> Attachment:
        raise NotImplementedError

    def sees(self, space: AddressSpace) -> bool:
        """Whether the other side has what the space has."""
        raise NotImplementedError

    def break_commit(self) -> None:
        """Makes the next removal fail after its publication; kinds without it can't fail there."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends the other side."""


class Mirror:
    """A client with all four methods."""

    name = "mirror"

    def __init__(self) -> None:
        self.regions: set[AddressSpaceRegion] = set()
        self.broken = False
        self.left = 0

    def prepare(self, change: AddressSpaceChange) -> None: ...

    def commit(self, change: AddressSpaceChange) -> None:
        if self.broken:
            raise ValueError("broken")
        self.regions = (self.regions - set(change.removed)) | set(change.added)

    def rollback(self, change: AddressSpaceChange) -> None: ...

    def leave(self) -> None:
        self.left += 1
        self.regions.clear()


class ClientKind(Kind):
    def __init__(self) -> None:
        self.client = Mirror()

    def attach(self, space: AddressSpace) -> Attachment:
        return space.subscribe(self.client)

    def sees(self, space: AddressSpace) -> bool:
        return self.client.regions == set(space) != set()

    def break_commit(self) -> None:
        self.client.broken = True


class Listener:
    """Hears of changes, and raises when it is told to."""

    def __init__(self) -> None:
        self.heard = 0
        self.broken = False

    def __call__(self, _change: AddressSpaceChange) -> None:
        self.heard += 1
        if self.broken:
            raise ValueError("broken")


class ObserverKind(Kind):
    def __init__(self) -> None:
        self.client = Listener()

    def attach(self, space: AddressSpace) -> Attachment:
        return space.subscribe(self.client)

    def sees(self, space: AddressSpace) -> bool:
        heard = self.client.heard
        space.insert_region(ram(FREE))
        space.remove_region(FREE)
        return self.client.heard == heard + 2

    def break_commit(self) -> None:
        self.client.broken = True


class KvmKind(Kind):
    verb = "attach_kvm"

    def __init__(self) -> None:
        self.vm = Vm()
        self.slots: weakref.ref[KvmSlots] | None = None

    def attach(self, space: AddressSpace) -> Attachment:
        slots = space.attach_kvm(self.vm.fd)
        self.slots = weakref.ref(slots)
        return slots

    def sees(self, space: AddressSpace) -> bool:
        """Whether KVM has a slot there, so that it takes no other."""
        host = space.memory.host_address(0)
        try:
            self.vm.set_slot(100, 0, PAGE, host)
        except OSError:
            return True
        self.vm.set_slot(100, 0, 0)
        return False

    def break_commit(self) -> None:
        self.vm.set_slot(0, 0, 0)

    def close(self) -> None:
        self.vm.close()


class VhostUserKind(Kind):
    verb = "attach_vhost_user"

    def __init__(self) -> None:
        self.backend = Backend(KINDS["slots"], slots=8)

    def attach(self, space: AddressSpace) -> Attachment:
        return space.attach_vhost_user(self.backend.front, timeout=20)

    def sees(self, space: AddressSpace) -> bool:
        return set(self.backend.table) == {region.guest_phys_addr for region in space.memory.vhost_user_regions()}

    def break_commit(self) -> None:
        self.backend.refuse.add(REM_MEM_REG)

    def close(self) -> None:
        self.backend.close()


class UnicornKind(Kind):
    verb = "attach_unicorn"

    def __init__(self) -> None:
        self.uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)

    def attach(self, space: AddressSpace) -> Attachment:
        return space.attach_unicorn(self.uc)

    def sees(self, space: AddressSpace) -> bool:
        return {region.base for region in space} <= {begin for begin, *_ in self.uc.mem_regions()}

    def break_commit(self) -> None:
        self.uc.mem_unmap(0, MIB)


class DrgnKind(Kind):
    verb = "attach_drgn"

    def __init__(self) -> None:
        self.program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))

    def attach(self, space: AddressSpace) -> Attachment:
        return space.attach_drgn(self.program)

    def sees(self, space: AddressSpace) -> bool:
        space.memory.write_u64(8, 77)
        with suppress(drgn.FaultError):
            return bool(self.program.read_u64(8, physical=True) == 77)
        return False


class Handler:
    """A device that answers one number."""

    def read(self, _offset: int, _size: int) -> int:
        return 7

    def write(self, offset: int, size: int, value: int) -> None: ...


class DeviceKind(Kind):
    verb = "attach_device"
    is_region_bound = True

    def __init__(self) -> None:
        self.handler = Handler()

    def attach(self, space: AddressSpace) -> Attachment:
        return space.attach_device("uart", self.handler)

    def sees(self, space: AddressSpace) -> bool:
        with suppress(UnmappedAddress):
            return space.dispatch(UART, 1) == 7
        return False


ATTACHED: dict[str, type[Kind]] = {kind.__name__.removesuffix("Kind"): kind for kind in Kind.__subclasses__()}
CAN_FAIL = [name for name, kind in ATTACHED.items() if "break_commit" in vars(kind)]


@pytest.fixture(params=ATTACHED)
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    kind = ATTACHED[request.param]()
    yield kind
    kind.close()


@pytest.fixture
def space() -> AddressSpace:
    space, _ = mapped(ram(0, MIB, name="attached"), AddressSpaceRegion("device", UART, PAGE, name="uart"))
    return space


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    raised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised_: raised.append(raised_.exc_value))
    return raised


def assert_over(space: AddressSpace, attachment: Attachment, kind: Kind) -> None:
    assert not attachment.is_attached
    assert attachment not in space.clients
    assert not kind.sees(space)
    attachment.detach()
    attachment.close()


def test_every_verb_has_a_kind() -> None:
    verbs = {name for name in dir(AddressSpace) if name.startswith("attach_")} | {"subscribe"}
    assert {kind.verb for kind in ATTACHED.values()} == verbs


def test_an_attachment_is_made_by_a_verb_only() -> None:
    assert all(issubclass(cls, Attachment) for cls in (Subscription, KvmSlots, VhostUserClient))
    for cls in (Attachment, Subscription, KvmSlots, VhostUserClient):
        with pytest.raises(TypeError):
            cls()


def test_it_is_listed_until_it_is_detached(kind: Kind, space: AddressSpace) -> None:
    first = space.subscribe(lambda _: None)
    attachment = kind.attach(space)
    last = space.subscribe(lambda _: None)
    assert isinstance(attachment, Attachment)
    assert list(space.clients) == [first, attachment, last]
    assert space.clients[1] is attachment
    assert attachment.is_attached
    assert attachment.error is None
    assert kind.sees(space)
    attachment.detach()
    assert list(space.clients) == [first, last]
    assert_over(space, attachment, kind)
    assert attachment.error is None


@pytest.mark.parametrize("end", ["with", "close", "raise"])
def test_with_and_close_end_it_too(kind: Kind, space: AddressSpace, end: str) -> None:
    attachment = kind.attach(space)
    if end == "close":
        attachment.close()
    else:
        with suppress(ZeroDivisionError), attachment as same:
            assert same is attachment
            assert kind.sees(space)
            if end == "raise":
                raise ZeroDivisionError
    assert_over(space, attachment, kind)


def test_it_can_be_attached_again(kind: Kind, space: AddressSpace) -> None:
    for _ in range(3):
        with kind.attach(space) as attachment:
            assert kind.sees(space)
        assert_over(space, attachment, kind)


@pytest.mark.parametrize("kind", CAN_FAIL, indirect=True)
def test_an_error_after_the_publication_ends_it(kind: Kind, space: AddressSpace, unraisable: list[Any]) -> None:
    attachment = kind.attach(space)
    space.insert_region(ram(FREE, name="other"))
    kind.break_commit()
    assert "attached" not in space.remove_region("attached")
    assert isinstance(attachment.error, (ClientError, BackingError))
    assert [str(error) for error in unraisable] == [str(attachment.error)]
    assert not attachment.is_attached
    assert space.clients == ()
    space.insert_region(ram(2 * FREE, name="later"))
    error = attachment.error
    with suppress(ClientError, BackingError):
        attachment.detach()
    attachment.detach()
    assert attachment.error is error


@pytest.mark.parametrize("kind", CAN_FAIL, indirect=True)
def test_a_failure_of_one_that_nobody_holds_is_told_and_leaves_nothing(
    kind: Kind, space: AddressSpace, unraisable: list[Any]
) -> None:
    gone = weakref.ref(kind.attach(space))
    assert gone() is not None
    kind.break_commit()
    space.remove_region("attached")
    assert len(unraisable) == 1
    unraisable.clear()
    assert gone() is None
    assert space.clients == ()


def test_it_ends_with_its_region(kind: Kind, space: AddressSpace) -> None:
    attachment = kind.attach(space)
    space.remove_region("uart")
    assert attachment.is_attached != kind.is_region_bound
    assert (attachment in space.clients) != kind.is_region_bound
    assert attachment.error is None
    if kind.is_region_bound:
        assert_over(space, attachment, kind)
    attachment.detach()


def test_memory_that_is_closed_and_mapped_again_does_not_end_it(kind: Kind, space: AddressSpace) -> None:
    attachment = kind.attach(space)
    space.memory.close()
    assert attachment.is_attached
    space.map_memory()
    assert attachment.is_attached
    assert kind.sees(space)
    attachment.detach()
    assert_over(space, attachment, kind)


def test_it_keeps_its_space_until_it_is_detached(kind: Kind) -> None:
    space, memory = mapped(ram(0, MIB, name="held-low"), AddressSpaceRegion("device", UART, PAGE, name="uart"))
    attachment = kind.attach(space)
    del space, memory
    gc.collect()
    assert attachment.is_attached
    assert maps_of("memfd:held-low")
    attachment.detach()
    gc.collect()
    assert not attachment.is_attached
    assert not maps_of("memfd:held-low")


def test_with_its_handle_and_its_space_everything_goes(kind: Kind) -> None:
    before = descriptors()
    space, memory = mapped(ram(0, MIB, name="dropped-low"), AddressSpaceRegion("device", UART, PAGE, name="uart"))
    kind.attach(space)
    if isinstance(kind, UnicornKind):
        del kind.uc  # the engine has pointers into the memory, which it keeps
    if isinstance(kind, DrgnKind):
        del kind.program  # so does the program
    del space, memory
    gc.collect()
    assert not maps_of("memfd:dropped-low")
    assert descriptors() == before


class Phases(Mirror):
    """Calls a function in the phase that it is told, and notes all phases."""

    def __init__(self, phase: str = "", action: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.phase = phase
        self.action = action
        self.log: list[str] = []

    def enter(self, phase: str) -> None:
        if self.action:
            self.log.append(phase)
            if phase == self.phase:
                self.action()

    def prepare(self, _change: AddressSpaceChange) -> None:
        self.enter("prepare")

    def commit(self, _change: AddressSpaceChange) -> None:
        self.enter("commit")

    def rollback(self, _change: AddressSpaceChange) -> None:
        self.enter("rollback")

    def leave(self) -> None:
        self.enter("leave")


def refuse() -> None:
    raise ValueError


@pytest.mark.parametrize("phase", ["prepare", "commit", "rollback"])
@pytest.mark.parametrize("is_first", [True, False], ids=["asked before it", "asked after it"])
def test_detaching_in_a_phase_takes_effect_behind_it(
    kind: Kind, space: AddressSpace, phase: str, is_first: object
) -> None:
    caller, veto = Phases(phase), Phases("prepare")
    if is_first:
        space.subscribe(caller)
    attachment = kind.attach(space)
    if not is_first:
        space.subscribe(caller)
    vetoing = space.subscribe(veto)

    def detach() -> None:
        attachment.detach()
        assert not attachment.is_attached
        assert attachment not in space.clients
        attachment.close()

    caller.action = detach
    veto.action = refuse if phase == "rollback" else None
    with suppress(ClientError):
        space.insert_region(ram(FREE))
        space.remove_region(FREE)
    assert caller.log.count(phase) == (1 if phase == "rollback" else 2)
    vetoing.detach()
    caller.action = None
    assert_over(space, attachment, kind)
    assert attachment.error is None
    assert len(space.clients) == 1


@pytest.mark.parametrize("phase", ["prepare", "commit", "rollback", "leave"])
def test_a_client_may_detach_itself_in_each_phase(space: AddressSpace, phase: str) -> None:
    once, veto = Phases(phase), Phases("prepare")
    subscription = space.subscribe(once)
    space.subscribe(veto)
    once.action = subscription.detach
    veto.action = refuse if phase == "rollback" else None
    with suppress(ClientError):
        space.insert_region(ram(FREE))
    if phase == "leave":
        subscription.detach()
    assert once.log == ["prepare", "rollback" if phase == "rollback" else "commit", "leave"]
    assert subscription not in space.clients
    assert subscription.client is None


def test_a_client_that_can_not_leave_is_gone_and_says_why(space: AddressSpace, unraisable: list[Any]) -> None:
    class Sticky(Mirror):
        def leave(self) -> None:
            raise OSError(5, "stuck")

    subscription = space.subscribe(Sticky())
    with pytest.raises(ClientError, match='"mirror" failed in leave') as stuck:
        subscription.detach()
    assert isinstance(stuck.value.__cause__, OSError)
    assert stuck.value.change is None
    assert not subscription.is_attached
    subscription.detach()
    inside = space.subscribe(Sticky())
    with space.subscribe(lambda _: inside.detach()):
        space.insert_region(ram(FREE))
    assert isinstance(inside.error, ClientError)
    assert unraisable == [inside.error]
    assert space.clients == ()


def remap(space: AddressSpace, progress: Callable[[object], object]) -> None:
    space.memory.close()
    with suppress(ValueError):
        space.map_memory(progress=progress)
    space.map_memory()


def dispatched(space: AddressSpace, detach: Callable[[], None]) -> None:
    class Detaching(Handler):
        def read(self, _offset: int, _size: int) -> int:
            detach()
            return 1

    space.insert_region(AddressSpaceRegion("device", UART + PAGE, PAGE, name="button"))
    with space.attach_device("button", Detaching()):
        assert space.dispatch(UART + PAGE, 1) == 1


def and_refuse(detach: Callable[[], None]) -> None:
    detach()
    refuse()


CALLBACKS: dict[str, Callable[[AddressSpace, Callable[[], None]], object]] = {
    "walk_regions": lambda space, detach: space.walk_regions(lambda _: detach()),
    "progress inside the turn": lambda space, detach: remap(space, lambda _: detach()),
    "a progress that refuses": lambda space, detach: remap(space, lambda _: and_refuse(detach)),
    "a device's handler": dispatched,
}


@pytest.mark.parametrize("callback", CALLBACKS)
def test_detaching_in_a_callback(kind: Kind, space: AddressSpace, callback: str) -> None:
    attachment, calls = kind.attach(space), []

    def detach() -> None:
        attachment.detach()
        calls.append(attachment.is_attached)

    CALLBACKS[callback](space, detach)
    assert calls
    assert not any(calls)
    assert_over(space, attachment, kind)


def test_many_threads_detach_it_once(kind: Kind, space: AddressSpace) -> None:
    for _ in range(10):
        attachment = kind.attach(space)
        run_threads(*[attachment.detach] * 4)
        assert_over(space, attachment, kind)


def test_threads_attach_and_detach_while_the_space_changes(kind: Kind, space: AddressSpace) -> None:
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            space.insert_region(ram(FREE))
            space.remove_region(FREE)

    def attach() -> None:
        try:
            for _ in range(30):
                kind.attach(space).detach()
        finally:
            stop.set()

    run_threads(change, attach)
    assert space.clients == ()


def test_a_forked_child_can_not_detach_it(kind: Kind, space: AddressSpace) -> None:
    attachment = kind.attach(space)
    over = space.subscribe(print)
    over.detach()

    def child() -> None:
        with pytest.raises(ForkedProcess):
            attachment.detach()
        with pytest.raises(ForkedProcess), attachment:
            pass
        with pytest.raises(ForkedProcess):
            kind.attach(space)
        over.detach()

    in_child(child)
    assert attachment.is_attached
    assert kind.sees(space)
    attachment.detach()
    assert_over(space, attachment, kind)


def end_by_detaching(_space: AddressSpace, attachment: Attachment) -> None:
    attachment.detach()


def end_inside_a_change(space: AddressSpace, attachment: Attachment) -> None:
    with space.subscribe(lambda _: attachment.detach()):
        space.insert_region(ram(FREE))
        space.remove_region(FREE)


@pytest.mark.parametrize("rounds", [50])
@pytest.mark.parametrize("end", [end_by_detaching, end_inside_a_change])
def test_no_trace_is_left(
    kind: Kind, space: AddressSpace, rounds: int, end: Callable[[AddressSpace, Attachment], None]
) -> None:
    """Handles that are kept hold no descriptor; handles that are dropped are gone at once."""
    kept = []
    before = None
    for number in range(rounds):
        attachment = kind.attach(space)
        if isinstance(attachment, Subscription):
            assert attachment.fileno() > 0
        end(space, attachment)
        kept.append(attachment)
        gone = weakref.ref(attachment)
        if number == 0:
            before = descriptors()
    assert descriptors() == before
    del kept[:], attachment
    assert gone() is None
    assert descriptors() == before


@pytest.mark.parametrize("end", [end_by_detaching, end_inside_a_change])
def test_a_thousand_subscriptions_leave_neither_client_nor_descriptor(
    space: AddressSpace, end: Callable[[AddressSpace, Attachment], None]
) -> None:
    before, clients = len(descriptors()), list[weakref.ref[Listener]]()
    kept = []
    for _ in range(1000):
        client = Listener()
        subscription = space.subscribe(client)
        assert subscription.fileno() > 0
        clients.append(weakref.ref(client))
        kept.append(subscription)
        del client
        end(space, subscription)
        assert clients[-1]() is None
    assert len(descriptors()) == before
    with pytest.raises(ValueError, match="attach again"):
        subscription.fileno()


def test_failed_clients_leave_nothing_either(space: AddressSpace, unraisable: list[Any]) -> None:
    before, clients = len(descriptors()), list[weakref.ref[Listener]]()
    for _ in range(100):
        client = Listener()
        clients.append(weakref.ref(client))
        subscription = space.subscribe(client)
        subscription.fileno()
        client.broken = True
        space.insert_region(ram(FREE))
        space.remove_region(FREE)
        assert subscription.error is not None
        del client, subscription
        unraisable.clear()
    gc.collect()  # an exception refers to its frames, and they to it
    assert [gone for gone in clients if gone() is not None] == []
    assert len(descriptors()) == before


def test_an_engine_and_a_handler_are_let_go(space: AddressSpace) -> None:
    for _ in range(50):
        engine, handler = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64), Handler()
        with space.attach_unicorn(engine), space.attach_device("uart", handler):
            pass
        assert not [name for name in vars(engine) if name == "_address_spaces"]
        gone = weakref.ref(engine), weakref.ref(handler)
        del engine, handler
        gc.collect()
        assert [one() for one in gone] == [None, None]


def test_a_back_end_sees_the_end() -> None:
    """When the front-end's own socket is closed, nothing of ours keeps the connection open."""
    space, _ = mapped(ram(0, MIB))
    backend = Backend(KINDS["slots"])
    client = space.attach_vhost_user(backend.front, timeout=20)
    client.detach()
    backend.front.close()
    backend.join(20)
    assert not backend.is_alive()
    backend.socket.close()


def test_a_machine_is_let_go(space: AddressSpace) -> None:
    vm = Vm()
    machines = [link for link in descriptors().values() if "kvm-vm" in link]
    slots = space.attach_kvm(vm.fd)
    assert len([link for link in descriptors().values() if "kvm-vm" in link]) == len(machines) + 1
    slots.detach()
    assert [link for link in descriptors().values() if "kvm-vm" in link] == machines
    assert slots.base_to_slot == {}
    for verb in (slots.dirty_log, lambda: slots.slot_of("attached"), lambda: slots.set_private(0, PAGE)):
        with pytest.raises(ValueError, match="attach again"):
            verb()
    vm.close()


def test_the_handle_of_a_back_end_says_what_it_was(space: AddressSpace) -> None:
    backend = Backend(KINDS["slots"])
    client = space.attach_vhost_user(backend.front, timeout=20)
    before = client.features, client.protocol_features, client.max_regions
    client.detach()
    assert (client.features, client.protocol_features, client.max_regions) == before
    assert client.table == ()
    with pytest.raises(ValueError, match="attach again"):
        client.send(3)
    backend.close()


def test_an_error_that_refers_to_its_attachment_is_garbage(space: AddressSpace, unraisable: list[Any]) -> None:
    class Client(Mirror):
        subscription: Subscription

    client = Client()
    client.subscription = space.subscribe(client)
    client.broken = True
    space.remove_region("attached")
    assert client.subscription.error is not None
    gone = weakref.ref(client), weakref.ref(client.subscription)
    unraisable.clear()
    del client
    gc.collect()
    assert [one() for one in gone] == [None, None]


def test_sockets_of_a_silent_back_end_are_let_go(space: AddressSpace) -> None:
    before = descriptors()
    here, there = socket.socketpair()
    with here, there, pytest.raises(BackingError):
        space.attach_vhost_user(here, timeout=0.05)
    assert descriptors() == before
