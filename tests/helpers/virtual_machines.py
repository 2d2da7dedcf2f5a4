"""A virtual machine on KVM with one processor, which executes a few bytes; for tests of who must follow an address space."""

import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from dbs_address_space import AddressSpace, UnmappedAddress
from engine import CR0_PE, CR0_PG, CR4_PAE, EFER_LMA, EFER_LME, RFLAGS_RESERVED
from engine_kvm import (
    EXIT_OFFSET,
    EXIT_REASON_OFFSET,
    KVM_CREATE_VCPU,
    KVM_CREATE_VM,
    KVM_EXIT_HLT,
    KVM_EXIT_MMIO,
    KVM_GET_SREGS,
    KVM_GET_VCPU_MMAP_SIZE,
    KVM_RUN,
    KVM_SET_REGS,
    KVM_SET_SREGS,
    KVM_SET_USER_MEMORY_REGION,
    MMIO_DATA_OFFSET,
    MMIO_FORMAT,
    Regs,
    Segment,
    Sregs,
    UserspaceMemoryRegion,
)

HLT = b"\xf4"


def store(addr: int, value: int, *, wide: bool = False) -> bytes:
    """Machine code that writes a byte: `mov rax, addr; mov byte [rax], value`."""
    load = b"\x48\xb8" + addr.to_bytes(8, "little") if wide else b"\xb8" + addr.to_bytes(4, "little")
    return load + b"\xc6\x00" + bytes([value])


class Vm:
    """The descriptors, and the processor's registers; its memory is what the test is about."""

    def __init__(self) -> None:
        if not Path("/dev/kvm").exists():
            pytest.skip("there is no /dev/kvm")
        kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        self.fd = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
        self._vcpu = fcntl.ioctl(self.fd, KVM_CREATE_VCPU, 0)
        self._run = mmap.mmap(self._vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))
        os.close(kvm)

    def close(self) -> None:
        self._run.close()
        os.close(self._vcpu)
        self.close_machine()

    def close_machine(self) -> None:
        """Closes the descriptor of the machine, once: its number may be another's by now."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def set_slot(self, slot: int, base: int, size: int, host: int = 0, flags: int = 0) -> None:
        """Sets a slot, as the machine's owner may at any time; size 0 deletes it."""
        fcntl.ioctl(self.fd, KVM_SET_USER_MEMORY_REGION, bytes(UserspaceMemoryRegion(slot, flags, base, size, host)))

    def protected_mode(self, entry: int, stack: int = 0) -> None:
        self._start(entry, stack, CR0_PE, None)

    def long_mode(self, entry: int, page_table: int, stack: int = 0) -> None:
        self._start(entry, stack, CR0_PE | CR0_PG, page_table)

    def _start(self, entry: int, stack: int, cr0: int, page_table: int | None) -> None:
        sregs = Sregs()
        fcntl.ioctl(self._vcpu, KVM_GET_SREGS, sregs)
        wide = page_table is not None
        sregs.cr0 = cr0
        if wide:
            sregs.cr3, sregs.cr4, sregs.efer = page_table, CR4_PAE, EFER_LME | EFER_LMA
        sregs.cs = Segment(limit=0xFFFF_FFFF, selector=8, type=11, present=1, s=1, l=wide, db=not wide, g=1)
        data = Segment(limit=0xFFFF_FFFF, selector=16, type=3, present=1, s=1, db=1, g=1)
        sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data
        fcntl.ioctl(self._vcpu, KVM_SET_SREGS, bytes(sregs))
        fcntl.ioctl(self._vcpu, KVM_SET_REGS, bytes(Regs(rip=entry, rsp=stack, rflags=RFLAGS_RESERVED)))

    def run(self, read: Callable[[int, int], int], write: Callable[[int, int, int], object]) -> None:
        """Runs until the guest halts; its accesses without memory are answered by `read` and taken by `write`."""
        while True:
            fcntl.ioctl(self._vcpu, KVM_RUN, 0)
            (reason,) = struct.unpack_from("<I", self._run, EXIT_REASON_OFFSET)
            if reason == KVM_EXIT_HLT:
                return
            assert reason == KVM_EXIT_MMIO, f"the guest left with reason {reason}"
            addr, size, is_write = struct.unpack_from(MMIO_FORMAT, self._run, EXIT_OFFSET)
            data = slice(MMIO_DATA_OFFSET, MMIO_DATA_OFFSET + size)
            if is_write:
                write(addr, size, int.from_bytes(self._run[data], "little"))
            else:
                self._run[data] = read(addr, size).to_bytes(size, "little")

    def run_on(self, space: AddressSpace) -> None:
        """Runs with the space's devices; a hole reads as ones, and what is written there is lost."""

        def read(addr: int, size: int) -> int:
            try:
                answer = space.dispatch(addr, size)
            except UnmappedAddress:
                return (1 << 8 * size) - 1
            assert answer is not None
            return answer

        def write(addr: int, size: int, value: int) -> None:
            with suppress(UnmappedAddress):
                space.dispatch(addr, size, value)

        self.run(read, write)


@contextmanager
def running(vm: Vm, space: AddressSpace) -> Iterator[threading.Thread]:
    """The processor runs in a thread of its own; what it raises fails the test."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            vm.run_on(space)
        except BaseException as error:  # noqa: BLE001  handed to the test below
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield thread
    thread.join(30)
    assert not thread.is_alive()
    assert not raised
