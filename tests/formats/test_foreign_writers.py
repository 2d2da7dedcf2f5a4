"""A real QEMU: the dumps, maps and tables of firmware that it writes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import qemu_helpers
from dbs_address_space import AddressSpace, load
from qemu_helpers import Qemu

RANGES = [(0, 0x4_0000), (0xF_0000, 0x10_0000), (0xFFFF_0000, 1 << 32)]


@pytest.fixture(scope="module")
def microvm() -> Iterator[Qemu]:
    with qemu_helpers.qemu("microvm,pic=off,pit=off,rtc=off", "-m", "256K") as qemu:
        yield qemu


def dumped(qemu: Qemu, path: Path, **arguments: object) -> AddressSpace:
    qemu.ask("dump-guest-memory", paging=False, protocol=f"file:{path}", **arguments)
    return load(path)


def test_its_elf_core_and_its_kdump_hold_the_same(microvm: Qemu, tmp_path: Path) -> None:
    elf = dumped(microvm, tmp_path / "guest.elf")
    kdump = dumped(microvm, tmp_path / "guest.kdump", format="kdump-zlib")
    for space in (elf, kdump):
        assert [(range_.base, range_.end) for range_ in space.ranges("ram")] == RANGES
    assert all(elf.memory.compare(base, kdump.memory.read(base, end - base)) is None for base, end in RANGES)
    assert elf.memory.read(0xFFFF_FFF0, 16) != bytes(16), "the reset vector"


def test_a_part_of_its_memory(microvm: Qemu, tmp_path: Path) -> None:
    space = dumped(microvm, tmp_path / "guest.elf", begin=0xFFFF_F000, length=0x1000)
    assert [(range_.base, range_.end) for range_ in space.ranges("ram")] == [(0xFFFF_F000, 1 << 32)]


def test_its_map_is_that_of_its_dump(microvm: Qemu) -> None:
    text = microvm.ask("human-monitor-command", **{"command-line": "info mtree -f"})
    memory = [region for region in load(text.encode()).regions if region.region_type.value in ("ram", "firmware")]
    assert [(region.base, region.end) for region in memory] == RANGES


def test_its_firmware_is_told_of_its_memory() -> None:
    with qemu_helpers.qemu("q35", "-m", "5G") as qemu:
        space = load(qemu.fw_cfg_file("etc/e820"), format="e820")
    assert [(range_.base, range_.end) for range_ in space.ranges("ram")] == [(0, 2 << 30), (4 << 30, 7 << 30)]
