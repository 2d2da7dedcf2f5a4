"""Followers in processes of their own, which run what they are told to."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from children import fork
from dbs_address_space import AddressSpace, Share
from kernel_view import descriptors, maps, resident


def held() -> tuple[int, int, int]:
    """The descriptors, threads and mapped memfds of this process."""
    memfds = [line for line in maps() if "memfd:" in line]
    return len(descriptors()), len(list(Path("/proc/self/task").iterdir())), len(memfds)


class FollowerProcess:
    """A forked child that follows a space as `space`; `ask` evaluates an expression there, `run` runs statements."""

    def __init__(self, sock: socket.socket, inherited: list[Any]) -> None:
        self.pipe, theirs = Pipe()
        self.pid = fork()
        if self.pid == 0:
            # What the parent has of other followers must not keep them alive.
            for other in [self.pipe, *inherited]:
                other.close()
            try:
                _serve(theirs, sock)
            finally:
                os._exit(0)
        theirs.close()
        self.told("attached")

    def told(self, what: str) -> Any:
        """The answer to a question that was put."""
        if not self.pipe.poll(60):
            raise TimeoutError(f"follower {self.pid} does not answer {what!r}")
        answer = self.pipe.recv()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def tell(self, expression: str) -> None:
        self.pipe.send(("eval", expression))

    def ask(self, expression: str) -> Any:
        self.tell(expression)
        return self.told(expression)

    def run(self, statements: str) -> None:
        self.pipe.send(("exec", statements))
        self.told(statements)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self) -> None:
        """Returns once none of its threads runs, which takes each a moment."""
        self.signal(signal.SIGSTOP)
        while any(state != "T" for state in self._states()):
            time.sleep(0.001)

    def _states(self) -> list[str]:
        stats = [(task / "stat").read_text() for task in Path(f"/proc/{self.pid}/task").iterdir()]
        return [stat.rpartition(")")[2].split()[0] for stat in stats]

    def end(self) -> None:
        """Kills it, if it is there, and takes it away."""
        if self.pid:
            self.signal(signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
            self.pipe.close()


def _serve(pipe: Connection, sock: socket.socket) -> None:
    try:
        names: dict[str, Any] = {"space": AddressSpace.attach(sock), "held": held, "resident": resident}
        sock.close()
        pipe.send(None)
    except BaseException as error:  # noqa: BLE001  whatever it is, the parent should see it
        pipe.send(error)
        return
    while True:
        try:
            kind, source = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(eval(compile(source, "<parent>", kind), names))
        except BaseException as error:  # noqa: BLE001  as above
            pipe.send(error)


class Followers:
    """The followers of one space, over a socket that listens."""

    def __init__(self, space: AddressSpace, **options: Any) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind("")
        self.listener.listen(64)
        self.share: Share = space.share(self.listener, **options)
        self.all: list[FollowerProcess] = []

    def add(self) -> FollowerProcess:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(self.listener.getsockname())
        with sock:
            self.all.append(FollowerProcess(sock, [self.listener, *(other.pipe for other in self.all if other.pid)]))
        return self.all[-1]

    def close(self) -> None:
        for follower in self.all:
            follower.end()
        self.share.detach()
        self.listener.close()


@contextmanager
def followers(space: AddressSpace, count: int = 1, **options: Any) -> Iterator[tuple[Share, list[FollowerProcess]]]:
    """A share, and as many followers of it."""
    shared = Followers(space, **options)
    try:
        for _ in range(count):
            shared.add()
        yield shared.share, shared.all
    finally:
        shared.close()
