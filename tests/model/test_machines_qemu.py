"""Machines against QEMU: the same RAM, the same E820, the same hotplug window, for sizes from 1 MiB to 64 GiB."""

import pytest
from dbs_address_space import AddressSpaceBuilder, AddressSpacePlan, Hotplug, NumaRegionInfo
from qemu_helpers import joined, qemu

MIB = 1 << 20
GIB = 1 << 30

SIZES = {
    "pc": [1, 128, 3583, 3584, 3585, 65536],
    "q35": [1, 128, 2815, 2816, 2817, 65536],
    "microvm": [128, 3071, 3072, 3073, 65536],
}
CASES = [(machine, size) for machine, sizes in SIZES.items() for size in sizes]


def plan_of(machine: str, size: int, **options: object) -> AddressSpacePlan:
    plan = AddressSpaceBuilder(machine, numa_regions=[NumaRegionInfo(size)], **options).plan()  # type: ignore[arg-type]
    assert plan.problems == ()
    return plan


def ram_of(plan: AddressSpacePlan) -> list[tuple[int, int]]:
    return joined([(region.base, region.end) for region in plan.regions if region.region_type.value == "ram"])


def memory_arguments(size: int) -> list[str]:
    """RAM that takes nothing from the host. An Intel guest: AMD's has an IOMMU window at 1 TiB."""
    backend = f"memory-backend-ram,id=ram,size={size},reserve=off"
    return ["-cpu", "Haswell,vendor=GenuineIntel,enforce=off,check=off", "-m", f"{size}B", "-object", backend]


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
