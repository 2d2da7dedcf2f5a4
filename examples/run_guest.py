"""A virtual machine whose address space was built in Python.

    python examples/run_guest.py [--engine kvm|unicorn|auto]

It plans a small machine, maps its memory, loads a program and runs it, plugs a memory module in while
the processor lives, lets the guest work there, and takes the module out again.
"""

import argparse
import struct
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import accumulate

from dbs_address_space import (
    AddressSpace,
    AddressSpaceLayout,
    AddressSpaceRegion,
    GuestMemory,
    RegionBusy,
    UnmappedAddress,
    tables,
)
from engine import Engine, EngineMissing
from engine_kvm import KvmEngine
from engine_unicorn import UnicornEngine
from guest_program import CONSOLE_PORT, MAILBOX, MAILBOX_ADDRESS, MAILBOX_TOTAL, PROGRAM

GIB = 1 << 30
GDT = 0x500
PAGE_TABLES = 0x1000
STACK = 0x8_0000
HIGH_RAM = 4 * GIB
DIMM = 5 * GIB
FIRMWARE = 0xFFFC_0000
NOTHING = 2**64 - 1


def plan() -> AddressSpace:
    """Describe the machine: no memory is allocated yet."""
    layout = AddressSpaceLayout(1 << 36, 0, 1 << 35, mmio_windows=((MAILBOX, 0x1000_0000),))
    space = AddressSpace.from_regions(
        [
            AddressSpaceRegion("ram", 0, "16MiB", name="ram-low"),
            AddressSpaceRegion.create_device_region(MAILBOX, 0x1000, name="mailbox"),
            AddressSpaceRegion("firmware", FIRMWARE, "256KiB", name="firmware", prot_flags="r--"),
            AddressSpaceRegion("ram", HIGH_RAM, "64MiB", name="ram-high"),
        ],
        layout,
    )
    space.ports.insert_region(AddressSpaceRegion("device", CONSOLE_PORT, 8, name="console"))
    return space


class Console:
    """Shows what the guest says, line by line: a serial port that is always ready."""

    def __init__(self) -> None:
        """Start with an empty line."""
        self._line = bytearray()

    def read(self, _offset: int, _size: int) -> int:
        """Nobody types."""
        return 0

    def write(self, _offset: int, size: int, value: int) -> None:
        """Take some characters."""
        self._line += value.to_bytes(size, "little")
        if self._line.endswith(b"\n"):
            print(f"  guest | {self._line.decode().rstrip()}")
            self._line.clear()


class Mailbox:
    """Registers through which Python gives the guest its work, and gets the result."""

    def __init__(self) -> None:
        """Start with all registers 0."""
        self._registers = bytearray(24)

    def read(self, offset: int, size: int) -> int:
        """Read registers, in any width: Unicorn splits 64 bits into two halves."""
        return int.from_bytes(self._registers[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Write registers."""
        self._registers[offset : offset + size] = value.to_bytes(size, "little")

    def post(self, addr: int, count: int) -> None:
        """Ask for the running totals of the `count` numbers at `addr`."""
        struct.pack_into("<QQ", self._registers, MAILBOX_ADDRESS, addr, count)

    @property
    def total(self) -> int:
        """The guest's answer."""
        total: int = struct.unpack_from("<Q", self._registers, MAILBOX_TOTAL)[0]
        return total


class HardwareBus:
    """The devices of a space, and a bus around them on which nothing answers by itself."""

    def __init__(self, space: AddressSpace) -> None:
        """Take a space, or its ports."""
        self._space = space
        self.hits: Counter[str] = Counter()

    def dispatch(self, addr: int, size: int, value: int | None = None) -> int | None:
        """Ask the device at `addr`; where none is, or a ROM, all bits are 1, and what is written is lost."""
        region = self._space.find_region(addr)
        self.hits["no region" if region is None else str(region.name)] += 1
        try:
            return self._space.dispatch(addr, size, value)
        except UnmappedAddress:
            return NOTHING >> 64 - 8 * size if value is None else None


class Machine:
    """An address space, its memory, and an engine that runs a processor on them."""

    def __init__(self, space: AddressSpace, memory: GuestMemory, engine: Engine) -> None:
        """Show the engine every region that the space has."""
        self.space = space
        self.memory = memory
        self.engine = engine
        self.mailbox = Mailbox()
        self.mmio, self.ports = HardwareBus(space), HardwareBus(space.ports)
        space.attach_device("mailbox", self.mailbox)
        space.ports.attach_device("console", Console())
        for region in space:
            if region in memory.regions:
                engine.map_region(region, memory.host_address(region.base))
            else:
                engine.add_device(region)

    def boot(self) -> None:
        """Load the firmware and run it until it waits for work."""
        self.memory.load_image(PROGRAM, FIRMWARE, force=True)
        self.memory.write(PAGE_TABLES, tables.page_tables(PAGE_TABLES, "6GiB"))
        self.memory.write(GDT, tables.gdt())
        self.engine.boot(entry=FIRMWARE, stack=STACK, page_table=PAGE_TABLES, gdt=GDT)
        self.run()

    def run(self) -> None:
        """Run the guest until it waits for work."""
        self.engine.run(self.mmio, self.ports)

    def running_totals(self, addr: int, count: int) -> int:
        """Let the guest replace the numbers at `addr` by their running totals, and return the last one."""
        self.mailbox.post(addr, count)
        self.run()
        return self.mailbox.total

    def plug(self, region: AddressSpaceRegion) -> None:
        """Plug the memory in first, then tell the processor that will use it."""
        self.space.insert_region(region)
        self.engine.map_region(region, self.memory.host_address(region.base))

    def unplug(self, region: AddressSpaceRegion) -> None:
        """Unplug in the other order: nobody may still use the memory when it goes."""
        self.engine.unmap_region(region)
        try:
            self.space.remove_region(region)
        except RegionBusy:
            self.engine.map_region(region, self.memory.host_address(region.base))
            raise


@contextmanager
def step(title: str) -> Iterator[None]:
    """Print what is done, and how long it took."""
    print(title)
    start = time.perf_counter()
    yield
    print(f"   took | {(time.perf_counter() - start) * 1000:.3f} ms")


def check_totals(machine: Machine, addr: int, count: int) -> None:
    """Give the guest numbers to work on, and compare every one of its results with Python's."""
    numbers = array("Q", (7 * index + addr % 1009 for index in range(count)))
    machine.memory.write(addr, numbers)
    with step(f"let the guest work on {count:,} numbers at {addr:#_x}"):
        total = machine.running_totals(addr, count)
    expected = array("Q", accumulate(numbers))
    if total != expected[-1] or machine.memory.read(addr, 8 * count) != expected.tobytes():
        raise RuntimeError(f"the guest's totals at {addr:#_x} are wrong")
    print(f"  check | the last total is {total:,}, and all {count:,} are as Python computes them")


def check_nothing(machine: Machine, addr: int) -> None:
    """See that nothing answers the guest at `addr`."""
    with step(f"let the guest work on 1 number at {addr:#_x}"):
        total = machine.running_totals(addr, 1)
    if total != NOTHING:
        raise RuntimeError(f"something answers at {addr:#_x}: {total:#_x}")
    print("  check | nothing is there any more: all bits read as 1")


def hotplug(machine: Machine) -> None:
    """Plug a memory module in, use it, and take it out, while the processor lives."""
    dimm = AddressSpaceRegion("ram", DIMM, "32MiB", name="dimm0", is_hotplug=True)
    before = machine.space.snapshot()
    with step("plug 'dimm0'"):
        machine.plug(dimm)
    plugged = machine.space.snapshot()
    print(f"  space | {before.diff(plugged)}")
    check_totals(machine, DIMM, 50_000)
    with step("unplug 'dimm0'"):
        machine.unplug(dimm)
    print(f"  space | {plugged.diff(machine.space.snapshot())}")
    check_nothing(machine, DIMM)


def run(engine: Engine) -> None:
    """Tell the whole story, on one engine."""
    print(f"engine: {engine.name}\n")
    with step("plan the machine"):
        space = plan()
    with step("map its memory"):
        memory = space.map_memory()
    # The engine, entered last, ends before the memory that it works in.
    with memory, closing(engine):
        with step("connect the engine"):
            machine = Machine(space, memory, engine)
        print(f"\nthe map before:\n{space}\n\nits ports:\n{space.ports}\n")
        with step("load the firmware and boot"):
            machine.boot()
        check_totals(machine, HIGH_RAM, 100_000)
        hotplug(machine)
        hits = ", ".join(f"{name} {count}" for name, count in (machine.ports.hits + machine.mmio.hits).items())
        print(f"the guest's accesses without memory, by what the space has there: {hits}")
        print(f"\nthe map after:\n{space}\n")
    print("done: the engine is closed, the memory is given back")


def open_engine(name: str, kvm_device: str) -> Engine:
    """Return the engine of that name; `auto` is KVM where it works, else Unicorn."""
    openers: dict[str, Callable[[], Engine]] = {"kvm": lambda: KvmEngine(kvm_device), "unicorn": UnicornEngine}
    problems = []
    for opener in [openers[name]] if name in openers else openers.values():
        try:
            return opener()
        except EngineMissing as problem:
            problems.append(str(problem))
    raise EngineMissing("; ".join(problems))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example; 2 means that the engine is missing."""
    parser = argparse.ArgumentParser(description="Run a guest on an address space built in Python.")
    parser.add_argument("--engine", choices=("kvm", "unicorn", "auto"), default="auto")
    parser.add_argument("--kvm-device", metavar="PATH", default="/dev/kvm", help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        engine = open_engine(options.engine, options.kvm_device)
    except EngineMissing as problem:
        print(f"run_guest: {problem}", file=sys.stderr)
        return 2
    run(engine)
    return 0


if __name__ == "__main__":
    sys.exit(main())
