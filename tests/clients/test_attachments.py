"""One contract for all that follows a space: whatever attaches it, the same handle and the same ends."""

import gc
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from attachment_kinds import (
    ATTACHED,
    CAN_FAIL,
    FREE,
    UART,
    DrgnKind,
    Handler,
    Kind,
    Mirror,
    UnicornKind,
    any_kind,
    space_with_device,
)
from children import in_child
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
    VhostUserClient,
)
from kernel_view import descriptors, maps_of
from memory_helpers import LAYOUT, MIB, PAGE, mapped, ram
from threads import run_threads, until

kind, space = any_kind, space_with_device


def assert_over(space: AddressSpace, attachment: Attachment, kind: Kind) -> None:
    assert not attachment.is_attached
    assert attachment not in space.clients
    assert not kind.sees(space)
    attachment.detach()
    attachment.close()


def test_every_verb_has_a_kind() -> None:
    verbs = {name for name in dir(AddressSpace(LAYOUT)) if name.startswith("attach_")} | {"share", "subscribe"}
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
    # A thread that is still admitting a follower is the last to leave.
    until(lambda: not maps_of("memfd:dropped-low") and descriptors() == before)


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
