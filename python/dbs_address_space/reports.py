"""The cost of plans, and the memory that the kernel really gave."""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._core import AddressSpaceRegion, NumaPolicy
    from .enums import Prot

__all__ = ["DaxMapping", "EffectiveBacking", "Placement", "PlanCost", "PreallocReport"]


class PlanCost(namedtuple("PlanCost", ["size", "preallocated", "pages", "nodes"])):
    """The cost of a plan to a host: bytes of RAM and firmware, bytes populated at build time, pages, nodes.

    `pages` counts pages by their size in bytes, `nodes` bytes by host NUMA node, where `None` stands for any. Small pages count
    4 KiB, and huge ones 2 MiB where no size is given: a plan looks at no host.
    """

    __slots__ = ()
    size: int
    preallocated: int
    pages: dict[int, int]
    nodes: dict[int | None, int]


class PreallocReport(namedtuple("PreallocReport", ["size", "threads", "seconds", "touched"])):
    """The result of `GuestMemory.prealloc()`: bytes that are populated now, the number of threads, the seconds that it took.

    `touched` tells that the kernel has no `MADV_POPULATE_WRITE` (Linux 5.14), so that pages were touched one by one.

    >>> PreallocReport(1 << 30, 2, 0.5, False).rate
    2147483648.0
    """

    __slots__ = ()
    size: int
    threads: int
    seconds: float
    touched: bool

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return float(self.size / self.seconds) if self.seconds else 0.0


class EffectiveBacking(
    namedtuple(
        "EffectiveBacking",
        ["region", "page_size", "resident", "huge", "locked", "flags", "policy", "nodes"],
    ),
):
    """The state of a region's memory, as the kernel tells it: /proc/self/smaps, get_mempolicy, move_pages.

    Bytes a page, bytes in memory, of these in huge pages of any kind, locked bytes, the two-letter `VmFlags` (`"hg"` advised huge
    pages, `"mg"` mergeable, `"dd"` not dumped, `"dc"` not in children, `"nr"` not reserved), the `NumaPolicy` or `None`, and
    pages that are there by their node, of up to 1,024 that are looked at.

    >>> EffectiveBacking(None, 4096, 4 << 20, 2 << 20, 0, frozenset({"hg"}), None, {0: 1024}).huge_share
    0.5
    """

    __slots__ = ()
    region: AddressSpaceRegion
    page_size: int
    resident: int
    huge: int
    locked: int
    flags: frozenset[str]
    policy: NumaPolicy | None
    nodes: dict[int, int]

    @property
    def huge_share(self) -> float:
        """The part of the resident bytes that lies in huge pages, from 0 to 1."""
        return float(self.huge / self.resident) if self.resident else 0.0


class Placement(namedtuple("Placement", ["region", "policy", "sampled", "nodes", "misplaced"])):
    """The placement of a region's pages against its policy: pages sampled, those present by node, those on other nodes."""

    __slots__ = ()
    region: AddressSpaceRegion
    policy: NumaPolicy | None
    sampled: int
    nodes: dict[int, int]
    misplaced: int


class DaxMapping(namedtuple("DaxMapping", ["offset", "size", "file_offset", "prot_flags"])):
    """A part of a file in a DAX window: where in the window, bytes, where in the file, protection."""

    __slots__ = ()
    offset: int
    size: int
    file_offset: int
    prot_flags: Prot
