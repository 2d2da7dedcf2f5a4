"""QEMU on our memory: it boots a real kernel there, takes a module while it runs, and its map becomes ours."""

import gzip
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import (
    AddressSpace,
    AddressSpaceBuilder,
    GuestMemory,
    InvalidArgument,
    NumaRegionInfo,
    Unsupported,
)
from dbs_address_space.adapters import qemu
from host import require
from memory_helpers import GIB, LAYOUT, MIB, ram
from qemu_helpers import connected

KERNELS = Path(__file__).parents[2] / "target" / "kernel" / "boot"
MESSAGE = b"init: the guest is alive in Python's memory"
KEY = 0x55
INIT = """
static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}
static const unsigned char hidden[] = {%s};
static volatile char message[sizeof hidden];
void _start(void) {
    for (unsigned i = 0; i < sizeof hidden; i++) message[i] = hidden[i] ^ %d;
    call(1, 1, (long)message, sizeof hidden);
    for (;;) call(34, 0, 0, 0);
}
"""
"""It writes a message that is nowhere in its file in the clear, and waits."""


class Qmp:
    """A QMP connection: one command at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.settimeout(30)
        self.lines = self.socket.makefile("r")
        self.lines.readline()
        self("qmp_capabilities", {})

    def __call__(self, command: str, arguments: dict[str, Any]) -> Any:
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            answer = json.loads(self.lines.readline())
            if "error" in answer:
                raise RuntimeError(answer["error"]["desc"])
            if "return" in answer:
                return answer["return"]

    def close(self) -> None:
        self.lines.close()
        self.socket.close()


@contextmanager
def running(directory: Path, *arguments: str) -> Iterator[Qmp]:
    program = shutil.which("qemu-system-x86_64")
    require(program, "there is no qemu-system-x86_64 (Debian: qemu-system-x86)")
    path = directory / "qmp"
    common = ["-accel", "tcg", "-nodefaults", "-display", "none", "-qmp", f"unix:{path},server=on,wait=off"]
    process = subprocess.Popen([str(program), *common, *arguments], stderr=subprocess.PIPE)
    try:
        qmp = Qmp(connected(process, path))
        try:
            yield qmp
        finally:
            qmp.close()
    finally:
        process.kill()
        process.communicate()


def archive(files: dict[str, tuple[int, bytes]]) -> bytes:
    """A cpio archive, as the kernel unpacks it: names with modes and contents; the console is device 5, 1."""
    result = b""
    for name, (mode, content) in {**files, "TRAILER!!!": (0, b"")}.items():
        device = (5, 1) if name == "dev/console" else (0, 0)
        fields = (1, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name) + 1, 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        result += header + b"\0" * (-len(header) % 4) + content + b"\0" * (-len(content) % 4)
    return result


@pytest.fixture(scope="module")
def initramfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    require(compiler, "there is no C compiler")
    directory = tmp_path_factory.mktemp("initramfs")
    hidden = ",".join(str(byte ^ KEY) for byte in MESSAGE + b"\n")
    (directory / "init.c").write_text(INIT % (hidden, KEY))
    options = ["-static", "-nostdlib", "-Os", "-fno-stack-protector", "-fno-tree-vectorize"]
    subprocess.run([str(compiler), *options, "-o", directory / "init", directory / "init.c"], check=True)
    init = (directory / "init").read_bytes()
    assert MESSAGE not in init
    files = {"dev": (0o040755, b""), "dev/console": (0o020600, b""), "init": (0o100755, init)}
    path = directory / "initramfs.gz"
    path.write_bytes(gzip.compress(archive(files), 1))
    return path


def find(memory: GuestMemory, pattern: bytes) -> bytes | None:
    """The matches, copied at once: the guest may run."""
    for region in memory.regions:
        with memory.view(region.base, region.size) as view:
            if found := re.search(pattern, view):
                return view[found.start() : found.end()].tobytes()
    return None


def wait_for(memory: GuestMemory, pattern: bytes, log: Path) -> bytes:
    deadline = time.monotonic() + 90
    while not (found := find(memory, pattern)):
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
        time.sleep(0.25)
    return found


@pytest.mark.skipif("aarch64" in os.uname().machine, reason="the kernel is for x86_64")
def test_a_linux_kernel_boots_in_memory_that_is_ours(tmp_path: Path, initramfs: Path) -> None:
    kernels = sorted(KERNELS.glob("vmlinuz-*"))
    require(kernels, f"there is no kernel in {KERNELS} (.ci/run unpacks Debian's linux-image-cloud-amd64 there)")
    memory = AddressSpace.from_regions([ram(0, 160 * MIB)], LAYOUT).map_memory()
    log = tmp_path / "console"
    kernel = ["-kernel", str(kernels[-1]), "-initrd", str(initramfs), "-append", "console=ttyS0 nokaslr no_timer_check"]
    with running(tmp_path, *qemu.memory_arguments(memory), *kernel, "-serial", f"file:{log}"):
        banner = wait_for(memory, rb"Linux version \d[^\n]+ SMP [^\n]+\n", log)
        version = kernels[-1].name.removeprefix("vmlinuz-").encode()
        assert version in banner
        assert wait_for(memory, re.escape(MESSAGE), log)
    assert find(memory, re.escape(banner))
    assert find(memory, re.escape(MESSAGE))
    assert MESSAGE.decode() in log.read_text()


@pytest.mark.skipif("aarch64" in os.uname().machine, reason="the kernel is for x86_64")
def test_a_guest_finds_the_nodes_of_a_plan(tmp_path: Path, initramfs: Path) -> None:
    kernels = sorted(KERNELS.glob("vmlinuz-*"))
    require(kernels, f"there is no kernel in {KERNELS} (.ci/run unpacks Debian's linux-image-cloud-amd64 there)")
    nodes = [NumaRegionInfo("96MiB", guest_numa_node_id=node, vcpu_ids=[node]) for node in (0, 1)]
    plan = AddressSpaceBuilder("pc", numa_regions=nodes).plan()
    memory = plan.build().map_memory()
    log = tmp_path / "console"
    kernel = ["-kernel", str(kernels[-1]), "-initrd", str(initramfs), "-append", "console=ttyS0 nokaslr no_timer_check"]
    cpus = ["-smp", "2,sockets=2", "-numa", "cpu,node-id=0,socket-id=0", "-numa", "cpu,node-id=1,socket-id=1"]
    with running(tmp_path, "-M", "pc", *qemu.memory_arguments(memory), *cpus, *kernel, "-serial", f"file:{log}"):
        wait_for(memory, re.escape(MESSAGE), log)
    said = log.read_text()
    (second,) = plan.numa_nodes[1].region_infos
    assert f"SRAT: Node 1 PXM 1 [mem {second.base:#010x}-{second.base + second.size - 1:#010x}]" in said
    assert "smp: Brought up 2 nodes, 2 CPUs" in said


def test_a_module_of_ours_is_plugged_into_a_running_machine_and_its_map_is_read(tmp_path: Path) -> None:
    space = AddressSpace.from_regions([ram(0, 64 * MIB, name="low")], LAYOUT)
    memory = space.map_memory()
    arguments = qemu.memory_arguments(memory, slots=2, max_size=GIB)
    with running(tmp_path, "-M", "q35", "-S", *arguments) as execute:
        space.insert_region(ram(4 * GIB, 128 * MIB, name="dimm0"))
        for command in qemu.hotplug_commands(memory, space["dimm0"]):
            execute(*command)
        theirs = qemu.read_space(execute)
        assert (theirs["dimm0"].base, theirs["dimm0"].size, theirs["dimm0"].is_hotplug) == (4 * GIB, 128 * MIB, True)
        assert theirs.ram_size >= 64 * MIB - 384 * 1024 + 128 * MIB
        names = {region.name for region in theirs if region.region_type.value == "device"}
        assert any("ioapic" in (name or "") for name in names), names
        memory.write(4 * GIB + 0x1000, b"seen by QEMU")
        dump = tmp_path / "dump"
        execute("pmemsave", {"val": 4 * GIB + 0x1000, "size": 12, "filename": str(dump)})
        assert dump.read_bytes() == b"seen by QEMU"
        assert [name for name, _ in qemu.unplug_commands(space["dimm0"])] == ["device_del", "object-del"]


def test_one_file_on_both_sides_of_the_hole_is_one_backend(tmp_path: Path) -> None:
    """q35 has 2 GiB below the hole when there is more than that: its 4 GiB are at 2 GiB of the file."""
    with (tmp_path / "ram").open("w+b") as file:
        file.truncate(3 * GIB)
        regions = [
            ram(0, 2 * GIB, file=file, name="low"),
            ram(4 * GIB, GIB, file=file, file_offset=2 * GIB, name="high"),
        ]
        memory = AddressSpace.from_regions(regions, LAYOUT).map_memory()
    with running(tmp_path, "-M", "q35", "-S", *qemu.memory_arguments(memory)) as execute:
        memory.write(4 * GIB, b"high")
        dump = tmp_path / "dump"
        execute("pmemsave", {"val": 4 * GIB, "size": 4, "filename": str(dump)})
        assert dump.read_bytes() == b"high"
        assert qemu.read_space(execute).find_region(4 * GIB) is not None


def test_nodes_are_backends_of_their_own(tmp_path: Path) -> None:
    space = AddressSpace.from_regions([ram(0, 64 * MIB), ram(64 * MIB, 32 * MIB)], LAYOUT)
    arguments = qemu.memory_arguments(space.map_memory())
    assert [argument.split(",")[1:] for argument in arguments if argument.startswith("node")] == [
        ["nodeid=0", "memdev=ram0"],
        ["nodeid=1", "memdev=ram1"],
    ]
    with running(tmp_path, "-M", "q35", "-S", *arguments) as execute:
        space.memory.write(64 * MIB, b"second")
        dump = tmp_path / "dump"
        execute("pmemsave", {"val": 64 * MIB, "size": 6, "filename": str(dump)})
        assert dump.read_bytes() == b"second"


def test_what_qemu_can_not_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="private"):
        qemu.memory_arguments(AddressSpace.from_regions([ram(0, mem_type="mmap")], LAYOUT).map_memory())
    with (tmp_path / "ram").open("w+b") as file:
        file.truncate(4 * MIB)
        middle = ram(0, MIB, file=file, file_offset=MIB)
        memory = AddressSpace.from_regions([middle], LAYOUT).map_memory()
    with pytest.raises(Unsupported, match="all of a file"):
        qemu.memory_arguments(memory)
    with pytest.raises(InvalidArgument, match="info mtree -f"):
        qemu.space_of_tree("nothing of the kind")
