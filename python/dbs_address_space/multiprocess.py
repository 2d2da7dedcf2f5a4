"""Spaces and memories as arguments of `multiprocessing`, whose pickler finds them here: the other process follows them.

The address of a socket that listens is sent, so that nothing stays open for a task that never runs. `pickle` alone refuses.
"""

from __future__ import annotations

import os
import socket
import threading
from multiprocessing import reduction
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakValueDictionary

from dbs_address_space._core import AddressSpace, GuestMemory, Share

if TYPE_CHECKING:
    from collections.abc import Callable

__all__: list[str] = []

_lock = threading.Lock()
_addresses: WeakKeyDictionary[Share, bytes] = WeakKeyDictionary()
"""Where the shares listen that were made here."""
_led: WeakValueDictionary[bytes, AddressSpace] = WeakValueDictionary()
"""The spaces that were sent, for those who send them to themselves."""
_followed: dict[tuple[bytes, int], AddressSpace] = {}
"""The spaces that came, by the address and process of their leader: a pool sends its space with each task."""


def _forget() -> None:
    """A forked child follows and leads nobody: what it inherited is its parent's."""
    global _lock  # noqa: PLW0603  a thread that is not here may have it
    _lock = threading.Lock()
    _addresses.clear()
    _led.clear()
    _followed.clear()


os.register_at_fork(after_in_child=_forget)


def _address_of(space: AddressSpace) -> bytes:
    """The address at which a space can be followed."""
    with _lock:
        for client in space.clients:
            if isinstance(client, Share) and client in _addresses:
                return _addresses[client]
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            # The kernel chooses a name, which is in no folder.
            listener.bind("")
            listener.listen(64)
            share = space.share(listener)
            _addresses[share] = _led_at(listener, space)
        return _addresses[share]


def _led_at(listener: socket.socket, space: AddressSpace) -> bytes:
    address = bytes(listener.getsockname())
    _led[address] = space
    return address


def _follow(address: bytes, pid: int) -> AddressSpace:
    """The space of another process, followed once by this one."""
    with _lock:
        if pid == os.getpid() and (own := _led.get(address)):
            return own
        # The end of a leader leaves its memory; whoever has it keeps it.
        for ended in [key for key, space in _followed.items() if space.leader is None]:
            del _followed[ended]
        if (address, pid) not in _followed:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.connect(address)
                _followed[address, pid] = AddressSpace.attach(sock)
        return _followed[address, pid]


def _memory_of(address: bytes, pid: int) -> GuestMemory:
    return _follow(address, pid).memory


def _reduce_space(space: AddressSpace) -> tuple[Callable[[bytes, int], AddressSpace], tuple[bytes, int]]:
    return _follow, (_address_of(space), os.getpid())


def _reduce_memory(memory: GuestMemory) -> tuple[Callable[[bytes, int], GuestMemory], tuple[bytes, int]]:
    return _memory_of, (_address_of(AddressSpace._of_memory(memory)), os.getpid())  # noqa: SLF001  of this package


reduction.register(AddressSpace, _reduce_space)
reduction.register(GuestMemory, _reduce_memory)
