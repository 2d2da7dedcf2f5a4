"""`AddressSpaceLayout`: which region may lie where, and what the refusal says."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dbs_address_space import (
    AddressRange,
    AddressSpace,
    AddressSpaceBase,
    AddressSpaceLayout,
    AddressSpaceRegion,
    InvalidAddressRange,
    InvalidArgument,
    LayoutViolation,
    NoSpace,
    RegionOverlap,
    usable_end,
)

GIB = 1 << 30
TOP = 2**64 - 1
SMALL = AddressSpaceLayout(0x1_0000_0000, 0x1000_0000, 0x2000_0000)
PC = AddressSpaceLayout(1 << 46, 0, 1 << 45, mmio_windows=[(0xC000_0000, GIB)])
"""As a PC: the hole below 4 GiB is for devices."""


def refusal(layout: AddressSpaceLayout, region_type: str, base: int, size: int) -> str:
    """The reason of a refusal; empty when the layout allows the region."""
    region = AddressSpaceRegion(region_type, base, size, name="it")
    if layout.is_region_valid(region):
        layout.check_region(region)
        return ""
    with pytest.raises(LayoutViolation) as refused:
        layout.check_region(region)
    error = refused.value
    assert (error.region, error.address, error.size) == (region, base, size)
    assert str(error).startswith("'it' [0x")
    return str(error)


@pytest.mark.parametrize(
    ("region_type", "base", "size", "allowed"),
    [
        ("ram", 0x1000_0000, 0x1000_0000, True),
        ("ram", 0x1000_0000, 0x1000_0001, False),
        ("ram", 0x1FFF_FFFF, 1, True),
        ("ram", 0x0FFF_FFFF, 1, False),
        ("ram", 0x2000_0000, 1, False),
        ("device", 0x2000_0000, 0xE000_0000, True),
        ("device", 0x2000_0000, 0xE000_0001, False),
        ("device", 0x1FFF_FFFF, 1, False),
        ("dax", 0x2000_0000, 0xE000_0000, True),
        ("dax", 0xFFFF_FFFF, 1, True),
        ("dax", 0x1_0000_0000, 1, False),
        ("firmware", 0, 1, True),
        ("firmware", 0, 0x1_0000_0000, True),
        ("firmware", 0, 0x1_0000_0001, False),
        ("firmware", 0x2_0000_0000, 0x1000, False),
        ("firmware", 0, TOP, False),
    ],
)
def test_the_originals_boundary_table(region_type: str, base: int, size: int, allowed: bool) -> None:  # noqa: FBT001
    """Firmware, which the original lets lie anywhere, must end by phys_end; the table's regions of size 0 can't be made."""
    assert (refusal(SMALL, region_type, base, size) == "") is allowed


def test_without_windows_the_whole_address_space_may_be_ram() -> None:
    layout = AddressSpaceLayout(TOP, 0, TOP)
    assert refusal(layout, "ram", 0, TOP) == ""
    assert refusal(layout, "firmware", 0, TOP) == ""
    assert "must lie between mem_end" in refusal(layout, "device", 0, 1)


@pytest.mark.parametrize(
    ("region_type", "base", "size", "reason"),
    [
        ("ram", 0xFFF_F000, 0x1000, "begins below mem_start 0x1000_0000"),
        ("ram", 0x1000_0000, 0x1000_2000, "ends 0x2000 bytes past mem_end 0x2000_0000"),
        ("device", 0x1000_0000, 0x1000, "must lie between mem_end 0x2000_0000 and phys_end 0x1_0000_0000"),
        ("dax", 0xFFFF_F000, 0x3000, "ends 0x2000 bytes past phys_end 0x1_0000_0000"),
        ("firmware", 0xFFFF_F000, 0x3000, "ends 0x2000 bytes past phys_end 0x1_0000_0000"),
    ],
)
def test_a_refusal_gives_its_reason(region_type: str, base: int, size: int, reason: str) -> None:
    assert refusal(SMALL, region_type, base, size).endswith(reason)


@pytest.mark.parametrize("region_type", ["ram", "dax", "device", "firmware"])
def test_one_past_the_end_looks_inclusive(region_type: str) -> None:
    """The VMM of the original gives the last address where an end is meant."""
    inclusive = AddressSpaceLayout(0x3FFF_FFFF_FFFF, 0, 0x1FFF_FFFF_FFFF)
    name, end = ("mem_end", 0x2000_0000_0000) if region_type == "ram" else ("phys_end", 0x4000_0000_0000)
    said = refusal(inclusive, region_type, end - 0x1000, 0x1000)
    limit, better = f"{end - 1:#_x}", f"{end:#_x}"
    assert f"ends 0x1 bytes past {name} {limit}" in said
    assert f"ends are exclusive, {limit} looks like an inclusive last address: give {better}" in said
    assert "inclusive" not in refusal(inclusive, region_type, end - 0x1000, 0x1001)


def test_windows_hold_devices_and_no_ram() -> None:
    assert refusal(PC, "device", 0xFEE0_0000, 0x1000) == ""
    assert refusal(PC, "dax", 0xC000_0000, GIB) == ""
    assert refusal(PC, "ram", 0, 0xC000_0000) == ""
    assert refusal(PC, "ram", 1 << 32, GIB) == ""
    assert refusal(PC, "firmware", 0xFFF0_0000, 0x10_0000) == ""
    for base, size in ((0xBFFF_F000, 0x2000), (0xD000_0000, 0x1000), (0xFFFF_F000, 0x2000), (0, 1 << 33)):
        said = refusal(PC, "ram", base, size)
        assert "reaches into the MMIO window [0xc000_0000, 0x1_0000_0000), where RAM can't lie" in said


@pytest.mark.parametrize(("base", "size"), [(0xBFFF_F000, 0x2000), (0xFFFF_F000, 0x2000), (0, 0x1000)])
def test_a_device_lies_in_a_window_as_a_whole(base: int, size: int) -> None:
    assert "or in an MMIO window ([0xc000_0000, 0x1_0000_0000))" in refusal(PC, "device", base, size)


def test_rooms_that_touch_are_one_room() -> None:
    layout = AddressSpaceLayout(0x1_0000, 0, 0x8000, mmio_windows=[(0x6000, 0x2000), (0x5000, 0x1000)])
    assert refusal(layout, "device", 0x5000, 0xB000) == ""
    assert refusal(layout, "device", 0x5FFF, 2) == ""
    assert refusal(layout, "device", 0x4FFF, 2) != ""
    over = AddressSpaceLayout(0x1_0000, 0, 0x8000, mmio_windows=[(0x7000, 0x2000)])
    assert refusal(over, "device", 0x7000, 0x9000) == ""


@pytest.mark.parametrize(("phys_end", "mem_start", "mem_end"), [(1, 3, 2), (0x1000, 0, 0x1001), (0x1000, 0x800, 0x7FF)])
def test_the_order_is_enforced(phys_end: int, mem_start: int, mem_end: int) -> None:
    with pytest.raises(InvalidAddressRange, match="mem_start <= mem_end <= phys_end"):
        AddressSpaceLayout(phys_end, mem_start, mem_end)


def test_bounds_may_coincide() -> None:
    layout = AddressSpaceLayout(0x1000, 0x1000, 0x1000)
    assert refusal(layout, "firmware", 0, 0x1000) == ""
    assert "mem_start" in refusal(layout, "ram", 0, 0x1000)
    assert AddressSpaceLayout(0, 0, 0).phys_end == 0


@pytest.mark.parametrize(
    ("windows", "reason"),
    [
        ([(0x1000, 0)], "is empty or ends past phys_end"),
        ([(0xF000, 0x1001)], "is empty or ends past phys_end"),
        ([(0x1000, 0x1000), (0x1FFF, 0x1000)], "overlap"),
        ([(0x1000, 0x1000), (0x1000, 0x1000)], "overlap"),
        ([(TOP, 1)], r"2\^64"),
        ([(-1, 1)], "out of range"),
        ([(0, "2GB")], "is not a size"),
    ],
    ids=["empty", "past the end", "overlapping", "twice", "wrapping", "negative", "bad text"],
)
def test_windows_are_checked(windows: list[tuple[int, int]], reason: str) -> None:
    with pytest.raises(InvalidAddressRange, match=reason):
        AddressSpaceLayout(0x1_0000, 0, 0x8000, mmio_windows=windows)


def test_windows_are_kept_in_order() -> None:
    given: list[tuple[int, int | str]] = [AddressRange(0x3000, 0x1000), (0x1000, "4KiB")]
    layout = AddressSpaceLayout(0x1_0000, 0, 0x8000, mmio_windows=iter(given))
    assert layout.mmio_windows == (AddressRange(0x1000, 0x1000), AddressRange(0x3000, 0x1000))
    assert layout.mmio_windows[0].end == 0x2000
    assert SMALL.mmio_windows == ()


KINDS = ["reserved", "acpi", "nvs", "persistent", "soft-reserved"]
KEPT = AddressSpaceLayout(
    1 << 20,
    0,
    1 << 19,
    mmio_windows=[(0x7_0000, 0x8000)],
    reserved=[(0x1_0000 * number, 0x4000, kind) for number, kind in enumerate(KINDS, 1)]
    + [(0x7_0000, 0x4000), (0x9_0000, 0x4000)],
)
"""Reserved ranges of each kind among RAM, one in an MMIO window, and one above RAM."""


@pytest.mark.parametrize(("region_type", "kinds"), [("ram", KINDS[1:]), ("dax", ["persistent"]), ("device", [])])
def test_a_reserved_range_holds_what_its_kind_is_for(region_type: str, kinds: list[str]) -> None:
    for base, size, kind in KEPT.reserved[:5]:
        reason = f"reaches into [{base:#_x}, {base + size:#_x}) ({kind}), which is reserved for ever"
        assert (reason in refusal(KEPT, region_type, base, size)) == (kind not in kinds)
        assert (refusal(KEPT, region_type, base, size) == "") == (kind in kinds)
        assert reason in refusal(KEPT, region_type, base - 0x1000, size)
        assert reason in refusal(KEPT, region_type, base + size - 1, 2)
        assert refusal(KEPT, "firmware", base - 1, size) == ""


def test_a_device_may_lie_in_the_reserved_part_of_a_window() -> None:
    assert refusal(KEPT, "device", 0x7_0000, 0x1000) == ""
    assert "reserved for ever" in refusal(KEPT, "device", 0x7_3000, 0x2000)
    assert "reserved for ever" in refusal(KEPT, "device", 0x9_0000, 0x1000)
    assert "reserved for ever" in refusal(KEPT, "ram", 0x7_0000, 0x1000)


@pytest.mark.parametrize("region_type", ["ram", "device", "dax"])
def test_nothing_is_placed_in_a_reserved_range(region_type: str) -> None:
    space = AddressSpace(KEPT)
    with pytest.raises(RegionOverlap, match="such regions may lie in"):
        space.reserve(0x1000, owner="it", base=KEPT.reserved[0][0], region_type=region_type, align=0x1000)
    with pytest.raises(NoSpace):
        while True:
            base = space.find_free(0x1000, region_type=region_type, align=0x1000)
            space.insert_region(AddressSpaceRegion(region_type, base, 0x1000))
    assert not any(space.overlapping(base, size) for base, size, _ in KEPT.reserved)
    rooms = (1 << 19) - 0x8000 - 5 * 0x4000 if region_type == "ram" else 0x4000 + (1 << 19) - 0x4000
    assert sum(region.size for region in space) == rooms


@pytest.mark.parametrize(
    ("reserved", "error", "reason"),
    [
        ([(0, 0)], InvalidAddressRange, "the reserved range .* is empty"),
        ([(1 << 46, 1, "nvs")], InvalidAddressRange, "ends past phys_end"),
        ([(0, 2, "nvs"), (1, 2, "acpi")], InvalidAddressRange, "the reserved ranges .* overlap"),
        ([(-1, 1, "acpi")], InvalidAddressRange, "out of range"),
        ([(0, 1, "ram")], InvalidArgument, 'unknown kind of reserved range "ram": use "reserved", "acpi"'),
        ([(0, 1, 7)], TypeError, "str"),
        ([(0,)], TypeError, "must be a tuple"),
        ([[0, 1, "acpi"]], TypeError, "must be a tuple"),
    ],
)
def test_reserved_ranges_are_checked(reserved: list[Any], error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        AddressSpaceLayout(1 << 46, 0, 1 << 45, reserved=reserved)


def test_reserved_ranges_are_a_part_of_the_layout() -> None:
    assert AddressSpaceLayout(9, 0, 9, reserved=[(3, 1), (0, "1B", "nvs")]).reserved == (
        (0, 1, "nvs"),
        (3, 1, "reserved"),
    )
    without = AddressSpaceLayout(1 << 20, 0, 1 << 19, mmio_windows=KEPT.mmio_windows)
    assert without != KEPT
    for again in (pickle.loads(pickle.dumps(KEPT)), eval(repr(KEPT))):
        assert again == KEPT
        assert again.reserved == KEPT.reserved
    base = AddressSpaceBase.from_regions([], KEPT)
    assert pickle.loads(pickle.dumps(base)).layout.reserved == KEPT.reserved


@pytest.mark.parametrize("number", [-1, 2**64, True], ids=str)
@pytest.mark.parametrize("place", range(3))
def test_bounds_out_of_range_are_refused(place: int, number: Any) -> None:
    bounds: list[Any] = [0x3000, 0x1000, 0x2000]
    bounds[place] = number
    with pytest.raises(InvalidAddressRange, match=r"out of range|a bool"):
        AddressSpaceLayout(*bounds)


def test_wrong_types_are_refused() -> None:
    wrong: Any = AddressSpaceLayout
    calls: list[tuple[Any, ...]] = [("1GiB", 0, 0), (1.0, 0, 0), (None, 0, 0), (1, 0), (1, 0, 0, [])]
    for arguments in calls:
        with pytest.raises(TypeError):
            wrong(*arguments)
    for windows in (5, [5], ["ab"], [(0, None)], [(None, 1)]):
        with pytest.raises(TypeError):
            wrong(1 << 46, 0, 1 << 45, mmio_windows=windows)
    with pytest.raises(TypeError):
        SMALL.check_region(wrong)
    with pytest.raises(TypeError):
        SMALL.is_region_valid(None)  # type: ignore[arg-type]
    assert AddressSpaceLayout(np.uint64(3), np.uint8(1), np.int8(2)) == AddressSpaceLayout(3, 1, 2)


def test_layouts_are_values() -> None:
    same = AddressSpaceLayout(1 << 46, 0, 1 << 45, mmio_windows=[(0xC000_0000, "1GiB")])
    assert same == PC
    assert hash(PC) == hash(same)
    others = [
        AddressSpaceLayout(1 << 46, 0, 1 << 45),
        AddressSpaceLayout(1 << 47, 0, 1 << 45, mmio_windows=PC.mmio_windows),
    ]
    others += [
        AddressSpaceLayout(1 << 46, start, end, mmio_windows=PC.mmio_windows) for start, end in ((1, 1 << 45), (0, 1))
    ]
    assert len({PC, *others}) == 5
    assert pickle.loads(pickle.dumps(PC)) == PC
    assert copy.copy(PC) is PC
    assert copy.deepcopy(PC) is PC
    changed: Any = PC
    with pytest.raises(AttributeError):
        changed.mem_end = 0


def test_layouts_match_patterns() -> None:
    match PC:
        case AddressSpaceLayout(phys_end, mem_start, mem_end, mmio_windows=(AddressRange(base=window),)):
            assert (phys_end, mem_start, mem_end, window) == (1 << 46, 0, 1 << 45, 0xC000_0000)
        case _:
            pytest.fail("no match")


def test_repr_is_for_people() -> None:
    assert repr(SMALL) == "AddressSpaceLayout(phys_end=0x1_0000_0000, mem_start=0x1000_0000, mem_end=0x2000_0000)"
    windows = [AddressSpaceLayout(0x9000, 0, 0, mmio_windows=[(0, 1), (8, 1)][:count]) for count in (1, 2)]
    assert repr(windows[0]).endswith(", mmio_windows=((0x0, 0x1),))")
    assert repr(windows[1]).endswith(", mmio_windows=((0x0, 0x1), (0x8, 0x1)))")
    assert [eval(repr(window)) for window in windows] == windows


def test_usable_end_is_the_hosts() -> None:
    meminfo = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    total = next(int(line.split()[1]) << 10 for line in meminfo if line.startswith("MemTotal:"))
    assert usable_end() == SMALL.usable_end == total - 1
