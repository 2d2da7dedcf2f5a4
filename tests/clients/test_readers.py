"""Programs that read memory find what we wrote, at the edges of regions too: NumPy, drgn, Unicorn, volatility3."""

import random
from collections.abc import Callable, Iterator
from typing import Any
from urllib.request import Request

import drgn
import numpy as np
import pytest
from dbs_address_space import AddressSpace, RegionBusy
from memory_helpers import GIB, MIB, PAGE, mapped, ram
from unicorn import UC_ARCH_X86, UC_MODE_64, UC_PROT_ALL, Uc
from unicorn.x86_const import UC_X86_REG_RAX, UC_X86_REG_RBX
from volatility3.framework.contexts import Context
from volatility3.framework.layers.physical import FileLayer
from volatility3.framework.layers.resources import VolatilityHandler
from volatility3.framework.layers.scanners import RegExScanner

LOW, HIGH = 0x1000, 4 * GIB
BANNER = b"Linux version 6.1.0-test (someone@somewhere) #1 SMP\n"


@pytest.fixture
def space() -> Iterator[AddressSpace]:
    space, memory = mapped(ram(LOW, MIB, name="low"), ram(LOW + MIB, MIB, name="next"), ram(HIGH, MIB, name="high"))
    for region in memory.regions:
        memory.write(region.base, random.Random(region.base).randbytes(region.size))
    yield space
    # The readers keep the handle for ever, volatility3 in its table of handlers: none may hold the memory.
    memory.close()


def test_numpy_sees_every_byte(space: AddressSpace) -> None:
    memory = space.memory
    for region in memory.regions:
        with memory.view(region.base, region.size) as view:
            bytes_ = np.frombuffer(view, "u1")
            assert bytes_.tobytes() == memory.read(region.base, region.size)
            bytes_[[0, -1]] = 0xA5
            del bytes_
        assert memory.read(region.base, 1) == memory.read(region.last_addr, 1) == b"\xa5"
    last = memory.array(HIGH + MIB - 16, 2, "<u8")
    assert last.tolist() == list(memory.unpack(HIGH + MIB - 16, "<2Q"))


def test_drgn_reads_segments_that_are_views(space: AddressSpace) -> None:
    memory, program = space.memory, drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
    views = {region.base: memory.view(region.base, region.size) for region in memory.regions}

    def reader(base: int) -> Callable[[int, int, int, bool], Any]:
        return lambda address, count, _offset, _physical: views[base][address - base : address - base + count]

    for region in memory.regions:
        program.add_memory_segment(region.base, region.size, reader(region.base), True)  # noqa: FBT003
    for addr in (LOW, LOW + MIB - 8, LOW + MIB, HIGH, HIGH + MIB - 8):
        assert program.read_u64(addr, physical=True) == memory.read_u64(addr)
    assert program.read(LOW + MIB - 3, 6, physical=True) == memory.read(LOW + MIB - 3, 6)
    with pytest.raises(drgn.FaultError):
        program.read_u64(HIGH + MIB - 4, physical=True)
    with pytest.raises(RegionBusy):
        space.remove_region("low")
    for view in views.values():
        view.release()


def test_unicorn_runs_in_pinned_memory(space: AddressSpace) -> None:
    """mov [rbx], rax; mov rax, [rbx - 8]; nop, at the start of 'low'; rbx is the last word of 'high'."""
    memory = space.memory
    memory.write(LOW, bytes.fromhex("488903 488b43f8 90"))
    last = HIGH + MIB - 8
    memory.write_u64(last - 8, 0x1122_3344_5566_7788)
    engine = Uc(UC_ARCH_X86, UC_MODE_64)
    with memory.pin(LOW, MIB) as low, memory.pin(HIGH, MIB) as high:
        for base, pin in ((LOW, low), (HIGH, high)):
            engine.mem_map_ptr(base, pin.size, UC_PROT_ALL, pin.address)
        engine.reg_write(UC_X86_REG_RAX, 0xFEED_F00D_DEAD_BEEF)
        engine.reg_write(UC_X86_REG_RBX, last)
        engine.emu_start(LOW, LOW + 8)
        assert engine.reg_read(UC_X86_REG_RAX) == 0x1122_3344_5566_7788
        with pytest.raises(RegionBusy, match="pin"):
            space.remove_region("high")
        engine.mem_unmap(LOW, MIB)
        engine.mem_unmap(HIGH, MIB)
    assert memory.read_u64(last) == 0xFEED_F00D_DEAD_BEEF
    space.remove_region("high")


def test_volatility_scans_the_file_object_for_banners(space: AddressSpace) -> None:
    memory = space.memory
    places = [LOW, LOW + MIB - 20, LOW + 2 * MIB - len(BANNER), HIGH + 0x1234]
    for addr in places:
        memory.write(addr, BANNER)

    class GuestHandler(VolatilityHandler):  # type: ignore[misc]
        """Opens guest://memory."""

        @classmethod
        def non_cached_schemes(cls) -> list[str]:
            return ["guest"]

        @staticmethod
        def default_open(req: Request) -> Any:
            return memory.open(holes="zero") if req.type == "guest" else None

    context = Context()
    context.config["guest.location"] = "guest://memory"
    layer = FileLayer(context, "guest", "guest")
    context.add_layer(layer)
    assert layer.maximum_address >= HIGH + MIB - 1
    sections = [(LOW, 2 * MIB), (HIGH, MIB)]
    found = list(layer.scan(context, RegExScanner(rb"Linux version \d[^\n]+\n"), sections=sections))
    assert found == places
    assert layer.read(LOW + PAGE, 16) == memory.read(LOW + PAGE, 16)
    layer.destroy()
