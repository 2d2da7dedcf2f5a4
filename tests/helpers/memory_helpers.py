"""Small spaces, and the bytes in them."""

import ctypes
import mmap
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion, DirtyTracker, GuestMemory

PAGE = mmap.PAGESIZE
MIB = 1 << 20
GIB = 1 << 30
LAYOUT = AddressSpaceLayout(1 << 46, 0, 1 << 45)
WINDOW = 1 << 45
"""The first address behind RAM: devices and DAX windows may lie there."""

libc = ctypes.CDLL(None, use_errno=True)


def ram(base: int, size: int | str = PAGE, **options: Any) -> AddressSpaceRegion:
    return AddressSpaceRegion("ram", base, size, **options)


def mapped(*regions: AddressSpaceRegion) -> tuple[AddressSpace, GuestMemory]:
    space = AddressSpace.from_regions(list(regions), LAYOUT)
    return space, space.map_memory()


def make_file(path: Path, size: int) -> Path:
    path.write_bytes(bytes(size))
    return path


def unnamed_file(size: int = 0) -> int:
    """The descriptor of a file that is open as long as the process, for what a module has at hand."""
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        return os.dup(file.fileno())


def numbered(size: int, seed: int = 0) -> bytes:
    """Bytes that differ from those around them, and from those of another seed."""
    return (period(seed) * (size // len(period(seed)) + 1))[:size]


@cache
def period(seed: int) -> bytes:
    return bytes((number * 167 + seed * 31 + number // 7) % 251 for number in range(251 * 7))


def transfer_regions(tmp_path: Path) -> list[AddressSpaceRegion]:
    """Direct and guarded regions that touch, then a hole, then what can only be read."""
    with make_file(tmp_path / "ram", MIB + 9).open("r+b") as file:
        return [
            ram(0, MIB),
            AddressSpaceRegion.from_file(MIB, MIB, file, 9),
            ram(2 * MIB, MIB, mem_type="mmap"),
            ram(4 * MIB, MIB, prot_flags="r--"),
        ]


def kinds(tmp_path: Path, size: int) -> dict[str, AddressSpaceRegion]:
    """A region of each kind of backing, from address 0 on."""
    with (
        make_file(tmp_path / "shared", size).open("r+b") as shared,
        make_file(tmp_path / "private", size).open("r+b") as private,
        (tmp_path / "sparse").open("w+b") as sparse,
        make_file(tmp_path / "unaligned", size + 9).open("r+b") as unaligned,
    ):
        sparse.truncate(size)
        return {
            "memfd": ram(0, size),
            "anonymous": ram(0, size, mem_type="mmap"),
            "shared": ram(0, size, mem_type="mmap", perm_flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS),
            "shared file": AddressSpaceRegion.from_file(0, size, shared),
            "sparse file": AddressSpaceRegion.from_file(0, size, sparse),
            "private file": AddressSpaceRegion.from_file(0, size, private, shared=False),
            "unaligned file": AddressSpaceRegion.from_file(0, size, unaligned, 9),
            "buffer": AddressSpaceRegion.from_buffer(0, bytearray(size)),
            "odd buffer": AddressSpaceRegion.from_buffer(0, memoryview(bytearray(size + 5))[5:]),
            "read-only": ram(0, size, prot_flags="r--"),
            "untouchable": ram(0, size, mem_type="mmap", prot_flags="---"),
        }


MADV_PAGEOUT = 21


def evict(memory: GuestMemory, addr: int, size: int) -> None:
    """Takes pages from this process's page tables, as the kernel does when it lacks memory: those of files go even without swap.

    Of files, those that were brought in one by one: the kernel keeps a piece of several pages of which some are protected.
    """
    host = ctypes.c_void_p(memory.host_address(addr))
    failed = libc.madvise(host, ctypes.c_size_t(size), MADV_PAGEOUT)
    assert not failed


TRACKERS: WeakKeyDictionary[GuestMemory, DirtyTracker] = WeakKeyDictionary()


def track(memory: GuestMemory, is_tracked: bool = True) -> None:  # noqa: FBT001, FBT002
    """Begins to follow this package's own writes, or ends it."""
    if is_tracked and memory not in TRACKERS:
        TRACKERS[memory] = memory.dirty.start("api")
    elif not is_tracked:
        TRACKERS.pop(memory).stop()


def drain(memory: GuestMemory) -> list[tuple[int, int]]:
    """The pages that were written since the last time, as (base, size)."""
    tracker = TRACKERS.get(memory)
    return [] if tracker is None else [(pages.base, pages.size) for pages in tracker.collect()]


def blocks(memory: GuestMemory, addr: int) -> int:
    """The blocks of 512 bytes that the memfd of a region takes."""
    fd = memory.mapping(addr).fd
    assert fd is not None
    return os.fstat(fd).st_blocks
