"""What the tests of guest memory share: small spaces, the kernel's view of them, child processes, what the host must have."""

import ctypes
import fcntl
import gc
import mmap
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion, GuestMemory

PAGE = mmap.PAGESIZE
MIB = 1 << 20
GIB = 1 << 30
LAYOUT = AddressSpaceLayout(1 << 46, 0, 1 << 45)
WINDOW = 1 << 45
"""The first address behind RAM: devices and DAX windows may lie there."""

libc = ctypes.CDLL(None, use_errno=True)


def ram(base: int, size: int | str = PAGE, **options: Any) -> AddressSpaceRegion:
    return AddressSpaceRegion("ram", base, size, **options)


def mapped(*regions: AddressSpaceRegion) -> tuple[AddressSpace, GuestMemory]:
    space = AddressSpace.from_regions(list(regions), LAYOUT)
    return space, space.map_memory()


def make_file(path: Path, size: int) -> Path:
    path.write_bytes(bytes(size))
    return path


# The kernel's view.


def maps() -> list[str]:
    return Path("/proc/self/maps").read_text().splitlines()


def maps_of(text: str) -> list[str]:
    """The lines of /proc/self/maps in which a text occurs: the name of a memfd, the path of a file."""
    return [line for line in maps() if text in line]


def covers(line: str, host: int) -> bool:
    low, high = (int(number, 16) for number in line.split(maxsplit=1)[0].split("-"))
    return low <= host < high


def protection(host: int) -> str:
    """The four letters of /proc/self/maps for a host address; empty where nothing is mapped."""
    return next((line.split()[1] for line in maps() if covers(line, host)), "")


def smaps(host: int) -> dict[str, str]:
    """What /proc/self/smaps says about the mapping that holds a host address."""
    found: dict[str, str] = {}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if "-" in name.split()[0]:
            inside = covers(line, host)
        elif inside:
            found[name] = value.strip()
    return found


def kilobytes(text: str) -> int:
    return int(text.removesuffix("kB")) << 10


def descriptors() -> dict[str, str]:
    """The open descriptors and what they are."""
    links = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links[entry.name] = str(entry.readlink())
        except FileNotFoundError:
            continue
    return links


@contextmanager
def nothing_left(*regions: AddressSpaceRegion) -> Iterator[AddressSpace]:
    """A space whose mapping fails in the block, and must leave nothing behind."""
    gc.collect()
    space = AddressSpace.from_regions(list(regions), LAYOUT)
    before, mappings, map_before = descriptors(), len(maps()), space.snapshot()
    yield space
    assert descriptors() == before
    assert len(maps()) <= mappings + 1
    assert not maps_of("/memfd:left")
    assert (space.snapshot(), space.is_mapped) == (map_before, False)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def require(condition: object, reason: str) -> None:
    """Skips the test without `condition`; with REQUIRE_ALL=1 it fails."""
    if condition:
        return
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(f"{reason}, and REQUIRE_ALL=1 asks for it")
    pytest.skip(reason)


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
    with number.open() as lock:
        # Another run of these tests on the same host waits.
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = int(number.read_text())
        try:
            number.write_text(str(before + count - free_huge_pages(size)))
            require(free_huge_pages(size) == count, f"the kernel gave no {count} huge pages")
            yield size
        finally:
            number.write_text(str(before))


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


def fork() -> int:
    with warnings.catch_warnings():
        # From 3.12 on Python warns when threads exist: what happens then is what these tests are about.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def run_and_exit(body: Callable[[], object], report: int) -> None:
    """Runs `body` in a child; an exception is written to `report`."""
    status = 1
    try:
        body()
        status = 0
    except BaseException:  # noqa: BLE001  a child must never return into pytest
        os.write(report, traceback.format_exc()[-60_000:].encode())
    finally:
        os._exit(status)


def start_child(body: Callable[[], object]) -> tuple[int, int]:
    read_end, write_end = os.pipe()
    child = fork()
    if child == 0:
        run_and_exit(body, write_end)
    os.close(write_end)
    return child, read_end


def finish_child(child: int, report: int, timeout: float) -> str:
    """What went wrong in a child: empty, a traceback, a signal or a hang."""
    deadline = time.monotonic() + timeout
    while (waited := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.002)
    if waited == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with os.fdopen(report, "rb") as pipe:
        said = pipe.read().decode()
    if waited == (0, 0):
        return f"the child hangs {said}"
    code = os.waitstatus_to_exitcode(waited[1])
    return f"the child died of {signal.Signals(-code).name}" if code < 0 else said or ("exit code" if code else "")


def in_child(body: Callable[[], object], timeout: float = 60) -> None:
    """Runs `body` in a forked child: what it raises, a signal and a hang fail the test."""
    if problem := finish_child(*start_child(body), timeout):
        pytest.fail(problem)


def run_python(program: str, timeout: float = 60) -> str:
    """Runs a program in an interpreter of its own and gives what it prints; an error, a signal and a hang fail the test."""
    try:
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", program],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as hang:
        pytest.fail(f"the child hangs {hang.stderr!r}")
    if done.returncode or done.stderr:
        pytest.fail(f"the child ended with {done.returncode}: {done.stderr}")
    return done.stdout
