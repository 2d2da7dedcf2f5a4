"""The numbers, texts, names and files that `AddressSpaceRegion` takes or refuses."""

# ruff: noqa: FBT003  the original has positional booleans

import os
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from dbs_address_space import (
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    MAP_SHARED,
    AddressSpace,
    AddressSpaceError,
    AddressSpaceRegion,
    BackingError,
    InvalidAddressRange,
    InvalidArgument,
    InvalidMemorySourceType,
    InvalidRegionType,
    MemorySourceType,
)
from memory_helpers import GIB, LAYOUT, MIB, PAGE, ram

TOP = 2**64 - 1


@pytest.mark.parametrize("text", ["", "SHMEM", "shmem ", " shmem", "file", "huge", "MEMFD_SHARED", "shmem\0", "\ud800"])
def test_other_sources_are_refused(text: str) -> None:
    for make in (
        lambda: AddressSpaceRegion.create_default_memory_region(0, PAGE, None, text, ""),
        lambda: ram(0, mem_type=text),
        lambda: MemorySourceType.parse(text),
    ):
        with pytest.raises(InvalidMemorySourceType, match="shmem"):
            make()


def test_options_are_keywords() -> None:
    wrong: Any = AddressSpaceRegion
    calls: list[Callable[[], object]] = [
        lambda: wrong("ram", 0, PAGE, "name"),
        lambda: wrong.create_device_region(0, PAGE, "name"),
        lambda: wrong.create_firmware_region(0, PAGE, 3, "name"),
        lambda: wrong.create_memory_region(0, PAGE, None, "shmem", "", False, 3, False, "name"),
        lambda: wrong("ram", 0, PAGE, flavour="sweet"),
        lambda: wrong("ram", 0),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("1B", 1),
        ("4KiB", 4096),
        ("4 K", 4096),
        ("512 MiB", 512 * MIB),
        ("2GiB", 2 * GIB),
        ("2G", 2 * GIB),
        ("2gib", 2 * GIB),
        ("512m", 512 * MIB),
        ("1 KIB", 1024),
        ("4096b", 4096),
        ("1 TiB", 1 << 40),
        ("3P", 3 << 50),
        ("15EiB", 15 << 60),
        ("  7  ", 7),
    ],
)
def test_sizes_may_be_text(text: str, size: int) -> None:
    assert AddressSpaceRegion("ram", 0, text).size == size
    assert ram(0, mem_type="hugetlbfs").replace(size=text, file_offset=text).file_offset == size


@pytest.mark.parametrize(
    "text",
    ["", " ", "2GB", "2gb", "2Gi", "-1", "1.5GiB", "GiB", "0x1000", "2 G B", "16EiB", "9" * 30, "٣", "\ud800", "1_000"],
)
def test_bad_size_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidAddressRange, match="is not a size"):
        AddressSpaceRegion("ram", 0, text)


@pytest.mark.parametrize(
    "number",
    [-1, 2**64, -(2**64), 10**5000, True, False],
    ids=["-1", "2**64", "-2**64", "huge", "True", "False"],
)
@pytest.mark.parametrize(
    "field", ["base", "size", "host_numa_node_id", "file_offset", "perm_flags", "prot_flags", "page_size", "file"]
)
def test_numbers_out_of_range_are_refused(field: str, number: Any) -> None:
    arguments: dict[str, Any] = {"base": 0, "size": PAGE} | {field: number}
    with pytest.raises(InvalidAddressRange, match=r"out of range|a bool"):
        AddressSpaceRegion("ram", **arguments)
    with pytest.raises(InvalidAddressRange, match=r"out of range|a bool"):
        ram(0).replace(**{field: number})


@pytest.mark.parametrize(
    ("field", "number"), [("host_numa_node_id", 2**32), ("perm_flags", 2**31), ("prot_flags", 2**31), ("file", 2**31)]
)
def test_small_numbers_have_their_own_bounds(field: str, number: int) -> None:
    with pytest.raises(InvalidAddressRange, match="out of range"):
        ram(0, **{field: number})
    if field not in ("file", "prot_flags"):
        assert getattr(ram(0, **{field: number - 1}), field) == number - 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("region_type", 5),
        ("region_type", None),
        ("base", "0"),
        ("base", 1.0),
        ("base", None),
        ("size", 4096.0),
        ("size", b"4096"),
        ("name", 5),
        ("name", b"ram"),
        ("host_numa_node_id", "0"),
        ("mem_type", 5),
        ("mem_file_path", 5),
        ("mem_file_path", b"/huge"),
        ("file", b"path"),
        ("file", 1.0),
        ("perm_flags", "rw"),
        ("prot_flags", 3.0),
        ("page_size", 1.5),
        ("is_hugepage", 1),
        ("is_hotplug", None),
        ("is_anonpage", "yes"),
        ("is_mergeable", 0),
    ],
)
def test_wrong_types_are_refused(field: str, value: Any) -> None:
    arguments: dict[str, Any] = {"region_type": "ram", "base": 0, "size": PAGE} | {field: value}
    with pytest.raises(TypeError):
        AddressSpaceRegion(**arguments)
    with pytest.raises(TypeError):
        ram(0).replace(**{field: value})


def test_anything_with_an_index_is_a_number() -> None:
    region = AddressSpaceRegion("ram", np.uint64(PAGE), np.int16(PAGE), host_numa_node_id=np.uint8(1))
    assert (region.base, region.size, region.host_numa_node_id) == (PAGE, PAGE, 1)
    assert np.uint64(PAGE) in region
    with pytest.raises(InvalidAddressRange, match="out of range"):
        AddressSpaceRegion("ram", np.int64(-1), PAGE)


@pytest.mark.parametrize("text", ["", "q", "rwz", "wr", "RW", "\ud800"])
def test_other_protections_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="unknown protection"):
        ram(0, prot_flags=text)


def test_unknown_types_are_refused() -> None:
    for text in ("rom", "", " ram", "\ud800"):
        with pytest.raises(InvalidRegionType, match='use "ram"'):
            AddressSpaceRegion(text, 0, PAGE)


@pytest.mark.parametrize("size", [0, "0B", "0 GiB"])
def test_size_0_is_refused(size: Any) -> None:
    with pytest.raises(InvalidAddressRange, match="size above 0") as refused:
        AddressSpaceRegion("ram", PAGE, size)
    assert (refused.value.address, refused.value.size) == (PAGE, 0)


@pytest.mark.parametrize(("base", "size"), [(TOP, 1), (1, TOP), (TOP - PAGE + 1, PAGE), (TOP, TOP)])
def test_a_range_cannot_end_past_the_last_address(base: int, size: int) -> None:
    with pytest.raises(InvalidAddressRange, match=r"ends past 2\^64 - 1") as refused:
        AddressSpaceRegion("ram", base, size)
    assert (refused.value.address, refused.value.size) == (base, size)


def test_a_range_may_end_at_the_last_address() -> None:
    assert ram(TOP - PAGE, PAGE).end == TOP
    assert ram(0, TOP).last_addr == TOP - 1


@pytest.mark.parametrize("name", ["", "a\nb", "\x00", "a\x7f", "\x85"])
def test_names_are_printable(name: str) -> None:
    with pytest.raises(InvalidArgument, match="name") as refused:
        ram(PAGE, name=name)
    assert refused.value.address == PAGE


def test_a_name_may_be_any_text() -> None:
    for name in ("ram-low", "RAM 0", "Speicher-ß", "内存", "a" * 1000, "it's"):
        assert ram(0, name=name).name == name
    with pytest.raises(InvalidArgument, match="surrogates"):
        ram(0, name="\ud800")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"page_size": 4096}, "goes with a huge mem_type"),
        ({"page_size": "2MiB", "mem_type": "shmem"}, "goes with a huge mem_type"),
        ({"page_size": 3 * MIB, "mem_type": "hugeshmem"}, "power of two"),
        ({"page_size": 0, "mem_type": "hugeshmem"}, "power of two"),
    ],
)
def test_page_sizes_are_those_of_huge_sources(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidAddressRange, match=reason):
        ram(0, **options)


def test_a_file_is_a_source_of_its_own() -> None:
    with tempfile.TemporaryFile() as file, pytest.raises(InvalidMemorySourceType, match="exclude each other"):
        ram(0, file=file, mem_type="shmem")


def test_a_closed_descriptor_is_refused() -> None:
    with tempfile.TemporaryFile() as file:
        number = os.dup(file.fileno())
    os.close(number)
    with pytest.raises(BackingError, match=f"descriptor {number}") as refused:
        ram(0, file=number)
    assert refused.value.errno == 9
    with pytest.raises(ValueError, match="closed file"):
        ram(0, file=file)


def test_refusals_are_errors_of_this_package() -> None:
    for error in (InvalidAddressRange, InvalidRegionType, InvalidMemorySourceType):
        assert issubclass(error, InvalidArgument)
        assert issubclass(error, AddressSpaceError)
        assert issubclass(error, ValueError)


@pytest.mark.parametrize(
    "flag", [0x10, 0x100, 0x4_0000, 0x10_0000], ids=["FIXED", "GROWSDOWN", "HUGETLB", "FIXED_NOREPLACE"]
)
def test_flags_that_place_or_grow_a_mapping_are_refused_when_it_is_made(flag: int) -> None:
    region = ram(0, perm_flags=MAP_PRIVATE | MAP_ANONYMOUS | flag)
    space = AddressSpace.from_regions([region], LAYOUT)
    with pytest.raises(BackingError, match=r"cannot map ram \[0x0, 0x1000\): MAP_") as refused:
        space.map_memory()
    assert (refused.value.errno, refused.value.region) == (22, region)
    assert "rrno" not in str(refused.value)
    assert "Invalid argument" not in str(refused.value)
    assert not space.is_mapped


@pytest.mark.parametrize(
    "flags",
    [0, MAP_ANONYMOUS, MAP_SHARED | MAP_PRIVATE, 8 | MAP_ANONYMOUS],
    ids=["none", "neither", "both", "DROPPABLE"],
)
def test_a_mapping_is_either_shared_or_private(flags: int) -> None:
    """Both bits are MAP_SHARED_VALIDATE to the kernel: discarded pages of what counts as private would part from the file."""
    space = AddressSpace.from_regions([ram(0, perm_flags=flags)], LAYOUT)
    with pytest.raises(BackingError, match="MAP_SHARED or MAP_PRIVATE") as refused:
        space.map_memory()
    assert refused.value.errno == 22
    assert not space.is_mapped


@pytest.mark.parametrize("flags", [8, 99, 1 << 30])
def test_bits_beyond_those_of_a_protection_are_refused(flags: int) -> None:
    with pytest.raises(InvalidArgument, match="is not a protection"):
        AddressSpaceRegion("ram", 0, PAGE, prot_flags=flags)
