"""Dumps: written against `cp` and against QEMU, opened up to their first byte, and maps shown by the command."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import Any

import spaces
from dbs_address_space import AddressSpace, dump, load
from dbs_address_space.adapters.qemu import open_space
from dbs_address_space.command_line.monitor import Monitor
from dbs_address_space.command_line.parsing import UsageError
from harness import MEBIBYTES, MILLISECONDS, Measure, Pace, Result, timed

SIZE, DATA, EXTENTS = 4 << 30, 100 << 20, 100
HEADERS = 65_600
PAGE = 4096
LOAD, CORE = 1, 4
LIME = struct.Struct("<IIQQ8x")
COMMAND = [sys.executable, "-m", "dbs_address_space"]


def fill(space: AddressSpace) -> None:
    """100 MiB of data in extents of a MiB, spread over 4 GiB."""
    block = os.urandom(DATA // EXTENTS)
    step = SIZE // EXTENTS & -PAGE
    for region in space.memory.regions:
        for at in range(0, region.size - len(block), step):
            space.memory.write(region.base + at, block)


def run(pace: Pace) -> Iterator[Result]:
    """Written, opened, and shown."""
    few = Pace(min(pace.rounds, 7), 0)
    yield from written(few)
    yield from opened(few)
    yield from shown(few)
    if shutil.which("qemu-system-x86_64"):
        yield from of_qemu(few)


def written(pace: Pace) -> Iterator[Result]:
    """A guest's memory as a dump against a copy of the file behind it."""
    with (
        TemporaryDirectory() as folder,
        AddressSpace.from_regions([spaces.ram(spaces.FIRST, SIZE)], spaces.LAYOUT) as space,
    ):
        space.map_memory()
        fill(space)
        source = f"/proc/{os.getpid()}/fd/{space.memory.mapping(spaces.FIRST).fd}"
        copy = timed(lambda: subprocess.run(["cp", "--sparse=always", source, Path(folder, "cp")], check=True))
        for name in ("elf", "lime"):
            path = Path(folder, f"vm.{name}")
            samples = pace.in_turns(timed(lambda path=path, name=name: dump(space, path, format=name)), copy)
            yield Result("dumps", f"{name} dump of 4 GiB with 100 MiB (cp)", *samples, goal=1.3, unit=MILLISECONDS)
            on_disk = path.stat().st_blocks << 9
            yield Result("dumps", f"{name} dump, of its data", [on_disk] * 2, [DATA] * 2, goal=1.05, unit=MEBIBYTES)


def elf(path: Path, segments: list[tuple[int, int]]) -> None:
    """A core of segments, each a base and a size, whose bytes are holes but for the first."""
    count, many = min(len(segments), 0xFFFF), len(segments) >= 0xFFFF
    table = 64 + 56 * len(segments)
    offset = -(-(table + 64) // PAGE) * PAGE
    sizes = (64, 56, count, 64 * many, int(many), 0)
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", CORE, 62, 1, 0, 64, table * many, 0, *sizes)
    with path.open("wb") as file:
        file.write(header)
        for base, size in segments:
            file.write(struct.pack("<IIQQQQQQ", LOAD, 6, offset, base, base, size, size, PAGE))
            offset += size
        file.write(struct.pack("<44xI16x", len(segments)))
        file.truncate(offset)


def kdump(path: Path) -> None:
    """A compressed dump of 4 GiB that has 128 MiB of them, a MiB in each 32."""
    count, stored = SIZE // PAGE, SIZE // PAGE // 32
    half, packed = count // 8, zlib.compress(b"page" * 1024)
    header, second = bytearray(PAGE), bytearray(PAGE)
    struct.pack_into("<8si", header, 0, b"KDUMP   ", 6)
    struct.pack_into("<IiiII", header, 424, 1, PAGE, 1, 2 * half // PAGE, count)
    struct.pack_into("<Q", second, 96, count)
    end = 2 * PAGE + 2 * half + 24 * stored
    with path.open("wb") as file:
        file.write(header + second + b"\xff" * half + (b"\xff" * 32 + bytes(31 * 32)) * (half // 1024))
        file.writelines(struct.pack("<QIIQ", end, len(packed), 1, 0) for _ in range(stored))
        file.write(packed)


def opened(pace: Pace) -> Iterator[Result]:
    """From the path to the first byte of memory, in a process that has done it before."""
    with TemporaryDirectory() as folder:
        paths = {name: Path(folder, name.replace(" ", "-")) for name in ("ELF", "LiME", "raw", "kdump", "headers")}
        elf(paths["ELF"], [(0, SIZE)])
        paths["LiME"].write_bytes(LIME.pack(0x4C694D45, 1, 0, SIZE - 1))
        kdump(paths["kdump"])
        elf(paths["headers"], [(at * 2 * PAGE, PAGE) for at in range(HEADERS)])
        for name, size in (("LiME", SIZE + LIME.size), ("raw", SIZE)):
            with paths[name].open("ab") as file:
                file.truncate(size)
        goals = {"ELF": 2e-3, "LiME": 2e-3, "raw": 2e-3, "kdump": 5e-3, "headers": 25e-3}
        for name, path in paths.items():
            options: dict[str, Any] = {"format": "raw"} if name == "raw" else {}

            def first_byte(path: Path = path, options: dict[str, Any] = options) -> None:
                with load(path, **options) as space:
                    space.memory.read(0, 1)

            title = f"first byte of 4 GiB, {name}" if name != "headers" else f"first byte, {HEADERS:,} headers"
            yield Result("dumps", title, *pace.alone(timed(first_byte)), Measure.ALONE, goals[name], MILLISECONDS)


def shown(pace: Pace) -> Iterator[Result]:
    """From the shell to its next prompt."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "map.json")
        dump(AddressSpace.from_regions([spaces.ram(spaces.base(at)) for at in range(10_000)], spaces.LAYOUT), path)
        rounds = Pace(max(pace.rounds, 11), 0)
        for name, words, goal in (
            ("show of 10,000 regions", ["show", str(path)], 150e-3),
            ("start of the command", ["--version"], 60e-3),
        ):
            call = timed(lambda words=words: subprocess.run([*COMMAND, *words], capture_output=True, check=True))
            yield Result("dumps", name, *rounds.alone(call), Measure.ALONE, goal, MILLISECONDS)


@contextmanager
def machine(folder: str) -> Iterator[Monitor]:
    """A QEMU of 4 GiB in a memfd, stopped before its first instruction."""
    path = Path(folder, "qmp")
    memory = ["-m", f"{SIZE}B", "-object", f"memory-backend-memfd,id=ram,size={SIZE},share=on"]
    command = ["qemu-system-x86_64", "-S", "-nodefaults", "-display", "none", "-accel", "tcg", *memory]
    command += ["-machine", "microvm,memory-backend=ram", "-qmp", f"unix:{path},server=on,wait=off"]
    with subprocess.Popen(command) as process:
        try:
            monitor = connected(path)
            # Its own dump takes longer than an answer may.
            monitor.socket.settimeout(None)
            yield monitor
        finally:
            process.kill()


def connected(path: Path, tries: int = 1000) -> Monitor:
    """QEMU's monitor, once there is one."""
    while True:
        try:
            return Monitor(str(path), "QEMU")
        except UsageError:
            tries -= 1
            if not tries:
                raise
            sleep(0.01)


def of_qemu(pace: Pace) -> Iterator[Result]:
    """A QEMU's memory, opened from outside, against QEMU's own dump of it."""
    with TemporaryDirectory() as folder, machine(folder) as monitor, open_space(monitor) as guest:
        fill(guest.space)
        theirs, ours = Path(folder, "theirs.elf"), Path(folder, "ours.elf")
        by_qemu = timed(lambda: monitor("dump-guest-memory", {"paging": False, "protocol": f"file:{theirs}"}))
        samples = pace.in_turns(timed(lambda: dump(guest.space, ours)), by_qemu)
        yield Result("dumps", "ELF of a QEMU of 4 GiB (its own dump)", *samples, Measure.SPEED, 10, MILLISECONDS)
