"""Maps and memory in a format are read back the same, whatever the regions and the bytes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion, FormatError, dump, load
from dbs_address_space.formats import map_json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_schema import complaints
from memory_helpers import PAGE

LAYOUT = AddressSpaceLayout(1 << 46, 0, 1 << 45, mmio_windows=[(0xC000_0000, "1GiB")])
TRIES = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SCHEMA = json.loads((Path(map_json.__file__).parent / "map.schema.json").read_text())
PROTECTIONS = {"ram": ["rw-", "r--", "---"], "firmware": ["rw-", "r-x"]}


@st.composite
def spaces(draw: st.DrawFn, kinds: tuple[str, ...] = ("ram", "firmware")) -> AddressSpace:
    """A few regions, some of which touch."""
    regions, base = [], 0
    for number in range(draw(st.integers(1, 6))):
        base += draw(st.sampled_from([0, PAGE, 1 << 21, 1 << 32]))
        size = draw(st.integers(1, 8)) * PAGE
        kind = draw(st.sampled_from(kinds))
        options: dict[str, Any] = {"name": draw(st.sampled_from([None, f"region {number}", f"ü{number}"]))}
        if kind in PROTECTIONS:
            options["prot_flags"] = draw(st.sampled_from(PROTECTIONS[kind]))
        if kind == "ram":
            options["mem_type"] = draw(st.sampled_from([None, "mmap", "shmem"]))
            options["is_hotplug"] = draw(st.booleans())
            options["host_numa_node_id"] = draw(st.sampled_from([None, 0]))
        if 0xC000_0000 <= base < 1 << 32 and kind == "ram":
            base = 1 << 32
        if kind in ("device", "dax"):
            base = max(base, 1 << 45)
        elif base >= 1 << 45:
            break
        regions.append(AddressSpaceRegion(kind, base, size, **options))
        base += size
    return AddressSpace.from_regions(regions, LAYOUT)


def filled(space: AddressSpace, data: Callable[[int], bytes]) -> AddressSpace:
    """With bytes in every page that `data` has some for."""
    memory = space.map_memory()
    for region in memory.regions:
        for address in range(region.base, region.end, PAGE):
            memory.write(address, data(address), force=True)
    return space


def readable(space: AddressSpace) -> dict[int, bytes]:
    """Each page that can be read."""
    regions = [region for region in space.memory.regions if region.prot_flags & 1]
    pages = (address for region in regions for address in range(region.base, region.end, PAGE))
    return {address: space.memory.read(address, PAGE) for address in pages}


@pytest.mark.parametrize("format_", ["elf", "lime"])
@given(space=spaces(), seed=st.integers(0, 2**32))
@TRIES
def test_memory_comes_back(tmp_path: Path, format_: str, space: AddressSpace, seed: int) -> None:
    """Exactly the pages that can be read; an ELF file knows of the others, too."""
    filled(space, lambda address: b"" if (address + seed) % 3 == 0 else f"{address} {seed}".encode())
    path = tmp_path / "guest"
    dump(space, path, format=format_)
    there = readable(space)
    if not there and format_ == "lime":
        return
    again = load(path)
    assert readable(again) == there
    if format_ == "elf":
        kept = [AddressSpaceRegion("ram", region.base, region.size) for region in space.regions]
        assert again.ranges("ram") == AddressSpace.from_regions(kept, LAYOUT).ranges("ram")


@given(space=spaces(("ram", "firmware", "device", "dax")))
@TRIES
def test_a_map_comes_back_as_json(tmp_path: Path, space: AddressSpace) -> None:
    path = tmp_path / "map.json"
    dump(space, path)
    assert complaints(json.loads(path.read_text()), SCHEMA, SCHEMA) == []
    assert load(path).snapshot() == space.snapshot()


def test_reserved_ranges_come_back_as_json(tmp_path: Path) -> None:
    reserved = [(0x1000, 0x1000, "nvs"), (0x4000, 0x2000, "reserved"), (0x8000, 0x1000, "persistent")]
    space = AddressSpace(AddressSpaceLayout(1 << 40, 0, 1 << 39, mmio_windows=[(1 << 30, PAGE)], reserved=reserved))
    path = tmp_path / "map.json"
    dump(space, path)
    assert complaints(json.loads(path.read_text()), SCHEMA, SCHEMA) == []
    assert load(path).layout == space.layout


MAP = {
    "format": "dbs-address-space/map",
    "version": 1,
    "layout": {"mem_start": 0, "mem_end": "0x10000", "phys_end": "0x20000", "later": True},
    "regions": [{"region_type": "ram", "base": 0x1000, "end": "0x2000", "later": None}],
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "version 2"),
        ({"layout": {"mem_start": "0x0"}}, "phys_end' is missing"),
        ({"regions": [{"region_type": "ram", "base": "0x0"}]}, r"regions\[0\]: 'end' is missing"),
        ({"regions": [{"region_type": "rom", "base": "0x0", "end": "0x1000"}]}, r"regions\[0\]: .*rom"),
        ({"regions": [{"region_type": "ram", "base": [], "end": "0x1000"}]}, r"regions\[0\]"),
        ({"regions": 7}, "the map: "),
        ({"regions": [{"region_type": "ram", "base": 0, "end": 4096}] * 2}, "overlap"),
    ],
    ids=range(7),
)
def test_a_wrong_map_is_refused(change: dict[str, Any], reason: str) -> None:
    assert load(json.dumps(MAP).encode()).ram_size == PAGE, (
        "addresses may be ints, and keys that are not known are passed over"
    )
    with pytest.raises(FormatError, match=reason):
        load(json.dumps({**MAP, **change}).encode())


def test_the_schema_refuses_what_the_reader_refuses() -> None:
    assert complaints(MAP, SCHEMA, SCHEMA) == []
    region = {"region_type": "ram", "base": "0x0", "end": "0x1000"}
    wrong: list[dict[str, Any]] = [
        {"version": 2}, {"layout": {}}, {"regions": [{**region, "region_type": "rom"}]}, {"regions": [{**region, "base": -1}]},
        {"regions": [{**region, "end": "1000"}]}, {"regions": [{**region, "prot": "rwx-"}]}, {"regions": [{**region, "name": 7}]},
    ]  # fmt: skip
    found = [complaints({**MAP, **change}, SCHEMA, SCHEMA) for change in wrong]
    assert all(found), found


def test_json_that_is_cut_says_where() -> None:
    with pytest.raises(FormatError, match="not JSON") as raised:
        load(json.dumps(MAP, indent=1)[:-2].encode())
    assert raised.value.line == len(json.dumps(MAP, indent=1)[:-2].splitlines())


@given(space=spaces(("ram",)))
@TRIES
def test_raw_memory_has_zeroes_where_there_is_none(tmp_path: Path, space: AddressSpace) -> None:
    ends = [region.end for region in space.regions]
    readable_regions = [region.replace(prot_flags="rw-") for region in space.regions]
    there = filled(AddressSpace.from_regions(readable_regions, LAYOUT), lambda address: str(address).encode())
    path = tmp_path / "guest.raw"
    dump(there, path)
    memory = load(path, format="raw").memory
    assert sum(region.size for region in memory.regions) == max(ends)
    assert all(memory.read(address, PAGE) == page for address, page in readable(there).items())
