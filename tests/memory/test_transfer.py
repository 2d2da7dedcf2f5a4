"""Transfers between guest memory and files: where each goes on, what is refused, what stops them midway."""

import errno
import gzip
import io
import os
import socket
import tempfile
import threading
import zipfile
from array import array
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import (
    AccessDenied,
    AddressSpaceRegion,
    BackingError,
    GuestMemory,
    InvalidAddressRange,
    MemoryFault,
    PartialTransfer,
    UnmappedAddress,
)
from kernel_view import descriptors
from memory_helpers import MIB, PAGE, drain, numbered, track, transfer_regions

END = 3 * MIB
DATA = numbered(END)


@pytest.fixture
def regions(tmp_path: Path) -> list[AddressSpaceRegion]:
    return transfer_regions(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    return path


SPANS = [(0, 1), (5, PAGE), (MIB - 100, 200), (MIB - 1, MIB + 2), (0, END)]


@pytest.mark.parametrize("span", SPANS, ids=str)
@pytest.mark.parametrize("buffering", [0, -1], ids=["raw", "buffered"])
def test_a_file_goes_on_behind_what_was_transferred(
    memory: GuestMemory, file: Path, span: tuple[int, int], buffering: int
) -> None:
    addr, size = span
    with file.open("r+b", buffering=buffering) as opened:
        opened.read(3)
        assert memory.read_from(opened, addr, size - min(size, 3)) == size - min(size, 3)
        assert opened.tell() == 3 + size - min(size, 3)
        assert memory.read(addr, size - min(size, 3)) == DATA[3:size] if size > 3 else True
        opened.seek(0)
        opened.write(b"head")
        assert memory.write_to(opened, addr, size) == size
        opened.write(b"tail")
    assert file.read_bytes()[: size + 8] == b"head" + memory.read(addr, size) + b"tail"


@pytest.mark.parametrize("kind", ["descriptor", "raw", "buffered"])
def test_a_file_is_anything_with_a_descriptor(memory: GuestMemory, file: Path, kind: str) -> None:
    with file.open("rb") as opened:
        source = {"descriptor": opened.fileno(), "raw": opened.raw, "buffered": opened}[kind]
        before = descriptors()
        assert memory.read_from(source, MIB - 1, PAGE) == PAGE  # type: ignore[arg-type]
        assert descriptors() == before
    assert memory.read(MIB - 1, PAGE) == DATA[:PAGE]


def test_what_was_read_ahead_is_not_lost(memory: GuestMemory, file: Path) -> None:
    with file.open("rb") as opened:
        assert opened.readline()
        opened.seek(100)
        assert opened.peek(10)
        memory.read_from(opened, 0, 50)
        assert opened.read(5) == DATA[150:155]
    assert memory.read(0, 50) == DATA[100:150]


def test_what_was_written_before_comes_before(memory: GuestMemory, tmp_path: Path) -> None:
    memory.write(0, b"guest")
    with (tmp_path / "out").open("wb") as opened:
        opened.write(b"before ")
        memory.write_to(opened, 0, 5)
        opened.write(b" behind")
    assert (tmp_path / "out").read_bytes() == b"before guest behind"


@pytest.mark.parametrize("mode", ["ab", "a+b"])
@pytest.mark.parametrize("buffering", [0, -1], ids=["raw", "buffered"])
def test_what_is_appended_comes_last(memory: GuestMemory, tmp_path: Path, mode: str, buffering: int) -> None:
    (tmp_path / "log").write_bytes(b"old ")
    memory.write(0, b"guest")
    with (tmp_path / "log").open(mode, buffering=buffering) as opened:
        opened.seek(0)
        memory.write_to(opened, 0, 5)
        assert opened.tell() == 9
    assert (tmp_path / "log").read_bytes() == b"old guest"


@pytest.mark.parametrize("buffering", [0, -1], ids=["raw", "buffered"])
def test_a_file_that_ends_says_how_far_it_came(memory: GuestMemory, file: Path, buffering: int) -> None:
    os.truncate(file, MIB + 5)
    track(memory)
    with file.open("rb", buffering=buffering) as opened:
        with pytest.raises(PartialTransfer, match="ended after 0x10_0005 of 0x20_0000 bytes") as partial:
            memory.read_from(opened, 0, 2 * MIB)
        assert (partial.value.done, partial.value.size) == (MIB + 5, 2 * MIB)
        assert opened.tell() == MIB + 5
    assert memory.read(0, 2 * MIB) == DATA[: MIB + 5] + bytes(MIB - 5)
    assert drain(memory) == [(0, MIB + PAGE)]


def test_a_full_device_says_how_far_it_came(memory: GuestMemory) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(PartialTransfer) as partial:
        memory.write_to(full, 0, PAGE)
    assert (partial.value.errno, partial.value.done) == (errno.ENOSPC, 0)


def test_nothing_needs_no_memory(memory: GuestMemory, file: Path) -> None:
    with file.open("r+b") as opened:
        assert memory.read_from(opened, 1 << 40, 0) == 0
        assert memory.write_to(opened, 1 << 40, 0) == 0
        assert opened.tell() == 0


@pytest.mark.parametrize(
    ("addr", "size", "bad", "error"),
    [
        (END - 1, 2, END, UnmappedAddress),
        (1 << 45, 1, 1 << 45, UnmappedAddress),
        (5 * MIB - 1, 2, 5 * MIB, UnmappedAddress),
        ((1 << 64) - 1, 1, (1 << 64) - 1, InvalidAddressRange),
        (0, (1 << 64) - 1, END, UnmappedAddress),
    ],
    ids=["hole", "nowhere", "end", "top", "huge"],
)
def test_a_refused_transfer_moves_nothing(
    memory: GuestMemory, file: Path, addr: int, size: int, bad: int, error: type[Exception]
) -> None:
    for verb in (memory.read_from, memory.write_to):
        if (verb, addr) == (memory.read_from, 5 * MIB - 1):
            continue
        with file.open("r+b") as opened:
            with pytest.raises(error) as refused:
                verb(opened, addr, size)
            assert getattr(refused.value, "address", None) == bad
            assert opened.tell() == 0
    assert file.read_bytes() == DATA
    assert memory.read(0, END) == bytes(END)


def test_a_protection_refuses_reads_from_a_file(memory: GuestMemory, file: Path) -> None:
    with file.open("rb") as opened:
        with pytest.raises(AccessDenied):
            memory.read_from(opened, 4 * MIB, 1)
        assert opened.tell() == 0
    assert memory.read(4 * MIB, 1) == b"\0"


@pytest.mark.parametrize("size", [-1, 1 << 64, True, "1 kitten"])
def test_bad_sizes_are_refused(memory: GuestMemory, file: Path, size: Any) -> None:
    with file.open("r+b") as opened:
        for verb in (memory.read_from, memory.write_to):
            with pytest.raises(InvalidAddressRange):
                verb(opened, 0, size)


def test_text_files_are_refused(memory: GuestMemory, file: Path) -> None:
    with file.open("r+", encoding="latin-1") as opened:
        for verb in (memory.read_from, memory.write_to):
            with pytest.raises(TypeError, match="binary mode"):
                verb(opened, 0, 1)
    with pytest.raises(TypeError, match="binary mode"):
        memory.write_to(io.StringIO(), 0, 1)


@pytest.mark.parametrize("buffering", [0, -1], ids=["raw", "buffered"])
def test_files_open_the_wrong_way_are_refused(memory: GuestMemory, file: Path, buffering: int) -> None:
    with (
        file.open("ab", buffering=buffering) as only_written,
        pytest.raises(io.UnsupportedOperation, match="not open for reading"),
    ):
        memory.read_from(only_written, 0, 1)
    with (
        file.open("rb", buffering=buffering) as only_read,
        pytest.raises(io.UnsupportedOperation, match="not open for writing"),
    ):
        memory.write_to(only_read, 0, 1)


@pytest.mark.parametrize("thing", [b"name", 1.5, None, [], object()], ids=lambda thing: type(thing).__name__)
def test_what_is_no_file(memory: GuestMemory, thing: Any) -> None:
    for verb in (memory.read_from, memory.write_to):
        with pytest.raises(TypeError):
            verb(thing, 0, 1)


def test_descriptors_that_are_not_open(memory: GuestMemory) -> None:
    with pytest.raises(BackingError) as refused:
        memory.read_from(1 << 20, 0, 1)
    assert refused.value.errno == errno.EBADF
    for descriptor in (-1, 1 << 31, -(1 << 40), 1 << 70, True):
        with pytest.raises(InvalidAddressRange):
            memory.read_from(descriptor, 0, 1)


def test_closed_files_are_refused(memory: GuestMemory, file: Path) -> None:
    closed = file.open("rb")
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        memory.read_from(closed, 0, 1)


@pytest.mark.parametrize("cut", [0, PAGE, 5 * PAGE])
def test_a_fault_midway_says_how_far_it_came(memory: GuestMemory, file: Path, cut: int, tmp_path: Path) -> None:
    memory.write(0, DATA)
    os.truncate(tmp_path / "ram", cut)
    there = max(0, cut - 9)
    with tempfile.TemporaryFile() as out:
        with pytest.raises(MemoryFault, match="truncated") as fault:
            memory.write_to(out, MIB - 100, 2 * MIB)
        assert (fault.value.address, fault.value.size) == (MIB + there, 2 * MIB)
        assert out.tell() <= fault.value.completed == 100 + there
        out.seek(0)
        sent = out.read()
        assert sent == DATA[MIB - 100 :][: len(sent)]
    with file.open("rb") as opened:
        with pytest.raises(MemoryFault, match="truncated") as fault:
            memory.read_from(opened, MIB - 100, 2 * MIB)
        # The kernel fills the last page of a file to its end.
        page_end = max(0, -(-cut // PAGE) * PAGE - 9)
        assert (fault.value.address, fault.value.completed) == (MIB + page_end, 100 + page_end)
        assert opened.tell() == fault.value.completed
    assert memory.read(MIB - 100, 100) == DATA[:100]


# File objects whose bytes are not those of their descriptor.


def test_objects_move_their_own_bytes(memory: GuestMemory, tmp_path: Path) -> None:
    memory.write(0, b"BODY")
    with tempfile.NamedTemporaryFile() as named:
        named.write(b"HEAD")
        memory.write_to(named, 0, 4)
        named.write(b"TAIL")
        named.seek(0)
        assert named.read() == b"HEADBODYTAIL"
        named.seek(2)
        memory.read_from(named, 0, 8)
        assert (memory.read(0, 8), named.tell()) == (b"ADBODYTA", 10)
    with gzip.open(tmp_path / "z.gz", "wb") as compressed:
        memory.write_to(compressed, 0, 8)
    with gzip.open(tmp_path / "z.gz") as compressed:
        memory.read_from(compressed, 0x100, 8)
    with (tmp_path / "z.gz").open("rb") as raw, io.BufferedReader(gzip.GzipFile(fileobj=raw)) as buffered:
        memory.read_from(buffered, 0x200, 8)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive, archive.open("member", "w") as member:
        memory.write_to(member, 0, 8)
    with zipfile.ZipFile(tmp_path / "z.zip") as archive, archive.open("member") as member:
        memory.read_from(member, 0x300, 8)
    assert [memory.read(addr, 8) for addr in (0x100, 0x200, 0x300)] == [b"ADBODYTA"] * 3


def test_a_buffer_in_memory_is_a_file(memory: GuestMemory) -> None:
    assert memory.read_from(io.BytesIO(DATA), 0, END) == END
    assert memory.read(0, END) == DATA
    taken = io.BytesIO()
    assert memory.write_to(taken, 0, END) == END
    assert taken.getvalue() == DATA
    with pytest.raises(PartialTransfer, match="ended after 0x5 of 0x6 bytes") as partial:
        memory.read_from(io.BytesIO(b"12345"), 0, 6)
    assert partial.value.done == 5


def test_a_subclass_counts_what_goes_through_it(memory: GuestMemory, file: Path) -> None:
    class Counting(io.FileIO):
        read_bytes = 0

        def readinto(self, buffer: Any) -> int | None:
            count = super().readinto(buffer)
            self.read_bytes += count or 0
            return count

    with Counting(file) as counting:
        memory.read_from(counting, 0, END)
        assert counting.read_bytes == END


def test_what_is_not_a_file_is_refused(memory: GuestMemory, file: Path) -> None:
    class OnlyDescriptor:
        def fileno(self) -> int:
            raise AssertionError

    for verb in (memory.read_from, memory.write_to):
        for thing in (OnlyDescriptor(), object(), b"path", None, 1.5):
            with pytest.raises(TypeError):
                verb(thing, 0, 1)  # type: ignore[arg-type]

    assert file.read_bytes() == DATA
    assert memory.read(0, 2) == bytes(2)


def test_what_a_file_says_is_not_believed(memory: GuestMemory) -> None:
    class Lying:
        def __init__(self, answer: Any) -> None:
            self.answer = answer

        def readinto(self, _buffer: Any) -> Any:
            return self.answer

    class LyingReader:
        def __init__(self, answer: Any) -> None:
            self.answer = answer

        def read(self, _size: int) -> Any:
            return self.answer

    lies: list[Any] = [*map(Lying, (-1, 3, 1 << 70, "1")), LyingReader(b"123"), LyingReader(array("H", [1, 2]))]
    for lying in lies:
        with pytest.raises(OSError, match="says that it moved"):
            memory.read_from(lying, 0, 2)
    for text in ("12", 2, [1, 2]):
        with pytest.raises(TypeError, match=r"the file's read\(\) gives .*, not bytes: open it in binary mode"):
            memory.read_from(LyingReader(text), 0, 2)
    for kind in (Lying, LyingReader):
        with pytest.raises(PartialTransfer, match="would block"):
            memory.read_from(kind(None), 0, 2)
    assert memory.read(0, 2) == bytes(2)


def test_what_a_file_raises_comes_out_and_says_how_far_it_came(memory: GuestMemory) -> None:
    class Failing(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell():
                raise ZeroDivisionError
            return super().write(data)

    with pytest.raises(ZeroDivisionError) as failed:
        memory.write_to(Failing(), 0, END)
    assert failed.value.__notes__ == ["write_to: after 0x10_0000 of 0x30_0000 bytes"]


class OnlyReads:
    """A file of a library that knows `read` alone, and gives less than it is asked for."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self.file.read(min(size, 70_000))


@contextmanager
def fed(data: bytes, ends: tuple[Any, Any], wrap: Callable[[Any], Any]) -> Iterator[Any]:
    """The first end, made a file, while a thread writes into the other and closes it."""
    here, there = ends

    def feed() -> None:
        with there, suppress(BrokenPipeError):
            (there.sendall if isinstance(there, socket.socket) else there.write)(data)

    feeder = threading.Thread(target=feed)
    with here, ExitStack() as stack:
        feeder.start()
        file = wrap(here)
        if not isinstance(file, int):
            stack.enter_context(file)
        yield file
    feeder.join()


def pipe_ends(*, buffering: int) -> tuple[Any, Any]:
    reader, writer = os.pipe()
    return os.fdopen(reader, "rb", buffering=buffering), os.fdopen(writer, "wb", buffering=0)


def non_blocking(file: Any) -> Any:
    os.set_blocking(file.fileno(), False)
    return file


ENDLESS: dict[str, Callable[[bytes], AbstractContextManager[Any]]] = {
    "only reads": lambda data: nullcontext(OnlyReads(data)),
    "raw pipe": lambda data: fed(data, pipe_ends(buffering=0), lambda file: file),
    "buffered pipe": lambda data: fed(data, pipe_ends(buffering=-1), lambda file: file),
    "descriptor of a pipe": lambda data: fed(data, pipe_ends(buffering=0), lambda file: file.fileno()),
    "non-blocking pipe": lambda data: fed(data, pipe_ends(buffering=0), non_blocking),
    "socket": lambda data: fed(data, socket.socketpair(), lambda sock: sock),
    "non-blocking socket": lambda data: fed(data, socket.socketpair(), non_blocking),
    "file of a socket": lambda data: fed(data, socket.socketpair(), lambda sock: sock.makefile("rb")),
}
"""Files that do not tell how much is left of them."""


@pytest.mark.parametrize("kind", ENDLESS)
def test_what_does_not_tell_its_size_is_read_to_its_end(memory: GuestMemory, kind: str) -> None:
    data = DATA[: MIB + 77]
    with ENDLESS[kind](data) as file:
        assert memory.read_from(file, 5) == len(data)
    assert memory.read(0, len(data) + 6) == bytes(5) + data + b"\0"


@pytest.mark.parametrize("kind", ENDLESS)
def test_all_of_it_must_have_room(memory: GuestMemory, kind: str) -> None:
    with ENDLESS[kind](DATA[:100]) as file:
        assert memory.read_from(file, END - 100) == 100
    with (
        ENDLESS[kind](DATA[:101]) as file,
        pytest.raises(PartialTransfer, match="the memory ended before the file did") as partial,
    ):
        memory.read_from(file, END - 100)
    assert (partial.value.done, partial.value.errno) == (100, errno.ENOSPC)
    assert memory.read(END - 100, 100) == DATA[:100]
    with ENDLESS[kind](b"kept") as file:
        with pytest.raises(UnmappedAddress):
            memory.read_from(file, END)
        assert memory.read_from(file, 0) == 4
    with ENDLESS[kind](b"") as file:
        assert memory.read_from(file, 0) == 0


def test_a_file_without_a_length_is_read(memory: GuestMemory) -> None:
    with Path("/proc/self/cmdline").open("rb") as file:
        size = memory.read_from(file, 0)
        file.seek(0)
        assert memory.read(0, size + 1) == file.read() + b"\0"
    assert size > 0
