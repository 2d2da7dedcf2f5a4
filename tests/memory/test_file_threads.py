"""Images and dumps that several threads write and read: each file is, to the byte, that of one thread."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import (
    AddressSpace,
    AddressSpaceRegion,
    DirtyPages,
    ImageCorrupt,
    InvalidArgument,
    MemoryFault,
    Progress,
    SavedSpace,
    dump,
    load,
)
from host import mounted, require
from memory_helpers import MIB, PAGE, make_file, mapped, numbered, ram

SIZE = 70 * MIB
THREADS = [None, 2, 3, 7]
FORMATS = ["elf", "lime", "raw"]


def scattered() -> AddressSpace:
    """Regions that touch in the midst of a step, and a window on the first; bytes over borders of chunks and steps."""
    space, memory = mapped(ram(0, 33 * MIB + PAGE, name="low"), ram(33 * MIB + PAGE, SIZE - 33 * MIB, mem_type="mmap"))
    space.insert_region(AddressSpaceRegion.alias(128 * MIB, space["low"], 5 * PAGE, 3 * MIB))
    chance = random.Random(7)
    for _ in range(60):
        memory.write(chance.randrange(SIZE - PAGE * 3), numbered(chance.randrange(1, 3 * PAGE), chance.randrange(100)))
    for border in (16, 32, 48, 64):
        memory.write(border * MIB - 5, b"steps meet")
    memory.fill(20 * MIB, 9 * MIB, 0x5A)
    memory.fill(41 * MIB + 5 * PAGE, 20 * MIB, 0x3C)
    return space


@pytest.fixture(scope="module")
def space() -> Iterator[AddressSpace]:
    with scattered() as made:
        yield made


def blocks(path: Path) -> int:
    return path.stat().st_blocks


@pytest.mark.parametrize("threads", THREADS)
def test_an_image_is_that_of_one_thread(space: AddressSpace, tmp_path: Path, threads: int | None) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    space.save(one, threads=1, sync=False).close()
    with space.save(many, threads=threads, sync=False) as saved:
        assert many.read_bytes() == one.read_bytes()
        assert blocks(many) == blocks(one)
        saved.verify(threads=threads)
        with saved.restore(threads=threads) as restored:
            assert all(
                restored.memory.compare(region.base, space.memory.read(region.base, region.size)) is None
                for region in space.regions
            )


@pytest.mark.parametrize("threads", THREADS)
def test_a_difference_and_what_is_merged_of_it_are_those_of_one_thread(tmp_path: Path, threads: int | None) -> None:
    with scattered() as space, space.save(tmp_path / "parent", sync=False) as parent:
        memory, chance = space.memory, random.Random(3)
        pages = [(chance.randrange(SIZE // PAGE) * PAGE, PAGE) for _ in range(300)]
        for at, _ in pages:
            memory.write(at + 5, b"changed" if at % 3 else bytes(7))
        memory.fill(22 * MIB, 5 * MIB, 0)
        dirty = DirtyPages([*pages, (22 * MIB, 5 * MIB)])
        for known in (None, dirty):
            files = [tmp_path / name for name in ("one", "many", "merged by one", "merged")]
            for count, path, merged in ((1, files[0], files[2]), (threads, files[1], files[3])):
                with space.save(path, parent=parent, dirty=known, threads=count, sync=False) as saved:
                    saved.verify(threads=count)
                    saved.merge(merged, threads=count, sync=False).close()
            assert files[1].read_bytes() == files[0].read_bytes()
            assert files[3].read_bytes() == files[2].read_bytes()
            assert blocks(files[3]) == blocks(files[2])


@pytest.mark.parametrize("threads", THREADS)
def test_the_first_damage_is_that_which_one_thread_finds(
    space: AddressSpace, tmp_path: Path, threads: int | None
) -> None:
    with space.save(tmp_path / "vm.img", sync=False) as saved:
        with (tmp_path / "vm.img").open("r+b") as file:
            for at in (60, 45, 21, 24):
                file.seek(2 * MIB + at * MIB + 3 * PAGE)
                file.write(b"damage")
        for call in (saved.verify, saved.restore):
            with pytest.raises(ImageCorrupt) as caught:
                call(threads=threads)
            assert caught.value.chunk == 21 * 16


@pytest.mark.parametrize("threads", THREADS)
def test_the_first_fault_is_that_of_one_thread(tmp_path: Path, threads: int | None) -> None:
    path = make_file(tmp_path / "memory", SIZE)
    with path.open("r+b") as file:
        space, _ = mapped(AddressSpaceRegion.from_file(0, SIZE, file))
    os.truncate(path, 50 * MIB)
    for call in (
        lambda: space.save(tmp_path / "vm.img", threads=threads),
        lambda: dump(space, tmp_path / "vm.elf", threads=threads),
    ):
        with pytest.raises(MemoryFault, match=r"truncated to 0x320_0000 bytes .done before it: 0x320_0000") as caught:
            call()
        assert (caught.value.address, caught.value.completed, caught.value.size) == (50 * MIB, 50 * MIB, SIZE)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("name", FORMATS)
def test_a_dump_is_that_of_one_thread(space: AddressSpace, tmp_path: Path, name: str, threads: int | None) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    dump(space, one, format=name, threads=1)
    dump(space, many, format=name, threads=threads)
    assert many.read_bytes() == one.read_bytes()
    assert blocks(many) == blocks(one) < SIZE // 512 * 2 // 3
    with load(many, format=name) as loaded:
        assert loaded.memory.compare(0, space.memory.read(0, SIZE)) is None


def calls(space: AddressSpace, saved: SavedSpace, folder: Path) -> dict[str, Callable[..., object]]:
    return {
        "save": lambda **options: space.save(folder / "new", sync=False, **options),
        "verify": saved.verify,
        "merge": lambda **options: saved.merge(folder / "new", sync=False, **options),
        "restore": saved.restore,
        "AddressSpace.restore": lambda **options: AddressSpace.restore(saved.path, **options),
        "dump": lambda **options: dump(space, folder / "new.elf", **options),
        "dump of a map": lambda **options: dump(space, folder / "new.json", **options),
    }


CALLS = ["save", "verify", "merge", "restore", "AddressSpace.restore", "dump", "dump of a map"]


@pytest.mark.parametrize("name", CALLS[:-1])
def test_what_progress_raises_ends_all_threads_and_leaves_no_file(
    space: AddressSpace, tmp_path: Path, name: str
) -> None:
    class StopError(Exception):
        pass

    def stop(progress: Progress) -> None:
        told.append((progress.done, progress.total))
        raise StopError

    told: list[tuple[int, int]] = []
    (tmp_path / "image").mkdir()
    with space.save(tmp_path / "image" / "vm.img", sync=False) as saved:
        (tmp_path / "new").mkdir()
        with pytest.raises(StopError):
            calls(space, saved, tmp_path / "new")[name](threads=3, progress=stop)
        assert not list((tmp_path / "new").iterdir())
        assert told


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("threads", [0, 1025, -1, True, "2"])
def test_a_number_of_threads_is_one(space: AddressSpace, tmp_path: Path, name: str, threads: Any) -> None:
    with space.save(tmp_path / "vm.img", sync=False) as saved, pytest.raises((InvalidArgument, TypeError)):
        calls(space, saved, tmp_path)[name](threads=threads)
    assert [path.name for path in tmp_path.iterdir()] == ["vm.img"]


@pytest.mark.parametrize("mode", ["cow", "lazy"])
def test_threads_are_for_a_copy(space: AddressSpace, tmp_path: Path, mode: Any) -> None:
    with (
        space.save(tmp_path / "vm.img", sync=False) as saved,
        pytest.raises(InvalidArgument, match=f"threads= goes with mode='copy', for '{mode}' returns at once"),
    ):
        saved.restore(mode, threads=2)


def test_a_disk_that_is_full_ends_a_dump(space: AddressSpace, tmp_path: Path) -> None:
    require(os.geteuid() == 0, "mounting needs root")
    with mounted("tmpfs", tmp_path / "small", "size=1m") as folder:
        with pytest.raises(OSError, match="No space left") as caught:
            dump(space, folder / "vm.elf", threads=3)
        assert caught.value.filename == str(folder / "vm.elf")
        assert not list(folder.iterdir())
