"""`AddressSpaceBase`: the immutable map, its queries, and `AddressSpaceChange`."""

import copy
import pickle
import random
import tempfile
from typing import Any

import numpy as np
import pytest
from dbs_address_space import (
    AddressRange,
    AddressSpaceBase,
    AddressSpaceChange,
    AddressSpaceLayout,
    AddressSpaceRegion,
    BackingOptions,
    DuplicateName,
    InvalidAddressRange,
    InvalidRegionType,
    LayoutViolation,
    Prot,
    RegionOverlap,
    UnmappedAddress,
)
from memory_helpers import GIB, LAYOUT, PAGE, WINDOW, ram

HOLE = 0xD000_0000
LOW = ram(0, "3GiB", name="low", host_numa_node_id=1)
UART = AddressSpaceRegion.create_device_region(0xC000_0000, PAGE, name="uart")
BIOS = AddressSpaceRegion.create_firmware_region(0xFFF0_0000, 1 << 20, "r-x", name="bios")
HIGH = ram(4 * GIB, GIB, name="high")
MORE = ram(5 * GIB, GIB)
FS = AddressSpaceRegion.create_dax_region(WINDOW, 2 * GIB, name="fs")
REGIONS = (LOW, UART, BIOS, HIGH, MORE, FS)
PC = AddressSpaceLayout(1 << 46, 0, 1 << 45, mmio_windows=[(0xC000_0000, GIB)])


def base_of(*regions: AddressSpaceRegion) -> AddressSpaceBase:
    return AddressSpaceBase.from_regions(regions, PC)


@pytest.fixture
def base() -> AddressSpaceBase:
    return base_of(*REGIONS)


def test_regions_are_sorted_whatever_the_order() -> None:
    for seed in range(5):
        regions = random.Random(seed).sample(REGIONS, len(REGIONS))
        base = AddressSpaceBase.from_regions(iter(regions), PC)
        assert base.regions == REGIONS
        assert list(base) == list(REGIONS)
        assert base == base_of(*REGIONS)


def test_a_base_has_its_layout_and_generation(base: AddressSpaceBase) -> None:
    assert base.layout == PC
    assert base.generation == 0
    assert len(base) == 6
    assert base.ram_size == 5 * GIB


def test_an_empty_base_is_true() -> None:
    base = base_of()
    assert bool(base) is True
    assert (len(base), base.regions, list(base), base.ram_size) == (0, (), [], 0)
    assert 0 not in base


def test_invalid_regions_are_refused_with_both_parties() -> None:
    for regions in ([LOW, ram(GIB, PAGE, name="in")], [ram(GIB, PAGE, name="in"), LOW]):
        with pytest.raises(RegionOverlap) as refused:
            AddressSpaceBase.from_regions(regions, PC)
        assert {refused.value.region, refused.value.conflict} == set(regions)
    with pytest.raises(LayoutViolation) as refused_by_layout:
        base_of(HIGH, ram(0xC000_0000))
    assert refused_by_layout.value.region == ram(0xC000_0000)
    with pytest.raises(DuplicateName) as refused_by_name:
        base_of(LOW, ram(4 * GIB, name="low"))
    assert refused_by_name.value.conflict == LOW
    base_of(ram(0), ram(PAGE), ram(2 * PAGE))


def test_an_overlap_is_found_behind_neighbours() -> None:
    with pytest.raises(RegionOverlap):
        base_of(ram(0, 10 * PAGE), ram(PAGE, PAGE), ram(20 * PAGE, PAGE))
    with pytest.raises(RegionOverlap):
        base_of(ram(0, PAGE)).insert_region(ram(0, 1))


def test_wrong_types_are_refused(base: AddressSpaceBase) -> None:
    wrong: Any = AddressSpaceBase.from_regions
    for arguments in ((5, PC), ([5], PC), ([LOW], None), ([LOW],), ("ab", PC)):
        with pytest.raises(TypeError):
            wrong(*arguments)
    query: Any = base
    for call in (
        lambda: query.insert_region(5),
        lambda: query.remove_region(1.5),
        lambda: query.replace_region(0, 5),
        lambda: query.find_region("low"),
        lambda: query.find_region(None),
        lambda: query[LOW],
        lambda: query[1.5],
        lambda: 1.5 in query,
        lambda: query.overlapping(0, None),
        lambda: query.ranges(5),
        lambda: query.gaps("0"),
        lambda: query.diff(5),
        lambda: query.walk_regions(None),
        AddressSpaceBase,
        AddressSpaceChange,
    ):
        with pytest.raises(TypeError):
            call()


@pytest.mark.parametrize("addr", [-1, 2**64, True], ids=str)
def test_addresses_out_of_range_are_refused(base: AddressSpaceBase, addr: int) -> None:
    for query in (
        base.find_region,
        base.is_dax_region,
        base.prot_flags,
        base.numa_node_id,
        base.remove_region,
        base.__getitem__,
        base.__contains__,
        base.gaps,
        lambda addr: base.overlapping(addr, 1),
        lambda size: base.overlapping(0, size),
        lambda high: base.gaps(0, high),
    ):
        with pytest.raises(InvalidAddressRange):
            query(addr)


def test_find_region_gives_the_region_of_an_address(base: AddressSpaceBase) -> None:
    for region in REGIONS:
        for addr in (region.base, region.base + region.size // 2, region.last_addr):
            assert base.find_region(addr) == region
    for addr in (0xC000_1000, HOLE, 0xFFEF_FFFF, 6 * GIB, WINDOW - 1, FS.end, 2**64 - 1):
        assert base.find_region(addr) is None
    assert base.find_region(np.uint64(0xC000_0000)) == UART


def test_a_region_is_the_same_object_each_time(base: AddressSpaceBase) -> None:
    found = base.find_region(0)
    assert found is base.find_region(PAGE)
    assert found is base[0] is base["low"] is base.regions[0] is next(iter(base))
    assert found is base.overlapping(0, 1)[0]
    assert base.regions is base.regions
    seen: list[AddressSpaceRegion] = []
    base.walk_regions(seen.append)
    assert all(one is other for one, other in zip(seen, base.regions, strict=True))


def test_items_are_regions_by_exact_base_or_name(base: AddressSpaceBase) -> None:
    assert base[0] == base["low"] == LOW
    with pytest.raises(UnmappedAddress, match=r"no region starts at 0xd000_0000; .*'uart'.*'bios'") as refused:
        base[HOLE]
    assert (refused.value.address, refused.value.region) == (HOLE, None)
    with pytest.raises(UnmappedAddress, match=r"'low'.*\.find_region\(addr\).*\.regions\[i\]") as inside:
        base[1]
    assert inside.value.region == LOW
    with pytest.raises(InvalidAddressRange, match=r"\.regions\[i\]"):
        base[-1]
    for key in (slice(0, 2), 1.5, None, LOW):
        with pytest.raises(TypeError, match=r"exact base or a name: \.find_region"):
            base[key]  # type: ignore[index]
    for name in ("", "LOW", "\ud800"):
        with pytest.raises(UnmappedAddress, match="no region is named"):
            base[name]


def test_in_takes_addresses_regions_and_names(base: AddressSpaceBase) -> None:
    assert 0 in base
    assert LOW in base
    assert "low" in base
    assert HOLE not in base
    assert LOW.replace(name="other") not in base
    assert ram(6 * GIB) not in base
    assert "LOW" not in base
    assert "\ud800" not in base


def test_insert_gives_a_new_base(base: AddressSpaceBase) -> None:
    dimm = ram(8 * GIB, name="dimm")
    after = base.insert_region(dimm)
    assert (dimm in after, dimm in base, len(after), after.generation) == (True, False, 7, 0)
    for wrong, error in (
        (ram(6 * GIB - 1, 1), RegionOverlap),
        (ram(8 * GIB, name="low"), DuplicateName),
        (ram(WINDOW), LayoutViolation),
    ):
        with pytest.raises(error) as refused:
            base.insert_region(wrong)
        assert refused.value.region == wrong
    assert base == base_of(*REGIONS)


@pytest.mark.parametrize(
    "target", [HIGH.base, np.uint64(HIGH.base), "high", HIGH], ids=["base", "index", "name", "region"]
)
def test_a_region_is_named_by_base_name_or_value(base: AddressSpaceBase, target: Any) -> None:
    assert base.remove_region(target).regions == (LOW, UART, BIOS, MORE, FS)
    renamed = HIGH.replace(name="renamed")
    assert base.replace_region(target, renamed).regions == (LOW, UART, BIOS, renamed, MORE, FS)
    assert base.regions == REGIONS


@pytest.mark.parametrize(
    ("target", "message", "region"),
    [
        (PAGE, r"no region starts at 0x1000: it lies inside 'low' \[0x0, 0xc000_0000\), which starts at 0x0", LOW),
        (HOLE, "no region starts at 0xd000_0000; the region before is 'uart'", None),
        ("nobody", 'no region is named "nobody"', None),
        (HIGH.replace(name="renamed"), r"'renamed' .* is not in the space: 'high' .* is there, and it differs", HIGH),
        (ram(16 * GIB, name="gone"), "'gone' .* is not in the space", None),
    ],
    ids=["inside", "hole", "name", "other", "gone"],
)
def test_what_is_not_there_is_named(base: AddressSpaceBase, target: Any, message: str, region: Any) -> None:
    for verb in (base.remove_region, lambda target: base.replace_region(target, LOW)):
        with pytest.raises(UnmappedAddress, match=message) as refused:
            verb(target)
        assert refused.value.region == region


def test_replace_keeps_range_type_and_backing(base: AddressSpaceBase) -> None:
    new = LOW.replace(
        name=None, prot_flags="r--", host_numa_node_id=None, is_hotplug=True, is_mergeable=True, is_hugepage=True
    )
    assert base.replace_region(LOW, new)[0] == new
    assert base.replace_region(LOW, LOW) == base
    for wrong in (
        LOW.replace(size="2GiB"),
        LOW.replace(base=PAGE),
        LOW.replace(region_type="firmware"),
        LOW.replace(mem_type="mmap"),
        LOW.replace(perm_flags=0x8001),
        LOW.replace(backing=BackingOptions(guard_pages=True)),
    ):
        with pytest.raises(InvalidAddressRange, match="the bytes are lost"):
            base.replace_region(LOW, wrong)
    with pytest.raises(DuplicateName) as refused:
        base.replace_region(LOW, LOW.replace(name="high"))
    assert refused.value.conflict == HIGH


def test_last_addr_is_the_originals() -> None:
    layout = AddressSpaceLayout(1 << 46, 0x1000, 1 << 45)
    empty = AddressSpaceBase.from_regions([], layout)
    assert empty.last_addr == 0x1000
    assert empty.insert_region(FS).last_addr == 0x1000
    assert empty.insert_region(ram(0x1000, name="r")).insert_region(FS).last_addr == 0x1FFF
    for region in (AddressSpaceRegion("device", WINDOW, PAGE), AddressSpaceRegion("firmware", WINDOW, PAGE)):
        assert empty.insert_region(region).last_addr == WINDOW + PAGE - 1
    assert empty.insert_region(AddressSpaceRegion("firmware", 0, 1)).last_addr == 0x1000


def test_queries_tell_holes_apart(base: AddressSpaceBase) -> None:
    assert [base.is_dax_region(addr) for addr in (WINDOW - 1, WINDOW, FS.end, 0, HOLE)] == [
        False,
        True,
        False,
        False,
        False,
    ]
    assert base.prot_flags(0xFFF0_0000) == Prot.READ | Prot.EXEC
    assert type(base.prot_flags(0)) is Prot
    assert base.prot_flags(0xC000_0000) == Prot.NONE
    assert (base.numa_node_id(0), base.numa_node_id(4 * GIB)) == (1, None)
    for query in (base.prot_flags, base.numa_node_id):
        with pytest.raises(UnmappedAddress) as refused:
            query(HOLE)
        assert refused.value.address == HOLE


def test_a_walk_ends_with_what_the_callback_raises(base: AddressSpaceBase) -> None:
    seen: list[AddressSpaceRegion] = []
    error = KeyError("stop")

    def stop_at_bios(region: AddressSpaceRegion) -> None:
        seen.append(region)
        if region == BIOS:
            raise error

    with pytest.raises(KeyError) as raised:
        base.walk_regions(stop_at_bios)
    assert raised.value is error
    assert seen == [LOW, UART, BIOS]


def test_overlapping_is_a_query_by_range(base: AddressSpaceBase) -> None:
    assert base.overlapping(0, 1) == (LOW,)
    assert base.overlapping(0xBFFF_FFFF, 2) == (LOW, UART)
    assert base.overlapping(GIB, 4 * GIB) == (LOW, UART, BIOS, HIGH)
    assert base.overlapping(HOLE, PAGE) == ()
    assert base.overlapping(GIB, 0) == ()
    assert base.overlapping(0, 2**64 - 1) == REGIONS
    assert base.overlapping(5 * GIB, "1GiB") == (MORE,)
    with pytest.raises(InvalidAddressRange):
        base.overlapping(1, 2**64 - 1)


def test_ranges_are_joined(base: AddressSpaceBase) -> None:
    assert base.ranges("ram") == (AddressRange(0, 3 * GIB), AddressRange(4 * GIB, 2 * GIB))
    assert base.ranges() == (
        AddressRange(0, 3 * GIB + PAGE),
        AddressRange(0xFFF0_0000, 2 * GIB + (1 << 20)),
        AddressRange(WINDOW, 2 * GIB),
    )
    assert all(type(each) is AddressRange for each in base.ranges())
    assert base_of(LOW).ranges("dax") == ()
    with pytest.raises(InvalidRegionType):
        base.ranges("rom")


def test_gaps_are_what_no_region_covers(base: AddressSpaceBase) -> None:
    assert [str(gap) for gap in base.gaps()] == [
        "[0xc000_1000, 0xfff0_0000)",
        "[0x1_8000_0000, 0x2000_0000_0000)",
        "[0x2000_8000_0000, 0x4000_0000_0000)",
    ]
    assert base.gaps(0, 4 * GIB) == (AddressRange(0xC000_1000, 0x3FEF_F000),)
    assert base.gaps(HOLE, HOLE + 16) == (AddressRange(HOLE, 16),)
    assert base.gaps(high=GIB) == base.gaps(GIB, 2 * GIB) == base.gaps(HOLE, HOLE) == base.gaps(5, 3) == ()
    assert base_of().gaps() == (AddressRange(0, 1 << 46),)
    assert AddressSpaceBase.from_regions([], AddressSpaceLayout(0, 0, 0)).gaps() == ()


def test_bases_are_values(base: AddressSpaceBase) -> None:
    again = pickle.loads(pickle.dumps(base))
    assert (again, again.regions, again.layout, again.generation) == (base, REGIONS, PC, 0)
    assert hash(again) == hash(base)
    assert base != base_of()
    assert AddressSpaceBase.from_regions([], PC) != AddressSpaceBase.from_regions([], LAYOUT)
    assert base != REGIONS
    assert copy.copy(base) is base
    assert copy.deepcopy(base) is base
    changed: Any = base
    with pytest.raises(AttributeError):
        changed.regions = ()


def test_a_base_of_a_users_file_does_not_pickle() -> None:
    with tempfile.TemporaryFile() as file, pytest.raises(TypeError, match="its descriptor, buffer or dump"):
        pickle.dumps(base_of(ram(0, file=file)))


def test_text_is_for_people(base: AddressSpaceBase) -> None:
    assert repr(base) == "AddressSpaceBase(6 regions, 5 GiB RAM, last_addr 0x1_7fff_ffff, generation 0)"
    assert str(base) == (
        "           start               end       size  type      prot  backing   node  flags  name\n"
        "             0x0       0xc000_0000       3GiB  ram       rw-   shmem     1     -      low\n"
        "     0xc000_0000       0xc000_1000       4KiB  device    -     -         -     -      uart\n"
        "     0xc000_1000       0xfff0_0000  1022.9MiB  free      -     -         -     -      (MMIO window)\n"
        "     0xfff0_0000     0x1_0000_0000       1MiB  firmware  r-x   mmap      -     -      bios\n"
        "   0x1_0000_0000     0x1_4000_0000       1GiB  ram       rw-   shmem     -     -      high\n"
        "   0x1_4000_0000     0x1_8000_0000       1GiB  ram       rw-   shmem     -     -      -\n"
        "   0x1_8000_0000  0x2000_0000_0000    31.9TiB  free      -     -         -     -      -\n"
        "0x2000_0000_0000  0x2000_8000_0000       2GiB  dax       ---   reserved  -     -      fs\n"
        "0x2000_8000_0000  0x4000_0000_0000    31.9TiB  free      -     -         -     -      -"
    )
    assert str(AddressSpaceBase.from_regions([], AddressSpaceLayout(0, 0, 0))).split() == [
        *("start", "end", "size", "type", "prot", "backing", "node", "flags", "name")
    ]


def test_a_change_tells_two_maps_apart(base: AddressSpaceBase) -> None:
    dimm, renamed, shrunk = ram(8 * GIB, name="dimm"), HIGH.replace(name="renamed"), MORE.replace(size=PAGE)
    after = base_of(LOW, UART, renamed, shrunk, dimm, FS)
    change = base.diff(after)
    assert (change.before, change.after) == (base, after)
    assert change.added == (shrunk, dimm)
    assert change.removed == (BIOS, MORE)
    assert change.replaced == ((HIGH, renamed),)
    assert bool(change) is True
    assert repr(change) == "AddressSpaceChange(2 added, 2 removed, 1 replaced)"
    assert str(change).splitlines() == [
        f"- {BIOS!r}",
        f"~ {HIGH!r} -> {renamed!r}",
        f"- {MORE!r}",
        f"+ {shrunk!r}",
        f"+ {dimm!r}",
    ]


def test_a_change_holds_the_very_maps_and_regions(base: AddressSpaceBase) -> None:
    after = base_of(LOW)
    change = base.diff(after)
    assert (change.before is base, change.after is after) == (True, True)
    assert change.removed[0] is base["uart"]
    assert change.removed[-1] is base["fs"]


def test_no_change_is_false(base: AddressSpaceBase) -> None:
    change = base.diff(base_of(*REGIONS))
    assert bool(change) is False
    assert (change.added, change.removed, change.replaced, str(change)) == ((), (), (), "")


def test_changes_are_values(base: AddressSpaceBase) -> None:
    change = base.diff(base_of(LOW))
    again = pickle.loads(pickle.dumps(change))
    assert again == change == base.diff(base_of(LOW))
    assert hash(again) == hash(change)
    assert (again.removed, str(again)) == (change.removed, str(change))
    assert change != base.diff(base)
    assert change != 5
