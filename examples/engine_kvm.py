"""A virtual machine on Linux's KVM: ioctls on /dev/kvm, and nothing but the standard library.

The structures and numbers are those of <linux/kvm.h> for x86_64, under their names there.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import struct
from collections.abc import Iterator
from ctypes import c_uint8 as u8
from ctypes import c_uint16 as u16
from ctypes import c_uint32 as u32
from ctypes import c_uint64 as u64
from typing import Any

from dbs_address_space import AddressSpaceRegion, Prot
from engine import CR0_PE, CR0_PG, CR4_PAE, EFER_LMA, EFER_LME, RFLAGS_RESERVED, Bus, EngineMissing

KVM_API_VERSION = 12

KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_CREATE_VCPU = 0xAE41
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_RUN = 0xAE80
KVM_SET_REGS = 0x4090AE82
KVM_GET_SREGS = 0x8138AE83
KVM_SET_SREGS = 0x4138AE84

KVM_MEM_READONLY = 1 << 1

KVM_EXIT_IO = 2
KVM_EXIT_HLT = 5
KVM_EXIT_MMIO = 6

# Where struct kvm_run, a page that the kernel shares with us, keeps the reason of an exit and its `mmio` or `io` member.
EXIT_REASON_OFFSET = 8
EXIT_OFFSET = 32
MMIO_FORMAT = "<Q8xIB"  # phys_addr, data, len, is_write
MMIO_DATA_OFFSET = EXIT_OFFSET + 8
IO_FORMAT = "<BBHIQ"  # direction, size, port, count, data_offset


def fields(c_type: type[Any], *names: str) -> Iterator[tuple[str, type[Any]]]:
    """Declare members of a structure that have the same type."""
    return ((name, c_type) for name in names)


class UserspaceMemoryRegion(ctypes.Structure):
    """`struct kvm_userspace_memory_region`."""

    _fields_ = (
        *fields(u32, "slot", "flags"),
        *fields(u64, "guest_phys_addr", "memory_size", "userspace_addr"),
    )


class Regs(ctypes.Structure):
    """`struct kvm_regs`."""

    _fields_ = (
        *fields(u64, "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
        *fields(u64, "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags"),
    )


class Segment(ctypes.Structure):
    """`struct kvm_segment`."""

    _fields_ = (
        *fields(u64, "base"),
        *fields(u32, "limit"),
        *fields(u16, "selector"),
        *fields(u8, "type", "present", "dpl", "db", "s", "l", "g", "avl", "unusable", "padding"),
    )


class DescriptorTable(ctypes.Structure):
    """`struct kvm_dtable`."""

    _fields_ = (*fields(u64, "base"), *fields(u16, "limit"), *fields(u16 * 3, "padding"))


class Sregs(ctypes.Structure):
    """`struct kvm_sregs`."""

    _fields_ = (
        *fields(Segment, "cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt"),
        *fields(DescriptorTable, "gdt", "idt"),
        *fields(u64, "cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base"),
        *fields(u64 * 4, "interrupt_bitmap"),
    )


class KvmEngine:
    """An `Engine` on `/dev/kvm`."""

    name = "KVM"

    def __init__(self, device: str = "/dev/kvm") -> None:
        """Create a virtual machine and its processor.

        Args:
            device: the KVM device file.

        Raises:
            EngineMissing: this host has no KVM for x86_64 guests, or does not let us use it.
        """
        if platform.machine() != "x86_64":
            raise EngineMissing(f"KVM runs this x86_64 guest on x86_64 hosts only, this one is {platform.machine()}")
        self._slots: dict[int, int] = {}
        self._descriptors: list[int] = []
        try:
            self._create(device)
        except OSError as error:
            self._close_descriptors()
            raise EngineMissing(f"KVM cannot be used, {device}: {error.strerror}") from error

    def _create(self, device: str) -> None:
        kvm = self._keep(os.open(device, os.O_RDWR | os.O_CLOEXEC))
        version = fcntl.ioctl(kvm, KVM_GET_API_VERSION, 0)
        if version != KVM_API_VERSION:
            raise OSError(errno.ENOTSUP, f"speaks version {version} of the KVM API, not {KVM_API_VERSION}")
        self._vm = self._keep(fcntl.ioctl(kvm, KVM_CREATE_VM, 0))
        self._vcpu = self._keep(fcntl.ioctl(self._vm, KVM_CREATE_VCPU, 0))
        self._kvm_run = mmap.mmap(self._vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))

    def _keep(self, descriptor: int) -> int:
        self._descriptors.append(descriptor)
        return descriptor

    def map_region(self, region: AddressSpaceRegion, host_address: int) -> None:
        """Give the region the lowest free slot of the virtual machine."""
        slot = next(slot for slot in range(len(self._slots) + 1) if slot not in self._slots.values())
        flags = 0 if Prot.WRITE in region.prot_flags else KVM_MEM_READONLY
        self._set_slot(UserspaceMemoryRegion(slot, flags, region.base, region.size, host_address))
        self._slots[region.base] = slot

    def unmap_region(self, region: AddressSpaceRegion) -> None:
        """Delete the region's slot: to KVM, that is a slot of size 0."""
        self._set_slot(UserspaceMemoryRegion(self._slots.pop(region.base), 0, region.base, 0, 0))

    def _set_slot(self, slot: UserspaceMemoryRegion) -> None:
        fcntl.ioctl(self._vm, KVM_SET_USER_MEMORY_REGION, bytes(slot))

    def add_device(self, region: AddressSpaceRegion) -> None:
        """Nothing to do: an access outside every slot leaves the guest by itself."""

    def boot(self, entry: int, stack: int, page_table: int, gdt: int) -> None:
        """Set the registers that a boot loader would leave on its way to long mode."""
        sregs = Sregs()
        fcntl.ioctl(self._vcpu, KVM_GET_SREGS, sregs)
        sregs.cr0, sregs.cr3, sregs.cr4 = CR0_PE | CR0_PG, page_table, CR4_PAE
        sregs.efer = EFER_LME | EFER_LMA
        sregs.gdt = DescriptorTable(base=gdt, limit=31)
        code = Segment(limit=0xFFFF_FFFF, selector=0x10, type=11, present=1, s=1, l=1, g=1)
        data = Segment(limit=0xFFFF_FFFF, selector=0x18, type=3, present=1, s=1, db=1, g=1)
        sregs.cs = code
        sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data
        fcntl.ioctl(self._vcpu, KVM_SET_SREGS, bytes(sregs))
        fcntl.ioctl(self._vcpu, KVM_SET_REGS, bytes(Regs(rip=entry, rsp=stack, rflags=RFLAGS_RESERVED)))

    def run(self, mmio: Bus, ports: Bus) -> None:
        """Run the guest until it halts, and let a bus answer each of its exits on the way.

        Raises:
            RuntimeError: the guest left for a reason that this small machine does not know.
        """
        while True:
            try:
                fcntl.ioctl(self._vcpu, KVM_RUN, 0)
            except InterruptedError:
                continue  # Python handles the signal now: Ctrl-C ends the loop.
            (exit_reason,) = struct.unpack_from("<I", self._kvm_run, EXIT_REASON_OFFSET)
            if exit_reason == KVM_EXIT_HLT:
                return
            if exit_reason == KVM_EXIT_MMIO:
                addr, size, is_write = struct.unpack_from(MMIO_FORMAT, self._kvm_run, EXIT_OFFSET)
                self._answer(mmio, addr, slice(MMIO_DATA_OFFSET, MMIO_DATA_OFFSET + size), is_write=is_write)
            elif exit_reason == KVM_EXIT_IO:
                is_write, size, port, count, offset = struct.unpack_from(IO_FORMAT, self._kvm_run, EXIT_OFFSET)
                for start in range(offset, offset + size * count, size):
                    self._answer(ports, port, slice(start, start + size), is_write=is_write)
            else:
                raise RuntimeError(f"the guest stopped with KVM exit reason {exit_reason}")

    def _answer(self, bus: Bus, addr: int, data: slice, *, is_write: bool) -> None:
        """Take the bytes that the guest wrote from where the kernel left them, or put those that it reads there."""
        size = data.stop - data.start
        answer = bus.dispatch(addr, size, int.from_bytes(self._kvm_run[data], "little") if is_write else None)
        if answer is not None:
            self._kvm_run[data] = answer.to_bytes(size, "little")

    def close(self) -> None:
        """Close the processor and the virtual machine."""
        self._kvm_run.close()
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())
