"""Every way to attach something to a space, and what stands at the other side."""

import os
import signal
import socket
import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import NoReturn

import drgn
import pytest
import unicorn
from children import fork
from dbs_address_space import (
    AddressSpace,
    AddressSpaceChange,
    AddressSpaceRegion,
    Attachment,
    KvmSlots,
    Share,
    UnmappedAddress,
)
from memory_helpers import MIB, PAGE, WINDOW, mapped, ram
from threads import until
from vhost_user_backend import KINDS, REM_MEM_REG, Backend
from virtual_machines import Vm

FREE, UART = 64 * MIB, WINDOW


class Kind:
    """One way to attach something, and what stands at the other side."""

    verb = "subscribe"
    is_region_bound = False
    """Whether it ends with its region."""
    patience = 20.0
    """Seconds for another program's answer."""

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
        return space.attach_vhost_user(self.backend.front, timeout=self.patience)

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
        def refuse(*_: int) -> None:
            del self.uc.mem_unmap
            raise unicorn.UcError(unicorn.UC_ERR_NOMEM)

        self.uc.mem_unmap = refuse


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


class ShareKind(Kind):
    verb = "share"

    def __init__(self) -> None:
        self.share: weakref.ref[Share] | None = None
        self.followers: list[int] = []

    def attach(self, space: AddressSpace) -> Attachment:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            share = space.share(ours, timeout=5)
            self.share = weakref.ref(share)
            self.followers.append(fork())
            if self.followers[-1] == 0:
                ours.close()
                follow_to_the_end(theirs)
        until(lambda: share.followers)
        return share

    def sees(self, space: AddressSpace) -> bool:
        share = self.share and self.share()
        return bool(share and [follower.generation for follower in share.followers] == [space.generation])

    def close(self) -> None:
        for follower in self.followers:
            os.kill(follower, signal.SIGKILL)
            os.waitpid(follower, 0)


def follow_to_the_end(sock: socket.socket) -> NoReturn:
    with suppress(BaseException):
        follower = AddressSpace.attach(sock)
        while True:
            follower.wait_for_change(follower.generation)
    os._exit(0)


ATTACHED: dict[str, type[Kind]] = {kind.__name__.removesuffix("Kind"): kind for kind in Kind.__subclasses__()}
CAN_FAIL = [name for name, kind in ATTACHED.items() if "break_commit" in vars(kind)]


def space_to_follow() -> AddressSpace:
    space, _ = mapped(ram(0, MIB, name="attached"), AddressSpaceRegion("device", UART, PAGE, name="uart"))
    return space


@pytest.fixture(params=ATTACHED)
def any_kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    kind = ATTACHED[request.param]()
    yield kind
    kind.close()


@pytest.fixture
def space_with_device() -> AddressSpace:
    return space_to_follow()
