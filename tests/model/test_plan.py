"""Plans: the original's splits and their borders, problems all at once, values that travel, properties of any plan."""

import copy
import json
import pickle
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from dbs_address_space import (
    AddressSpaceBuilder,
    AddressSpaceLayout,
    AddressSpacePlan,
    AddressSpaceRegion,
    AddressSpaceRegionType,
    BackingOptions,
    Hotplug,
    InvalidAddressRange,
    InvalidArgument,
    InvalidMemorySourceType,
    InvalidPlan,
    LayoutViolation,
    Machine,
    NumaNode,
    NumaNodeInfo,
    NumaPolicy,
    NumaRegionInfo,
    PlanCost,
)
from hypothesis import given, settings
from hypothesis import strategies as st

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
LOW, HIGH = (0, 3 * GIB), 4 * GIB


def plan(*sizes: int | str | NumaRegionInfo, machine: str | Machine = "dragonball", **options: Any) -> AddressSpacePlan:
    return AddressSpaceBuilder(machine, numa_regions=sizes, **options).plan()


def ranges(plan: AddressSpacePlan) -> list[tuple[int, int]]:
    return [(region.base, region.size) for region in plan.regions]


def with_vcpus(*infos: tuple[int, list[int]]) -> list[NumaRegionInfo]:
    return [NumaRegionInfo(size * MIB, None, node, vcpus) for node, (size, vcpus) in enumerate(infos)]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([128], [(0, 0x800_0000)]),
        ([3072], [LOW]),
        ([4096], [LOW, (HIGH, GIB)]),
        ([3072, 1024], [LOW, (HIGH, GIB)]),
        ([2944, 1024], [(0, 0xB800_0000), (0xB800_0000, 0x800_0000), (HIGH, 0x3800_0000)]),
        ([2945, 1024], [(0, 0xB810_0000), (HIGH, GIB)]),
        ([2945, 127], [(0, 0xB810_0000), (0xB810_0000, 127 * MIB)]),
        ([2945, 128], [(0, 0xB810_0000), (HIGH, 128 * MIB)]),
        ([3071, 1], [(0, 0xBFF0_0000), (0xBFF0_0000, MIB)]),
        ([3071, 2], [(0, 0xBFF0_0000), (HIGH, 2 * MIB)]),
        ([1, 1], [(0, MIB), (MIB, MIB)]),
    ],
)
def test_the_originals_splits(sizes: list[int], expected: list[tuple[int, int]]) -> None:
    made = plan(*(size * MIB for size in sizes))
    assert ranges(made) == expected
    assert made.problems == ()
    assert made.layout == AddressSpaceLayout(1 << 46, 0, 1 << 45, mmio_windows=[(3 * GIB, GIB)])


def test_aarch64_is_never_split() -> None:
    made = plan("4GiB", "986GiB", arch="aarch64")
    assert ranges(made) == [(2 * GIB, 4 * GIB), (6 * GIB, 986 * GIB)]
    assert made.problems == ()
    assert (made.layout.mem_start, made.layout.mem_end, made.layout.phys_end) == (2 * GIB, 0xF8_0000_0000, 1 << 40)
    assert "mem_end" in plan("4GiB", "987GiB", arch="aarch64").problems[0]


def test_firmware_is_the_originals() -> None:
    made = plan("16MiB", firmware=True)
    firmware = made.regions[-1]
    assert (firmware.base, firmware.size, int(firmware.perm_flags), int(firmware.prot_flags)) == (
        0xFF00_0000,
        16 * MIB,
        0x22,
        3,
    )
    assert made.build().last_addr == 0xFFFF_FFFF


@pytest.mark.parametrize(
    ("infos", "vcpus"),
    [
        (with_vcpus((4096, [0, 1])), {0: (0, 1)}),
        (with_vcpus((3072, [0, 1]), (1024, [2, 3])), {0: (0, 1), 1: (2, 3)}),
        (with_vcpus((2944, [0, 1]), (1024, [2, 3])), {0: (0, 1), 1: (2, 3)}),
        ([NumaRegionInfo("1MiB", None, 5, [7]), NumaRegionInfo("1MiB", None, 5, [8])], {5: (7, 8)}),
    ],
)
def test_vcpus_are_in_their_node(infos: list[NumaRegionInfo], vcpus: dict[int, tuple[int, ...]]) -> None:
    made = plan(*infos)
    assert {node: entry.vcpu_ids for node, entry in made.numa_nodes.items()} == vcpus
    assert made.problems == ()


def test_nodes_have_the_memory_of_their_regions() -> None:
    made = plan(NumaRegionInfo("2944MiB"), NumaRegionInfo("1GiB", host_numa_node_id=0, guest_numa_node_id=1))
    second = [NumaNodeInfo(0xB800_0000, 128 * MIB), NumaNodeInfo(HIGH, 0x3800_0000)]
    assert made.numa_nodes == {0: NumaNode([NumaNodeInfo(0, 2944 * MIB)]), 1: NumaNode(second)}
    assert [region.host_numa_node_id for region in made.regions] == [None, 0, 0]
    assert [region.name for region in made.regions] == ["ram0", "ram1", "ram2"]
    assert "below the hole" in made.reasons[1]
    assert "the rest" in made.reasons[2]


def test_costs() -> None:
    options = BackingOptions(page_size="1GiB")
    cost = plan(
        NumaRegionInfo("4GiB", 3), "2GiB", mem_type="hugeshmem", backing=options, firmware=True, mem_prealloc=True
    ).cost
    assert cost.pages == {GIB: 6, 4096: 4096}
    assert cost.nodes == {3: 4 * GIB, None: 2 * GIB + 16 * MIB}
    assert (cost.size, cost.preallocated) == (6 * GIB + 16 * MIB, 6 * GIB)


def test_a_huge_source_is_planned_with_pages_of_2_mib() -> None:
    made = plan("64MiB", mem_type="hugemmap")
    assert made.regions[0].page_size == 2 * MIB
    assert made.cost.pages == {2 * MIB: 32}


def test_a_vcpu_is_given_once() -> None:
    twice = plan(NumaRegionInfo(MIB, vcpu_ids=[0, 1, 0]))
    assert twice.problems == ("vCPU 0 is twice in the guest node 0",)
    parts = [NumaRegionInfo(MIB, vcpu_ids=[0, 1]), NumaRegionInfo(MIB, vcpu_ids=[1])]
    assert plan(*parts).problems == ("vCPU 1 is twice in the guest node 0",)


def test_every_problem_is_found_at_once() -> None:
    infos = [NumaRegionInfo(MIB, vcpu_ids=[0, 300]), NumaRegionInfo(MIB + 1, guest_numa_node_id=1, vcpu_ids=[0])]
    made = plan(*infos, machine="pc", mem_type="hugetlbfs", hotplug=Hotplug("1MiB", 1000), dax_window=5)
    for expected in [
        "mem_file_path",
        "numa_regions[0]",
        "numa_regions[1]",
        "vCPU 0",
        "vCPU 300",
        "dax_window",
        "slots",
        "max_memory",
    ]:
        assert [problem for problem in made.problems if expected in problem], expected
    with pytest.raises(InvalidPlan, match="vCPU 300") as raised:
        made.build()
    assert raised.value.problems == made.problems
    assert pickle.loads(pickle.dumps(raised.value)).problems == made.problems


@pytest.mark.parametrize(
    ("sizes", "options", "expected"),
    [
        ([], {}, "empty"),
        ([32 * TIB], {}, "mem_end"),
        ([(1 << 64) - 4096, (1 << 64) - 4096], {}, r"2\^64"),
        ([(1 << 64) - 4096], {}, "mem_end"),
        (["1GiB"], {"dax_window": 64 * TIB}, "dax_window"),
        ([1 << 52], {"machine": "q35", "phys_bits": 52}, "no machine has more phys_bits: ask for less"),
        ([1 << 52], {"machine": "virt", "phys_bits": 52}, "no machine has more addresses: ask for less"),
        (["1GiB"], {"hotplug": Hotplug("1GiB")}, "max_memory"),
        (["1GiB"], {"hotplug": Hotplug("64TiB")}, "do not fit"),
        (["1GiB"], {"hotplug": Hotplug("2GiB", 1), "machine": "microvm"}, "'microvm' has no DIMM slots"),
        (["1GiB"], {"hotplug": Hotplug("2GiB", 257), "machine": "q35"}, "it needs 1 to 256"),
        (["1GiB"], {"arch": "aarch64", "firmware": True}, "firmware"),
        ([MIB + 1], {}, "page size"),
        (["1GiB"], {"backing": BackingOptions(page_size="2MiB")}, "page_size"),
        (["1GiB"], {"mem_type": "mmap", "backing": BackingOptions(seals=())}, "seals"),
    ],
)
def test_what_is_wrong_is_a_problem(sizes: list[int | str], options: dict[str, Any], expected: str) -> None:
    made = plan(*sizes, **options)
    with pytest.raises(InvalidPlan, match=expected):
        made.build()


@pytest.mark.parametrize(
    ("call", "error", "expected"),
    [
        (lambda: NumaRegionInfo(0), InvalidAddressRange, "above 0; a guest node without memory"),
        (lambda: NumaRegionInfo(6144), InvalidAddressRange, "did you mean '6144MiB'"),
        (lambda: NumaRegionInfo(1 << 64), InvalidAddressRange, "0x10000000000000000 is out of range"),
        (lambda: NumaRegionInfo(-1), InvalidAddressRange, "-0x1 is out of range"),
        (lambda: Machine.named("bochs"), InvalidArgument, "unknown machine"),
        (lambda: Machine.named("virt", arch="x86_64"), InvalidArgument, "is aarch64"),
        (lambda: Machine.named("pc", arch="mips"), InvalidArgument, "architecture"),
        (lambda: Machine.named("pc", phys_bits=64), InvalidAddressRange, "phys_bits"),
        (lambda: Machine.named("dragonball", arch="aarch64", phys_bits=35), InvalidAddressRange, "too few"),
        (lambda: Machine("", mem_start=0, mem_end=1, phys_bits=40), InvalidArgument, "name"),
        (lambda: Machine("x", mem_start=2, mem_end=1, phys_bits=40), InvalidAddressRange, "mem_start"),
        (lambda: Machine("x", mem_start=0, mem_end=1 << 41, phys_bits=40), InvalidAddressRange, "mem_end"),
        (
            lambda: Machine("x", mem_start=0, mem_end=1, phys_bits=40, reserved=[(1 << 40, 1)]),
            InvalidAddressRange,
            "phys_end",
        ),
        (lambda: Machine("x", mem_start=0, mem_end=GIB, phys_bits=40, split_end=1), InvalidAddressRange, "split_end"),
        (lambda: plan("1GiB", machine=Machine.named("pc"), phys_bits=40), InvalidArgument, "has its own"),
        (lambda: BackingOptions(page_size=3), InvalidAddressRange, "power of two"),
        (lambda: BackingOptions(seals=["write"]), InvalidArgument, "unknown seal"),
        (lambda: BackingOptions(policy="local"), InvalidArgument, "unknown NUMA policy"),
        (lambda: NumaPolicy("preferred", [0, 1]), InvalidArgument, "preferred-many"),
        (lambda: NumaPolicy("default", "0"), InvalidArgument, "no nodes"),
        (lambda: NumaPolicy("bind", "0-"), InvalidArgument, "list of NUMA nodes"),
    ],
)
def test_wrong_values_are_refused_at_once(call: Any, error: type[Exception], expected: str) -> None:
    with pytest.raises(error, match=expected) as refused:
        call()
    assert type(refused.value) is error


def test_an_unknown_source_is_refused_at_once() -> None:
    with pytest.raises(InvalidMemorySourceType):
        plan("1GiB", mem_type="SHMEM")


def test_what_overlaps_firmware_is_a_problem_or_lies_elsewhere() -> None:
    mine = {"mem_start": 0, "mem_end": 8 * GIB, "phys_bits": 34}
    low, high = (Machine("mine", **mine, firmware=(base, MIB)) for base in (4 * GIB, 8 * GIB))  # type: ignore[arg-type]
    in_window = plan("1GiB", machine=low, firmware=True, hotplug=Hotplug("4GiB", slots=1))
    assert ["hotplug" in problem for problem in in_window.problems] == [True]
    *_, firmware, dax = plan("1GiB", machine=high, firmware=True, dax_window="1GiB").regions
    assert (firmware.end, dax.base) == (8 * GIB + MIB, 8 * GIB + 2 * MIB)


def test_a_machine_of_your_own() -> None:
    hyper_transport = (0xFD_0000_0000, 0x3_0000_0000)
    machine = Machine(
        "amd",
        mem_start=MIB,
        mem_end=1 << 46,
        phys_bits=47,
        mmio_windows=[(2 * GIB, 2 * GIB)],
        reserved=[hyper_transport],
        min_split=0,
    )
    made = plan("2TiB", machine=machine)
    assert ranges(made) == [
        (MIB, 2 * GIB - MIB),
        (4 * GIB, 0xFD_0000_0000 - 4 * GIB),
        (1 << 40, 2 * TIB - (0xFD_0000_0000 - 2 * GIB) + MIB),
    ]
    assert made.cost.size == 2 * TIB
    assert made.layout.reserved == machine.reserved == ((*hyper_transport, "reserved"),)


def test_reserved_ranges_stay_reserved_in_the_space() -> None:
    kept = [(2 * GIB, GIB, "persistent"), (GIB, GIB // 2, "reserved")]
    machine = Machine("mine", mem_start=0, mem_end=4 * GIB, phys_bits=40, min_split=0, reserved=kept)
    made = plan("1GiB", machine=machine, hotplug=Hotplug("2GiB", slots=1))
    (problem,) = made.problems
    assert "hotplug: 1 GiB and 1 slots do not fit below mem_end 0x1_0000_0000" in problem
    assert problem.endswith("use a Machine with more phys_bits or a higher mem_end")
    space = plan("1GiB", machine=machine).build()
    assert space.layout.reserved == ((GIB, GIB // 2, "reserved"), (2 * GIB, GIB, "persistent"))
    assert [space.find_free(size) for size in (GIB // 2, GIB)] == [GIB + GIB // 2, 3 * GIB]
    with pytest.raises(LayoutViolation, match="reserved for ever"):
        space.insert_region(AddressSpaceRegion("ram", GIB, GIB))
    space.insert_region(AddressSpaceRegion("dax", 2 * GIB, GIB))


@pytest.mark.parametrize("machine", ["dragonball", "microvm", "virt"])
def test_relocation_is_for_machines_with_a_pci_hole(machine: str) -> None:
    assert "has no 64-bit PCI hole" in plan("1GiB", machine=machine, amd_1tb_relocation=True).problems[0]
    reserved = Machine("mine", mem_start=0, mem_end=GIB, phys_bits=41, pci_hole64_size=GIB, reserved=[(1 << 39, TIB)])
    assert "overlap" in plan("1GiB", machine=reserved, amd_1tb_relocation=True).problems[0]


def values() -> list[object]:
    machine = Machine(
        "mine",
        mem_start=0,
        mem_end=1 << 40,
        phys_bits=41,
        mmio_windows=[(GIB, GIB)],
        firmware=(GIB, "1MiB"),
        pci_hole64_size="8GiB",
        arch="aarch64",
        max_slots=3,
        reserved=[(1 << 40, GIB), (3 << 39, GIB, "nvs")],
    )
    info = NumaRegionInfo("1GiB", 0, 1, [2, 3])
    options = BackingOptions(
        alignment="2MiB", seals=["seal", "grow"], policy=NumaPolicy("interleave", "0-1", strict=True), mlock=False
    )
    builder = AddressSpaceBuilder(
        machine, numa_regions=[info], mem_type="hugetlbfs", mem_file_path="/mnt/x", firmware=True, backing=options
    )
    return [machine, info, options, options.policy, Hotplug("2GiB", 3), builder, builder.plan()]


@pytest.mark.parametrize("index", range(7))
def test_values_compare_hash_copy_and_pickle(index: int) -> None:
    value, other = values()[index], values()[index]
    assert value == other
    assert hash(value) == hash(other)
    assert value != values()[index - 1]
    assert repr(value).startswith(type(value).__name__)
    for again in [pickle.loads(pickle.dumps(value)), copy.deepcopy(value)]:
        assert again == value
        assert repr(again) == repr(value)


def test_a_plan_travels_as_json() -> None:
    made = values()[-1]
    assert isinstance(made, AddressSpacePlan)
    again = AddressSpacePlan.from_json(made.to_json())
    assert again == made
    assert again.regions == made.regions
    assert str(again) == str(made)
    assert made.diff(again) == {}


def big_plan(**options: Any) -> AddressSpacePlan:
    """A plan that has everything."""
    machine = Machine(
        "mine", mem_start=0, mem_end=64 * GIB, phys_bits=40, firmware=(GIB, "1MiB"), reserved=[(TIB // 2, GIB, "nvs")]
    )
    infos = [NumaRegionInfo("1GiB", 0, 0, [0, 1, 2]), NumaRegionInfo("1GiB", None, 7)]
    given: dict[str, Any] = {"numa_regions": infos, "mem_type": "hugemmap", "mem_prealloc": True, "firmware": True}
    given |= {"hotplug": Hotplug("4GiB", slots=1), "backing": BackingOptions(policy="bind")}
    return AddressSpaceBuilder(machine, **{**given, **options}).plan()


def test_what_is_printed_is_the_whole_plan() -> None:
    assert (
        str(big_plan(numa_regions=["1GiB", "1536KiB"], firmware=False)).splitlines()[-1].startswith("problem: numa_reg")
    )
    of = "hugemmap, pages of 2 MiB, policy"
    assert str(big_plan()).splitlines() == [
        "machine 'mine': 40 bits, RAM below 0x10_0000_0000",
        "reserved: [0x80_0000_0000, 0x80_4000_0000) (nvs)",
        "guest node 0: 1 GiB, vCPUs 0-2",
        "guest node 7: 1 GiB, no vCPUs",
        f"'ram0' [0x0, 0x4000_0000) 1 GiB {of} bind:0, populated by build(): guest node 0: all of its 1 GiB",
        f"'ram1' [0x4000_0000, 0x8000_0000) 1 GiB {of} bind, populated by build(): guest node 7: all of its 1 GiB",
        "'firmware' [0x4000_0000, 0x4010_0000) 1 MiB mmap: where the machine starts to execute",
        "hotplug [0x8000_0000, 0x1_4000_0000) 3 GiB",
        "256 pages of 4 KiB",
        "1024 pages of 2 MiB",
        "1 GiB of host node 0",
        "problem: the firmware at [0x4000_0000, 0x4010_0000) overlaps 'ram1' [0x4000_0000, 0x8000_0000)",
    ]


def test_json_has_all_that_is_printed_under_keys() -> None:
    made = big_plan()
    content = json.loads(made.to_json())
    assert content["builder"]["numa_regions"][1]["guest_numa_node_id"] == 7
    assert content["builder"]["hotplug"] == {"max_memory": 4 * GIB, "slots": 1}
    assert content["builder"]["machine"]["firmware"] == {"base": GIB, "size": MIB}
    assert content["layout"]["mem_end"] == 64 * GIB
    assert content["layout"]["reserved"] == [{"base": TIB // 2, "size": GIB, "kind": "nvs"}]
    assert content["numa_nodes"]["7"] == {
        "regions": [{"base": GIB, "size": GIB}],
        "vcpu_ids": [],
        "hotplug": [],
        "generic_initiators": [],
    }
    ram, _, firmware = content["regions"]
    assert [ram[key] for key in ("name", "mem_type", "page_size", "prealloc")] == ["ram0", "hugemmap", 2 * MIB, True]
    assert (ram["host_numa_node_id"], ram["backing"]["policy"]["mode"], ram["reason"]) == (0, "bind", made.reasons[0])
    assert (firmware["region_type"], firmware["base"], firmware["prealloc"]) == ("firmware", GIB, False)
    assert content["hotplug_window"] == {"base": 2 * GIB, "size": 3 * GIB}
    assert content["cost"]["pages"] == [{"page_size": 4096, "count": 256}, {"page_size": 2 * MIB, "count": 1024}]
    assert content["cost"]["nodes"] == [
        {"host_numa_node_id": None, "size": GIB + MIB},
        {"host_numa_node_id": 0, "size": GIB},
    ]
    assert tuple(content["problems"]) == made.problems


def test_plans_differ_where_they_differ() -> None:
    here, there = (
        big_plan(firmware=False),
        big_plan(firmware=False, backing=BackingOptions(policy="bind", dontdump=True)),
    )
    assert here.diff(there) == {
        "builder.backing.dontdump": (None, True),
        "regions.ram0.backing.dontdump": (None, True),
        "regions.ram1.backing.dontdump": (None, True),
    }
    assert big_plan(firmware=False).diff(here) == {}
    more = here.diff(big_plan())
    assert more["builder.firmware"] == (False, True)
    assert more["regions.firmware.base"] == (None, GIB)
    assert [path for path in more if path.startswith("problems")] == ["problems.0"]
    with pytest.raises(TypeError):
        here.diff("")  # type: ignore[arg-type]


def test_costs_add() -> None:
    one, other = big_plan().cost, plan(NumaRegionInfo("4GiB", 3)).cost
    both = one + other
    assert type(both) is PlanCost
    assert (both.size, both.preallocated) == (6 * GIB + MIB, 2 * GIB)
    assert both.pages == {4096: 256 + (1 << 20), 2 * MIB: 1024}
    assert both.nodes == {None: GIB + MIB, 0: GIB, 3: 4 * GIB}
    assert sum([one, other]) == both
    assert one.pages == big_plan().cost.pages
    for wrong in (1, (1, 2), "x"):
        with pytest.raises(TypeError):
            one + wrong


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"format": "x", "version": 1}', '{"format": 1'])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidPlan):
        AddressSpacePlan.from_json(text)


@pytest.mark.parametrize("text", ["[" * 1000 + "]" * 1000, "[" * 100_000, '{"a":' * 1000 + "1" + "}" * 1000, "\ud800"])
def test_json_that_nests_deep_or_is_not_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidPlan):
        AddressSpacePlan.from_json(text)


def with_odd_parts(value: Any, odd: Any) -> Iterator[Any]:
    """The value with each of its parts replaced, one at a time."""
    yield odd
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(items):
        for changed in with_odd_parts(part, odd):
            copied = copy.copy(value)
            copied[key] = changed
            yield copied


@pytest.mark.parametrize("odd", [[], {}, None, True, -1, 1 << 70, 1.5, "x", "\ud800", [[]], [1, 2, 3], {"a": 1}])
def test_json_with_any_odd_part_is_refused_or_a_plan(odd: object) -> None:
    whole = values()[-1]
    assert isinstance(whole, AddressSpacePlan)
    content = json.loads(whole.to_json())
    for changed in with_odd_parts(content, odd):
        with suppress(InvalidPlan):
            assert isinstance(AddressSpacePlan.from_json(json.dumps(changed)), AddressSpacePlan)


def test_json_of_other_addresses_is_refused() -> None:
    text = plan("4GiB").to_json()
    with pytest.raises(InvalidPlan, match="regions"):
        AddressSpacePlan.from_json(text.replace(str(HIGH), str(HIGH + 4096)))
    with pytest.raises(InvalidPlan, match="missing"):
        AddressSpacePlan.from_json(text.replace('"backing"', '"packing"'))


machines = st.sampled_from(["dragonball", "pc", "q35", "microvm", "virt"])
sizes = st.lists(
    st.integers(256, 3 << 20).map(lambda pages: pages << 12) | st.sampled_from([2 * GIB, 3 * GIB, TIB]),
    min_size=1,
    max_size=8,
)


@settings(max_examples=200, deadline=None)
@given(machine=machines, sizes=sizes, firmware=st.booleans())
def test_any_plan_holds_what_was_asked_where_it_may(machine: str, sizes: list[int], *, firmware: bool) -> None:
    hotplug = Hotplug("20TiB") if Machine.named(machine).max_slots else None
    made = plan(*sizes, machine=machine, phys_bits=46, firmware=firmware, dax_window="2GiB", hotplug=hotplug)
    assert made.problems == ()
    ram = [region for region in made.regions if region.region_type is AddressSpaceRegionType.DEFAULT_MEMORY]
    assert sum(region.size for region in ram) == sum(sizes)
    assert [region.base for region in ram] == sorted(region.base for region in ram)
    assert len(made.reasons) == len(made.regions)
    for region in made.regions:
        made.layout.check_region(region)
    for low, high in pairwise(ram):
        assert low.end <= high.base
    window = made.hotplug_window
    if window is None:
        assert hotplug is None
        return
    assert window.base >= ram[-1].end
    assert window.end <= made.layout.mem_end


def test_a_plan_of_4_tib_can_be_built() -> None:
    made = plan(*["64GiB"] * 64, machine="dragonball", phys_bits=48)
    with made.build().map_memory() as memory:
        memory.write_u64(made.regions[-1].end - 8, 1)
        assert memory.read_u64(made.regions[-1].end - 8) == 1
