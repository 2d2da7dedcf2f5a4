"""Images: what was saved is restored, by every way, and a plain reader finds it too."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import in_child
from dbs_address_space import (
    AccessDenied,
    AddressSpace,
    AddressSpaceBuilder,
    AddressSpaceRegion,
    BackingOptions,
    DirtyPages,
    ForkedProcess,
    ImageCorrupt,
    ImageError,
    ImageMismatch,
    InvalidArgument,
    NotMapped,
    SavedSpace,
)
from host import require
from kernel_view import descriptors
from memory_helpers import LAYOUT, MIB, PAGE, WINDOW, blocks, make_file, mapped, numbered, ram
from plain_image import memory as plain_memory
from plain_image import read as plain

MODES: list[Any] = ["copy", "cow"]


def content(space: AddressSpace) -> dict[int, bytes]:
    return {region.base: space.memory.read(region.base, region.size) for region in space.memory.regions}


def described(space: AddressSpace) -> list[tuple[Any, ...]]:
    return [
        (region.name, region.region_type, region.base, region.size, region.prot_flags, region.host_numa_node_id)
        for region in space.regions
    ]


@pytest.fixture
def regions(tmp_path: Path) -> list[AddressSpaceRegion]:
    with make_file(tmp_path / "file", 5 * PAGE).open("r+b") as file:
        return [
            ram(0, 3 * MIB + 5 * PAGE, name="low"),
            ram(4 * MIB, MIB, name="anonymous", mem_type="mmap", backing=BackingOptions(ksm=True)),
            AddressSpaceRegion.from_file(6 * MIB, 4 * PAGE, file, PAGE, name="file"),
            AddressSpaceRegion.from_buffer(7 * MIB, bytearray(3 * PAGE), name="buffer"),
            AddressSpaceRegion.create_firmware_region(8 * MIB, 7 * PAGE, "r-x", name="rom"),
            AddressSpaceRegion.create_device_region(WINDOW, PAGE, name="uart"),
            AddressSpaceRegion.create_dax_region(WINDOW + MIB, 2 * MIB, name="dax"),
        ]


@pytest.fixture
def space(regions: list[AddressSpaceRegion]) -> AddressSpace:
    space = AddressSpace.from_regions(regions, LAYOUT)
    memory = space.map_memory()
    memory.write(PAGE - 3, numbered(70_000))
    memory.write(3 * MIB + 4 * PAGE, numbered(PAGE, 1))
    memory.write(5 * MIB - 100, numbered(100, 2))
    memory.write(6 * MIB + 10, numbered(3 * PAGE, 3))
    memory.write(7 * MIB, numbered(3 * PAGE, 4))
    memory.write(8 * MIB + PAGE, numbered(6 * PAGE, 5), force=True)
    return space


def of_memory(space: AddressSpace) -> dict[int, bytes]:
    saved = [region for region in space.memory.regions if region.name != "dax"]
    return {region.base: space.memory.read(region.base, region.size) for region in saved}


@pytest.mark.parametrize("mode", MODES)
def test_a_space_is_restored_as_it_was_saved(space: AddressSpace, tmp_path: Path, mode: Any) -> None:
    expected = of_memory(space)
    with space.save(tmp_path / "vm.img", blobs={"vcpu0": b"registers", "": b""}) as saved:
        saved.verify()
        assert saved.blobs == {"vcpu0": b"registers", "": b""}
        assert saved.size == sum(map(len, expected.values()))
        assert saved.is_checked is False, "nobody watches a buffer of the user's"
    restored = AddressSpace.restore(tmp_path / "vm.img", mode)
    assert of_memory(restored) == expected
    assert described(restored) == described(space)
    assert restored.layout == space.layout
    assert plain_memory([plain(tmp_path / "vm.img")]) == expected
    restored.memory.write(0, b"changed")
    assert of_memory(AddressSpace.restore(tmp_path / "vm.img", mode)) == expected


def test_an_option_of_memory_is_restored(space: AddressSpace, tmp_path: Path) -> None:
    space.save(tmp_path / "vm.img")
    restored = AddressSpace.restore(tmp_path / "vm.img")
    assert restored["anonymous"] == space["anonymous"]
    assert restored["low"] == space["low"]
    assert restored["file"].mem_type is None


def test_memory_that_no_one_wrote_takes_no_room_anywhere(tmp_path: Path) -> None:
    space, memory = mapped(ram(0, "1GiB"))
    memory.write(512 * MIB, b"x")
    saved = space.save(tmp_path / "vm.img")
    assert saved.data_size == PAGE
    assert (tmp_path / "vm.img").stat().st_blocks * 512 < 100 * PAGE
    assert blocks(memory, 0) * 512 == PAGE
    restored = saved.restore()
    assert blocks(restored.memory, 0) * 512 == PAGE


def test_a_difference_has_the_pages_that_differ(space: AddressSpace, tmp_path: Path) -> None:
    tracker = space.memory.dirty.start()
    full = space.save(tmp_path / "0.img")
    space.memory.write(2 * MIB + 5 * PAGE, b"one page")
    space.memory.write(PAGE, bytes(66_000))
    by_pages = space.save(tmp_path / "1.img", parent=full, dirty=tracker.peek())
    by_tracker = space.save(tmp_path / "2.img", parent=full, dirty=tracker)
    compared = space.save(tmp_path / "3.img", parent=tmp_path / "0.img")
    for saved in by_pages, by_tracker, compared:
        saved.verify()
        assert saved.parent == full.digest
        assert saved.content == by_pages.content != full.content
        assert of_memory(saved.restore()) == of_memory(space)
        assert plain_memory([plain(Path(saved.path)), plain(tmp_path / "0.img")]) == of_memory(space)
        assert saved.data_size == (1 + 15 + 2) * PAGE
    assert PAGE not in tracker.collect()
    with pytest.raises(ImageError, match="a difference can't be mapped"):
        by_pages.restore("cow")


def test_nothing_changed_is_a_difference_of_nothing(space: AddressSpace, tmp_path: Path) -> None:
    full = space.save(tmp_path / "0.img")
    same = space.save(tmp_path / "1.img", parent=full)
    assert (same.data_size, same.content) == (0, full.content)
    assert same.digest != full.digest


def test_a_chain_goes_on_from_what_was_restored(space: AddressSpace, tmp_path: Path) -> None:
    space.save(tmp_path / "0.img")
    for mode in MODES:
        restored = AddressSpace.restore(tmp_path / "0.img", mode)
        tracker = restored.memory.dirty.start()
        restored.memory.write(MIB, b"later")
        saved = restored.save(tmp_path / f"{mode}.img", parent=tmp_path / "0.img", dirty=tracker)
        assert saved.data_size == PAGE
        assert of_memory(saved.restore()) == of_memory(restored)


def test_memory_that_took_the_place_of_other_memory_is_not_the_parents(tmp_path: Path) -> None:
    space, memory = mapped(ram(0, MIB, name="low"), ram(2 * MIB, MIB, name="dimm"))
    memory.write(0, numbered(MIB))
    memory.write(2 * MIB, numbered(MIB, 1))
    tracker = memory.dirty.start()
    full = space.save(tmp_path / "0.img")
    tracker.collect()
    space.remove_region("dimm")
    gone = space.save(tmp_path / "1.img", parent=full, dirty=tracker)
    space.insert_region(ram(2 * MIB, MIB, name="dimm"))
    memory.write(2 * MIB + PAGE, b"new")
    back = space.save(tmp_path / "2.img", parent=gone, dirty=DirtyPages([(2 * MIB + PAGE, PAGE)]))
    assert of_memory(gone.restore()) == {0: numbered(MIB)}
    assert of_memory(back.restore()) == of_memory(space)
    merged = back.merge(tmp_path / "all.img")
    assert (merged.content, merged.parent, len(merged.chain())) == (back.content, None, 1)
    for mode in MODES:
        assert of_memory(merged.restore(mode)) == of_memory(space)
    assert [saved.path for saved in back.chain()] == [str(tmp_path / f"{number}.img") for number in (2, 1, 0)]


def test_regions_that_were_cut_share_what_they_are_of(tmp_path: Path) -> None:
    space, memory = mapped(ram(0, MIB, name="low"))
    memory.write(0, numbered(MIB))
    full = space.save(tmp_path / "0.img")
    space.split_region("low", 5 * PAGE)
    memory.write(4 * PAGE, b"below")
    memory.write(5 * PAGE, b"above")
    saved = space.save(tmp_path / "1.img", parent=full, dirty=DirtyPages([(4 * PAGE, 2 * PAGE)]))
    assert saved.data_size == 2 * PAGE
    for restored in saved.restore(), saved.merge(tmp_path / "2.img").restore("cow"):
        assert content(restored) == content(space)
        assert len(restored) == 2


def test_halves_that_were_restored_are_not_taken_for_each_other(tmp_path: Path) -> None:
    space, memory = mapped(ram(0, MIB, name="low"))
    memory.write(0, numbered(MIB))
    space.split_region("low", MIB // 2)
    space.save(tmp_path / "0.img")
    restored = AddressSpace.restore(tmp_path / "0.img")
    tracker = restored.memory.dirty.start()
    restored.memory.write(MIB // 2 + PAGE, b"upper")
    saved = restored.save(tmp_path / "1.img", parent=tmp_path / "0.img", dirty=tracker)
    assert content(saved.restore()) == content(restored)


def test_a_parent_that_moved_is_found_by_its_digest(space: AddressSpace, tmp_path: Path) -> None:
    full = space.save(tmp_path / "0.img")
    space.memory.write(0, b"x")
    space.save(tmp_path / "1.img", parent=full)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "0.img").rename(tmp_path / "elsewhere/0.img")
    with pytest.raises(ImageMismatch, match=r"its parent is not at .*0\.img: put it there, or give resolve="):
        SavedSpace.open(tmp_path / "1.img")
    asked = []

    def resolve(digest: str) -> Path:
        asked.append(digest)
        return tmp_path / "elsewhere/0.img"

    assert of_memory(AddressSpace.restore(tmp_path / "1.img", resolve=resolve)) == of_memory(space)
    assert asked == [full.digest]


def test_a_parent_that_is_another_image_is_refused(space: AddressSpace, tmp_path: Path) -> None:
    full = space.save(tmp_path / "0.img")
    space.memory.write(0, b"x")
    space.save(tmp_path / "1.img", parent=full)
    space.save(tmp_path / "0.img")
    with pytest.raises(ImageMismatch, match="is not the parent that it names"):
        SavedSpace.open(tmp_path / "1.img")


def test_a_target_that_is_needed_is_not_replaced(space: AddressSpace, tmp_path: Path) -> None:
    full = space.save(tmp_path / "0.img")
    child = space.save(tmp_path / "1.img", parent=full)
    restored = AddressSpace.restore(tmp_path / "0.img", "cow")
    refused: dict[str, Callable[[], object]] = {
        "it is the parent": lambda: space.save(tmp_path / "0.img", parent=full),
        "or a parent of it": lambda: space.save(tmp_path / "0.img", parent=child),
        "it is in use": lambda: restored.save(tmp_path / "0.img"),
        "as a part of the chain": lambda: child.merge(tmp_path / "1.img"),
        "something that is not a file": lambda: space.save(tmp_path),
    }
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.img")}
    for why, call in refused.items():
        with pytest.raises(ImageError, match=why):
            call()
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.img")} == before
    assert not list(tmp_path.glob(".*"))


def test_a_link_stays_and_its_target_is_replaced(space: AddressSpace, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "vm.img").symlink_to(tmp_path / "real/vm.img")
    (tmp_path / "real/vm.img").write_bytes(b"old")
    space.save(tmp_path / "vm.img")
    assert (tmp_path / "vm.img").is_symlink()
    SavedSpace.open(tmp_path / "real/vm.img")


@pytest.fixture
def watched(tmp_path: Path) -> AddressSpace:
    space, memory = mapped(ram(0, MIB, name="low"))
    why = memory.dirty.available()["pagemap"]
    require(why is None, str(why))
    memory.write(0, numbered(MIB))
    return space


def test_what_is_written_meanwhile_is_saved_too(watched: AddressSpace, tmp_path: Path) -> None:
    def write(progress: Any) -> None:
        if progress.done == progress.total:
            watched.memory.write(5 * PAGE, b"late")

    saved = watched.save(tmp_path / "vm.img", progress=write)
    assert saved.is_checked
    saved.verify()
    assert content(saved.restore()) == content(watched)
    assert watched.memory.read(5 * PAGE, 4) == b"late"


def test_a_guest_that_goes_on_writing_is_noticed(watched: AddressSpace, tmp_path: Path) -> None:
    watched.save(tmp_path / "vm.img")
    before = (tmp_path / "vm.img").read_bytes()
    tracker = watched.memory.dirty.start()
    is_over = threading.Event()

    def guest() -> None:
        while not is_over.is_set():
            watched.memory.fill(0, MIB, 1)
            watched.memory.fill(0, MIB, 2)

    thread = threading.Thread(target=guest)
    thread.start()
    try:
        with pytest.raises(ImageError, match=r"'low' .* was written at 0x\w+ while it was saved: pause the guest"):
            # It may sleep for as long as one of them takes.
            while True:
                watched.save(tmp_path / "1.img", parent=tmp_path / "vm.img", dirty=tracker.peek())
                (tmp_path / "1.img").unlink()
    finally:
        is_over.set()
        thread.join()

    def stop(_progress: Any) -> None:
        raise KeyError("stop")

    with pytest.raises(KeyError):
        watched.save(tmp_path / "1.img", parent=tmp_path / "vm.img", dirty=tracker, progress=stop)
    assert (tmp_path / "vm.img").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["vm.img"]
    assert 0 in tracker.collect()


def test_a_page_that_became_zero_meanwhile_is_not_in_the_file(tmp_path: Path) -> None:
    space, memory = mapped(ram(0, MIB))
    memory.write(0, numbered(PAGE))
    memory.write(200_000, b"x")

    def clear(progress: Any) -> None:
        if progress.done == progress.total:
            memory.fill(0, PAGE, 0) if memory.read_u8(0) or memory.read_u8(1) else None

    saved = space.save(tmp_path / "vm.img", progress=clear)
    saved.verify()
    assert content(saved.restore("cow")) == content(space)


def test_a_progress_function_ends_it_and_nothing_is_left(space: AddressSpace, tmp_path: Path) -> None:
    def stop(_progress: Any) -> None:
        raise KeyError("stop")

    tracker = space.memory.dirty.start()
    full = space.save(tmp_path / "0.img")
    space.memory.write(0, b"x")
    for call in (
        lambda: space.save(tmp_path / "1.img", progress=stop),
        lambda: space.save(tmp_path / "0.img", progress=stop),
        lambda: space.save(tmp_path / "1.img", parent=full, dirty=tracker, progress=stop),
        lambda: full.restore(progress=stop),
        lambda: full.merge(tmp_path / "2.img", progress=stop),
        lambda: full.verify(progress=stop),
    ):
        with pytest.raises(KeyError, match="stop"):
            call()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.img", "file"]
    assert 0 in tracker.collect()
    full.verify()


def test_bad_arguments_are_refused_before_anything_is_made(space: AddressSpace, tmp_path: Path) -> None:
    path = tmp_path / "vm.img"
    with pytest.raises(InvalidArgument, match=r"give parent= too"):
        space.save(path, dirty=DirtyPages())
    with pytest.raises(InvalidArgument, match="mode='lazily' is not one of"):
        space.save(tmp_path / "0.img").restore("lazily")
    with pytest.raises(TypeError):
        space.save(path, blobs={"name": "text"})  # type: ignore[dict-item]
    with pytest.raises(FileNotFoundError):
        space.save(tmp_path / "nowhere/vm.img")
    with pytest.raises(FileNotFoundError):
        AddressSpace.restore(tmp_path / "nothing.img")
    with pytest.raises(ImageCorrupt, match="nor a file at all"):
        SavedSpace.open("/dev/zero")
    with pytest.raises(ImageCorrupt, match="which is not even a header"):
        SavedSpace.open(tmp_path / "file" if (tmp_path / "file").write_bytes(b"short") else "")
    unmapped = AddressSpace.from_regions([ram(0)], LAYOUT)
    with pytest.raises(NotMapped):
        unmapped.save(path)
    hidden, _ = mapped(ram(0, prot_flags="-w-", name="hidden"))
    with pytest.raises(AccessDenied, match=r"'hidden'.* can't be read"):
        hidden.save(path)
    assert not path.exists()


def test_a_closed_image_says_so(space: AddressSpace, tmp_path: Path) -> None:
    with space.save(tmp_path / "vm.img") as saved:
        pass
    saved.close()
    for call in saved.restore, saved.verify, saved.chain, lambda: saved.blobs, lambda: saved.merge(tmp_path / "x"):
        with pytest.raises(ImageError, match="was closed"):
            call()
    assert str(tmp_path / "vm.img") not in descriptors().values()
    assert saved.size == SavedSpace.open(tmp_path / "vm.img").size
    assert len(saved.digest) == 64


def test_a_forked_child_restores_and_does_not_save(space: AddressSpace, tmp_path: Path) -> None:
    saved = space.save(tmp_path / "vm.img")
    expected = of_memory(space)

    def body() -> None:
        assert of_memory(AddressSpace.restore(tmp_path / "vm.img")) == expected
        assert of_memory(saved.restore("cow")) == expected
        with pytest.raises(ForkedProcess):
            space.save(tmp_path / "child.img")
        assert not (tmp_path / "child.img").exists()

    in_child(body)


def test_saves_at_once_do_not_disturb_each_other(space: AddressSpace, tmp_path: Path) -> None:
    threads = [threading.Thread(target=space.save, args=(tmp_path / f"{at % 2}.img",)) for at in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for at in range(2):
        assert of_memory(AddressSpace.restore(tmp_path / f"{at}.img")) == of_memory(space)
    assert not list(tmp_path.glob(".*"))


def test_a_plan_is_saved_with_all_its_regions(tmp_path: Path) -> None:
    space = AddressSpaceBuilder("q35", numa_regions=["4GiB"], firmware=True, dax_window="2MiB").build()
    space.memory.write(0xFFFF_0000, b"reset")
    saved = space.save(tmp_path / "vm.img")
    assert saved.regions == space.regions
    assert saved.layout == space.layout
    assert saved.restore().memory.read(0xFFFF_0000, 5) == b"reset"


@pytest.mark.parametrize("mode", ["copy", "cow"])
def test_a_file_of_the_user_is_left_alone_by_what_is_restored(tmp_path: Path, mode: str) -> None:
    file = make_file(tmp_path / "user", MIB)
    space, memory = mapped(AddressSpaceRegion.from_file(0, MIB, file, name="ram"))
    memory.write(0, b"saved")
    saved = space.save(tmp_path / "vm.img")
    memory.write(0, b"newer")
    assert (saved.regions[0].name, saved.regions[0].has_file, saved.regions[0].file) == ("ram", True, None)
    restored = saved.restore(mode)
    assert restored.memory.read(0, 5) == b"saved"
    restored.memory.write(0, b"guest")
    assert file.read_bytes()[:5] == b"newer"
