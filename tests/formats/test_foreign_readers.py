"""Dumps of ours, opened by the programs that people open dumps with."""

import gc
import os
import platform
import shutil
import subprocess
import warnings
from pathlib import Path

import drgn
import pytest
from dbs_address_space import AddressSpace, dump
from elftools.elf.elffile import ELFFile
from host import require
from memory_helpers import GIB, MIB, PAGE, mapped, ram
from volatility3.framework.contexts import Context
from volatility3.framework.interfaces.layers import DataLayerInterface
from volatility3.framework.layers.elf import Elf64Layer
from volatility3.framework.layers.lime import LimeLayer
from volatility3.framework.layers.physical import FileLayer

PLACES = {0x1000: b"the beginning", MIB - 8: b"the end.", 4 * GIB + 0x3000: b"above 4 GiB"}


@pytest.fixture
def space() -> AddressSpace:
    space, memory = mapped(
        ram(PAGE, MIB - PAGE, name="low"), ram(2 * MIB, MIB, prot_flags="---"), ram(4 * GIB, 4 * MIB, name="high")
    )
    for address, data in PLACES.items():
        memory.write(address, data)
    return space


@pytest.fixture
def elf(space: AddressSpace, tmp_path: Path) -> Path:
    dump(space, tmp_path / "guest.elf")
    return tmp_path / "guest.elf"


def test_drgn_reads_an_elf_dump(elf: Path) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("the dump says which machine it is from")
    program = drgn.Program()
    program.set_core_dump(elf)
    for address, data in PLACES.items():
        assert program.read(address, len(data), physical=True) == data
    with pytest.raises(drgn.FaultError):
        program.read(2 * MIB, 8, physical=True)


def layer_of(kind: type[DataLayerInterface], path: Path) -> DataLayerInterface:
    context = Context()
    context.config["file.location"] = path.as_uri()
    context.layers.add_layer(FileLayer(context, "file", "file"))
    context.config["dump.base_layer"] = "file"
    return kind(context, "dump", "dump")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a validator that volatility takes where there is one
def test_volatility_reads_elf_and_lime_dumps(space: AddressSpace, elf: Path, tmp_path: Path) -> None:
    dump(space, tmp_path / "guest.lime")
    layers = [layer_of(Elf64Layer, elf), layer_of(LimeLayer, tmp_path / "guest.lime")]
    for layer in layers:
        assert {address: layer.read(address, len(data)) for address, data in PLACES.items()} == PLACES
        layer.context.layers["file"].destroy()
    del layers, layer
    with warnings.catch_warnings():
        # Their files are left to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_pyelftools_and_readelf_find_nothing_wrong(elf: Path) -> None:
    with elf.open("rb") as file:
        segments = [(segment["p_paddr"], segment["p_memsz"]) for segment in ELFFile(file).iter_segments("PT_LOAD")]
    assert segments == [(PAGE, MIB - PAGE), (2 * MIB, MIB), (4 * GIB, 4 * MIB)]
    program = shutil.which("readelf")
    require(program, "there is no readelf (Debian: binutils)")
    shown = subprocess.run([str(program), "-lW", elf], capture_output=True, text=True, check=True)
    assert (shown.stderr, shown.stdout.count("LOAD")) == ("", 3)


def test_gdb_reads_an_elf_dump(elf: Path) -> None:
    program = shutil.which("gdb")
    require(program, "there is no gdb")
    command = [str(program), "-q", "-nx", "-batch", "-ex", f"core-file {elf}", "-ex", "x/s 0x1000"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C"})
    assert '"the beginning"' in shown.stdout
