"""Where no thread can be started, work that is shared out to threads is done all the same."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import seccomp
from children import in_child
from dbs_address_space import AddressSpace, AddressSpaceRegion, ImageCorrupt, SavedSpace, dump, load
from memory_helpers import LAYOUT, MIB, numbered

SIZE = 160 * MIB
NEEDLE = b"a needle in the hay"


def mapped_space() -> AddressSpace:
    space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, SIZE, name="low")], LAYOUT)
    memory = space.map_memory()
    memory.fill(MIB, 100 * MIB, 0x5A)
    memory.write(90 * MIB, NEEDLE)
    return space


def damaged(path: Path) -> Path:
    with path.open("r+b") as file:
        file.seek(60 * MIB)
        file.write(numbered(4096))
    return path


def verified(path: Path) -> Any:
    try:
        return SavedSpace.open(path).verify(threads=2)
    except ImageCorrupt as error:
        return str(error)


def preallocated(_space: AddressSpace, _path: Path) -> Any:
    with AddressSpace.from_regions([AddressSpaceRegion("ram", 0, SIZE)], LAYOUT) as other:
        memory = other.map_memory()
        memory.prealloc(threads=2)
        return memory.resident()


def content(space: AddressSpace) -> bytes:
    return space.memory.hash(0, SIZE, threads=1)


def saved(space: AddressSpace, path: Path) -> Any:
    return content(space.save(path / "new.img", sync=False, threads=2).restore("cow"))


def dumped(space: AddressSpace, path: Path) -> Any:
    dump(space, path / "vm.elf", threads=2)
    return content(load(path / "vm.elf"))


VERBS: dict[str, Callable[[AddressSpace, Path], Any]] = {
    "search": lambda space, _: space.memory.search(NEEDLE, threads=2),
    "hash": lambda space, _: space.memory.hash(0, SIZE, threads=2),
    "compare": lambda space, _: space.memory.compare(0, bytes(MIB) + b"\x5a" * (99 * MIB), threads=2),
    "find_zero_pages": lambda space, _: space.memory.find_zero_pages(0, SIZE, threads=2),
    "prealloc": preallocated,
    "save": saved,
    "restore": lambda _, path: content(SavedSpace.open(path / "good.img").restore(threads=2)),
    "verify": lambda _, path: verified(damaged(path / "bad.img")),
    "merge": lambda _, path: SavedSpace.open(path / "child.img").merge(path / "merged.img", threads=2).content,
    "dump": dumped,
}


@pytest.mark.parametrize("verb", VERBS)
def test_the_answer_is_that_of_threads(tmp_path: Path, verb: str) -> None:
    def answers() -> None:
        space = mapped_space()
        found = []
        for name in ("threads", "none"):
            path = tmp_path / name
            path.mkdir()
            full = space.save(path / "good.img", sync=False)
            space.save(path / "child.img", parent=full, sync=False).close()
            space.save(path / "bad.img", sync=False).close()
            if name == "none":
                for call in ("clone", "clone3"):
                    seccomp.fail(call, errno.EAGAIN)
            found.append(VERBS[verb](space, path))
        with_threads, without = (
            str(one).replace(f"/{name}/", "/") for one, name in zip(found, ("threads", "none"), strict=True)
        )
        assert with_threads == without

    in_child(answers)
