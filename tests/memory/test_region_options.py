"""Every option of a region does something to it or is refused by name: each of the signatures, by type and source."""

import fcntl
import inspect
import itertools
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import pytest
from dbs_address_space import (
    MAP_ANONYMOUS,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    AddressSpace,
    AddressSpaceError,
    AddressSpaceLayout,
    AddressSpaceRegion,
    BackingOptions,
    InvalidArgument,
    NumaPolicy,
)
from kernel_view import maps
from memory_helpers import GIB, MIB, unnamed_file

SIZE = 2 * MIB
LAYOUT = AddressSpaceLayout(1 << 46, 0, 1 << 45)
DATA = unnamed_file(2 * SIZE)

SOURCES: dict[str, dict[str, Any]] = {
    "default": {},
    "shmem": {"mem_type": "shmem"},
    "mmap": {"mem_type": "mmap"},
    "anonymous": {"perm_flags": MAP_PRIVATE | MAP_ANONYMOUS},
    "hugeshmem": {"mem_type": "hugeshmem"},
    "hugemmap": {"mem_type": "hugemmap"},
    "hugetlbfs": {"mem_type": "hugetlbfs", "mem_file_path": "/nowhere/file"},
    "file": {"file": DATA},
    "private file": {"file": DATA, "perm_flags": MAP_PRIVATE},
    "buffer": {},
}
HUGE = {"hugeshmem", "hugemmap", "hugetlbfs"}
MEMFD = {"default", "shmem", "hugeshmem"}
PRIVATE = {"mmap", "anonymous", "private file"}
EVERY = set(SOURCES)
ALL = EVERY - {"buffer"}
BASES = {"ram": 0, "firmware": 0, "dax": 1 << 45, "device": 1 << 45}


class Option(NamedTuple):
    """Values for an option, the sources of RAM and firmware that it does something to, and the other types that it does."""

    value: Callable[[str], Any]
    sources: set[str]
    types: set[str]
    """Beside RAM and firmware."""


def always(value: Any, sources: set[str] | None = None, types: set[str] | None = None) -> Option:
    return Option(lambda _: value, ALL if sources is None else sources, types or set())


ARGUMENTS: dict[str, Option] = {
    "name": always("name", EVERY, {"dax", "device"}),
    "host_numa_node_id": always(0),
    "mem_type": Option(lambda source: "mmap" if source in MEMFD else "shmem", ALL - {"file", "private file"}, {"dax"}),
    "mem_file_path": always(f"/proc/self/fd/{DATA}", {"default", "hugetlbfs"}),
    "file": always(DATA, {"default"}),
    "file_offset": always(SIZE, {"file", "private file", "hugetlbfs"}),
    "perm_flags": Option(lambda source: SOURCES[source].get("perm_flags", MAP_SHARED) | MAP_POPULATE, ALL, set()),
    "prot_flags": always("r--", EVERY),
    "page_size": always("1GiB", HUGE),
    "is_hugepage": Option(lambda source: source not in HUGE, ALL, set()),
    "is_hotplug": always(value=True, sources=EVERY, types={"dax", "device"}),
    "is_anonpage": Option(lambda source: source not in ("mmap", "hugemmap"), EVERY, {"dax", "device"}),
    "is_mergeable": always(value=True),
}
BACKING: dict[str, Option] = {
    "page_size": always("1GiB", HUGE),
    "alignment": always(GIB, ALL, {"dax"}),
    "max_size": always(2 * SIZE, ALL - {"hugetlbfs", "file", "private file"}),
    "reserve": always(value=False),
    "transparent_hugepage": always(value=True, sources=ALL - HUGE),
    "ksm": always(value=True),
    "dontdump": always(value=True),
    "dontfork": always(value=True),
    "mlock": always(value=True),
    "guard_pages": always(value=True, types={"dax"}),
    "may_block": always(value=True, sources=ALL | {"buffer"}, types={"dax"}),
    "trusted": always(value=True, sources={"file", "private file", "buffer"}),
    "seals": always((), MEMFD),
    "policy": always(NumaPolicy("bind", "0")),
}


def names(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters) - {"region_type", "base", "size"}


def test_every_option_has_a_row() -> None:
    assert names(AddressSpaceRegion) == ARGUMENTS.keys() | {"backing"}
    assert names(BackingOptions) == BACKING.keys()
    for made in (
        "create_default_memory_region",
        "create_memory_region",
        "create_firmware_region",
        "from_file",
        "from_buffer",
    ):
        aliases = {"numa_node_id", "mem_prealloc", "offset", "shared", "buffer", "trusted"}
        assert names(getattr(AddressSpaceRegion, made)) <= ARGUMENTS.keys() | aliases


LIKE = {("firmware", "default"): "anonymous", ("firmware", "file"): "private file"}
"""Firmware is private to the guest, when nothing else is said."""

CONTRADICTIONS = {
    ("mem_type", "hugetlbfs"),
    ("mem_type", "anonymous"),
    *(("file", source) for source in ("file", "private file", "anonymous")),
    ("mem_file_path", "anonymous"),
}
"""Options that replace the source which the cell is about."""

CELLS = [
    (region_type, source, table, name)
    for region_type, source in itertools.product(("ram", "firmware", "dax", "device"), SOURCES)
    for table, options in (("argument", ARGUMENTS), ("backing", BACKING))
    for name in options
    if region_type in ("ram", "firmware") or source == "default"
    if (name, LIKE.get((region_type, source), source)) not in CONTRADICTIONS
]


def build(region_type: str, source: str, **options: Any) -> AddressSpaceRegion:
    base = BASES[region_type]
    if source == "buffer":
        return AddressSpaceRegion.from_buffer(base, bytearray(SIZE)).replace(region_type=region_type, **options)
    return AddressSpaceRegion(region_type, base, SIZE, **SOURCES[source] | options)


@pytest.mark.parametrize(
    ("region_type", "source", "table", "name"), CELLS, ids=lambda value: str(value).replace(" ", "-")
)
def test_an_option_does_something_or_is_refused_by_name(region_type: str, source: str, table: str, name: str) -> None:
    like = LIKE.get((region_type, source), source)
    option = (ARGUMENTS if table == "argument" else BACKING)[name]
    value = option.value(like)
    given = {name: value} if table == "argument" else {"backing": BackingOptions(**{name: value})}
    does = like in option.sources if region_type in ("ram", "firmware") else region_type in option.types
    if not does:
        said = rf"{name}=" if table == "argument" else rf"{name}=|backing="
        with pytest.raises(InvalidArgument, match=said):
            build(region_type, source, **given)
        return
    plain, region = build(region_type, source), build(region_type, source, **given)
    assert region != plain
    assert region.replace() == region
    shown = getattr(region if table == "argument" else region.backing, name)
    assert shown is not None
    is_hint = (
        name in HINTS
        or (name in MERGING and like not in PRIVATE)
        or not DETAILS.isdisjoint({(region_type, name), (like, name)})
    )
    if region_type != "device" and source not in HUGE and not is_hint:
        assert evidence(region) != evidence(plain)


DETAILS = {("dax", "mem_type"), ("dax", "may_block"), ("buffer", "may_block"), ("buffer", "trusted")}
"""Options that only the time of an access shows, the one memory that a window can have, and trust in bytes that need none."""
HINTS = {"is_hotplug", "is_anonpage"}
"""Options that only the region itself shows, to whoever builds tables and devices from it."""
MERGING = {"is_mergeable", "ksm"}
"""Such a hint, too, for memory that is not private: the kernel merges no other."""


def grows(space: AddressSpace, region: AddressSpaceRegion) -> bool:
    """Whether the region has room for more in its own memory."""
    with suppress(AddressSpaceError):
        return len(space.grow_region(region.base, 2 * SIZE)) == 1
    return False


def seals_of(fd: int) -> int | None:
    """The seals of a memfd; an ordinary file has none."""
    with suppress(OSError):
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    return None


def evidence(region: AddressSpaceRegion) -> dict[str, Any]:
    """All that the kernel and this package show of a mapped region."""
    space = AddressSpace.from_regions([region], LAYOUT)
    with space.map_memory() as memory:
        mapping, state = memory.mapping(region.base), memory.effective()[0]
        host, fd = mapping.host_address, mapping.fd
        lines = [line for line in maps() if int(line.split("-", 1)[0], 16) == host]
        return {
            "name": region.name and region.name in repr(mapping),
            "offset": mapping.file_offset,
            "is a file": (fd is None, region.file is None),
            "protection": str(mapping.prot_flags),
            "line": [line.split()[1] for line in lines],
            "flags": state.flags,
            "resident": state.resident,
            "locked": state.locked,
            "through the kernel": mapping.guarded,
            "policy": state.policy,
            "seals": None if fd is None or region.file else seals_of(fd),
            "aligned": region.backing.alignment and host % region.backing.alignment == 0,
            "grows": grows(space, region),
            "guarded": any(line.split()[0].endswith(f"-{host:x}") and "---p" in line for line in maps()),
        }
