"""The end of an attachment leaves no descriptor, client, engine or machine behind."""

import gc
import socket
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import unicorn
from attachment_kinds import FREE, Handler, Kind, Listener, Mirror, any_kind, space_with_device
from dbs_address_space import AddressSpace, Attachment, BackingError, Subscription
from kernel_view import descriptors
from memory_helpers import MIB, PAGE, mapped, ram
from vhost_user_backend import KINDS, Backend
from virtual_machines import Vm

kind, space = any_kind, space_with_device


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
    before: Counter[str] = Counter()
    for number in range(rounds):
        attachment = kind.attach(space)
        if isinstance(attachment, Subscription):
            assert attachment.fileno() > 0
        end(space, attachment)
        kept.append(attachment)
        gone = weakref.ref(attachment)
        if number == 0:
            before = Counter(descriptors().values())
    # At the first look a thread that had served it may not have closed its own yet.
    assert Counter(descriptors().values()) <= before
    del kept[:], attachment
    assert gone() is None
    assert Counter(descriptors().values()) <= before


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
