"""`AddressSpaceRegion`: every constructor and field, `replace`, and the behaviour of a value."""

# ruff: noqa: FBT003  the original has positional booleans

import copy
import fcntl
import os
import pickle
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import (
    MAP_ANONYMOUS,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    AddressSpaceRegion,
    AddressSpaceRegionType,
    BackingOptions,
    InvalidAddressRange,
    InvalidArgument,
    InvalidMemorySourceType,
    MapFlags,
    MemorySourceType,
    Prot,
)
from kernel_view import descriptors
from memory_helpers import GIB, MIB, PAGE, mapped, ram

TOP = 2**64 - 1
PRIVATE = MAP_PRIVATE | MAP_ANONYMOUS
SOURCES = {
    "shmem": (MemorySourceType.MEMFD_SHARED, MAP_SHARED, True, False, False),
    "memfd": (MemorySourceType.MEMFD_SHARED, MAP_SHARED, True, False, False),
    "hugeshmem": (MemorySourceType.MEMFD_ON_HUGETLBFS, MAP_SHARED, True, True, False),
    "hugememfd": (MemorySourceType.MEMFD_ON_HUGETLBFS, MAP_SHARED, True, True, False),
    "mmap": (MemorySourceType.MMAP_ANONYMOUS, PRIVATE, False, False, True),
    "anon": (MemorySourceType.MMAP_ANONYMOUS, PRIVATE, False, False, True),
    "hugemmap": (MemorySourceType.MMAP_ANONYMOUS_HUGETLBFS, PRIVATE, False, True, True),
    "hugeanon": (MemorySourceType.MMAP_ANONYMOUS_HUGETLBFS, PRIVATE, False, True, True),
    "hugetlbfs": (MemorySourceType.FILE_ON_HUGETLBFS, MAP_SHARED, True, True, False),
}
"""The nine strings: source, mmap flags, has_file, is_hugepage, is_anonpage."""

DEFAULTS: dict[str, Any] = {
    "name": None,
    "host_numa_node_id": None,
    "mem_type": None,
    "mem_file_path": "",
    "file": None,
    "file_offset": 0,
    "perm_flags": MAP_SHARED,
    "prot_flags": Prot.READ | Prot.WRITE,
    "page_size": None,
    "is_hugepage": False,
    "is_hotplug": False,
    "is_anonpage": False,
    "is_mergeable": False,
}
EVERYTHING: dict[str, Any] = {
    "name": "dimm0",
    "host_numa_node_id": 3,
    "mem_type": MemorySourceType.FILE_ON_HUGETLBFS,
    "mem_file_path": "/dev/hugepages/dimm0",
    "file_offset": 2 * MIB,
    "perm_flags": MAP_SHARED | MAP_POPULATE,
    "prot_flags": Prot.READ,
    "page_size": 2 * MIB,
    "is_hugepage": False,
    "is_hotplug": True,
    "is_anonpage": True,
    "is_mergeable": True,
}
"""Each option with a value that is not its default."""


def options(region: AddressSpaceRegion) -> dict[str, Any]:
    return {name: getattr(region, name) for name in DEFAULTS}


def create(mem_type: str, *, prealloc: bool = False) -> AddressSpaceRegion:
    return AddressSpaceRegion.create_default_memory_region(0, PAGE, None, mem_type, "", prealloc)


def test_a_region_has_its_range_and_defaults() -> None:
    region = AddressSpaceRegion("ram", 0x1000, 0x2000)
    assert region.region_type is AddressSpaceRegionType.DEFAULT_MEMORY
    assert (region.base, region.size, region.end, region.last_addr) == (0x1000, 0x2000, 0x3000, 0x2FFF)
    assert options(region) == DEFAULTS
    assert region.has_file


def test_every_option_is_kept() -> None:
    region = AddressSpaceRegion("ram", 0, PAGE, **EVERYTHING)
    assert options(region) == DEFAULTS | EVERYTHING


def test_flags_and_types_are_members_of_enums() -> None:
    region = ram(0, mem_type="mmap", perm_flags=0x4022, prot_flags=5)
    assert repr(region.perm_flags) == "<MapFlags.PRIVATE|ANONYMOUS|NORESERVE: 16418>"
    assert repr(region.prot_flags) == "<Prot.READ|EXEC: 5>"
    assert (type(region.perm_flags), type(region.prot_flags)) == (MapFlags, Prot)
    assert region.mem_type is MemorySourceType.MMAP_ANONYMOUS


@pytest.mark.parametrize("region_type", list(AddressSpaceRegionType), ids=lambda member: member.value)
def test_a_type_may_be_a_member_or_either_of_its_texts(region_type: AddressSpaceRegionType) -> None:
    for given in (
        region_type,
        region_type.value,
        region_type.name,
        region_type.name.lower(),
        region_type.value.upper(),
    ):
        assert AddressSpaceRegion(given, 0, PAGE).region_type is region_type


@pytest.mark.parametrize(
    ("region_type", "perm_flags", "prot_flags", "has_file"),
    [
        ("ram", MAP_SHARED, "rw-", True),
        ("device", 0, "---", False),
        ("dax", PRIVATE | MAP_NORESERVE, "---", False),
        ("firmware", PRIVATE, "rw-", False),
    ],
)
def test_each_type_has_its_flags(region_type: str, perm_flags: int, prot_flags: str, has_file: bool) -> None:  # noqa: FBT001
    region = AddressSpaceRegion(region_type, 0, PAGE)
    assert (region.perm_flags, str(region.prot_flags), region.has_file) == (perm_flags, prot_flags, has_file)


def test_anonymous_ram_needs_no_source() -> None:
    assert not ram(0, perm_flags=MAP_PRIVATE | MAP_ANONYMOUS).has_file


@pytest.mark.parametrize("mem_type", SOURCES)
def test_the_originals_sources(mem_type: str) -> None:
    source, perm_flags, has_file, is_hugepage, is_anonpage = SOURCES[mem_type]
    for region in (create(mem_type), ram(0, mem_type=mem_type), ram(0, mem_type=source)):
        expected = {"perm_flags": perm_flags, "is_hugepage": is_hugepage, "is_anonpage": is_anonpage}
        assert options(region) == DEFAULTS | expected | {"mem_type": source}
        assert region.has_file == has_file


@pytest.mark.parametrize("mem_type", SOURCES)
def test_preallocation_is_a_flag(mem_type: str) -> None:
    assert create(mem_type, prealloc=True).perm_flags == create(mem_type).perm_flags | MAP_POPULATE
    assert options(create(mem_type, prealloc=True)) == options(create(mem_type)) | {
        "perm_flags": SOURCES[mem_type][1] | MAP_POPULATE
    }


def test_the_eight_values_of_the_originals_readme() -> None:
    region = AddressSpaceRegion.create_default_memory_region(
        0x100000,
        0x100000,
        None,
        "shmem",
        "",
        False,
        False,
        False,
    )
    assert region == AddressSpaceRegion("ram", 0x100000, 0x100000, mem_type="shmem")
    hints = AddressSpaceRegion.create_default_memory_region(0, PAGE, 1, "shmem", "", True, True, True)
    assert hints.host_numa_node_id == 1
    assert (hints.perm_flags, hints.is_hotplug, hints.is_mergeable) == (MAP_SHARED | MAP_POPULATE, True, True)


def test_create_memory_region_has_a_protection_in_seventh_place() -> None:
    region = AddressSpaceRegion.create_memory_region(
        0, PAGE, 2, "hugetlbfs", "/huge/x", False, 1, True, name="n", page_size="2MiB"
    )
    assert options(region) == DEFAULTS | {
        "name": "n",
        "host_numa_node_id": 2,
        "mem_type": MemorySourceType.FILE_ON_HUGETLBFS,
        "mem_file_path": "/huge/x",
        "prot_flags": Prot.READ,
        "page_size": 2 * MIB,
        "is_hugepage": True,
        "is_hotplug": True,
    }
    with pytest.raises(InvalidAddressRange, match="bool"):
        AddressSpaceRegion.create_memory_region(0, PAGE, None, "shmem", "", False, False)


def test_the_other_constructors_take_a_name() -> None:
    device = AddressSpaceRegion.create_device_region(PAGE, 2 * PAGE, name="uart")
    assert device == AddressSpaceRegion("device", PAGE, 2 * PAGE, name="uart")
    window = AddressSpaceRegion.create_dax_region(PAGE, "2GiB", name="fs0")
    assert window == AddressSpaceRegion("dax", PAGE, 2 * GIB, name="fs0")
    firmware = AddressSpaceRegion.create_firmware_region(PAGE, PAGE, "r-x", name="bios")
    assert firmware == AddressSpaceRegion("firmware", PAGE, PAGE, prot_flags=5, name="bios")
    assert AddressSpaceRegion.create_firmware_region(PAGE, PAGE).prot_flags == Prot.READ | Prot.WRITE


def test_a_file_is_duplicated_close_on_exec() -> None:
    with tempfile.TemporaryFile() as file:
        regions = [ram(0, file=file), ram(0, file=file.fileno())]
        number = file.fileno()
        identity = os.fstat(number).st_ino
    for region in regions:
        assert region.file is not None
        assert region.file != number
        assert os.fstat(region.file).st_ino == identity
        assert fcntl.fcntl(region.file, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
        assert region.has_file
        assert region.mem_type is None
    assert regions[0] == regions[1]
    duplicate = regions[1].file
    del regions, region
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(duplicate or 0)


def test_regions_of_other_files_differ() -> None:
    with tempfile.TemporaryFile() as one, tempfile.TemporaryFile() as other:
        assert ram(0, file=one) != ram(0, file=other)
        assert ram(0, file=one) != ram(0, file=one, file_offset=PAGE)
        assert ram(0, file=one) != ram(0)


def test_replace_changes_what_is_given() -> None:
    region = AddressSpaceRegion("ram", 0, PAGE, **EVERYTHING)
    assert region.replace() == region
    for name, value in (DEFAULTS | {"is_hugepage": True}).items():
        if name not in {"mem_type", "page_size"}:
            changed = region.replace(**{name: value})
            assert options(changed) == options(region) | {name: value}
    moved = region.replace(base=PAGE, size="8KiB", region_type="firmware")
    assert (moved.base, moved.size, moved.region_type.value, options(moved)) == (
        PAGE,
        2 * PAGE,
        "firmware",
        options(region),
    )


def test_replace_follows_defaults() -> None:
    region = create("shmem", prealloc=True)
    assert region.replace(mem_type="hugemmap") == create("hugemmap", prealloc=True)
    assert region.replace(mem_type=None) == ram(0, perm_flags=MAP_SHARED | MAP_POPULATE)
    assert region.replace(perm_flags=None) == create("shmem")
    assert ram(0).replace(region_type="device") == AddressSpaceRegion.create_device_region(0, PAGE)
    assert ram(0, prot_flags="r--").replace(region_type="firmware").prot_flags == Prot.READ
    assert ram(0, perm_flags=MAP_PRIVATE).replace(mem_type="mmap").perm_flags == MAP_PRIVATE


def test_replace_keeps_the_file() -> None:
    with tempfile.TemporaryFile() as one, tempfile.TemporaryFile() as other:
        region = ram(0, file=one, name="one")
        renamed = region.replace(name="other")
        assert (renamed.file, renamed.name) == (region.file, "other")
        assert region.replace(file=other) == ram(0, file=other, name="one")
        assert region.replace(file=None) == ram(0, name="one")
        assert region.replace(file=None, mem_type="mmap") == ram(0, mem_type="mmap", name="one")


def test_replace_checks_as_the_constructor_does() -> None:
    with pytest.raises(TypeError, match="flavour"):
        ram(0).replace(flavour="sweet")
    with pytest.raises(InvalidAddressRange):
        ram(PAGE).replace(size=TOP)
    with pytest.raises(InvalidAddressRange):
        ram(PAGE).replace(size=0)


def test_regions_are_equal_by_value() -> None:
    region = AddressSpaceRegion("ram", 0, PAGE, **EVERYTHING)
    same = AddressSpaceRegion("ram", 0, PAGE, **EVERYTHING)
    assert region == same
    assert hash(region) == hash(same)
    changes: list[dict[str, Any]] = [
        {name: value}
        for name, value in (DEFAULTS | {"is_hugepage": True}).items()
        if name not in {"file", "mem_type", "page_size"}
    ]
    changes += [{"base": PAGE}, {"size": 2 * PAGE}, {"region_type": "firmware"}, {"page_size": None}]
    no_path = {"mem_file_path": "", "file_offset": 0}
    changes += [no_path | {"mem_type": "hugeshmem"}, no_path | {"mem_type": None, "page_size": None}]
    others = [region.replace(**change) for change in changes]
    assert len({region, same, *others}) == 1 + len(others)
    assert region != "ram"
    assert not isinstance(region, tuple)


def test_regions_are_immutable() -> None:
    region: Any = ram(0)
    for name in [*DEFAULTS, "base", "size", "end", "something"]:
        with pytest.raises(AttributeError):
            setattr(region, name, 1)
    assert region == ram(0)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_regions_pickle(protocol: int) -> None:
    for region in (AddressSpaceRegion("firmware", 0, PAGE, **EVERYTHING), *map(create, SOURCES), ram(0, TOP)):
        again = pickle.loads(pickle.dumps(region, protocol))
        assert again == region
        assert options(again) == options(region)


@pytest.mark.parametrize(
    "options", [{}, {"shared": False}, {"prot_flags": "r--"}, {"offset": 100, "trusted": True}], ids=str
)
def test_a_region_with_a_path_pickles(tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("image").write_bytes(bytes(1000))
    region = AddressSpaceRegion.from_file(PAGE, "image", **options).replace(name="image")
    monkeypatch.chdir("/")
    again = pickle.loads(pickle.dumps(region))
    assert again == region
    assert again.file != region.file
    assert pickle.loads(pickle.dumps(again)) == region
    (tmp_path / "image").unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickle.dumps(region))


def test_a_region_with_a_descriptor_does_not_pickle() -> None:
    with tempfile.TemporaryFile() as file, pytest.raises(TypeError, match=r"'nvdimm.*its descriptor, buffer or dump"):
        pickle.dumps(ram(0, file=file, name="nvdimm"))


def test_a_copy_is_the_region_itself() -> None:
    region = ram(0, name="ram")
    assert copy.copy(region) is region
    assert copy.deepcopy([region])[0] is region


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        (ram(0, "3GiB", name="ram-low"), "'ram-low' DEFAULT_MEMORY [0x0, 0xc000_0000) 3 GiB rw- shmem"),
        (ram(0x1000, 4097), "DEFAULT_MEMORY [0x1000, 0x2001) 4097 B rw- shmem"),
        (ram(0, 1, mem_type="hugeanon", prot_flags="r-x"), "DEFAULT_MEMORY [0x0, 0x1) 1 B r-x hugemmap"),
        (AddressSpaceRegion.create_device_region(0xD000_0000, 4096), "DEVICE_MEMORY [0xd000_0000, 0xd000_1000) 4 KiB"),
        (
            AddressSpaceRegion.create_dax_region(1 << 45, 1 << 40),
            "DAX_MEMORY [0x2000_0000_0000, 0x2100_0000_0000) 1 TiB --- reserved",
        ),
        (AddressSpaceRegion.create_firmware_region(0, 5 << 19), "FIRMWARE_MEMORY [0x0, 0x28_0000) 2560 KiB rw- mmap"),
    ],
    ids=lambda value: "" if isinstance(value, str) else value.region_type.value + f"-{value.size}",
)
def test_repr_is_for_people(region: AddressSpaceRegion, expected: str) -> None:
    assert repr(region) == str(region) == f"AddressSpaceRegion({expected})"


def test_repr_of_a_file() -> None:
    with tempfile.TemporaryFile() as file:
        assert repr(ram(0, file=file)) == "AddressSpaceRegion(DEFAULT_MEMORY [0x0, 0x1000) 4 KiB rw- file)"


def test_a_region_is_a_container_of_addresses() -> None:
    region = ram(PAGE, 2 * PAGE)
    assert len(region) == 2 * PAGE
    assert [addr in region for addr in (PAGE - 1, PAGE, 3 * PAGE - 1, 3 * PAGE, 0, TOP)] == [
        False,
        True,
        True,
        False,
        False,
        False,
    ]
    with pytest.raises(InvalidAddressRange):
        _ = -1 in region
    with pytest.raises(TypeError):
        _ = "ram" in region  # type: ignore[operator]


def test_a_region_beyond_maxsize_has_a_size() -> None:
    assert len(ram(0, sys.maxsize)) == sys.maxsize
    region = ram(0, sys.maxsize + 1)
    with pytest.raises(OverflowError, match=r"\.size"):
        len(region)
    assert region.size == sys.maxsize + 1
    assert bool(region) is True


def test_regions_match_patterns() -> None:
    match ram(PAGE, name="ram"):
        case AddressSpaceRegion(AddressSpaceRegionType.DEFAULT_MEMORY, base, size, name=str(name)):
            assert (base, size, name) == (PAGE, PAGE, "ram")
        case _:
            pytest.fail("no match")


@pytest.mark.parametrize(
    ("base", "size", "intersects"),
    [
        (0, 4, False),
        (0, 5, True),
        (4, 4, True),
        (5, 1, True),
        (7, 9, True),
        (8, 1, False),
        (0, 100, True),
        (0, 1, False),
    ],
)
def test_intersect_with_is_symmetric(base: int, size: int, intersects: bool) -> None:  # noqa: FBT001
    one, other = ram(4, 4), ram(base, size)
    assert one.intersect_with(other) is intersects
    assert other.intersect_with(one) is intersects


def test_a_plan_costs_nothing() -> None:
    before = set(descriptors().values())
    region = create("hugetlbfs").replace(size="1GiB")
    plan = [region.replace(base=number * GIB, mem_file_path=f"/nowhere/{number}") for number in range(10_000)]
    assert set(descriptors().values()) <= before
    assert len(set(plan)) == 10_000


def test_firmware_of_a_file_or_source_can_be_mapped() -> None:
    assert AddressSpaceRegion("firmware", 0, PAGE, mem_type="shmem").perm_flags == MAP_SHARED
    assert AddressSpaceRegion("firmware", 0, PAGE, mem_type="mmap").perm_flags == PRIVATE
    with tempfile.TemporaryFile() as file:
        file.write(b"bios" + bytes(PAGE))
        file.flush()
        firmware = AddressSpaceRegion("firmware", 0, PAGE, file=file, prot_flags="r--")
    assert firmware.perm_flags == MAP_PRIVATE
    _, memory = mapped(firmware)
    assert memory.read(0, 4) == b"bios"


def test_copy_replace_is_replace() -> None:
    region, options = AddressSpaceRegion("ram", 0, "1MiB", name="ram0"), BackingOptions(mlock=True)
    copied = getattr(copy, "replace", lambda value, **changes: value.__replace__(**changes))  # Python 3.13 has it
    assert copied(region, base=1 << 32) == region.replace(base=1 << 32)
    assert copied(options, ksm=True) == options.replace(ksm=True) == BackingOptions(mlock=True, ksm=True)
    with pytest.raises(TypeError):
        copied(region, colour="red")


# What a type has no use for is refused, at construction and in `replace`.

USELESS: dict[str, tuple[type[InvalidArgument], dict[str, dict[str, Any]]]] = {
    "source": (
        InvalidMemorySourceType,
        {name: {"mem_type": name} for name in SOURCES}
        | {"path": {"mem_file_path": "/dev/hugepages/file"}, "offset": {"file_offset": PAGE}, "file": {"file": 0}},
    ),
    "options": (
        InvalidArgument,
        {
            "protection": {"prot_flags": "r--"},
            "flags": {"perm_flags": MAP_SHARED | MAP_ANONYMOUS},
            "populated": {"perm_flags": PRIVATE | MAP_POPULATE},
            "node": {"host_numa_node_id": 0},
            "reserved": {"backing": BackingOptions(reserve=True)},
            "locked": {"backing": BackingOptions(mlock=True)},
            "merged": {"is_mergeable": True},
        },
    ),
}


@pytest.mark.parametrize("region_type", ["device", "dax"])
@pytest.mark.parametrize(
    ("error", "arguments"),
    [pytest.param(error, arguments, id=name) for error, table in USELESS.values() for name, arguments in table.items()],
)
def test_a_type_takes_only_what_has_an_effect(
    region_type: str, error: type[InvalidArgument], arguments: dict[str, Any]
) -> None:
    if region_type == "dax" and arguments.get("mem_type") in ("mmap", "anon"):
        assert AddressSpaceRegion("dax", 0, PAGE, **arguments).mem_type is MemorySourceType.MMAP_ANONYMOUS
        return
    with pytest.raises(error, match=r"leave .* out"):
        AddressSpaceRegion(region_type, 0, PAGE, **arguments)
    with pytest.raises(error, match=r"leave .* out"):
        AddressSpaceRegion(region_type, 0, PAGE).replace(**arguments)
    with tempfile.TemporaryFile() as file:
        source: dict[str, Any] = {"file": file} if arguments.keys() & {"file", "file_offset"} else {}
        source |= {"mem_type": "hugetlbfs"} if "mem_file_path" in arguments else {}
        assert AddressSpaceRegion("ram", 0, PAGE, **arguments | source)


@pytest.mark.parametrize(
    "changes",
    [
        {"host_numa_node_id": 0},
        {"is_mergeable": True},
        {"perm_flags": MAP_PRIVATE},
        {"perm_flags": MAP_SHARED | MAP_POPULATE},
    ],
)
def test_what_a_buffer_can_not_have_is_refused(changes: dict[str, Any]) -> None:
    region = AddressSpaceRegion.from_buffer(0, bytearray(PAGE))
    with pytest.raises(InvalidArgument, match="mapped already"):
        region.replace(**changes)
    assert region.replace(prot_flags="r--").prot_flags == Prot.READ


@pytest.mark.parametrize("region_type", ["device", "dax"])
def test_memory_of_someone_else_is_ram_or_firmware(region_type: str) -> None:
    buffer = AddressSpaceRegion.from_buffer(1 << 45, bytearray(1 << 20))
    assert buffer.replace(region_type="firmware").region_type is AddressSpaceRegionType.FIRMWARE_MEMORY
    with pytest.raises(InvalidMemorySourceType):
        buffer.replace(region_type=region_type)
    with tempfile.TemporaryFile() as file, pytest.raises(InvalidMemorySourceType):
        AddressSpaceRegion.from_file(0, PAGE, file).replace(region_type=region_type)
