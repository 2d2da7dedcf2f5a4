"""A stream against `sendfile` into a process that reads into a fresh memfd."""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Callable, Iterator
from time import perf_counter

import spaces
from dbs_address_space import AddressSpace, GuestMemory
from harness import MILLISECONDS, Measure, Pace, Result, Side

SIZE, STEP = 512 << 20, 1 << 20


def beside(receive: Callable[[socket.socket], object], send: Callable[[socket.socket], object]) -> Side:
    """A side that sends to a process of its own, until that has all."""

    def side(loops: int) -> float:
        taken = 0.0
        for _ in range(loops):
            ours, theirs = socket.socketpair()
            if (child := os.fork()) == 0:
                ours.close()
                receive(theirs)
                os._exit(0)
            theirs.close()
            begin = perf_counter()
            send(ours)
            taken += perf_counter() - begin
            ours.close()
            os.waitpid(child, 0)
        return taken

    return side


def read_all(sock: socket.socket) -> None:
    fd = os.memfd_create("fresh")
    os.ftruncate(fd, SIZE)
    view, there = memoryview(mmap.mmap(fd, SIZE)), 0
    while there < SIZE:
        there += sock.recv_into(view[there : there + STEP])
    sock.sendall(b"!")


def run(pace: Pace) -> Iterator[Result]:
    """Memory that is full, to a process that has nothing yet."""
    pace = Pace(min(pace.rounds, 9), 0)
    space = AddressSpace.from_regions([spaces.ram(spaces.FIRST, SIZE)], spaces.LAYOUT)
    with space.map_memory() as memory:
        for at in range(0, SIZE, STEP):
            memory.write(spaces.FIRST + at, os.urandom(STEP))
        source = memory.mapping(spaces.FIRST).fd
        assert source is not None

        def send_all(sock: socket.socket) -> None:
            at = 0
            while at < SIZE:
                at += os.sendfile(sock.fileno(), source, at, SIZE - at)
            sock.recv(1)

        ours = beside(lambda sock: GuestMemory.receive(sock, AddressSpace(spaces.LAYOUT)), memory.send)
        samples = pace.in_turns(ours, beside(read_all, send_all))
        yield Result("streams", "512 MiB over a Unix socket", *samples, Measure.SPEED, 1.0, MILLISECONDS)
