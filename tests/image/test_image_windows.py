"""Images of spaces with windows: bytes that are seen at several addresses are saved once, and shared when they are restored."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from dbs_address_space import (
    AccessDenied,
    AddressSpace,
    AddressSpaceLayout,
    AddressSpaceRegion,
    SavedSpace,
    Unsupported,
)
from host import require
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_helpers import MIB, PAGE, mapped, numbered, ram

Mode = Literal["copy", "cow", "lazy"]
MODES: list[Mode] = ["copy", "cow", "lazy"]
SIZE = MIB
TOP = 64 * MIB
DATA = numbered(SIZE)


def restored(saved: SavedSpace, mode: Mode) -> AddressSpace:
    try:
        return saved.restore(mode)
    except Unsupported as refused:
        require(mode != "lazy" or refused.feature != "userfaultfd", str(refused))
        raise


def shown(space: AddressSpace) -> list[tuple[int, int, object, str | None, bool, int]]:
    """All that each region shows, as far as a restored one must be alike; storages by their order."""
    mappings = space.memory.mappings()
    order = list(dict.fromkeys(mapping.storage for mapping in mappings))
    return [
        (one.base, one.size, one.prot_flags, one.region.name, one.region.is_hotplug, order.index(one.storage))
        for one in mappings
    ]


@pytest.fixture
def space() -> Iterator[AddressSpace]:
    """A region, a window before it that may only be read, and one behind."""
    space, memory = mapped(ram(TOP, SIZE, name="ram"), ram(TOP + SIZE, SIZE))
    memory.write(TOP, DATA)
    memory.write(TOP + SIZE, b"other")
    alias = AddressSpaceRegion.alias
    space.insert_region(alias(0, space["ram"], 16 * PAGE, 32 * PAGE, name="low", prot_flags="r--"))
    space.insert_region(alias(2 * TOP, space["ram"], 40 * PAGE, 3 * PAGE))
    with space:
        yield space


@pytest.mark.parametrize("mode", MODES)
def test_windows_are_windows_again(space: AddressSpace, tmp_path: Path, mode: Mode) -> None:
    saved = space.save(tmp_path / "vm.img")
    assert saved.data_size == SIZE + PAGE
    with restored(saved, mode) as back:
        memory = back.memory
        assert shown(back) == shown(space)
        for base, size in (0, 32 * PAGE), (TOP, SIZE), (2 * TOP, 3 * PAGE):
            assert memory.read(base, size) == space.memory.read(base, size)
        memory.write(TOP + 40 * PAGE, b"seen")
        assert memory.read(24 * PAGE, 4) == memory.read(2 * TOP, 4) == b"seen"
        with pytest.raises(AccessDenied):
            memory.write(0, b"x")
        if mode != "cow":
            assert back.save(tmp_path / "again.img", parent=saved).data_size == PAGE


@pytest.mark.parametrize("mode", MODES)
def test_windows_stay_when_what_they_were_made_of_has_gone(space: AddressSpace, tmp_path: Path, mode: Mode) -> None:
    space.remove_region("ram")
    saved = space.save(tmp_path / "vm.img")
    with restored(saved, mode) as back:
        assert shown(back) == shown(space)
        assert back.memory.read(0, 32 * PAGE) == DATA[16 * PAGE : 48 * PAGE]
        assert back.memory.read(2 * TOP, 3 * PAGE) == DATA[40 * PAGE : 43 * PAGE]


@pytest.mark.parametrize("mode", MODES)
def test_windows_that_overlap_share_what_both_show(tmp_path: Path, mode: Mode) -> None:
    space, memory = mapped(ram(0, SIZE, name="ram"))
    memory.write(0, DATA)
    for base, offset in (TOP, 0), (2 * TOP, 100 * PAGE):
        space.insert_region(AddressSpaceRegion.alias(base, space["ram"], offset, 120 * PAGE))
    space.remove_region("ram")
    saved = space.save(tmp_path / "vm.img")
    assert saved.data_size == 220 * PAGE
    with restored(saved, mode) as back:
        assert shown(back) == shown(space)
        assert back.memory.read(TOP, 120 * PAGE) == DATA[: 120 * PAGE]
        assert back.memory.read(2 * TOP, 120 * PAGE) == DATA[100 * PAGE : 220 * PAGE]
        back.memory.write(2 * TOP, b"seen")
        assert back.memory.read(TOP + 100 * PAGE, 4) == b"seen"
        back.insert_region(ram(0, SIZE))


def test_memory_that_has_no_room_beside_its_windows_is_refused_by_name(tmp_path: Path) -> None:
    space = AddressSpace(AddressSpaceLayout(6 * PAGE, 0, 6 * PAGE))
    whole = AddressSpaceRegion("ram", 0, 4 * PAGE)
    with space.transaction() as change:
        change.insert_region(whole)
        change.insert_region(AddressSpaceRegion.alias(4 * PAGE, whole, 2 * PAGE, 2 * PAGE))
        change.split_region(0, 3 * PAGE)
        change.remove_region(3 * PAGE)
    space.map_memory()
    with pytest.raises(Unsupported, match="for which there is no room"):
        space.save(tmp_path / "vm.img").restore()


windows = st.lists(st.tuples(st.integers(0, 15), st.integers(1, 8)), min_size=1, max_size=6)


@settings(max_examples=25)
@given(windows=windows, keep=st.booleans(), mode=st.sampled_from(MODES))
def test_any_windows_are_restored(
    tmp_path_factory: pytest.TempPathFactory, windows: list[tuple[int, int]], mode: Mode, *, keep: bool
) -> None:
    space, memory = mapped(ram(0, 16 * PAGE, name="ram"))
    memory.write(0, DATA[: 16 * PAGE])
    for index, (offset, size) in enumerate(windows):
        shown = min(size, 16 - offset) * PAGE
        window = AddressSpaceRegion.alias((index + 1) * TOP, space["ram"], offset * PAGE, shown)
        space.insert_region(window)
    if not keep:
        space.remove_region("ram")
    path = tmp_path_factory.mktemp("windows") / "vm.img"
    with space, space.save(path) as saved, restored(saved, mode) as back:
        for one in space.memory.mappings():
            assert back.memory.read(one.base, one.size) == space.memory.read(one.base, one.size)
            back.memory.write(one.base, bytes([one.base // TOP + 1]) * 8)
            space.memory.write(one.base, bytes([one.base // TOP + 1]) * 8)
        for one in space.memory.mappings():
            assert back.memory.read(one.base, one.size) == space.memory.read(one.base, one.size)
            assert back.memory.aliases(one.base, one.size) == space.memory.aliases(one.base, one.size)
