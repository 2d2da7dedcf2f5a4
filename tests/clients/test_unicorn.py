"""Unicorn follows the space: by pointer, devices through their handlers, and as KVM does it."""

import ctypes
import gc
import struct
from collections.abc import Callable
from typing import Any

import pytest
import unicorn
from children import in_child
from dbs_address_space import (
    AddressSpace,
    AddressSpaceChange,
    AddressSpaceLayout,
    AddressSpaceRegion,
    ClientError,
    NotMapped,
    RegionOverlap,
    Unsupported,
)
from kernel_view import maps_of
from memory_helpers import MIB, PAGE, mapped, ram
from unicorn import x86_const
from virtual_machines import HLT, Vm

CODE, DIMM, UART = 0x1000, 16 * MIB, 0xD000_0000
LAYOUT = AddressSpaceLayout(1 << 36, 0, 1 << 35, mmio_windows=((UART, MIB),))


class Registers:
    """A device that counts: each read gives the next number; all that happens is noted."""

    def __init__(self) -> None:
        self.trace: list[tuple[Any, ...]] = []

    def read(self, offset: int, size: int) -> int:
        self.trace.append(("read", offset, size))
        return len(self.trace)

    def write(self, offset: int, size: int, value: int) -> None:
        self.trace.append(("write", offset, size, value))


class Veto:
    """Refuses every change but its own attachment."""

    name = "veto"

    def prepare(self, change: AddressSpaceChange) -> None:
        if change.before.regions:
            raise ValueError

    def commit(self, change: AddressSpaceChange) -> None: ...
    def rollback(self, change: AddressSpaceChange) -> None: ...


@pytest.fixture
def layout() -> AddressSpaceLayout:
    return LAYOUT


@pytest.fixture
def regions() -> list[AddressSpaceRegion]:
    device = AddressSpaceRegion("device", UART, 0x20, name="uart")
    return [ram(0, MIB, name="low"), ram(DIMM, MIB, name="dimm"), device]


@pytest.fixture
def uc() -> unicorn.Uc:
    return unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)


def regions_of(uc: unicorn.Uc) -> list[tuple[int, int, int]]:
    return sorted((begin, end + 1, protection) for begin, end, protection in uc.mem_regions())


def run(uc: unicorn.Uc, entry: int = CODE) -> None:
    uc.emu_start(entry, until=0)


def mov_to_eax(addr: int) -> bytes:
    return b"\xa1" + struct.pack("<I", addr)


def mov_from_eax(addr: int) -> bytes:
    return b"\xa3" + struct.pack("<I", addr)


def test_regions_are_mapped_by_pointer_and_follow_every_change(space: AddressSpace, uc: unicorn.Uc) -> None:
    memory = space.memory
    memory.write(0x2000, b"there before")
    attachment = space.attach_unicorn(uc)
    assert bytes(uc.mem_read(0x2000, 12)) == b"there before"
    uc.mem_write(DIMM, b"seen at once")
    assert memory.read(DIMM, 12) == b"seen at once"
    assert regions_of(uc) == [(0, MIB, 7), (DIMM, DIMM + MIB, 7), (UART, UART + PAGE, 3)]
    space.insert_region(AddressSpaceRegion("firmware", 8 * MIB, PAGE, prot_flags="r--", name="rom"))
    assert (8 * MIB, 8 * MIB + PAGE, 5) in regions_of(uc)
    space.replace_region("rom", space["rom"].replace(prot_flags="rw-"))
    assert (8 * MIB, 8 * MIB + PAGE, 7) in regions_of(uc)
    space.remove_region("rom")
    with space.transaction() as change:
        change.remove_region("dimm")
        change.insert_region(ram(DIMM - MIB, 4 * MIB, name="larger"))
    assert regions_of(uc) == [(0, MIB, 7), (DIMM - MIB, DIMM + 3 * MIB, 7), (UART, UART + PAGE, 3)]
    uc.mem_write(DIMM, b"larger")
    assert memory.read(DIMM, 6) == b"larger"
    memory.close()
    assert [begin for begin, *_ in regions_of(uc)] == [UART]
    space.map_memory()
    assert len(regions_of(uc)) == 3
    attachment.detach()
    assert regions_of(uc) == []
    assert space.clients == ()
    attachment.detach()


def test_a_refusal_of_the_engine_changes_nothing(space: AddressSpace, uc: unicorn.Uc) -> None:
    space.attach_unicorn(uc)
    uc.mem_map(32 * MIB, PAGE)
    before, regions = space.snapshot(), regions_of(uc)
    with pytest.raises(ClientError, match="Unicorn") as refused, space.transaction() as change:
        change.remove_region("dimm")
        change.insert_region(ram(DIMM, 17 * MIB, name="too large"))
    assert isinstance(refused.value.__cause__, RegionOverlap)
    assert space.snapshot() is before
    assert regions_of(uc) == regions
    uc.mem_write(DIMM, b"still there")
    assert space.memory.read(DIMM, 11) == b"still there"

    space.subscribe(Veto())
    with pytest.raises(ClientError, match="veto"):
        space.remove_region("dimm")
    with pytest.raises(ClientError, match="veto"):
        space.insert_region(ram(48 * MIB))
    assert regions_of(uc) == regions


def test_an_engine_that_follows_a_space_already_is_refused_by_name(space: AddressSpace, uc: unicorn.Uc) -> None:
    first = space.attach_unicorn(uc)
    before = regions_of(uc)
    with pytest.raises(ClientError, match=r"this engine follows AddressSpace\(.*\) there: detach\(\) that"):
        space.attach_unicorn(uc)
    assert regions_of(uc) == before
    assert space.clients == (first,)
    first.detach()
    space.attach_unicorn(uc).detach()


@pytest.mark.parametrize("base", [DIMM, UART])
def test_pages_that_the_engines_owner_has_mapped_are_named(space: AddressSpace, uc: unicorn.Uc, base: int) -> None:
    uc.mem_map(base, PAGE)
    with pytest.raises(ClientError, match="already: its owner mapped them"):
        space.attach_unicorn(uc)
    assert regions_of(uc) == [(base, base + PAGE, unicorn.UC_PROT_ALL)]


def test_an_unmapped_space_has_nothing_for_unicorn(uc: unicorn.Uc) -> None:
    with pytest.raises(NotMapped):
        AddressSpace(LAYOUT).attach_unicorn(uc)


def test_devices_go_through_their_handlers(space: AddressSpace, uc: unicorn.Uc) -> None:
    space.attach_unicorn(uc)
    uart = Registers()
    space.attach_device("uart", uart)
    space.memory.write(CODE, mov_to_eax(UART + 4) + mov_from_eax(UART + 8) + HLT)
    run(uc)
    assert uart.trace == [("read", 4, 4), ("write", 8, 4, 1)]
    # A second device on the same page, which comes and goes.
    space.insert_region(AddressSpaceRegion("device", UART + 0x40, 0x20, name="timer"))
    timer = Registers()
    space.attach_device("timer", timer)
    space.memory.write(2 * CODE, mov_to_eax(UART + 0x44) + HLT)
    run(uc, 2 * CODE)
    assert timer.trace == [("read", 4, 4)]
    space.remove_region("timer")
    with pytest.raises(Exception, match="no device answers"):
        run(uc, 2 * CODE)


def test_what_a_handler_raises_comes_out_of_the_engine(space: AddressSpace, uc: unicorn.Uc) -> None:
    class Broken(Registers):
        def read(self, offset: int, size: int) -> int:
            raise ZeroDivisionError(offset)

    space.attach_unicorn(uc)
    space.attach_device("uart", Broken())
    space.memory.write(CODE, mov_to_eax(UART + 4) + HLT)
    with pytest.raises(ZeroDivisionError):
        run(uc)


def test_the_engine_keeps_the_memory_alive_and_is_garbage_with_it(uc: unicorn.Uc) -> None:
    space = AddressSpace.from_regions([ram(0, MIB, name="kept-by-unicorn")], LAYOUT)
    space.map_memory()
    space.attach_unicorn(uc)
    del space
    gc.collect()
    uc.mem_write(0x3000, b"alive")
    assert bytes(uc.mem_read(0x3000, 5)) == b"alive"


def test_all_of_it_is_collected() -> None:
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
    space = AddressSpace.from_regions([ram(0, MIB, name="collected"), AddressSpaceRegion("device", UART, PAGE)], LAYOUT)
    space.map_memory()
    space.attach_unicorn(uc)
    assert maps_of("memfd:collected")
    del uc, space
    gc.collect()
    assert not maps_of("memfd:collected")


@pytest.mark.parametrize(
    "unmapped", [(DIMM, PAGE), (DIMM + 8 * PAGE, PAGE), (DIMM, MIB)], ids=["first", "middle", "all"]
)
def test_pages_that_the_engines_owner_unmapped_leave_no_pointer_behind(unmapped: tuple[int, int]) -> None:
    def remove() -> None:
        space, _ = mapped(ram(DIMM, MIB, name="dimm"))
        uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
        attachment = space.attach_unicorn(uc)
        uc.mem_unmap(*unmapped)
        space.remove_region("dimm")
        assert attachment.error is None
        assert regions_of(uc) == []
        with pytest.raises(unicorn.UcError):
            uc.mem_read(DIMM + MIB // 2, 4)

    in_child(remove)


@pytest.mark.parametrize("is_attached", [False, True], ids=["before", "while attached"])
@pytest.mark.parametrize(
    "mode", [unicorn.UC_CTL_CONTEXT_MEMORY, unicorn.UC_CTL_CONTEXT_MEMORY | unicorn.UC_CTL_CONTEXT_CPU]
)
def test_contexts_with_memory_are_refused_by_name(
    space: AddressSpace, uc: unicorn.Uc, mode: int, *, is_attached: bool
) -> None:
    def save(mode: int) -> None:
        uc.ctl(unicorn.UC_CTL_CONTEXT_MODE, unicorn.UC_CTL_IO_WRITE, ctypes.c_int(mode))

    if is_attached:
        attachment = space.attach_unicorn(uc)
        with pytest.raises(Unsupported, match="UC_CTL_CONTEXT_MEMORY"):
            save(mode)
        context = uc.context_save()
        uc.mem_write(0, b"one memory")
        assert space.memory.read(0, 10) == b"one memory"
        uc.context_restore(context)
        save(unicorn.UC_CTL_CONTEXT_CPU)
        attachment.detach()
        save(mode)
    else:
        save(mode)
        with pytest.raises(Unsupported, match="UC_CTL_CONTEXT_MEMORY"):
            space.attach_unicorn(uc)
        assert space.clients == ()
        assert regions_of(uc) == []


def on_unicorn(space: AddressSpace) -> None:
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
    with space.attach_unicorn(uc):
        uc.reg_write(x86_const.UC_X86_REG_ESP, 0)
        run(uc)


def on_kvm(space: AddressSpace) -> None:
    vm = Vm()
    with space.attach_kvm(vm.fd):
        vm.protected_mode(CODE)
        vm.run_on(space)
    vm.close()


def test_unicorn_and_kvm_run_a_program_alike() -> None:
    """It reads and writes the device, and works across both regions; final bytes and the device's trace are the same."""
    loop = mov_to_eax(UART + 4) + mov_from_eax(UART + 0x10)  # answer the device with its number
    loop += b"\x89\x04\x8d" + struct.pack("<I", DIMM)  # mov [DIMM + 4 * ecx], eax
    loop += b"\xa2" + struct.pack("<I", UART + 0x1C)  # mov [UART + 0x1c], al
    loop += b"\x66\xa3" + struct.pack("<I", 0x8000)  # mov [0x8000], ax
    program = b"\xb9" + struct.pack("<I", 100) + loop  # mov ecx, 100
    program += b"\xe2" + struct.pack("<b", -len(loop) - 2) + HLT  # loop
    seen = []
    engines: list[Callable[[AddressSpace], None]] = [on_unicorn, on_kvm]
    for engine in engines:
        device = AddressSpaceRegion("device", UART, 0x20, name="uart")
        space = AddressSpace.from_regions([ram(0, MIB), ram(DIMM, MIB), device], LAYOUT)
        memory = space.map_memory()
        uart = Registers()
        space.attach_device("uart", uart)
        memory.write(CODE, program)
        engine(space)
        seen.append((uart.trace, memory.read(0, MIB), memory.read(DIMM, MIB)))
    assert seen[0] == seen[1]
    assert len(seen[0][0]) == 300
    assert struct.unpack_from("<I", seen[0][2], 4) == (298,)


def refusing(uc: unicorn.Uc) -> None:
    """Lets the engine refuse the next `mem_unmap`, whoever calls it."""

    def refuse(*_: int) -> None:
        del uc.mem_unmap
        raise unicorn.UcError(unicorn.UC_ERR_NOMEM)

    uc.mem_unmap = refuse


def test_memory_that_the_engine_refuses_to_unmap_stays_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine still has the pointer, and the guest may use it."""
    monkeypatch.setattr("sys.unraisablehook", lambda _: None)

    def remove() -> None:
        space, memory = mapped(ram(0, MIB, name="low"), ram(DIMM, MIB, name="refused"))
        uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
        attachment = space.attach_unicorn(uc)
        memory.write(DIMM, b"there still")
        refusing(uc)
        space.remove_region("refused")
        assert isinstance(attachment.error, ClientError)
        assert not attachment.is_attached
        del space, memory
        gc.collect()
        assert bytes(uc.mem_read(DIMM, 11)) == b"there still"
        uc.mem_write(DIMM + MIB - 4, b"last")
        assert maps_of("memfd:refused")
        attachment.detach()
        assert not maps_of("memfd:refused")
        assert regions_of(uc) == []

    in_child(remove)


@pytest.mark.parametrize("end", ["removal", "detach", "refused swap"])
def test_pages_that_the_engines_owner_mapped_in_a_gap_are_his(end: str) -> None:
    space, memory = mapped(ram(DIMM, MIB, name="dimm"))
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
    attachment = space.attach_unicorn(uc)
    gap = DIMM + 8 * PAGE
    uc.mem_unmap(gap, PAGE)
    uc.mem_map(gap, PAGE, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE)
    uc.mem_write(gap, b"his own")
    space.replace_region("dimm", space["dimm"].replace(prot_flags="r--"))
    space.replace_region("dimm", space["dimm"].replace(prot_flags="rw-"))
    before = regions_of(uc)
    match end:
        case "removal":
            space.remove_region("dimm")
        case "detach":
            attachment.detach()
        case _:
            with pytest.raises(ClientError), space.transaction() as change:
                change.remove_region("dimm")
                change.insert_region(ram(DIMM, 2 * MIB, name="larger"))
            assert regions_of(uc) == before
            uc.mem_write(gap - PAGE, b"ours")
            assert memory.read(gap - PAGE, 4) == b"ours"
            attachment.detach()
    assert [region[:2] for region in regions_of(uc)] == [(gap, gap + PAGE)]
    assert bytes(uc.mem_read(gap, 7)) == b"his own"


def test_the_engine_keeps_no_memory_that_its_owner_unmapped() -> None:
    space, memory = mapped(ram(DIMM, MIB, name="unmapped-by-owner"))
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
    attachment = space.attach_unicorn(uc)
    for half in (DIMM, DIMM + MIB // 2):
        uc.mem_unmap(half, MIB // 2)
    space.remove_region("unmapped-by-owner")
    assert not maps_of("memfd:unmapped-by-owner")
    assert attachment.error is None
    attachment.detach()
    assert "mem_unmap" not in vars(uc)
    memory.close()


@pytest.mark.parametrize("is_detached", [False, True])
def test_what_the_space_protects_is_written_by_it_and_not_by_the_engine(
    space: AddressSpace, uc: unicorn.Uc, *, is_detached: bool
) -> None:
    """In the host it is protected, too: the engine's own store would be a signal."""
    space.insert_region(AddressSpaceRegion.create_firmware_region(1 << 32, "64KiB", "r-x"))
    memory = space.memory
    attachment = space.attach_unicorn(uc)
    uc.mem_write(1 << 32, b"bios")
    assert memory.read(1 << 32, 4) == uc.mem_read(1 << 32, 4) == b"bios"
    uc.mem_write(0, b"ram")
    with pytest.raises(Unsupported, match="replace_region"):
        uc.mem_protect(1 << 32, PAGE, unicorn.UC_PROT_ALL)
    uc.mem_protect(1 << 32, PAGE, unicorn.UC_PROT_READ)
    space.replace_region(1 << 32, space[1 << 32].replace(prot_flags="rwx"))
    uc.mem_protect(1 << 32, PAGE, unicorn.UC_PROT_ALL)
    uc.mem_write(1 << 32, b"BIOS")
    assert memory.read(1 << 32, 4) == b"BIOS"
    if is_detached:
        attachment.detach()
        assert not {"mem_write", "mem_protect", "mem_unmap", "ctl"} & vars(uc).keys()


@pytest.mark.parametrize("prot_flags", ["rwx", "r-x"])
def test_code_is_translated_anew_at_every_window(prot_flags: str) -> None:
    space, memory = mapped(ram(0, MIB, name="ram"))
    space.insert_region(AddressSpaceRegion.alias(DIMM, space["ram"], 0, PAGE, prot_flags=prot_flags))
    memory.write(0, b"\xb8\x01\x00\x00\x00\xf4")  # mov eax, 1; hlt
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
    attachment = space.attach_unicorn(uc)

    def run(address: int) -> int:
        uc.emu_start(address, address + 5)
        return int(uc.reg_read(x86_const.UC_X86_REG_EAX))

    assert (run(0), run(DIMM)) == (1, 1)
    for number, address in enumerate([0, DIMM, 0], start=2):
        uc.mem_write(address + 1, bytes([number]))
        assert (run(0), run(DIMM)) == (number, number)
    space.remove_region("ram")
    assert run(DIMM) == 4
    uc.mem_write(DIMM + 1, b"\x09")
    assert run(DIMM) == 9
    attachment.detach()
