"""What the tests of the verbs share: tracked writes, the blocks of memfds, numbered bytes."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dbs_address_space import AddressSpaceRegion, GuestMemory
from memory_helpers import MIB, make_file, mapped, ram, run_threads


def numbered(size: int, seed: int = 0) -> bytes:
    """Bytes that differ from those around them, and from those of another seed."""
    period = bytes((number * 167 + seed * 31 + number // 7) % 251 for number in range(251 * 7))
    return (period * (size // len(period) + 1))[:size]


def transfer_memory(tmp_path: Path) -> GuestMemory:
    """Direct and guarded regions that touch, then a hole, then what can only be read."""
    with make_file(tmp_path / "ram", MIB + 9).open("r+b") as file:
        regions = [
            ram(0, MIB),
            AddressSpaceRegion.from_file(MIB, MIB, file, 9),
            ram(2 * MIB, MIB, mem_type="mmap"),
            ram(4 * MIB, MIB, prot_flags="r--"),
        ]
    return mapped(*regions)[1]


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
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        run_threads(*[body] * count)
    finally:
        sys.setswitchinterval(before)
