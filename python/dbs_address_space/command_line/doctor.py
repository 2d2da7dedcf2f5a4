"""`doctor`: what this host offers to virtual machines and their memory."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import re
import resource
import sys
from pathlib import Path

from dbs_address_space._core import __version__, size_text

from . import terminal
from .parsing import Parser

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HELP", "checks", "parser", "run"]

HELP = """\
Tell what this host offers: KVM, huge pages, userfaultfd, dirty pages, NUMA, limits; what is missing, and how to get it.

usage: dbs-address-space doctor [options]

  dbs-address-space doctor
  dbs-address-space doctor --json > report.json       for a bug report

options
  --json               as JSON
everywhere
  --color WHEN         auto (default), always, never; NO_COLOR is respected
  -q, --quiet          only what is not as it could be
  -h, --help           this text
exit status  0 done"""

KVM_GET_API_VERSION, KVM_CHECK_EXTENSION = 0xAE00, 0xAE03
KVM_CAP_NR_MEMSLOTS = 10
PAGEMAP_SCAN = 0xC0606610
POOL = re.compile(r"hugepages-(\d+)kB$")

Check = tuple[str, str, str, str]
"""A name, `"ok"`, `"limited"` or `"missing"`, what was found, and how to get what is missing."""


def parser() -> Parser:
    """The options."""
    options = Parser("doctor")
    options.add_argument("--json", action="store_true")
    return options


def run(arguments: list[str]) -> int:
    """Looks at this host."""
    options = parser().parse(arguments)
    found = list(checks())
    if options.json:
        told = [
            {"name": name, "state": state, "detail": detail, "how": how or None} for name, state, detail, how in found
        ]
        content = {"format": "dbs-address-space/doctor", "version": 1, "checks": told, "versions": _versions()}
        print(json.dumps(content, indent=1))
        return 0
    is_ascii, is_colored = terminal.is_ascii(sys.stdout), terminal.has_color(sys.stdout, options.color)
    marks = {"ok": ("+", "32"), "limited": ("!", "33"), "missing": ("x", "91")}
    for name, state, detail, how in found:
        if options.quiet and state == "ok":
            continue
        plain, color = marks[state]
        mark = plain if is_ascii else {"+": "✓", "x": "✗"}.get(plain, plain)
        print(f"\x1b[{color}m{mark}\x1b[0m" if is_colored else mark, f"{name:<14} {detail}")
        if how:
            print(f"  {'':<14} {how}")
    print(", ".join(f"{name} {version}" for name, version in _versions().items()))
    return 0


def checks() -> Iterator[Check]:
    """All that is looked at, in the order in which it is told."""
    yield _kvm()
    yield _userfaultfd()
    yield _pagemap_scan()
    yield from _huge_pages()
    nodes = len(list(Path("/sys/devices/system/node").glob("node[0-9]*")))
    yield "NUMA", "ok", f"{nodes or 1} node{'s' if nodes > 1 else ''}", ""
    yield _limit("locked memory", resource.RLIMIT_MEMLOCK, "ulimit -l unlimited; needed for mlock and VFIO")
    yield _limit("address space", resource.RLIMIT_AS, "ulimit -v unlimited; guests are mapped as a whole")


def _kvm() -> Check:
    try:
        fd = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return (
            "KVM",
            "missing",
            "there is no /dev/kvm",
            "sudo modprobe kvm_intel or kvm_amd; turn on virtualization in the firmware",
        )
    except OSError as error:
        return "KVM", "missing", f"/dev/kvm: {error.strerror}", "sudo usermod -aG kvm $USER, and log in again"
    try:
        version = fcntl.ioctl(fd, KVM_GET_API_VERSION)
        slots = fcntl.ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS)
    except OSError as error:
        return "KVM", "missing", f"/dev/kvm does not answer as KVM does: {error.strerror}", ""
    finally:
        os.close(fd)
    detail = f"API {version}, {slots} slots"
    if _text("/proc/cpuinfo").find(" hypervisor") >= 0:
        return "KVM", "limited", f"{detail}; this host is itself a virtual machine: timings mean little", ""
    return "KVM", "ok", detail, ""


def _userfaultfd() -> Check:
    setting = _text("/proc/sys/vm/unprivileged_userfaultfd").strip()
    if not setting:
        return "userfaultfd", "missing", "the kernel was built without CONFIG_USERFAULTFD", ""
    if os.geteuid() == 0 or setting == "1" or os.access("/dev/userfaultfd", os.R_OK | os.W_OK):
        return "userfaultfd", "ok", "faults of user and kernel, from this user", ""
    return "userfaultfd", "limited", "faults of user code only", "sudo sysctl vm.unprivileged_userfaultfd=1"


def _pagemap_scan() -> Check:
    try:
        with Path("/proc/self/pagemap").open("rb") as pagemap:
            fcntl.ioctl(pagemap, PAGEMAP_SCAN, bytes(96))
    except OSError as error:
        # A kernel that has it refuses this empty request as wrong.
        if error.errno == errno.EINVAL:
            return "PAGEMAP_SCAN", "ok", "written pages in one call", ""
        if error.errno != errno.ENOTTY:
            return "PAGEMAP_SCAN", "missing", f"/proc/self/pagemap: {error.strerror}", ""
    return "PAGEMAP_SCAN", "missing", "the kernel has none: it came with Linux 6.7", ""


def _huge_pages() -> Iterator[Check]:
    pools = sorted(Path("/sys/devices/system/node").glob("node[0-9]*/hugepages/hugepages-*"))
    pools = pools or sorted(Path("/sys/kernel/mm/hugepages").glob("hugepages-*"))
    found = []
    for pool in pools:
        size = POOL.search(pool.name)
        if size:
            free, whole = (int(_text(pool / name) or 0) for name in ("free_hugepages", "nr_hugepages"))
            node = pool.parent.parent.name if "node" in pool.parent.parent.name else "the host"
            found.append((whole, f"{size_text(int(size[1]) << 10)}: {free} of {whole} free on {node}", pool))
    if not found:
        yield "huge pages", "missing", "the kernel has no pools of them", ""
    elif any(whole for whole, *_ in found):
        yield "huge pages", "ok", "; ".join(text for whole, text, _ in found if whole), ""
    else:
        how = f"echo 512 | sudo tee {found[-1][2]}/nr_hugepages"
        yield "huge pages", "limited", "; ".join(text for _, text, _ in found), how


def _limit(name: str, number: int, how: str) -> Check:
    limit, _ = resource.getrlimit(number)
    if limit == resource.RLIM_INFINITY:
        return name, "ok", "no limit", ""
    return name, "limited", f"at most {size_text(limit)}", how


def _versions() -> dict[str, str]:
    name, version = platform.libc_ver()
    return {
        "dbs-address-space": __version__,
        platform.python_implementation(): platform.python_version(),
        "Linux": f"{platform.release()} {platform.machine()}",
        name or "libc": version or "unknown",
    }


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
