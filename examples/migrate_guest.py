"""A guest counts, moves to another process while it runs, and goes on counting there.

    python examples/migrate_guest.py [--engine kvm|unicorn]

This process starts another one of the same program, and sends the guest over a socket.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import threading

from dbs_address_space import AddressSpace, GuestMemory
from fork_guest import machine_on, quad
from ring3_kvm import DEVICE, new_space

CODE, COUNT, PAGES = 0x10000, 0x20000, 0x100000

GUEST = (
    b"\x48\xbf" + quad(COUNT)  # mov rdi, COUNT
    + b"\x48\xbe" + quad(PAGES)  # mov rsi, PAGES
    + b"\x48\xbb" + quad(DEVICE)  # mov rbx, DEVICE
    + b"\x48\xff\x07\x48\x8b\x07"  # again: rax = ++*rdi
    + b"\x89\xc1\x83\xe1\x3f\xc1\xe1\x0c\x48\x89\x04\x0e"  # rsi[(rax % 64) * 4096] = rax
    + b"\x84\xc0\x75\xea"  # if (rax % 256) goto again
    + b"\x88\x03\xeb\xe6"  # mov [rbx], al: it leaves; goto again
)  # fmt: skip
"""A guest that counts, writes each count to one of 64 pages, and leaves after every 256."""


class Runner:
    """Runs a guest on a thread until it is stopped."""

    def __init__(self, space: AddressSpace, engine: str) -> None:
        """Take the memory of a space."""
        self.machine = machine_on(space, engine)
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        """Let it run."""
        self._thread.start()

    def _run(self) -> None:
        while not self._is_stopped.is_set():
            self.machine.run()

    def stop(self) -> dict[str, bytes]:
        """Pause it: its registers."""
        self._is_stopped.set()
        self._thread.join()
        return {"vcpu0": self.machine.packed()}


def send(sock: socket.socket, engine: str) -> int:
    """Start the guest, and send it while it runs: how far it came here."""
    space = new_space()
    space.memory.write(CODE, GUEST)
    runner = Runner(space, engine)
    runner.machine.boot(CODE)
    runner.start()
    report = space.memory.send(sock, stop=runner.stop)
    if report.downtime is None:
        runner.stop()
        raise RuntimeError("the guest writes faster than the socket carries")
    count = space.memory.read_u64(COUNT)
    print(
        f"here: it counted to {count}, and left after {report.passes} passes; {report.downtime * 1e3:.1f} ms of downtime"
    )
    runner.machine.close()
    return count


def receive(sock: socket.socket, engine: str, more: int = 1000) -> None:
    """Receive a guest, let it go on for a while, and tell the other side how far it came."""
    space = AddressSpace(new_space().layout)
    report = GuestMemory.receive(sock, space)
    machine = machine_on(space, engine)
    machine.unpack(report.blobs["vcpu0"])
    begun = space.memory.read_u64(COUNT)
    for _ in range(more):
        machine.run()
    count = space.memory.read_u64(COUNT)
    print(f"there: it went on at {begun}, and counted to {count}", flush=True)
    sock.sendall(begun.to_bytes(8, "little") + count.to_bytes(8, "little"))
    machine.close()


def main(arguments: list[str] | None = None) -> tuple[int, int, int]:
    """Move a guest: how far it came here, where it went on there, and how far it came."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=["auto", "kvm", "unicorn"], default="auto")
    parser.add_argument("--receive", type=int, metavar="DESCRIPTOR", help="be the other process")
    options = parser.parse_args(arguments)
    if options.receive is not None:
        with socket.socket(fileno=options.receive) as sock:
            receive(sock, options.engine)
        return 0, 0, 0
    ours, theirs = socket.socketpair()
    command = [sys.executable, __file__, "--engine", options.engine, "--receive", str(theirs.fileno())]
    with ours, subprocess.Popen(command, pass_fds=[theirs.fileno()]) as other:
        theirs.close()
        count = send(ours, options.engine)
        told = ours.recv(16, socket.MSG_WAITALL)
        other.wait()
    return count, int.from_bytes(told[:8], "little"), int.from_bytes(told[8:], "little")


if __name__ == "__main__":
    main()
