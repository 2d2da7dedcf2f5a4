"""Enumerations and flags: the types of regions, the sources of their bytes, and the flags of their mappings."""

from __future__ import annotations

from enum import Enum, IntFlag

from ._core import parse_protection, parse_region_type, parse_source_type, protection_text

__all__ = [
    "MAP_ANONYMOUS",
    "MAP_HUGETLB",
    "MAP_NORESERVE",
    "MAP_POPULATE",
    "MAP_PRIVATE",
    "MAP_SHARED",
    "MPOL_MF_MOVE",
    "MPOL_PREFERRED",
    "PROT_EXEC",
    "PROT_NONE",
    "PROT_READ",
    "PROT_WRITE",
    "AddressSpaceRegionType",
    "MapFlags",
    "MemorySourceType",
    "Prot",
]


def _text(text: object) -> str:
    if isinstance(text, str):
        return text
    raise TypeError(f"text must be a str, not {type(text).__name__}")


class AddressSpaceRegionType(Enum):
    """The meaning of a region to the guest.

    Called with a value or a member name, in any case; anything else raises `InvalidRegionType`. Wherever a region type is asked
    for, the text alone will do.

    >>> AddressSpaceRegionType("ram") is AddressSpaceRegionType("default_memory")
    True
    """

    DEFAULT_MEMORY = "ram"
    """The guest's RAM."""
    DEVICE_MEMORY = "device"
    """Registers of a device: no memory is behind them."""
    DAX_MEMORY = "dax"
    """A window into which files are mapped."""
    FIRMWARE_MEMORY = "firmware"
    """Firmware, usually read-only and below 4 GiB."""

    @classmethod
    def _missing_(cls, value: object) -> AddressSpaceRegionType:
        return cls(parse_region_type(value))


class MemorySourceType(Enum):
    """The source of a region's bytes. Five sources, which have nine names.

    >>> MemorySourceType.MMAP_ANONYMOUS.value
    'mmap'
    """

    FILE_ON_HUGETLBFS = "hugetlbfs"
    """A file on a hugetlbfs mount."""
    MEMFD_SHARED = "shmem"
    """A memfd of small pages, also `"memfd"`."""
    MEMFD_ON_HUGETLBFS = "hugeshmem"
    """A memfd of huge pages, also `"hugememfd"`."""
    MMAP_ANONYMOUS = "mmap"
    """Anonymous memory of small pages, also `"anon"`."""
    MMAP_ANONYMOUS_HUGETLBFS = "hugemmap"
    """Anonymous memory of huge pages, also `"hugeanon"`."""

    @classmethod
    def parse(cls, text: str) -> MemorySourceType:
        """The source that one of the nine names stands for: case-sensitive, without spaces around it.

        Raises `InvalidMemorySourceType` for another text, `TypeError` for anything but a text.

        >>> MemorySourceType.parse("anon")
        <MemorySourceType.MMAP_ANONYMOUS: 'mmap'>
        """
        return cls(_text(text))

    @classmethod
    def _missing_(cls, value: object) -> MemorySourceType:
        return cls(parse_source_type(value))

    @property
    def is_huge(self) -> bool:
        """Whether it takes pages from the kernel's pool of huge pages."""
        return "huge" in self.value

    @property
    def is_anonymous(self) -> bool:
        """Whether it has no file."""
        return "mmap" in self.value


class Prot(IntFlag):
    """The protection of memory, as `mmap` takes it. Prints and reads as in `/proc/PID/maps`.

    >>> str(Prot.READ | Prot.WRITE)
    'rw-'
    """

    NONE = 0
    """No access."""
    READ = 1
    """Reads are allowed."""
    WRITE = 2
    """Writes are allowed."""
    EXEC = 4
    """Execution is allowed."""

    @classmethod
    def parse(cls, text: str) -> Prot:
        """The protection that a text such as `"rw-"`, `"rw"` or `"---"` stands for.

        Raises `InvalidArgument` for another text, `TypeError` for anything but a text.

        >>> Prot.parse("r-x") == Prot.READ | Prot.EXEC
        True
        """
        return cls(parse_protection(_text(text)))

    @classmethod
    def _missing_(cls, value: object) -> Prot:
        return cls.parse(value) if isinstance(value, str) else super()._missing_(value)

    def __str__(self) -> str:
        return protection_text(int(self) & 7)

    def __format__(self, spec: str) -> str:
        return format(int(self) if spec.endswith(("b", "d", "n", "o", "x", "X")) else str(self), spec)


class MapFlags(IntFlag):
    """The flags of `mmap` that matter to guest memory; others are kept as numbers.

    >>> MapFlags.PRIVATE | MapFlags.ANONYMOUS
    <MapFlags.PRIVATE|ANONYMOUS: 34>
    """

    SHARED = 0x1
    """Writes reach the file, and every other mapping of it."""
    PRIVATE = 0x2
    """Writes stay in this mapping."""
    ANONYMOUS = 0x20
    """No file: zeroes at first."""
    NORESERVE = 0x4000
    """No swap or huge pages are set aside."""
    POPULATE = 0x8000
    """Every page is faulted in at once."""
    HUGETLB = 0x4_0000
    """Pages from the kernel's pool of huge pages."""


PROT_NONE = Prot.NONE
PROT_READ = Prot.READ
PROT_WRITE = Prot.WRITE
PROT_EXEC = Prot.EXEC

MAP_SHARED = MapFlags.SHARED
MAP_PRIVATE = MapFlags.PRIVATE
MAP_ANONYMOUS = MapFlags.ANONYMOUS
MAP_NORESERVE = MapFlags.NORESERVE
MAP_POPULATE = MapFlags.POPULATE
MAP_HUGETLB = MapFlags.HUGETLB

MPOL_PREFERRED = 1
"""The memory policy that a region's NUMA node is set with: that node first, others when it is full."""
MPOL_MF_MOVE = 2
"""Pages that are elsewhere already are moved."""
