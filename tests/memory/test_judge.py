"""Memory is judged by what it is: what can't fault is touched directly, whoever made it, and refusals say why and what to do."""

import array
import ctypes
import fcntl
import io
import mmap
import os
import pickle
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import finish_child, in_child, start_child
from dbs_address_space import (
    AccessDenied,
    AddressSpaceRegion,
    BackingError,
    BackingOptions,
    GuestMemory,
    InvalidArgument,
    Misaligned,
    Prot,
    Unsupported,
)
from host import huge_pages, mounted
from memory_helpers import GIB, MIB, PAGE, libc, make_file, mapped, ram

SIZE = 2 * PAGE
ADD_SEALS, SEAL, SHRINK, GROW, WRITE, FUTURE_WRITE = 1033, 1, 2, 4, 8, 16
MAP_HUGETLB = 0x40000
PUNCH = 0x3
"""FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE"""


def memfd(seals: int | None = SHRINK, size: int = SIZE, flags: int = 0) -> int:
    """A memfd with seals; `None` for one that takes none."""
    fd = os.memfd_create("theirs", flags | (0 if seals is None else os.MFD_ALLOW_SEALING))
    os.ftruncate(fd, size)
    if seals:
        fcntl.fcntl(fd, ADD_SEALS, seals)
    return fd


def cut(fd: int) -> None:
    os.ftruncate(fd, 0)


def cut_in_vain(fd: int) -> None:
    with pytest.raises(PermissionError):
        cut(fd)


def punch(fd: int) -> None:
    assert libc.fallocate(fd, PUNCH, ctypes.c_long(0), ctypes.c_long(os.fstat(fd).st_size)) == 0


def nothing(_fd: int) -> None:
    pass


@dataclass
class Row:
    """A line of the table: a file, how it is taken away, what `guarded_because` says, and whether a touch then kills."""

    make: Callable[[Path], int]
    take: Callable[[int], object]
    why: str | None
    kills: bool
    shared: bool = True
    prot: str | None = None
    size: int = SIZE
    backing: BackingOptions | None = None
    trusted: bool = False


def file_of(folder: Path, size: int = SIZE) -> int:
    return os.open(make_file(folder / "file", size), os.O_RDWR)


def full_tmpfs(folder: Path) -> int:
    """A file for whose second page there is no room."""
    fd = os.open(folder / "file", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, SIZE)
    return fd


def read_only(fd: int) -> int:
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)


ROWS = {
    "sealed, punched": Row(lambda _: memfd(), punch, None, kills=False),
    "sealed, cut": Row(lambda _: memfd(), cut_in_vain, None, kills=False),
    "all seals of QEMU": Row(lambda _: memfd(SEAL | SHRINK | GROW), cut_in_vain, None, kills=False),
    "sealed, private": Row(lambda _: memfd(), punch, None, kills=False, shared=False),
    "sealed, read-only": Row(lambda _: read_only(memfd()), nothing, None, kills=False),
    "sealed against writes": Row(lambda _: memfd(SHRINK | WRITE), nothing, None, kills=False, prot="r--"),
    "sealed against writes, private": Row(lambda _: memfd(SHRINK | WRITE), nothing, None, kills=False, shared=False),
    "sealed against new writers": Row(lambda _: memfd(SHRINK | FUTURE_WRITE), nothing, None, kills=False, prot="r--"),
    "unsealed": Row(lambda _: memfd(0), cut, "seal it with F_ADD_SEALS F_SEAL_SHRINK", kills=True),
    "unsealed, private": Row(lambda _: memfd(0), cut, "seal it with F_ADD_SEALS", kills=True, shared=False),
    "sealed against growing alone": Row(lambda _: memfd(GROW), cut, "seal it with F_ADD_SEALS", kills=True),
    "without MFD_ALLOW_SEALING": Row(lambda _: memfd(None), cut, "takes no seals", kills=True),
    "a file": Row(file_of, cut, "cut", kills=True),
    "a file, private": Row(file_of, cut, "cut", kills=True, shared=False),
    "a file that is vouched for": Row(file_of, nothing, None, kills=False, trusted=True),
    "a file that is vouched for, cut": Row(file_of, cut, None, kills=True, trusted=True),
    "/dev/shm": Row(lambda _: shm(), cut, "takes no seals", kills=True),
}


def shm() -> int:
    path = Path(f"/dev/shm/judge-{os.getpid()}")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    path.unlink()
    os.ftruncate(fd, SIZE)
    return fd


def region_of(row: Row, fd: int) -> AddressSpaceRegion:
    region = AddressSpaceRegion.from_file(0, row.size, fd, shared=row.shared, prot_flags=row.prot, trusted=row.trusted)
    return region.replace(backing=row.backing) if row.backing else region


def judged(row: Row, folder: Path) -> None:
    """Maps the row's file, takes it away, and touches each page."""
    fd = row.make(folder)
    _, memory = mapped(region_of(row, fd))
    mapping = memory.mapping(0)
    assert mapping.guarded is (row.why is not None)
    assert (row.why or "") in (mapping.guarded_because or "")
    view = memory.view(0, row.size, unguarded=True)
    row.take(fd)
    assert view[0] == view[row.size - 1] == 0
    if not view.readonly:
        view[0] = view[row.size - 1] = 1


def touched(row: Row, folder: Path) -> None:
    """A touch kills exactly where the table says so, and where it does, the memory was guarded or vouched for."""
    problem = finish_child(*start_child(lambda: judged(row, folder)), timeout=60)
    assert problem == ("the child died of SIGBUS" if row.kills else "")


@pytest.mark.parametrize("name", ROWS)
def test_memory_is_direct_where_no_touch_can_fault(name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    assert row.why or not row.kills or row.trusted
    touched(row, tmp_path)


def test_the_file_system_alone_does_not_tell(tmp_path: Path) -> None:
    """A full tmpfs is of the very kind of file system that memfds are on."""
    with mounted("tmpfs", tmp_path / "full", f"size={PAGE}") as folder:
        touched(Row(full_tmpfs, nothing, "takes no seals", kills=True), folder)


@pytest.mark.parametrize("trusted", [False, True])
def test_seals_alone_do_not_tell(trusted: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """A memfd of huge pages has seals, and its pool may be empty; nobody can vouch for a pool."""
    stolen = []

    def steal(fd: int) -> None:
        punch(fd)
        stolen.append(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | MAP_HUGETLB))
        stolen[0][0] = 1

    with huge_pages(1) as size:
        options = BackingOptions(reserve=False, trusted=trusted or None)
        row = Row(
            lambda _: memfd(SHRINK, size, os.MFD_HUGETLB), steal, "huge pages", kills=True, size=size, backing=options
        )
        touched(row, tmp_path)


def test_a_file_that_is_shorter_than_its_mapping_is_guarded() -> None:
    """F_SEAL_SHRINK forbids what comes after it, not what came before."""
    fd = memfd(0)
    buffer = mmap.mmap(fd, SIZE)
    os.ftruncate(fd, PAGE)
    fcntl.fcntl(fd, ADD_SEALS, SHRINK)
    _, memory = mapped(AddressSpaceRegion.from_buffer(0, buffer))
    assert "ends before it does" in (memory.mapping(0).guarded_because or "")
    with pytest.raises(Unsupported, match="ends before it does"):
        memory.view(0, SIZE)

    def touch() -> None:
        memory.view(0, SIZE, unguarded=True)[PAGE]

    assert finish_child(*start_child(touch), timeout=60) == "the child died of SIGBUS"


def test_a_seal_counts_from_the_next_mapping_on() -> None:
    fd = memfd(0)
    _, memory = mapped(AddressSpaceRegion.from_file(0, SIZE, fd))
    fcntl.fcntl(fd, ADD_SEALS, SHRINK)
    assert memory.mapping(0).guarded
    _, later = mapped(AddressSpaceRegion.from_file(0, SIZE, fd))
    assert not later.mapping(0).guarded


@pytest.mark.parametrize("seals", [SHRINK, 0])
def test_a_received_descriptor_is_as_good_as_its_seals(seals: int) -> None:
    ours, theirs = socket.socketpair()

    def send() -> None:
        fd = memfd(seals)
        os.pwrite(fd, b"theirs", 8)
        socket.send_fds(theirs, [b"."], [fd])

    with ours, theirs:
        in_child(send)
        _, [fd], _, _ = socket.recv_fds(ours, 1, 1)
    _, memory = mapped(AddressSpaceRegion.from_file(GIB, SIZE, fd))
    assert memory.read(GIB + 8, 6) == b"theirs"
    memory.write_u64(GIB, 1)
    if seals:
        assert memory.fetch_add(GIB, 6) == 1
        memory.array(GIB, 1, "<u8")[0] += 1
        assert (memory.load(GIB), memory.mapping(GIB).guarded_because) == (8, None)
        return
    for refused in (memory.fetch_add, memory.view, lambda addr, size: memory.array(addr, size, "u1")):
        with pytest.raises(Unsupported, match="F_SEAL_SHRINK before it is mapped, or vouch for it with trusted=True"):
            refused(GIB, 8)


def inaccessible() -> mmap.mmap:
    """Of its two pages the second can't be touched."""
    buffer = mmap.mmap(-1, SIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    assert libc.mprotect(ctypes.c_void_p(address + PAGE), ctypes.c_size_t(PAGE), 0) == 0
    return buffer


class Subclass(np.ndarray[Any, Any]):
    """May have a `base` of its own."""


class OwnBytes(bytearray):
    """May give a buffer of its own, from 3.12 on."""


BUFFERS: dict[str, tuple[Callable[[], Any], str | None]] = {
    "bytearray": (lambda: bytearray(SIZE), None),
    "bytes": (lambda: bytes(SIZE), None),
    "memoryview": (lambda: memoryview(bytearray(SIZE))[8:], None),
    "array": (lambda: array.array("Q", bytes(SIZE)), None),
    "BytesIO": (lambda: io.BytesIO(bytes(SIZE)).getbuffer(), None),
    "mmap": (lambda: mmap.mmap(-1, SIZE), None),
    "private mmap": (lambda: mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE), None),
    "mmap of a sealed memfd": (lambda: mmap.mmap(memfd(), SIZE), None),
    "mmap of an unsealed memfd": (lambda: mmap.mmap(memfd(0), SIZE), "F_ADD_SEALS"),
    "mmap without a protection": (inaccessible, "protected in this process"),
    "NumPy over a bytearray": (lambda: np.frombuffer(bytearray(SIZE), "u1")[8:], None),
    "NumPy over an mmap": (lambda: np.frombuffer(mmap.mmap(-1, SIZE), "<u8").reshape(2, -1), None),
    "NumPy's own": (lambda: np.zeros(SIZE, "u1"), "may move the buffer"),
    "a slice of NumPy's own": (lambda: np.zeros(SIZE, "u1")[8:], "may move the buffer"),
    "a class of NumPy's": (lambda: np.frombuffer(bytearray(SIZE), "u1").view(Subclass), "may move the buffer"),
    "a class of bytearray's": (lambda: OwnBytes(SIZE), "may move the buffer"),
    "ctypes": (ctypes.c_char * SIZE, "may move the buffer"),
    "a view of guest memory": (lambda: mapped(ram(0, SIZE))[1].view(0, SIZE), None),
    "a view of a guarded file": (
        lambda: mapped(ram(0, SIZE, backing=BackingOptions(seals=[])))[1].view(0, SIZE, unguarded=True),
        "F_ADD_SEALS",
    ),
}


@pytest.mark.parametrize("kind", BUFFERS)
def test_a_buffer_is_judged_by_its_root_exporter(kind: str) -> None:
    make, why = BUFFERS[kind]
    buffer = make()
    _, memory = mapped(AddressSpaceRegion.from_buffer(GIB, buffer))
    because = memory.mapping(GIB).guarded_because
    assert (because is None) is (why is None), because
    assert (why or "") in (because or "")
    if why:
        with pytest.raises(Unsupported, match=why):
            memory.view(GIB, 8)
        buffer = make()
        _, memory = mapped(AddressSpaceRegion.from_buffer(GIB, buffer, trusted=True))
        if "protected" in why:
            assert memory.mapping(GIB).guarded_because == because
            return
    assert memory.mapping(GIB).guarded_because is None
    assert memory.view(GIB, 8).tobytes() == bytes(8)
    memory.read_u64(GIB)


def test_a_moved_array_kills_who_touches_it() -> None:
    """That is why NumPy's own arrays are guarded: `refcheck=False` moves them under an export."""

    def touch(*, trusted: bool) -> None:
        owner: Any = np.zeros(64 * MIB, "u1")
        _, memory = mapped(AddressSpaceRegion.from_buffer(0, owner, trusted=trusted))
        owner.resize(1 << 30, refcheck=False)
        memory.read(32 * MIB, 8)

    assert "MemoryFault" in finish_child(*start_child(lambda: touch(trusted=False)), timeout=60)
    assert finish_child(*start_child(lambda: touch(trusted=True)), timeout=60) == "the child died of SIGSEGV"


def test_a_read_only_buffer_is_a_read_only_region() -> None:
    constant = bytes(range(256)) * 16
    region = AddressSpaceRegion.from_buffer(0, constant)
    assert region.prot_flags == Prot.READ
    _, memory = mapped(region)
    assert memory.read(0, 256) == constant[:256]
    assert memory.view(0, 8).readonly
    refusals: list[Callable[[], object]] = [
        lambda: memory.write(0, b"x"),
        lambda: memory.write(0, b"x", force=True),
        lambda: memory.store(0, 1),
    ]
    for refused in refusals:
        with pytest.raises(AccessDenied):
            refused()
    assert constant[:4] == bytes(range(4))
    assert region.replace(name="constant").prot_flags == Prot.READ
    with pytest.raises(InvalidArgument, match="the buffer is read-only"):
        region.replace(prot_flags="rw-")
    with pytest.raises(InvalidArgument, match="the buffer is read-only"):
        AddressSpaceRegion.from_buffer(0, constant, prot_flags="rw-")
    assert AddressSpaceRegion.from_buffer(0, bytearray(8), prot_flags="r--").prot_flags == Prot.READ


def test_a_word_on_memory_is_an_option_of_its_region(tmp_path: Path) -> None:
    fd = file_of(tmp_path)
    region = AddressSpaceRegion.from_file(0, SIZE, fd, trusted=True)
    assert region.backing == BackingOptions(trusted=True)
    assert AddressSpaceRegion.from_file(0, SIZE, fd) != region
    assert "trusted=True" in repr(region.backing)
    assert pickle.loads(pickle.dumps(region.backing)) == region.backing
    buffer = AddressSpaceRegion.from_buffer(0, bytearray(8), trusted=True).replace(name="named")
    assert buffer.backing == region.replace(name="named").backing == region.backing
    assert buffer.replace(backing=BackingOptions()).backing.trusted is None
    with pytest.raises(InvalidArgument, match="trusted= goes with a file= or a buffer"):
        ram(0, backing=BackingOptions(trusted=True))
    with pytest.raises(BackingError, match="0x4000"):
        mapped(AddressSpaceRegion.from_file(0, 2 * SIZE, fd, trusted=True))


def test_atomics_need_alignment_in_this_process_too() -> None:
    _, memory = mapped(AddressSpaceRegion.from_file(0, PAGE, memfd(), 4))
    assert memory.load(0, 4) == 0
    for call in (lambda: memory.load(0), lambda: memory.store(8, 1), lambda: memory.fetch_add(0, 1)):
        with pytest.raises(Misaligned, match="begins at no multiple of 8 bytes"):
            call()
    memory.write_u64(0, 7)
    assert memory.read_u64(0) == 7


def others() -> tuple[GuestMemory, GuestMemory]:
    """One memory, as its owner has it and as it was received."""
    _, owner = mapped(ram(0, 4 * MIB))
    fd = owner.mapping(0).fd
    assert fd is not None
    return owner, mapped(AddressSpaceRegion.from_file(0, 4 * MIB, fd))[1]


def test_two_spaces_share_their_atomics() -> None:
    owner, received = others()
    for memory in (owner, received) * 3:
        memory.fetch_add(8, 1)
    received.store(16, 5, 4)
    assert (owner.load(8), owner.load(16, 4), received.compare_exchange(8, 6, 0), owner.load(8)) == (6, 5, 6, 0)


def test_scans_of_received_memory_allocate_nothing() -> None:
    owner, received = others()
    fd = owner.mapping(0).fd
    assert fd is not None
    owner.write(MIB, b"x")
    before = os.fstat(fd).st_blocks
    assert received.hash(0, 4 * MIB) == owner.hash(0, 4 * MIB)
    assert list(received.search(b"x", 0, 4 * MIB)) == [MIB]
    assert os.fstat(fd).st_blocks == before
