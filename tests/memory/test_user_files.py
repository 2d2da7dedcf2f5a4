"""Memory in a file that the user gives: looked at before it is mapped, borrowed and never changed."""

import fcntl
import gc
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import (
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    MAP_SHARED,
    BackingError,
    InvalidAddressRange,
    InvalidMemorySourceType,
)
from kernel_view import descriptors, maps_of, nothing_left, protection
from memory_helpers import GIB, PAGE, make_file, mapped, ram

Open = Callable[[Path], Any]


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags)
    yield fd
    os.close(fd)


@contextmanager
def pipe_end(_: Path) -> Iterator[int]:
    reading, writing = os.pipe()
    yield writing
    os.close(reading)
    os.close(writing)


@contextmanager
def memfd(size: int) -> Iterator[int]:
    fd = os.memfd_create("users")
    os.truncate(fd, size)
    yield fd
    os.close(fd)


def file_of(size: int, flags: int = os.O_RDWR) -> Open:
    return lambda directory: opened(make_file(directory / "file", size), flags)


REFUSED: dict[str, tuple[Open, int, str]] = {
    "empty": (file_of(0), 22, "has 0x0 bytes, offset and size need 0x2000; extend it first"),
    "short by a byte": (file_of(2 * PAGE - 1), 22, "extend it first"),
    "short memfd": (lambda _: memfd(PAGE), 22, "extend it first"),
    "directory": (lambda directory: opened(directory, os.O_RDONLY), 21, "is a directory"),
    "pipe": (pipe_end, 19, "pipe or socket"),
    "socket": (lambda _: closing(socket.socket()), 19, "pipe or socket"),
    "null device": (lambda _: opened(Path("/dev/null"), os.O_RDWR), 19, "mmap failed"),
    "read only": (file_of(2 * PAGE, os.O_RDONLY), 13, "Permission denied"),
    "write only": (file_of(2 * PAGE, os.O_WRONLY), 13, "Permission denied"),
    "path only": (file_of(2 * PAGE, os.O_PATH), 9, "Bad file descriptor"),
}


@pytest.mark.parametrize(("open_in", "errno", "said"), REFUSED.values(), ids=REFUSED)
def test_files_that_will_not_do(open_in: Open, errno: int, said: str, tmp_path: Path) -> None:
    with open_in(tmp_path) as file:
        region = ram(GIB, 2 * PAGE, file=file)
        before = os.fstat(file.fileno() if hasattr(file, "fileno") else file)
        with nothing_left(ram(0, name="left"), region) as space, pytest.raises(BackingError, match=said) as refused:
            space.map_memory()
        assert (refused.value.errno, refused.value.region) == (errno, region)
        after = os.fstat(file.fileno() if hasattr(file, "fileno") else file)
        assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize("offset", [PAGE, PAGE + 1, 2 * PAGE, 1 << 62])
def test_the_offset_counts(offset: int, tmp_path: Path) -> None:
    with make_file(tmp_path / "file", 2 * PAGE).open("r+b") as file:
        region = ram(0, 2 * PAGE, file=file, file_offset=offset)
        with nothing_left(region) as space, pytest.raises(BackingError, match="extend it first"):
            space.map_memory()


def test_a_short_file_refuses_a_hotplug(tmp_path: Path) -> None:
    space, memory = mapped(ram(0))
    with make_file(tmp_path / "file", PAGE).open("r+b") as file:
        before = space.snapshot()
        with pytest.raises(BackingError, match="extend it first"):
            space.insert_region(ram(GIB, 2 * PAGE, file=file))
        assert space.snapshot() == before
        os.truncate(file.fileno(), 2 * PAGE)
        space.insert_region(ram(GIB, 2 * PAGE, file=file))
    assert memory.read(GIB, 2 * PAGE) == bytes(2 * PAGE)


def test_descriptors_that_are_none() -> None:
    with pytest.raises(BackingError) as refused:
        ram(0, file=1_000_000)
    assert refused.value.errno == 9
    with pytest.raises(InvalidAddressRange, match="-0x1"):
        ram(0, file=-1)


@pytest.mark.parametrize("file", [1.5, b"file", []], ids=repr)
def test_what_is_no_file(file: Any) -> None:
    with pytest.raises(TypeError):
        ram(0, file=file)


def test_a_file_is_a_source_of_its_own(tmp_path: Path) -> None:
    with make_file(tmp_path / "file", PAGE).open("r+b") as file:
        with pytest.raises(InvalidMemorySourceType):
            ram(0, file=file, mem_type="shmem")
        region = ram(0, file=file, perm_flags=MAP_SHARED | MAP_ANONYMOUS)
        with nothing_left(region) as space, pytest.raises(BackingError, match="MAP_ANONYMOUS"):
            space.map_memory()


def test_the_users_descriptor_stays_the_users(tmp_path: Path) -> None:
    gc.collect()
    before = descriptors()
    with make_file(tmp_path / "file", PAGE).open("r+b") as file:
        space, memory = mapped(ram(0, file=file))
        ours = memory.mapping(0).fd
        assert ours is not None
        assert ours != file.fileno()
        assert fcntl.fcntl(ours, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
        memory.close()
        assert file.read(1) == b"\0"
    del space, memory
    gc.collect()
    assert descriptors() == before


def test_the_file_may_be_closed(tmp_path: Path) -> None:
    path = make_file(tmp_path / "file", PAGE)
    with path.open("r+b") as file:
        region = ram(0, file=file)
    _, memory = mapped(region)
    memory.write(0, b"bytes")
    assert path.read_bytes()[:5] == b"bytes"


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
def test_private_memory_starts_with_the_file_and_leaves_it_alone(flags: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"file" * (PAGE // 4))
    with opened(path, flags) as fd:
        _, memory = mapped(ram(0, file=fd, perm_flags=MAP_PRIVATE))
    memory.write(0, b"mine")
    assert memory.read(0, 8) == b"minefile"
    assert path.read_bytes() == b"file" * (PAGE // 4)


def test_a_read_only_file_for_read_only_memory(tmp_path: Path) -> None:
    path = make_file(tmp_path / "file", PAGE)
    with opened(path, os.O_RDONLY) as fd:
        space, memory = mapped(ram(0, file=fd, prot_flags="r--"))
    assert protection(memory.host_address(0)) == "r--s"
    readonly = space[0]
    with pytest.raises(BackingError, match="mprotect failed") as refused:
        space.replace_region(0, readonly.replace(prot_flags="rw-"))
    assert refused.value.errno == 13
    assert space[0] == readonly


def test_one_file_under_two_regions(tmp_path: Path) -> None:
    with make_file(tmp_path / "file", 2 * PAGE).open("r+b") as file:
        _, memory = mapped(ram(0, 2 * PAGE, file=file), ram(GIB, PAGE, file=file, file_offset=PAGE))
    memory.write(GIB, b"both")
    assert memory.read(PAGE, 4) == b"both"
    assert [line.split()[2] for line in maps_of(str(tmp_path / "file"))] in (
        ["00000000", "00001000"],
        ["00001000", "00000000"],
    )


def test_a_device_may_be_mapped() -> None:
    with opened(Path("/dev/zero"), os.O_RDWR) as fd:
        _, memory = mapped(ram(0, file=fd))
    memory.write(0, b"zero")
    assert memory.read(0, 5) == b"zero\0"
    assert memory.mapping(0).guarded
