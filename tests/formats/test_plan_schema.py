"""The JSON of plans is as its published schema says."""

import json
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import (
    AddressSpaceBuilder,
    AddressSpacePlan,
    BackingOptions,
    Hotplug,
    InvalidPlan,
    Machine,
    NumaPolicy,
    NumaRegionInfo,
)
from dbs_address_space.formats import plan as plan_json
from json_schema import complaints
from memory_helpers import GIB

SCHEMA = json.loads((Path(plan_json.__file__).parent / "plan.schema.json").read_text())
ZONES = [
    NumaRegionInfo("2GiB", 0, 0, [0, 1], mem_type="hugeshmem", page_size="1GiB", policy="bind", prefault=True),
    NumaRegionInfo("1GiB", 1, 1, file="/ram", shared=False, hotplug_size="1GiB", name="slow"),
    NumaRegionInfo("1GiB", mem_type="hugetlbfs", mem_file_path="/huge", policy=NumaPolicy("interleave", "0-1")),
    NumaRegionInfo(0, None, 2, [2], generic_initiators=["0000:01:00.0"]),
]
PLANS = {
    "small": AddressSpaceBuilder(numa_regions=["1GiB"]),
    "zones": AddressSpaceBuilder("q35", numa_regions=ZONES, firmware=True, dax_window="1GiB", hotplug=Hotplug("16GiB")),
    "placed": AddressSpaceBuilder("virt", numa_regions=["1GiB"], dax_window=(1 << 39, GIB), mem_prealloc=True),
    "amd": AddressSpaceBuilder("pc", phys_bits=48, numa_regions=["1000GiB"], amd_1tb_relocation=True),
    "wrong": AddressSpaceBuilder("microvm", numa_regions=["4095KiB"], hotplug=Hotplug("1MiB")),
    "own": AddressSpaceBuilder(
        Machine("m", mem_start=0, mem_end=GIB, phys_bits=36, reserved=[(GIB, 4096, "nvs")], firmware=(2 * GIB, 4096)),
        numa_regions=["1MiB"],
        backing=BackingOptions(policy="preferred", dontdump=True),
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_is_as_the_schema_says(name: str) -> None:
    plan = PLANS[name].plan()
    content = json.loads(plan.to_json())
    assert complaints(content, SCHEMA, SCHEMA) == []
    assert bool(plan.problems) == (name == "wrong")
    assert content.keys() == SCHEMA["properties"].keys()
    assert content["builder"].keys() == SCHEMA["$defs"]["builder"]["properties"].keys()
    for region in content["regions"]:
        assert region.keys() == SCHEMA["$defs"]["region"]["properties"].keys() | {"base", "size"}


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"regions": [{"name": "ram0"}]},
        {"numa_nodes": {"0": {"regions": []}}},
        {"hotplug_window": {"base": -1, "size": 1}},
        {"builder": {}},
        {"problems": [1]},
        {"cost": {"size": "1GiB"}},
    ],
    ids=str,
)
def test_the_schema_and_the_reader_refuse_the_same(change: dict[str, Any]) -> None:
    content = {**json.loads(PLANS["zones"].plan().to_json()), **change}
    assert complaints(content, SCHEMA, SCHEMA)
    if change.keys() & {"version", "regions", "builder"}:
        with pytest.raises(InvalidPlan):
            AddressSpacePlan.from_json(json.dumps(content))
