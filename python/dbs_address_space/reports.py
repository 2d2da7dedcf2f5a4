"""Reports: the cost of a plan, the memory that the kernel gave, and who follows a space."""

from __future__ import annotations

from ._named_tuple import NamedTuple, in_hex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._core import AddressSpaceRegion, NumaPolicy
    from .enums import Prot
    from .errors import Lease

__all__ = [
    "DaxMapping",
    "EffectiveBacking",
    "Follower",
    "Placement",
    "PlanCost",
    "PreallocReport",
    "ReceiveReport",
    "ResetStats",
    "RestoreStats",
    "SendReport",
    "SpaceStats",
]


class PlanCost(NamedTuple):
    """The cost of a plan for a host: bytes of RAM and firmware, bytes that are populated from the beginning, pages, nodes.

    `pages` counts pages by their size in bytes, `nodes` bytes by host NUMA node, where `None` stands for any. Small pages count
    4 KiB, and huge ones 2 MiB where no size is given: a plan looks at no host. Costs add, also by `sum()`.

    >>> both = PlanCost(8192, 0, {4096: 2}, {None: 8192}) + PlanCost(4096, 4096, {4096: 1}, {0: 4096})
    >>> both.size, both.preallocated, both.pages, both.nodes
    (12288, 4096, {4096: 3}, {None: 8192, 0: 4096})
    """

    size: int
    preallocated: int
    pages: dict[int, int]
    nodes: dict[int | None, int]

    def __add__(self, other: object) -> PlanCost:  # the sum of costs is not a longer tuple
        if not isinstance(other, PlanCost):
            return NotImplemented
        pages, nodes = _added(self.pages, other.pages), _added(self.nodes, other.nodes)
        return PlanCost(self.size + other.size, self.preallocated + other.preallocated, pages, nodes)

    def __radd__(self, other: object) -> PlanCost:
        return self if other == 0 else NotImplemented  # the 0 that `sum()` begins with

    def __repr__(self) -> str:
        pages = ", ".join(f"{size:#_x}: {count}" for size, count in self.pages.items())
        nodes = ", ".join(f"{node}: {size:#_x}" for node, size in self.nodes.items())
        sizes = f"size={self.size:#_x}, preallocated={self.preallocated:#_x}"
        return f"PlanCost({sizes}, pages={{{pages}}}, nodes={{{nodes}}})"


def _added(one: dict[Any, int], other: dict[Any, int]) -> dict[Any, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in one | other}


class RestoreStats(NamedTuple):
    """The filling of a space that was restored by `mode="lazy"`: times in seconds from its start, or `None` until then.

    `served` faults were answered, `filled` parts of 64 KiB came in in the background, `bytes_moved` were read for both. `error`
    is the text of the first failure.

    >>> RestoreStats(0.01, None, 3, 40, 43 << 16, None).is_complete
    False
    """

    to_first_touch: float | None
    to_all: float | None
    served: int
    filled: int
    bytes_moved: int
    error: str | None

    @property
    def is_complete(self) -> bool:
        """Whether all memory is there."""
        return self.to_all is not None


class SendReport(NamedTuple):
    """The result of `GuestMemory.send()`: passes over memory, bytes on the wire, seconds in all.

    When it has `converged`, the receiver has published the memory, whose digest is `content` in hex, as `SavedSpace.content`;
    else the source goes on. `estimated_downtime` is the last estimate in seconds, the bytes that were left at the rate that was
    seen; `downtime` are the seconds from the call of `stop()` until the receiver had published it, and `None` without one.
    `sources` names the observers of the writes, as `DirtyTracker.sources`.

    >>> SendReport(True, 2, 5 << 20, 0.5, 0.1, 0.12, "00" * 32, ("pagemap",)).rate
    10485760.0
    """

    converged: bool
    passes: int
    size: int
    seconds: float
    estimated_downtime: float
    downtime: float | None
    content: str | None
    sources: tuple[str, ...]

    def __repr__(self) -> str:
        return in_hex(self, "size")

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return float(self.size / self.seconds) if self.seconds else 0.0


class ReceiveReport(NamedTuple):
    """The result of `GuestMemory.receive()`: passes over memory, bytes on the wire, seconds, and what came beside the memory.

    `content` is the digest of the memory in hex, as `SavedSpace.content`; `blobs` are bytes by their names.

    >>> ReceiveReport(2, 5 << 20, 0.5, "00" * 32, {"vcpu0": b"registers"}).rate
    10485760.0
    """

    passes: int
    size: int
    seconds: float
    content: str
    blobs: dict[str, bytes]

    def __repr__(self) -> str:
        return in_hex(self, "size")

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return float(self.size / self.seconds) if self.seconds else 0.0


class PreallocReport(NamedTuple):
    """The result of `GuestMemory.prealloc()`: bytes that are populated now, threads that worked, and for how many seconds.

    `touched` is true when the kernel has no `MADV_POPULATE_WRITE` (Linux 5.14), so that pages were touched one by one.

    >>> PreallocReport(1 << 30, 2, 0.5, False).rate
    2147483648.0
    """

    size: int
    threads: int
    seconds: float
    touched: bool

    def __repr__(self) -> str:
        return in_hex(self, "size")

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return float(self.size / self.seconds) if self.seconds else 0.0


class ResetStats(NamedTuple):
    """The sums over the restores of a checkpoint: how many, pages looked at, those that differed, seconds.

    `hot` is the number of pages that stay unprotected after the last one: each is compared every time, and `protected` again
    after eight times without a difference, or `punched`, given back, where nothing was before. It is 0 while a tracker follows
    the memory too. Pages have 4 KiB.

    >>> ResetStats(2, 100, 60, 40, 0, 0, 0.5).rate
    4.0
    """

    resets: int
    found: int
    copied: int
    hot: int
    protected: int
    punched: int
    seconds: float

    @property
    def rate(self) -> float:
        """Restores a second, of the time that they took alone."""
        return float(self.resets / self.seconds) if self.seconds else 0.0


class EffectiveBacking(NamedTuple):
    """The state of a region's memory, as the kernel reports it: /proc/self/smaps, get_mempolicy, move_pages.

    Bytes a page, bytes in memory, of these in huge pages of any kind, locked bytes, the two-letter `VmFlags` (`"hg"` advised huge
    pages, `"mg"` mergeable, `"dd"` not dumped, `"dc"` not in children, `"nr"` not reserved), the `NumaPolicy` or `None`, and
    pages that are there by their node, of up to 1,024 that are looked at.

    >>> EffectiveBacking(None, 4096, 4 << 20, 2 << 20, 0, frozenset({"hg"}), None, {0: 1024}).huge_share
    0.5
    """

    region: AddressSpaceRegion
    page_size: int
    resident: int
    huge: int
    locked: int
    flags: frozenset[str]
    policy: NumaPolicy | None
    nodes: dict[int, int]

    def __repr__(self) -> str:
        return in_hex(self, "page_size", "resident", "huge", "locked")

    @property
    def huge_share(self) -> float:
        """The part of the resident bytes that lies in huge pages, from 0 to 1."""
        return float(self.huge / self.resident) if self.resident else 0.0


class Placement(NamedTuple):
    """The NUMA nodes of a region's pages, against its policy: pages sampled, those populated by node, those on other nodes."""

    region: AddressSpaceRegion
    policy: NumaPolicy | None
    sampled: int
    nodes: dict[int, int]
    misplaced: int


class DaxMapping(NamedTuple):
    """A part of a file in a DAX window: its offset in the window, bytes, its offset in the file, protection."""

    offset: int
    size: int
    file_offset: int
    prot_flags: Prot

    def __repr__(self) -> str:
        return in_hex(self, "offset", "size", "file_offset")


class Follower(NamedTuple):
    """A process that follows a space: its user, the generation that it has, whether it may write to the memory.

    `leases` are those for which it vetoed a change, as long as it has not told that they are gone.

    >>> Follower(4711, 1000, 3, True, ()).pid
    4711
    """

    pid: int
    uid: int
    generation: int
    writable: bool
    leases: tuple[Lease, ...]


class SpaceStats(NamedTuple):
    """Numbers of a space: maps published, changes that a lease or a client refused, seconds that changes waited for readers.

    Then what is there now: bytes that have memory, of these the bytes that accesses go to the kernel for, because a touch might
    fault, and leases (views, arrays, pins, long accesses); and the accesses that ended in a `MemoryFault`.

    >>> SpaceStats(3, 0, 0.0, 4 << 20, 0, 1, 0).mapped
    4194304
    """

    changes: int
    refused: int
    waited: float
    mapped: int
    guarded: int
    leases: int
    faults: int

    def __repr__(self) -> str:
        return in_hex(self, "mapped", "guarded")
