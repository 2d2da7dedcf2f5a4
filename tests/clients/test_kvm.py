"""KVM follows the space: slots, hotplug under a running processor, dirty logs, and refusals that change nothing."""

import ctypes
import errno
import mmap
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from children import in_child
from dbs_address_space import (
    AddressSpace,
    AddressSpaceLayout,
    AddressSpaceRegion,
    BackingError,
    DirtyPages,
    ForkedProcess,
    InvalidAddressRange,
    InvalidArgument,
    KvmSlots,
    NotMapped,
    UnmappedAddress,
    Unsupported,
)
from dbs_address_space.tables import page_tables
from kernel_view import maps_of
from memory_helpers import GIB, LAYOUT, MIB, PAGE, WINDOW, mapped, ram
from virtual_machines import HLT, Vm, running, store

CODE = 0x1000
LOG_DIRTY_PAGES = 1
DIMM = 64 * MIB
HIGH = 4 * GIB
TABLES = 32 * MIB
SEEN, COUNT, STOP = 0x3000, 0x4000, 0x5000


@pytest.fixture
def vm() -> Iterator[Vm]:
    vm = Vm()
    yield vm
    vm.close()


@pytest.fixture
def regions() -> list[AddressSpaceRegion]:
    return [
        ram(0, MIB, name="low"),
        ram(DIMM, MIB + PAGE, name="dimm"),
        ram(HIGH, MIB, name="high"),
        ram(TABLES, MIB, name="tables"),
        AddressSpaceRegion("device", WINDOW, PAGE, name="uart"),
    ]


def state(space: AddressSpace, slots: KvmSlots) -> tuple[Any, ...]:
    """All that a failed change must leave alone."""
    return space.snapshot(), slots.base_to_slot, space.memory.mappings(), len(maps_of("memfd:"))


def pages(*numbers: tuple[int, int]) -> DirtyPages:
    return DirtyPages([(base + page * PAGE, PAGE) for base, page in numbers], sources=["kvm"])


def test_each_region_with_memory_has_a_slot_and_numbers_are_used_again(space: AddressSpace, vm: Vm) -> None:
    with space.attach_kvm(vm.fd) as slots:
        assert slots.base_to_slot == {0: 0, TABLES: 1, DIMM: 2, HIGH: 3}
        assert slots.slot_of(space["high"]) == 3
        assert space.clients == (slots,)
        space.remove_region("dimm")
        space.insert_region(ram(2 * DIMM, MIB, name="another"))
        assert slots.base_to_slot == {0: 0, TABLES: 1, 2 * DIMM: 2, HIGH: 3}
        with pytest.raises(UnmappedAddress):
            slots.slot_of("uart")
        assert slots.error is None
    assert slots.base_to_slot == {}
    assert not space.clients
    slots.detach()
    with space.attach_kvm(vm.fd, first_slot=7) as slots:
        with pytest.raises(InvalidArgument, match="attached to this space already"):
            space.attach_kvm(vm.fd, first_slot=100)
        assert sorted(slots.base_to_slot.values()) == [7, 8, 9, 10]


@pytest.mark.parametrize("mode", ["protected", "long"])
@pytest.mark.parametrize("manual_clear", [False, True], ids=["get and clear", "manual clear"])
def test_the_dirty_log_is_exact(space: AddressSpace, vm: Vm, mode: str, manual_clear: object) -> None:
    memory = space.memory
    slots = space.attach_kvm(vm.fd, dirty_log=True, manual_clear=bool(manual_clear))
    slots.set_dirty_log("tables", on=False)
    wide = mode == "long"
    touched = [(0, 9), (0, 200), (DIMM, 0), (DIMM, 63), (DIMM, 64), (DIMM, 65), (DIMM, 256)]
    touched += [(HIGH, 3), (HIGH, 4)] if wide else []

    def guest_writes(numbers: list[tuple[int, int]]) -> None:
        memory.write(CODE, b"".join(store(base + page * PAGE, 0x5A, wide=wide) for base, page in numbers) + HLT)
        if wide:
            memory.write(TABLES, page_tables(TABLES, 5 * GIB))
            vm.long_mode(CODE, TABLES)
        else:
            vm.protected_mode(CODE)
        vm.run_on(space)
        assert all(memory.read_u8(base + page * PAGE) == 0x5A for base, page in numbers)

    assert not slots.dirty_log()
    guest_writes(touched)
    assert slots.dirty_log(clear=False) == pages(*touched)
    assert slots.dirty_log(region="dimm", clear=False) == pages(*[page for page in touched if page[0] == DIMM])
    slots.clear_dirty_log(pages((DIMM, 64), (0, 9)))
    left = pages(*(page for page in touched if page not in {(DIMM, 64), (0, 9)}))
    assert slots.dirty_log() == left
    assert not slots.dirty_log()
    guest_writes([(DIMM, 64), (DIMM, 256)])
    memory.write(DIMM + 100 * PAGE, b"not the guest")
    assert slots.dirty_log() == pages((DIMM, 64), (DIMM, 256))
    guest_writes([(DIMM, 1)])
    slots.set_dirty_log("dimm", on=False)
    with pytest.raises(Unsupported, match="set_dirty_log"):
        slots.dirty_log(region="dimm")
    slots.set_dirty_log("dimm", on=True)
    assert not slots.dirty_log(region="dimm")
    slots.detach()


def test_memory_plugged_in_and_out_under_a_running_processor(space: AddressSpace, vm: Vm) -> None:
    """The guest copies what it reads from the module's first bytes: ones where there is no module."""
    space.remove_region("dimm")
    memory = space.memory
    loop = b"\xa1" + struct.pack("<I", DIMM)  # mov eax, [DIMM]
    loop += b"\xa3" + struct.pack("<I", SEEN)  # mov [SEEN], eax
    loop += b"\xff\x05" + struct.pack("<I", COUNT)  # inc dword [COUNT]
    loop += b"\x83\x3d" + struct.pack("<Ib", STOP, 0)  # cmp dword [STOP], 0
    loop += b"\x74" + struct.pack("<b", -len(loop) - 2)  # je loop
    memory.write(CODE, loop + HLT)

    def wait_for(value: int) -> None:
        deadline = time.monotonic() + 20
        while memory.read_u32(SEEN) != value:
            assert time.monotonic() < deadline, f"the guest still sees {memory.read_u32(SEEN):#x}"
            time.sleep(0)

    slots = space.attach_kvm(vm.fd, dirty_log=True)
    vm.protected_mode(CODE)
    with running(vm, space):
        try:
            for number in range(25):
                space.insert_region(ram(DIMM, MIB, name="dimm"))
                memory.write_u32(DIMM, number)
                wait_for(number)
                space.remove_region("dimm")
                wait_for(0xFFFF_FFFF)
                assert SEEN in slots.dirty_log()
        finally:
            memory.write_u32(STOP, 1)
    assert memory.read_u32(COUNT) > 50
    assert slots.error is None
    assert not maps_of("memfd:dimm")
    slots.detach()


def test_a_region_in_the_place_of_another_and_read_only_and_back(space: AddressSpace, vm: Vm) -> None:
    """The two changes that need paused processors; the guest's write to a read-only region is an exit."""
    memory = space.memory
    slots = space.attach_kvm(vm.fd, dirty_log=True)
    memory.write(CODE, store(DIMM, 1) + HLT)

    def exits() -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        vm.protected_mode(CODE)
        vm.run(lambda _addr, _size: 0, lambda addr, _size, value: found.append((addr, value)))
        return found

    assert exits() == []
    space.replace_region("dimm", space["dimm"].replace(prot_flags="r--"))
    assert exits() == [(DIMM, 1)]
    assert slots.dirty_log(region="dimm", clear=False) == pages((DIMM, 0))
    space.replace_region("dimm", space["dimm"].replace(prot_flags="rw-"))
    assert exits() == []
    with space.transaction() as change:
        change.remove_region("dimm")
        change.insert_region(ram(DIMM - MIB, 4 * MIB, name="larger"))
    assert exits() == []
    assert memory.read_u8(DIMM) == 1
    assert slots.error is None
    slots.detach()


def test_a_refused_exchange_keeps_slots_and_dirty_pages(space: AddressSpace, vm: Vm) -> None:
    memory = space.memory
    slots = space.attach_kvm(vm.fd, dirty_log=True)
    memory.write(CODE, store(DIMM + 5 * PAGE, 1) + HLT)
    vm.protected_mode(CODE)
    vm.run_on(space)
    vm.set_slot(100, DIMM + 8 * MIB, PAGE, memory.host_address(0))
    before = state(space, slots)
    with pytest.raises(BackingError) as refused, space.transaction() as change:
        change.remove_region("dimm")
        change.insert_region(ram(DIMM, 16 * MIB, name="larger"))
    assert refused.value.errno == errno.EEXIST
    assert "not ours" in str(refused.value)
    assert state(space, slots) == before
    assert slots.dirty_log(region="dimm") == pages((DIMM, 5))
    vm.protected_mode(CODE)
    vm.run_on(space)
    assert slots.dirty_log(region="dimm") == pages((DIMM, 5))
    slots.detach()


def test_the_dirty_log_follows_cuts_unions_and_moves(space: AddressSpace, vm: Vm) -> None:
    memory, joint, moved = space.memory, DIMM + 100 * PAGE, 2 * DIMM

    def guest_writes(*addresses: int) -> None:
        memory.write(CODE, b"".join(store(address, 0x5A) for address in addresses) + HLT)
        vm.protected_mode(CODE)
        vm.run_on(space)

    slots = space.attach_kvm(vm.fd, dirty_log=True)
    guest_writes(DIMM + 5 * PAGE, DIMM + 170 * PAGE)
    space.split_region("dimm", joint)
    assert list(slots.base_to_slot) == [0, TABLES, DIMM, joint, HIGH]
    guest_writes(joint)
    space.join_regions("dimm", joint)
    space.split_region("dimm", joint)
    space.move_region(joint, moved)
    guest_writes(moved + PAGE)
    assert memory.read_u8(moved + PAGE) == 0x5A
    assert slots.dirty_log() == pages((DIMM, 5), (moved, 0), (moved, 1), (moved, 70))
    assert not slots.dirty_log()
    slots.set_dirty_log(moved, on=False)
    space.split_region(moved, moved + PAGE)
    with pytest.raises(Unsupported, match="set_dirty_log"):
        slots.dirty_log(region=moved + PAGE)
    before = state(space, slots)
    vm.set_slot(100, DIMM + 8 * MIB, PAGE, memory.host_address(0))
    with pytest.raises(BackingError):
        space.move_region(moved, DIMM + 8 * MIB)
    assert state(space, slots) == before
    slots.detach()


def test_what_kvm_refuses_changes_nothing(space: AddressSpace, vm: Vm) -> None:
    foreign = 96 * MIB
    vm.set_slot(100, foreign, PAGE, space.memory.host_address(0))
    slots = space.attach_kvm(vm.fd, max_slots=5)
    before = state(space, slots)
    with pytest.raises(BackingError, match="overlaps") as refused:
        space.insert_region(ram(foreign, MIB, name="extra"))
    assert refused.value.errno == errno.EEXIST
    assert refused.value.region is not None
    assert state(space, slots) == before
    space.insert_region(ram(2 * foreign, MIB, name="extra"))
    before = state(space, slots)
    with pytest.raises(BackingError, match=r"no memory slot is left.*the 5 ") as refused:
        space.insert_region(ram(foreign + MIB, MIB))
    assert refused.value.errno == errno.ENOSPC
    assert state(space, slots) == before
    space.remove_region("extra")
    slots.detach()
    # The machine's owner has used a number that is ours to give.
    vm.set_slot(0, 2 * foreign, PAGE, space.memory.host_address(0))
    with pytest.raises(BackingError, match="first_slot") as refused:
        space.attach_kvm(vm.fd)
    assert refused.value.errno == errno.EINVAL
    assert not space.clients
    with space.attach_kvm(vm.fd, first_slot=1, max_slots=3 + 1) as slots:
        assert len(slots.base_to_slot) == 4


def test_a_descriptor_that_is_not_a_machine_is_refused(space: AddressSpace, vm: Vm) -> None:
    with Path("/dev/null").open("rb") as file, Path("/dev/kvm").open("r+b", buffering=0) as kvm:
        numbers = [file.fileno(), kvm.fileno()]
        closed = os.dup(file.fileno())
        os.close(closed)
        for number in (*numbers, closed):
            with pytest.raises(BackingError, match="is not a KVM virtual machine"):
                space.attach_kvm(number)
    assert not space.clients


@pytest.mark.parametrize("wrong", [2**40, -1, True, "3", 1.5, None], ids=repr)
def test_what_is_no_descriptor_is_refused(space: AddressSpace, vm: Vm, wrong: Any) -> None:
    with pytest.raises((InvalidAddressRange, TypeError)):
        space.attach_kvm(wrong)
    with pytest.raises((InvalidAddressRange, TypeError)):
        space.attach_vhost_user(wrong)


def test_an_unmapped_space_has_nothing_for_kvm(vm: Vm) -> None:
    space = AddressSpace.from_regions([ram(0)], LAYOUT)
    with pytest.raises(NotMapped):
        space.attach_kvm(vm.fd)


def test_the_owner_may_close_its_descriptor_and_memory_may_close(space: AddressSpace, vm: Vm) -> None:
    memory = space.memory
    slots = space.attach_kvm(vm.fd)
    vm.close_machine()
    space.insert_region(ram(2 * DIMM, MIB, name="another"))
    assert len(slots.base_to_slot) == 5
    memory.close()
    assert slots.base_to_slot == {}
    assert not maps_of("memfd:low")
    space.map_memory()
    assert len(slots.base_to_slot) == 5
    slots.detach()


def test_a_slot_that_can_not_be_deleted_keeps_its_memory(space: AddressSpace, vm: Vm, unraisable: list[Any]) -> None:
    slots = space.attach_kvm(vm.fd)
    space.insert_region(ram(2 * DIMM, MIB, name="stuck"))
    vm.set_slot(slots.slot_of("stuck"), 0, 0)
    assert "stuck" not in space.remove_region("stuck")
    assert isinstance(slots.error, BackingError)
    assert slots.error.errno == errno.EINVAL
    assert slots.error.region is not None
    assert slots.error.region.name == "stuck"
    assert [str(error) for error in unraisable] == [str(slots.error)]
    assert maps_of("memfd:stuck")
    assert not space.clients
    space.remove_region("dimm")
    assert maps_of("memfd:dimm"), "a detached client's slots keep their memory"
    slots.detach()
    assert not maps_of("memfd:dimm")


def test_dropping_everything_deletes_the_slots_before_the_memory_goes(vm: Vm) -> None:
    space, memory = mapped(ram(0, MIB, name="dropped"))
    space.attach_kvm(vm.fd)
    del space, memory
    assert not maps_of("memfd:dropped")
    with pytest.raises(OSError, match="Invalid argument"):
        vm.set_slot(0, 0, 0)


def test_a_forked_child_is_told_so(space: AddressSpace, vm: Vm) -> None:
    slots = space.attach_kvm(vm.fd, dirty_log=True)

    def child() -> None:
        verbs = (
            slots.dirty_log,
            slots.detach,
            lambda: slots.set_dirty_log("low", on=False),
            lambda: space.attach_kvm(vm.fd),
        )
        for verb in verbs:
            with pytest.raises(ForkedProcess):
                verb()

    in_child(child)
    assert len(slots.base_to_slot) == 4
    slots.detach()


def test_a_guest_memfd_goes_with_its_slot(vm: Vm) -> None:
    space, _ = mapped(ram(0, MIB, name="low"))
    try:
        slots = space.attach_kvm(vm.fd, guest_memfd=True)
    except Unsupported:
        pytest.skip("this kernel has no guest_memfd for this type of virtual machine")
    assert slots.base_to_slot == {0: 0}
    with pytest.raises((Unsupported, BackingError)):
        slots.set_private(0, MIB + 1)
    with pytest.raises(Unsupported, match="choose"):
        space.attach_kvm(vm.fd, guest_memfd=True, dirty_log=True)
    slots.detach()


def test_exits_are_resolved_to_regions() -> None:
    layout = AddressSpaceLayout(1 << 36, 0, 1 << 35, mmio_windows=((0xD000_0000, MIB),))
    space = AddressSpace.from_regions(
        [ram(0, MIB), AddressSpaceRegion("device", 0xD000_0000, PAGE, name="uart")], layout
    )
    memory = space.map_memory()
    vm = Vm()
    trace: list[tuple[int, ...]] = []

    class Uart:
        def read(self, offset: int, size: int) -> int:
            return 0x41 + offset + size

        def write(self, *access: int) -> None:
            trace.append(access)

    attachment = space.attach_device("uart", Uart())
    with space.attach_kvm(vm.fd):
        code = b"\xa0" + struct.pack("<I", 0xD000_0004)  # mov al, [uart + 4]
        code += b"\xa2" + struct.pack("<I", 0xD000_0008)  # mov [uart + 8], al
        memory.write(CODE, code + HLT)
        vm.protected_mode(CODE)
        vm.run_on(space)
    assert trace == [(8, 1, 0x46)]
    attachment.detach()
    vm.close()


def test_a_slot_that_the_owner_gave_to_more_memory_is_stopped_at_our_buffer() -> None:
    """KVM writes as many bits as its slot has pages: 128 KiB into 8 bytes, were there no guard page."""

    def probe() -> None:
        (space, _), vm = mapped(ram(0, name="low")), Vm()
        slots = space.attach_kvm(vm.fd, dirty_log=True)
        number, host = slots.slot_of("low"), mmap.mmap(-1, 4 * GIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        vm.set_slot(number, 0, 0)
        vm.set_slot(number, 64 * GIB, 4 * GIB, ctypes.addressof(ctypes.c_char.from_buffer(host)), LOG_DIRTY_PAGES)
        with pytest.raises(BackingError, match="larger slot") as refused:
            slots.dirty_log()
        assert refused.value.errno == errno.EFAULT
        vm.set_slot(number, 0, 0)
        with pytest.raises(BackingError, match="deleted"):
            slots.dirty_log(region="low")

    in_child(probe)


def test_an_address_beyond_the_processors_is_not_blamed_on_the_number(vm: Vm) -> None:
    beyond = AddressSpaceRegion("ram", 1 << 60, PAGE, name="beyond")
    space = AddressSpace.from_regions([beyond], AddressSpaceLayout(1 << 62, 0, 1 << 61))
    space.map_memory()
    with pytest.raises(BackingError, match="beyond the physical addresses"):
        space.attach_kvm(vm.fd)
