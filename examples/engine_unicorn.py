"""A virtual machine in the Unicorn engine, which emulates an x86 processor on any host."""

from importlib import import_module
from typing import Any

from dbs_address_space import AddressSpaceRegion, Prot
from engine import CR0_PE, CR0_PG, CR4_PAE, EFER_LMA, EFER_LME, MSR_EFER, RFLAGS_RESERVED, Bus, EngineMissing


class UnicornEngine:
    """An `Engine` in this process, from the `unicorn` package."""

    name = "Unicorn"

    def __init__(self) -> None:
        """Create an emulated processor.

        Raises:
            EngineMissing: the `unicorn` package is not installed.
        """
        try:
            unicorn: Any = import_module("unicorn")
            self._x86: Any = import_module("unicorn.x86_const")
        except ImportError as error:
            raise EngineMissing(f"Unicorn cannot be used: {error} (pip install unicorn)") from error
        self._uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self._read_only, self._all = unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC, unicorn.UC_PROT_ALL
        self._empty_sockets: set[int] = set()
        self._buses: tuple[Bus, Bus] | None = None
        for instruction, callback in ((self._x86.UC_X86_INS_IN, self._in), (self._x86.UC_X86_INS_OUT, self._out)):
            self._uc.hook_add(unicorn.UC_HOOK_INSN, callback, None, 1, 0, instruction)

    def map_region(self, region: AddressSpaceRegion, host_address: int) -> None:
        """Let the emulated processor work in the address space's own memory, without a copy."""
        if region.base in self._empty_sockets:
            self._uc.mem_unmap(region.base, region.size)
            self._empty_sockets.remove(region.base)
        protection = self._all if Prot.WRITE in region.prot_flags else self._read_only
        self._uc.mem_map_ptr(region.base, region.size, protection, host_address)

    def unmap_region(self, region: AddressSpaceRegion) -> None:
        """Unmap the memory.

        For KVM an address without memory is an exit; for Unicorn it ends the emulation. So the empty
        socket becomes a device, whose accesses reach the bus as well.
        """
        self._uc.mem_unmap(region.base, region.size)
        self.add_device(region)
        self._empty_sockets.add(region.base)

    def add_device(self, region: AddressSpaceRegion) -> None:
        """Forward the accesses to the region to the bus."""
        self._uc.mmio_map(region.base, region.size, self._read, region.base, self._write, region.base)

    def _read(self, _uc: object, offset: int, size: int, base: int) -> int:
        return self._dispatch(0, base + offset, size)

    def _write(self, _uc: object, offset: int, size: int, value: int, base: int) -> None:
        self._dispatch(0, base + offset, size, value)

    def _in(self, _uc: object, port: int, size: int, _data: object) -> int:
        return self._dispatch(1, port, size)

    def _out(self, _uc: object, port: int, size: int, value: int, _data: object) -> None:
        self._dispatch(1, port, size, value)

    def _dispatch(self, bus: int, addr: int, size: int, value: int | None = None) -> int:
        assert self._buses is not None
        return self._buses[bus].dispatch(addr, size, value) or 0

    def boot(self, entry: int, stack: int, page_table: int, gdt: int) -> None:  # noqa: ARG002  Unicorn has segments
        """Switch paging on in the order that a processor asks for: PAE, the table, long mode, paging."""
        x86, uc = self._x86, self._uc
        uc.reg_write(x86.UC_X86_REG_CR4, CR4_PAE)
        uc.reg_write(x86.UC_X86_REG_CR3, page_table)
        uc.msr_write(MSR_EFER, EFER_LME | EFER_LMA)
        uc.reg_write(x86.UC_X86_REG_CR0, CR0_PE | CR0_PG)
        uc.reg_write(x86.UC_X86_REG_RSP, stack)
        uc.reg_write(x86.UC_X86_REG_RFLAGS, RFLAGS_RESERVED)
        uc.reg_write(x86.UC_X86_REG_RIP, entry)

    def run(self, mmio: Bus, ports: Bus) -> None:
        """Emulate until the guest halts.

        Raises:
            unicorn.UcError: the guest did what the emulated processor cannot do.
        """
        self._buses = mmio, ports
        self._uc.emu_start(self._uc.reg_read(self._x86.UC_X86_REG_RIP), until=0)

    def close(self) -> None:
        """Drop the emulated processor."""
        del self._uc
