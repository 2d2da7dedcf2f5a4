"""Transfers between guest memory and pipes or sockets: waiting, peers that go, signals."""

import errno
import fcntl
import os
import signal
import socket
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from children import in_child
from dbs_address_space import AddressSpaceRegion, GuestMemory, PartialTransfer, RegionBusy
from memory_helpers import MIB, PAGE, mapped, numbered, ram, transfer_regions

END = 3 * MIB
DATA = numbered(END)


@pytest.fixture
def regions(tmp_path: Path) -> list[AddressSpaceRegion]:
    return transfer_regions(tmp_path)


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


@contextmanager
def running(body: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=body)
    thread.start()
    try:
        yield
    finally:
        thread.join()


SPANS = [(0, 1), (5, PAGE), (MIB - 100, 200), (MIB - 1, MIB + 2), (0, END)]


def test_bytes_that_wait_in_a_buffered_pipe_come_first(memory: GuestMemory) -> None:
    with pipe() as (reader, writer):
        os.write(writer, b"0123456789")
        with os.fdopen(reader, "rb", closefd=False) as opened:
            assert opened.read(2) == b"01"
            memory.read_from(opened, 0, 8)
        with os.fdopen(writer, "wb", closefd=False) as opened_writer:
            opened_writer.write(b"before ")
            memory.write_to(opened_writer, 0, 10)
        assert os.read(reader, 100) == b"before 23456789\0\0"


@pytest.mark.parametrize("span", SPANS, ids=str)
def test_a_pipe_brings_and_takes_all(memory: GuestMemory, span: tuple[int, int]) -> None:
    addr, size = span
    with pipe() as (reader, writer):
        with running(lambda: write_all(writer, DATA[:size])):
            memory.read_from(reader, addr, size)
        assert memory.read(addr, size) == DATA[:size]
        taken = bytearray()
        with running(lambda: taken.extend(read_all(reader, size))):
            memory.write_to(writer, addr, size)
        assert taken == DATA[:size]


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view[:777_777]) :]


def read_all(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = os.read(fd, 77_777)
        if not part:
            break
        data += part
    return data


@pytest.mark.parametrize("is_blocking", [True, False], ids=["blocking", "non-blocking"])
def test_a_socket_brings_and_takes_all(memory: GuestMemory, is_blocking: bool) -> None:  # noqa: FBT001
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(is_blocking)
        with running(lambda: there.sendall(DATA)):
            memory.read_from(here, 0, END)
        assert memory.read(0, END) == DATA
        taken = bytearray()
        with running(lambda: taken.extend(read_all(there.fileno(), END))):
            memory.write_to(here, 0, END)
        assert taken == DATA


@pytest.mark.parametrize("sent", [0, 1, 100_000])
def test_a_peer_that_closes_midway(memory: GuestMemory, sent: int) -> None:
    here, there = socket.socketpair()

    def send() -> None:
        there.sendall(DATA[:sent])
        there.close()

    with here, running(send), pytest.raises(PartialTransfer, match="ended") as partial:
        memory.read_from(here, 0, END)
    assert partial.value.done == sent
    assert memory.read(0, sent + 1) == DATA[:sent] + b"\0"


def test_a_peer_that_stops_to_read_midway(memory: GuestMemory) -> None:
    here, there = socket.socketpair()

    def receive() -> None:
        read_all(there.fileno(), 100_000)
        there.close()

    with here, running(receive), pytest.raises(PartialTransfer) as partial:
        memory.write_to(here, 0, END)
    assert partial.value.errno in (errno.EPIPE, errno.ECONNRESET)
    assert 100_000 <= partial.value.done < END


def test_a_transfer_in_flight_holds_its_region() -> None:
    space, memory = mapped(ram(0, PAGE))
    with pipe() as (reader, writer), running(lambda: memory.read_from(reader, 0, PAGE)):
        os.write(writer, bytes(10))
        while unread(reader):
            pass
        with pytest.raises(RegionBusy) as busy:
            space.remove_region(0)
        assert [tuple(lease) for lease in busy.value.leases] == [("read_from", 0, PAGE, None)]
        os.write(writer, bytes(PAGE))
    space.remove_region(0)


def unread(reader: int) -> int:
    """The bytes that wait in a pipe."""
    return int.from_bytes(fcntl.ioctl(reader, termios.FIONREAD, bytes(4)), "little")


@contextmanager
def signals(first: float, interval: float, handler: Callable[[int, Any], object]) -> Iterator[None]:
    """Sends the main thread a signal, and more of them if `interval` is not 0; SIGALRM is taken by the tests' time limit."""
    before, ended = signal.signal(signal.SIGUSR1, handler), threading.Event()

    def send() -> None:
        delay = first
        while not ended.wait(delay):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            if not interval:
                return
            delay = interval

    try:
        with running(send):
            try:
                yield
            finally:
                ended.set()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_signals_do_not_end_a_transfer(memory: GuestMemory) -> None:
    handled: list[int] = []
    with pipe() as (reader, writer), signals(0.001, 0.001, lambda number, _: handled.append(number)):

        def trickle() -> None:
            for at in range(0, 200_000, 1000):
                write_all(writer, DATA[at : at + 1000])
                threading.Event().wait(0.001)

        with running(trickle):
            memory.read_from(reader, 0, 200_000)
        taken = bytearray()

        def sip() -> None:
            while len(taken) < 300_000:
                taken.extend(os.read(reader, 3000))
                threading.Event().wait(0.001)

        with running(sip):
            memory.write_to(writer, 0, 300_000)
    assert memory.read(0, 200_000) == DATA[:200_000]
    assert taken == memory.read(0, 300_000)
    assert handled


def interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("delay", [0.01, 0.2], ids=["at once", "later"])
def test_ctrl_c_ends_a_read_that_waits(memory: GuestMemory, delay: float) -> None:
    with pipe() as (reader, _), pytest.raises(KeyboardInterrupt), signals(delay, 0, interrupt):
        memory.read_from(reader, 0, 1)


@pytest.mark.parametrize("delay", [0.01, 0.2], ids=["at once", "later"])
def test_ctrl_c_ends_a_write_that_waits(memory: GuestMemory, delay: float) -> None:
    with pipe() as (_, writer), pytest.raises(KeyboardInterrupt), signals(delay, 0, interrupt):
        memory.write_to(writer, 0, MIB)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_ctrl_c_that_interrupts_no_call_ends_a_write(memory: GuestMemory, kind: str) -> None:
    """The kernel tells another thread of the signal, or this one just before it would wait."""

    def transfer() -> None:
        signal.signal(signal.SIGUSR1, interrupt)

        near, far = socket.socketpair()
        with pipe() as (reader, writer), near, far:

            def tell() -> None:
                # There is a little room, for which the writer is waiting.
                time.sleep(0.1)
                os.read(reader, 8192) if kind == "pipe" else far.recv(8192)
                time.sleep(0.1)
                signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

            with running(tell), pytest.raises(KeyboardInterrupt):
                memory.write_to(writer if kind == "pipe" else near.fileno(), 0, END)

    in_child(transfer, timeout=20)


@pytest.mark.parametrize("is_sparse", [True, False], ids=["sparse", "dense"])
def test_ctrl_c_ends_a_write_that_would_block_again(memory: GuestMemory, is_sparse: bool) -> None:  # noqa: FBT001
    """The reader takes a little right after the signal: the next write would wait in the kernel, the signal forgotten."""
    if not is_sparse:
        memory.write(0, DATA)

    def transfer() -> None:
        with pipe() as (reader, writer):

            def sip() -> None:
                time.sleep(0.04)
                os.read(reader, 8192)

            with running(sip), pytest.raises(KeyboardInterrupt), signals(0.02, 0, interrupt):
                memory.write_to(writer, 0, END)

    in_child(transfer, timeout=20)
