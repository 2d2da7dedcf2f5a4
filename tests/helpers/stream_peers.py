"""Connections, and the other side of a stream on a thread or in plain Python."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import plain_stream
from dbs_address_space import AddressSpace, GuestMemory, ReceiveReport
from memory_helpers import LAYOUT


@contextmanager
def connection(kind: str = "unix") -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection over a Unix socket or TCP."""
    if kind == "unix":
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
    with ours, theirs:
        yield ours, theirs


class Peer:
    """Work on a thread: its result, or what it raised."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:  # noqa: BLE001  for the test to look at
            self.error = error

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()

    def wait(self) -> Any:
        self.join()
        if self.error is not None:
            raise self.error
        return self.result

    def failed(self) -> BaseException:
        """The exception that it raised."""
        self.join()
        assert self.error is not None, self.result
        return self.error


def receiving(sock: socket.socket, space: AddressSpace, **options: Any) -> Peer:
    return Peer(lambda: GuestMemory.receive(sock, space, **options))


def sent_to(memory: GuestMemory, kind: str = "unix", **options: Any) -> tuple[Any, AddressSpace, ReceiveReport]:
    """Sends a memory: its report, the space that it is in then, and the report of that side."""
    there = AddressSpace(LAYOUT)
    with connection(kind) as (ours, theirs):
        peer = receiving(theirs, there)
        report = memory.send(ours, **options)
        return report, there, peer.wait()


def answered(sock: socket.socket) -> tuple[bytes, plain_stream.Plain]:
    """Receives a stream in plain Python, and says that all of it is published: its bytes, and what they say."""
    taken = bytearray()

    def take(size: int) -> bytes:
        piece = sock.recv(size, socket.MSG_WAITALL) if size else b""
        assert len(piece) == size, "the stream ended"
        taken.extend(piece)
        return piece

    plain = plain_stream.read(take)
    sock.sendall(plain_stream.answer(plain.named))
    return bytes(taken), plain


def captured(memory: GuestMemory, **options: Any) -> tuple[bytes, plain_stream.Plain]:
    """The bytes of a stream, and what they say."""
    with connection() as (ours, theirs):
        peer = Peer(lambda: answered(theirs))
        try:
            memory.send(ours, **options)
        finally:
            # The reader ends in any case.
            ours.close()
            peer.join()
        taken: tuple[bytes, plain_stream.Plain] = peer.wait()
    return taken


def replayed(content: bytes, space: AddressSpace | None = None) -> ReceiveReport:
    """Receives a stream that ends behind some bytes."""
    with connection() as (ours, theirs):

        def feed() -> None:
            try:
                ours.sendall(content)
                ours.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # The receiver has had enough.

        if len(content) < 1 << 16:
            feed()
            return GuestMemory.receive(theirs, space or AddressSpace(LAYOUT))
        peer = Peer(feed)
        try:
            return GuestMemory.receive(theirs, space or AddressSpace(LAYOUT))
        finally:
            peer.wait()
