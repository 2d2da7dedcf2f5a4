"""The needs of tests: programs and rights, huge pages, mounts, limits."""

import fcntl
import importlib.util
import os
import re
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from kernel_view import descriptors, kilobytes


def require(condition: object, reason: str) -> None:
    """Skips the test without `condition`; with REQUIRE_ALL=1 it fails."""
    if condition:
        return
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(f"{reason}, and REQUIRE_ALL=1 asks for it")
    pytest.skip(reason)


def imported(name: str) -> Any:
    """A module of another project, without which the test is skipped or fails as by `require`."""
    require(importlib.util.find_spec(name.partition(".")[0]), f"{name} is not installed")
    return importlib.import_module(name)


def ask_host(condition: object, reason: str) -> None:
    """Skips the test without `condition`, with REQUIRE_ALL=1 too: the state of the host decides, and no package mends that."""
    if not condition:
        pytest.skip(reason)


def ask_for_memory(size: int) -> None:
    """Asks for memory that a test may fill if it is not stopped in time."""
    available = re.search(r"MemAvailable: *(\d+)", Path("/proc/meminfo").read_text())
    ask_host(available and int(available[1]) << 10 > size, f"the host has no {size >> 30} GiB available")


def huge_page_size() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next((kilobytes(line.split(":")[1]) for line in lines if line.startswith("Hugepagesize:")), 0)


def pool(page_size: int) -> Path:
    return Path(f"/sys/kernel/mm/hugepages/hugepages-{page_size >> 10}kB")


def free_huge_pages(page_size: int) -> int:
    return int((pool(page_size) / "free_hugepages").read_text()) - int((pool(page_size) / "resv_hugepages").read_text())


@contextmanager
def huge_pages(count: int, size: int = 0) -> Iterator[int]:
    """Sees to it that exactly `count` huge pages can be had, of the default size unless told, and gives their size."""
    size = size or huge_page_size()
    require(size and os.geteuid() == 0, "reserving huge pages needs root and a kernel that has them")
    number = pool(size) / "nr_hugepages"
    ask_host(number.exists(), f"this host has no pages of {size >> 20} MiB")
    with number.open() as lock:
        # Another run of these tests on the same host waits.
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = int(number.read_text())
        try:
            number.write_text(str(before + count - free_huge_pages(size)))
            if free_huge_pages(size) < count:
                make_room()
                number.write_text(str(int(number.read_text()) + count - free_huge_pages(size)))
            ask_host(
                free_huge_pages(size) == count,
                f"{count} pages of {size >> 20} MiB are not free together, even without the page cache",
            )
            yield size
        finally:
            number.write_text(str(before))


def make_room() -> None:
    """Has the kernel drop its caches and move pages together."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    with suppress(OSError):
        Path("/proc/sys/vm/compact_memory").write_text("1")


@contextmanager
def mounted(kind: str, where: Path, options: str = "rw") -> Iterator[Path]:
    require(os.geteuid() == 0, f"mounting a {kind} needs root")
    where.mkdir()
    made = subprocess.run(["mount", "-t", kind, "-o", options, "none", where], capture_output=True, check=False)
    require(made.returncode == 0, f"mounting a {kind} failed: {made.stderr.decode()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True)


@contextmanager
def descriptor_limit(more: int) -> Iterator[None]:
    """Leaves room for that many more descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, descriptors()))
    blockers = [os.open("/dev/null", os.O_RDONLY) for _ in range(highest)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(*blockers, highest) + 1 + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in blockers:
            os.close(fd)
