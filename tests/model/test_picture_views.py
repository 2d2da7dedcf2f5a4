"""Pictures of backings, pages and changes, compared by their structure with what they show."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from dbs_address_space import (
    MAP_POPULATE,
    MAP_SHARED,
    AddressSpace,
    AddressSpaceBase,
    AddressSpaceLayout,
    AddressSpaceRegion,
    DirtyPages,
    InvalidArgument,
    NotMapped,
)
from dbs_address_space.pictures import palette
from host import huge_pages
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_helpers import GIB, MIB, PAGE

LAYOUT = AddressSpaceLayout(1 << 46, 0, 1 << 45, mmio_windows=[(3 * GIB, GIB)])
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>\u202e&\"'"


def ram(base: int, size: int = MIB, name: str | None = None, **options: object) -> AddressSpaceRegion:
    return AddressSpaceRegion("ram", base, size, name=name, **options)  # type: ignore[arg-type]


@pytest.fixture
def space(tmp_path: Path) -> AddressSpace:
    """Two regions of one file, the second before the first, anonymous memory, and a device."""
    (tmp_path / "disk").write_bytes(bytes(2 * MIB))
    file = tmp_path / "disk"
    regions = [
        AddressSpaceRegion.from_file(0, MIB, file, MIB, name="upper"),
        AddressSpaceRegion.from_file(2 * MIB, MIB, file, 0, name="lower"),
        ram(4 * MIB, name=HOSTILE, mem_type="mmap"),
        AddressSpaceRegion("device", 3 * GIB, PAGE, name="uart"),
    ]
    space = AddressSpace.from_regions(regions, LAYOUT)
    space.map_memory()
    return space


def elements(svg: str, tag: str, word: str) -> list[ET.Element]:
    return [one for one in ET.fromstring(svg).iter(SVG + tag) if word in one.get("class", "").split()]


def words(svg: str) -> str:
    return "\n".join(one.text or "" for one in ET.fromstring(svg).iter(SVG + "text"))


@pytest.mark.parametrize("width", [320, 480, 984, 1360])
@pytest.mark.parametrize("view", ["host", "heat"])
def test_views_show_each_row_that_has_memory(space: AddressSpace, view: str, width: int) -> None:
    svg = space.to_svg(view=view, width=width)  # type: ignore[arg-type]
    shown = [(int(one.get("data-base", "")), int(one.get("data-end", ""))) for one in elements(svg, "g", "row")]
    assert shown == [(region.base, region.end) for region in space.regions if region.region_type.value == "ram"]
    for one in ET.fromstring(svg).iter(SVG + "rect"):
        assert float(one.get("x", "0")) + float(one.get("width", "")) <= width


def test_a_file_is_one_box_with_its_parts_by_offset(space: AddressSpace) -> None:
    svg = space.to_svg(view="host")
    assert len(elements(svg, "rect", "axis")) == 2
    shown = words(svg)
    assert "file /" in shown
    assert shown.index("@0x10_0000") < shown.index("@0x0"), "by guest address"
    right = {
        group.get("data-base"): float(group.findall(SVG + "rect")[3].get("y", ""))
        for group in elements(svg, "g", "row")
    }
    assert right[str(2 * MIB)] < right["0"], "on the host's side by offset"
    assert "uart" not in shown
    assert "memfd" in words(AddressSpaceBase.from_regions([ram(0)], LAYOUT).to_svg(view="host"))


def test_a_picture_of_huge_pages_does_not_make_them_guarded() -> None:
    """Asking for their descriptor would."""
    with huge_pages(1) as size:
        region = ram(0, size, "huge", mem_type="hugeshmem", perm_flags=MAP_SHARED | MAP_POPULATE)
        with AddressSpace.from_regions([region], LAYOUT) as space:
            memory = space.map_memory()
            assert not memory.mapping(0).guarded
            assert "huge memfd huge" in words(space.to_svg(view="host"))
            assert not memory.mapping(0).guarded
            assert memory.mapping(0).fd is not None
            assert memory.mapping(0).guarded


def test_heat_tells_how_much_of_each_cell_is_there(space: AddressSpace) -> None:
    memory = space.memory
    memory.fill(4 * MIB, 3 * PAGE, 1)
    dirty = DirtyPages([(4 * MIB + PAGE, PAGE)])
    svg = space.to_svg(view="heat", dirty=dirty)
    assert "one cell is 4 KiB" in ET.fromstring(svg).findtext(SVG + "title", "")
    band = elements(svg, "g", "row")[2]
    cells = [one.get("class", "") for one in band.findall(SVG + "rect")][:5]
    assert cells == ["resident4", "dirty4", "paper", "resident4", "resident0"]
    assert "1.2% resident" in words(svg)
    assert "0.4% dirty" in words(svg)
    assert "dirty" not in words(space.to_svg(view="heat"))


@settings(deadline=None)
@given(st.sets(st.integers(0, 4000), min_size=1), st.integers(0, 4000))
def test_lines_begin_at_multiples_of_their_length(touched: set[int], first: int) -> None:
    with AddressSpace.from_regions([ram(first * PAGE, 4096 * PAGE)], LAYOUT) as space:
        memory = space.map_memory()
        for page in touched:
            memory.write_u8((first + page) * PAGE, 1)
        (band,) = elements(space.to_svg(view="heat"), "g", "row")
    length = 64 * int(PAGE)
    shown = [int(one.text or "", 0) for one in band.findall(SVG + "text") if (one.text or "").startswith("0x")]
    assert shown[0] == first * PAGE
    assert all(base % length == 0 for base in shown[1:])
    level = {f"resident{number}" for number in range(1, 5)}
    filled = sum(
        round((float(one.get("width", "")) + 1) * 64 / (984 - 168 - 24 - 116))
        for one in band.findall(SVG + "rect")
        if one.get("class") in level
    )
    assert filled == len(touched)


@pytest.fixture
def maps() -> tuple[AddressSpaceBase, AddressSpaceBase]:
    before = AddressSpaceBase.from_regions(
        [ram(0, GIB, "low"), ram(GIB, GIB, "kept"), ram(4 * GIB, GIB, "gone"), ram(8 * GIB, MIB, "moved")], LAYOUT
    )
    after = AddressSpaceBase.from_regions(
        [
            ram(0, GIB, "low", prot_flags="r--"),
            ram(GIB, GIB, "kept"),
            ram(6 * GIB, 2 * GIB, HOSTILE),
            ram(9 * GIB, MIB, "moved"),
        ],
        LAYOUT,
    )
    return before, after


@pytest.mark.parametrize("width", [320, 984])
def test_a_change_shows_each_region_that_changed(maps: tuple[AddressSpaceBase, AddressSpaceBase], width: int) -> None:
    before, after = maps
    svg = before.diff(after).to_svg(width=width)
    shown = [one.get("data-change") for one in elements(svg, "g", "change")]
    assert shown == ["changed", "removed", "added", "moved"]
    assert "1 added, 1 removed, 1 changed, 1 moved" in ET.fromstring(svg).findtext(SVG + "title", "")
    if width > 760:
        for said in ("~ prot rw- → r--", "\N{MINUS SIGN} removed", "+ added", "→ moved", "1 unchanged, 1 GiB"):
            assert said in words(svg)
    assert "nothing changed" in before.diff(before).to_svg()


def test_a_change_keeps_both_sides_on_one_scale(maps: tuple[AddressSpaceBase, AddressSpaceBase]) -> None:
    before, after = maps
    svg = before.diff(after).to_svg()
    tops = {text.text: float(text.get("y", "")) for text in elements(svg, "text", "right")}
    for group in elements(svg, "g", "change"):
        for block in group.findall(f"{SVG}rect[@class='fill']"):
            assert float(block.get("y", "")) + 4 in tops.values()
    addresses = [(int(text, 0), y) for text, y in tops.items() if text and text.startswith("0x")]
    assert addresses == sorted(addresses)
    assert [y for _, y in addresses] == sorted({y for _, y in addresses})


def test_views_refuse_what_they_can_not_show(space: AddressSpace) -> None:
    with pytest.raises(InvalidArgument, match="unknown view 'face': use one of map, host, heat"):
        space.to_svg(view="face")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="a map has no pages"):
        space.snapshot().to_svg(view="heat")
    with pytest.raises(InvalidArgument, match='dirty= is for view="heat"'):
        space.to_svg(dirty=DirtyPages([]))
    with pytest.raises(TypeError, match="dirty must be of type DirtyPages"):
        space.to_svg(view="heat", dirty=[])  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="no room for names"):
        space.snapshot().diff(space.snapshot()).to_svg(width=100)
    with pytest.raises(NotMapped):
        AddressSpace(LAYOUT).to_svg(view="heat")


@pytest.mark.parametrize("heat", [palette.HEAT_LIGHT, palette.HEAT_DARK], ids=["light", "dark"])
@pytest.mark.parametrize("scale", ["resident", "dirty"])
def test_more_is_always_farther_from_nothing(heat: palette.Heat, scale: str) -> None:
    """The lightness of a scale is monotone, so that it is read in grey too."""
    lights = [
        sum(int(color[at : at + 2], 16) * share for at, share in ((1, 0.21), (3, 0.72), (5, 0.07)))
        for color in heat[scale]
    ]
    assert lights in (sorted(lights), sorted(lights, reverse=True))
    assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in heat[scale])
