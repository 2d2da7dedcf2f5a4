"""The interface of an engine, by which KVM and Unicorn are driven in the same way."""

from typing import Protocol

from dbs_address_space import AddressSpaceRegion

CR0_PE = 1 << 0
CR0_PG = 1 << 31
CR4_PAE = 1 << 5
EFER_LME = 1 << 8
EFER_LMA = 1 << 10
RFLAGS_RESERVED = 1 << 1
MSR_EFER = 0xC000_0080


class EngineMissing(Exception):
    """The engine cannot run on this host; the message says why in one line."""


class Bus(Protocol):
    """Answers the guest's accesses to addresses without memory, or to ports."""

    def dispatch(self, addr: int, size: int, value: int | None = None) -> int | None:
        """Return what the guest reads, as a little-endian number of `size` bytes, or take the value that it writes."""


class Engine(Protocol):
    """One virtual machine with one virtual processor."""

    name: str

    def map_region(self, region: AddressSpaceRegion, host_address: int) -> None:
        """Show the guest the memory at `host_address` as `region`; the processor may be alive."""

    def unmap_region(self, region: AddressSpaceRegion) -> None:
        """Take the memory of `region` away from the guest; what it touches there now goes to the bus."""

    def add_device(self, region: AddressSpaceRegion) -> None:
        """Let the bus answer for `region`, which has no memory."""

    def boot(self, entry: int, stack: int, page_table: int, gdt: int) -> None:
        """Set the processor up in 64-bit long mode, about to execute `entry`."""

    def run(self, mmio: Bus, ports: Bus) -> None:
        """Run the guest until it executes `hlt`; called again, it goes on behind it."""

    def close(self) -> None:
        """End the virtual machine. The memory it used belongs to the address space, and stays."""
