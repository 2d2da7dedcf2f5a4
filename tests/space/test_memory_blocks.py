"""Blocks as a virtio-mem device has them: sizes that are requested and usable, states, and blocks that can't be touched."""

from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from dbs_address_space import (
    AccessDenied,
    AddressSpace,
    ClientError,
    InvalidAddressRange,
    MemoryBlocks,
    Misaligned,
    NoSpace,
    Prot,
    RegionBusy,
    RegionOverlap,
    UnmappedAddress,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from memory_helpers import GIB, MIB, PAGE, mapped, ram
from memory_helpers import blocks as stored_blocks
from virtual_machines import HLT, Vm, store

BASE = GIB
BLOCK, SIZE = 2 * MIB, 16 * MIB
COUNT = SIZE // BLOCK


def blocks_of(size: int = SIZE, **options: Any) -> tuple[AddressSpace, MemoryBlocks]:
    space, memory = mapped(ram(0, MIB, name="boot"), ram(BASE, size, name="blocks"))
    return space, MemoryBlocks(memory, "blocks", **options)


def parts(space: AddressSpace) -> list[tuple[int, int, str]]:
    """Of the region: each part's first block, number of blocks and protection."""
    regions = space.overlapping(BASE, SIZE)
    return [((region.base - BASE) // BLOCK, region.size // BLOCK, str(region.prot_flags.value)) for region in regions]


# Sizes.


def test_what_was_requested_bounds_what_is_plugged_in() -> None:
    _, blocks = blocks_of(GIB, block_size=4 * MIB)
    assert blocks.requested_size == blocks.usable_size == GIB
    blocks.request("64MiB")
    assert (blocks.requested_size, blocks.usable_size) == (64 * MIB, 320 * MIB)
    with pytest.raises(InvalidAddressRange, match=r"end behind the usable 0x14000000"):
        blocks.plug(316 * MIB, 8 * MIB)
    blocks.plug(312 * MIB, 8 * MIB)
    with pytest.raises(
        NoSpace, match=r"0x3c00000 bytes are more than the 0x3800000 that are left of the 0x4000000"
    ) as raised:
        blocks.plug(0, 60 * MIB)
    assert (raised.value.free, blocks.plugged_size) == (56 * MIB, 8 * MIB)
    blocks.plug(0, 56 * MIB)
    blocks.request(0)
    assert (blocks.requested_size, blocks.usable_size) == (0, 320 * MIB)
    with pytest.raises(NoSpace, match="more than the 0x0"):
        blocks.plug(64 * MIB, 4 * MIB)
    blocks.unplug(312 * MIB, 8 * MIB)
    assert blocks.usable_size == 320 * MIB
    blocks.unplug_all()
    assert blocks.usable_size == 256 * MIB
    blocks.request(GIB)
    assert blocks.usable_size == GIB


def test_a_first_request_keeps_what_is_plugged_in_usable() -> None:
    _, blocks = blocks_of(GIB)
    blocks.plug(800 * MIB, 2 * MIB)
    blocks.request("2MiB")
    assert blocks.usable_size == 802 * MIB


@pytest.mark.parametrize(
    ("size", "error"),
    [(SIZE + BLOCK, InvalidAddressRange), (BLOCK // 2, Misaligned), (-1, InvalidAddressRange), (1.5, TypeError)],
)
def test_a_wrong_request_changes_nothing(size: Any, error: type[Exception]) -> None:
    _, blocks = blocks_of()
    with pytest.raises(error):
        blocks.request(size)
    assert blocks.requested_size == SIZE


def test_blocks_are_powers_of_two() -> None:
    with pytest.raises(Misaligned, match="a power of two"):
        blocks_of(12 * MIB, block_size=3 * MIB)


def test_a_range_of_blocks_has_a_state() -> None:
    _, blocks = blocks_of()
    blocks.plug(BLOCK, 2 * BLOCK)
    assert blocks.state(BLOCK, 2 * BLOCK) == "plugged"
    assert blocks.state(3 * BLOCK, BLOCK) == "unplugged"
    assert blocks.state(0, SIZE) == "mixed"
    with pytest.raises(InvalidAddressRange):
        blocks.state(0, SIZE + BLOCK)


# Blocks that can't be touched.


class Inaccessible(RuleBasedStateMachine):
    """The model is a set: what is in it reads and is written, what is not is refused, and the parts are as few as can be."""

    def __init__(self) -> None:
        super().__init__()
        self.space, self.blocks = blocks_of(inaccessible=True)
        self.memory = self.space.memory
        self.model: dict[int, int] = {}

    @rule(first=st.integers(0, COUNT - 1), count=st.integers(1, 3), prealloc=st.booleans())
    def plug(self, first: int, count: int, *, prealloc: bool) -> None:
        wanted = range(first, min(first + count, COUNT))
        if self.model.keys() & set(wanted):
            with pytest.raises(RegionOverlap):
                self.blocks.plug(first * BLOCK, len(wanted) * BLOCK)
            return
        self.blocks.plug(first * BLOCK, len(wanted) * BLOCK, prealloc=prealloc)
        for block in wanted:
            assert self.memory.read(BASE + block * BLOCK, 8) == bytes(8)
            self.model[block] = block + 1
            self.memory.write_u64(BASE + block * BLOCK, block + 1)

    @rule(first=st.integers(0, COUNT - 1), count=st.integers(1, 3))
    def unplug(self, first: int, count: int) -> None:
        wanted = range(first, min(first + count, COUNT))
        if not set(wanted) <= self.model.keys():
            with pytest.raises(UnmappedAddress):
                self.blocks.unplug(first * BLOCK, len(wanted) * BLOCK)
            return
        self.blocks.unplug(first * BLOCK, len(wanted) * BLOCK)
        for block in wanted:
            del self.model[block]

    @rule()
    def reset(self) -> None:
        self.blocks.unplug_all()
        self.model.clear()

    @invariant()
    def memory_is_what_the_model_says(self) -> None:
        for block in range(COUNT):
            addr = BASE + block * BLOCK
            if block in self.model:
                assert self.memory.read_u64(addr) == self.model[block]
                continue
            with pytest.raises(AccessDenied):
                self.memory.read_u64(addr)
            with pytest.raises(AccessDenied):
                self.memory.write_u64(addr, 1)
        kinds = [block in self.model for block in range(COUNT)]
        edges = sum(one is not other for one, other in pairwise(kinds))
        assert len(parts(self.space)) == edges + 1
        assert self.space["blocks"].base == BASE
        assert stored_blocks(self.memory, BASE) <= len(self.model) * BLOCK // 512


TestInaccessible = Inaccessible.TestCase
TestInaccessible.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)


def test_a_block_that_is_viewed_stays_plugged_in() -> None:
    space, blocks = blocks_of(inaccessible=True)
    blocks.plug(0, 2 * BLOCK)
    with space.memory.view(BASE + BLOCK, 8), pytest.raises(RegionBusy):
        blocks.unplug(BLOCK, BLOCK)
    assert blocks.plugged_size == 2 * BLOCK
    assert space.memory.read(BASE, 8) == bytes(8)
    blocks.unplug(BLOCK, BLOCK)
    assert parts(space)[0] == (0, 1, str((Prot.READ | Prot.WRITE).value))


def test_blocks_that_were_given_back_before_one_that_is_viewed_are_unplugged() -> None:
    space, blocks = blocks_of(inaccessible=True)
    blocks.plug(0, BLOCK)
    blocks.plug(2 * BLOCK, BLOCK)
    with space.memory.view(BASE + 2 * BLOCK, 8), pytest.raises(RegionBusy):
        blocks.unplug_all()
    assert blocks.plugged_size == BLOCK
    blocks.plug(0, BLOCK)
    assert space.memory.read(BASE, 8) == bytes(8)
    blocks.unplug_all()
    assert blocks.plugged_size == 0


def test_memory_that_is_viewed_can_not_become_blocks() -> None:
    _, memory = mapped(ram(BASE, SIZE, name="blocks"))
    with memory.view(BASE, 8), pytest.raises(RegionBusy):
        MemoryBlocks(memory, "blocks", inaccessible=True)
    assert memory.read(BASE, 8) == bytes(8)


def test_a_part_that_was_removed_is_missed() -> None:
    space, blocks = blocks_of(inaccessible=True)
    blocks.plug(4 * BLOCK, BLOCK)
    space.remove_region(BASE + 4 * BLOCK)
    with pytest.raises(UnmappedAddress):
        blocks.unplug(4 * BLOCK, BLOCK)
    space.remove_region("blocks")
    with pytest.raises(UnmappedAddress, match="removed"):
        blocks.plug(0, BLOCK)


def test_a_guest_can_touch_what_is_plugged_in_and_nothing_else() -> None:
    vm = Vm()
    space, blocks = blocks_of(inaccessible=True)
    slots = space.attach_kvm(vm.fd)
    memory = space.memory

    def guest_writes(*offsets: int) -> None:
        memory.write(PAGE, b"".join(store(BASE + offset, 0x5A) for offset in offsets) + HLT)
        vm.protected_mode(PAGE)
        vm.run_on(space)

    try:
        blocks.plug(0, SIZE)
        guest_writes(5)
        assert [base for base in slots.base_to_slot if base >= BASE] == [BASE]
        blocks.unplug(BLOCK, BLOCK)
        assert sorted(base for base in slots.base_to_slot if base >= BASE) == [BASE, BASE + 2 * BLOCK]
        with pytest.raises(UnmappedAddress, match="no memory slot"):
            slots.slot_of(space[BASE + BLOCK])
        guest_writes(BLOCK - 1, 2 * BLOCK)
        assert [memory.read_u8(BASE + offset) for offset in (5, BLOCK - 1, 2 * BLOCK)] == [0x5A] * 3
        # By the way that its processor took, the guest is told of a fault, or its write is an exit that no device answers.
        with suppress(OSError):
            guest_writes(BLOCK)
        blocks.plug(BLOCK, BLOCK)
        assert [base for base in slots.base_to_slot if base >= BASE] == [BASE]
        assert memory.read_u8(BASE + BLOCK) == 0
        guest_writes(BLOCK)
        assert memory.read_u8(BASE + BLOCK) == 0x5A
    finally:
        slots.detach()
        vm.close()


class Refusal:
    """A client that refuses every change once it is armed."""

    is_armed = False

    def prepare(self, _change: object) -> None:
        if self.is_armed:
            raise RuntimeError("not now")

    def commit(self, _change: object) -> None:
        pass

    def rollback(self, _change: object) -> None:
        pass


def test_a_refused_change_leaves_a_guest_its_slots() -> None:
    vm = Vm()
    space, blocks = blocks_of(inaccessible=True)
    slots = space.attach_kvm(vm.fd, dirty_log=True)

    try:
        blocks.plug(0, SIZE)
        before = dict(slots.base_to_slot)
        memory = space.memory
        memory.write(BASE + BLOCK, b"kept")
        refusal = Refusal()
        with space.subscribe(refusal):
            refusal.is_armed = True
            for offset, size in ((0, SIZE), (BLOCK, BLOCK)):
                with pytest.raises(ClientError, match="not now"):
                    blocks.unplug(offset, size)
                assert dict(slots.base_to_slot) == before
        assert memory.read(BASE + BLOCK, 4) == b"kept"
        assert blocks.plugged_size == SIZE
    finally:
        slots.detach()
        vm.close()


def test_blocks_come_and_go_in_one_change() -> None:
    space, blocks = blocks_of(inaccessible=True)
    for act, offset, size in ((blocks.plug, 0, 1), (blocks.plug, 1, 2), (blocks.unplug, 1, 1), (blocks.unplug, 0, 1)):
        before = space.generation
        act(offset * BLOCK, size * BLOCK)
        # A second change could be refused, and would leave half of it.
        assert space.generation == before + 1
    assert parts(space) == [(0, 2, "0"), (2, 1, "3"), (3, 5, "0")]


def test_part_of_a_region_that_was_cut_is_refused() -> None:
    """A discard that did less than it was asked for would leave a guest's bytes in blocks that are plugged next."""
    space, memory = mapped(ram(0, 16 * PAGE))
    space.split_region(0, 8 * PAGE)
    with pytest.raises(InvalidAddressRange, match="has no 0x2000 bytes from offset 0x7000 on"):
        memory._discard_part(space.snapshot()._key(0), 7 * PAGE, 2 * PAGE)  # noqa: SLF001  the verb of the blocks
