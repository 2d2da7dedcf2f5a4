"""Images among the formats: what reads a dump reads what save() wrote."""

from pathlib import Path

import pytest
from dbs_address_space import AddressSpace, ImageCorrupt, dump, load
from memory_helpers import MIB, PAGE, mapped, ram


@pytest.fixture
def saved() -> AddressSpace:
    space, memory = mapped(ram(0, MIB, name="low"))
    memory.write(PAGE, b"saved")
    return space


@pytest.mark.parametrize("copy", [False, True])
def test_an_image_is_a_space_of_its_own(tmp_path: Path, saved: AddressSpace, copy: bool) -> None:  # noqa: FBT001
    saved.save(tmp_path / "image")
    before = (tmp_path / "image").read_bytes()
    with (tmp_path / "image").open("rb") as file:
        for source in (tmp_path / "image", before, file):
            loaded = load(source, copy=copy)
            assert [(region.name, region.base, region.size) for region in loaded] == [("low", 0, MIB)]
            assert loaded.memory.read(PAGE, 5) == b"saved"
            loaded.memory.write(PAGE, b"mine")
    assert (tmp_path / "image").read_bytes() == before


def test_a_difference_has_its_parent_beside_it(tmp_path: Path, saved: AddressSpace) -> None:
    full = saved.save(tmp_path / "full")
    saved.memory.write(2 * PAGE, b"more")
    saved.save(tmp_path / "more", parent=full)
    loaded = load(tmp_path / "more")
    assert loaded.memory.readv([(PAGE, 5), (2 * PAGE, 4)]) == [b"saved", b"more"]
    dump(loaded, tmp_path / "more.lime")
    assert load(tmp_path / "more.lime").memory.read(2 * PAGE, 4) == b"more"
    (tmp_path / "full").write_bytes(b"")
    with pytest.raises(ImageCorrupt):
        load(tmp_path / "more")


def test_an_option_that_a_format_does_not_have_is_named(tmp_path: Path, saved: AddressSpace) -> None:
    saved.save(tmp_path / "image")
    with pytest.raises(TypeError, match=r"an image that save.. wrote has no option 'fromat': docs/formats\.md"):
        load(tmp_path / "image", fromat="elf")
