"""Which file objects are no more than their descriptor, and can be mapped: the bytes of all others are elsewhere."""

import gzip
import io
import os
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import AddressSpaceRegion
from memory_helpers import GIB, PAGE, WINDOW, mapped, ram

TEXT = b"what the file says".ljust(PAGE, b".")


@cache
def named() -> Any:
    return tempfile.NamedTemporaryFile()


class Subclass(io.FileIO):
    """May do anything with its bytes."""


class Wrapper:
    """As many libraries have it."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def fileno(self) -> int:
        return int(self.file.fileno())


def by_region(file: Any) -> bytes:
    return mapped(ram(0, file=file))[1].read(0, PAGE)


def by_replace(file: Any) -> bytes:
    return mapped(ram(0).replace(file=file, mem_type=None))[1].read(0, PAGE)


def by_from_file(file: Any) -> bytes:
    return mapped(AddressSpaceRegion.from_file(0, PAGE, file, prot_flags="r--"))[1].read(0, PAGE)


def by_dax_window(file: Any) -> bytes:
    _, memory = mapped(AddressSpaceRegion.create_dax_region(WINDOW, "2MiB", name="dax"))
    memory.dax_window("dax").map_file(0, file, 0, PAGE, "r--")
    return memory.read(WINDOW, PAGE)


DOORS: dict[str, Callable[[Any], bytes]] = {
    "file=": by_region,
    "replace": by_replace,
    "from_file": by_from_file,
    "map_file": by_dax_window,
}


def tar_member(path: Path) -> Any:
    with tarfile.open(path.parent / "archive", "w") as archive:
        archive.add(path, "member")
    with tarfile.open(path.parent / "archive") as archive:
        return archive.extractfile("member")


PLAIN: dict[str, Callable[[Path], Any]] = {
    "int": lambda path: os.open(path, os.O_RDWR),
    "FileIO": lambda path: path.open("r+b", buffering=0),
    "BufferedRandom": lambda path: path.open("r+b"),
    "TemporaryFile's": lambda path: tempfile.TemporaryFile(),  # noqa: SIM115
    "a named one's file": lambda path: named().file,
}
OTHER: dict[str, Callable[[Path], Any]] = {
    "gzip": lambda path: gzip.open(path, "rb"),  # noqa: SIM115
    "a member of a tar": tar_member,
    "NamedTemporaryFile": lambda path: tempfile.NamedTemporaryFile(dir=path.parent),  # noqa: SIM115
    "SpooledTemporaryFile": lambda path: tempfile.SpooledTemporaryFile(dir=str(path.parent)),  # noqa: SIM115
    "text": lambda path: path.open("r+"),
    "stdin": lambda _: sys.__stdin__,
    "a subclass": lambda path: Subclass(path, "r+"),
    "a buffer over a subclass": lambda path: io.BufferedRandom(Subclass(path, "r+")),
    "a wrapper": lambda path: Wrapper(path.open("r+b")),
    "BytesIO": lambda _: io.BytesIO(TEXT),
    "guest memory": lambda _: mapped(ram(0))[1].open(),
    "a path": lambda path: path,
    "nothing": lambda _: None,
}


@pytest.fixture(autouse=True, scope="module")
def _named() -> Iterator[None]:
    yield
    named().close()


@pytest.fixture(name="path")
def fixture_path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(TEXT)
    return tmp_path / "file"


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("make", PLAIN)
def test_what_is_a_descriptor_is_mapped_with_all_that_was_written(path: Path, make: str, door: str) -> None:
    file = PLAIN[make](path)
    if isinstance(file, int):
        assert DOORS[door](file) == TEXT
        os.close(file)
        return
    file.write(TEXT[:4])
    file.seek(0, 2)
    file.write(TEXT[4:8] if file.tell() == 4 else b"")
    file.truncate(PAGE)
    file.seek(8)
    file.write(TEXT[8:])
    assert DOORS[door](file) == TEXT
    if file is not named().file:
        file.close()


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("make", OTHER)
def test_whose_bytes_are_elsewhere_is_refused(path: Path, make: str, door: str) -> None:
    file = OTHER[make](path)
    if door in ("file=", "replace") and file is None:
        pytest.skip("None stands for no file")
    if door in ("file=", "replace", "from_file") and make == "a path":
        pytest.skip("they take paths")
    with pytest.raises(TypeError, match=r"give an int, or what open\(|must be an int|\.file|file is (of|missing)"):
        DOORS[door](file)
    close(file)
    close(getattr(file, "file", None))


def close(file: Any) -> None:
    if hasattr(file, "close") and file is not sys.__stdin__:
        file.close()


def test_unflushed_bytes_that_cannot_be_written_are_no_mapping(tmp_path: Path) -> None:
    full = Path("/dev/full").open("r+b")  # noqa: SIM115
    full.write(b"unwritten")
    with pytest.raises(OSError, match="No space left"):
        ram(GIB, file=full)
    with pytest.raises(OSError, match="No space left"):
        full.close()
    closed = (tmp_path / "closed").open("w+b")
    closed.close()
    with pytest.raises(ValueError, match="closed file"):
        ram(GIB, file=closed)
