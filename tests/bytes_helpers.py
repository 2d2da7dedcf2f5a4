"""What the tests of the verbs share: tracked writes, the blocks of memfds, numbered bytes."""

import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from dbs_address_space import GuestMemory


def numbered(size: int, seed: int = 0) -> bytes:
    """Bytes that differ from those around them, and from those of another seed."""
    period = bytes((number * 167 + seed * 31 + number // 7) % 251 for number in range(251 * 7))
    return (period * (size // len(period) + 1))[:size]


def track(memory: GuestMemory, is_tracked: bool = True) -> None:  # noqa: FBT001, FBT002
    private: Any = memory
    private._track_writes(is_tracked)  # noqa: SLF001


def drain(memory: GuestMemory) -> list[tuple[int, int]]:
    """The pages that were written since the last time, as (base, size)."""
    private: Any = memory
    return [(pages.base, pages.size) for pages in private._drain_writes()]  # noqa: SLF001


def blocks(memory: GuestMemory, addr: int) -> int:
    """The blocks of 512 bytes that the memfd of a region takes."""
    fd = memory.mapping(addr).fd
    assert fd is not None
    return os.fstat(fd).st_blocks


def in_threads(count: int, body: Callable[[], object]) -> None:
    """Runs `body` in some threads that take the interpreter from each other as often as they can."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            body()
        except BaseException as error:  # noqa: BLE001  raised below, in the test's own thread
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    for error in failed:
        raise error
