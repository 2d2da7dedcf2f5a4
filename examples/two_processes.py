"""A virtqueue between two Python processes: the driver here, the device in a child, and one sealed memfd that both have mapped.

    python examples/two_processes.py [requests]

Who has nothing to do sleeps in `wait_value`, on the other's index, until that wakes him. The queue is a split one of VIRTIO:
a table of descriptors, a ring of those on offer, a ring of those used. The device answers each request with its text in capitals.
"""

import multiprocessing
import os
import sys
import time
from multiprocessing.reduction import DupFd
from typing import Any

from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion, GuestMemory

LAYOUT = AddressSpaceLayout(1 << 46, 0, 1 << 45)
SIZE = 1 << 20
ENTRIES = 64
"""Descriptors; a request has two, a text and a place for the answer."""
TABLE, AVAILABLE, USED, BUFFERS = 0x0000, 0x1000, 0x2000, 0x10000
BUFFER = 0x100
NEXT, WRITABLE = 1, 2
NO_NOTIFY = 1
"""The device's flag: it needs no other notification than being woken. It also says that the device is there."""
PATIENCE = 60.0
"""Seconds after which the other one is taken for dead."""


class Ring:
    """A ring of the queue: its index, behind 2 bytes of flags, counts entries and wraps at 16 bits."""

    def __init__(self, memory: GuestMemory, base: int, entry: str) -> None:
        """Its entries are in a format of the `struct` module."""
        self.memory, self.base, self.entry = memory, base, entry
        self.width = {"<H": 2, "<II": 8}[entry]
        self.count = 0
        # Memory that the other one could cut is written by the kernel, which has no atomics.
        is_guarded = memory.mapping(base).guarded
        self.publish = memory.write_u16 if is_guarded else memory.store
        self.keywords: dict[str, Any] = {} if is_guarded else {"size": 2}

    def place(self, number: int) -> int:
        """Return the address of an entry, by its number since the start."""
        return self.base + 4 + number % ENTRIES * self.width

    def put(self, *entries: tuple[int, ...]) -> None:
        """Writes the entries, then the index, then wakes who waits for it."""
        for entry in entries:
            self.memory.pack(self.place(self.count), self.entry, *entry)
            self.count += 1
        self.publish(self.base + 2, self.count & 0xFFFF, **self.keywords)
        self.memory.wake_value(self.base + 2, 2)

    def take(self) -> list[tuple[Any, ...]]:
        """Sleeps until there are entries beyond those taken before, and takes them."""
        index = self.memory.wait_value(self.base + 2, self.count & 0xFFFF, 2, timeout=PATIENCE)
        new = (index - self.count) & 0xFFFF
        if not new:
            raise TimeoutError("the other process is silent")
        numbers = range(self.count, self.count + new)
        self.count += new
        return [self.memory.unpack(self.place(number), self.entry) for number in numbers]


def serve(shared: Any) -> None:
    """The device: it answers until it is given a request without a place for the answer."""
    descriptor = shared.detach()
    region = AddressSpaceRegion.from_file(0, SIZE, descriptor)
    os.close(descriptor)
    memory = AddressSpace.from_regions([region], LAYOUT).map_memory()
    available, used = Ring(memory, AVAILABLE, "<H"), Ring(memory, USED, "<II")
    memory.write_u16(USED, NO_NOTIFY)
    memory.wake_value(USED, 2)
    is_open = True
    while is_open:
        done = []
        for (head,) in available.take():
            address, size, flags, following = memory.unpack(TABLE + head * 16, "<QIHH")
            is_open = bool(flags & NEXT)
            if is_open:
                target, *_ = memory.unpack(TABLE + following * 16, "<QIHH")
                memory.write(target, memory.read(address, size).upper())
            done.append((head, size))
        used.put(*done)


def drive(memory: GuestMemory, requests: int) -> float:
    """The driver: it keeps the queue full, checks each answer, and returns the seconds that all took."""
    available, used = Ring(memory, AVAILABLE, "<H"), Ring(memory, USED, "<II")
    free, texts, sent, answered = list(range(0, ENTRIES, 2)), {}, 0, 0
    memory.wait_value(USED, 0, 2, timeout=PATIENCE)
    begin = time.perf_counter()
    while answered < requests:
        offered = []
        while free and sent < requests:
            head = free.pop()
            texts[head] = b"request %d" % sent
            offer(memory, head, texts[head])
            offered.append((head,))
            sent += 1
        if offered:
            available.put(*offered)
        for head, size in used.take():
            answer = memory.read(BUFFERS + (head + 1) * BUFFER, size)
            if answer != texts[head].upper():
                raise ValueError(f"{texts[head]!r} was answered with {answer!r}")
            free.append(head)
            answered += 1
    elapsed = time.perf_counter() - begin
    memory.pack(TABLE, "<QIHH", BUFFERS, 0, 0, 0)
    available.put((0,))
    return elapsed


def offer(memory: GuestMemory, head: int, text: bytes) -> None:
    """Writes a text, and the two descriptors of its request."""
    place = BUFFERS + head * BUFFER
    memory.write(place, text)
    memory.pack(TABLE + head * 16, "<QIHHQIHH", place, len(text), NEXT, head + 1, place + BUFFER, BUFFER, WRITABLE, 0)


def main(requests: int) -> None:
    """Drive the queue, and print how many requests a second were answered."""
    memory = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, SIZE)], LAYOUT).map_memory()
    context = multiprocessing.get_context("spawn")
    descriptor = memory.mapping(0).fd
    assert descriptor is not None
    device = context.Process(target=serve, args=(DupFd(descriptor),), daemon=True)
    device.start()
    elapsed = drive(memory, requests)
    device.join()
    print(f"{requests} requests were answered by process {device.pid}: {requests / elapsed:,.0f} a second")
    sys.exit(device.exitcode)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
