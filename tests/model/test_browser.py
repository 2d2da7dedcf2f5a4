"""The page and the pictures in a real browser."""

import base64
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from browser import Browser, browser
from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
from memory_helpers import GIB, MIB, PAGE

LAYOUT = AddressSpaceLayout(1 << 46, 0, 1 << 45, mmio_windows=[(3 * GIB, GIB)])


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as made:
        yield made


@pytest.fixture
def space() -> AddressSpace:
    regions = [
        AddressSpaceRegion("ram", 0, 2 * GIB, name="low <b>&"),
        AddressSpaceRegion("device", 3 * GIB + MIB, PAGE, name="uart"),
        AddressSpaceRegion("ram", 4 * GIB, GIB, name="dimm0", is_hotplug=True),
    ]
    return AddressSpace.from_regions(regions, LAYOUT)


@pytest.fixture
def page(chromium: Browser, space: AddressSpace, tmp_path: Path) -> Browser:
    path = tmp_path / "map.html"
    path.write_text(space.to_html(title="guest"))
    chromium.prefer("light")
    chromium.open(path)
    return chromium


ROWS = "[...document.querySelectorAll('.row[data-base]')]"
ASIDE = "document.querySelector('aside').textContent"


def middle(page: Browser, row: int) -> tuple[float, float]:
    x, y = page.evaluate(f"(box=>[box.x+box.width/2,box.y+box.height/2])({ROWS}[{row}].getBoundingClientRect())")
    return x, y


def test_a_page_needs_nothing_from_elsewhere_and_says_nothing(page: Browser, space: AddressSpace) -> None:
    assert page.evaluate(f"{ROWS}.length") == len(space.rows())
    assert [url for url in page.requests if not url.startswith(("file:", "about:"))] == []
    assert page.messages == []


def test_a_pointer_and_a_click_show_details(page: Browser) -> None:
    page.move(*middle(page, 0))
    assert "low <b>&" in page.evaluate(ASIDE)
    page.click(*middle(page, 0))
    page.move(*middle(page, 2))
    assert "low <b>&" in page.evaluate(ASIDE), "a click keeps it"
    page.press("Escape")
    page.move(*middle(page, 3))
    assert "uart" in page.evaluate(ASIDE)


def test_keys_step_and_find(page: Browser) -> None:
    page.evaluate(f"{ROWS}[0].focus()")
    for _ in range(3):
        page.press("ArrowDown")
    assert "uart" in page.evaluate(ASIDE)
    page.press("/")
    page.ask("Input.insertText", text="0x1_0000_0fff")
    assert page.evaluate("document.getElementById('found').textContent") == "1 row"
    assert "dimm0" in page.evaluate(ASIDE)
    assert page.evaluate(f"{ROWS}.filter(row=>!row.classList.contains('missed')).length") == 1


def test_a_page_follows_light_and_dark_and_is_light_on_paper(page: Browser) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    page.prefer("dark")
    assert page.evaluate(paper) == "rgb(13, 17, 23)"
    page.prefer("dark", media="print")
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"


def test_a_map_that_fits_on_a_sheet_takes_one(chromium: Browser, tmp_path: Path) -> None:
    devices = [AddressSpaceRegion("device", 3 * GIB + at * MIB, PAGE, name=f"virtio{at}") for at in range(10)]
    rams = [AddressSpaceRegion("ram", at * GIB, GIB, name=f"ram{at}") for at in (0, 1, 2)]
    path = tmp_path / "map.html"
    path.write_text(AddressSpace.from_regions([*rams, *devices], LAYOUT).to_html())
    chromium.open(path)
    chromium.prefer("light", media="print")
    height = chromium.evaluate("document.body.offsetHeight")
    sheet = base64.b64decode(chromium.ask("Page.printToPDF", paperWidth=8.3, paperHeight=11.7)["data"])
    assert 850 < height < 950, "nearly as tall as the sheet between its margins"
    assert len(re.findall(rb"/Type /Page\b", sheet)) == 1


@pytest.mark.parametrize("width", [480, 984, 1360])
def test_nothing_reaches_out_of_the_page_and_no_labels_collide(page: Browser, tmp_path: Path, width: int) -> None:
    page.open(tmp_path / "map.html", width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    tops = page.evaluate(f"{ROWS}.map(row=>row.querySelector('.address').getBoundingClientRect().y)")
    assert all(below - above >= 14 for above, below in pairwise(tops))


@pytest.mark.parametrize("view", ["map", "host", "heat"])
@pytest.mark.parametrize("width", [480, 984])
def test_texts_of_a_picture_stay_inside_it(
    chromium: Browser, space: AddressSpace, tmp_path: Path, view: str, width: int
) -> None:
    space.map_memory()
    path = tmp_path / "map.svg"
    path.write_text(space.to_svg(view=view, width=width))  # type: ignore[arg-type]
    chromium.open(path, 1400)
    boxes = "[...document.querySelectorAll('text')].map(text=>text.getBBox()).map(box=>[box.x,box.x+box.width])"
    assert all(left >= 0 and right <= width for left, right in chromium.evaluate(boxes))
    assert chromium.messages == []
