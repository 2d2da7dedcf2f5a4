"""Hosts of other people: a sysfs and a procfs in a folder."""

from collections.abc import Mapping
from pathlib import Path

MIB, GIB = 1 << 20, 1 << 30

CPUINFO = {
    "x86_64": "processor : 0\nvendor_id : GenuineIntel\nflags : fpu vme\naddress sizes : {bits} bits physical, 48 bits virtual\n",
    "aarch64": "processor : 0\nCPU implementer : 0x41\n",
}


class FakeHost:
    """A host with so many GiB free on each node, and so many huge pages of 2 MiB; `files` are its two folders."""

    def __init__(
        self, where: Path, free: list[int], *, huge: list[int] | None = None, arch: str = "x86_64", bits: int = 46
    ) -> None:
        self.files = {"sysfs": where / "sys", "procfs": where / "proc"}
        nodes, huge = range(len(free)), huge or [0] * len(free)
        self.write("sys/devices/system/node/online", f"0-{len(free) - 1}\n")
        for node in nodes:
            self.write(f"sys/devices/system/node/node{node}/meminfo", self._node(node, free[node] * GIB))
            pool = f"sys/devices/system/node/node{node}/hugepages/hugepages-2048kB"
            self.write(f"{pool}/free_hugepages", f"{huge[node]}\n")
        self.write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", f"{sum(huge)}\n")
        total = sum(free) * GIB >> 10
        self.meminfo = {"MemTotal": total, "MemAvailable": total, "SwapTotal": 0, "Hugepagesize": 2048}
        self.tell()
        self.write("proc/cpuinfo", CPUINFO[arch].format(bits=bits))

    def _node(self, node: int, free: int) -> str:
        parts: Mapping[str, int] = {
            "MemFree": free >> 11,
            "Active(file)": free >> 12,
            "Inactive(file)": free >> 13,
            "SReclaimable": free >> 13,
        }
        return "".join(f"Node {node} {name}: {size:>12} kB\n" for name, size in parts.items())

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
        self.write("proc/self/limits", f"Limit Soft Limit Hard Limit Units\n{name} {value} unlimited bytes\n")
