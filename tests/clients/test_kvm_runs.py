"""KVM's slots follow runs of regions: what a change costs a guest that runs, told by counters and by the guest."""

import ctypes
import fcntl
import signal
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from types import TracebackType
from typing import Self

import pytest
from dbs_address_space import (
    AddressSpace,
    AddressSpaceChange,
    AddressSpaceRegion,
    ClientError,
    DirtyPages,
    InvalidAddressRange,
    KvmSlots,
    ReentrantChange,
    Unsupported,
)
from engine_kvm import EXIT_REASON_OFFSET, KVM_EXIT_HLT, KVM_RUN
from memory_helpers import MIB, PAGE, mapped, ram
from virtual_machines import HLT, Vm, store

RAM = 16 * MIB
FREE = 64 * MIB
CODE = RAM + 0x1000
KVM_EXIT_INTERNAL_ERROR = 17
KVM_GET_DIRTY_LOG = 0x4010_AE42
IMMEDIATE_EXIT_OFFSET = 1


@pytest.fixture
def vm() -> Iterator[Vm]:
    vm = Vm()
    yield vm
    vm.close()


@pytest.fixture
def space() -> AddressSpace:
    space, _ = mapped(ram(0, MIB, name="low"), ram(RAM, 4 * MIB, name="ram"))
    return space


def guest_writes(space: AddressSpace, vm: Vm, *addresses: int) -> list[tuple[int, int]]:
    """Lets the guest write a byte at each address; returns the writes that found no memory to take them."""
    exits: list[tuple[int, int]] = []
    space.memory.write(0x1000, b"".join(store(address, 0x5A) for address in addresses) + HLT)
    vm.protected_mode(0x1000)
    vm.run(lambda _addr, _size: 0, lambda addr, _size, value: exits.append((addr, value)))
    return exits


def pages(*addresses: int) -> DirtyPages:
    return DirtyPages([(address, PAGE) for address in addresses], sources=["kvm"])


def test_what_costs_a_running_guest_nothing(space: AddressSpace, vm: Vm) -> None:
    with space.attach_kvm(vm.fd, dirty_log=True) as slots:
        number = slots.slot_of("ram")
        guest_writes(space, vm, RAM + PAGE, RAM + 2 * MIB)
        space.split_region("ram", RAM + MIB)
        space.split_region(RAM + MIB, RAM + 2 * MIB)
        assert slots.base_to_slot == {0: 0, RAM: number, RAM + MIB: number, RAM + 2 * MIB: number}
        space.replace_region(RAM + MIB, space[RAM + MIB].replace(name="middle"))
        space.replace_region("middle", space["middle"].replace(name=None))
        space.join_regions(RAM + MIB, RAM + 2 * MIB)
        space.join_regions("ram", RAM + MIB)
        space.move_region("ram", FREE)
        space.insert_region(AddressSpaceRegion.alias(2 * FREE, space["ram"]))
        space.remove_region(2 * FREE)
        assert slots.slot_of("ram") == number
        assert slots.windows == 0
        assert slots.dirty_log(region="ram") == pages(FREE + PAGE, FREE + 2 * MIB)
        assert guest_writes(space, vm, FREE, RAM) == [(RAM, 0x5A)]
        assert slots.dirty_log(region="ram") == pages(FREE)


def test_part_of_a_slot_is_protected_logged_and_moved(space: AddressSpace, vm: Vm) -> None:
    middle = RAM + MIB
    with space.attach_kvm(vm.fd, dirty_log=True) as slots:
        guest_writes(space, vm, middle, middle + 5 * PAGE)
        space.protect(middle, 4 * PAGE, "r--")
        assert slots.windows == 1
        assert len(set(slots.base_to_slot.values())) == 4
        assert guest_writes(space, vm, middle, middle + 5 * PAGE) == [(middle, 0x5A)]
        assert slots.dirty_log(region=middle) == pages(middle)
        assert slots.dirty_log(region=middle + 4 * PAGE, clear=False) == pages(middle + 5 * PAGE)
        space.protect(middle, 4 * PAGE, "rw-")
        assert slots.windows == 2
        space.join_regions("ram", middle)
        space.join_regions("ram", middle + 4 * PAGE)
        assert slots.dirty_log(region="ram") == pages(middle + 5 * PAGE)
        assert guest_writes(space, vm, middle) == []
        assert slots.dirty_log(region="ram") == pages(middle)
        space.split_region("ram", middle + PAGE)
        slots.set_dirty_log(middle + PAGE, on=False)
        assert slots.windows == 3
        with pytest.raises(Unsupported):
            slots.dirty_log(region=middle + PAGE)
        assert guest_writes(space, vm, middle, middle + PAGE) == []
        assert slots.dirty_log(region="ram") == pages(middle)
        space.move_region(middle + PAGE, FREE)
        assert guest_writes(space, vm, FREE, middle + PAGE) == [(middle + PAGE, 0x5A)]
        with pytest.raises(Unsupported):
            slots.dirty_log(region=FREE)
        assert slots.error is None


def test_a_region_that_two_slots_show_keeps_the_one_that_does_not_change(space: AddressSpace, vm: Vm) -> None:
    """Slots that were cut are not joined again: a region over their joint reaches into one that a change is not about."""
    end = RAM + 4 * MIB
    with space.attach_kvm(vm.fd) as slots:
        space.protect(RAM + PAGE, PAGE, "r--")
        space.protect(RAM + PAGE, PAGE, "rw-")
        space.split_region(RAM + 2 * PAGE, RAM + 3 * PAGE)
        space.join_regions(RAM + PAGE, RAM + 2 * PAGE)
        before = dict(slots.base_to_slot)
        space.protect(RAM + 3 * PAGE, PAGE, "r--")
        assert slots.base_to_slot[RAM + PAGE] == before[RAM + PAGE]
        assert guest_writes(space, vm, *range(RAM, RAM + 5 * PAGE, PAGE), end - 1) == [(RAM + 3 * PAGE, 0x5A)]


def test_each_window_has_a_slot_with_a_log_of_its_own(space: AddressSpace, vm: Vm) -> None:
    with space.attach_kvm(vm.fd, dirty_log=True) as slots:
        space.insert_region(AddressSpaceRegion.alias(FREE, space["ram"], MIB, MIB, name="same"))
        space.insert_region(AddressSpaceRegion.alias(2 * FREE, space["ram"], MIB, MIB, prot_flags="r--", name="rom"))
        assert guest_writes(space, vm, FREE + PAGE, RAM + MIB + 2 * PAGE, 2 * FREE) == [(2 * FREE, 0x5A)]
        assert space.memory.read_u8(RAM + MIB + PAGE) == space.memory.read_u8(2 * FREE + 2 * PAGE) == 0x5A
        assert slots.dirty_log(region="same") == pages(FREE + PAGE)
        assert slots.dirty_log(region="ram") == pages(RAM + MIB + 2 * PAGE)
        space.remove_region("ram")
        assert guest_writes(space, vm, FREE) == []
        assert slots.windows == 0


def test_a_slot_has_no_more_bytes_than_it_may(space: AddressSpace, vm: Vm) -> None:
    for wrong in (0, PAGE + 1):
        with pytest.raises(InvalidAddressRange):
            space.attach_kvm(vm.fd, slot_size=wrong)
    with space.attach_kvm(vm.fd, slot_size="1MiB", max_slots=8) as slots:
        space.protect(RAM + MIB + PAGE, PAGE, "r--")
        assert slots.windows == 1
        assert slots.slot_of("ram") == 1
        # Of the four slots of the RAM one was cut in three; it keeps its number until the others have theirs.
        assert slots.base_to_slot == {0: 0, RAM: 1, RAM + MIB + PAGE: 6, RAM + MIB + 2 * PAGE: 7}
        assert guest_writes(space, vm, RAM, RAM + MIB + PAGE, RAM + 3 * MIB) == [(RAM + MIB + PAGE, 0x5A)]


class Quiet:
    """A context manager that notes what happens, and looks at the slots meanwhile."""

    def __init__(self) -> None:
        self.trace: list[str] = []
        self.slots: KvmSlots | None = None
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        assert self.slots is not None
        self.trace.append(f"stop {len(self.slots.base_to_slot)}")
        if self.error:
            raise self.error
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        assert kind is None
        self.trace.append("go")


class Refusing:
    """A client behind KVM, which takes what is there."""

    def prepare(self, change: AddressSpaceChange) -> None:
        if change.before.regions:
            raise ValueError("no")

    def commit(self, _change: AddressSpaceChange) -> None: ...

    def rollback(self, _change: AddressSpaceChange) -> None: ...


def test_processors_are_held_only_where_a_slot_makes_way(space: AddressSpace, vm: Vm) -> None:
    quiet = Quiet()
    quiet.slots = slots = space.attach_kvm(vm.fd, quiesce=quiet)
    space.split_region("ram", RAM + MIB)
    space.insert_region(ram(FREE, MIB))
    space.remove_region(FREE)
    assert quiet.trace == []
    space.protect(RAM, PAGE, "r--")
    assert quiet.trace == ["stop 4", "go"]
    quiet.error = ValueError("busy")
    before = space.snapshot(), slots.base_to_slot, slots.windows
    with pytest.raises(ClientError, match="quiesce of KVM failed: ValueError: busy") as refused:
        space.protect(RAM, PAGE, "rw-")
    assert isinstance(refused.value.__cause__, ValueError)
    assert (space.snapshot(), slots.base_to_slot, slots.windows) == before
    quiet.error = None
    quiet.trace.clear()
    with space.subscribe(Refusing()), pytest.raises(ClientError):
        space.protect(RAM, PAGE, "rw-")
    assert quiet.trace == ["stop 4", "go"]
    assert guest_writes(space, vm, RAM) == [(RAM, 0x5A)]
    space.protect(RAM, PAGE, "rw-")
    assert guest_writes(space, vm, RAM) == []
    slots.detach()
    with pytest.raises(TypeError, match="quiesce must be a context manager"):
        space.attach_kvm(vm.fd, quiesce=3)  # type: ignore[arg-type]


class Processor:
    """A processor that runs in a thread, and that can be held: a signal and a flag bring it out of the kernel."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self.reason = 0
        self.is_held = self.is_stopped = False
        self.held, self.go = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while not self.is_stopped:
            try:
                fcntl.ioctl(self.vm._vcpu, KVM_RUN, 0)  # noqa: SLF001
            except InterruptedError:
                if self.is_held:
                    self.held.set()
                    self.go.wait()
                continue
            (self.reason,) = struct.unpack_from("<I", self.vm._run, EXIT_REASON_OFFSET)  # noqa: SLF001
            return

    def __enter__(self) -> None:
        self.held.clear()
        self.go.clear()
        self.is_held = True
        self.vm._run[IMMEDIATE_EXIT_OFFSET] = 1  # noqa: SLF001
        while self.thread.is_alive():
            signal.pthread_kill(self.thread.ident or 0, signal.SIGUSR1)
            if self.held.wait(0.01):
                return

    def __exit__(self, *_: object) -> None:
        self.is_held = False
        self.vm._run[IMMEDIATE_EXIT_OFFSET] = 0  # noqa: SLF001
        self.go.set()


@pytest.mark.parametrize("is_held", [True, False], ids=["held", "running"])
def test_code_runs_in_a_slot_that_is_cut(space: AddressSpace, vm: Vm, *, is_held: bool) -> None:
    """A guest that fetches code where a slot makes way is dead, unless its processors are held: else this test sees it die."""
    memory = space.memory
    loop = b"\xff\x05" + struct.pack("<I", 0x4000)  # inc dword [0x4000]
    loop += b"\x83\x3d" + struct.pack("<Ib", 0x5000, 0)  # cmp dword [0x5000], 0
    loop += b"\x74" + struct.pack("<b", -len(loop) - 2)  # je loop
    memory.write(CODE, loop + HLT)
    vm.protected_mode(CODE)
    processor = Processor(vm)
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    slots = space.attach_kvm(vm.fd, quiesce=processor if is_held else None)
    processor.thread.start()
    deadline = time.monotonic() + 20
    while memory.read_u32(0x4000) == 0:
        assert time.monotonic() < deadline
    for number in range(1000):
        space.split_region("ram", RAM + 2 * PAGE)
        space.join_regions("ram", RAM + 2 * PAGE)
        if number % 4 == 0:
            assert slots.windows == number // 2
            # Cuts the slot that has the code.
            space.protect(RAM + 3 * MIB - number * PAGE // 4, PAGE, "r--")
            space.protect(RAM + 3 * MIB - number * PAGE // 4, PAGE, "rw-")
        if not processor.thread.is_alive():
            break
    memory.write_u32(0x5000, 1)
    processor.thread.join(30)
    signal.signal(signal.SIGUSR1, before)
    slots.detach()
    assert processor.reason == (KVM_EXIT_HLT if is_held else KVM_EXIT_INTERNAL_ERROR)


@pytest.mark.parametrize("vetoes", [False, True])
def test_a_log_is_switched_between_changes(space: AddressSpace, vm: Vm, vetoes: bool) -> None:  # noqa: FBT001
    """Switched in the midst of one, it would cut a slot by the table of steps that the change still needs."""
    space.insert_region(ram(FREE, MIB, name="leaving"))

    class Switcher:
        name = "switcher"
        switch: threading.Thread | None = None

        def prepare(self, change: AddressSpaceChange) -> None:
            if [region.name for region in change.removed] != ["leaving"]:
                return
            self.switch = threading.Thread(target=slots.set_dirty_log, args=("upper", False))
            self.switch.start()
            self.switch.join(0.2)
            assert self.switch.is_alive()
            with pytest.raises(ReentrantChange):
                slots.set_dirty_log("upper", on=False)
            if vetoes:
                raise ValueError

        def commit(self, _change: AddressSpaceChange) -> None:
            """Leaves nothing to do."""

        rollback = commit

    switcher = Switcher()
    with space.attach_kvm(vm.fd, dirty_log=True) as slots, space.subscribe(switcher):
        space.split_region("ram", RAM + MIB)
        space.replace_region(RAM + MIB, space[RAM + MIB].replace(name="upper"))
        with pytest.raises(ClientError) if vetoes else nullcontext():
            space.remove_region("leaving")
        assert switcher.switch
        switcher.switch.join(60)
        assert slots.error is None
        with pytest.raises(Unsupported, match="set_dirty_log"):
            slots.dirty_log(region="upper")
        assert guest_writes(space, vm, FREE) == ([] if vetoes else [(FREE, 0x5A)])
        assert guest_writes(space, vm, RAM, RAM + 2 * MIB) == []
        assert slots.dirty_log(region="ram") == pages(RAM)
        if not vetoes:
            space.insert_region(ram(FREE, MIB, name="again"))
            assert guest_writes(space, vm, FREE) == []


def logged(vm: Vm, number: int) -> int:
    """The pages of a slot of a MiB that KVM has in its log."""
    bitmap = ctypes.create_string_buffer(MIB // PAGE // 8)
    fcntl.ioctl(vm.fd, KVM_GET_DIRTY_LOG, struct.pack("<IIQ", number, 0, ctypes.addressof(bitmap)))
    return int.from_bytes(bitmap.raw, "little").bit_count()


def test_a_checkpoint_clears_the_log_of_each_slot_of_a_region(space: AddressSpace, vm: Vm) -> None:
    with space.attach_kvm(vm.fd, dirty_log=True, manual_clear=True, slot_size="1MiB") as slots:
        numbers = range(len(space) + 3)
        assert slots.slot_of("ram") in numbers
        with space.memory.checkpoint(mode="kvm") as point:
            guest_writes(space, vm, RAM + 3 * MIB, RAM + PAGE)
            assert sum(logged(vm, number) for number in numbers) >= 2
            for _ in range(12):
                # Pages that were written are protected again, and so cleared, when some restores found them as they were.
                point.restore()
            assert sum(logged(vm, number) for number in numbers) == 0
            assert space.memory.read(RAM + 3 * MIB, 1) == space.memory.read(RAM + PAGE, 1) == b"\0"
