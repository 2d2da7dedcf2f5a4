"""Memory that fails under a touch is a `MemoryFault`, never a signal: cut files, full file systems, stolen huge pages."""

import ctypes
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from children import in_child
from dbs_address_space import (
    MAP_PRIVATE,
    MAP_SHARED,
    GuestMemory,
    HugePagesShort,
    MemoryFault,
    Unsupported,
)
from host import ask_host, huge_pages, mounted, require
from memory_helpers import GIB, MIB, PAGE, libc, mapped, ram
from threads import run_threads
from verbs import OTHER, VERBS, Verb, data

SIZE = 8 * PAGE
CUT = 5 * PAGE
PUNCH_HOLE = 3
"""FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE"""

AT = GIB
SIZED = [verb for verb in VERBS if verb.touches and not verb.widths]
INTEGERS = [verb for verb in VERBS if verb.kind == "integer"]
WRITES = [verb for verb in SIZED if verb.writes]


@contextmanager
def mapped_file(path: Path, flags: int = MAP_SHARED, size: int = SIZE) -> Iterator[GuestMemory]:
    """Bytes in a file, and other memory."""
    path.write_bytes(data(size))
    with path.open("r+b") as file:
        space, memory = mapped(ram(OTHER, size), ram(AT, size, file=file, perm_flags=flags))
    memory.write(OTHER, data(size))
    with memory:
        yield memory
    assert not space.is_mapped


def fault_of(verb: Callable[[GuestMemory, int, int], object], memory: GuestMemory, addr: int, size: int) -> MemoryFault:
    with pytest.raises(MemoryFault) as fault:
        verb(memory, addr, size)
    return fault.value


def check(verb: Verb, error: MemoryFault, address: int, size: int, completed: int) -> None:
    assert error.address == address
    assert verb.parts or (error.size, error.completed) == (size, completed)


# A file that was cut.


@pytest.mark.parametrize("flags", [MAP_SHARED, MAP_PRIVATE])
@pytest.mark.parametrize("verb", SIZED, ids=str)
def test_a_cut_file(verb: Verb, flags: int, tmp_path: Path) -> None:
    """Pages and some bytes are there, and more than one page is gone."""
    odd, size = 100, SIZE - PAGE
    there = CUT - odd

    def probe() -> None:
        with mapped_file(tmp_path / "file", flags) as memory:
            memory.write(AT + odd, data(size))
            os.truncate(tmp_path / "file", CUT)
            error = fault_of(verb, memory, AT + odd, size)
            check(verb, error, AT + CUT, size, there)
            assert (error.errno, error.file_offset, error.region) == (14, CUT, memory.regions[1])
            assert error.cause == "the backing file was truncated to 0x5000 bytes"
            assert error.cause in str(error)
            behind = fault_of(verb, memory, AT + CUT + PAGE, PAGE)
            assert (behind.address, behind.completed, behind.file_offset) == (AT + CUT + PAGE, 0, CUT + PAGE)
            verb(memory, AT + odd, there)
            assert (tmp_path / "file").stat().st_size == CUT

    in_child(probe)


def test_what_was_done_before_the_fault_is_done(tmp_path: Path) -> None:
    def probe() -> None:
        with mapped_file(tmp_path / "file") as memory:
            memory.fill(AT, SIZE, 0x11)
            os.truncate(tmp_path / "file", CUT)
            into = bytearray(SIZE - PAGE)
            with pytest.raises(MemoryFault) as fault:
                memory.read_into(AT + PAGE, into)
            assert into == b"\x11" * fault.value.completed + bytes(SIZE - PAGE - fault.value.completed)
            with pytest.raises(MemoryFault) as fault:
                memory.write(AT + PAGE, b"\x22" * (SIZE - PAGE))
            assert fault.value.completed == CUT - PAGE
            assert (tmp_path / "file").read_bytes() == b"\x11" * PAGE + b"\x22" * (CUT - PAGE)

    in_child(probe)


@pytest.mark.parametrize("verb", INTEGERS, ids=str)
def test_integers_of_a_cut_file(verb: Verb, tmp_path: Path) -> None:
    (width,) = verb.widths

    def probe() -> None:
        with mapped_file(tmp_path / "file") as memory:
            os.truncate(tmp_path / "file", CUT)
            fault = fault_of(verb, memory, AT + CUT, width)
            assert (fault.address, fault.size, fault.completed) == (AT + CUT, width, 0)
            assert verb.right
            assert verb(memory, AT + CUT - width, width) == verb.right(data(CUT)[-width:])[0]

    in_child(probe)


@pytest.mark.parametrize("verb", SIZED, ids=str)
def test_an_access_over_regions_counts_from_its_start(verb: Verb, tmp_path: Path) -> None:
    def probe() -> None:
        (tmp_path / "file").write_bytes(data(SIZE))
        with (tmp_path / "file").open("r+b") as file:
            neighbours = [ram(AT), ram(AT + PAGE, SIZE - PAGE, file=file, file_offset=PAGE), ram(AT + SIZE)]
            _, memory = mapped(ram(OTHER, 2 * SIZE), *neighbours)
        for base in (OTHER, AT):
            memory.write(base, data(SIZE))
        os.truncate(tmp_path / "file", 3 * PAGE)
        error = fault_of(verb, memory, AT, SIZE + PAGE)
        check(verb, error, AT + 3 * PAGE, SIZE + PAGE, 3 * PAGE)
        assert (error.file_offset, error.region) == (3 * PAGE, memory.regions[2])

    in_child(probe)


@pytest.mark.parametrize("verb", SIZED, ids=str)
def test_long_accesses_to_a_cut_file(verb: Verb, tmp_path: Path) -> None:
    def probe() -> None:
        with mapped_file(tmp_path / "file", size=8 * MIB) as memory:
            os.truncate(tmp_path / "file", 6 * MIB)
            check(verb, fault_of(verb, memory, AT, 8 * MIB), AT + 6 * MIB, 8 * MIB, 6 * MIB)

    in_child(probe)


def test_a_file_that_grows_again_is_memory_again(tmp_path: Path) -> None:
    def probe() -> None:
        with mapped_file(tmp_path / "file") as memory:
            os.truncate(tmp_path / "file", 0)
            assert fault_of(GuestMemory.read, memory, AT, SIZE).completed == 0
            os.truncate(tmp_path / "file", SIZE)
            assert memory.read(AT, SIZE) == bytes(SIZE)
            memory.write(AT + SIZE - 4, b"back")
        assert (tmp_path / "file").read_bytes()[-4:] == b"back"

    in_child(probe)


def test_a_fault_can_be_pickled(tmp_path: Path) -> None:
    def probe() -> None:
        with mapped_file(tmp_path / "file") as memory:
            os.truncate(tmp_path / "file", CUT)
            error = fault_of(GuestMemory.read, memory, AT, SIZE)
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy)) == (MemoryFault, str(error))
        assert (copy.address, copy.size, copy.completed, copy.cause) == (AT + CUT, SIZE, CUT, error.cause)
        assert (copy.file_offset, copy.errno, copy.region) == (CUT, 14, None)

    in_child(probe)


def test_cuts_amid_reads_and_writes(tmp_path: Path) -> None:
    """10,000 times the file is cut between a look at its length and the copy."""

    def probe() -> None:
        with mapped_file(tmp_path / "file") as memory:
            done = threading.Event()
            whole, faults = [0], list[int]()

            def cut() -> None:
                fd = os.open(tmp_path / "file", os.O_RDWR)
                rounds = 0
                while rounds < 10_000 or not (whole[0] and faults):
                    rounds += 1
                    os.truncate(fd, CUT)
                    os.truncate(fd, SIZE)
                done.set()

            def access(verb: Callable[[GuestMemory, int, int], object]) -> None:
                while not done.is_set():
                    try:
                        verb(memory, AT + PAGE, SIZE - PAGE)
                        whole[0] += 1
                    except MemoryFault as fault:
                        faults.append(fault.completed)

            def integers() -> None:
                while not done.is_set():
                    with suppress(MemoryFault):
                        memory.write_u64(AT + CUT + 8, memory.read_u64(AT + CUT))

            run_threads(cut, integers, *(partial(access, verb) for verb in (GuestMemory.read, GuestMemory.fill)))
            assert all(CUT - PAGE <= completed < SIZE - PAGE for completed in faults)

    in_child(probe)


# A file system that is full, a file that is sparse.


@pytest.mark.parametrize("verb", WRITES, ids=str)
def test_a_full_file_system(verb: Verb, tmp_path: Path) -> None:
    def probe(where: Path) -> None:
        (where / "sparse").touch()
        os.truncate(where / "sparse", MIB)
        with (where / "sparse").open("r+b") as file:
            _, memory = mapped(ram(OTHER, MIB), ram(AT, MIB, file=file))
        memory.write(OTHER, data(MIB))
        assert memory.read(AT, MIB) == bytes(MIB)
        error = fault_of(verb, memory, AT, MIB)
        assert 0 < error.completed < MIB
        assert (error.address, error.file_offset) == (AT + error.completed, error.completed)
        assert "file system full" in error.cause
        assert verb.right
        written = verb.right(bytes(MIB))[1][: error.completed]
        assert memory.read(AT, MIB) == written.ljust(MIB, b"\0")

    with mounted("tmpfs", tmp_path / "full", "size=64k") as where:
        in_child(lambda: probe(where))


def test_reading_a_hole_allocates_nothing(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("w+b") as file:
        os.truncate(file.fileno(), 64 * MIB)
        _, memory = mapped(ram(0, 64 * MIB, file=file))
        assert memory.read(0, 64 * MIB) == bytes(64 * MIB)
        assert memory.read_u64(MIB) == 0
        assert os.fstat(file.fileno()).st_blocks == 0


# Huge pages that others take.


def punch(fd: int | None, offset: int, size: int) -> None:
    assert fd is not None
    assert libc.fallocate(fd, PUNCH_HOLE, ctypes.c_long(offset), ctypes.c_long(size)) == 0


def test_a_punched_huge_page_whose_pool_was_taken() -> None:
    def probe(size: int) -> None:
        _, memory = mapped(ram(OTHER), ram(AT, 2 * size, mem_type="hugeshmem"))
        memory.write(OTHER, data(PAGE))
        memory.fill(AT, 2 * size, 0x55)
        assert not memory.mapping(AT).guarded
        fd = memory.mapping(AT).fd
        assert memory.mapping(AT).guarded
        punch(fd, size, size)
        _, thief = mapped(ram(0, size, mem_type="hugemmap"))
        thief.fill(0, size, 1)
        for verb in WRITES:
            error = fault_of(verb, memory, AT + size - 16, 32)
            assert (error.address, error.completed, error.file_offset) == (AT + size, 16, size)
            assert error.cause == "no huge page was free for it"
            assert verb.right
            assert memory.read(AT + size - 16, 32) == verb.right(bytes(16))[1] + bytes(16)
        with pytest.raises(Unsupported):
            memory.view(AT, 4)
        thief.close()
        memory.write_u64(AT + size, 7)
        assert memory.read_u64(AT + size) == 7

    with huge_pages(2) as size:
        in_child(lambda: probe(size))


def take_pool(size: int) -> None:
    """Takes all huge pages; a read in flight keeps one that was punched for a moment longer."""
    while True:
        try:
            mapped(ram(0, size, mem_type="hugemmap"))[1].fill(0, size)
        except HugePagesShort:
            continue
        return


def steal_amid_copies(size: int) -> None:
    """Punches all pages and takes the pool, while another thread reads them in long copies."""
    _, memory = mapped(ram(0, size, mem_type="hugeshmem"))
    memory.fill(0, size, 0x55)
    begun, done = threading.Event(), threading.Event()

    def read() -> None:
        target = bytearray(size)
        begun.set()
        while not done.is_set():
            memory.read_into(0, target)

    def steal() -> None:
        begun.wait()
        try:
            punch(memory.mapping(0).fd, 0, size)
            take_pool(size)
        finally:
            done.set()

    run_threads(read, steal)
    assert memory.read(0, size) == bytes(size)


def test_a_descriptor_that_leaves_amid_long_copies() -> None:
    """The copies in flight end before anyone can punch; those that come later go through the kernel."""

    def probe(size: int) -> None:
        for _ in range(20):
            steal_amid_copies(size)

    with huge_pages(16) as size:
        in_child(lambda: probe(16 * size))


# A kernel that promises no memory that it may not have.


@contextmanager
def strict_overcommit() -> Iterator[None]:
    """`vm.overcommit_memory=2`, with a limit so high that no one on the host notices."""
    knobs = Path("/proc/sys/vm")
    require(os.access(knobs / "overcommit_memory", os.W_OK), "vm.overcommit_memory can be set by root only")
    before = {name: (knobs / name).read_text() for name in ("overcommit_memory", "overcommit_ratio")}
    is_by_ratio = (knobs / "overcommit_kbytes").read_text().strip() == "0"
    ask_host(is_by_ratio, "vm.overcommit_kbytes is set, and setting the ratio would lose it")
    try:
        (knobs / "overcommit_ratio").write_text("1000000")
        (knobs / "overcommit_memory").write_text("2")
        yield
    finally:
        for name, value in before.items():
            (knobs / name).write_text(value)


@pytest.mark.parametrize("mem_type", ["shmem", "mmap"])
def test_memory_under_strict_overcommit_is_guarded(mem_type: str) -> None:
    with strict_overcommit():
        _, memory = mapped(ram(0, mem_type=mem_type), ram(GIB, MIB))
        assert memory.mapping(0).guarded
        memory.write(8, b"strict")
        memory.fill(GIB, MIB, 3)
        memory.write_u32(0, 7)
        assert (memory.read(8, 6), memory.read_u32(0), memory.read(GIB, 2)) == (b"strict", 7, b"\3\3")
        with pytest.raises(Unsupported):
            memory.load(0)
    _, memory = mapped(ram(0, mem_type=mem_type))
    assert not memory.mapping(0).guarded
