"""Plans as a guest's kernel finds them: Linux boots in QEMU on memory that was planned here, and tells its own map and zones."""

import gzip
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from dbs_address_space import AddressSpace, AddressSpaceBuilder, AddressSpacePlan, Hotplug, NumaRegionInfo, load
from dbs_address_space.adapters import qemu
from dbs_address_space.tables import hmat, srat
from host import require
from memory_helpers import GIB, MIB, PAGE
from test_qemu import KERNELS, archive, running

INIT = """
static long call(long number, long a, long b, long c, long d, long e) {
    long result;
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
    return result;
}
static char buffer[4096];
static void tell(const char *path, const char *mark) {
    long file = call(2, (long)path, 0, 0, 0, 0), count;
    call(1, 1, (long)mark, 8, 0, 0);
    while ((count = call(0, file, (long)buffer, sizeof buffer, 0, 0)) > 0) call(1, 1, (long)buffer, count, 0, 0);
}
void _start(void) {
    call(83, (long)"/proc", 0755, 0, 0, 0);
    call(165, (long)"proc", (long)"/proc", (long)"proc", 0, 0);
    tell("/proc/iomem", "\\n#iomem\\n");
    tell("/proc/zoneinfo", "\\n#zones\\n");
    call(1, 1, (long)"\\n#ended\\n", 8, 0, 0);
    for (;;) call(34, 0, 0, 0, 0, 0);
}
"""
"""It mounts /proc and copies two files to the console."""
TWO = [NumaRegionInfo("96MiB", None, node, [node]) for node in range(2)]
UNEVEN = [NumaRegionInfo("2560MiB", None, 0, [0]), NumaRegionInfo("768MiB", None, 1, [1])]
PLANS = {
    "pc": AddressSpaceBuilder("pc", numa_regions=["192MiB"]),
    "pc, two nodes": AddressSpaceBuilder("pc", numa_regions=TWO),
    "q35, above its hole": AddressSpaceBuilder("q35", numa_regions=["3GiB"]),
    "q35, a node on both sides": AddressSpaceBuilder("q35", numa_regions=UNEVEN, hotplug=Hotplug("8GiB", slots=2)),
}
TABLES = MIB
"""The most that a BIOS keeps of the end of RAM below 4 GiB, for ACPI."""


@pytest.fixture(scope="module")
def initramfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    require(compiler, "there is no C compiler")
    directory = tmp_path_factory.mktemp("told")
    (directory / "init.c").write_text(INIT)
    options = ["-static", "-nostdlib", "-Os", "-fno-stack-protector", "-fno-tree-vectorize"]
    subprocess.run([str(compiler), *options, "-o", directory / "init", directory / "init.c"], check=True)
    init = (directory / "init").read_bytes()
    files = {"dev": (0o040755, b""), "dev/console": (0o020600, b""), "init": (0o100755, init)}
    path = directory / "initramfs.gz"
    path.write_bytes(gzip.compress(archive(files), 1))
    return path


def installed_kernel() -> str:
    kernels = sorted(KERNELS.glob("vmlinuz-*"))
    require(kernels, f"there is no kernel in {KERNELS} (make setup unpacks Debian's linux-image-cloud-amd64 there)")
    return str(kernels[-1])


def told(directory: Path, plan: AddressSpacePlan, initramfs: Path) -> tuple[str, str]:
    """The files `/proc/iomem` and `/proc/zoneinfo` of a guest on the memory of a plan."""
    memory, log = qemu.space_of_plan(plan).memory, directory / "console"
    room = {"slots": plan.hotplug.slots, "max_size": plan.hotplug.max_memory} if plan.hotplug else {}
    has_nodes = len(plan.numa_nodes) > 1
    arguments = qemu.memory_arguments(memory, plan=plan if has_nodes else None, **room)
    (machine,), _ = plan.builder.__getnewargs_ex__()
    machine_arguments = ["-M", machine.name] if has_nodes else []
    arguments = [f"{machine.name},{one}" if one.startswith("memory-backend=") else one for one in arguments]
    kernel = [
        "-kernel",
        installed_kernel(),
        "-initrd",
        str(initramfs),
        "-append",
        "console=ttyS0 quiet nokaslr no_timer_check",
    ]
    with running(directory, *machine_arguments, *arguments, *kernel, "-serial", f"file:{log}"):
        deadline = time.monotonic() + 120
        while "#ended" not in (said := log.read_text(errors="replace") if log.exists() else ""):
            assert time.monotonic() < deadline, said[-2000:]
            time.sleep(0.1)
    _, iomem, zones = re.split(r"#iomem\s|#zones\s", said.replace("\r", ""))
    return iomem.strip("\n"), zones


def spans(zones: str) -> dict[int, tuple[int, int]]:
    """The first and the exclusive last address of each node's zones."""
    found: dict[int, tuple[int, int]] = {}
    for node, body in re.findall(r"^Node (\d+), zone +\w+\n((?: .*\n)+)", zones, re.MULTILINE):
        numbers = {key: int(value) for key, value in re.findall(r"(spanned|start_pfn):? +(\d+)", body)}
        if numbers.get("spanned"):
            low, high = numbers["start_pfn"] * PAGE, (numbers["start_pfn"] + numbers["spanned"]) * PAGE
            before = found.get(int(node), (low, high))
            found[int(node)] = min(low, before[0]), max(high, before[1])
    return found


@pytest.mark.skipif("aarch64" in os.uname().machine, reason="the kernel is for x86_64")
@pytest.mark.parametrize("name", PLANS)
def test_a_kernel_finds_the_memory_of_a_plan(tmp_path: Path, initramfs: Path, name: str) -> None:
    plan = PLANS[name].plan()
    iomem, zones = told(tmp_path, plan, initramfs)
    theirs = [(one.base, one.end) for one in load(iomem.encode(), format="iomem").ranges("ram")]
    ours = AddressSpace.from_regions(plan.regions, plan.layout).ranges("ram")
    assert all(any(one.base <= low < end <= one.end for one in ours) for low, end in theirs)
    for one in ours:
        # Firmware keeps what lies below 1 MiB, and its tables.
        inside = [(low, end) for low, end in theirs if max(one.base, MIB) <= low < one.end]
        assert inside[0][0] == max(one.base, MIB)
        assert one.end - (TABLES if one.end <= 4 * GIB else 0) <= inside[-1][1]
    for number, (low, end) in spans(zones).items():
        infos = plan.numa_nodes[number].region_infos
        assert infos[0].base <= low <= infos[0].base + MIB
        last = infos[-1].base + infos[-1].size
        assert last - (TABLES if last <= 4 * GIB else 0) <= end <= last
    assert spans(zones).keys() == plan.numa_nodes.keys()


@pytest.mark.skipif("aarch64" in os.uname().machine, reason="the kernel is for x86_64")
def test_a_kernel_takes_the_tables_of_a_node_with_devices_alone(tmp_path: Path) -> None:
    infos = [NumaRegionInfo("192MiB", None, 0, [0]), NumaRegionInfo(0, None, 1, generic_initiators=["0000:01:00.0"])]
    plan, log = AddressSpaceBuilder("q35", numa_regions=infos).plan(), tmp_path / "console"
    tables = {"srat": srat(plan.numa_nodes), "hmat": hmat(plan.numa_nodes, latencies={(0, 0): 80, (1, 0): 300})}
    arguments = ["-M", "q35", "-m", "192", "-kernel", installed_kernel(), "-serial", f"file:{log}"]
    for name, table in tables.items():
        (tmp_path / name).write_bytes(table)
        arguments += ["-acpitable", f"file={tmp_path / name}"]
    with running(tmp_path, *arguments, "-append", "console=ttyS0 nokaslr no_timer_check"):
        deadline = time.monotonic() + 120
        while "hmat:   Initiator-Target[1-0]:300 nsec" not in (
            said := log.read_text(errors="replace") if log.exists() else ""
        ):
            assert "hmat: Ignoring" not in said
            assert time.monotonic() < deadline, said[-2000:]
            time.sleep(0.1)
    assert "Initializing node 1 as memoryless" in said
