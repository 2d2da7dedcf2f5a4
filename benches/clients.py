"""Those who follow a space against what one would write by hand: KVM's slots and dirty log, MMIO, Unicorn."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import spaces
from dbs_address_space import AddressSpace, AddressSpaceRegion
from harness import MICROSECONDS, NANOSECONDS, Measure, Pace, Result, Side, statement

KVM_CREATE_VM, KVM_SET_USER_MEMORY_REGION, KVM_GET_DIRTY_LOG = 0xAE01, 0x4020AE46, 0x4010AE42
SLOTS = 500
GIB = 1 << 30
DEVICE = 1 << 45

C_LOOP = """
#include <sys/ioctl.h>
void loop(int vm, void *request, long count) {
    while (count-- > 0) ioctl(vm, %dUL, request);
}
"""


def run(pace: Pace) -> Iterator[Result]:
    """All of it, as far as this machine has KVM, Unicorn and a compiler."""
    yield dispatch(pace)
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        yield from hotplug(pace)
        if shutil.which("cc"):
            yield dirty_log(pace)
    try:
        yield unicorn(pace)
    except ImportError:
        return


def new_vm() -> int:
    kvm = os.open("/dev/kvm", os.O_RDWR)
    try:
        return fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    finally:
        os.close(kvm)


def slot(number: int, base: int, size: int, host: int) -> bytes:
    return struct.pack("<IIQQQ", number, 0, base, size, host)


def hotplug(pace: Pace) -> Iterator[Result]:
    """A page of memory in and out, beside 500 others, against the two ioctls, bare and with the memory by hand."""
    space = spaces.space_of(SLOTS)
    space.map_memory()
    ours, bare = new_vm(), new_vm()
    slots = space.attach_kvm(ours)
    host = space.memory.host_address(spaces.base(0))
    for number in range(SLOTS):
        fcntl.ioctl(bare, KVM_SET_USER_MEMORY_REGION, slot(number, spaces.base(number), spaces.PAGE, host))
    at = spaces.base(SLOTS)
    plug = statement(
        "insert(region); remove(at)",
        insert=space.insert_region,
        remove=space.remove_region,
        at=at,
        region=spaces.ram(at),
    )
    add, delete = slot(SLOTS, at, spaces.PAGE, host), slot(SLOTS, at, 0, 0)
    ioctls = "ioctl(bare, request, add); ioctl(bare, request, delete)"
    names = {"ioctl": fcntl.ioctl, "bare": bare, "request": KVM_SET_USER_MEMORY_REGION, "add": add, "delete": delete}
    name = f"plug and unplug a page, KVM at {SLOTS} slots"
    yield Result(
        "clients",
        f"{name} (bare ioctls)",
        *pace.in_turns(plug, statement(ioctls, **names)),
        goal=1.3,
        unit=MICROSECONDS,
    )
    by_hand = f"fd = memfd('ram'); truncate(fd, page); memory = map(fd, page); {ioctls}; memory.close(); close(fd)"
    names |= {
        "memfd": os.memfd_create,
        "truncate": os.ftruncate,
        "map": mmap.mmap,
        "page": spaces.PAGE,
        "close": os.close,
    }
    yield Result(
        "clients", f"{name} (memory by hand)", *pace.in_turns(plug, statement(by_hand, **names)), unit=MICROSECONDS
    )
    slots.detach()
    os.close(ours)
    os.close(bare)


class Register:
    """The least that a device can do."""

    def read(self, _offset: int, _size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Takes anything."""


def dispatch(pace: Pace) -> Result:
    """An access to a device against the call of its handler."""
    space = AddressSpace.from_regions([AddressSpaceRegion("device", DEVICE, spaces.PAGE)], spaces.LAYOUT)
    handler = Register()
    space.attach_device(DEVICE, handler)
    ours = statement("dispatch(addr, 4)", dispatch=space.dispatch, addr=DEVICE + 16)
    plain = statement("handler.read(16, 4)", handler=handler)
    samples = pace.in_turns(ours, plain)
    return Result("clients", "MMIO read through a handler (its call)", *samples, Measure.DIFFERENCE, 1e-6, NANOSECONDS)


def dirty_log(pace: Pace) -> Result:
    """The log of 1 GiB against a loop in C over the same ioctl."""
    space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, GIB)], spaces.LAYOUT)
    space.map_memory()
    vm = new_vm()
    slots = space.attach_kvm(vm, dirty_log=True)
    bitmap = ctypes.create_string_buffer(GIB // 4096 // 8)
    request = ctypes.create_string_buffer(struct.pack("<IIQ", slots.slot_of(0), 0, ctypes.addressof(bitmap)))
    loop = compiled()
    ours = statement("dirty_log()", dirty_log=slots.dirty_log)
    result = Result(
        "clients",
        "dirty log of 1 GiB (C)",
        *pace.in_turns(ours, c_side(loop, vm, request)),
        goal=1.2,
        unit=MICROSECONDS,
    )
    slots.detach()
    os.close(vm)
    return result


def compiled() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as directory:
        source, library = Path(directory, "loop.c"), Path(directory, "loop.so")
        source.write_text(C_LOOP % KVM_GET_DIRTY_LOG)
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        return ctypes.CDLL(str(library))


def c_side(loop: ctypes.CDLL, vm: int, request: object) -> Side:
    def side(number: int) -> float:
        begun = time.perf_counter()
        loop.loop(vm, request, ctypes.c_long(number))
        return time.perf_counter() - begun

    return side


def unicorn(pace: Pace) -> Result:
    """500 regions into an engine and out of it, against calls of mem_map_ptr and mem_unmap."""
    from unicorn import UC_ARCH_X86, UC_MODE_64, UC_PROT_ALL, Uc  # noqa: PLC0415  it may not be installed

    space = spaces.space_of(SLOTS)
    memory = space.map_memory()
    ours, bare = Uc(UC_ARCH_X86, UC_MODE_64), Uc(UC_ARCH_X86, UC_MODE_64)
    hosts = [(mapping.base, mapping.size, mapping.host_address) for mapping in memory.mappings()]

    def by_hand() -> None:
        for base, size, host in hosts:
            bare.mem_map_ptr(base, size, UC_PROT_ALL, host)
        for base, size, _ in hosts:
            bare.mem_unmap(base, size)

    attach = statement("attach(uc).detach()", attach=space.attach_unicorn, uc=ours)
    samples = pace.in_turns(attach, statement("by_hand()", by_hand=by_hand))
    return Result("clients", f"{SLOTS} regions into Unicorn and out (mem_map_ptr)", *samples, unit=MICROSECONDS)
