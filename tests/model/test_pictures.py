import io
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest
from dbs_address_space import (
    AddressSpace,
    AddressSpaceBase,
    AddressSpaceLayout,
    AddressSpaceRegion,
    InvalidArgument,
    MapRow,
)
from dbs_address_space.pictures import palette
from hypothesis import given
from hypothesis import strategies as st
from memory_helpers import GIB, MIB, PAGE
from rich.console import Console

WINDOW = 0xE000_0000
LAYOUT = AddressSpaceLayout(1 << 46, 0, 1 << 45, mmio_windows=[(WINDOW, 512 * MIB)])
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>alert(1)</script>\u202e\ufffe&\"'"
"""A name may be this; control characters it may not have."""


def ram(base: int, size: int = MIB, name: str | None = None, **options: object) -> AddressSpaceRegion:
    return AddressSpaceRegion("ram", base, size, name=name, **options)  # type: ignore[arg-type]


def space_of(*regions: AddressSpaceRegion) -> AddressSpace:
    return AddressSpace.from_regions(regions, LAYOUT)


@pytest.fixture
def space() -> AddressSpace:
    space = space_of(
        ram(0, 2 * GIB, "low", host_numa_node_id=0),
        AddressSpaceRegion("device", WINDOW + MIB, PAGE, name="uart"),
        ram(4 * GIB, GIB, "dimm0", is_hotplug=True, mem_type="hugeshmem", page_size="2MiB"),
        AddressSpaceRegion("firmware", 0xFFC0_0000, 4 * MIB, name="bios", prot_flags="r-x"),
    )
    space.reserve("16MiB", owner="vfio", base=WINDOW + 16 * MIB, region_type="device")
    return space


pages = st.integers(0, 300)


@given(st.sets(pages), st.sets(st.integers(0x100, 0x1000)), st.none() | st.integers(0, 60))
def test_rows_have_each_address_once(ram_pages: set[int], devices: set[int], limit: int | None) -> None:
    regions = [ram(page * PAGE, PAGE) for page in sorted(ram_pages)]
    regions += [AddressSpaceRegion("device", WINDOW + page * PAGE, PAGE) for page in sorted(devices)]
    space = space_of(*regions)
    rows = space.rows(limit=limit)
    assert [row.base for row in rows] == [0, *(row.end for row in rows[:-1])]
    assert rows[-1].end == 1 << 46
    assert [region for row in rows for region in row.regions] == list(space.regions)
    assert all(row.base == row.regions[0].base and row.end == row.regions[-1].end for row in rows if row.regions)
    assert limit is None or sum(bool(row.regions) for row in rows) <= max(limit, 2)
    assert space.rows(limit=limit) == space.snapshot().rows(limit=limit)


def test_rich_shows_the_table_that_fits(space: AddressSpace) -> None:
    text = io.StringIO()
    Console(file=text, width=80, force_terminal=True).print(space)
    assert "\x1b[" in text.getvalue()
    assert re.sub(r"\x1b\[[\d;]+m", "", text.getvalue()).split() == space.table(width=80).split()


def test_rows_tell_what_is_there(space: AddressSpace) -> None:
    kinds = [(row.kind, row.name, row.look) for row in space.rows()]
    assert kinds == [
        ("region", "low", "ram"),
        ("free", "free", "free"),
        ("free", "free for devices", "free"),
        ("region", "uart", "device"),
        ("free", "free for devices", "free"),
        ("reserved", "vfio", "reserved"),
        ("free", "free for devices", "free"),
        ("region", "bios", "firmware"),
        ("region", "dimm0", "ram"),
        ("free", "free", "free"),
    ]
    assert isinstance(space.rows()[0], MapRow)
    dimm = space.rows()[8]
    assert (dimm.prot, dimm.backing, dimm.node, dimm.is_hotplug) == ("rw-", "hugeshmem 2M", "", True)
    assert [row.kind for row in space.snapshot().rows()].count("reserved") == 0
    assert AddressSpaceBase.from_regions([], AddressSpaceLayout(0, 0, 0)).rows() == ()


def test_neighbours_that_look_alike_are_one_row_with_a_limit() -> None:
    dimms = [ram(4 * GIB + number * GIB, GIB, f"dimm{number}", is_hotplug=True) for number in range(8)]
    rows = space_of(ram(0, name="low"), *dimms).rows(limit=2)
    assert [(row.name, row.type_text, row.size) for row in rows if row.regions] == [
        ("low", "ram", MIB),
        ("dimm0 … dimm7", "8 ram", 8 * GIB),
    ]
    assert len(space_of(*dimms).rows(limit=8)) == 8 + 3


@pytest.mark.parametrize("width", [60, 80, 140])
def test_a_table_fits_its_terminal(space: AddressSpace, width: int) -> None:
    lines = space.table(width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines[1:-1]] == [f"{row.base:#_x}" for row in space.rows()]
    assert ("  end" in lines[0]) == (width == 140)
    assert lines[-1].strip() == "0x4000_0000_0000"


def test_a_table_is_as_the_terminal_is(space: AddressSpace) -> None:
    assert "█" in space.table()
    assert space.table(ascii=True).isascii()
    colored = space.table(color=True)
    assert "\x1b[94m" in colored
    assert re.sub(r"\x1b\[\d+m", "", colored).split() == space.table().split()
    assert "free" not in space.table(free=False)


def test_nothing_of_a_name_reaches_the_terminal() -> None:
    named = space_of(ram(0, name=HOSTILE))
    for text in (str(named), named.table(), named.table(color=False, width=60)):
        assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", text)
    assert str(named).isascii()
    assert all(len(line.split()) >= 9 for line in str(named).splitlines())


@pytest.mark.parametrize("width", [320, 480, 984, 1360])
@pytest.mark.parametrize("theme", ["auto", "light", "dark"])
def test_a_picture_shows_each_row(space: AddressSpace, width: int, theme: str) -> None:
    root = ET.fromstring(space.to_svg(width=width, theme=theme))  # type: ignore[arg-type]
    assert root.get("width") == str(width)
    shown = [(row.get("data-base"), row.get("data-end")) for row in root.iter(f"{SVG}g") if row.get("data-base")]
    assert shown == [(str(row.base), str(row.end)) for row in space.rows()]
    addresses = [float(text.get("y", "")) for text in root.iter(f"{SVG}text") if text.get("x") == "156"]
    assert all(high - low >= 14 for low, high in pairwise(addresses[1:]))
    right = [float(rect.get("x", 0)) + float(rect.get("width", 0)) for rect in root.iter(f"{SVG}rect")]
    assert max(right) <= width


def test_pictures_refuse_what_they_do_not_know(space: AddressSpace) -> None:
    theme: Any = "blue"
    with pytest.raises(InvalidArgument, match="unknown theme 'blue': use one of auto, light, dark"):
        space.to_svg(theme=theme)
    with pytest.raises(InvalidArgument, match="unknown theme 'blue': use one of auto, light, dark"):
        space.to_html(theme=theme)
    with pytest.raises(InvalidArgument, match="100 pixels"):
        space.to_svg(width=100)


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def test_a_page_shows_each_row_and_opens_groups(space: AddressSpace) -> None:
    for limit in (48, 1):
        page = Page(space.to_html(limit=limit))
        shown = [(one["data-base"], one["data-end"]) for _, one in page.tags if one.get("data-base")]
        rows = space.rows(limit=limit)
        assert shown == [(str(row.base), str(row.end)) for row in rows]
        assert page.count("details") == sum(row.kind == "group" for row in rows)


def test_strangers_names_are_escaped() -> None:
    named = space_of(ram(0, name=HOSTILE))
    named.reserve("1MiB", owner=HOSTILE)
    page = Page(named.to_html(title=HOSTILE + "\x00\x1b"))
    assert page.count("script") == 1
    assert Page(named._repr_html_()).count("script") == 0
    svg = ET.fromstring(named.to_svg(title=HOSTILE + "\x00\x1b"))
    assert not list(svg.iter(f"{SVG}script"))
    assert "\ufffd" in "".join(svg.itertext())


def test_a_notebook_is_shown_a_table_without_script_style_or_identifier(space: AddressSpace) -> None:
    page = Page(space._repr_html_())
    assert page.count("tr") == len(space.rows()) + 1
    assert page.count("script") == page.count("style") == 0
    assert not [one for _, one in page.tags if "id" in one]


def luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [palette.LIGHT, palette.DARK], ids=["light", "dark"])
def test_colours_have_the_contrast_that_readers_need(theme: palette.Theme) -> None:
    text, paper = theme["paper"]
    assert contrast(theme["quiet"][0], paper) >= 4.5
    for look in theme.keys() - {"paper", "quiet"}:
        edge, fill = theme[look]
        assert contrast(text, fill) >= 4.5
        assert contrast(edge, paper) >= 3.0
        assert contrast(edge, fill) >= 3.0
