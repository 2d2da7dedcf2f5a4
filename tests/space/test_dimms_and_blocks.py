"""DIMMs in slots, blocks inside a region, and requests that the guest give memory up."""

import threading
from typing import Any

import pytest
from dbs_address_space import (
    AddressSpace,
    AddressSpaceBuilder,
    AddressSpaceRegion,
    DimmSlots,
    Hotplug,
    InvalidAddressRange,
    InvalidArgument,
    MemoryBlocks,
    Misaligned,
    NoSpace,
    RegionBusy,
    RegionOverlap,
    UnmappedAddress,
)
from host import huge_pages
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from memory_helpers import LAYOUT, MIB, PAGE, WINDOW, mapped, ram
from qemu_helpers import qemu

GIB = 1 << 30


def machine(slots: int = 4, most: int = 16, **options: Any) -> tuple[AddressSpace, DimmSlots]:
    builder = AddressSpaceBuilder("q35", numa_regions=["1GiB"], hotplug=Hotplug(most * GIB, slots), **options)
    space = builder.build()
    return space, DimmSlots(space, slots=slots, size=(most - 1) * GIB)


# DIMMs.


def test_a_plan_has_the_numbers() -> None:
    plan = AddressSpaceBuilder("q35", numa_regions=["3GiB", "1GiB"], hotplug=Hotplug("6GiB", slots=3)).plan()
    space = plan.build()
    slots = DimmSlots(space, plan=plan)
    assert (slots.slots, slots.size) == (3, 2 * GIB)
    slots = DimmSlots(space, plan=plan, slots=1)
    assert (slots.slots, slots.size) == (1, 2 * GIB)
    for other in (Hotplug("8GiB", slots=3), None):
        with pytest.raises(InvalidArgument, match="does not have the window"):
            DimmSlots(space, plan=AddressSpaceBuilder("q35", numa_regions=["4GiB"], hotplug=other).plan())
    wrong: Any = {"plan": space}
    for arguments in (wrong, {}, {"slots": 1}, {"size": GIB}):
        with pytest.raises(TypeError, match="plan"):
            DimmSlots(space, **arguments)


def test_dimms_come_and_go() -> None:
    space, slots = machine()
    first = slots.plug("1GiB", name="dimm0")
    second = slots.plug("2GiB", name="dimm1", mem_type="mmap")
    assert (first.base, second.base) == (4 * GIB, 5 * GIB)
    assert first.is_hotplug
    assert slots.dimms == {0: first, 1: second}
    space.memory.write(5 * GIB - 2, b"both")
    slots.unplug("dimm0")
    assert slots.plug("512MiB", name="dimm2").base == 4 * GIB
    assert sorted(slots.dimms) == [0, 1]
    space.remove_region("dimm1")
    assert sorted(slots.dimms) == [0]
    assert slots.plug("512MiB", name="dimm3", slot=3, base=8 * GIB).base == 8 * GIB


def test_dimms_go_where_qemu_puts_them() -> None:
    sizes = [GIB, 256 * MIB, 2 * GIB, 128 * MIB]
    _, slots = machine(slots=4)
    ours = [slots.plug(size, name=f"dimm{index}").base for index, size in enumerate(sizes)]
    with qemu("q35", "-m", "1G,slots=4,maxmem=16G") as oracle:
        for index, size in enumerate(sizes):
            oracle.ask(
                "object-add", **{"qom-type": "memory-backend-ram", "id": f"mem{index}", "size": size, "reserve": False}
            )
            oracle.ask("device_add", driver="pc-dimm", id=f"dimm{index}", memdev=f"mem{index}")
        theirs = {device["data"]["id"]: device["data"]["addr"] for device in oracle.ask("query-memory-devices")}
    assert ours == [theirs[f"dimm{index}"] for index in range(len(sizes))]


def test_limits_are_refused_before_anything_is_done() -> None:
    space, slots = machine(slots=2, most=4)
    slots.plug("1GiB", name="dimm0")
    before = space.snapshot()
    refusals: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (NoSpace, "exceeds", {"size": "2560MiB"}),
        (Misaligned, "multiple", {"size": "1MiB"}),
        (Misaligned, "multiple", {"size": "1GiB", "base": 4 * GIB + PAGE}),
        (RegionOverlap, "dimm0", {"size": "1GiB", "base": 4 * GIB}),
        (RegionOverlap, "dimm0", {"size": "1GiB", "slot": 0}),
        (InvalidAddressRange, "slots 0 to 1", {"size": "1GiB", "slot": 2}),
        (InvalidAddressRange, "not in the window", {"size": "1GiB", "base": 3 * GIB}),
        (InvalidAddressRange, "not in the window", {"size": "1GiB", "base": 64 * GIB}),
    ]
    for error, text, arguments in refusals:
        with pytest.raises(error, match=text):
            slots.plug(name="dimm1", **arguments)
    with pytest.raises(TypeError, match="name"):
        slots.plug("1GiB", name=None)  # type: ignore[arg-type]
    with pytest.raises(InvalidAddressRange, match="align is 0"):
        DimmSlots(space, slots=2, size=GIB, align=0)
    with pytest.raises(RegionOverlap) as raised:
        slots.plug("1GiB", name="dimm1", base=4 * GIB)
    assert raised.value.conflict == space["dimm0"]
    with pytest.raises(InvalidAddressRange, match="the name is taken"):
        slots.plug("1GiB", name="dimm0")
    slots.plug("1GiB", name="dimm1")
    with pytest.raises(NoSpace, match="slots are taken"):
        slots.plug("128MiB", name="dimm2")
    with pytest.raises(UnmappedAddress, match="no DIMM"):
        slots.unplug("ram0")
    slots.unplug("dimm1")
    assert space.snapshot() == before


def test_the_window_is_for_dimms_only() -> None:
    space, slots = machine()
    with pytest.raises(RegionOverlap, match="'hotplug'"):
        space.insert_region(ram(slots.window.base, GIB))
    assert space.find_free("1GiB", low=4 * GIB) == slots.window.end
    with pytest.raises(UnmappedAddress, match="hotplug"):
        DimmSlots(AddressSpace(LAYOUT), slots=1, size=GIB)


def test_a_dimm_in_use_is_busy() -> None:
    space, slots = machine()
    region = slots.plug("128MiB", name="dimm0")
    view = space.memory.view(region.base, 8)
    with pytest.raises(RegionBusy):
        slots.unplug("dimm0")
    assert slots.dimms
    view.release()
    slots.unplug("dimm0")


def test_threads_share_the_slots() -> None:
    _, slots = machine(slots=64, most=64)
    failed: list[BaseException] = []

    def plug(number: int) -> None:
        try:
            for index in range(8):
                slots.plug("128MiB", name=f"dimm{number}-{index}")
        except BaseException as error:  # noqa: BLE001  whatever it is, the test must say so
            failed.append(error)

    threads = [threading.Thread(target=plug, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(slots.dimms) == 32


# Requests.


def test_a_request_is_done_when_the_region_is_removed() -> None:
    space, memory = mapped(ram(0, name="a"), ram(PAGE, name="b"))
    request = space.request_unplug("a")
    assert space.request_unplug(0) == request
    assert list(space.unplug_requests) == [request]
    assert not request.done()
    assert not request.wait(0.01)
    assert len(memory.regions) == 2
    guest = threading.Timer(0.05, lambda: space.remove_region(space.unplug_requests[0].region))
    guest.start()
    assert request.wait(30)
    guest.join()
    assert request.done()
    assert space.unplug_requests == ()
    request.cancel()
    assert not request.cancelled
    space.insert_region(ram(0, name="a"))
    assert request.done()
    assert "done" in repr(request)


def test_a_request_can_be_withdrawn_by_either_side() -> None:
    space, _ = mapped(ram(0, name="a"))
    request = space.request_unplug("a")
    guest = threading.Timer(0.05, request.cancel)
    guest.start()
    assert not request.wait(30)
    guest.join()
    assert request.cancelled
    assert not request.done()
    space.remove_region("a")
    assert not request.done()
    with pytest.raises(UnmappedAddress):
        space.request_unplug("a")


def test_a_rename_and_a_closed_memory_do_not_settle_a_request() -> None:
    space, memory = mapped(ram(0, name="a"))
    request = space.request_unplug("a")
    space.replace_region("a", space["a"].replace(name="b"))
    memory.close()
    assert not request.done()
    space.remove_region("b")
    assert request.done()


# Blocks.

SIZE, BLOCK = 32 * MIB, 4 * MIB
COUNT = SIZE // BLOCK


class AgainstSet(RuleBasedStateMachine):
    """Blocks plugged and unplugged in any order: the model is a set, the memory of what was unplugged is zero."""

    def __init__(self) -> None:
        super().__init__()
        _, self.memory = mapped(ram(0, SIZE, mem_type="mmap"))
        self.blocks = MemoryBlocks(self.memory, 0, block_size=BLOCK)
        self.model: set[int] = set()

    @rule(first=st.integers(0, COUNT - 1), count=st.integers(1, 3), prealloc=st.booleans())
    def plug(self, first: int, count: int, *, prealloc: bool) -> None:
        wanted = set(range(first, min(first + count, COUNT)))
        if wanted & self.model:
            with pytest.raises(RegionOverlap):
                self.blocks.plug(first * BLOCK, len(wanted) * BLOCK)
            return
        self.blocks.plug(first * BLOCK, len(wanted) * BLOCK, prealloc=prealloc)
        for block in wanted:
            assert self.memory.read_u64(block * BLOCK) == 0
            self.memory.write_u64(block * BLOCK, block + 1)
        self.model |= wanted

    @rule(first=st.integers(0, COUNT - 1), count=st.integers(1, 3))
    def unplug(self, first: int, count: int) -> None:
        wanted = set(range(first, min(first + count, COUNT)))
        if not wanted <= self.model:
            with pytest.raises(UnmappedAddress):
                self.blocks.unplug(first * BLOCK, len(wanted) * BLOCK)
            return
        self.blocks.unplug(first * BLOCK, len(wanted) * BLOCK)
        self.model -= wanted

    @rule()
    def reset(self) -> None:
        self.blocks.unplug_all()
        self.model.clear()

    @invariant()
    def memory_is_what_the_model_says(self) -> None:
        assert self.blocks.plugged_size == len(self.model) * BLOCK
        plugged = {block for part in self.blocks for block in range(part.base // BLOCK, part.end // BLOCK)}
        assert plugged == self.model
        for block in range(COUNT):
            assert self.blocks.is_plugged(block * BLOCK, BLOCK) is (block in self.model)
            assert self.memory.read_u64(block * BLOCK) == (block + 1 if block in self.model else 0)


TestAgainstSet = AgainstSet.TestCase
TestAgainstSet.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)


@pytest.mark.parametrize("mem_type", ["shmem", "mmap"])
def test_unplugged_blocks_take_no_memory(mem_type: str) -> None:
    _, memory = mapped(ram(0, SIZE, mem_type=mem_type))
    blocks = MemoryBlocks(memory, 0, block_size=BLOCK)
    blocks.plug(0, SIZE, prealloc=True)
    assert memory.effective()[0].resident == SIZE
    blocks.unplug(BLOCK, 2 * BLOCK)
    assert memory.effective()[0].resident == SIZE - 2 * BLOCK


def test_blocks_of_huge_pages() -> None:
    with huge_pages(4) as size:
        _, memory = mapped(ram(0, 4 * size, mem_type="hugeshmem"))
        with pytest.raises(Misaligned):
            MemoryBlocks(memory, 0, block_size=size // 2)
        blocks = MemoryBlocks(memory, 0, block_size=size)
        blocks.plug(0, 2 * size, prealloc=True)
        assert memory.effective()[0].resident == 2 * size
        blocks.unplug(0, size)
        assert memory.effective()[0].resident == size
        memory.close()


@pytest.mark.parametrize("block_size", [0, 1, PAGE + 1, 3 * MIB, 2 * SIZE])
def test_blocks_divide_their_region(block_size: int) -> None:
    with pytest.raises(Misaligned):
        MemoryBlocks(mapped(ram(0, SIZE))[1], 0, block_size=block_size)


@pytest.mark.parametrize("where", [(-BLOCK, BLOCK), (0, 0), (0, SIZE + BLOCK), (SIZE, BLOCK), (1, BLOCK), (0, 1)])
def test_ranges_are_of_blocks_in_the_region(where: tuple[int, int]) -> None:
    blocks = MemoryBlocks(mapped(ram(0, SIZE))[1], 0, block_size=BLOCK)
    with pytest.raises(InvalidAddressRange):
        blocks.plug(*where)
    assert list(blocks) == []
    assert "0x0 of 0x2000000" in repr(blocks)


def test_an_option_of_blocks_is_a_bool() -> None:
    _, memory = mapped(ram(0, 16 * BLOCK))
    with pytest.raises(TypeError, match="prealloc must be of type bool"):
        MemoryBlocks(memory, 0, block_size=BLOCK).plug(0, BLOCK, prealloc="no")  # type: ignore[arg-type]


def test_devices_have_no_blocks() -> None:
    _, memory = mapped(AddressSpaceRegion.create_device_region(WINDOW, PAGE, name="uart"))
    with pytest.raises(UnmappedAddress, match="device"):
        MemoryBlocks(memory, "uart")
