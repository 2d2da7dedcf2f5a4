from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from os import PathLike
from types import TracebackType
from typing import (
    Any,
    Final,
    Literal,
    NoReturn,
    Protocol,
    Self,
    SupportsIndex,
    TypeAlias,
    TypeVar,
    final,
    overload,
)

import numpy as np
from numpy.typing import DTypeLike, NDArray
from typing_extensions import Buffer, disjoint_base

from .enums import AddressSpaceRegionType, MapFlags, MemorySourceType, Prot
from .errors import ImageCorrupt, ImageMismatch
from .guest_file import GuestFile
from .images import SavedSpace
from .loading import LoadedElf
from .map_row import MapRow
from .progress import Progress, SendProgress
from .ranges import AddressRange, VhostUserRegion
from .reports import (
    DaxMapping,
    EffectiveBacking,
    Follower,
    Placement,
    PlanCost,
    PreallocReport,
    ReceiveReport,
    ResetStats,
    RestoreStats,
    SendReport,
    SpaceStats,
)
from .serving import SpaceServer

__all__ = [
    "AddressSpace",
    "AddressSpaceBase",
    "AddressSpaceBuilder",
    "AddressSpaceChange",
    "AddressSpaceLayout",
    "AddressSpacePlan",
    "AddressSpaceRegion",
    "Attachment",
    "BackingOptions",
    "BytePattern",
    "Checkpoint",
    "DaxWindow",
    "DirtyPages",
    "DirtyTracker",
    "GuestMemory",
    "Hotplug",
    "KvmSlots",
    "Machine",
    "Mapping",
    "MemoryPart",
    "NumaIdTable",
    "NumaNode",
    "NumaNodeInfo",
    "NumaPolicy",
    "NumaRegionInfo",
    "Pin",
    "PreallocHandle",
    "Reservation",
    "Share",
    "Subscription",
    "Transaction",
    "UnplugRequest",
    "VhostUserClient",
    "_DumpReader",
    "_Image",
    "_ImagePart",
    "_LoopObserver",
    "_NewFile",
    "_Pieces",
    "_StreamReceiver",
    "_StreamSender",
    "_ValueBell",
    "__version__",
    "_ram_once",
    "check_function",
    "check_type",
    "checked_answer",
    "checked_descriptor",
    "checked_int",
    "checked_range",
    "checked_size",
    "checked_threads",
    "checked_timeout",
    "copied_buffer",
    "device_tree",
    "e820",
    "fill_buffer",
    "guessed",
    "guessed_name",
    "parse_protection",
    "parse_region_type",
    "parse_source_type",
    "protection_text",
    "size_text",
    "slit",
    "srat",
    "usable_end",
]

__version__: Final[str]

class _HasFileno(Protocol):
    def fileno(self) -> int: ...

_Answer = TypeVar("_Answer")
_Class = TypeVar("_Class", bound=type[Any])
_Address: TypeAlias = SupportsIndex
_Size: TypeAlias = SupportsIndex | str
_RegionType: TypeAlias = AddressSpaceRegionType | str
_Source: TypeAlias = MemorySourceType | str
_Protection: TypeAlias = SupportsIndex | str

class _Readable(Protocol):
    def readinto(self, buffer: memoryview, /) -> int | None: ...

class _Reader(Protocol):
    def read(self, size: int, /) -> Buffer | None: ...

class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...

class _Writable(Protocol):
    def write(self, data: bytes, /) -> int | None: ...

_File: TypeAlias = int | _HasFileno
_Path: TypeAlias = str | PathLike[str]
_Loadable: TypeAlias = _Path | _Stream | Buffer
_Target: TypeAlias = SupportsIndex | str | AddressSpaceRegion | UnplugRequest | _RegionKey
_Ranges: TypeAlias = Iterable[tuple[_Address, _Size]] | Buffer
_Window: TypeAlias = tuple[_Address, _Size]
_Reserved: TypeAlias = _Window | tuple[_Address, _Size, str]
_ProgressFunction: TypeAlias = Callable[[Progress], object]

class _Client(Protocol):
    def prepare(self, change: AddressSpaceChange, /) -> object: ...
    def commit(self, change: AddressSpaceChange, /) -> object: ...
    def rollback(self, change: AddressSpaceChange, /) -> object: ...

class _Handler(Protocol):
    def read(self, offset: int, size: int, /) -> int: ...
    def write(self, offset: int, size: int, value: int, /) -> object: ...

def usable_end() -> int:
    """The last byte of the host's memory as a number: MemTotal of /proc/meminfo in bytes, less one, read at each call.

    The original's `USABLE_END`. Raises `BackingError` where /proc can't be read.

    >>> from dbs_address_space import usable_end
    >>> usable_end() > 0
    True
    """

def _ram_once(
    space: AddressSpace | AddressSpaceBase,
) -> tuple[tuple[AddressRange, ...], tuple[AddressRange, ...]]:
    """x"""

def e820(space: AddressSpace | AddressSpaceBase, *, bios_hole: bool = False) -> bytes:
    """The E820 map of an `AddressSpace` or `AddressSpaceBase`: entries of 20 bytes (base, size, type: 1 RAM, 2 reserved), ascending.

    Firmware is reserved, and so are addresses at which RAM is seen a second time; devices, DAX windows and memory that was plugged in are left
    out. `bios_hole` cuts 0x9fc00 to 1 MiB out of RAM
    and reserves it, for a kernel that is booted without firmware.

    >>> from dbs_address_space import AddressSpaceBuilder
    >>> from dbs_address_space.tables import e820
    >>> e820(AddressSpaceBuilder(numa_regions=["64MiB"]).build()).hex(" ", 4)
    '00000000 00000000 00000004 00000000 01000000'
    """

def srat(numa_nodes: dict[int, NumaNode], *, hotplug_window: _Window | None = None, arch: str = "x86_64") -> bytes:
    """The ACPI SRAT of guest NUMA nodes, a dict of `NumaNode` by id such as `AddressSpacePlan.numa_nodes`.

    `hotplug_window`, as `(base, size)`, is hot-pluggable memory of the last node. vCPU ids are APIC ids, or ACPI processor ids on
    aarch64. The PCI addresses of generic initiators are those that the guest's firmware gives
    them. Raises `InvalidArgument`.

    >>> from dbs_address_space import AddressSpaceBuilder
    >>> from dbs_address_space.tables import srat
    >>> srat(AddressSpaceBuilder(numa_regions=["64MiB"]).plan().numa_nodes)[:4]
    b'SRAT'
    """

def slit(distances: Iterable[Iterable[SupportsIndex]]) -> bytes:
    r"""The ACPI SLIT of a square of distances: 10 of a node to itself, 11 to 254 to others, 255 for out of reach.

    Raises `InvalidAddressRange` for anything else.

    >>> from dbs_address_space.tables import slit
    >>> slit([[10, 20], [20, 10]])[-4:]
    b'\n\x14\x14\n'
    """

def device_tree(
    space: AddressSpace | AddressSpaceBase,
    *,
    numa_nodes: dict[int, NumaNode] | None = None,
    distances: Iterable[Iterable[SupportsIndex]] = (),
) -> bytes:
    """A flattened device tree with the memory nodes of an `AddressSpace` or `AddressSpaceBase`, to be merged into a machine's.

    With `numa_nodes` each has its `numa-node-id`, with `distances`, as for `slit()`, there is a `distance-map`. Reserved ranges are in
    `reserved-memory`, persistent ones in `pmem` nodes. Raises `InvalidArgument`.

    >>> from dbs_address_space import AddressSpaceBuilder
    >>> from dbs_address_space.tables import device_tree
    >>> b"memory@40000000" in device_tree(AddressSpaceBuilder("virt", numa_regions=["64MiB"]).build())
    True
    """

def checked_answer(value: _Answer, what: str) -> _Answer:
    """The answer of a user's function, for the callers in Python; raises `TypeError` for a coroutine."""

def guessed(owner: _Class) -> _Class:
    """Gives a class the guesses of its name, and returns the class: a decorator."""

def guessed_name(name: str) -> str | None:
    """Our name for a guess at one of the package's."""

def checked_int(value: object, name: str) -> int:
    """An int, checked like every number of this package; `name` is that of the parameter."""

def checked_size(value: object, name: str) -> int:
    """A number of bytes, an int or text; `name` is that of the parameter."""

def checked_threads(threads: SupportsIndex | None) -> int | None:
    """How many threads are to work, `None` for as many as help."""

def checked_timeout(timeout: object) -> float | None:
    """Seconds to wait, `None` for ever."""

def checked_descriptor(value: object, name: str) -> int:
    """A descriptor, of an int or anything with `fileno()`; `name` is that of the parameter."""

def check_function(function: object, name: str, what: str) -> None:
    """Refuses what is not a function, if anything was given, and a coroutine function. `what` is that which it takes."""

def check_type(value: object, kind: type, name: str) -> None:
    """Refuses what is not of a class; `name` is that of the parameter."""

def copied_buffer(data: object, name: str) -> bytes:
    """The bytes of a contiguous bytes-like object, an error where they can't be reached; `name` is that of the parameter."""

def fill_buffer(target: object, data: bytes, name: str) -> None:
    """Puts bytes at the start of a writable buffer, an error where it can't be reached; `name` is that of the parameter."""

def checked_range(base: _Address, size: _Size) -> tuple[int, int]:
    """`(base, size)` as ints, checked like every range of this package."""

def parse_region_type(value: object) -> str:
    """The value of the `AddressSpaceRegionType` that a text names; raises `InvalidRegionType` for anything else."""

def parse_source_type(value: object) -> str:
    """The value of the `MemorySourceType` that a text names; raises `InvalidMemorySourceType` for anything else."""

def parse_protection(text: str) -> int:
    """The bits of the `Prot` that a text such as `"rw-"` stands for; raises `InvalidArgument` for another text."""

def protection_text(bits: SupportsIndex) -> str:
    """A protection's bits as in `/proc/PID/maps`."""

def size_text(size: SupportsIndex | str) -> str:
    """A size as it is shown everywhere: `3 GiB`."""

@final
class AddressSpaceRegion:
    """The description of a range of guest physical addresses: an immutable value that owns no memory.

    `base` and `size` are bytes (`size` also as text such as `"2GiB"`), `end` is exclusive, `last_addr` inclusive. RAM with neither
    `file` nor `mem_type` is a memfd, or anonymous with `MAP_ANONYMOUS`. Flags and hints that are not given are those of the type
    and source. The memory itself is made by `AddressSpace.map_memory()` or on insertion into a mapped space.

    What would have no effect is refused: a device region has no source, flags or options; a DAX region none but `alignment`, `guard_pages`
    and `may_block`; a buffer is mapped already, and none but `may_block` and `trusted`; `mem_file_path` is for `"hugetlbfs"`, and `file_offset` for that
    and for `file`. `is_hotplug` and `is_anonpage` are for whoever asks the region.

    `backing` are `BackingOptions`; `page_size`, `is_hugepage` and `is_mergeable` set one of them each, and must not contradict it.

    Raises `InvalidAddressRange` (size 0, an end past 2^64 - 1, a bad page size), `InvalidArgument` (a bad name, options that
    contradict each other), `InvalidRegionType`, `InvalidMemorySourceType`, `BackingError` (a descriptor that isn't open).

    >>> from dbs_address_space import AddressSpaceRegion
    >>> AddressSpaceRegion("ram", 0, "3GiB", name="ram-low", mem_type="shmem")
    AddressSpaceRegion('ram-low' DEFAULT_MEMORY [0x0, 0xc000_0000) 3 GiB rw- shmem)
    """

    __match_args__: Final = ("region_type", "base", "size")
    def __new__(
        cls,
        region_type: _RegionType,
        base: _Address,
        size: _Size,
        *,
        name: str | None = None,
        host_numa_node_id: SupportsIndex | None = None,
        mem_type: _Source | None = None,
        mem_file_path: _Path = "",
        file: _File | _Path | None = None,
        file_offset: _Size = 0,
        perm_flags: SupportsIndex | None = None,
        prot_flags: _Protection | None = None,
        page_size: _Size | None = None,
        is_hugepage: bool | None = None,
        is_hotplug: bool = False,
        is_anonpage: bool | None = None,
        is_mergeable: bool = False,
        backing: BackingOptions | None = None,
    ) -> Self: ...
    @staticmethod
    def create_default_memory_region(
        base: _Address,
        size: _Size,
        numa_node_id: SupportsIndex | None,
        mem_type: _Source,
        mem_file_path: _Path,
        mem_prealloc: bool = False,
        is_hotplug: bool = False,
        is_mergeable: bool = False,
        *,
        name: str | None = None,
        page_size: _Size | None = None,
    ) -> AddressSpaceRegion:
        """RAM, readable and writable, from one of the original's sources; the eight positional values of its README are accepted.

        `mem_prealloc` faults every page in when the region is mapped. `mem_file_path` is for `"hugetlbfs"`, and else empty.
        Raises as the class does.

        >>> from dbs_address_space import AddressSpaceRegion
        >>> AddressSpaceRegion.create_default_memory_region(0x100000, 0x100000, None, "shmem", "", False, False, False)
        AddressSpaceRegion(DEFAULT_MEMORY [0x10_0000, 0x20_0000) 1 MiB rw- shmem)
        """
    @staticmethod
    def create_memory_region(
        base: _Address,
        size: _Size,
        numa_node_id: SupportsIndex | None,
        mem_type: _Source,
        mem_file_path: _Path,
        mem_prealloc: bool,
        prot_flags: _Protection,
        is_hotplug: bool = False,
        *,
        name: str | None = None,
        page_size: _Size | None = None,
    ) -> AddressSpaceRegion:
        """RAM from one of the original's sources, with a protection (`Prot`, an int or text such as `"r--"`; a `bool` is refused).

        Raises as the class does.

        >>> from dbs_address_space import AddressSpaceRegion
        >>> AddressSpaceRegion.create_memory_region(0, "1MiB", 0, "mmap", "", False, "r--").prot_flags
        <Prot.READ: 1>
        """
    @staticmethod
    def create_device_region(base: _Address, size: _Size, *, name: str | None = None) -> AddressSpaceRegion:
        """Registers of a device: no memory is behind them, so a read or write is `UnmappedAddress`.

        Raises `InvalidAddressRange`.

        >>> from dbs_address_space import AddressSpaceRegion
        >>> AddressSpaceRegion.create_device_region(0xd000_0000, "4KiB", name="uart")
        AddressSpaceRegion('uart' DEVICE_MEMORY [0xd000_0000, 0xd000_1000) 4 KiB)
        """
    @staticmethod
    def create_firmware_region(
        base: _Address, size: _Size, prot_flags: _Protection = 3, *, name: str | None = None
    ) -> AddressSpaceRegion:
        """Firmware: anonymous private memory with a protection; `GuestMemory.write(..., force=True)` loads a read-only one.

        Raises `InvalidAddressRange`.

        >>> from dbs_address_space import AddressSpaceRegion
        >>> AddressSpaceRegion.create_firmware_region(0xfff0_0000, "1MiB", "r-x", name="bios")
        AddressSpaceRegion('bios' FIRMWARE_MEMORY [0xfff0_0000, 0x1_0000_0000) 1 MiB r-x mmap)
        """
    @staticmethod
    def create_dax_region(base: _Address, size: _Size, *, name: str | None = None) -> AddressSpaceRegion:
        """A window for files to be mapped into: its host addresses are reserved, and no access is allowed.

        Raises `InvalidAddressRange`.

        >>> from dbs_address_space import AddressSpaceRegion
        >>> AddressSpaceRegion.create_dax_region(1 << 45, "2GiB", name="fs0")
        AddressSpaceRegion('fs0' DAX_MEMORY [0x2000_0000_0000, 0x2000_8000_0000) 2 GiB --- reserved)
        """
    @staticmethod
    def from_file(
        base: _Address,
        size: _Size | _HasFileno | _Path | None = None,
        file: _File | _Path | None = None,
        offset: _Size = 0,
        *,
        name: str | None = None,
        shared: bool = True,
        prot_flags: _Protection | None = None,
        trusted: bool = False,
    ) -> AddressSpaceRegion:
        """RAM over part of a file: a memfd of another process, an image, a device file. Any offset will do, also one inside a page.

        `file` is a path, which pickles with the region, a descriptor, or what `open()` gives in a binary mode, which is flushed; it is duplicated. Another file object, such as
        that of `gzip.open()` or a named temporary file, is a `TypeError`. `size` is all from `offset` on where it is not given:
        `from_file(base, path)`. `shared=False` keeps writes out of the file. `prot_flags` are what the descriptor allows when not
        given; a path is opened for writing too, unless they or `shared=False` say that it need not be. A memfd with `F_SEAL_SHRINK` is as
        fast as the space's own memory, and has views and atomics. Another file may be cut by anyone, so accesses go through the kernel and a
        fault is a `MemoryFault`; `trusted=True` vouches that nobody does (`BackingOptions.trusted`). Raises as the class does, and what
        opening the path does; the length is checked when the region is mapped.

        >>> import tempfile
        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> with tempfile.TemporaryFile() as file:
        ...     _ = file.write(bytes(100) + b"image" + bytes(4096)), file.flush()
        ...     region = AddressSpaceRegion.from_file(0, "4KiB", file, 100)
        >>> AddressSpace.from_regions([region], AddressSpaceLayout(1 << 46, 0, 1 << 45)).map_memory().read(0, 5)
        b'image'
        """
    @staticmethod
    def alias(
        base: _Address,
        region: AddressSpaceRegion,
        offset: _Size = 0,
        size: _Size | None = None,
        *,
        prot_flags: _Protection | None = None,
        name: str | None = None,
    ) -> AddressSpaceRegion:
        """A window on bytes of another region of the same space: `size` of them from `offset` on, or all of the rest, seen at `base` too.

        It is found by `region` when it is inserted: by that very description, or by another window on its bytes, for no window is more than the
        others, and each can be removed, moved or protected by itself. `offset` is a multiple of the page size. Source and options are the region's; the
        protection is too when it is not given. The insertion raises `UnmappedAddress` when no region there shows the bytes. Raises
        `InvalidAddressRange`, and `Unsupported` for devices, DAX windows and `may_block` memory.

        >>> from dbs_address_space import AddressSpaceBuilder, AddressSpaceRegion
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> _ = space.insert_region(AddressSpaceRegion.alias(1 << 32, space[0], 0xf0000, "64KiB", prot_flags="r-x"))
        >>> space.memory.write(0xf0000, b"shadow")
        >>> space.memory.read(1 << 32, 6)
        b'shadow'
        """
    @staticmethod
    def from_buffer(
        base: _Address,
        buffer: Buffer,
        *,
        name: str | None = None,
        prot_flags: _Protection | None = None,
        trusted: bool = False,
    ) -> AddressSpaceRegion:
        """RAM over a contiguous buffer: an `mmap.mmap`, a `shared_memory` block's `buf`, an array of NumPy, a bytearray, bytes.

        The buffer is held for as long as the region is, so its owner can't close or resize it. It may lie and end anywhere. A read-only one
        gives a region that is `"r--"`. What bytes, bytearrays, `array.array`, `BytesIO` and anonymous mmaps hold, also through memoryviews and
        arrays of NumPy over them, is touched directly, as is an mmap of a memfd with `F_SEAL_SHRINK`, while the process has a descriptor of it:
        whoever takes its pages in this process by other means, such as `mprotect`, kills it.
        Elsewhere the owner may move or cut the bytes (`ndarray.resize(refcheck=False)`, `ctypes.resize`), so accesses go through the kernel;
        `trusted=True` vouches that nobody does (`BackingOptions.trusted`). Where a userfaultfd was registered on it before it is mapped, or with
        `.replace(backing=BackingOptions(may_block=True))`, an access that is not answered within a second is given up with `MemoryFault`.
        Raises `BufferError` for a buffer that is not contiguous, `InvalidAddressRange` for an empty one, `InvalidArgument` for `prot_flags` that
        a read-only one can't have.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> buffer = bytearray(8192)
        >>> region = AddressSpaceRegion.from_buffer(0x10_0000, buffer, name="shared")
        >>> AddressSpace.from_regions([region], AddressSpaceLayout(1 << 46, 0, 1 << 45)).map_memory().write(0x10_0010, b"hi")
        >>> bytes(buffer[0x10:0x12])
        b'hi'
        """
    @property
    def name(self) -> str | None:
        """The name, unique in a space, or `None`."""
    @property
    def region_type(self) -> AddressSpaceRegionType:
        """The region's meaning to the guest, an `AddressSpaceRegionType`."""
    @property
    def base(self) -> int:
        """The first address."""
    @property
    def size(self) -> int:
        """The number of bytes."""
    @property
    def end(self) -> int:
        """The first address behind the region."""
    @property
    def last_addr(self) -> int:
        """The last address of the region."""
    @property
    def host_numa_node_id(self) -> int | None:
        """The host's NUMA node that the memory should come from, or `None`."""
    @property
    def mem_type(self) -> MemorySourceType | None:
        """The source that was given, a `MemorySourceType`, or `None`."""
    @property
    def mem_file_path(self) -> str:
        """The path of a `"hugetlbfs"` source; empty for the others."""
    @property
    def file(self) -> int | None:
        """The region's own duplicate of the descriptor that `file` gave, borrowed: open as long as the region lives. `None` without."""
    @property
    def file_offset(self) -> int:
        """The offset of the region in its file, in bytes."""
    @property
    def perm_flags(self) -> MapFlags:
        """The `mmap` flags, a `MapFlags`."""
    @property
    def prot_flags(self) -> Prot:
        """The `mmap` protection, a `Prot`."""
    @property
    def page_size(self) -> int | None:
        """The page size of a huge source in bytes, or `None` for the host's default."""
    @property
    def is_hugepage(self) -> bool:
        """Whether huge pages are asked for: of the pool for a huge source, transparent ones for the others."""
    @property
    def is_hotplug(self) -> bool:
        """Whether the region was plugged into a running machine."""
    @property
    def is_anonpage(self) -> bool:
        """Whether the memory is anonymous."""
    @property
    def is_mergeable(self) -> bool:
        """Whether the memory is offered to kernel samepage merging."""
    @property
    def backing(self) -> BackingOptions:
        """The options with which the memory is requested from the kernel, a `BackingOptions`."""
    @property
    def has_file(self) -> bool:
        """Whether the memory is or will be backed by a file or memfd."""
    def intersect_with(self, other: AddressSpaceRegion) -> bool:
        """Whether the two regions share an address.

        >>> from dbs_address_space import AddressSpaceRegion
        >>> low = AddressSpaceRegion("ram", 0, 0x1000)
        >>> low.intersect_with(AddressSpaceRegion("ram", 0x1000, 0x1000))
        False
        """
    def replace(self, **changes: Any) -> AddressSpaceRegion:
        """The region with some of the constructor's arguments changed; `copy.replace` does the same.

        Flags and hints that were the defaults of the old type and source become those of the new. Raises as the class does, and
        `TypeError` for a name that is not an argument.

        >>> from dbs_address_space import AddressSpaceRegion
        >>> AddressSpaceRegion("ram", 0, "1GiB").replace(name="ram0", size="2GiB")
        AddressSpaceRegion('ram0' DEFAULT_MEMORY [0x0, 0x8000_0000) 2 GiB rw- shmem)
        """
    def _runs(self) -> list[tuple[int, int]] | None: ...
    def __replace__(self, **changes: Any) -> AddressSpaceRegion: ...
    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def __contains__(self, addr: _Address, /) -> bool: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __copy__(self) -> Self: ...
    def __deepcopy__(self, _memo: object) -> Self: ...
    def __getnewargs_ex__(self) -> tuple[tuple[AddressSpaceRegionType, int, int], dict[str, Any]]: ...

@final
class AddressSpaceLayout:
    """The bounds of each type of region: RAM in `[mem_start, mem_end)` outside the MMIO windows, devices and DAX windows in
    `[mem_end, phys_end)` or in an MMIO window, firmware anywhere below `phys_end`.

    All ends are exclusive, `mem_start <= mem_end <= phys_end`; windows are `(base, size)`, disjoint, below `phys_end`. `reserved` ranges,
    `(base, size)` or `(base, size, kind)`, are kept for ever: nothing is placed there, and the guest is told of them. Their kind is
    `"reserved"`, `"acpi"`, `"nvs"`, `"persistent"` or `"soft-reserved"`, the types 2, 3, 4, 7 and 0xefffffff of E820. RAM may be inserted
    wholly into one of the other four kinds, a DAX window into a persistent one, a device into one that lies in an MMIO window, firmware
    into any. Raises `InvalidAddressRange`, and `InvalidArgument` for another kind.

    >>> from dbs_address_space import AddressSpaceLayout
    >>> AddressSpaceLayout(1 << 46, 0, 1 << 45, mmio_windows=[(0xc000_0000, "1GiB")])
    AddressSpaceLayout(phys_end=0x4000_0000_0000, mem_start=0x0, mem_end=0x2000_0000_0000, mmio_windows=((0xc000_0000, 0x4000_0000),))
    """

    __match_args__: Final = ("phys_end", "mem_start", "mem_end")
    def __new__(
        cls,
        phys_end: _Address,
        mem_start: _Address,
        mem_end: _Address,
        *,
        mmio_windows: Iterable[_Window] = (),
        reserved: Iterable[_Reserved] = (),
    ) -> Self: ...
    @property
    def phys_end(self) -> int:
        """The exclusive end of the guest physical address space."""
    @property
    def mem_start(self) -> int:
        """Where RAM may begin."""
    @property
    def mem_end(self) -> int:
        """The exclusive end of RAM, where devices may begin."""
    @property
    def mmio_windows(self) -> tuple[AddressRange, ...]:
        """Where devices may lie below `mem_end` and RAM may not: a sorted tuple of `AddressRange`."""
    @property
    def reserved(self) -> tuple[tuple[int, int, str], ...]:
        """The ranges that are kept for ever: a sorted tuple of `(base, size, kind)`."""
    @property
    def usable_end(self) -> int:
        """The host's memory size less one, as `usable_end()`; no part of equality or pickles."""
    def is_region_valid(self, region: AddressSpaceRegion) -> bool:
        """Whether the layout allows the region.

        >>> from dbs_address_space import AddressSpaceLayout, AddressSpaceRegion
        >>> AddressSpaceLayout(0x4000, 0, 0x2000).is_region_valid(AddressSpaceRegion("ram", 0x1000, 0x2000))
        False
        """
    def check_region(self, region: AddressSpaceRegion) -> None:
        """Raises `LayoutViolation` with the reason when the layout does not allow the region.

        >>> from dbs_address_space import AddressSpaceLayout, AddressSpaceRegion
        >>> AddressSpaceLayout(0x4000, 0, 0x2000).check_region(AddressSpaceRegion("ram", 0, 0x2000))
        """
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __copy__(self) -> Self: ...
    def __deepcopy__(self, _memo: object) -> Self: ...
    def __getnewargs_ex__(self) -> tuple[tuple[int, int, int], dict[str, Any]]: ...

@final
class _LoopObserver:
    def __call__(self, change: AddressSpaceChange, /) -> None: ...

@final
class _ValueBell:
    def __init__(self) -> None: ...
    def ring(self) -> None: ...
    def clear(self) -> None: ...
    def wait(
        self, waiters: Iterable[tuple[GuestMemory, int, int, int]], timeout: float, poll: float
    ) -> list[tuple[int, Any]]: ...

class _RegionKey: ...

@final
class AddressSpaceBase:
    """The map of an address space as an immutable value: sorted regions and the layout that they keep.

    Addresses and sizes are bytes, and ends are exclusive. A base is made by `from_regions`, by its own verbs, each of which returns
    a new one, or by `AddressSpace.snapshot()`. It holds no memory: it may be kept for any time, used by any thread, compared, hashed
    and pickled. Two bases are equal when their regions and their layouts are; the generation does not count.

    A base is a collection of its regions by ascending base, and true even when empty. `base[addr]` is the region that holds an
    address, `base["name"]` the one of that name, and both raise `UnmappedAddress` where there is none; `in` takes an address, a name
    or a region, of which an equal one will do. Every query gives the very object that was inserted, as long as someone keeps it.

    >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
    >>> base = AddressSpaceBase.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="ram0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    >>> base["ram0"] is base.find_region(0x1000)
    True
    """
    @staticmethod
    def from_regions(regions: Iterable[AddressSpaceRegion], layout: AddressSpaceLayout) -> AddressSpaceBase:
        """A map of regions in any order, at generation 0.

        Raises `LayoutViolation`, `RegionOverlap` or `DuplicateName`, with the region and the one in conflict.

        >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout
        >>> len(AddressSpaceBase.from_regions([], AddressSpaceLayout(1 << 46, 0, 1 << 45)))
        0
        """
    def insert_region(self, region: AddressSpaceRegion) -> AddressSpaceBase:
        """A new map with one region more; raises as `from_regions` does.

        >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
        >>> base = AddressSpaceBase.from_regions([], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> len(base.insert_region(AddressSpaceRegion("ram", 0, "1MiB"))), len(base)
        (1, 0)
        """
    def remove_region(self, x: _Target) -> AddressSpaceBase:
        """A new map without a region, given by its exact base, its name or an equal region.

        Raises `UnmappedAddress`; an address inside a region names that region.

        >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
        >>> base = AddressSpaceBase.from_regions([AddressSpaceRegion("ram", 0, "1MiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> len(base.remove_region(0))
        0
        """
    def _key(self, x: _Target) -> _RegionKey: ...
    def _find_key(self, key: _RegionKey) -> AddressSpaceRegion | None: ...
    def replace_region(self, old: _Target, new: AddressSpaceRegion) -> AddressSpaceBase:
        """A new map with `new` in the place of `old`: the same range and backing, another name, protection, node or hint.

        Raises `UnmappedAddress` when `old` is not there, `InvalidAddressRange` when the backing differs, `DuplicateName`.

        >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
        >>> region = AddressSpaceRegion("ram", 0, "1MiB")
        >>> base = AddressSpaceBase.from_regions([region], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> base.replace_region(region, region.replace(name="ram0"))["ram0"].base
        0
        """
    @property
    def regions(self) -> tuple[AddressSpaceRegion, ...]:
        """The regions by ascending base."""
    @property
    def layout(self) -> AddressSpaceLayout:
        """The layout that every region keeps."""
    @property
    def generation(self) -> int:
        """How many maps its space had published with this one: 0 for the first, and for a map that no space published."""
    @property
    def last_addr(self) -> int:
        """The highest inclusive address of a region that is not a DAX window; `layout.mem_start` when there is none."""
    @property
    def ram_size(self) -> int:
        """The bytes of `DEFAULT_MEMORY`."""
    def find_region(self, addr: _Address) -> AddressSpaceRegion | None:
        """The region that holds `addr`, the same object each time, or `None`. O(log n).

        >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpaceBase.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> guest.find_region(0x1000).name
        'ram0'
        """
    def is_dax_region(self, addr: _Address) -> bool:
        """Whether `addr` lies in a DAX window; `False` in a hole.

        >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpaceBase.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> guest.is_dax_region(0)
        False
        """
    def prot_flags(self, addr: _Address) -> Prot:
        """The protection of the region that holds `addr`, a `Prot`; raises `UnmappedAddress` in a hole.

        >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpaceBase.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> print(guest.prot_flags(0x1000))
        rw-
        """
    def numa_node_id(self, addr: _Address) -> int | None:
        """The host's NUMA node of the region that holds `addr`, or `None`; raises `UnmappedAddress` in a hole.

        >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpaceBase.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> guest.numa_node_id(0) is None
        True
        """
    def rows(self, *, limit: int | None = None) -> tuple[MapRow, ...]:
        """The map as `MapRow`s, by ascending address: from 0 to the end of the layout, without a gap or an overlap.

        A row is a region, addresses that a live space has reserved, or free ones, cut where an MMIO window or a reservation begins or
        ends. With a `limit`, neighbours that look alike become one row of kind `"group"`, until there are no more than `limit` rows of
        regions; nothing is joined across an end of a window or reservation. All tables and pictures show these rows.

        >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpaceBase.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> [(row.kind, row.name) for row in guest.rows()]
        [('region', 'ram0'), ('free', 'free')]
        """
    def table(
        self,
        *,
        width: int = 120,
        limit: int | None = None,
        ascii: bool = False,
        color: bool = False,
        free: bool = True,
    ) -> str:
        """The map as a table for a terminal of `width` columns, low addresses on top; `print` shows another one, for programs.

        It has bars on a logarithmic scale, and no column that would be empty. Where `width` is short, bars, ends and other facts make
        room for the names, which are cut at last. `ascii` leaves out all other characters, `color` adds escape sequences. `limit` is
        that of `rows`, and `free=False` leaves free addresses out. Control characters of names are shown and not sent.

        >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpaceBase.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> print(guest.table(ascii=True))
                   start               end      size                    type  prot  backing  name
                     0x0         0x10_0000     1 MiB  ################  ram   rw-   shmem    ram0
               0x10_0000  0x4000_0000_0000  63.9 TiB                                         free
        0x4000_0000_0000
        """
    def to_svg(
        self,
        *,
        title: str = "Address space",
        theme: Literal["auto", "light", "dark"] = "auto",
        width: int = 984,
        limit: int = 48,
        view: Literal["map", "host", "heat"] = "map",
        dirty: DirtyPages | None = None,
    ) -> str:
        """The map as an SVG picture, row by row of `rows(limit=limit)`: low addresses on top, sizes as heights, types as colours.

        `width` is in pixels; below 760 only addresses, names and sizes remain. `theme` is `"light"`, `"dark"` or `"auto"`, which
        follows the viewer and is light on paper. Names are escaped.

        `view="host"` draws the files and the memory of the host behind the rows. `view="heat"` draws the pages of a mapped space:
        those that are resident, and in other colours the `DirtyPages` in `dirty`. Raises `InvalidArgument` for another view or theme,
        less than 320 pixels, or pages of a map, `NotMapped`.

        >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpaceBase.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> guest.to_svg(view="host")[:4]
        '<svg'
        """
    def to_html(
        self, *, title: str = "Address space", theme: Literal["auto", "light", "dark"] = "auto", limit: int = 48
    ) -> str:
        """The map as a page of HTML: one file without network, to read without scripts, to search and print.

        Groups of `rows(limit=limit)` open. `theme` is that of `to_svg`. Raises `InvalidArgument` for another one.

        >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpaceBase.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> guest.to_html()[:15]
        '<!doctype html>'
        """
    def _repr_html_(self) -> str: ...
    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]: ...
    def walk_regions(self, callback: Callable[[AddressSpaceRegion], object]) -> None:
        """Calls `callback(region)` for each region by ascending base; an exception of it ends the walk and comes out.

        The walk is over the map as it is now, whatever the callback changes.

        >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpaceBase.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> guest.walk_regions(lambda region: print(region.name))
        ram0
        """
    def overlapping(self, base: _Address, size: _Size) -> tuple[AddressSpaceRegion, ...]:
        """The regions that share an address with `[base, base + size)`, by ascending base.

        >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpaceBase.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> [region.name for region in guest.overlapping(0xf_f000, "8KiB")]
        ['ram0']
        """
    def ranges(self, region_type: _RegionType | None = None) -> tuple[AddressRange, ...]:
        """The ranges that regions of a type (of all types for `None`) cover, touching ones joined: a tuple of `AddressRange`.

        >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpaceBase.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> guest.ranges("ram")
        (AddressRange(base=0x0, size=0x10_0000),)
        """
    def gaps(self, low: _Address = 0, high: _Address | None = None) -> tuple[AddressRange, ...]:
        """The ranges between `low` and `high` (`layout.phys_end` by default) that no region covers: a tuple of `AddressRange`.

        >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpaceBase.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> [str(gap) for gap in guest.gaps(high=0x20_0000)]
        ['[0x10_0000, 0x20_0000)']
        """
    def diff(self, after: AddressSpaceBase | AddressSpace) -> AddressSpaceChange:
        """How `after`, a map or the current one of a space, differs from this map: an `AddressSpaceChange`.

        >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpaceBase.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> from dbs_address_space import AddressSpaceBase
        >>> guest.diff(AddressSpaceBase.from_regions([], guest.layout))
        AddressSpaceChange(0 added, 1 removed, 0 replaced)
        """
    def __getitem__(self, key: SupportsIndex | str, /) -> AddressSpaceRegion: ...
    def __contains__(self, x: _Target, /) -> bool: ...
    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def __iter__(self) -> Iterator[AddressSpaceRegion]: ...
    def __reversed__(self) -> Iterator[AddressSpaceRegion]: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __copy__(self) -> Self: ...
    def __deepcopy__(self, _memo: object) -> Self: ...
    def __reduce__(self) -> tuple[Any, ...]: ...

@final
class AddressSpaceChange:
    """The difference between two maps: the regions that were added, removed, and replaced with their backing kept.

    True when anything differs; `str()` gives a line a region, with `+`, `-` or `~` before it. Made by `AddressSpaceBase.diff`.

    >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
    >>> before = AddressSpaceBase.from_regions([], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    >>> print(before.diff(before.insert_region(AddressSpaceRegion("ram", 0, "1MiB"))))
    + AddressSpaceRegion(DEFAULT_MEMORY [0x0, 0x10_0000) 1 MiB rw- shmem)
    """
    @property
    def before(self) -> AddressSpaceBase:
        """The map before."""
    @property
    def after(self) -> AddressSpaceBase:
        """The map after."""
    @property
    def added(self) -> tuple[AddressSpaceRegion, ...]:
        """The regions that are only in `after`."""
    @property
    def removed(self) -> tuple[AddressSpaceRegion, ...]:
        """The regions that are only in `before`."""
    @property
    def replaced(self) -> tuple[tuple[AddressSpaceRegion, AddressSpaceRegion], ...]:
        """Pairs `(old, new)` of regions with the same range and backing that differ otherwise."""
    @property
    def moved(self) -> tuple[tuple[AddressSpaceRegion, AddressSpaceRegion], ...]:
        """Pairs `(old, new)` of regions that are seen at another base; each is also in `removed` and `added`."""
    @property
    def cut(self) -> tuple[tuple[AddressSpaceRegion, tuple[AddressSpaceRegion, ...]], ...]:
        """Pairs `(old, parts)` of regions that were cut, with the parts that are seen where they were; each is also in `removed` and `added`.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> before = space.snapshot()
        >>> [(old, parts)] = before.diff(space.split_region(0, 1 << 20)).cut
        >>> old.size, [part.size for part in parts]
        (4194304, [1048576, 3145728])
        """
    def mapping(self, region: AddressSpaceRegion) -> Mapping:
        """The `Mapping` of an added, kept or removed region: where its memory is in this process.

        Only in a change that a client is shown, from `prepare`, when an added region has its memory and nobody else sees it yet, until
        its `commit` or `rollback` has returned; `NotMapped` later, and in an unmapped space. Where a region was taken out and put back,
        the object in `removed` has the old memory and any other the new. Raises `UnmappedAddress` for a device and for a region that
        is neither in `before` nor in `after`.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> def show(change):
        ...     for region in change.added:
        ...         print(change.mapping(region).size)
        >>> subscription = space.subscribe(show, replay=True)
        4194304
        """
    def to_svg(
        self, *, title: str = "Change", theme: Literal["auto", "light", "dark"] = "auto", width: int = 984
    ) -> str:
        """The change as an SVG picture: the maps side by side on one scale, with changed regions in colour, and the rest as one row each.

        A region of the same name and size at another base has moved, which an arrow shows. `theme` and `width` are those of
        `AddressSpace.to_svg`. Raises `InvalidArgument` for another theme or less than 320 pixels.

        >>> from dbs_address_space import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion
        >>> before = AddressSpaceBase.from_regions([], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> before.diff(before.insert_region(AddressSpaceRegion("ram", 0, "1MiB"))).to_svg()[:4]
        '<svg'
        """
    def _keep(self, region: AddressSpaceRegion) -> object: ...
    def __bool__(self) -> bool: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, ...]: ...

@final
class AddressSpace:
    """A live guest physical address space: the regions that exist, their types, and the memory behind them.

    `AddressSpace(layout)` begins without regions, `from_regions` with some; addresses and sizes are bytes, and ends are exclusive.
    There is one immutable snapshot behind one atomic pointer: readers never wait and never see half a change, writers take turns,
    and every change is published once or not at all. Every query of `AddressSpaceBase` is here too, on the current snapshot, and
    `snapshot()` gives that map to keep. `map_memory()` gives the regions their memory.

    All of it may be called from any thread. A change from inside a client's phase raises `ReentrantChange`. In a forked child
    queries and memory work, and changes raise `ForkedProcess`. A space can't be pickled; its snapshot can.

    >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
    >>> space.insert_region(AddressSpaceRegion("ram", 0, "64MiB", name="ram0")).generation
    1
    >>> with space.map_memory() as memory:
    ...     memory.write(0x1000, b"hello")
    ...     memory.read(0x1000, 5)
    b'hello'
    """
    def __new__(cls, layout: AddressSpaceLayout) -> Self: ...
    @staticmethod
    def from_regions(regions: Iterable[AddressSpaceRegion], layout: AddressSpaceLayout) -> AddressSpace:
        """A space that begins with regions in any order.

        Raises `LayoutViolation`, `RegionOverlap` or `DuplicateName`.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> len(space), space.generation
        (1, 0)
        """
    @staticmethod
    def _of_memory(memory: GuestMemory) -> AddressSpace: ...
    def snapshot(self) -> AddressSpaceBase:
        """The current map as an immutable value: one atomic load.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout
        >>> AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45)).snapshot()
        AddressSpaceBase(0 regions, 0 B RAM, last_addr 0x0, generation 0)
        """
    def insert_region(self, region: AddressSpaceRegion) -> AddressSpaceBase:
        """Adds a region and returns the map just published; in a mapped space its memory is there before anyone sees it.

        Raises `LayoutViolation`, `RegionOverlap`, `DuplicateName`; in a mapped space also `Misaligned`, `BackingError`,
        `HugePagesShort`, `NumaError`. Then nothing has changed.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> 0x1000 in space.insert_region(AddressSpaceRegion("ram", 0, "1MiB"))
        True
        """
    def remove_region(self, x: _Target, *, timeout: float | None = 0.0) -> AddressSpaceBase:
        """Removes a region, given by its exact base, its name, an equal region or an `UnplugRequest`, and returns the map just published.

        In a mapped space its memory is unmapped; once this has returned no late write can reach it. A region that views, arrays or
        long accesses hold is `RegionBusy`, at once or after `timeout` seconds (`None`: never); Ctrl-C ends the wait. Raises
        `UnmappedAddress` when it isn't there, for a name the `UnknownName` that is a `KeyError` too.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> len(space.remove_region(0))
        0
        """
    def split_region(self, x: _Target, at: _Address) -> AddressSpaceBase:
        """Cuts a region in two at the address `at` inside it, and returns the map just published; bytes, views and leases stay as they are.

        `x` is a region as `remove_region` takes it. The lower part keeps its name, the upper has none, and each can be removed, moved or protected
        by itself. Raises `UnmappedAddress`, `InvalidAddressRange` when `at` is not inside, `Misaligned` when it would cut a page of mapped memory, and
        `Unsupported` for devices, DAX windows and `may_block` memory.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> [region.size for region in space.split_region(0, 1 << 20)]
        [1048576, 3145728]
        """
    def join_regions(self, x: _Target, y: _Target) -> AddressSpaceBase:
        """Makes two neighbours one region, which were cut from one before, and returns the map just published; bytes, views and leases stay.

        `x` and `y` are regions as `remove_region` takes them, the lower first, whose name and options stay. Raises `UnmappedAddress`,
        `InvalidArgument` when the second does not follow the first, or when they differ in memory, type, protection or options, and `RegionBusy` when
        one that was moved to the other's side is held.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> _ = space.split_region(0, 1 << 20)
        >>> len(space.join_regions(0, 1 << 20))
        1
        """
    def move_region(self, x: _Target, base: _Address) -> AddressSpaceBase:
        """Shows a region's bytes at another base, and returns the map just published; host addresses and KVM's dirty log stay.

        `x` is a region as `remove_region` takes it; the new addresses may overlap the old ones, and then a guest's processors must be paused. A
        view says a guest address: a region that is held is `RegionBusy`. Raises `UnmappedAddress`, `LayoutViolation`, `RegionOverlap`, `Reserved`, and
        `Unsupported` as `split_region` does.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> space.memory.write_u64(0x1000, 7)
        >>> _ = space.move_region(0, 16 << 20)
        >>> space.memory.read_u64((16 << 20) + 0x1000)
        7
        """
    def grow_region(self, x: _Target, size: _Size) -> AddressSpaceBase:
        """Makes a region larger, to `size` bytes in all, and returns the map just published; bytes, views and host addresses stay.

        `x` is a region as `remove_region` takes it. With `BackingOptions(max_size=)` it stays one region. Without, a neighbour comes behind it, like it and under the
        next name (`ram-2`), with memory of its own: a view can't cross from one to the other (`NotContiguous`). New bytes are zero, in a file those that
        come next. `split_region` and `remove_region` make it smaller. Raises `UnmappedAddress`, `InvalidAddressRange` for a `size` that is not above
        the region's, or above `max_size`, `InvalidArgument` for a buffer or a window, and what `insert_region` and `split_region` do.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> [(region.name, region.size) for region in space.grow_region("ram0", "6MiB")]
        [('ram0', 4194304), ('ram0-2', 2097152)]
        """
    def protect(self, addr: _Address, size: _Size, prot_flags: _Protection) -> AddressSpaceBase:
        """Gives `[addr, addr + size)` another protection, and returns the map just published; regions that it begins or ends in are cut there.

        `prot_flags` are a `Prot`, an int or text such as `"r--"`. The lowest part of a region that is cut keeps the name. Where write is taken away,
        writable views and pins are `RegionBusy`, and readers go on; where read is, all are. The pages of the host allow what all windows on
        them allow together. A guest's processors must be paused as for `replace_region`. Raises `UnmappedAddress` for a hole, `InvalidAddressRange` for
        size 0, `InvalidArgument` for a device, and what `split_region` does.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> [(region.base, region.prot_flags.name) for region in space.protect(0xf0000, 0x10000, "r--")]
        [(0, 'READ|WRITE'), (983040, 'READ'), (1048576, 'READ|WRITE')]
        """
    def replace_region(self, old: _Target, new: AddressSpaceRegion) -> AddressSpaceBase:
        """Puts `new` in the place of `old` (exact base, name or region) and returns the map just published; memory and bytes stay.

        Range, type and backing must be the same (`InvalidAddressRange`; a transaction loses the bytes); name, protection, node and hints may
        change. Taking a protection away from a region that is held is `RegionBusy`. Raises `UnmappedAddress`, `DuplicateName`.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> space.replace_region(0, space[0].replace(name="ram0"))["ram0"].size
        1048576
        """
    def transaction(self, *, if_generation: SupportsIndex | None = None) -> Transaction:
        """Opens a `Transaction`: many changes, one publication, or none.

        With `if_generation` it raises `GenerationChanged` when the space has moved on since that generation. A guest's processors must
        be paused around one that removes a region and inserts another over the same addresses: see `KvmSlots`.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> with space.transaction(if_generation=0) as change:
        ...     _ = change.insert_region(AddressSpaceRegion("ram", 0, "1MiB"))
        """
    def map_memory(self, *, progress: _ProgressFunction | None = None) -> GuestMemory:
        """Maps every region and returns the `GuestMemory`; a space that is mapped already gives the same one.

        `progress(p)` is called at most 20 times a second with `p.stage, p.done, p.total, p.rate` (bytes, bytes a second); an exception
        of it undoes everything and is raised. Raises `Misaligned`, `BackingError`, `HugePagesShort`, `NumaError`, and then nothing
        is mapped.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout
        >>> AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45)).map_memory()
        GuestMemory(0 regions, 0 B)
        """
    @property
    def memory(self) -> GuestMemory:
        """The memory of a mapped space; raises `NotMapped` before `map_memory()` and after `close()`."""
    @property
    def ports(self) -> AddressSpace:
        """The I/O ports of an x86 machine, 0 to 0xffff: an `AddressSpace` of its own, always the same, for device regions only.

        It has every verb of a space, `attach_device`, `dispatch`, `reserve` and `find_free` among them, where a region's type is
        `"device"` and its alignment 1 when they are not given. So what answers an access, by MMIO or by `in` and `out`, is one
        handler, and one `dispatch`. It ends with `close()` of the space. Raises `InvalidArgument` of ports themselves.

        >>> from types import SimpleNamespace
        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> ports = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45)).ports
        >>> _ = ports.insert_region(AddressSpaceRegion("device", 0x3f8, 8, name="com1"))
        >>> _ = ports.attach_device("com1", SimpleNamespace(read=lambda offset, size: 0, write=print))
        >>> ports.dispatch(0x3f8, 1, ord("a"))
        0 1 97
        """
    @property
    def is_mapped(self) -> bool:
        """Whether the space has memory."""
    def serve(self, path: str | PathLike[str]) -> SpaceServer:
        """Lets other processes of the same user, and of root, look at the space at a socket: a `SpaceServer`, until it is closed.

        `dbs-address-space show space:PATH` and its other commands read from there, `top` again and again. They see the map and the numbers, and,
        where they ask for it, the memory that is in files, to read only; huge pages are guarded from then on. A socket of that path
        that nobody listens at is replaced. Raises `OSError` where somebody does, or where the socket can't be made.

        >>> import tempfile
        >>> from dbs_address_space import AddressSpaceBuilder
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     space.serve(directory + "/vm.sock").close()
        """
    def stats(self) -> SpaceStats:
        """Numbers of the space, a `SpaceStats`: its changes, the leases and the memory that are there, faults.

        Each is right by itself; together they need not be of one moment. In a forked child: `ForkedProcess` where a thread of the parent
        had what it looks at.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> with space.memory.view(0, 4096):
        ...     stats = space.stats()
        >>> stats.mapped, stats.leases, stats.faults
        (4194304, 1, 0)
        """
    def close(self, *, timeout: float | None = 0.0) -> None:
        """Unmaps the memory, if there is any, and ends every attachment, those of the ports too; the space stays as a map. Closing twice does nothing.

        `with` closes the space at its end. A region that views, arrays or long accesses hold is `RegionBusy`, at once or after `timeout`
        seconds (`None`: never), as in `remove_region`; a client that refuses is `ClientError`; then nothing has changed. The error of an
        attachment that could not let go of everything comes only when all of them have ended.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> with AddressSpaceBuilder(numa_regions=["4MiB"]).build() as space:
        ...     space.memory.write(0, b"hello")
        >>> space.is_mapped, len(space)
        (False, 1)
        """
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
        /,
    ) -> Literal[False]: ...
    def save(
        self,
        path: str | PathLike[str],
        *,
        parent: SavedSpace | str | PathLike[str] | None = None,
        dirty: DirtyPages | DirtyTracker | None = None,
        blobs: dict[str, bytes] | None = None,
        sync: bool = True,
        check: bool = True,
        threads: SupportsIndex | None = None,
        progress: _ProgressFunction | None = None,
    ) -> SavedSpace:
        """Writes the map and the memory to an image, with `blobs` by their names, and returns it as an open `SavedSpace`.

        The file is sparse, has digests of all that is in it, and appears under its name when it is whole; an error or Ctrl-C leaves what
        was there. With `parent`, a `SavedSpace` or its path, only what differs from it is written; `dirty`, a `DirtyPages` or a
        `DirtyTracker`, says which pages may: those that it does not name must be as the parent has them, and a tracker gets its pages
        back when saving fails. Without it all is compared. A guest has to be paused: with `check`, pages that are written meanwhile are
        saved again, and `ImageError` is raised when that does not end; where the kernel can't watch the memory, `is_checked` of the result
        is false. `sync=False` does not wait for the disk. `threads` threads work, by default as many as help. Devices are saved as
        regions; what a DAX window shows belongs to its files. Raises `NotMapped`, `AccessDenied` for memory that can't be read, `ImageError` for a path that is in use, `OSError`.

        >>> import tempfile
        >>> from dbs_address_space import AddressSpaceBuilder
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> tracker = space.memory.dirty.start()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     full = space.save(f"{folder}/0.img")
        ...     space.memory.write_u8(0x5000, 1)
        ...     space.save(f"{folder}/1.img", parent=full, dirty=tracker).data_size
        4096
        """
    @property
    def restore_stats(self) -> RestoreStats | None:
        """How far the filling of a space is that was restored by `mode="lazy"`, a `RestoreStats`; `None` of any other space."""
    def wait_restored(self, timeout: float | None = None) -> bool:
        """Waits until all memory of a space is there that was restored by `mode="lazy"`; `False` after `timeout` seconds.

        Returns at once for any other space. From then on accesses are as fast as ever. Ctrl-C ends the wait. Raises the first error of
        the image, whose bytes can't be had.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> AddressSpaceBuilder(numa_regions=["4MiB"]).build().wait_restored()
        True
        """
    def _adopt(self, other: AddressSpace, generation: int, receiver: _StreamReceiver) -> None: ...
    def _restore_lazily(
        self,
        image: _Image,
        places: Sequence[tuple[int, int, bytes | None]],
        rate: int | None,
        timeout: float | None,
    ) -> None: ...
    @staticmethod
    def restore(
        path: str | PathLike[str],
        mode: Literal["copy", "cow", "lazy"] = "copy",
        *,
        resolve: Callable[[str], str | PathLike[str]] | None = None,
        threads: SupportsIndex | None = None,
        progress: _ProgressFunction | None = None,
    ) -> AddressSpace:
        """A new space with the map and the memory of an image, or nothing.

        `mode="copy"` reads all, checked against its digests before anybody sees it. `"cow"` maps the file privately, in no time at any size:
        the file must stay as it is, accesses go through the kernel, and bytes are checked by `SavedSpace.verify()` only. `"lazy"` returns at
        once, too: bytes come in checked when they are first used, by whomever, and before that in the background; where the image turns out to be
        damaged a touch is `MemoryFault`. It takes a privilege (`Unsupported` says which). `resolve(digest)` gives the path of a parent that
        moved; `threads` and `progress(p)` are for `"copy"` alone, and refused for the others. Raises `ImageCorrupt`, `ImageMismatch`,
        `ImageTooNew`, `OSError`, and as `map_memory()` does.

        >>> import tempfile
        >>> from dbs_address_space import AddressSpace, AddressSpaceBuilder
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> space.memory.write(0x1000, b"hello")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     space.save(f"{folder}/vm.img").close()
        ...     AddressSpace.restore(f"{folder}/vm.img").memory.read(0x1000, 5)
        b'hello'
        """
    def wait_for_change(self, generation: SupportsIndex, timeout: float | None = None) -> AddressSpaceBase | None:
        """Waits until the generation is above `generation` and returns the newest map; `None` after `timeout` seconds.

        Returns at once when it is. Ctrl-C ends the wait. In a forked child: `ForkedProcess`.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout
        >>> AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45)).wait_for_change(0, timeout=0.01)
        """
    def find_free(
        self,
        size: _Size,
        *,
        region_type: _RegionType = "ram",
        align: _Size | None = None,
        low: _Address | None = None,
        high: _Address | None = None,
        policy: str = "first",
        guard_gap: _Size = 0,
    ) -> int:
        """The base of free addresses, where neither a region nor a reservation is, and where the layout allows such a region.

        `align` is a power of two: 2 MiB for `"dax"`, 1 for `ports`, else 4 KiB, when not given. `low` and `high` bound the place, which lies below
        the layout's ends in any case. `policy` is `"first"`, `"last"` or `"best"`; `guard_gap` bytes stay free on both sides. Raises
        `NoSpace`, or of its kinds `Fragmented` and `AlignmentImpossible`, with the numbers.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout
        >>> AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45)).find_free("1GiB", policy="last") == (1 << 45) - (1 << 30)
        True
        """
    def reserve(
        self,
        size: _Size,
        *,
        owner: str,
        base: _Address | None = None,
        region_type: _RegionType = "ram",
        align: _Size | None = None,
        low: _Address | None = None,
        high: _Address | None = None,
        policy: str = "first",
        guard_gap: _Size = 0,
    ) -> Reservation:
        """Keeps addresses for an owner, at `base` or where `find_free` finds them: nobody else is given them or can insert there.

        The arguments are those of `find_free`. The owner inserts through the `Reservation`. Raises as `find_free` does; with
        `base`, `Misaligned`, or `RegionOverlap` that names the region or owner in the way.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout
        >>> AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45)).reserve("1MiB", owner="pci", region_type="device")
        Reservation([0x2000_0000_0000, 0x2000_0010_0000) 1 MiB, owner='pci')
        """
    def request_unplug(self, region: _Target) -> UnplugRequest:
        """Asks for a region (exact base, name or region) to be given up and returns the `UnplugRequest`; nothing is removed.

        The code that drives the guest finds it in `unplug_requests`, and gives it to `remove_region` when the guest has let go, or
        cancels it. Asking again gives the same request. Raises `UnmappedAddress`.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="ram0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> request = space.request_unplug("ram0")
        >>> space.unplug_requests == (request,)
        True
        """
    @property
    def unplug_requests(self) -> tuple[UnplugRequest, ...]:
        """The `UnplugRequest`s that are pending, oldest first."""
    @property
    def reservations(self) -> tuple[Reservation, ...]:
        """The reservations that have not been released, by ascending base."""
    @property
    def regions(self) -> tuple[AddressSpaceRegion, ...]:
        """The regions by ascending base."""
    @property
    def layout(self) -> AddressSpaceLayout:
        """The layout that every region keeps."""
    @property
    def generation(self) -> int:
        """How many maps its space had published with this one: 0 for the first, and for a map that no space published."""
    @property
    def last_addr(self) -> int:
        """The highest inclusive address of a region that is not a DAX window; `layout.mem_start` when there is none."""
    @property
    def ram_size(self) -> int:
        """The bytes of `DEFAULT_MEMORY`."""
    def find_region(self, addr: _Address) -> AddressSpaceRegion | None:
        """The region that holds `addr`, the same object each time, or `None`. O(log n).

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpace.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> guest.find_region(0x1000).name
        'ram0'
        """
    def is_dax_region(self, addr: _Address) -> bool:
        """Whether `addr` lies in a DAX window; `False` in a hole.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpace.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> guest.is_dax_region(0)
        False
        """
    def prot_flags(self, addr: _Address) -> Prot:
        """The protection of the region that holds `addr`, a `Prot`; raises `UnmappedAddress` in a hole.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpace.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> print(guest.prot_flags(0x1000))
        rw-
        """
    def numa_node_id(self, addr: _Address) -> int | None:
        """The host's NUMA node of the region that holds `addr`, or `None`; raises `UnmappedAddress` in a hole.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpace.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> guest.numa_node_id(0) is None
        True
        """
    def rows(self, *, limit: int | None = None) -> tuple[MapRow, ...]:
        """The map as `MapRow`s, by ascending address: from 0 to the end of the layout, without a gap or an overlap.

        A row is a region, addresses that a live space has reserved, or free ones, cut where an MMIO window or a reservation begins or
        ends. With a `limit`, neighbours that look alike become one row of kind `"group"`, until there are no more than `limit` rows of
        regions; nothing is joined across an end of a window or reservation. All tables and pictures show these rows.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpace.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> [(row.kind, row.name) for row in guest.rows()]
        [('region', 'ram0'), ('free', 'free')]
        """
    def table(
        self,
        *,
        width: int = 120,
        limit: int | None = None,
        ascii: bool = False,
        color: bool = False,
        free: bool = True,
    ) -> str:
        """The map as a table for a terminal of `width` columns, low addresses on top; `print` shows another one, for programs.

        It has bars on a logarithmic scale, and no column that would be empty. Where `width` is short, bars, ends and other facts make
        room for the names, which are cut at last. `ascii` leaves out all other characters, `color` adds escape sequences. `limit` is
        that of `rows`, and `free=False` leaves free addresses out. Control characters of names are shown and not sent.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpace.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> print(guest.table(ascii=True))
                   start               end      size                    type  prot  backing  name
                     0x0         0x10_0000     1 MiB  ################  ram   rw-   shmem    ram0
               0x10_0000  0x4000_0000_0000  63.9 TiB                                         free
        0x4000_0000_0000
        """
    def to_svg(
        self,
        *,
        title: str = "Address space",
        theme: Literal["auto", "light", "dark"] = "auto",
        width: int = 984,
        limit: int = 48,
        view: Literal["map", "host", "heat"] = "map",
        dirty: DirtyPages | None = None,
    ) -> str:
        """The map as an SVG picture, row by row of `rows(limit=limit)`: low addresses on top, sizes as heights, types as colours.

        `width` is in pixels; below 760 only addresses, names and sizes remain. `theme` is `"light"`, `"dark"` or `"auto"`, which
        follows the viewer and is light on paper. Names are escaped.

        `view="host"` draws the files and the memory of the host behind the rows. `view="heat"` draws the pages of a mapped space:
        those that are resident, and in other colours the `DirtyPages` in `dirty`. Raises `InvalidArgument` for another view or theme,
        less than 320 pixels, or pages of a map, `NotMapped`.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpace.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> guest.to_svg(view="host")[:4]
        '<svg'
        """
    def to_html(
        self, *, title: str = "Address space", theme: Literal["auto", "light", "dark"] = "auto", limit: int = 48
    ) -> str:
        """The map as a page of HTML: one file without network, to read without scripts, to search and print.

        Groups of `rows(limit=limit)` open. `theme` is that of `to_svg`. Raises `InvalidArgument` for another one.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpace.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> guest.to_html()[:15]
        '<!doctype html>'
        """
    def _repr_html_(self) -> str: ...
    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]: ...
    def walk_regions(self, callback: Callable[[AddressSpaceRegion], object]) -> None:
        """Calls `callback(region)` for each region by ascending base; an exception of it ends the walk and comes out.

        The walk is over the map as it is now, whatever the callback changes.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpace.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> guest.walk_regions(lambda region: print(region.name))
        ram0
        """
    def overlapping(self, base: _Address, size: _Size) -> tuple[AddressSpaceRegion, ...]:
        """The regions that share an address with `[base, base + size)`, by ascending base.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpace.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> [region.name for region in guest.overlapping(0xf_f000, "8KiB")]
        ['ram0']
        """
    def ranges(self, region_type: _RegionType | None = None) -> tuple[AddressRange, ...]:
        """The ranges that regions of a type (of all types for `None`) cover, touching ones joined: a tuple of `AddressRange`.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpace.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> guest.ranges("ram")
        (AddressRange(base=0x0, size=0x10_0000),)
        """
    def gaps(self, low: _Address = 0, high: _Address | None = None) -> tuple[AddressRange, ...]:
        """The ranges between `low` and `high` (`layout.phys_end` by default) that no region covers: a tuple of `AddressRange`.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpace.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> [str(gap) for gap in guest.gaps(high=0x20_0000)]
        ['[0x10_0000, 0x20_0000)']
        """
    def diff(self, after: AddressSpaceBase | AddressSpace) -> AddressSpaceChange:
        """How `after`, a map or the current one of a space, differs from this map: an `AddressSpaceChange`.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> regions = [AddressSpaceRegion("ram", 0, "1MiB", name="ram0")]
        >>> guest = AddressSpace.from_regions(regions, AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> from dbs_address_space import AddressSpaceBase
        >>> guest.diff(AddressSpaceBase.from_regions([], guest.layout))
        AddressSpaceChange(0 added, 1 removed, 0 replaced)
        """
    def __getitem__(self, key: SupportsIndex | str, /) -> AddressSpaceRegion: ...
    def __contains__(self, x: _Target, /) -> bool: ...
    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def __iter__(self) -> Iterator[AddressSpaceRegion]: ...
    def __reversed__(self) -> Iterator[AddressSpaceRegion]: ...
    def subscribe(
        self, client_or_callable: _Client | Callable[[AddressSpaceChange], object], *, replay: bool = False
    ) -> Subscription:
        """Lets a client follow every change, and returns its `Subscription`.

        A client has three methods, each called with the `AddressSpaceChange`, in the thread that makes the change:
        `prepare(change)` makes additions real and checks removals, and what it raises undoes the whole change, which then raises
        `ClientError`; `commit(change)` comes after the publication and makes removals real; `rollback(change)` undoes `prepare`
        when another client refused. `change.mapping(region)` is the host side. Every present region is offered at once, as added.
        A plain callable is an observer: it is called with each change that was published; with `replay`, also with the regions
        that are there. Errors of `commit` or an observer are in `Subscription.error`, and the client hears no more. Either may have a
        fourth method `leave()`, which `Subscription.detach()` calls last: there the client lets go of the regions.

        In a running asyncio loop an observer may be a coroutine function: the loop begins a task with each change, which waits for none of
        them and shows no `mapping` when it is over; what a task raises, the loop's exception handler is told. Clients can't be: a change waits for
        them.

        A removed region that shares addresses with an added one (`transaction()`) has to be let go in `prepare`. `map_memory()`
        on a space whose regions a client knows shows each as removed and added; closing the memory removes them all. A change from
        inside a client is `ReentrantChange`. Raises `TypeError` for an object that is neither, `ClientError` when it refuses.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> class NoMoreThanOne:
        ...     def prepare(self, change):
        ...         if len(change.after) > 1:
        ...             raise ValueError("one region is enough")
        ...     def commit(self, change): pass
        ...     def rollback(self, change): pass
        >>> subscription = space.subscribe(NoMoreThanOne())
        >>> for base in (0, 0x1000):
        ...     _ = space.insert_region(AddressSpaceRegion("ram", base, 0x1000))
        Traceback (most recent call last):
        dbs_address_space.errors.ClientError: client "NoMoreThanOne" refused the change in prepare: ValueError: one region is enough
        """
    def changes(self, generation: SupportsIndex | None = None) -> AsyncIterator[AddressSpaceChange]:
        """The changes of the space, for `async for` in a running asyncio loop: each an `AddressSpaceChange` from the map last seen to that of now.

        Changes that come while the loop is busy are one, which may be empty: then only the generation has moved. It begins with the map of
        this call; given a `generation` that the space is past already, all that is there comes at once, as added. It ends when the space is
        closed, or follows its leader no more. Ending or cancelling it leaves nothing attached. Raises `ForkedProcess` in a forked child.

        >>> import asyncio
        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> async def main():
        ...     changes = space.changes()
        ...     _ = space.insert_region(AddressSpaceRegion("ram", 0, "1MiB"))
        ...     async for change in changes:
        ...         return change
        >>> print(asyncio.run(main()))
        + AddressSpaceRegion(DEFAULT_MEMORY [0x0, 0x10_0000) 1 MiB rw- shmem)
        """
    @property
    def clients(self) -> tuple[Attachment, ...]:
        """The attachments that follow the space, in the order in which they are asked: a tuple of `Attachment`.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout
        >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> _ = space.subscribe(print)
        >>> space.clients
        (Subscription("print", attached),)
        """
    def attach_kvm(
        self,
        vm_fd: _File,
        *,
        dirty_log: bool = False,
        manual_clear: bool = False,
        first_slot: SupportsIndex = 0,
        max_slots: SupportsIndex | None = None,
        guest_memfd: bool = False,
        slot_size: _Size | None = None,
        quiesce: AbstractContextManager[object] | None = None,
        partial_pages: str = "refuse",
    ) -> KvmSlots:
        """Keeps the memory slots of a KVM virtual machine in step with this space; returns its `KvmSlots`.

        `vm_fd`, an int or anything with `fileno()`, is a descriptor that `KVM_CREATE_VM` gave and that stays the caller's; a
        duplicate is kept until `detach()`. `dirty_log` logs the guest's writes to every writable region; `manual_clear` switches the
        whole machine to `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`. Slots are numbered from `first_slot` on, `max_slots` of them at most,
        and no more than KVM has. With `guest_memfd` each region of RAM has one for its private pages, and no dirty log. KVM takes whole
        pages: a region that begins or ends inside one, or whose bytes do in their file, is `Misaligned`, or shown without such parts with
        `partial_pages="skip"`, and they are in `KvmSlots.left_out`.

        A slot has at most `slot_size` bytes, whole pages: what a change costs that cuts a slot grows with it (a size such as `"128MiB"`). `quiesce`, a context
        manager that can be used again, is entered without any lock before a slot makes way for others, and left once the change is made or undone: it holds
        the guest's processors. What its `__enter__` raises refuses the change as a `ClientError`.

        Raises `NotMapped`, `BackingError` for a descriptor that is not a KVM machine, for a slot that KVM refuses and when the slots
        run out (`ENOSPC`), `Unsupported` for a feature that the kernel lacks. Then nothing is attached.
        """
    def attach_vhost_user(
        self,
        sock: _File,
        *,
        timeout: float | None = 5.0,
        protocol_features: SupportsIndex = 0,
        partial_pages: str = "refuse",
    ) -> VhostUserClient:
        """Keeps the memory table of a vhost-user back-end in step with this space's RAM; returns its `VhostUserClient`.

        `sock` is a connected Unix socket, an int or anything with `fileno()`, that stays the caller's; a duplicate is kept until
        `detach()`. The session is opened and the protocol's features are negotiated here: those that this needs, and those bits of
        `protocol_features` that the back-end offers. `SET_FEATURES` and the rings are the caller's, by `VhostUserClient.send`.
        Each message waits `timeout` seconds for the back-end, or for ever with `None`. Ctrl-C ends the wait in every verb, and after a message without an answer the
        connection takes no other: detach it. Firmware, devices and DAX windows are not in the table. A back-end maps whole pages: RAM that
        begins or ends inside one, or whose bytes do in their file, is `Misaligned`, or shown without such parts with `partial_pages="skip"`,
        and they are in `VhostUserClient.left_out`.

        A region is removed from the table when its removal is published: the caller must have no request under way in it. Raises
        `NotMapped`, `Unsupported` naming RAM that is not shared, `BackingError` for a back-end that refuses, does not answer or has
        no room (`ENOSPC`).
        """
    def share(
        self,
        sock: _File,
        *,
        writable: bool = True,
        private: Literal["refuse", "skip"] = "refuse",
        timeout: float = 2.0,
        allow: Callable[[int, int, int], object] | None = None,
    ) -> Share:
        """Lets other processes follow this space over a Unix socket, and returns its `Share`.

        `sock` is one end of a connection, as of `socket.socketpair()`, or a socket that listens, for any number of followers: an int or
        anything with `fileno()`, of type `SOCK_STREAM` or `SOCK_SEQPACKET`; it stays the caller's, and a duplicate is kept until
        `detach()`. The other side calls `AddressSpace.attach`, or speaks what `docs/share.md` says; it is admitted by a thread, so that
        nothing is waited for here.

        With `writable=False` followers get descriptors that only read, which keeps out mistakes, not another process of the same user. Memory
        that no other process can map, as anonymous and private memory, is refused here and on insertion with `private="refuse"`; with
        "skip" followers have the region without memory. Each follower has `timeout` seconds for an answer, at most 5. It must be of the
        same user, unless `allow(pid, uid, gid)` says whether it may follow; the kernel vouches for the numbers. `allow` is called in that thread.

        Raises `NotMapped`, `Unsupported` naming memory that can't be shared, `BackingError` for a socket of another kind.

        >>> import socket
        >>> from dbs_address_space import AddressSpace, AddressSpaceBuilder
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> ours, theirs = socket.socketpair()
        >>> with ours, theirs, space.share(ours) as share, AddressSpace.attach(theirs) as follower:
        ...     follower.memory.write_u32(0x1000, 7)
        ...     space.memory.read_u32(0x1000), len(share.followers)
        (7, 1)
        """
    @staticmethod
    def attach(sock: _File, *, timeout: float | None = 5.0) -> AddressSpace:
        """A space that follows another process's: its regions and its memory, now and after each change.

        `sock` is the connected other end of a socket that was given to `AddressSpace.share`; it stays the caller's, and a duplicate is kept
        as long as the leader is followed. Reads, writes, views, trackers, and clients such as KVM, work as on any space, and may veto the
        leader's changes; changes of its own raise `Unsupported`. A thread follows the leader, without the interpreter's lock unless a
        client in Python is attached here. When the leader ends, detaches or drops it, the memory stays as it is and `leader` is `None`.
        `close()` ends it, as does the end of the object.

        Raises `ShareError` when the leader refuses, is gone or does not answer in `timeout` seconds (`None`: waits for ever),
        `BackingError` for memory that can't be mapped here.

        >>> import socket
        >>> from dbs_address_space import AddressSpace, AddressSpaceBuilder, AddressSpaceRegion
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> ours, theirs = socket.socketpair()
        >>> with ours, theirs, space.share(ours), AddressSpace.attach(theirs) as follower:
        ...     _ = space.insert_region(AddressSpaceRegion("ram", 1 << 30, "2MiB", name="dimm0"))
        ...     follower["dimm0"].size, follower.generation == space.generation
        (2097152, True)
        """
    @property
    def is_follower(self) -> bool:
        """Whether its changes are another process's.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> AddressSpaceBuilder(numa_regions=["4MiB"]).build().is_follower
        False
        """
    @property
    def leader(self) -> int | None:
        """The process whose space it follows; `None` of one that follows none, or no more."""
    def attach_device(
        self, base: _Target, handler: _Handler, *, widths: Sequence[SupportsIndex] = (1, 2, 4, 8)
    ) -> Attachment:
        """Lets `handler` answer for the device region at `base` (exact base, name or region), until it is detached or the region is
        removed.

        The handler has `read(offset, size)`, which returns an int, and `write(offset, size, value)`; they are called by
        `dispatch`, without locks, in whatever thread that runs in, so they may change the space and raise what they like. `widths`
        are the access sizes that it takes, of 1, 2, 4 and 8. Returns an `Attachment`. Raises `UnmappedAddress` when there is no
        such region, `InvalidRegionType` when it is not a device, `InvalidArgument` when it has a handler, `TypeError` when the
        handler lacks a method.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> _ = space.insert_region(AddressSpaceRegion("device", 1 << 45, 0x1000, name="timer"))
        >>> class Timer:
        ...     def read(self, offset, size): return offset + size
        ...     def write(self, offset, size, value): print(f"write {value:#x}")
        >>> with space.attach_device("timer", Timer()):
        ...     space.dispatch((1 << 45) + 8, 4)
        ...     space.dispatch(1 << 45, 2, 0xbeef)
        12
        write 0xbeef
        """
    @overload
    def dispatch(self, addr: _Address, size: _Size, value: None = None) -> int:
        """Routes an access to the handler of the device that holds `addr`: a read without `value`, which returns what the handler
        returns, else a write.

        For the MMIO exits of KVM and Unicorn, from any thread, without locks; an exception of the handler comes out. Raises
        `UnmappedAddress` where no handler answers, `InvalidAddressRange` for a width that the device does not take, an access
        across its end, and a value or an answer that has more than `size` bytes, `TypeError` for an answer that is not an int.

        >>> from types import SimpleNamespace
        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> _ = space.insert_region(AddressSpaceRegion("device", 1 << 45, 0x1000, name="timer"))
        >>> _ = space.attach_device("timer", SimpleNamespace(read=lambda offset, size: offset, write=print))
        >>> space.dispatch((1 << 45) + 8, 4)
        8
        >>> space.dispatch(1 << 45, 2, 7)
        0 2 7
        """
    @overload
    def dispatch(self, addr: _Address, size: _Size, value: SupportsIndex) -> None:
        """Routes an access to the handler of the device that holds `addr`: a read without `value`, which returns what the handler
        returns, else a write.

        For the MMIO exits of KVM and Unicorn, from any thread, without locks; an exception of the handler comes out. Raises
        `UnmappedAddress` where no handler answers, `InvalidAddressRange` for a width that the device does not take, an access
        across its end, and a value or an answer that has more than `size` bytes, `TypeError` for an answer that is not an int.

        >>> from types import SimpleNamespace
        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> _ = space.insert_region(AddressSpaceRegion("device", 1 << 45, 0x1000, name="timer"))
        >>> _ = space.attach_device("timer", SimpleNamespace(read=lambda offset, size: offset, write=print))
        >>> space.dispatch((1 << 45) + 8, 4)
        8
        >>> space.dispatch(1 << 45, 2, 7)
        0 2 7
        """
    def attach_unicorn(self, uc: Any, *, partial_pages: str = "refuse") -> Subscription:
        """Shows a Unicorn engine every region, by pointer, and lets it follow each change: `adapters.unicorn.attach`.

        `uc` is a `unicorn.Uc`. Regions with memory are mapped without a copy, readable and executable where they can be read, writable
        where they can be written; the guest's accesses to devices go to `dispatch`. Changes must be made while the engine does
        not run, or in one of its hooks; code that it has translated and that is then written from here needs `uc.ctl_flush_tb()`.
        `uc.mem_write` to what the space protects is a forced write of the space; `uc.mem_protect` that would let the engine write there is
        `Unsupported`. Unicorn takes whole pages of 4 KiB: memory that begins or ends inside one is refused, or mapped without such parts with
        `partial_pages="skip"`, and they are in `left_out` of the attachment's `client`.
        Returns a `Subscription`. Raises `NotMapped`, `ClientError` when the engine refuses or for parts of pages, `Unsupported` for one whose contexts save
        memory (`UC_CTL_CONTEXT_MEMORY`), which is also what `uc.ctl` raises for that mode while the engine is attached.

        >>> from unicorn import UC_ARCH_X86, UC_MODE_64, Uc
        >>> from dbs_address_space import AddressSpaceBuilder
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> space.memory.write(0x1000, b"hello")
        >>> engine = Uc(UC_ARCH_X86, UC_MODE_64)
        >>> with space.attach_unicorn(engine):
        ...     bytes(engine.mem_read(0x1000, 5))
        b'hello'
        """
    def attach_drgn(self, program: Any) -> Attachment:
        """Lets a drgn `Program` read guest physical memory, always on the current map: `adapters.drgn.attach`.

        A read that meets a hole is drgn's own `FaultError`. Returns an `Attachment`. Raises `NotMapped`.

        >>> from drgn import Architecture, Platform, Program
        >>> from dbs_address_space import AddressSpaceBuilder
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> space.memory.write(0x1000, b"hello")
        >>> program = Program(Platform(Architecture.X86_64))
        >>> with space.attach_drgn(program):
        ...     program.read(0x1000, 5, physical=True)
        b'hello'
        """
    def __reduce__(self) -> NoReturn: ...

@final
class Transaction:
    """Many changes of an address space, published once, or none of them.

    A context manager made by `AddressSpace.transaction()`. Its verbs are checked at once against a private map, so that an error
    points at the right line; no lock is held while it is open. On exit they are replayed on the newest map and published together,
    or the exit raises and nothing changes. An exception in the body, or an empty body, publishes nothing.

    >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
    >>> with space.transaction() as change:
    ...     for base in (0, 0x1000):
    ...         _ = change.insert_region(AddressSpaceRegion("ram", base, 0x1000))
    >>> change.published.generation, len(space)
    (1, 2)
    """
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        _exc_value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> Literal[False]: ...
    def insert_region(self, region: AddressSpaceRegion) -> AddressSpaceBase:
        """Stages an insertion; returns the staged map. Raises as `AddressSpace.insert_region` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> with space.transaction() as change:
        ...     len(change.insert_region(AddressSpaceRegion("ram", 0, "1MiB"))), len(space)
        (1, 0)
        """
    def remove_region(self, x: _Target) -> AddressSpaceBase:
        """Stages the removal of a region, given by its exact base, its name or an equal region; returns the staged map.

        Raises `UnmappedAddress`; the exit raises `RegionBusy` when the region is leased.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="ram0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> with space.transaction() as change:
        ...     len(change.remove_region("ram0")), len(space)
        (0, 1)
        """
    def split_region(self, x: _Target, at: _Address) -> AddressSpaceBase:
        """Stages a cut; returns the staged map. Raises as `AddressSpace.split_region` does.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> with space.transaction() as change:
        ...     len(change.split_region(0, 1 << 20))
        2
        """
    def join_regions(self, x: _Target, y: _Target) -> AddressSpaceBase:
        """Stages a union of two neighbours; returns the staged map. Raises as `AddressSpace.join_regions` does.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> with space.transaction() as change:
        ...     _ = change.split_region(0, 1 << 20)
        ...     len(change.join_regions(0, 1 << 20))
        1
        """
    def move_region(self, x: _Target, base: _Address) -> AddressSpaceBase:
        """Stages a move; returns the staged map. Raises as `AddressSpace.move_region` does.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> with space.transaction() as change:
        ...     change.move_region(0, 16 << 20).regions[0].base
        16777216
        """
    def grow_region(self, x: _Target, size: _Size) -> AddressSpaceBase:
        """Stages a growth; returns the staged map. Raises as `AddressSpace.grow_region` does.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> with space.transaction() as change:
        ...     change.grow_region("ram0", "6MiB").last_addr
        6291455
        """
    def protect(self, addr: _Address, size: _Size, prot_flags: _Protection) -> AddressSpaceBase:
        """Stages another protection of a range; returns the staged map. Raises as `AddressSpace.protect` does.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> with space.transaction() as change:
        ...     len(change.protect(0xf0000, 0x10000, "r--"))
        3
        """
    def replace_region(self, old: _Target, new: AddressSpaceRegion) -> AddressSpaceBase:
        """Stages a replacement that keeps range and backing; returns the staged map. Raises as `AddressSpace.replace_region` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="ram0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> with space.transaction() as change:
        ...     change.replace_region("ram0", space[0].replace(name="low"))["low"].base
        0
        """
    @property
    def published(self) -> AddressSpaceBase | None:
        """The map that the exit published, or `None` before it and when nothing was published."""

@final
class GuestMemory:
    r"""The bytes behind a mapped address space: a live handle that follows every later change and keeps its space alive.

    Made by `AddressSpace.map_memory()`. Accesses may span touching regions and are all or nothing: a hole or a device region is
    `UnmappedAddress`, a protection `AccessDenied`, both with the first bad address. Only a fault of the memory itself, such as a
    truncated file, can stop one midway: `MemoryFault`, never a signal. Size 0 does nothing, anywhere. Copies from 4 MiB on release
    the interpreter's lock. Used in `with`, or closed, all memory is unmapped; views and arrays on it refuse that with `RegionBusy`.

    >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    >>> memory = space.map_memory()
    >>> memory.write_u32(0x1000, 0x12345678)
    >>> memory.read(0x1000, 4)
    b'xV4\x12'
    """
    def read(self, addr: _Address, size: _Size, *, pad: SupportsIndex | None = None) -> bytes:
        r"""The bytes of a range.

        `pad=byte` fills what has no memory (holes and device regions) instead of refusing it. Raises `UnmappedAddress`,
        `AccessDenied`, `MemoryFault`, `NotMapped` after `close()`.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> space.map_memory().read(0xffe, 4, pad=0xff)
        b'\x00\x00\xff\xff'
        """
    def read_into(self, addr: _Address, buffer: Buffer) -> int:
        """Reads as many bytes as a writable, contiguous buffer has into it, and returns how many that are.

        Raises as `read` does; `TypeError` for a read-only buffer, `BufferError` for one that isn't contiguous.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> space.map_memory().read_into(0, bytearray(16))
        16
        """
    def write(self, addr: _Address, data: Buffer, *, force: bool = False) -> None:
        """Writes the bytes of any contiguous bytes-like object.

        `force=True` writes through a protection, to load a ROM (by `mprotect`, copy, restore), not into a hole or a device region.
        Raises as `read` does; `TypeError` for `str`.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> rom = AddressSpaceRegion.create_firmware_region(0, "4KiB", "r-x", name="rom")
        >>> memory = AddressSpace.from_regions([rom], AddressSpaceLayout(1 << 46, 0, 1 << 45)).map_memory()
        >>> memory.write(0, b"bios", force=True)
        >>> memory.read(0, 4)
        b'bios'
        """
    def fill(self, addr: _Address, size: _Size, byte: SupportsIndex = 0, *, force: bool = False) -> None:
        """Sets every byte of a range to `byte`.

        Raises as `write` does; `force` as there.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> space.map_memory().fill(0, "4KiB", 0xcc)
        """
    def read_u8(self, addr: _Address, *, big: bool = False) -> int:
        """Reads an unsigned integer of 1 byte at any address, little-endian unless `big`.

        Aligned reads of directly copied memory do not tear. Raises as `read` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> space.map_memory().read_u8(0)
        0
        """
    def write_u8(self, addr: _Address, value: SupportsIndex, *, big: bool = False) -> None:
        """Writes an unsigned integer of 1 byte at any address, little-endian unless `big`.

        Aligned writes of directly copied memory do not tear. A value that does not fit is `InvalidAddressRange`; raises as
        `write` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.write_u8(0, 7)
        >>> memory.read_u8(0)
        7
        """
    def read_u16(self, addr: _Address, *, big: bool = False) -> int:
        """Reads an unsigned integer of 2 bytes at any address, little-endian unless `big`.

        Aligned reads of directly copied memory do not tear. Raises as `read` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> space.map_memory().read_u16(0)
        0
        """
    def write_u16(self, addr: _Address, value: SupportsIndex, *, big: bool = False) -> None:
        """Writes an unsigned integer of 2 bytes at any address, little-endian unless `big`.

        Aligned writes of directly copied memory do not tear. A value that does not fit is `InvalidAddressRange`; raises as
        `write` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.write_u16(0, 7)
        >>> memory.read_u16(0)
        7
        """
    def read_u32(self, addr: _Address, *, big: bool = False) -> int:
        """Reads an unsigned integer of 4 bytes at any address, little-endian unless `big`.

        Aligned reads of directly copied memory do not tear. Raises as `read` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> space.map_memory().read_u32(0)
        0
        """
    def write_u32(self, addr: _Address, value: SupportsIndex, *, big: bool = False) -> None:
        """Writes an unsigned integer of 4 bytes at any address, little-endian unless `big`.

        Aligned writes of directly copied memory do not tear. A value that does not fit is `InvalidAddressRange`; raises as
        `write` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.write_u32(0, 7)
        >>> memory.read_u32(0)
        7
        """
    def read_u64(self, addr: _Address, *, big: bool = False) -> int:
        """Reads an unsigned integer of 8 bytes at any address, little-endian unless `big`.

        Aligned reads of directly copied memory do not tear. Raises as `read` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> space.map_memory().read_u64(0)
        0
        """
    def write_u64(self, addr: _Address, value: SupportsIndex, *, big: bool = False) -> None:
        """Writes an unsigned integer of 8 bytes at any address, little-endian unless `big`.

        Aligned writes of directly copied memory do not tear. A value that does not fit is `InvalidAddressRange`; raises as
        `write` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.write_u64(0, 7)
        >>> memory.read_u64(0)
        7
        """
    def read_i8(self, addr: _Address, *, big: bool = False) -> int:
        """Reads a signed integer of 1 byte at any address, little-endian unless `big`.

        Aligned reads of directly copied memory do not tear. Raises as `read` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> space.map_memory().read_i8(0)
        0
        """
    def write_i8(self, addr: _Address, value: SupportsIndex, *, big: bool = False) -> None:
        """Writes a signed integer of 1 byte at any address, little-endian unless `big`.

        Aligned writes of directly copied memory do not tear. A value that does not fit is `InvalidAddressRange`; raises as
        `write` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.write_i8(0, 7)
        >>> memory.read_i8(0)
        7
        """
    def read_i16(self, addr: _Address, *, big: bool = False) -> int:
        """Reads a signed integer of 2 bytes at any address, little-endian unless `big`.

        Aligned reads of directly copied memory do not tear. Raises as `read` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> space.map_memory().read_i16(0)
        0
        """
    def write_i16(self, addr: _Address, value: SupportsIndex, *, big: bool = False) -> None:
        """Writes a signed integer of 2 bytes at any address, little-endian unless `big`.

        Aligned writes of directly copied memory do not tear. A value that does not fit is `InvalidAddressRange`; raises as
        `write` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.write_i16(0, 7)
        >>> memory.read_i16(0)
        7
        """
    def read_i32(self, addr: _Address, *, big: bool = False) -> int:
        """Reads a signed integer of 4 bytes at any address, little-endian unless `big`.

        Aligned reads of directly copied memory do not tear. Raises as `read` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> space.map_memory().read_i32(0)
        0
        """
    def write_i32(self, addr: _Address, value: SupportsIndex, *, big: bool = False) -> None:
        """Writes a signed integer of 4 bytes at any address, little-endian unless `big`.

        Aligned writes of directly copied memory do not tear. A value that does not fit is `InvalidAddressRange`; raises as
        `write` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.write_i32(0, 7)
        >>> memory.read_i32(0)
        7
        """
    def read_i64(self, addr: _Address, *, big: bool = False) -> int:
        """Reads a signed integer of 8 bytes at any address, little-endian unless `big`.

        Aligned reads of directly copied memory do not tear. Raises as `read` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> space.map_memory().read_i64(0)
        0
        """
    def write_i64(self, addr: _Address, value: SupportsIndex, *, big: bool = False) -> None:
        """Writes a signed integer of 8 bytes at any address, little-endian unless `big`.

        Aligned writes of directly copied memory do not tear. A value that does not fit is `InvalidAddressRange`; raises as
        `write` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.write_i64(0, 7)
        >>> memory.read_i64(0)
        7
        """
    def load(self, addr: _Address, size: _Size = 8, *, order: str = "acquire") -> int:
        """Loads a naturally aligned little-endian integer of 1, 2, 4 or 8 bytes atomically.

        `order`: `"relaxed"`, `"acquire"` or `"seq_cst"`. Raises `Misaligned`, `Unsupported` on guarded memory, else as `read` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> space.map_memory().load(8)
        0
        """
    def store(
        self,
        addr: _Address,
        value: SupportsIndex,
        size: _Size = 8,
        *,
        order: str = "release",
    ) -> None:
        """Stores a naturally aligned little-endian integer of 1, 2, 4 or 8 bytes atomically.

        `order`: `"relaxed"`, `"release"` or `"seq_cst"`. Raises `Misaligned`, `Unsupported` on guarded memory, else as `write` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> space.map_memory().store(8, 1)
        """
    def wait_value(
        self,
        addr: _Address,
        expected: SupportsIndex,
        size: _Size = 4,
        *,
        timeout: float | None = None,
        poll: float = 0.001,
    ) -> int:
        """Waits until an integer is not `expected` and returns what is there then: `expected` itself after `timeout` seconds (`None`: never).

        The integer is little-endian, has 1, 2, 4 or 8 bytes and is naturally aligned. The wait sleeps, in this process, until `wake_value` or
        another process's futex wakes it, and looks every `poll` seconds, 50 ms at most, for guests, devices and NumPy wake nobody. It lets other
        threads run, holds no region, and follows the map: when the region goes, it is `UnmappedAddress`. Ctrl-C ends it. Raises
        `Misaligned`, `InvalidAddressRange` for a value that does not fit, else as `read` does.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> memory.store(0x1000, 7, 4)
        >>> memory.wait_value(0x1000, 6), memory.wait_value(0x1000, 7, timeout=0.01)
        (7, 7)
        """
    def wait_value_async(
        self,
        addr: _Address,
        expected: SupportsIndex,
        size: _Size = 4,
        *,
        timeout: float | None = None,
        poll: float = 0.001,
    ) -> Coroutine[Any, Any, int]:
        """`wait_value` for asyncio: a coroutine that waits without a thread of its own.

        Arguments, result and errors are those of `wait_value`; cancelling it ends the wait. One thread a loop sleeps for all its waits: on 127 words
        of 4 bytes, while it looks at what is beyond them every `poll` seconds.

        >>> import asyncio
        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> async def main():
        ...     waiter = asyncio.create_task(memory.wait_value_async(0x1000, 0))
        ...     await asyncio.sleep(0.01)
        ...     memory.store(0x1000, 7, 4)
        ...     memory.wake_value(0x1000)
        ...     return await waiter
        >>> asyncio.run(main())
        7
        """
    def wake_value(self, addr: _Address, size: _Size = 4) -> int:
        """Wakes all who sleep in `wait_value` for that integer, in any process that shares the memory, and returns how many.

        Call it after the write. It wakes other users of futexes there too. Nobody can sleep on read-only anonymous memory, nor where the
        memory is not aligned on the host or may block; who waits there looks now and then. Raises `Misaligned`, else as `read` does.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> memory.store(0x1000, 7, 4)
        >>> memory.wake_value(0x1000)
        0
        """
    def swap(self, addr: _Address, value: SupportsIndex, size: _Size = 8, *, order: str = "seq_cst") -> int:
        """Writes `value` atomically, and returns what was there.

        The integer is little-endian, has 1, 2, 4 or 8 bytes and is naturally aligned. `order`: `"relaxed"`, `"acquire"`,
        `"release"`, `"acq_rel"` or `"seq_cst"`. Raises `Misaligned`, `Unsupported` on guarded memory, `InvalidAddressRange` for
        a value that does not fit, else as `write` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.write_u8(3, 0b1100)
        >>> memory.swap(3, 0b1010, 1), memory.read_u8(3)
        (12, 10)
        """
    def fetch_add(self, addr: _Address, value: SupportsIndex, size: _Size = 8, *, order: str = "seq_cst") -> int:
        """Adds `value`, wrapping, atomically, and returns what was there.

        The integer is little-endian, has 1, 2, 4 or 8 bytes and is naturally aligned. `order`: `"relaxed"`, `"acquire"`,
        `"release"`, `"acq_rel"` or `"seq_cst"`. Raises `Misaligned`, `Unsupported` on guarded memory, `InvalidAddressRange` for
        a value that does not fit, else as `write` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.write_u8(3, 0b1100)
        >>> memory.fetch_add(3, 0b1010, 1), memory.read_u8(3)
        (12, 22)
        """
    def fetch_sub(self, addr: _Address, value: SupportsIndex, size: _Size = 8, *, order: str = "seq_cst") -> int:
        """Subtracts `value`, wrapping, atomically, and returns what was there.

        The integer is little-endian, has 1, 2, 4 or 8 bytes and is naturally aligned. `order`: `"relaxed"`, `"acquire"`,
        `"release"`, `"acq_rel"` or `"seq_cst"`. Raises `Misaligned`, `Unsupported` on guarded memory, `InvalidAddressRange` for
        a value that does not fit, else as `write` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.write_u8(3, 0b1100)
        >>> memory.fetch_sub(3, 0b1010, 1), memory.read_u8(3)
        (12, 2)
        """
    def fetch_and(self, addr: _Address, value: SupportsIndex, size: _Size = 8, *, order: str = "seq_cst") -> int:
        """Does a bitwise and with `value` atomically, and returns what was there.

        The integer is little-endian, has 1, 2, 4 or 8 bytes and is naturally aligned. `order`: `"relaxed"`, `"acquire"`,
        `"release"`, `"acq_rel"` or `"seq_cst"`. Raises `Misaligned`, `Unsupported` on guarded memory, `InvalidAddressRange` for
        a value that does not fit, else as `write` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.write_u8(3, 0b1100)
        >>> memory.fetch_and(3, 0b1010, 1), memory.read_u8(3)
        (12, 8)
        """
    def fetch_or(self, addr: _Address, value: SupportsIndex, size: _Size = 8, *, order: str = "seq_cst") -> int:
        """Does a bitwise or with `value` atomically, and returns what was there.

        The integer is little-endian, has 1, 2, 4 or 8 bytes and is naturally aligned. `order`: `"relaxed"`, `"acquire"`,
        `"release"`, `"acq_rel"` or `"seq_cst"`. Raises `Misaligned`, `Unsupported` on guarded memory, `InvalidAddressRange` for
        a value that does not fit, else as `write` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.write_u8(3, 0b1100)
        >>> memory.fetch_or(3, 0b1010, 1), memory.read_u8(3)
        (12, 14)
        """
    def fetch_xor(self, addr: _Address, value: SupportsIndex, size: _Size = 8, *, order: str = "seq_cst") -> int:
        """Does a bitwise exclusive or with `value` atomically, and returns what was there.

        The integer is little-endian, has 1, 2, 4 or 8 bytes and is naturally aligned. `order`: `"relaxed"`, `"acquire"`,
        `"release"`, `"acq_rel"` or `"seq_cst"`. Raises `Misaligned`, `Unsupported` on guarded memory, `InvalidAddressRange` for
        a value that does not fit, else as `write` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.write_u8(3, 0b1100)
        >>> memory.fetch_xor(3, 0b1010, 1), memory.read_u8(3)
        (12, 6)
        """
    def compare_exchange(
        self,
        addr: _Address,
        expected: SupportsIndex,
        new: SupportsIndex,
        size: _Size = 8,
        *,
        order: str = "seq_cst",
    ) -> int:
        """Writes `new` if `expected` is there, atomically; returns what was there, so the write was done when that is `expected`.

        Operands and errors as for `swap`. When it fails, the order is that of its load.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.compare_exchange(8, 0, 5), memory.compare_exchange(8, 0, 6)
        (0, 5)
        """
    def copy(self, dst: _Address, src: _Address, size: _Size, *, progress: _ProgressFunction | None = None) -> None:
        """Copies `size` bytes inside the guest, as if through a buffer in between: the two ranges may overlap.

        `progress(p)` is called during copies from 4 MiB on. Raises as `read` and `write` do, and then nothing was copied; only a
        `MemoryFault` or an exception from `progress` stops it midway.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.write(0, b"abcdef")
        >>> memory.copy(2, 0, 4)
        >>> memory.read(0, 6)
        b'ababcd'
        """
    @overload
    def read_c_string(self, addr: _Address, max_size: _Size = 4096, *, encoding: None = None) -> bytes:
        r"""The bytes up to a zero, without it; `max_size` bytes when there is none before.

        With `encoding` a `str`. Memory behind the zero is not touched. Raises as `read` does, when there is no memory before the
        zero; `UnicodeDecodeError`.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.write(0, b"Linux version\0")
        >>> memory.read_c_string(0), memory.read_c_string(6, 4, encoding="ascii")
        (b'Linux version', 'vers')
        """
    @overload
    def read_c_string(self, addr: _Address, max_size: _Size = 4096, *, encoding: str) -> str:
        r"""The bytes up to a zero, without it; `max_size` bytes when there is none before.

        With `encoding` a `str`. Memory behind the zero is not touched. Raises as `read` does, when there is no memory before the
        zero; `UnicodeDecodeError`.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.write(0, b"Linux version\0")
        >>> memory.read_c_string(0), memory.read_c_string(6, 4, encoding="ascii")
        (b'Linux version', 'vers')
        """
    def unpack(self, addr: _Address, fmt: str | bytes) -> tuple[Any, ...]:
        """The values at an address, in a format of the `struct` module.

        They may cross from one region into the next. Raises `struct.error` for a bad format, else as `read` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.pack(0x100, "<QIHH", 0x8000, 512, 1, 2)
        >>> memory.unpack(0x100, "<QIHH")
        (32768, 512, 1, 2)
        """
    def pack(self, addr: _Address, fmt: str | bytes, *values: Any) -> None:
        r"""Writes values at an address, in a format of the `struct` module.

        Raises `struct.error` for a bad format or values that do not fit it, else as `write` does; then nothing is written.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.pack(0, ">H", 0x1234)
        >>> memory.read(0, 2)
        b'\x124'
        """
    def readv(self, ranges: _Ranges) -> list[bytes]:
        r"""The bytes of many ranges: a list, in their order.

        `ranges` are pairs `(addr, size)`, or a buffer of pairs of u64 such as an array of shape `(n, 2)`. Raises as `read` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> space.map_memory().readv([(0, 2), (0x100, 1)])
        [b'\x00\x00', b'\x00']
        """
    def readv_into(self, ranges: _Ranges, buffer: Buffer) -> int:
        """Reads many ranges into one writable, contiguous buffer, one after the other; returns how many bytes that are.

        `ranges` as for `readv`. A buffer that is too short is `InvalidAddressRange`. Raises as `read_into` does; only a `MemoryFault`
        stops it midway.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> space.map_memory().readv_into([(0, 2), (0x100, 1)], bytearray(3))
        3
        """
    def writev(self, pairs: Iterable[tuple[_Address, Buffer]]) -> None:
        """Writes many pieces of data: pairs `(addr, data)`, in their order.

        Nothing is written before all of them are found possible. Raises as `write` does; only a `MemoryFault` stops it midway.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.writev([(0, b"ab"), (0x100, b"c")])
        >>> memory.readv([(0, 2), (0x100, 1)])
        [b'ab', b'c']
        """
    @overload
    def translate(  # type: ignore[overload-overlap]  # an array of NumPy is a buffer
        self, addresses: NDArray[np.uint64], *, missing: str = "raise"
    ) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """The host address and the index in `regions` of each guest physical address.

        `addresses` is an array of NumPy, another buffer of u64 or an iterable of ints; the results are arrays of `u64` and `i64` of its
        shape, or else memoryviews. With `missing="mark"` addresses without memory get host 0 and index -1, with `"raise"` they are
        `UnmappedAddress`. The host addresses are valid for as long as their regions are there: nothing holds them. `TypeError` for
        other items than u64, `NotMapped`.

        >>> from array import array
        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> hosts, indexes = space.map_memory().translate(array("Q", [0x10, 0x5000]), missing="mark")
        >>> hosts.tolist() == [space.memory.host_address(0x10), 0], indexes.tolist()
        (True, [0, -1])
        """
    @overload
    def translate(
        self, addresses: Iterable[SupportsIndex] | Buffer, *, missing: str = "raise"
    ) -> tuple[memoryview[int], memoryview[int]]:
        """The host address and the index in `regions` of each guest physical address.

        `addresses` is an array of NumPy, another buffer of u64 or an iterable of ints; the results are arrays of `u64` and `i64` of its
        shape, or else memoryviews. With `missing="mark"` addresses without memory get host 0 and index -1, with `"raise"` they are
        `UnmappedAddress`. The host addresses are valid for as long as their regions are there: nothing holds them. `TypeError` for
        other items than u64, `NotMapped`.

        >>> from array import array
        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> hosts, indexes = space.map_memory().translate(array("Q", [0x10, 0x5000]), missing="mark")
        >>> hosts.tolist() == [space.memory.host_address(0x10), 0], indexes.tolist()
        (True, [0, -1])
        """
    @overload
    def read_many_u64(self, addresses: NDArray[np.uint64]) -> NDArray[np.uint64]:  # type: ignore[overload-overlap]
        """The little-endian u64 at each address, which may be unaligned and cross from one region into the next.

        `addresses` and results as for `translate`. Raises as `read_u64` does.

        >>> from array import array
        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.write_u64(0x20, 7)
        >>> memory.read_many_u64(array("Q", [0x20, 0x28])).tolist()
        [7, 0]
        """
    @overload
    def read_many_u64(self, addresses: Iterable[SupportsIndex] | Buffer) -> memoryview[int]:
        """The little-endian u64 at each address, which may be unaligned and cross from one region into the next.

        `addresses` and results as for `translate`. Raises as `read_u64` does.

        >>> from array import array
        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.write_u64(0x20, 7)
        >>> memory.read_many_u64(array("Q", [0x20, 0x28])).tolist()
        [7, 0]
        """
    def search(
        self,
        needle: Buffer | BytePattern,
        start: _Address = 0,
        end: _Address | None = None,
        *,
        limit: SupportsIndex | None = None,
        align: _Size = 1,
        threads: SupportsIndex | None = None,
        progress: _ProgressFunction | None = None,
    ) -> Iterator[int]:
        r"""The addresses at which `needle` is found, by ascending address: an iterator.

        `needle` is bytes-like or a `BytePattern`. Matches lie whole in `[start, end)`, begin at multiples of `align`, may overlap each
        other and the joints of regions that touch; holes, device regions and what may not be read are skipped. At most `limit` are
        given. Nothing is leased between two matches: the search goes on in the map as it is then. Where matches are rare, `threads`
        threads look ahead, by default as many as help. Looking at memory that no one has written does not allocate it. `progress(p)` is called at most 20 times a second. Raises `InvalidArgument` for an empty
        needle or an `align` of 0; while it is iterated `MemoryFault`, `NotMapped`.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion, BytePattern
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.writev([(0x100, b"\x7fELF\x02"), (0x2000, b"\x7fELF\x01")])
        >>> [hex(addr) for addr in memory.search(b"\x7fELF")], list(memory.search(BytePattern("7f 45 4c 46 01")))
        (['0x100', '0x2000'], [8192])
        """
    def compare(self, addr: _Address, data: Buffer, *, threads: SupportsIndex | None = None) -> int | None:
        """The first address at which the guest's bytes differ from `data`, or `None`.

        Long ranges are looked at by `threads` threads, by default as many as help. Looking at memory that no one has written does not
        allocate it. Raises as `read` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> space.map_memory().compare(0x10, bytes(3) + b"x")
        19
        """
    def hash(
        self,
        addr: _Address,
        size: _Size,
        *,
        algorithm: str = "blake3",
        threads: SupportsIndex | None = None,
        progress: _ProgressFunction | None = None,
    ) -> bytes:
        """A digest of a range: BLAKE3, or any algorithm of `hashlib`.

        BLAKE3 of long ranges is worked out by `threads` threads, by default as many as help. Looking at memory that no one has written
        does not allocate it. `progress(p)` is called at most 20 times a second. Raises as `read` does, `InvalidArgument` for an
        unknown algorithm.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> space.map_memory().hash(0, "4KiB", algorithm="sha256").hex()[:16]
        'ad7facb2586fc6e9'
        """
    def find_zero_pages(
        self, start: _Address = 0, end: _Address | None = None, *, threads: SupportsIndex | None = None
    ) -> tuple[AddressRange, ...]:
        """The guest pages of 4 KiB, whole in one region, that hold nothing but zeroes: a tuple of `AddressRange`, touching ones joined.

        Holes, device regions and what may not be read are skipped; looking at memory that no one has written does not allocate it.
        `end=None` stands for the end of the address space. Long ranges are looked at by `threads` threads, by default as many as help.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "16KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.write_u8(0x1000, 1)
        >>> [str(pages) for pages in memory.find_zero_pages()]
        ['[0x0, 0x1000)', '[0x2000, 0x4000)']
        """
    def hexdump(self, addr: _Address, size: _Size) -> str:
        """A range as people read bytes: sixteen a line, in hexadecimal and as text, equal lines as one `*`.

        A line says where there is nothing to read: a hole, a device region, a protection. Looking at memory that no one has written
        does not allocate it.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> memory.write(0xff0, b"hello, guest")
        >>> print(memory.hexdump(0xff0, 0x20))
        0000000000000ff0  68 65 6c 6c 6f 2c 20 67  75 65 73 74 00 00 00 00  |hello, guest....|
        [0x1000, 0x1010) has nothing to read
        """
    def read_from(self, file: _File | _Readable | _Reader | _Path, addr: _Address, size: _Size | None = None) -> int:
        """Reads `size` bytes of a file or socket straight into guest memory, and returns their number; all that is left of it by default.

        `file` is a path, a descriptor or a file object. The descriptor is used of ints, sockets and what `open()` gives; any other object, such
        as `io.BytesIO` or one that decompresses, is read by its `readinto`, or its `read`, and what that raises comes out. Short reads, signals and
        non-blocking sockets are gone on with, and Ctrl-C ends the wait. A pipe, a socket or another file that does not tell how much is left of it is
        read to its end where `size` is left out, and all memory from `addr` to the next hole is in use meanwhile. Raises `TypeError` for what is not a file,
        `PartialTransfer` with `.done` when the file ends or fails before, or the memory ends before the file; as `write` does, and then nothing was read.

        >>> import tempfile
        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> with tempfile.TemporaryFile() as file:
        ...     _ = file.write(b"kernel"), file.seek(0)
        ...     memory.read_from(file, 0x100, 6)
        6
        >>> memory.read(0x100, 6)
        b'kernel'
        """
    def write_to(self, file: _File | _Writable | _Path, addr: _Address, size: _Size) -> int:
        """Writes `size` bytes of guest memory to a file or socket, and returns `size`.

        As `read_from`, the other way, by the object's `write`; a path is created, or its old bytes go; memory that no one has written is sent as zeroes, and not allocated for it. Raises
        `PartialTransfer` with `.done`; as `read` does, and then nothing was written.

        >>> import tempfile
        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> with tempfile.TemporaryFile() as file:
        ...     _ = space.map_memory().write_to(file, 0, "4KiB")
        ...     file.tell()
        4096
        """
    def load_elf(self, file: _Loadable) -> LoadedElf:
        r"""Loads an ELF program of 32 or 64 bits: each segment at its physical address, zeroes behind its bytes. Returns a `LoadedElf`.

        `file` is a path, what `open()` gives in a binary mode, or the bytes of a file. `.entry` is the physical address to begin at,
        `.segments` are the ranges that were written, `.notes` such as the one with the entry for Xen's boot protocol (`"Xen"`, 18).
        All of it is written, or nothing. Raises `FormatError` for another file, a damaged one and segments that overlap; as `write`
        does where they lie.

        >>> import struct
        >>> from dbs_address_space import AddressSpaceBuilder
        >>> header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, 0xffff8000, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        >>> segment = struct.pack("<IIQQQQQQ", 1, 5, 120, 0xffff8000, 0x8000, 4, 0x100, 0x1000)
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> program = memory.load_elf(header + segment + b"code")
        >>> hex(program.entry), memory.read(program.entry, 5)
        ('0x8000', b'code\x00')
        """
    def load_image(
        self, file: _Loadable, addr: _Address, *, compression: str | None = None, force: bool = False
    ) -> int:
        """Loads all of a file at `addr`, as an initial RAM disk or firmware wants it, and returns the number of bytes written.

        `file` is as for `load_elf`. `compression="gzip"` unpacks it; an image is never unpacked unasked. `force=True` writes through a
        protection, as of `write`. All of it is written, or nothing. Raises as `write` does, and `FormatError` for what can't be unpacked.

        >>> import gzip
        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> memory.load_image(gzip.compress(b"ramdisk"), 0x1000, compression="gzip")
        7
        >>> memory.read(0x1000, 7)
        b'ramdisk'
        """
    def open(self, mode: str = "rb", *, holes: str = "error") -> GuestFile:
        """Guest physical memory as an unbuffered binary file: positions are addresses.

        `mode`: `"rb"`, or `"r+b"` to write too. A read stops short before what can't be read, and raises as `read` does when it begins
        there; with `holes="zero"` holes and device regions read as zeroes. The file ends behind the last region that has
        memory; it holds no region. `io.BufferedReader(memory.open())` makes small reads fast.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0x1000, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> space.map_memory().write(0x1ffc, b"tail")
        >>> with space.memory.open() as file:
        ...     file.seek(-4, 2), file.read(100)
        (8188, b'tail')
        """
    def part(self, addr: _Address, size: _Size) -> MemoryPart:
        """Keeps the bytes of a range, whether regions show them or not: a `MemoryPart`, whose regions show them again, also in another space.

        The range is one of whole pages, and its bytes are those of one memory: regions that were cut from one, and may be inserted at any base.
        Raises `UnmappedAddress`, `NotContiguous` at the first byte of another memory, `Misaligned`, `InvalidAddressRange` for size 0, `Unsupported` for a DAX window and `may_block` memory, and
        `NotMapped`.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> space.memory.write(0, b"kept")
        >>> part = space.memory.part(0, 0x1000)
        >>> with space.transaction() as change:
        ...     _ = change.remove_region(0)
        ...     _ = change.insert_region(part.region(0x8000))
        >>> space.memory.read(0x8000, 4)
        b'kept'
        """
    def aliases(self, addr: _Address, size: _Size) -> tuple[AddressRange, ...]:
        """The other addresses at which bytes of a range are seen, by ascending base: a tuple of `AddressRange`.

        Raises `UnmappedAddress`, `NotMapped`.

        >>> from dbs_address_space import AddressSpaceBuilder, AddressSpaceRegion
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> _ = space.insert_region(AddressSpaceRegion.alias(0x8000_0000, space[0], 0x10000, 0x1000))
        >>> space.memory.aliases(0, "1MiB")
        (AddressRange(base=0x8000_0000, size=0x1000),)
        """
    def pin(self, addr: _Address, size: _Size) -> Pin:
        """Holds a range inside one region, and says where it is on the host: for engines and system calls that need an address.

        A context manager with `.address` and `.size`; the pin vetoes the region's removal until its end. Memory that may fault
        (`mapping(addr).guarded`) is pinned too, for the kernel may be given it; touching it is the caller's risk. A pin of size 0 holds
        nothing, and its address is 0. Raises `UnmappedAddress`, `NotContiguous`, `NotMapped`.

        >>> import ctypes
        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> with space.map_memory().pin(0x10, 4) as pin:
        ...     _ = ctypes.memmove(pin.address, b"ping", pin.size)
        >>> space.memory.read(0x10, 4)
        b'ping'
        """
    def view(self, addr: _Address, size: _Size, *, writable: bool | None = None, unguarded: bool = False) -> memoryview:
        """A `memoryview` of a range inside one region, writable where the region is; it vetoes the region's removal.

        `writable=False` makes it read-only, `writable=True` on read-only memory is `AccessDenied`. A range that crosses a joint of
        two regions is `NotContiguous`. Memory that may fault under a touch (`mapping(addr).guarded`) is `Unsupported` unless
        `unguarded=True`: a fault then kills the process. Raises as `read` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> memory = space.map_memory()
        >>> with memory.view(0x10, 5) as view:
        ...     view[:] = b"hello"
        >>> memory.read(0x10, 5)
        b'hello'
        """
    def slices(
        self, addr: _Address, size: _Size, *, writable: bool | None = None, unguarded: bool = False
    ) -> tuple[memoryview, ...]:
        """A `memoryview` of each region's part of a range, in order: a tuple, for `os.preadv`, `socket.sendmsg` and other vectors.

        All of the range must be there, or nothing is held; else as `view`. The tuple is empty for size 0.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> low, high = AddressSpaceRegion("ram", 0, "4KiB"), AddressSpaceRegion("ram", 0x1000, "4KiB")
        >>> memory = AddressSpace.from_regions([low, high], AddressSpaceLayout(1 << 46, 0, 1 << 45)).map_memory()
        >>> memory.write(0xffe, b"both")
        >>> [bytes(part) for part in memory.slices(0xffe, 4)]
        [b'bo', b'th']
        """
    def array(
        self,
        addr: _Address,
        shape: SupportsIndex | Sequence[SupportsIndex],
        dtype: DTypeLike,
        *,
        strides: Sequence[SupportsIndex] | None = None,
        writable: bool | None = None,
        unguarded: bool = False,
    ) -> NDArray[Any]:
        """A NumPy array over guest memory (the `numpy` extra), of any shape and dtype, structured ones included; strides are in bytes.

        The array is a view, not a copy: it vetoes the region's removal. `writable` and `unguarded` as for `view`, which also says
        what it raises; `ImportError` without NumPy. DLPack is NumPy's: `torch.from_dlpack(array)` shares the memory too.

        >>> import numpy as np
        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> descriptor = np.dtype([("addr", "<u8"), ("len", "<u4"), ("flags", "<u2"), ("next", "<u2")])
        >>> table = space.map_memory().array(0, 16, descriptor)
        >>> table[3] = (0x8000, 512, 1, 4)
        >>> space.memory.unpack(3 * 16, "<QIHH")
        (32768, 512, 1, 4)
        """
    def check_range(self, addr: _Address, size: _Size) -> bool:
        """Whether every byte of a range has memory; protections play no part. `True` for size 0.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> memory.check_range(0, "4MiB"), memory.check_range(0, "5MiB")
        (True, False)
        """
    def host_address(self, addr: _Address) -> int:
        """The host address of a guest physical address, valid until its region is removed: nothing holds it.

        Raises `UnmappedAddress`, `NotMapped`.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> memory.host_address(0x1000) - memory.host_address(0)
        4096
        """
    def guest_address(self, host: _Address) -> int:
        """The lowest guest physical address at which the byte at a host address is seen now: the way back from `host_address`.

        Raises `UnmappedAddress` with the host address where no region shows it, `NotMapped`.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> memory.guest_address(memory.host_address(0x1234)) == 0x1234
        True
        """
    def guest_addresses(self, host: _Address) -> tuple[int, ...]:
        """All guest physical addresses at which the byte at a host address is seen now: an ascending tuple, empty where no region shows it.

        Raises `NotMapped`.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> memory.guest_addresses(memory.host_address(0)), memory.guest_addresses(0)
        ((0,), ())
        """
    @property
    def regions(self) -> tuple[AddressSpaceRegion, ...]:
        """The regions that have memory, by ascending base."""
    def mapping(self, addr: _Address) -> Mapping:
        """The `Mapping` of the region that holds `addr`. Raises `UnmappedAddress`, `NotMapped`.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> memory.mapping(0x1000).base
        0
        """
    def mappings(self) -> tuple[Mapping, ...]:
        """The `Mapping` of every region that has memory, by ascending base. Raises `NotMapped`.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> [mapping.size for mapping in memory.mappings()]
        [4194304]
        """
    def vhost_user_regions(self, *, partial_pages: str = "refuse") -> tuple[VhostUserRegion, ...]:
        """The memory table that a vhost-user back-end is sent: a tuple of `VhostUserRegion`, one a region of RAM.

        `fd` is the mapping's own descriptor, open for as long as the region is mapped; huge pages are guarded from here on.
        Firmware, devices and DAX windows are not in it. RAM that begins or ends inside a page, or whose bytes do in their file, is
        `Misaligned`, or there without such parts with `partial_pages="skip"`. Raises `Unsupported` naming RAM that is private to this process.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> region, = space.map_memory().vhost_user_regions()
        >>> region.guest_phys_addr, region.memory_size, region.mmap_offset
        (0, 1048576, 0)
        """
    @property
    def dirty(self) -> _Dirty:
        """The tracking of writes: `start()` it, and see which sources are `available()`.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> tracker = memory.dirty.start("api")
        >>> tracker.sources
        ('api',)
        """
    def data_ranges(self) -> tuple[AddressRange, ...]:
        """The ranges that have data, ascending: of files what they have, of other memory what this process has pages of, in memory or in swap.

        All others read as zeroes, and nothing is allocated to find out. Raises `Unsupported` for anonymous memory before Linux 6.7.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> memory.write_u8(0x3000, 1)
        >>> [str(data) for data in memory.data_ranges()]
        ['[0x3000, 0x4000)']
        """
    def resident(self) -> tuple[AddressRange, ...]:
        """The ranges that are in memory now, rather than in swap, in a file or nowhere (`mincore(2)`, `PAGEMAP_SCAN`), ascending.

        Raises `Unsupported` for anonymous memory before Linux 6.7.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> memory.fill(0x3000, "8KiB", 1)
        >>> [str(range) for range in memory.resident()]
        ['[0x3000, 0x5000)']
        """
    def checkpoint(
        self,
        *,
        mode: Literal["auto", "pagemap", "kvm", "compare"] = "auto",
        trust: Sequence[str] = (),
        on_restore: Callable[[], object] | None = None,
        progress: _ProgressFunction | None = None,
    ) -> Checkpoint:
        r"""Stores what all memory and the map are, to come back to them with `Checkpoint.restore()` often and fast.

        Pause all writers: virtual CPUs, devices, other threads. It takes about a second for each GiB that is not zero; on top of another
        checkpoint it stores what differs from that. `mode` says how the pages are found that a restore has to put back: `"pagemap"` by the
        kernel (Linux 6.7), `"kvm"` by KVM's log with this package's own writes, `"compare"` by comparing all bytes, whoever wrote them. `"auto"`
        takes the kernel, and compares what that can't watch. A vhost-user back-end writes unseen: beside one, only `mode="compare"`, or
        `trust=("vhost-user",)` for one that does not write; `"share"` stands for followers that may write, and `"leader"` for all other
        processes of a follower. `on_restore()` is called after each restore, to put registers back.

        Raises `Unsupported` for memory that the mode can't watch, `MemoryFault`, `NotMapped`, and `MemoryError` or `BackingError` where there is
        no room. What `progress(p)` raises, and Ctrl-C, ends it, and nothing is kept.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> point = memory.checkpoint()
        >>> memory.fill(0x1000, "1MiB", 0xff)
        >>> point.restore(), memory.read(0x1000, 2)
        (256, b'\x00\x00')
        """
    def _key(self, region: _Target) -> _RegionKey: ...
    def _discard_part(self, region: _RegionKey, offset: _Size, size: _Size) -> None: ...
    def _fill_part(self, region: _RegionKey, offset: _Size, size: _Size) -> None: ...
    @overload
    def prealloc(
        self,
        region: _Target | None = None,
        *,
        threads: SupportsIndex | None = None,
        progress: _ProgressFunction | None = None,
        background: Literal[False] = False,
    ) -> PreallocReport:
        """Sees to it that every page of all regions, or of one (exact base, name or region), is there, and returns a `PreallocReport`.

        Works in `threads` threads, by default as many as there are CPUs, up to 16 and one for each 16 MiB, near the NUMA nodes of
        the region. Present pages stay unchanged. `progress(p)` has bytes done and total and bytes a second; raising, and Ctrl-C, ends it
        within a moment. With `background` it returns a `PreallocHandle` at once; the memory stays until that has ended, even
        when the space is gone. Regions are leased meanwhile, so that removing one is `RegionBusy`.

        Raises `HugePagesShort` with the pages that are missing, `BackingError`. Populated pages stay, for they may be in use.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory.prealloc().size
        4194304
        """
    @overload
    def prealloc(
        self,
        region: _Target | None = None,
        *,
        threads: SupportsIndex | None = None,
        progress: None = None,
        background: Literal[True],
    ) -> PreallocHandle:
        """Sees to it that every page of all regions, or of one (exact base, name or region), is there, and returns a `PreallocReport`.

        Works in `threads` threads, by default as many as there are CPUs, up to 16 and one for each 16 MiB, near the NUMA nodes of
        the region. Present pages stay unchanged. `progress(p)` has bytes done and total and bytes a second; raising, and Ctrl-C, ends it
        within a moment. With `background` it returns a `PreallocHandle` at once; the memory stays until that has ended, even
        when the space is gone. Regions are leased meanwhile, so that removing one is `RegionBusy`.

        Raises `HugePagesShort` with the pages that are missing, `BackingError`. Populated pages stay, for they may be in use.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory.prealloc().size
        4194304
        """
    def effective(self, region: _Target | None = None) -> tuple[EffectiveBacking, ...]:
        """The memory really given to each region, or one: a tuple of `EffectiveBacking`, read back from the kernel.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"], mem_prealloc=True).build().memory
        >>> memory.effective()[0].resident
        4194304
        """
    def verify_placement(self, region: _Target | None = None) -> tuple[Placement, ...]:
        """Where the pages of each region, or of one, are, against the NUMA policy that was asked for: a tuple of `NumaPlacement`.

        Up to 1,024 pages of each region, evenly spread, are looked at (`move_pages(2)`); none is moved or touched.

        >>> from dbs_address_space import AddressSpaceBuilder, NumaRegionInfo
        >>> memory = AddressSpaceBuilder(numa_regions=[NumaRegionInfo("4MiB", 0)], mem_prealloc=True).build().memory
        >>> memory.verify_placement()[0].misplaced
        0
        """
    def discard(self, addr: _Address, size: _Size) -> None:
        r"""Gives whole pages back to the host, the right way for each backing; afterwards they read as zero.

        A file, the user's too, gets a hole where the region lies in it, and zeroes where the region has part of a page. A region may end inside a
        page; any other part of a page is `Misaligned`. Raises `UnmappedAddress`, `RegionBusy` for huge pages that a view holds, `BackingError`,
        `Unsupported`. A range is discarded part by part; Ctrl-C ends it midway.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> memory.fill(0, 8192, 1)
        >>> memory.discard(4096, 4096)
        >>> memory.read(4095, 2)
        b'\x01\x00'
        """
    def _write_sparse(
        self,
        fd: int,
        path: str,
        places: Sequence[tuple[int, int, int]],
        threads: SupportsIndex | None,
        progress: _ProgressFunction | None,
    ) -> None: ...
    def _save(
        self,
        path: str,
        describe: Callable[[AddressSpaceBase, Sequence[tuple[int, int, bytes]], Sequence[tuple[int, int, int]]], bytes],
        blobs: bytes,
        *,
        parent: _Image | None,
        known: Sequence[tuple[int, int, bytes, int | None]],
        dirty: DirtyPages | None,
        sync: bool,
        check: bool,
        threads: SupportsIndex | None,
        progress: _ProgressFunction | None,
    ) -> None: ...
    def send(
        self,
        sock: _File,
        *,
        max_downtime: float = 0.3,
        max_passes: SupportsIndex = 30,
        stop: Callable[[], dict[str, bytes] | None] | None = None,
        blobs: dict[str, bytes] | None = None,
        rate: _Size | None = None,
        timeout: float | None = 30.0,
        trust: Sequence[str] = (),
        progress: Callable[[SendProgress], object] | None = None,
    ) -> SendReport:
        """Sends the map and all memory over a connected stream socket, while the guest runs, to `GuestMemory.receive`: a `SendReport`.

        A first pass sends all that is not zero, each further one what was written meanwhile. When what is left would take no more than
        `max_downtime` seconds, `stop()` is called: it pauses the guest and whoever else writes, and may return blobs, as a dict of bytes by
        their names, such as registers. The rest is sent, and the call returns once the receiver has published all: the guest then runs there.
        Without `stop` it ends with a pass that nobody wrote behind. After `max_passes` without that it gives up: `converged` is false,
        `stop()` was not called, and the guest runs on.

        `sock` is an int or anything with `fileno()`; it stays the caller's. `blobs` are sent first; those of `stop()` replace them by name.
        `rate` bytes a second are sent at most before `stop()`. The other side may be silent for `timeout` seconds (`None`: for ever).
        `trust` is that of `dirty.start`. `progress(p)` is called with a `SendProgress`. Regions can't be removed meanwhile; a map that
        changes is `GenerationChanged`.

        What `stop` or `progress` raises, and Ctrl-C, ends it. Whatever it raises, the memory, its dirty pages for others and the guest are as
        they were, the receiver publishes nothing, and the socket is shut down; an exception behind `stop()` has a note. Raises
        `ImageError` when the receiver refuses, or memory is written behind `stop()`; `PartialTransfer` when the connection fails or is silent;
        `Unsupported` beside writers that nobody sees; `AccessDenied`, `NotMapped`, `InvalidArgument` for a socket of another kind.

        >>> import socket, threading
        >>> from dbs_address_space import AddressSpace, AddressSpaceBuilder, GuestMemory
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> space.memory.write(0x1000, b"hello")
        >>> ours, theirs = socket.socketpair()
        >>> there = AddressSpace(space.layout)
        >>> receiver = threading.Thread(target=GuestMemory.receive, args=(theirs, there))
        >>> receiver.start()
        >>> report = space.memory.send(ours, stop=lambda: {"vcpu0": b"registers"})
        >>> receiver.join()
        >>> report.converged, report.passes, there.memory.read(0x1000, 5)
        (True, 1, b'hello')
        >>> ours.close(), theirs.close()
        (None, None)
        """
    @staticmethod
    def receive(
        sock: _File,
        space: AddressSpace,
        *,
        timeout: float | None = 30.0,
        progress: _ProgressFunction | None = None,
    ) -> ReceiveReport:
        """Receives what `send` sends, into a space without regions: a `ReceiveReport`.

        The regions and their memory are published in `space` as one change, of which its clients are asked, and only when all has come
        and the digest of the memory is that of what was sent: `space.memory` is there then. The space has the layout of the one that is
        sent, and stays as it is until then. Regions over a user's file or buffer have memory of their own here. `sock` is a
        connected stream socket, an int or anything with `fileno()`, which stays the caller's; the other side may be silent for `timeout` seconds (`None`:
        for ever), which has to be longer than its `stop()` takes.

        Whatever it raises, nothing is published, the sender hears why, and the socket is shut down. Raises `ImageCorrupt` for a stream that
        is damaged, ends early or was never one, with `.chunk`; `ImageMismatch` for another layout or architecture, `ImageTooNew`;
        `ImageError` when the sender gives up; `PartialTransfer` when the connection fails or is silent; `GenerationChanged` when the space
        has changed meanwhile; `InvalidArgument` for a space with regions; as `map_memory()` and `insert_region` do.

        >>> import socket, threading
        >>> from dbs_address_space import AddressSpace, AddressSpaceBuilder, GuestMemory
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> ours, theirs = socket.socketpair()
        >>> sender = threading.Thread(target=space.memory.send, args=(ours,), kwargs={"blobs": {"vcpu0": b"registers"}})
        >>> sender.start()
        >>> there = AddressSpace(space.layout)
        >>> GuestMemory.receive(theirs, there).blobs
        {'vcpu0': b'registers'}
        >>> sender.join()
        >>> there["ram0"].size, there.is_mapped
        (4194304, True)
        >>> ours.close(), theirs.close()
        (None, None)
        """
    def _sender(
        self,
        sock: _File,
        timeout: float | None,
        describe: Callable[[AddressSpaceBase, Sequence[tuple[int, int, bytes]], Sequence[tuple[int, int, int]]], bytes],
    ) -> _StreamSender: ...
    def _receive(
        self,
        receiver: _StreamReceiver,
        places: Sequence[tuple[int, int, bytes | None]],
        progress: _ProgressFunction | None,
    ) -> None: ...
    def _fill(
        self,
        image: _Image | None,
        places: Sequence[tuple[int, int, bytes | None]],
        threads: SupportsIndex | None,
        progress: _ProgressFunction | None,
    ) -> None: ...
    def dax_window(self, region: _Target) -> DaxWindow:
        """The `DaxWindow` of a DAX region, given by exact base, name or region.

        Raises `UnmappedAddress`, `InvalidAddressRange` for another region.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"], dax_window="2MiB").build().memory
        >>> memory.dax_window("dax0").mappings
        ()
        """
    def close(self, *, timeout: float | None = 0.0) -> None:
        """Unmaps everything; the space stays as a map, and `map_memory()` then makes new memory. Closing twice does nothing.

        A region that views, arrays or long accesses hold is `RegionBusy`, at once or after `timeout` seconds (`None`: never); then nothing is
        unmapped.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> space.memory.close()
        >>> space.is_mapped
        False
        """
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> Literal[False]: ...
    def __reduce__(self) -> NoReturn: ...

@final
class BytePattern:
    """Bytes to search for, of which some nibbles may be anything: hexadecimal digits and `?`, with or without spaces.

    `len()` is the number of bytes. Raises `InvalidArgument` for another text, and when no digit is fixed.

    >>> from dbs_address_space import BytePattern
    >>> BytePattern("488b??c?")
    BytePattern('48 8b ?? c?')
    """
    def __new__(cls, text: str) -> Self: ...
    def __len__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __getnewargs__(self) -> tuple[str]: ...

@final
class MemoryPart:
    """Bytes of a guest's memory that stay for as long as this is kept, whether a region shows them or not.

    Made by `GuestMemory.part`. Its regions are windows on those bytes, in the same space or in another; without one the bytes are seen by nobody. Used
    in `with`, or closed, it lets go of them: what no region shows then is gone. It vetoes nothing.

    >>> from dbs_address_space import AddressSpaceBuilder
    >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
    >>> space.memory.write(0xf0000, b"RAM")
    >>> part = space.memory.part(0xf0000, 0x10000)
    >>> _ = space.insert_region(part.region(1 << 32, prot_flags="r-x", name="copy"))
    >>> space.memory.read(1 << 32, 3)
    b'RAM'
    """
    @property
    def size(self) -> int:
        """The number of bytes."""
    def region(
        self,
        base: _Address,
        offset: _Size = 0,
        size: _Size | None = None,
        *,
        prot_flags: _Protection | None = None,
        name: str | None = None,
        region_type: _RegionType | None = None,
    ) -> AddressSpaceRegion:
        """A region at a base that shows `size` bytes of the part from `offset` on, or all of the rest.

        `offset` is a multiple of the page size. Protection and type are those of the region that the part was taken from when they are not given; the
        type is RAM or firmware. It can be inserted while the part is kept, and later as long as some region shows the bytes; then the insertion
        raises `UnmappedAddress`. Raises `InvalidAddressRange`, and `InvalidArgument` when the part is closed.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> memory.part(0, "64KiB").region(0xf_0000_0000, 0x1000, name="window")
        AddressSpaceRegion('window' DEFAULT_MEMORY [0xf_0000_0000, 0xf_0000_f000) 60 KiB rw- shmem)
        """
    def close(self) -> None:
        """Lets go of the bytes, as the end of a `with` does; to close it twice does nothing.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> part = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory.part(0, 0x1000)
        >>> part.close()
        >>> part
        MemoryPart(closed)
        """
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> Literal[False]: ...
    def __reduce__(self) -> NoReturn: ...

@final
class Pin:
    """A range of guest memory that stays at its host address until the pin ends. Made by `GuestMemory.pin`; used in `with`.

    >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    >>> with space.map_memory().pin(0x10, 8) as pin:
    ...     pin.size, pin.address == space.memory.host_address(0x10)
    (8, True)
    """
    @property
    def address(self) -> int:
        """The host address of the first byte; raises `InvalidArgument`, a `ValueError`, when the pin has ended."""
    @property
    def size(self) -> int:
        """The number of bytes."""
    def release(self) -> None:
        """Ends the pin, as the end of a `with` does; ending it twice does nothing.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> pin = memory.pin(0, 8)
        >>> pin.release()
        >>> pin
        Pin(ended)
        """
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> Literal[False]: ...
    def __reduce__(self) -> NoReturn: ...

@final
class Mapping:
    """Where a region's memory is in this process: a value that keeps nothing alive.

    Made by `GuestMemory.mapping(addr)` and `mappings()`.

    >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "4KiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    >>> mapping = space.map_memory().mapping(0)
    >>> mapping.page_size, mapping.guarded
    (4096, False)
    """
    @property
    def region(self) -> AddressSpaceRegion:
        """The region."""
    @property
    def base(self) -> int:
        """The region's first guest physical address."""
    @property
    def size(self) -> int:
        """The number of bytes."""
    @property
    def host_address(self) -> int:
        """The host address of the first byte."""
    @property
    def fd(self) -> int | None:
        """The mapping's own descriptor, borrowed: open as long as the region is mapped; `None` for anonymous memory.

        Reading it makes huge-page memory guarded, for whoever has the descriptor can take pages away: a view taken before
        can then kill the process. Raises `NotMapped` when the region is gone.
        """
    @property
    def file_offset(self) -> int | None:
        """Where in the file the region begins; `None` for anonymous memory."""
    @property
    def storage(self) -> int:
        """A number that tells the bytes from all others of this process: mappings that share it are windows on one memory.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> space = AddressSpaceBuilder(numa_regions=["4MiB"]).build()
        >>> _ = space.split_region(0, 1 << 20)
        >>> low, high = space.memory.mappings()
        >>> low.storage == high.storage, high.storage_offset
        (True, 1048576)
        """
    @property
    def storage_offset(self) -> int:
        """Where in those bytes the region begins."""
    @property
    def prot_flags(self) -> Prot:
        """The protection, a `Prot`."""
    @property
    def guarded(self) -> bool:
        """Whether accesses go through the kernel, because a touch may fault."""
    @property
    def guarded_because(self) -> str | None:
        """Why accesses go through the kernel, and what to do about it, as a sentence; `None` where they don't.

        It is why views, arrays and atomics are refused here, and what their errors say.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion, BackingOptions
        >>> region = AddressSpaceRegion("ram", 0, "4KiB", backing=BackingOptions(seals=[]))
        >>> space = AddressSpace.from_regions([region], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> print(space.map_memory().mapping(0).guarded_because)
        its file can be cut: seal it with F_ADD_SEALS F_SEAL_SHRINK before it is mapped, or vouch for it with trusted=True
        """
    @property
    def page_size(self) -> int:
        """Bytes a page."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> NoReturn: ...

@final
class NumaNodeInfo:
    """A range of guest physical memory that belongs to a NUMA node.

    Raises `InvalidAddressRange`.

    >>> from dbs_address_space import NumaNodeInfo
    >>> NumaNodeInfo(0, "1GiB").size
    1073741824
    """

    __match_args__: Final = ("base", "size")
    def __new__(cls, base: _Address, size: _Size) -> Self: ...
    @property
    def base(self) -> int:
        """The first address."""
    @property
    def size(self) -> int:
        """The number of bytes."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __getnewargs__(self) -> tuple[int, int]: ...

@final
class NumaNode:
    """A guest's NUMA node: its memory, its vCPUs and its generic initiators, in the order given. A value: `add_*` give a new one.

    `generic_initiators` are PCI devices that access memory as processors do, texts such as `"0000:01:00.0"`. Raises
    `InvalidArgument` for other texts.

    >>> from dbs_address_space import NumaNode, NumaNodeInfo
    >>> NumaNode().add_info(NumaNodeInfo(0, "1GiB")).add_vcpu_ids([0, 1]).vcpu_ids
    (0, 1)
    """

    __match_args__: Final = ("region_infos", "vcpu_ids")
    def __new__(
        cls,
        region_infos: Iterable[NumaNodeInfo] = (),
        vcpu_ids: Iterable[SupportsIndex] = (),
        *,
        hotplug_infos: Iterable[NumaNodeInfo] = (),
        generic_initiators: Iterable[str] = (),
    ) -> Self: ...
    @property
    def generic_initiators(self) -> tuple[str, ...]:
        """The PCI devices that access memory as processors do, a tuple of texts such as `"0000:01:00.0"`."""
    @property
    def hotplug_infos(self) -> tuple[NumaNodeInfo, ...]:
        """The addresses for memory that is plugged into it later, a tuple of `NumaNodeInfo`."""
    @property
    def region_infos(self) -> tuple[NumaNodeInfo, ...]:
        """The memory ranges, a tuple of `NumaNodeInfo`."""
    @property
    def vcpu_ids(self) -> tuple[int, ...]:
        """The vCPU ids."""
    def add_info(self, info: NumaNodeInfo) -> NumaNode:
        """A node with one memory range more.

        >>> from dbs_address_space import NumaNode, NumaNodeInfo
        >>> NumaNode().add_info(NumaNodeInfo(0, "1GiB")).region_infos
        (NumaNodeInfo(base=0x0, size=0x4000_0000),)
        """
    def add_vcpu_ids(self, vcpu_ids: Iterable[SupportsIndex]) -> NumaNode:
        """A node with more vCPUs.

        >>> from dbs_address_space import NumaNode
        >>> NumaNode(vcpu_ids=[0]).add_vcpu_ids([1, 2]).vcpu_ids
        (0, 1, 2)
        """
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __getnewargs_ex__(self) -> tuple[tuple[tuple[NumaNodeInfo, ...], tuple[int, ...]], dict[str, Any]]: ...

@final
class NumaIdTable:
    """NUMA node ids of memory devices and of vCPUs, in their order.

    >>> from dbs_address_space import NumaIdTable
    >>> NumaIdTable(memory=[0, 1]).memory
    (0, 1)
    """

    __match_args__: Final = ("memory", "cpu")
    def __new__(cls, memory: Iterable[SupportsIndex] = (), cpu: Iterable[SupportsIndex] = ()) -> Self: ...
    @property
    def memory(self) -> tuple[int, ...]:
        """The node ids of the memory devices."""
    @property
    def cpu(self) -> tuple[int, ...]:
        """The node ids of the vCPUs."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __getnewargs__(self) -> tuple[tuple[int, ...], tuple[int, ...]]: ...

@disjoint_base
class Attachment:
    """Something that follows an address space until `detach()`; also a context manager that detaches it.

    Every `attach_*` verb and `subscribe` return one, and `AddressSpace.clients` lists those that are attached. It keeps its space and
    the memory until it is detached; dropping it detaches nothing. It also ends when what it follows is gone: a device's handler with
    its region. One that fails after a change was published is over as well, and keeps what it holds until `detach()`.

    >>> from dbs_address_space import AddressSpace, AddressSpaceLayout
    >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
    >>> with space.subscribe(print) as attachment:
    ...     attachment.is_attached, space.clients == (attachment,)
    (True, True)
    >>> attachment.is_attached, space.clients
    (False, ())
    """
    @property
    def is_attached(self) -> bool:
        """Whether it follows the space: neither detached nor over for another reason."""
    @property
    def error(self) -> BaseException | None:
        """The exception that ended the attachment, such as a `ClientError` or `BackingError`; `None` as long as all is well.

        It is what `commit` or `rollback` raised, where nothing can be undone any more: the change was made all the same.
        `sys.unraisablehook` was told of it too.
        """
    def detach(self) -> None:
        """Ends the attachment and leaves no trace of it; doing it twice does nothing.

        Waits for the writers' turn. Called inside a client's phase, it takes effect when the change under way is decided: until then
        the client is asked and told, and an error of its leaving is in `error`. Otherwise such an error is raised, and it is detached all
        the same. Raises `ForkedProcess` in a forked child.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout
        >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> attachment = space.subscribe(print)
        >>> attachment.detach()
        >>> attachment
        Subscription("print", detached)
        """
    def close(self) -> None:
        """The same as `detach`.

        >>> from contextlib import closing
        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout
        >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> with closing(space.subscribe(print)) as attachment:
        ...     attachment.is_attached
        True
        """
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> Literal[False]: ...

@final
class Subscription(Attachment):
    """The attachment of a client or callable of yours, made by `AddressSpace.subscribe()`.

    >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
    >>> with space.subscribe(lambda change: print(change)) as subscription:
    ...     _ = space.insert_region(AddressSpaceRegion("ram", 0, "1MiB"))
    + AddressSpaceRegion(DEFAULT_MEMORY [0x0, 0x10_0000) 1 MiB rw- shmem)
    >>> subscription.error, space.clients
    (None, ())
    """
    @property
    def client(self) -> Any:
        """The client or callable that was given to `subscribe()`; `None` once it is detached."""
    def fileno(self) -> int:
        """A descriptor that is readable once a change was committed since it was last read, for `select`, `poll` and asyncio.

        An eventfd: `os.eventfd_read` gives how many. It belongs to the subscription, which closes it when it is detached; from then
        on this raises `InvalidArgument`.

        >>> import os
        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> subscription = space.subscribe(lambda change: None)
        >>> descriptor = subscription.fileno()
        >>> _ = space.insert_region(AddressSpaceRegion("ram", 0, "1MiB"))
        >>> os.eventfd_read(descriptor)
        1
        """

@final
class KvmSlots(Attachment):
    """The memory slots of a KVM virtual machine that follows an address space: the `Attachment` that `AddressSpace.attach_kvm()` makes.

    RAM, firmware and DAX windows have slots; regions side by side that show the bytes of one memory share one, so that a region which is cut, joined or
    renamed costs KVM nothing, and one that moves to a free range takes its slot and its dirty log along. Read-only regions are read-only to the guest, whose writes there are exits, as are
    all its accesses to devices and holes. `detach()` deletes every slot and raises `BackingError` when KVM refuses to delete one: its
    memory then stays mapped, and the others are gone all the same. `error` is about such a slot too, when its region was removed. The
    virtual machine stays its owner's. Verbs of a detached one raise `InvalidArgument`.

    **Pause the guest's processors**, or give `quiesce`, around a transaction that removes a region and inserts another over the same addresses, and
    around a change that makes part of a slot read-only or writable, or cuts part of it off: KVM has the old slot deleted first, and for that moment the
    guest finds nothing there. A guest that fetches code there is dead. Every other change is safe while they run; `windows` counts those moments.
    """
    @property
    def base_to_slot(self) -> dict[int, int]:
        """The slot number of each region, by its base: a dict, made at each call."""
    @property
    def left_out(self) -> tuple[AddressRange, ...]:
        """The memory that the guest is not shown: a tuple of `AddressRange`, ascending, made at each call.

        With `partial_pages="skip"` these are the parts of regions that do not fill a page; otherwise there are none.
        """
    @property
    def windows(self) -> int:
        """How often a slot made way for others, so that the guest found nothing for a moment where memory was and is.

        A change that leaves it as it was is safe under running processors. Raises `InvalidArgument` once it is detached.
        """
    def slot_of(self, region: _Target) -> int:
        """The slot number of a region, of several that of its first byte; raises `UnmappedAddress` when it has none."""
    def dirty_log(self, *, region: _Target | None = None, clear: bool = True) -> DirtyPages:
        """The pages that the guest wrote since they were last cleared, in `region` or in all regions that are logged: `DirtyPages`.

        With `clear` they count as clean from here on. Writes of this process are not among them: KVM sees the guest's only.
        Raises `Unsupported` for a region whose log is off, `UnmappedAddress` for one without a slot.
        """
    def clear_dirty_log(self, pages: DirtyPages) -> None:
        """Marks pages that `dirty_log(clear=False)` gave as clean.

        With `manual_clear` only these pages are write-protected again, in units that KVM accepts, and no other page is touched.
        """
    def set_dirty_log(self, region: _Target, on: bool) -> None:
        """Switches the log of a region, while the guest runs; switching it off forgets what was logged. A slot that shows others too is cut, as if it
        were protected. Waits for a change under way; in a client's phase it raises `ReentrantChange`.
        """
    def set_private(self, addr: _Address, size: _Size, private: bool = True) -> None:
        """Makes `[addr, addr + size)` private to the guest, its pages then coming from the guest_memfd, or shared again.

        Raises `Unsupported` where KVM has no private memory for this type of virtual machine, `BackingError` when it refuses.
        """

@final
class Share(Attachment):
    """The followers of a space, which show its memory in their own processes: the `Attachment` that `AddressSpace.share()` makes.

    Every change of the space is asked of all followers at once, and is published only when all are ready: when `insert_region` has
    returned, every follower shows the region, and when `remove_region` has, no follower touches its memory any more. A view, array or pin
    of a follower on what leaves is `RegionBusy`, with its process in `Lease.pid`. A follower that has ended is in nobody's way; one that is
    silent for longer than the `timeout` is `ClientError`, until it answers again or is dropped. `detach()` lets all followers go: they
    keep what they have, and follow no more. A memory that is closed is closed in them too, and comes back when it is mapped again.
    """
    @property
    def followers(self) -> tuple[Follower, ...]:
        """The followers, in the order in which they came: a tuple of `Follower`."""
    @property
    def error(self) -> BaseException | None:
        """The exception that ended the attachment, as in `Attachment`; or the `ShareError` of the last follower that was let go because it
        did not follow a change that was published.
        """
    def drop(self, pid: SupportsIndex) -> None:
        """Lets the followers of a process go: they keep what they have, and follow no more. Raises `InvalidArgument` when there is none."""

@final
class VhostUserClient(Attachment):
    """A vhost-user back-end whose memory table follows an address space: the `Attachment` that `AddressSpace.attach_vhost_user()` makes.

    It has the front-end's end of the socket: the rest of the conversation, such as the features and the rings, goes through `send` and
    `ask`, so that messages never mix. `detach()` takes all memory from the back-end, whose rings must have been stopped, and raises
    `BackingError` when the back-end refuses, or leaves a message unanswered for more than a second; it is detached all the same. The socket
    stays its owner's.
    """
    @property
    def features(self) -> int:
        """The virtio features that the back-end offers, with `VHOST_USER_F_PROTOCOL_FEATURES` in bit 30."""
    @property
    def protocol_features(self) -> int:
        """The features of the protocol that are in use."""
    @property
    def max_regions(self) -> int:
        """How many regions of memory the back-end takes."""
    @property
    def table(self) -> tuple[VhostUserRegion, ...]:
        """The regions that the back-end was shown: a tuple of `VhostUserRegion` by ascending address."""
    @property
    def left_out(self) -> tuple[AddressRange, ...]:
        """The RAM that the back-end is not shown: a tuple of `AddressRange`, ascending, made at each call.

        With `partial_pages="skip"` these are the parts of regions that do not fill a page; otherwise there are none.
        """
    def send(self, request: SupportsIndex, payload: bytes = b"", *, fds: Sequence[SupportsIndex] = ()) -> None:
        """Sends a message that has no reply, with descriptors beside it, and returns once the back-end has taken it.

        `request` is its number in the protocol, `payload` the bytes after the header. Raises `BackingError` when the back-end refuses,
        does not answer in time or is gone, `InvalidArgument` once it is detached, `ReentrantChange` in a signal handler that runs while
        another message is waited for.
        """
    def ask(self, request: SupportsIndex, payload: bytes = b"", *, fds: Sequence[SupportsIndex] = ()) -> bytes:
        """Sends a message that has a reply, and returns the reply's payload. Raises as `send` does."""

@final
class _Pieces:
    def __new__(cls, pieces: Iterable[tuple[int, int, int | None]], file_size: int, partial: bool) -> Self: ...
    @staticmethod
    def of_elf(table: bytes, stride: int, file_size: int, partial: bool) -> _Pieces: ...
    @staticmethod
    def of_lime(fd: int, file_size: int, partial: bool) -> _Pieces: ...
    @staticmethod
    def of_bitmap(bitmap: bytes, count: int, page_size: int, offset: int, file_size: int, partial: bool) -> _Pieces: ...
    @staticmethod
    def of_table(table: bytes, row: int, page_size: int, offset: int, file_size: int, partial: bool) -> _Pieces: ...
    @staticmethod
    def of_kdump(there: bytes, stored: bytes, count: int, page_size: int) -> _Pieces: ...
    def __len__(self) -> int: ...
    def all(self) -> tuple[tuple[int, int, int | None], ...]: ...
    def regions(self, most: int, zero: bool) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]: ...
    def reader(self, fd: int, zero: bool) -> _DumpReader: ...

@final
class _NewFile:
    def __new__(cls, path: str) -> Self: ...
    def fileno(self) -> int: ...
    def publish(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

@final
class _DumpReader:
    @staticmethod
    def of_kdump(
        fd: int, pieces: _Pieces, block: int, stored: bytes, descriptors_at: int, zero: bool
    ) -> _DumpReader: ...
    @staticmethod
    def of_avml(fd: int, file_size: int, partial: bool) -> tuple[_DumpReader, _Pieces]: ...
    def region(self, base: int, size: int) -> AddressSpaceRegion: ...
    def copy_to(self, fd: int, pieces: _Pieces, partial: bool, zero: bool) -> _Pieces: ...

@final
class _ImagePart:
    def __new__(cls, path: str | PathLike[str]) -> Self: ...
    @property
    def digest(self) -> bytes: ...
    @property
    def content(self) -> bytes: ...
    @property
    def parent(self) -> bytes | None: ...
    @property
    def json(self) -> bytes: ...
    @property
    def data_size(self) -> int: ...
    @property
    def room(self) -> int: ...
    @property
    def data_offset(self) -> int: ...
    @property
    def machine(self) -> int: ...
    @property
    def is_of_this_machine(self) -> bool: ...
    @property
    def generation(self) -> int: ...
    @property
    def is_watched(self) -> bool: ...
    def fileno(self) -> int: ...
    def corrupt(self, message: str) -> ImageCorrupt: ...
    def mismatch(self, message: str) -> ImageMismatch: ...
    def blob(self, offset: int, size: int) -> bytes | None: ...

@final
class _Image:
    def __new__(cls, newest: _ImagePart, older: Sequence[_ImagePart]) -> Self: ...
    @staticmethod
    def digest(data: bytes) -> bytes: ...
    def verify(self, threads: SupportsIndex | None, progress: _ProgressFunction | None) -> None: ...
    def merge(
        self, path: str, sync: bool, threads: SupportsIndex | None, progress: _ProgressFunction | None
    ) -> None: ...
    def serve(
        self,
        userfault: int,
        row: Sequence[tuple[int, int]],
        mappings: Sequence[tuple[int, int, int, int]],
        rate: int | None,
        timeout: float | None,
    ) -> RestoreStats: ...

@final
class _StreamSender:
    def send(
        self, pages: DirtyPages | None, rate: int | None, progress: Callable[[Progress], object] | None
    ) -> None: ...
    def blob(self, name: str, content: bytes) -> None: ...
    def check_map(self) -> None: ...
    def finish(self) -> bytes: ...
    def give_up(self, why: str) -> None: ...
    @property
    def moved(self) -> int: ...
    def close(self, is_whole: bool) -> None: ...

@final
class _StreamReceiver:
    def __new__(cls, sock: _File, timeout: float | None) -> Self: ...
    @property
    def json(self) -> bytes: ...
    @property
    def room(self) -> int: ...
    @property
    def moved(self) -> int: ...
    @property
    def content(self) -> bytes: ...
    @property
    def passes(self) -> int: ...
    @property
    def blobs(self) -> list[tuple[bytes, bytes]]: ...
    @staticmethod
    def corrupt(message: str) -> ImageCorrupt: ...
    @staticmethod
    def mismatch(message: str) -> ImageMismatch: ...
    @staticmethod
    def decline(sock: _File, timeout: float | None, why: str) -> None: ...
    def refuse(self, why: str) -> None: ...

_TrackingMode: TypeAlias = Literal["auto", "pagemap", "kvm", "api"]

@final
class _Dirty:
    def start(
        self,
        mode: _TrackingMode = "auto",
        *,
        exact: bool = False,
        page_size: _Size | None = None,
        trust: Sequence[str] = (),
    ) -> DirtyTracker: ...
    def available(self) -> dict[str, str | None]: ...

@final
class DirtyTracker:
    """Finds the pages that were written since it was started, or since they were collected; used in `with`, it stops.

    Made by `GuestMemory.dirty.start`. It keeps nothing in the space: what is unplugged leaves its set, what is plugged counts as written
    where it has data. After `GuestMemory.close()` it raises `NotMapped`, and `ForkedProcess` in a forked child.

    >>> from dbs_address_space import AddressSpaceBuilder
    >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    >>> tracker = memory.dirty.start("api")
    >>> memory.fill(0x3000, "8KiB", 0xff)
    >>> tracker.collect().count, tracker.collect().count
    (2, 0)
    >>> tracker.stop()
    """
    def collect(self) -> DirtyPages:
        """The pages that were written since the last time; from here on a new write is found again. What is read behind this call has all of them.

        When it raises, no page is lost: the next call finds them. A tracker that was stopped raises `InvalidArgument`.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> with memory.dirty.start("api") as tracker:
        ...     memory.write_u64(0x5008, 1)
        ...     0x5000 in tracker.collect()
        True
        """
    def peek(self) -> DirtyPages:
        """The same, and keeps them for the next `collect()`.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> with memory.dirty.start("api") as tracker:
        ...     memory.write_u64(0x5008, 1)
        ...     tracker.peek().count, tracker.collect().count
        (1, 1)
        """
    def wait(
        self, addr: _Address, size: _Size, *, timeout: float | None = None, poll: float = 0.001
    ) -> Coroutine[Any, Any, DirtyPages]:
        """`peek()` for asyncio, once a page of a range was written: a coroutine that waits for it, and gives the written pages of the range.

        It looks every `poll` seconds at what is followed, and after `timeout` seconds (`None`: never) gives none. Cancelling it
        ends the wait; stopping the tracker does, as `InvalidArgument`.
        Raises what `peek()` raises, and `InvalidAddressRange`.

        >>> import asyncio
        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> async def main():
        ...     with memory.dirty.start("api") as tracker:
        ...         waiter = asyncio.create_task(tracker.wait(0x5000, "8KiB"))
        ...         await asyncio.sleep(0)
        ...         memory.write_u8(0x6001, 1)
        ...         return [str(pages) for pages in await waiter]
        >>> asyncio.run(main())
        ['[0x6000, 0x7000)']
        """
    def put_back(self, pages: DirtyPages) -> None:
        """Gives pages back that could not be used, such as those of a backup that failed: the next `collect()` finds them again.

        >>> from dbs_address_space import AddressSpaceBuilder, DirtyPages
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> with memory.dirty.start("api") as tracker:
        ...     tracker.put_back(DirtyPages([(0x2000, 0x1000)]))
        ...     tracker.collect().count
        1
        """
    def stop(self) -> None:
        """Ends it; a second time does nothing. From then on `collect`, `peek` and `put_back` raise `InvalidArgument`.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory.dirty.start("api").stop()
        """
    @property
    def sources(self) -> tuple[str, ...]:
        """The observers of the writes, a sorted tuple: `"api"`, `"kvm"`, `"pagemap"`."""
    @property
    def blind_to(self) -> frozenset[str]:
        """Writers whom none of the sources sees."""
    @property
    def is_exact(self) -> bool:
        """Whether the pages that are found are those that were written by whom the sources see, none less and none more."""
    @property
    def generation(self) -> int:
        """The generation of the map that the last set belongs to."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
        /,
    ) -> bool: ...

@final
class Checkpoint:
    """The memory of a space and its map at one moment, to which `restore()` leads back, in place and often.

    Made by `GuestMemory.checkpoint`; used in `with`, it closes. Its bytes lie in a sealed file. It vetoes no removal: what is unplugged is
    plugged in again by a restore. Checkpoints can be taken on top of others; one that is restored closes those taken after it, which
    raise `CheckpointClosed`. After `GuestMemory.close()` it raises `NotMapped`, and `ForkedProcess` in a forked child.

    >>> from dbs_address_space import AddressSpaceBuilder
    >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
    >>> memory.write(0x1000, b"before")
    >>> with memory.checkpoint() as point:
    ...     memory.write(0x1000, b"behind")
    ...     point.restore(), memory.read(0x1000, 6)
    (1, b'before')
    """
    def restore(self) -> int:
        """Makes map and bytes what they were, calls `on_restore`, and returns the number of 4 KiB pages that differed.

        Pause all writers: virtual CPUs, devices, other threads. Mappings and host addresses stay, and so do KVM slots, vhost tables, views and
        pointers. A changed map is put back first, as by any change: `RegionBusy` and `ClientError` then mean that nothing changed.
        `MemoryFault` (a file that was cut) and Ctrl-C leave it half done, and it can be done again. What `on_restore` raises passes, and the
        memory is restored.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> with memory.checkpoint(on_restore=lambda: print("the processors' registers")) as point:
        ...     memory.fill(0, "8KiB", 1)
        ...     point.restore()
        the processors' registers
        2
        """
    def fork(self) -> AddressSpace:
        """A new space with the same map, mapped, whose memory begins as what is stored: O(1) in its size, and nobody's writes reach another.

        Pages are shared until they are written (`MAP_PRIVATE`), and nothing is left to its parent, which may go on, change or be closed.
        It has no clients, and `Mapping.fd` is `None`: a vhost-user back-end can't have it, and parts of it can't be discarded. A page that is written
        takes memory of its own. Raises `CheckpointClosed`, `BackingError`.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> memory.write(0x1000, b"booted")
        >>> with memory.checkpoint() as point:
        ...     one, other = point.fork().memory, point.fork().memory
        >>> one.write(0x1000, b"one")
        >>> one.read(0x1000, 6), other.read(0x1000, 6), memory.read(0x1000, 6)
        (b'oneted', b'booted', b'booted')
        """
    def dirty(self) -> DirtyPages:
        """The pages that a `restore()` would change, of 4 KiB: those that were written and differ, and regions that came or went.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> with memory.checkpoint() as point:
        ...     memory.write_u8(0x2000, 1)
        ...     memory.write_u8(0x5000, 0)
        ...     [str(pages) for pages in point.dirty()]
        ['[0x2000, 0x3000)']
        """
    def verify(self) -> DirtyPages:
        """All pages that differ, of 4 KiB, by comparing everything: empty after a `restore()`, whoever wrote.

        It takes about a second for 2 GiB, and finds what a source can't see, such as a back-end's writes.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> with memory.checkpoint() as point:
        ...     memory.write_u8(0x2000, 1)
        ...     _ = point.restore()
        ...     len(point.verify())
        0
        """
    def close(self) -> None:
        """Lets go of the bytes; the memory stays as it is. A second time does nothing.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> point = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory.checkpoint()
        >>> point.close()
        >>> point.restore()
        Traceback (most recent call last):
        dbs_address_space.errors.CheckpointClosed: this checkpoint is closed: by close(), at the end of its with block, or by the restore of one that was taken before it
        """
    @property
    def mode(self) -> str:
        """The observers of the writes: `"pagemap"`, `"compare"`, or `"pagemap+compare"` where the kernel can't watch all memory; `"kvm"`."""
    @property
    def generation(self) -> int:
        """The generation of the map when it was taken."""
    @property
    def size(self) -> int:
        """The bytes that it stores: all that was not zero, or, on top of another checkpoint, what differed from that."""
    @property
    def excluded(self) -> tuple[AddressSpaceRegion, ...]:
        """The regions whose bytes are not kept, a tuple: DAX windows, read-only files and buffers, memory whose pages somebody brings in."""
    @property
    def stats(self) -> ResetStats:
        """The `ResetStats` of all restores."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
        /,
    ) -> bool: ...

@final
class DirtyPages:
    """Pages that were written, as an immutable value that can be compared, hashed and pickled.

    Iterates the `AddressRange`s of touching pages, ascending; `len` counts those. `|`, `&` and `-` combine two of one page size
    (`InvalidAddressRange` otherwise). Made by dirty logs, and from ranges of whole pages (`Misaligned` otherwise), in any order.

    >>> from dbs_address_space import DirtyPages
    >>> pages = DirtyPages([(0x1000, 0x2000), (0x8000, 0x1000)])
    >>> [str(range) for range in pages], pages.count, pages.size
    (['[0x1000, 0x3000)', '[0x8000, 0x9000)'], 3, 12288)
    """
    def __new__(
        cls,
        ranges: Iterable[tuple[_Address, _Size]] = (),
        *,
        page_size: _Size = 4096,
        sources: Sequence[str] = (),
        is_exact: bool = False,
    ) -> Self: ...
    @property
    def count(self) -> int:
        """The number of pages."""
    @property
    def size(self) -> int:
        """The number of bytes."""
    @property
    def page_size(self) -> int:
        """Bytes a page."""
    @property
    def sources(self) -> tuple[str, ...]:
        """The observers of the writes, a sorted tuple: `"kvm"`."""
    @property
    def blind_to(self) -> frozenset[str]:
        """Writers whom none of the sources sees, such as `"vhost-user back-ends"`.

        >>> from dbs_address_space import DirtyPages
        >>> sorted(DirtyPages(sources=("kvm",)).blind_to)[-2:]
        ['raw pointers', 'vhost-user back-ends']
        """
    @property
    def is_exact(self) -> bool:
        """Whether the pages are those that were written by whom the sources see, none less and none more."""
    def resized(self, page_size: _Size) -> DirtyPages:
        """The same in larger pages, a power of two; `InvalidAddressRange` for smaller ones, which can't be told apart.

        >>> from dbs_address_space import DirtyPages
        >>> [str(pages) for pages in DirtyPages([(0x3000, 0x1000)]).resized("2MiB")]
        ['[0x0, 0x20_0000)']
        """
    def bitmap(self, base: _Address, size: _Size) -> NDArray[np.bool_]:
        """A NumPy array with a bool for each page that `[base, base + size)` touches; needs NumPy.

        Raises `MemoryError` when there is no room for so many.

        >>> from dbs_address_space import DirtyPages
        >>> DirtyPages([(0x1000, 0x2000)]).bitmap(0, 0x4000).tolist()
        [False, True, True, False]
        """
    def coalesce(self, gap: _Size) -> DirtyPages:
        """The same with the clean pages between two ranges that are at most `gap` bytes apart: fewer, longer ranges.

        >>> from dbs_address_space import DirtyPages
        >>> len(DirtyPages([(0, 0x1000), (0x2000, 0x1000), (0x9000, 0x1000)]).coalesce("4KiB"))
        2
        """
    def __contains__(self, addr: _Address, /) -> bool: ...
    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def __iter__(self) -> Iterator[AddressRange]: ...
    def __or__(self, other: DirtyPages, /) -> DirtyPages: ...
    def __and__(self, other: DirtyPages, /) -> DirtyPages: ...
    def __sub__(self, other: DirtyPages, /) -> DirtyPages: ...
    def __ror__(self, other: DirtyPages, /) -> DirtyPages: ...
    def __rand__(self, other: DirtyPages, /) -> DirtyPages: ...
    def __rsub__(self, other: DirtyPages, /) -> DirtyPages: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, ...]: ...

@final
class Machine:
    """The address map of a kind of machine: where its RAM may lie, and the holes round which RAM is split.

    `mem_start`, `mem_end` (exclusive) and `phys_bits` bound RAM and everything; `mmio_windows` are `(base, size)` and hold
    no RAM; `reserved` ranges, `(base, size)` or `(base, size, kind)`, are kept for ever, as in an `AddressSpaceLayout`. Below a hole less than `min_split` is left unused. RAM that does not
    all fit below the first window ends at `split_end`, where the window then begins, as in QEMU's `pc` and `q35`. With
    `pci_hole64_size`, the bytes that 64-bit PCI devices need, RAM that does not fit below `mem_end` may end so many bytes below the
    end of all addresses, QEMU's rule. `firmware` is `(base, size)`, `arch` the architecture of hosts that can run it. Raises `InvalidAddressRange`, and `InvalidArgument` for a bad name.

    >>> from dbs_address_space import Machine
    >>> machine = Machine("mine", mem_start=0, mem_end=1 << 39, phys_bits=40, mmio_windows=[(0xe000_0000, "512MiB")])
    >>> machine.layout.mem_end == 1 << 39
    True
    """
    def __new__(
        cls,
        name: str,
        *,
        mem_start: _Address,
        mem_end: _Address,
        phys_bits: SupportsIndex,
        mmio_windows: Iterable[_Window] = (),
        reserved: Iterable[_Reserved] = (),
        min_split: _Size = "128MiB",
        split_end: _Address | None = None,
        firmware: _Window | None = None,
        max_vcpus: SupportsIndex = 255,
        pci_hole64_size: _Size | None = None,
        arch: str | None = None,
        max_slots: SupportsIndex = 256,
    ) -> Self: ...
    @staticmethod
    def named(name: str, *, arch: str | None = None, phys_bits: SupportsIndex | None = None) -> Machine:
        """A machine by its name: `"dragonball"` (x86_64 or aarch64, the original's constants), QEMU's `"pc"`, `"q35"` and `"microvm"`
        (x86_64) or `"virt"` (aarch64).

        `arch` and `phys_bits` that are not given are the machine's: 46 bits on x86_64, 40 on aarch64. Raises `InvalidArgument`.

        >>> from dbs_address_space import Machine
        >>> Machine.named("q35", phys_bits=40)
        Machine('q35', mem_start=0x0, mem_end=0x80_0000_0000, phys_bits=40)
        """
    @property
    def name(self) -> str:
        """The name."""
    @property
    def layout(self) -> AddressSpaceLayout:
        """The bounds and windows, an `AddressSpaceLayout`."""
    @property
    def arch(self) -> str | None:
        """`"x86_64"`, `"aarch64"`, or `None` for a machine of your own that runs on any host."""
    @property
    def phys_bits(self) -> int:
        """Bits of a guest physical address."""
    @property
    def reserved(self) -> tuple[tuple[int, int, str], ...]:
        """The ranges that are kept for ever: a sorted tuple of `(base, size, kind)`."""
    @property
    def min_split(self) -> int:
        """Below a hole, less than these bytes are left unused."""
    @property
    def split_end(self) -> int | None:
        """The end of RAM below the first window when it does not all fit there, or `None`."""
    @property
    def pci_hole64_size(self) -> int | None:
        """The bytes behind all RAM that 64-bit PCI devices need, or `None` where `mem_end` is fixed."""
    @property
    def firmware(self) -> AddressRange | None:
        """The addresses of firmware, an `AddressRange`, or `None`."""
    @property
    def max_slots(self) -> int:
        """The number of DIMM slots that it can have; 0 for a machine without."""
    @property
    def max_vcpus(self) -> int:
        """The number of vCPUs that it can have."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]: ...

@final
class NumaRegionInfo:
    """Memory that a machine should have: how much, for which guest node, from which host node, and of which kind.

    `size` is in bytes, or text such as `"2GiB"`; ints below 1 MiB are refused, for the original counts MiB. Without a guest node it
    belongs to node 0; a guest node without memory has the size 0. `generic_initiators` are PCI devices of the node that access memory as
    processors do, such as `"0000:01:00.0"`. `mem_type`, `mem_file_path`, `page_size`, `policy` and `prefault`
    are for this memory alone, and the builder's where not given. `file` is the path of an ordinary file with these bytes, which is
    opened by `build()`, or of a folder for a new file without a name; with `shared=False` what is written stays in memory. For
    `hotplug_size` bytes more the plan reserves addresses, for the owner `"hotplug "` and the name. `name` is the region's; where a hole splits the memory, the next
    ones are called `name-1` and so on. Raises `InvalidAddressRange`, and `InvalidArgument` for other values.

    >>> from dbs_address_space import AddressSpaceBuilder, NumaRegionInfo
    >>> NumaRegionInfo("2GiB", host_numa_node_id=0, guest_numa_node_id=1, vcpu_ids=[2, 3])
    NumaRegionInfo('2 GiB', host_numa_node_id=0, guest_numa_node_id=1, vcpu_ids=(2, 3))
    >>> fast = NumaRegionInfo("1GiB", mem_type="hugeshmem", page_size="1GiB", policy="bind", name="fast")
    >>> [region.name for region in AddressSpaceBuilder(numa_regions=[fast, "1GiB"]).plan().regions]
    ['fast', 'ram1']
    """

    __match_args__: Final = ("size", "host_numa_node_id", "guest_numa_node_id", "vcpu_ids")
    def __new__(
        cls,
        size: _Size,
        host_numa_node_id: SupportsIndex | None = None,
        guest_numa_node_id: SupportsIndex | None = None,
        vcpu_ids: Iterable[SupportsIndex] = (),
        *,
        generic_initiators: Iterable[str] = (),
        mem_type: _Source | None = None,
        mem_file_path: _Path | None = None,
        file: _Path | None = None,
        shared: bool | None = None,
        page_size: _Size | None = None,
        policy: NumaPolicy | str | None = None,
        prefault: bool | None = None,
        hotplug_size: _Size | None = None,
        name: str | None = None,
    ) -> Self: ...
    @property
    def generic_initiators(self) -> tuple[str, ...]:
        """The PCI devices of the guest's node that access memory as processors do, a tuple of texts such as `"0000:01:00.0"`."""
    @property
    def file(self) -> str | None:
        """The path of its ordinary file or of a folder, or `None`."""
    @property
    def shared(self) -> bool | None:
        """Whether its file is written to, or `None` for the default, which is yes."""
    @property
    def hotplug_size(self) -> int | None:
        """The bytes that can be plugged into it later, or `None`."""
    @property
    def size(self) -> int:
        """The number of bytes."""
    @property
    def host_numa_node_id(self) -> int | None:
        """The host's NUMA node, or `None` for any."""
    @property
    def guest_numa_node_id(self) -> int | None:
        """The guest's NUMA node, or `None` for 0."""
    @property
    def vcpu_ids(self) -> tuple[int, ...]:
        """The vCPUs of the guest's node."""
    @property
    def page_size(self) -> int | None:
        """The size of its huge pages in bytes, or `None` for the builder's."""
    @property
    def policy(self) -> NumaPolicy | None:
        """The nodes of the host, a `NumaPolicy`, or `None` for the builder's."""
    @property
    def prefault(self) -> bool | None:
        """Whether every page is there from the beginning, or `None` for the builder's choice."""
    @property
    def name(self) -> str | None:
        """The name of its first region, or `None`."""
    @property
    def mem_type(self) -> MemorySourceType | None:
        """The `MemorySourceType`, or `None` for the builder's."""
    @property
    def mem_file_path(self) -> str | None:
        """The path of its files on a hugetlbfs mount, or `None` for the builder's."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __getnewargs_ex__(self) -> tuple[tuple[int, int | None, int | None, tuple[int, ...]], dict[str, Any]]: ...

@final
class NumaPolicy:
    """The NUMA nodes of the host that memory should come from.

    `mode` is `"default"`, `"bind"`, `"preferred"` (one node), `"preferred-many"`, `"interleave"` or `"weighted-interleave"`. `nodes`
    are ints of any size, or text such as `"0-2,64"`; none stand for the `host_numa_node_id` of the region. With `strict` a page that
    is there already and can't be moved is an error. Set before the first touch, by `mbind(2)`. Raises `InvalidArgument`.

    >>> from dbs_address_space import NumaPolicy
    >>> NumaPolicy("interleave", "0-1,64").nodes
    (0, 1, 64)
    """

    __match_args__: Final = ("mode", "nodes")
    def __new__(cls, mode: str, nodes: Iterable[SupportsIndex] | str = (), *, strict: bool = False) -> Self: ...
    @property
    def mode(self) -> str:
        """The policy's name."""
    @property
    def nodes(self) -> tuple[int, ...]:
        """The nodes by ascending number; none stand for the region's own."""
    @property
    def strict(self) -> bool:
        """Whether pages that can't be moved are an error."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __getnewargs_ex__(self) -> tuple[tuple[str, tuple[int, ...]], dict[str, Any]]: ...

@final
class BackingOptions:
    """How a region's memory is requested from the kernel. An immutable value; `None` leaves the choice to the source.

    - `page_size`: of a huge source, any that the host lists; the region's `page_size`.
    - `alignment`: of the host address, a power of two. Anonymous memory with `transparent_hugepage` is aligned to 2 MiB anyway.
    - `reserve`: whether memory is set aside when mapping; `False` is `MAP_NORESERVE`, with which a full pool is found out later.
    - `transparent_hugepage`, `ksm`: advised or forbidden; the region's `is_hugepage` and `is_mergeable` for `True`. The kernel merges
      private memory of small pages alone; elsewhere `ksm` is for whoever asks the region.
    - `dontdump`, `dontfork`: left out of core dumps; not there in forked children, where an access is `MemoryFault`.
    - `mlock`: all pages are there and stay there.
    - `max_size`: the most bytes that `grow_region` may give the region without a new memory. Host addresses for as many are set aside, and of huge pages
      the pages; other pages cost nothing before they are touched. For memfds and anonymous memory, without `mlock` and `MAP_POPULATE`.
    - `guard_pages`: an inaccessible page before and behind the mapping.
    - `may_block`: somebody answers page faults of the memory, as with a userfaultfd: accesses let other threads run, and one that is not
      answered within a second is `MemoryFault`. Views and atomics are refused. For memory that is registered only after it was mapped.
    - `trusted`: of a file or buffer, your word that nobody cuts or moves it: it is touched directly, with views and atomics. Where the word is
      broken, a touch kills the process. Huge pages are guarded all the same, and so is all memory under `vm.overcommit_memory=2`.
    - `seals`: of a memfd, some of `"shrink"`, `"grow"`, `"seal"` (the three that are the default) and `"future-write"`.
    - `policy`: a `NumaPolicy` or its mode alone.

    Raises `InvalidArgument`.

    >>> from dbs_address_space import AddressSpaceRegion, BackingOptions
    >>> options = BackingOptions(mlock=True, policy="bind")
    >>> AddressSpaceRegion("ram", 0, "1MiB", host_numa_node_id=0, backing=options).backing == options
    True
    """
    def __new__(
        cls,
        *,
        page_size: _Size | None = None,
        alignment: _Size | None = None,
        max_size: _Size | None = None,
        reserve: bool | None = None,
        transparent_hugepage: bool | None = None,
        ksm: bool | None = None,
        dontdump: bool | None = None,
        dontfork: bool | None = None,
        mlock: bool | None = None,
        guard_pages: bool | None = None,
        may_block: bool | None = None,
        trusted: bool | None = None,
        seals: Iterable[str] | None = None,
        policy: NumaPolicy | str | None = None,
    ) -> Self: ...
    @property
    def page_size(self) -> int | None:
        """The page size of a huge source in bytes."""
    @property
    def max_size(self) -> int | None:
        """The most bytes that the region may grow to."""
    @property
    def alignment(self) -> int | None:
        """The alignment of the host address in bytes."""
    @property
    def reserve(self) -> bool | None:
        """Whether memory is set aside when mapping."""
    @property
    def transparent_hugepage(self) -> bool | None:
        """Whether transparent huge pages are advised or forbidden."""
    @property
    def ksm(self) -> bool | None:
        """Whether kernel samepage merging is advised or forbidden."""
    @property
    def dontdump(self) -> bool | None:
        """Whether it is left out of core dumps."""
    @property
    def dontfork(self) -> bool | None:
        """Whether forked children do not get it."""
    @property
    def mlock(self) -> bool | None:
        """Whether it is locked in memory."""
    @property
    def guard_pages(self) -> bool | None:
        """Whether inaccessible pages lie before and behind it."""
    @property
    def may_block(self) -> bool | None:
        """Whether accesses may wait for whoever answers page faults."""
    @property
    def trusted(self) -> bool | None:
        """Whether the user vouches that nobody cuts the file, nor moves the buffer."""
    @property
    def seals(self) -> tuple[str, ...] | None:
        """The seals of a memfd, a tuple of their names."""
    @property
    def policy(self) -> NumaPolicy | None:
        """The NUMA policy."""
    def replace(self, **changes: Any) -> BackingOptions:
        """The options with some of them changed, as `copy.replace` does too; raises as the class does.

        >>> from dbs_address_space import BackingOptions
        >>> BackingOptions(mlock=True).replace(mlock=None, ksm=True)
        BackingOptions(ksm=True)
        """
    def __replace__(self, **changes: Any) -> BackingOptions: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]: ...

@final
class Hotplug:
    """A window for memory that is plugged in later: `max_memory` in all, the memory at the start included, in up to `slots` DIMMs.

    As QEMU's `-m ...,maxmem=,slots=`: the window lies behind all RAM and has 1 GiB more for each slot, to align it.

    >>> from dbs_address_space import Hotplug
    >>> Hotplug("16GiB", slots=4).slots
    4
    """
    def __new__(cls, max_memory: _Size, slots: SupportsIndex = 8) -> Self: ...
    @property
    def max_memory(self) -> int:
        """All bytes that the machine can have."""
    @property
    def slots(self) -> int:
        """The number of DIMMs that can be plugged in."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __getnewargs__(self) -> tuple[int, int]: ...

@final
class AddressSpaceBuilder:
    """Makes an address space for a machine: first a plan that can be looked at, then the memory.

    `machine` is a name of `Machine.named` or a `Machine`; `arch` and `phys_bits` are for a name only, and its own where not given.
    `numa_regions` are `NumaRegionInfo`s (or sizes) in the order of their addresses, with choices of their own. `mem_type` is one of the memory sources; for
    `"hugetlbfs"` each region gets a file, `mem_file_path` with its number. With `mem_prealloc` every page is there from the
    beginning. `firmware` adds the machine's firmware region, `dax_window` a window of that size above RAM, or at `(base, size)`, `hotplug` room for more memory
    (`Hotplug`). With `amd_1tb_relocation`, QEMU's option for vCPUs of AMD, the HyperTransport range below 1 TiB is reserved where addresses
    reach it, and RAM above 4 GiB begins at 1 TiB where it or the PCI devices behind it would reach that range. `backing` are the `BackingOptions` of all RAM.

    Nothing is looked up on the host before `build()` or `plan().check_host()`. Raises `InvalidArgument` for a value that no plan can
    have; everything else that is wrong is in the plan's `problems`.

    >>> from dbs_address_space import AddressSpaceBuilder
    >>> for region in AddressSpaceBuilder("dragonball", numa_regions=["4GiB"]).plan().regions:
    ...     print(region)
    AddressSpaceRegion('ram0' DEFAULT_MEMORY [0x0, 0xc000_0000) 3 GiB rw- shmem)
    AddressSpaceRegion('ram1' DEFAULT_MEMORY [0x1_0000_0000, 0x1_4000_0000) 1 GiB rw- shmem)
    """
    def __new__(
        cls,
        machine: str | Machine = "dragonball",
        *,
        arch: str | None = None,
        numa_regions: Iterable[NumaRegionInfo | _Size],
        mem_type: _Source = "shmem",
        mem_file_path: _Path = "",
        mem_prealloc: bool = False,
        phys_bits: SupportsIndex | None = None,
        firmware: bool = False,
        dax_window: _Size | _Window | None = None,
        hotplug: Hotplug | None = None,
        amd_1tb_relocation: bool = False,
        backing: BackingOptions | None = None,
    ) -> Self: ...
    def plan(self) -> AddressSpacePlan:
        """The plan: the place of each region, the reasons, the cost and all problems. Pure, and the same everywhere.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> AddressSpaceBuilder("q35", numa_regions=["5GiB"]).plan().problems
        ()
        """
    def build(self, *, progress: _ProgressFunction | None = None) -> AddressSpace:
        r"""The mapped `AddressSpace` of the plan: `plan().build()`.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> AddressSpaceBuilder(numa_regions=["64MiB"]).build().memory.read(0, 4)
        b'\x00\x00\x00\x00'
        """
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __getnewargs_ex__(self) -> tuple[tuple[Machine], dict[str, Any]]: ...

@final
class AddressSpacePlan:
    """The place of everything in a machine's memory, before any of it is there. A value: it compares, hashes, pickles and travels as JSON.

    Made by `AddressSpaceBuilder.plan()`; a pure function of the builder, so it is the same on every host.

    >>> from dbs_address_space import AddressSpaceBuilder
    >>> plan = AddressSpaceBuilder("dragonball", numa_regions=["4GiB"]).plan()
    >>> print(plan.reasons[0])
    guest node 0: as much of its 4 GiB as fits below the hole [0xc000_0000, 0x1_0000_0000)
    """
    @property
    def regions(self) -> tuple[AddressSpaceRegion, ...]:
        """RAM by ascending base, then firmware and DAX window: a tuple of named `AddressSpaceRegion`s."""
    @property
    def reasons(self) -> tuple[str, ...]:
        """For each region, why it is where it is and as large as it is."""
    @property
    def layout(self) -> AddressSpaceLayout:
        """The machine's layout for this much memory."""
    @property
    def numa_nodes(self) -> dict[int, NumaNode]:
        """The guest's NUMA nodes: a dict of `NumaNode` by guest node id."""
    @property
    def hotplug_window(self) -> AddressRange | None:
        """The addresses for memory that is plugged in later, an `AddressRange`, or `None`."""
    @property
    def hotplug(self) -> Hotplug | None:
        """The `Hotplug` that was asked for, or `None`."""
    @property
    def problems(self) -> tuple[str, ...]:
        """All problems, one text for each; a plan with problems can be looked at, not built."""
    @property
    def cost(self) -> PlanCost:
        """The memory that it takes from a host, a `PlanCost`."""
    @property
    def machine(self) -> Machine:
        """The machine."""
    @property
    def builder(self) -> AddressSpaceBuilder:
        """The builder that the plan is of."""
    def check_host(self, *, sysfs: _Path = "/sys", procfs: _Path = "/proc") -> tuple[str, ...]:
        """The reasons why this host, as it is now, can't build the plan or run it: a tuple of texts, empty when it can. Takes nothing.

        Looks at the nodes that the plan names, at memory and huge pages, of each node that it binds to too, at overcommitment, limits of
        the process and its cgroups, the host's architecture and physical addresses, KVM's slots, and the files of zones: whether they are
        there, long enough, on a file system with room, and of the page size. `sysfs` and `procfs` may name
        copies of another host's; `docs/machines.md` lists the files. What a file does not tell does not count.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> AddressSpaceBuilder(numa_regions=["64MiB"]).plan().check_host()
        ()
        """
    def build(self, *, progress: _ProgressFunction | None = None) -> AddressSpace:
        """The mapped `AddressSpace`, or nothing: whatever fails, all that was taken is given back.

        Addresses of the hotplug window are reserved for the owner `"hotplug"`. `progress(p)` as in `map_memory()`. Raises
        `InvalidPlan` when there are problems, and else as `map_memory()` does.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> AddressSpaceBuilder(numa_regions=["64MiB"]).plan().build()
        AddressSpace(1 regions, 64 MiB RAM, mapped, generation 0)
        """
    def to_json(self) -> str:
        """The plan as JSON text, all of it keyed: the builder's arguments, and for readers everything that `print` shows. Numbers are bytes.

        Its keys are `format`, `version`, `builder`, `layout`, `numa_nodes`, `regions`, `hotplug_window`, `cost` and `problems`.

        >>> from dbs_address_space import AddressSpaceBuilder, AddressSpacePlan
        >>> plan = AddressSpaceBuilder(numa_regions=["4GiB"]).plan()
        >>> AddressSpacePlan.from_json(plan.to_json()) == plan
        True
        """
    def diff(self, other: AddressSpacePlan) -> dict[str, tuple[Any, Any]]:
        """Whatever differs in another plan: a dict of `(here, there)` by the path in the JSON of both, empty for equal plans.

        Regions are known by their names, and `None` stands for what a plan does not have.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> small, large = (AddressSpaceBuilder(numa_regions=[size]).plan() for size in ("1GiB", "2GiB"))
        >>> small.diff(large)["regions.ram0.size"]
        (1073741824, 2147483648)
        """
    @staticmethod
    def from_json(text: str) -> AddressSpacePlan:
        """The plan of a JSON text that `to_json()` made.

        Raises `InvalidPlan` for any other text, and when this version would place the regions elsewhere.

        >>> from dbs_address_space import AddressSpaceBuilder, AddressSpacePlan
        >>> text = AddressSpaceBuilder(numa_regions=["1GiB"]).plan().to_json()
        >>> AddressSpacePlan.from_json(text).regions[0].size
        1073741824
        """
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, ...]: ...

@final
class Reservation:
    """Addresses that are kept for an owner: others are neither given them nor can they insert regions there.

    Made by `AddressSpace.reserve()`. It ends with `release()`, or with the `with` block that it is used in; dropping the object does
    not end it. Regions that were inserted stay.

    >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
    >>> with space.reserve("1GiB", owner="dimm0", align="1GiB") as room:
    ...     base = room.insert_region(AddressSpaceRegion("ram", room.base, room.size))
    >>> space.reservations
    ()
    """
    @property
    def base(self) -> int:
        """The first address."""
    @property
    def size(self) -> int:
        """The number of bytes."""
    @property
    def end(self) -> int:
        """The first address after it."""
    @property
    def owner(self) -> str:
        """The owner's name."""
    @property
    def is_active(self) -> bool:
        """Whether it has not been released."""
    def insert_region(self, region: AddressSpaceRegion) -> AddressSpaceBase:
        """Inserts a region that lies in the reservation, which others can't, and returns the map just published.

        Raises `InvalidAddressRange` for a region that reaches out of it, and else as `AddressSpace.insert_region` does.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> room = space.reserve("1MiB", owner="dimm0")
        >>> len(room.insert_region(AddressSpaceRegion("ram", room.base, room.size)))
        1
        """
    def release(self) -> None:
        """Gives the addresses back; a second time it does nothing.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout
        >>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> room = space.reserve("1MiB", owner="dimm0")
        >>> room.release()
        >>> room.is_active
        False
        """
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        _exc_type: type[BaseException] | None,
        _exc_value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> NoReturn: ...

@final
class PreallocHandle:
    """Memory that is being populated in the background. Dropping the handle lets it go on.

    Made by `GuestMemory.prealloc(background=True)`.

    >>> from dbs_address_space import AddressSpaceBuilder
    >>> handle = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory.prealloc(background=True)
    >>> handle.wait()
    True
    >>> handle.report.size
    4194304
    """
    def done(self) -> bool:
        """Whether it has ended: it is complete, has failed or was cancelled.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> handle = memory.prealloc(background=True)
        >>> handle.wait(), handle.done()
        (True, True)
        """
    def wait(self, timeout: float | None = None) -> bool:
        """Waits until it has ended, at most `timeout` seconds (`None`: for ever), and tells whether it has. Ctrl-C ends the wait only.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> memory.prealloc(background=True).wait(timeout=60)
        True
        """
    def cancel(self) -> None:
        """Asks it to stop, which it does within a moment; what is there stays. Does nothing when it has ended.

        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"]).build().memory
        >>> handle = memory.prealloc(background=True)
        >>> handle.cancel()
        >>> handle.wait()
        True
        """
    @property
    def progress(self) -> tuple[int, int]:
        """Bytes that are there, and bytes in all."""
    @property
    def report(self) -> PreallocReport | None:
        """The `PreallocReport` when it is complete; `None` while it runs, and when it was cancelled. Raises what it failed with."""

@final
class DaxWindow:
    """A DAX region into which files, or parts of them, are mapped while the guest runs, as virtio-fs does it.

    Made by `GuestMemory.dax_window(region)`. Where a file is mapped, `GuestMemory` reads and writes it as its protection allows;
    elsewhere the window is `AccessDenied`. Offsets and sizes are of whole pages. It keeps its space alive, not its region.

    >>> import tempfile
    >>> from dbs_address_space import AddressSpaceBuilder
    >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"], dax_window="2MiB").build().memory
    >>> window = memory.dax_window("dax0")
    >>> with tempfile.TemporaryFile() as file:
    ...     _ = file.write(b"hello".ljust(4096)), file.flush()
    ...     window.map_file(0, file, 0, 4096, "r--")
    >>> memory.read(window.region.base, 5)
    b'hello'
    """
    @property
    def region(self) -> AddressSpaceRegion:
        """The region."""
    def map_file(self, offset: _Size, file: _File, file_offset: _Size, size: _Size, prot: _Protection = "rw-") -> None:
        """Maps `size` bytes of a file, from `file_offset` on, at an offset of the window; the file may be closed then.

        `file` is one that `AddressSpaceRegion.from_file` takes.
        Bytes that the file does not have are `MemoryFault` when accessed. Raises `InvalidAddressRange` when it does not lie in the
        window or something is mapped there, `Misaligned`, `BackingError`, `NotMapped` when the region was removed.

        >>> import tempfile
        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"], dax_window="2MiB").build().memory
        >>> window = memory.dax_window("dax0")
        >>> with tempfile.TemporaryFile() as file:
        ...     _ = file.truncate(4096)
        ...     window.map_file(0x1000, file, 0, 4096)
        >>> window.mappings[0].offset
        4096
        """
    def unmap(self, offset: _Size, size: _Size) -> None:
        """Takes what is mapped in a range out of the window; it may cut mappings and cover holes.

        Raises `InvalidAddressRange`, `Misaligned`, `RegionBusy` when a view holds part of it, `NotMapped`.

        >>> import tempfile
        >>> from dbs_address_space import AddressSpaceBuilder
        >>> memory = AddressSpaceBuilder(numa_regions=["4MiB"], dax_window="2MiB").build().memory
        >>> window = memory.dax_window("dax0")
        >>> with tempfile.TemporaryFile() as file:
        ...     _ = file.truncate(8192)
        ...     window.map_file(0, file, 0, 8192)
        >>> window.unmap(0, 4096)
        >>> window.mappings[0].offset
        4096
        """
    @property
    def mappings(self) -> tuple[DaxMapping, ...]:
        """The mapped files, a tuple of `DaxMapping` by ascending offset."""

@final
class UnplugRequest:
    """A request that the guest give a region up; `remove_region` takes the request, once the guest has let go, and removes that very region.

    Made by `AddressSpace.request_unplug(region)`; the code that drives the guest finds it in `AddressSpace.unplug_requests`.

    >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="dimm0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    >>> request = space.request_unplug("dimm0")
    >>> request.wait(0.0)
    False
    >>> base = space.remove_region(request)
    >>> request.done()
    True
    """
    @property
    def region(self) -> AddressSpaceRegion:
        """The region that is asked for."""
    def done(self) -> bool:
        """Whether the region was removed.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="ram0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> space.request_unplug("ram0").done()
        False
        """
    @property
    def cancelled(self) -> bool:
        """Whether the request was withdrawn."""
    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the region is removed or the request withdrawn, at most `timeout` seconds (`None`: for ever); whether it is removed.

        Ctrl-C ends the wait.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="ram0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> request = space.request_unplug("ram0")
        >>> base = space.remove_region("ram0")
        >>> request.wait()
        True
        """
    def cancel(self) -> None:
        """Withdraws the request: the user may think better of it, and the code that drives the guest calls this when the guest refuses.
        A request that is settled stays as it is.

        >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
        >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB", name="ram0")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
        >>> request = space.request_unplug("ram0")
        >>> request.cancel()
        >>> request.cancelled, space.unplug_requests
        (True, ())
        """
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
