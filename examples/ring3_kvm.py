"""A small machine on Linux's KVM whose guest runs in ring 3 of long mode, and leaves by a store to an address without memory.

Some hosts run virtual machines without the processor's own support for them. They emulate a kernel, ring 0, instruction by
instruction, and let ring 3 run natively: so a guest in ring 3 is fast everywhere.
"""

import ctypes
import fcntl
import mmap
import os
import struct
from typing import Any

from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion, GuestMemory
from dbs_address_space.adapters import kvm_state
from engine import EngineMissing
from engine_kvm import (
    EXIT_OFFSET,
    EXIT_REASON_OFFSET,
    KVM_CREATE_VCPU,
    KVM_CREATE_VM,
    KVM_EXIT_MMIO,
    KVM_GET_SREGS,
    KVM_GET_VCPU_MMAP_SIZE,
    KVM_RUN,
    KVM_SET_REGS,
    KVM_SET_SREGS,
    MMIO_DATA_OFFSET,
    MMIO_FORMAT,
    Regs,
    Segment,
    Sregs,
)

KVM_GET_SUPPORTED_CPUID = 0xC008AE05
KVM_SET_CPUID2 = 0x4008AE90
CPUID_ENTRIES = 256

PAGE_TABLES = 0x1000
"""Four pages: the first GiB, and the one behind it, as they are in physical memory."""
DEVICE = 1 << 30
"""A store here, where no memory is, ends a run."""
SIZE = 64 << 20

PRESENT_WRITABLE_USER = 0x27
"""With the accessed bit, or the processor would write to the tables to set it."""
LARGE_PAGE = PRESENT_WRITABLE_USER | 0x40 | 0x80
PROTECTED_PAGED = 0x8005_0033
PAE_AND_SSE = 0x6A0
LONG_MODE = 0xD01
USER_CODE, USER_DATA = 0x33, 0x2B
INTERRUPTS_ON = 0x202


def new_space(size: int = SIZE) -> AddressSpace:
    """A mapped space with RAM from address 0 on, and the page tables in it."""
    layout = AddressSpaceLayout(1 << 46, 0, 1 << 45)
    space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, size, name="ram")], layout)
    write_page_tables(space.map_memory())
    return space


def write_page_tables(memory: GuestMemory) -> None:
    """Two GiB, each address at itself, for the ring that is used least: user's."""
    directories = PAGE_TABLES + 0x1000
    memory.write_u64(PAGE_TABLES, directories | PRESENT_WRITABLE_USER)
    for gib in range(2):
        pages = directories + (gib + 1) * 0x1000
        memory.write_u64(directories + 8 * gib, pages | PRESENT_WRITABLE_USER)
        entries = [(gib << 30) + (index << 21) | LARGE_PAGE for index in range(512)]
        memory.write(pages, struct.pack("<512Q", *entries))


class Ring3Machine:
    """A virtual machine with one processor, on the memory of a space."""

    def __init__(
        self, space: AddressSpace, *, dirty_log: bool = False, manual_clear: bool = True, device: str = "/dev/kvm"
    ) -> None:
        """Follow a mapped space.

        Args:
            space: what `new_space` made.
            dirty_log: let KVM log what the guest writes.
            manual_clear: let pages stay in the log until they are cleared, as a checkpoint does with those that are hot.
            device: the KVM device file.

        Raises:
            EngineMissing: this host has no KVM, or does not let us use it.
        """
        try:
            kvm = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise EngineMissing(f"KVM cannot be used, {device}: {error.strerror}") from error
        self.vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
        self.vcpu = fcntl.ioctl(self.vm, KVM_CREATE_VCPU, 0)
        self.kvm_run = mmap.mmap(self.vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))
        entries = ctypes.create_string_buffer(struct.pack("<II", CPUID_ENTRIES, 0), 8 + 40 * CPUID_ENTRIES)
        fcntl.ioctl(kvm, KVM_GET_SUPPORTED_CPUID, entries)
        fcntl.ioctl(self.vcpu, KVM_SET_CPUID2, entries)
        os.close(kvm)
        self.slots = space.attach_kvm(self.vm, dirty_log=dirty_log, manual_clear=dirty_log and manual_clear)

    def boot(self, entry: int, stack: int = 0) -> None:
        """Set the registers that a kernel leaves when it enters a program."""
        sregs = Sregs()
        fcntl.ioctl(self.vcpu, KVM_GET_SREGS, sregs)
        sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = PROTECTED_PAGED, PAGE_TABLES, PAE_AND_SSE, LONG_MODE
        common: dict[str, Any] = {"limit": 0xFFFF_FFFF, "present": 1, "s": 1, "dpl": 3, "g": 1}
        sregs.cs = Segment(selector=USER_CODE, type=11, l=1, **common)
        data = Segment(selector=USER_DATA, type=3, db=1, **common)
        sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data
        fcntl.ioctl(self.vcpu, KVM_SET_SREGS, bytes(sregs))
        fcntl.ioctl(self.vcpu, KVM_SET_REGS, bytes(Regs(rip=entry, rsp=stack, rflags=INTERRUPTS_ON)))

    def registers(self, groups: tuple[str, ...] = ("sregs", "regs", "xsave")) -> kvm_state.VcpuState:
        """The registers as they are, to put them back or into the processor of another machine."""
        return kvm_state.capture(self.vcpu, groups=groups)

    def resume(self, state: kvm_state.VcpuState) -> None:
        """Go on from where another machine was."""
        state.apply(self.vcpu)

    def packed(self) -> bytes:
        """The registers for another process."""
        return bytes(self.registers())

    def unpack(self, registers: bytes) -> None:
        """Go on from where a machine of another process was."""
        self.resume(kvm_state.VcpuState.from_bytes(registers))

    def run(self) -> tuple[int, int]:
        """Run until the guest stores to an address without memory: that address, and what it stored.

        Raises:
            RuntimeError: the guest left for another reason.
        """
        while True:
            try:
                fcntl.ioctl(self.vcpu, KVM_RUN, 0)
                break
            except InterruptedError:
                continue  # Python handles the signal now: Ctrl-C ends the loop.
        (reason,) = struct.unpack_from("<I", self.kvm_run, EXIT_REASON_OFFSET)
        if reason != KVM_EXIT_MMIO:
            raise RuntimeError(f"the guest stopped with KVM exit reason {reason}")
        addr, size, is_write = struct.unpack_from(MMIO_FORMAT, self.kvm_run, EXIT_OFFSET)
        data = self.kvm_run[MMIO_DATA_OFFSET : MMIO_DATA_OFFSET + size]
        if not is_write:
            raise RuntimeError(f"the guest read {size} bytes at {addr:#x}, where no memory is")
        return addr, int.from_bytes(data[:size], "little")

    def close(self) -> None:
        """Close the processor and the virtual machine."""
        self.slots.detach()
        self.kvm_run.close()
        os.close(self.vcpu)
        os.close(self.vm)
