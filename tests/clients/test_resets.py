"""A guest that is put back thousands of times, on KVM in ring 3, beside a view and Unicorn, while its faults are counted."""

import ctypes
import fcntl
import json
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dbs_address_space import AddressSpace, DirtyPages, InvalidArgument, Unsupported
from dbs_address_space.adapters import kvm_state
from host import imported
from kernel_view import descriptors, status
from memory_helpers import PAGE, blocks
from ring3_kvm import DEVICE, Ring3Machine, new_space
from vhost_user_backend import KINDS, MappingBackend

CODE, LIST, DATA = 0x10000, 0x20000, 0x100000
RESETS = int(os.environ.get("RESETS", "2000"))
KVM_GET_STATS_FD = 0xAECE
PF_TAKEN = b"pf_taken"


def at_each(work: bytes) -> bytes:
    """next: mov rax, [rsi]; add rsi, 8; test rax, rax; jz end; two bytes that do something at rax; jmp next; end:"""
    return b"\x48\x8b\x06\x48\x83\xc6\x08\x48\x85\xc0\x74\x04" + work + b"\xeb\xf0"


# mov rsi, LIST; mov al, [rax] of one list, inc byte [rax] of the next; mov rbx, DEVICE; mov [rbx], al
PROGRAM = (
    (b"\x48\xbe" + LIST.to_bytes(8, "little"))
    + (at_each(b"\x8a\x00") + at_each(b"\xfe\x00"))
    + (b"\x48\xbb" + DEVICE.to_bytes(8, "little"))
    + b"\x88\x03"
)


def load(space: AddressSpace, addresses: list[int], read: list[int] | None = None) -> None:
    """A program that reads the bytes of a list, and adds one to each of another."""
    numbers = [*(read or []), 0, *addresses, 0]
    space.memory.write(CODE, PROGRAM)
    space.memory.write(LIST, struct.pack(f"<{len(numbers)}Q", *numbers))


class Machine(Ring3Machine):
    """A machine for checkpoints of a mode."""

    def __init__(self, space: AddressSpace, mode: Any) -> None:
        super().__init__(space, dirty_log=mode == "kvm")
        self.space, self.mode = space, mode


@pytest.fixture(params=["pagemap", "kvm"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    if not Path("/dev/kvm").exists():
        pytest.skip("there is no /dev/kvm")
    machine = Machine(new_space(), request.param)
    yield machine
    machine.close()


def faults(vcpu: int) -> int:
    """How often the guest came to KVM for a page: `pf_taken` in the statistics of a virtual CPU."""
    fd = fcntl.ioctl(vcpu, KVM_GET_STATS_FD, 0)
    try:
        head = struct.unpack("<6I", os.pread(fd, 24, 0))
        _, name_size, count, _, descriptors, values = head
        size = 16 + name_size
        table = os.pread(fd, size * count, descriptors)
        for at in range(0, len(table), size):
            (offset,) = struct.unpack_from("<I", table, at + 8)
            if table[at + 16 : at + size].rstrip(b"\0") == PF_TAKEN:
                return int.from_bytes(os.pread(fd, 8, values + offset), "little")
    finally:
        os.close(fd)
    pytest.skip("KVM does not count the faults of this kind of machine")


@pytest.mark.timeout(1200)
def test_a_guest_is_put_back_thousands_of_times(machine: Machine) -> None:
    unicorn = imported("unicorn")
    space, memory = machine.space, machine.space.memory
    load(space, [DATA + index * 7 * PAGE for index in range(50)])
    machine.boot(CODE)
    engine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    backend = MappingBackend(KINDS["slots"])
    client = space.attach_vhost_user(backend.front)
    # To KVM's log a view that may be written is a writer of all of it, each time.
    view = memory.view(0, memory.regions[0].size, writable=machine.mode == "pagemap")
    everything, of_backend = np.frombuffer(view, "u1"), np.frombuffer(backend.maps[0], "u1")
    random = np.random.default_rng(1)
    registers = kvm_state.capture(machine.vcpu, groups=("sregs", "regs", "xsave"))
    trust = ("vhost-user",)
    with (
        space.attach_unicorn(engine),
        memory.checkpoint(mode=machine.mode, trust=trust, on_restore=registers.apply) as point,
    ):
        before, table = everything.copy(), client.table
        usage = []
        for turn in range(RESETS):
            machine.run()
            if machine.mode == "pagemap":
                engine.mem_write(DATA + int(random.integers(0, 4000)) * PAGE, b"\xaa")
                everything[int(random.integers(DATA, len(everything)))] ^= 1
            else:
                memory.write_u8(DATA + int(random.integers(0, 4000)) * PAGE, 0xAA)
            assert point.restore() >= 50
            if turn % (RESETS // 4) == RESETS // 8:
                assert not point.verify()
                assert np.array_equal(everything, before)
                assert np.array_equal(of_backend, before)
                usage.append((len(descriptors()), space.stats().leases, status("VmPTE"), status("RssAnon")))
        (fds, leases, tables, private), last = usage[0], usage[-1]
        assert last[:2] == (fds, leases)
        # In KiB. Page tables of the emulator and of the allocator come and go.
        assert last[2] <= tables + 512
        assert last[3] <= private + 8192
        assert client.table == table == memory.vhost_user_regions()
        assert engine.mem_read(DATA, 8) == bytes(8)
        # The comparisons above read all of it, and pages that were only read were given back.
        assert machine.mode == "kvm" or blocks(memory, 0) * 512 < len(everything)
    del everything, of_backend
    view.release()
    client.detach()
    backend.close()


def test_a_run_behind_a_restore_faults_no_more_than_pages_are_protected_again(machine: Machine) -> None:
    """Protecting all of it in one call makes KVM drop every page of the guest's: then a run faults at each page that it reads."""
    memory = machine.space.memory
    addresses = [DATA + index * PAGE for index in range(400)]
    load(machine.space, addresses)
    machine.boot(CODE)
    machine.run()
    registers = kvm_state.capture(machine.vcpu, groups=("sregs", "regs"))
    with memory.checkpoint(mode=machine.mode) as point:
        machine.boot(CODE)
        load(machine.space, addresses)
        for _ in range(3):
            machine.run()
            point.restore()
            machine.boot(CODE)
        for _ in range(20):
            protected, taken = point.stats.protected, faults(machine.vcpu)
            machine.run()
            assert point.restore() == 400
            machine.boot(CODE)
            again = point.stats.protected - protected
            assert faults(machine.vcpu) - taken <= again + 40
    assert registers.groups == ("sregs", "regs")


def test_a_run_behind_a_collection_faults_at_pages_that_were_collected_only(machine: Machine) -> None:
    space = machine.space
    load(space, [DATA + index * 20 * PAGE for index in range(20)], [DATA + index * PAGE for index in range(400)])
    machine.boot(CODE)
    machine.run()
    with space.memory.dirty.start(machine.mode) as tracker:
        for _ in range(3):
            machine.boot(CODE)
            machine.run()
            tracker.collect()
        for _ in range(5):
            taken = faults(machine.vcpu)
            machine.boot(CODE)
            machine.run()
            assert faults(machine.vcpu) - taken <= tracker.collect().count + 40


def test_a_guest_that_writes_while_a_collector_loops_is_found_at_each_page(machine: Machine) -> None:
    space = machine.space
    written = [DATA + index * PAGE for index in np.random.default_rng(1).permutation(8000).tolist()]
    load(space, written)
    machine.boot(CODE)
    machine.run()
    machine.boot(CODE)
    with space.memory.dirty.start(machine.mode) as tracker:
        space.memory.fill(DATA, 8000 * PAGE, 1)
        tracker.collect()
        found: set[int] = set()
        guest = threading.Thread(target=machine.run)
        guest.start()
        while guest.is_alive():
            found |= pages_of(tracker.collect())
        found |= pages_of(tracker.collect())
    # KVM's log names pages that were only read, too.
    assert found == set(written) or (machine.mode == "kvm" and found > set(written))


def pages_of(found: DirtyPages) -> set[int]:
    return {page for pages in found for page in range(pages.base, pages.end, PAGE)}


def test_registers_are_put_back_with_the_memory(machine: Machine) -> None:
    load(machine.space, [DATA])
    machine.boot(CODE)
    state = kvm_state.capture(machine.vcpu, run=machine.kvm_run)
    assert {"regs", "sregs", "xsave", "msrs", "events"} <= set(state.groups)
    assert repr(state).startswith("VcpuState(sregs, ")
    regs = ctypes.create_string_buffer(144)
    fcntl.ioctl(machine.vcpu, 0x8090AE81, regs)
    before = regs.raw
    with machine.space.memory.checkpoint(mode=machine.mode, on_restore=state.apply) as point:
        for _ in range(3):
            assert machine.run()[0] == DEVICE
            fcntl.ioctl(machine.vcpu, 0x8090AE81, regs)
            assert regs.raw != before
            assert point.restore() == 1
            fcntl.ioctl(machine.vcpu, 0x8090AE81, regs)
            assert regs.raw == before


def test_an_emulator_goes_back_with_its_registers_and_its_translations() -> None:
    """A program writes its own next instruction; what was translated of that must not be executed again."""
    unicorn = imported("unicorn")
    x86 = imported("unicorn.x86_const")
    space = new_space()
    # mov eax, 1; and, once it has run, a 2 in its place
    space.memory.write(CODE, b"\xb8\x01\0\0\0\x90")
    engine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    with space.attach_unicorn(engine), space.memory.checkpoint() as point:
        for count in (1, 40):
            engine.emu_start(CODE, CODE + 5)
            assert engine.reg_read(x86.UC_X86_REG_EAX) == 1
            space.memory.write_u8(CODE + 1, 2)
            engine.ctl_remove_cache(CODE, CODE + 6)
            for page in range(count):
                space.memory.write_u8(DATA + 2 * page * PAGE, 1)
            engine.emu_start(CODE, CODE + 5)
            assert engine.reg_read(x86.UC_X86_REG_EAX) == 2
            assert point.restore() == count + 1
            assert engine.reg_read(x86.UC_X86_REG_EAX) == 0
        engine.emu_start(CODE, CODE + 5)
        assert engine.reg_read(x86.UC_X86_REG_EAX) == 1


def test_what_is_no_processor_and_no_register_is_refused(tmp_path: Path) -> None:
    wrong: Any = ("regs", "colour")
    with pytest.raises(InvalidArgument, match=r"colour.*sregs"):
        kvm_state.capture(0, groups=wrong)
    file = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(Unsupported, match="KVM_CREATE_VCPU"):
        kvm_state.capture(file)
    os.close(file)


def test_registers_travel_as_bytes_and_other_bytes_are_refused() -> None:
    state = kvm_state.VcpuState.from_bytes(json.dumps({"regs": "07" * 144, "msrs": "01" + "00" * 23}).encode())
    assert state.groups == ("msrs", "regs")
    assert kvm_state.VcpuState.from_bytes(bytes(state)).groups == state.groups
    with pytest.raises(InvalidArgument, match="give vcpu_fd"):
        state.apply()
    wrong = [
        {"regs": "07" * 143},
        {"msrs": "02" + "00" * 23},
        {"msrs": ""},
        {"chaos": ""},
        {"regs": "x"},
        {"regs": 1},
        [],
        5,
    ]
    for data in (*(json.dumps(one).encode() for one in wrong), b"", b"\xff", b"[" * 100_000):
        with pytest.raises(InvalidArgument, match="not registers"):
            kvm_state.VcpuState.from_bytes(data)
