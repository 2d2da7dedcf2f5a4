"""Hosts of other people: a sysfs and a procfs in a folder."""

from __future__ import annotations

from pathlib import Path

from dbs_address_space.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

__all__ = ["FakeHost"]

_GIB = 1 << 30
_CPUINFO = {
    "x86_64": "processor : 0\nvendor_id : GenuineIntel\nflags : fpu vme\naddress sizes : {bits} bits physical, 48 bits virtual\n",
    "aarch64": "processor : 0\nCPU implementer : 0x41\n",
}


class FakeHost:
    """A host in a folder, for `AddressSpacePlan.check_host`: so many GiB free on each node, and so many huge pages of 2 MiB.

    `files` are the arguments that say where its `sysfs` and `procfs` are; `tell`, `limit` and `write` change what they hold.

    >>> import tempfile
    >>> from dbs_address_space import AddressSpaceBuilder
    >>> from dbs_address_space.testing import FakeHost
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     host = FakeHost(folder, [4, 4])
    ...     problems = AddressSpaceBuilder(numa_regions=["10GiB"]).plan().check_host(**host.files)
    >>> len(problems)
    1
    """

    files: dict[str, Path]
    """The arguments that `check_host` takes: `sysfs` and `procfs`."""
    meminfo: dict[str, int]
    """The numbers in `/proc/meminfo`, in KiB."""

    def __init__(
        self,
        where: str | os.PathLike[str],
        free: Sequence[int],
        *,
        huge: Sequence[int] | None = None,
        arch: str = "x86_64",
        bits: int = 46,
    ) -> None:
        """Writes its files below the folder `where`."""
        if arch not in _CPUINFO:
            raise InvalidArgument(f"arch={arch!a} is not one of {', '.join(map(repr, _CPUINFO))}")
        self.files = {"sysfs": Path(where) / "sys", "procfs": Path(where) / "proc"}
        nodes, pages = range(len(free)), [0] * len(free) if huge is None else huge
        self.write("sys/devices/system/node/online", f"0-{len(free) - 1}\n")
        for node in nodes:
            self.write(f"sys/devices/system/node/node{node}/meminfo", _node(node, free[node] * _GIB))
            pool = f"sys/devices/system/node/node{node}/hugepages/hugepages-2048kB"
            self.write(f"{pool}/free_hugepages", f"{pages[node]}\n")
        self.write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", f"{sum(pages)}\n")
        total = sum(free) * _GIB >> 10
        self.meminfo = {"MemTotal": total, "MemAvailable": total, "SwapTotal": 0, "Hugepagesize": 2048}
        self.tell()
        self.write("proc/cpuinfo", _CPUINFO[arch].format(bits=bits))

    def tell(self, **kilobytes: int) -> None:
        """Other numbers in /proc/meminfo."""
        self.meminfo |= kilobytes
        self.write("proc/meminfo", "".join(f"{name}: {size} kB\n" for name, size in self.meminfo.items()))

    def write(self, path: str, text: str) -> None:
        """A file, by its path that begins with `sys` or `proc`."""
        file = self.files["sysfs"].parent / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def limit(self, name: str, value: int | str) -> None:
        """A limit of the process, by its name in `/proc/self/limits`."""
        self.write("proc/self/limits", f"Limit Soft Limit Hard Limit Units\n{name} {value} unlimited bytes\n")


def _node(node: int, free: int) -> str:
    parts: Mapping[str, int] = {
        "MemFree": free >> 11,
        "Active(file)": free >> 12,
        "Inactive(file)": free >> 13,
        "SReclaimable": free >> 13,
    }
    return "".join(f"Node {node} {name}: {size:>12} kB\n" for name, size in parts.items())
