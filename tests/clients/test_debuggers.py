"""drgn, volatility3 and gdb on guest memory, live."""

import os
import random
import shutil
import subprocess
from pathlib import Path

import drgn
import pytest
from dbs_address_space import AddressSpace, NotMapped
from dbs_address_space.adapters import gdb, volatility3
from host import require
from memory_helpers import MIB, PAGE, mapped, ram
from volatility3.framework.contexts import Context
from volatility3.framework.exceptions import InvalidAddressException
from volatility3.framework.layers.scanners import BytesScanner

HIGH = 64 * MIB
NEEDLE = b"a needle in guest memory"


def new_program() -> drgn.Program:
    return drgn.Program(drgn.Platform(drgn.Architecture.X86_64))


@pytest.fixture
def space() -> AddressSpace:
    space, memory = mapped(ram(PAGE, MIB - PAGE, name="low"), ram(MIB, MIB, name="next"), ram(HIGH, MIB, name="high"))
    generator = random.Random(7)
    for region in memory.regions:
        memory.write(region.base, generator.randbytes(region.size))
    memory.write(HIGH + 0x1234, NEEDLE)
    memory.write(MIB - 10, NEEDLE)
    return space


def test_drgn_reads_what_is_there_at_the_moment(space: AddressSpace) -> None:
    program, memory = new_program(), space.memory
    attachment = space.attach_drgn(program)
    generator = random.Random(8)
    for _ in range(200):
        region = generator.choice(memory.regions)
        addr = generator.randrange(region.base, region.end - 8)
        assert program.read_u64(addr, physical=True) == memory.read_u64(addr)
    assert program.read(MIB - 8, 16, physical=True) == memory.read(MIB - 8, 16)
    with pytest.raises(drgn.FaultError) as fault:
        program.read(HIGH - 8, 16, physical=True)
    assert fault.value.address == HIGH - 8
    memory.write(0x2000, b"text\0")
    assert program.read_c_string(0x2000, physical=True) == b"text"
    space.insert_region(ram(4 * HIGH, MIB))
    memory.write_u32(4 * HIGH, 77)
    assert program.read_u32(4 * HIGH, physical=True) == 77
    attachment.detach()
    with pytest.raises(drgn.FaultError, match="detached"):
        program.read_u32(4 * HIGH, physical=True)
    with pytest.raises(NotMapped):
        AddressSpace(space.layout).attach_drgn(new_program())


def test_a_volatility_layer_scans_and_writes(space: AddressSpace) -> None:
    context = Context()
    layer = volatility3.attach(space, context)
    assert (layer.minimum_address, layer.maximum_address) == (PAGE, HIGH + MIB - 1)
    found = list(layer.scan(context, BytesScanner(NEEDLE)))
    assert found == [MIB - 10, HIGH + 0x1234]
    assert context.layers["guest"].read(HIGH + 0x1234, len(NEEDLE)) == NEEDLE
    assert layer.is_valid(PAGE, MIB)
    assert not layer.is_valid(0)
    with pytest.raises(InvalidAddressException) as invalid:
        layer.read(0, 2 * PAGE)
    assert invalid.value.invalid_address == 0
    assert layer.read(0, 2 * PAGE, pad=True) == bytes(PAGE) + space.memory.read(PAGE, PAGE)
    layer.write(HIGH, b"written by volatility")
    assert space.memory.read(HIGH, 7) == b"written"


def test_gdb_finds_guest_memory_in_this_process(space: AddressSpace, tmp_path: Path) -> None:
    program = shutil.which("gdb")
    require(program, "there is no gdb")
    script = tmp_path / "guest.gdb"
    script.write_text(gdb.script(space.memory))
    commands = ["-x", str(script), "-ex", f"x/s $guest({HIGH + 0x1234:#x})", "-ex", "print $guest(0x10)"]
    ptrace = Path("/proc/sys/kernel/yama/ptrace_scope")
    if ptrace.exists() and ptrace.read_text().strip() not in {"0", "1"}:
        pytest.skip("this kernel forbids to attach a debugger")
    done = subprocess.run(
        [str(program), "-nx", "-batch", "-p", str(os.getpid()), "-iex", "set auto-solib-add off", *commands],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert NEEDLE.decode() in done.stdout, done.stderr
    assert "no guest memory at 0x10" in done.stdout + done.stderr


def test_a_volatility_layer_answers_about_every_address(space: AddressSpace) -> None:
    layer = volatility3.attach(space, Context())
    for offset, length in [(-1, 1), (1 << 64, 1), (0, 1 << 70), (-(1 << 80), 5)]:
        assert not layer.is_valid(offset, length)
        with pytest.raises(InvalidAddressException):
            layer.mapping(offset, length)
    assert layer.mapping(-1, 1, ignore_errors=True) == []
    assert layer.mapping(1 << 64, 1 << 64, ignore_errors=True) == []
    everything = layer.mapping(-5, 1 << 80, ignore_errors=True)
    assert next(part[0] for part in everything) == layer.minimum_address
