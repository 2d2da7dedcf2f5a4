"""Machines against QEMU: the same RAM, the same E820, the same hotplug window, for sizes from 1 MiB to 64 GiB."""

import struct

import pytest
from dbs_address_space import (
    AddressSpaceBase,
    AddressSpaceBuilder,
    AddressSpacePlan,
    Hotplug,
    Machine,
    NumaRegionInfo,
    tables,
)
from qemu_helpers import joined, qemu, refusal

MIB = 1 << 20
GIB = 1 << 30

SIZES = {
    "pc": [1, 128, 3583, 3584, 3585, 65536],
    "q35": [1, 128, 2815, 2816, 2817, 65536],
    "microvm": [128, 3071, 3072, 3073, 65536],
}
INTEL, AMD = "Haswell,vendor=GenuineIntel", "EPYC,vendor=AuthenticAMD"
CASES = [(machine, size) for machine, sizes in SIZES.items() for size in sizes]


def plan_of(machine: str, size: int, **options: object) -> AddressSpacePlan:
    plan = AddressSpaceBuilder(machine, numa_regions=[NumaRegionInfo(size)], **options).plan()  # type: ignore[arg-type]
    assert plan.problems == ()
    return plan


def ram_of(plan: AddressSpacePlan) -> list[tuple[int, int]]:
    return joined([(region.base, region.end) for region in plan.regions if region.region_type.value == "ram"])


def memory_arguments(size: int, *, bits: int = 40, more: str = "", model: str = INTEL) -> list[str]:
    """RAM that takes nothing from the host."""
    backend = f"memory-backend-ram,id=ram,size={size},reserve=off"
    cpu = f"{model},enforce=off,check=off,phys-bits={bits}"
    return ["-cpu", cpu, "-m", f"{size}B{more}", "-object", backend]


@pytest.mark.parametrize(("machine", "size"), CASES)
def test_ram_and_e820_are_those_of_qemu(machine: str, size: int) -> None:
    plan = plan_of(machine, size * MIB, firmware=True)
    with qemu(f"{machine},memory-backend=ram", *memory_arguments(size * MIB)) as oracle:
        assert ram_of(plan) == oracle.ram()
        ram_in_e820 = [(base, base + length) for base, length, kind in oracle.e820() if kind == 1]
        assert ram_of(plan) == joined(ram_in_e820)
        firmware = plan.regions[-1]
        names = {name: (low, end) for low, end, _, name in oracle.flat_view() if low > MIB}
        assert names["pc.bios"] == (firmware.base, firmware.end)


@pytest.mark.parametrize("machine", ["pc", "q35"])
@pytest.mark.parametrize(("size", "most", "slots"), [(1, 16, 4), (5, 16, 1), (6, 7, 32)])
def test_the_hotplug_window_is_that_of_qemu(machine: str, size: int, most: int, slots: int) -> None:
    plan = plan_of(machine, size * GIB, hotplug=Hotplug(most * GIB, slots))
    window = plan.hotplug_window
    assert window is not None
    arguments = memory_arguments(size * GIB)
    arguments[arguments.index("-m") + 1] = f"{size}G,slots={slots},maxmem={most}G"
    with qemu(f"{machine},memory-backend=ram", *arguments) as oracle:
        oracle.ask("object-add", **{"qom-type": "memory-backend-ram", "id": "dimm", "size": GIB, "reserve": False})
        oracle.ask("device_add", driver="pc-dimm", id="dimm0", memdev="dimm")
        (dimm,) = oracle.ask("query-memory-devices")
        assert dimm["data"]["addr"] == window.base
        device_memory = oracle.ask("qom-get", path="/machine", property="device-memory-region-size")
        assert device_memory == window.size


@pytest.mark.parametrize("size", [128, 4096, 65536])
def test_arm_ram_is_that_of_qemu(size: int) -> None:
    backend = f"memory-backend-ram,id=ram,size={size}M,reserve=off"
    arguments = ["-cpu", "max", "-m", f"{size}M", "-object", backend]
    with qemu("virt,memory-backend=ram", *arguments, program="qemu-system-aarch64") as oracle:
        ram = joined([(low, end) for low, end, kind, name in oracle.flat_view() if name == "ram"])
    assert ram_of(plan_of("virt", size * MIB)) == ram


PCI_HOLE = {"pc": 2 * GIB, "q35": 32 * GIB}
SPLIT_END = {"pc": 3 * GIB, "q35": 2 * GIB}


def fits(machine: str, bits: int, size: int, hotplug: Hotplug | None = None) -> bool:
    """Whether the plan has no problem; one that has is of its addresses, and says nothing that would be refused."""
    made = AddressSpaceBuilder(machine, phys_bits=bits, numa_regions=[NumaRegionInfo(size)], hotplug=hotplug).plan()
    assert all("do not fit below mem_end" in problem for problem in made.problems)
    assert all(("more phys_bits or" in problem) == (bits < 52) for problem in made.problems)
    return not made.problems


@pytest.mark.parametrize("machine", ["pc", "q35"])
@pytest.mark.parametrize("bits", [36, 39, 40, 41, 42])  # QEMU 7.2 describes no more RAM to its firmware
def test_ram_ends_where_that_of_qemu_does(machine: str, bits: int) -> None:
    most = (1 << bits) - PCI_HOLE[machine] - (4 * GIB - SPLIT_END[machine])
    for size in [most, most + MIB]:
        refused = refusal(f"{machine},memory-backend=ram", *memory_arguments(size, bits=bits))
        assert ("phys-bits too low" in refused) == bool(refused) == (size > most)
        assert fits(machine, bits, size) == (not refused)


@pytest.mark.parametrize("machine", ["pc", "q35"])
@pytest.mark.parametrize("bits", range(36, 53))
def test_the_most_memory_is_that_of_qemu(machine: str, bits: int) -> None:
    most = (1 << bits) - PCI_HOLE[machine] - 4 * GIB
    for size in [most, most + 128 * MIB]:
        more = f",slots=1,maxmem={size}B"
        refused = refusal(f"{machine},memory-backend=ram", *memory_arguments(GIB, bits=bits, more=more))
        assert ("phys-bits too low" in refused) == bool(refused) == (size > most)
        assert fits(machine, bits, GIB, Hotplug(size, 1)) == (not refused)


@pytest.mark.parametrize(("cpu", "bits"), [("cortex-a53", 40), ("cortex-a57", 44), ("neoverse-n1", 48), ("max", 52)])
def test_the_most_memory_of_arm_is_that_of_qemu(cpu: str, bits: int) -> None:
    most = (1 << bits) - 2 * GIB
    for size in [most, most + 128 * MIB]:
        arguments = ["-cpu", cpu, "-m", f"1G,slots=1,maxmem={size}B"]
        refused = refusal("virt", *arguments, program="qemu-system-aarch64")
        assert (f"limited to {bits} bits" in refused) == bool(refused) == (size > most)
        assert fits("virt", bits, GIB, Hotplug(size, 1)) == (not refused)


@pytest.mark.parametrize(
    ("machine", "bits", "size", "most"),
    [("q35", 40, 600, 0), ("q35", 40, 960, 0), ("pc", 40, 600, 0), ("q35", 39, 400, 0), ("q35", 40, 4, 700)],
)
def test_ram_may_reach_over_half_of_the_addresses(machine: str, bits: int, size: int, most: int) -> None:
    hotplug = Hotplug(most * GIB, 1) if most else None
    made = AddressSpaceBuilder(machine, phys_bits=bits, numa_regions=[size * GIB], hotplug=hotplug).plan()
    assert made.problems == ()
    half, end = 1 << (bits - 1), made.layout.mem_end
    assert half < end <= made.layout.phys_end - PCI_HOLE[machine]
    assert end - GIB < (made.hotplug_window or made.regions[-1]).end <= end
    # What needs no more leaves the rest to devices.
    assert AddressSpaceBuilder(machine, phys_bits=bits, numa_regions=["8GiB"]).plan().layout.mem_end == half
    assert Machine.named(machine, phys_bits=bits).layout.mem_end == half


@pytest.mark.parametrize("machine", ["pc", "q35"])
@pytest.mark.parametrize(
    ("bits", "size", "most"),
    [
        (39, 4, 0),
        (40, 4, 0),
        (40, 970, 0),
        (40, 1000, 0),
        (41, 970, 0),
        (41, 1000, 0),
        (41, 4, 900),
        (42, 4, 1000),
        (42, 1500, 1600),
        (42, 1, 1100),
    ],
)
def test_ram_of_amd_is_moved_as_by_qemu(machine: str, bits: int, size: int, most: int) -> None:
    hotplug = Hotplug(most * GIB, 1) if most else None
    builder = AddressSpaceBuilder(
        machine, phys_bits=bits, numa_regions=[size * GIB], hotplug=hotplug, amd_1tb_relocation=True
    )
    made, more = builder.plan(), f",slots=1,maxmem={most}G" if most else ""
    arguments = memory_arguments(size * GIB, bits=bits, more=more, model=AMD)
    if refusal(f"{machine},memory-backend=ram", *arguments):
        assert made.problems
        return
    assert made.problems == ()
    with qemu(f"{machine},memory-backend=ram", *arguments) as oracle:
        assert ram_of(made) == oracle.ram()
        e820 = sorted(oracle.e820())
        if hotplug:
            oracle.ask("object-add", **{"qom-type": "memory-backend-ram", "id": "dimm", "size": GIB, "reserve": False})
            oracle.ask("device_add", driver="pc-dimm", id="dimm0", memdev="dimm")
            (dimm,) = oracle.ask("query-memory-devices")
            assert made.hotplug_window is not None
            assert made.hotplug_window.base == dimm["data"]["addr"]
    table = tables.e820(AddressSpaceBase.from_regions(made.regions, made.layout))
    assert e820 == list(struct.iter_unpack("<QQI", table))
    assert [(0xFD_0000_0000, 12 * GIB, 2)] * (bits >= 40) == [entry for entry in e820 if entry[2] == 2]


def test_a_microvm_of_qemu_takes_no_dimm() -> None:
    arguments = memory_arguments(GIB, more=",slots=1,maxmem=4G")
    with qemu("microvm,memory-backend=ram", *arguments) as oracle:
        oracle.ask("object-add", **{"qom-type": "memory-backend-ram", "id": "dimm", "size": GIB, "reserve": False})
        with pytest.raises(RuntimeError):
            oracle.ask("device_add", driver="pc-dimm", id="dimm0", memdev="dimm")
    builder = AddressSpaceBuilder("microvm", numa_regions=[GIB], hotplug=Hotplug(4 * GIB, 1))
    assert builder.plan().problems == ("hotplug: the machine 'microvm' has no DIMM slots",)
