"""Files by their path, and sizes that default to what is left of a file."""

import gzip
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import AddressSpaceRegion, GuestMemory, InvalidAddressRange, UnmappedAddress
from memory_helpers import PAGE, mapped, numbered, ram

BYTES = numbered(3 * PAGE)


class PathLike:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


PATHS: list[Callable[[Path], Any]] = [str, lambda path: path, PathLike]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(BYTES)
    return path


@pytest.fixture
def memory() -> GuestMemory:
    return mapped(ram(0, 4 * PAGE))[1]


@pytest.mark.parametrize("form", PATHS, ids=["str", "Path", "PathLike"])
def test_a_region_may_be_a_file_at_a_path(path: Path, form: Callable[[Path], Any]) -> None:
    region = AddressSpaceRegion.from_file(0, form(path), offset=PAGE)
    assert region == AddressSpaceRegion.from_file(0, file=form(path), offset=PAGE)
    assert region == AddressSpaceRegion("ram", 0, 2 * PAGE, file=form(path), file_offset=PAGE)
    assert (region.size, region.file_offset) == (2 * PAGE, PAGE)
    _, memory = mapped(region)
    assert memory.read(0, 2 * PAGE) == BYTES[PAGE:]
    memory.write(0, b"new")
    assert path.read_bytes()[PAGE:].startswith(b"new")


@pytest.mark.parametrize("options", [{"prot_flags": "r--"}, {"shared": False}])
def test_a_path_is_opened_for_what_is_asked(path: Path, options: dict[str, Any]) -> None:
    fd = AddressSpaceRegion.from_file(0, file=path, **options).file
    assert fd is not None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(fd, b"x")


def test_a_path_that_cannot_be_opened_is_told_as_open_does(tmp_path: Path, memory: GuestMemory) -> None:
    for use in (
        lambda path: AddressSpaceRegion.from_file(0, PAGE, path),
        lambda path: memory.read_from(path, 0),
        lambda path: memory.write_to(path / "in it", 0, PAGE),
    ):
        with pytest.raises(FileNotFoundError) as refused:
            use(tmp_path / "missing")
        assert str(tmp_path) in str(refused.value.filename)


def test_a_file_of_which_nothing_is_left_is_no_region(path: Path) -> None:
    for offset in (3 * PAGE, 1 << 40):
        with pytest.raises(InvalidAddressRange, match="the file has 0x3000 bytes: none from offset"):
            AddressSpaceRegion.from_file(0, file=path, offset=offset)
    with pytest.raises(TypeError, match=r"file is missing: from_file\(base, path\)"):
        AddressSpaceRegion.from_file(0, PAGE)


@pytest.mark.parametrize("form", PATHS, ids=["str", "Path", "PathLike"])
def test_a_path_is_read_to_its_end(path: Path, memory: GuestMemory, form: Callable[[Path], Any]) -> None:
    assert memory.read_from(form(path), PAGE) == 3 * PAGE
    assert memory.read(PAGE, 3 * PAGE) == BYTES


def buffered(path: Path) -> Any:
    file = path.open("rb")
    file.read(10)
    return file


def unbuffered(path: Path) -> Any:
    file = path.open("rb", buffering=0)
    file.seek(10)
    return file


def zipped(path: Path) -> Any:
    file = gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(path.read_bytes())))
    file.read(10)
    return file


def in_memory(path: Path) -> Any:
    file = io.BytesIO(path.read_bytes())
    file.seek(10)
    return file


@pytest.mark.parametrize("opened", [buffered, unbuffered, zipped, in_memory])
def test_what_is_left_of_a_file_begins_at_its_position(
    path: Path, memory: GuestMemory, opened: Callable[[Path], Any]
) -> None:
    with opened(path) as file:
        assert memory.read_from(file, 0) == 3 * PAGE - 10
        assert memory.read(0, 3 * PAGE - 10) == BYTES[10:]
        assert file.tell() == 3 * PAGE
        assert memory.read_from(file, 0) == 0


def test_what_is_left_of_a_descriptor_begins_at_its_position(path: Path, memory: GuestMemory) -> None:
    with path.open("rb", buffering=0) as file:
        file.seek(10)
        assert memory.read_from(file.fileno(), 0) == 3 * PAGE - 10
    assert memory.read(0, 3 * PAGE - 10) == BYTES[10:]


def test_a_file_that_does_not_fit_is_not_read(path: Path, memory: GuestMemory) -> None:
    with path.open("ab") as file:
        file.write(BYTES)
    with pytest.raises(UnmappedAddress):
        memory.read_from(path, 0)
    assert memory.read(0, 4 * PAGE) == bytes(4 * PAGE)


@pytest.mark.parametrize("form", PATHS, ids=["str", "Path", "PathLike"])
def test_memory_is_written_to_a_path(path: Path, memory: GuestMemory, form: Callable[[Path], Any]) -> None:
    memory.write(0, b"guest")
    assert memory.write_to(form(path), 0, "4KiB") == PAGE
    assert path.read_bytes() == b"guest" + bytes(PAGE - 5)


def test_a_refused_write_leaves_the_file_as_it_was(path: Path, memory: GuestMemory) -> None:
    with pytest.raises(UnmappedAddress):
        memory.write_to(path, 0, 5 * PAGE)
    assert path.read_bytes() == BYTES


def test_no_descriptor_stays_open(path: Path, memory: GuestMemory) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    memory.read_from(path, 0)
    memory.write_to(path, 0, PAGE)
    with pytest.raises(UnmappedAddress):
        memory.read_from(path, 8 * PAGE)
    with tempfile.TemporaryFile() as file, pytest.raises(UnmappedAddress):
        memory.read_from(file.fileno(), 8 * PAGE, 1)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_path_that_is_an_index_too_is_no_descriptor(path: Path, memory: GuestMemory) -> None:
    class Index(PathLike):
        def __index__(self) -> int:
            return other.fileno()

    with tempfile.TemporaryFile() as other:
        memory.write_to(Index(path), 0, 8)
        memory.read_from(Index(path), 0)
        AddressSpaceRegion.from_file(0, file=Index(path))
        os.fstat(other.fileno())
