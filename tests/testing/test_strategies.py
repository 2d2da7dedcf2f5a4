"""The strategies that users are given: what they draw is valid, and reaches what matters."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from dbs_address_space import (
    AddressSpace,
    AddressSpaceLayout,
    AddressSpaceRegion,
    AddressSpaceRegionType,
    InvalidArgument,
)
from dbs_address_space.testing import layouts, regions, spaces
from hypothesis import find, given, settings
from hypothesis import strategies as st
from memory_helpers import GIB, MIB, PAGE

SMALL = AddressSpaceLayout(1 << 20, 0, 1 << 19, mmio_windows=[(1 << 16, 1 << 16)])


@settings(max_examples=50, deadline=None)
@given(layouts(), st.data())
def test_a_region_fits_its_layout(layout: AddressSpaceLayout, data: st.DataObject) -> None:
    region = data.draw(regions(layout=layout, max_size="1MiB"))
    layout.check_region(region)
    assert region.size <= MIB
    assert region.base % PAGE == region.size % PAGE == 0


@settings(max_examples=30, deadline=None)
@given(spaces(max_size="64KiB", is_mapped=True))
def test_a_mapped_space_has_its_memory(space: AddressSpace) -> None:
    for region in space.memory.regions:
        if "w" in str(region.prot_flags):
            space.memory.write_u8(region.base, 1)
    assert all(region.name for region in space)
    space.close()


@pytest.mark.parametrize("kind", list(AddressSpaceRegionType))
def test_each_type_is_drawn(kind: AddressSpaceRegionType) -> None:
    found: AddressSpaceRegion = find(regions(layout=SMALL), lambda region: region.region_type is kind)
    assert found.region_type is kind


def touches(space: AddressSpace) -> bool:
    ends = {region.end for region in space}
    return any(region.base in ends for region in space)


MATTERS: dict[str, Callable[[AddressSpace], bool]] = {
    "regions that touch": touches,
    "many regions": lambda space: len(space) >= 4,
    "none": lambda space: not space.regions,
}


@pytest.mark.parametrize("what", MATTERS)
def test_what_matters_is_drawn(what: str) -> None:
    assert find(spaces(layout=SMALL, max_size="64KiB"), MATTERS[what]) is not None


def test_layouts_have_windows_and_rooms_behind_ram() -> None:
    found = find(layouts(), lambda layout: len(layout.mmio_windows) == 2 and layout.phys_end > layout.mem_end)
    assert found.phys_end > found.mem_end
    assert find(layouts(), lambda layout: layout.mem_end > 4 * GIB).mem_end > 4 * GIB


def test_a_layout_without_room_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match="has no room for such regions: give region_types="):
        regions(layout=AddressSpaceLayout(PAGE, 0, PAGE), region_types=["device"])
    with pytest.raises(InvalidArgument, match="max_size"):
        regions(max_size=5)


def test_without_hypothesis_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['hypothesis'] = None; from dbs_address_space import testing; testing.layouts()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'dbs-address-space[testing]'" in run.stderr
