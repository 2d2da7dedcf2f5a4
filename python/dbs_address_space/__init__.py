"""A virtual machine's guest-physical address space, and the memory behind it.

An `AddressSpace` holds typed `AddressSpaceRegion`s that keep an `AddressSpaceLayout`. `map_memory()` gives each its bytes, as a
`GuestMemory`. `snapshot()` is the map as an immutable `AddressSpaceBase`.

>>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
>>> space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45))
>>> base = space.insert_region(AddressSpaceRegion("ram", 0, "64MiB", name="ram-low"))
>>> with space.map_memory() as memory:
...     memory.write(0x1000, b"hello")
...     memory.read(0x1000, 5)
b'hello'
"""

import sys

# Not `sys.platform == "linux"`: type checkers on other systems would then skip the rest of this file.
if "linux" not in sys.platform:
    raise ImportError(f"dbs_address_space needs Linux on x86_64 or aarch64; this is {sys.platform}")
if sys.version_info < (3, 12):  # newer ones refuse by themselves what would share the native classes
    import _xxsubinterpreters as _interpreters  # type: ignore[import-not-found]

    if _interpreters.get_current() != _interpreters.get_main():
        raise ImportError("dbs_address_space can be imported in the main interpreter only, not in a sub-interpreter")

from ._core import (
    AddressSpace,
    AddressSpaceBase,
    AddressSpaceBuilder,
    AddressSpaceChange,
    AddressSpaceLayout,
    AddressSpacePlan,
    AddressSpaceRegion,
    Attachment,
    BackingOptions,
    BytePattern,
    DaxWindow,
    DirtyPages,
    GuestMemory,
    Hotplug,
    KvmSlots,
    Machine,
    Mapping,
    NumaIdTable,
    NumaNode,
    NumaNodeInfo,
    NumaPolicy,
    NumaRegionInfo,
    Pin,
    PreallocHandle,
    Reservation,
    Subscription,
    Transaction,
    UnplugRequest,
    VhostUserClient,
    __version__,
    usable_end,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .enums import (
        MAP_ANONYMOUS,
        MAP_HUGETLB,
        MAP_NORESERVE,
        MAP_POPULATE,
        MAP_PRIVATE,
        MAP_SHARED,
        MPOL_MF_MOVE,
        MPOL_PREFERRED,
        PROT_EXEC,
        PROT_NONE,
        PROT_READ,
        PROT_WRITE,
        AddressSpaceRegionType,
        MapFlags,
        MemorySourceType,
        Prot,
    )
    from .errors import (
        AccessDenied,
        AddressSpaceError,
        AlignmentImpossible,
        BackingError,
        ClientError,
        DuplicateName,
        ForkedProcess,
        Fragmented,
        GenerationChanged,
        HugePagesShort,
        InvalidAddressRange,
        InvalidMemorySourceType,
        InvalidPlan,
        InvalidRegionType,
        LayoutViolation,
        Lease,
        MemoryFault,
        Misaligned,
        NoSpace,
        NotContiguous,
        NotMapped,
        NumaError,
        PartialTransfer,
        ReentrantChange,
        RegionBusy,
        RegionOverlap,
        UnmappedAddress,
        Unsupported,
    )
    from .hotplug import DimmSlots, MemoryBlocks
    from .progress import Progress, tqdm_progress
    from .ranges import AddressRange, VhostUserRegion
    from .reports import DaxMapping, EffectiveBacking, Placement, PlanCost, PreallocReport

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
    "AccessDenied",
    "AddressRange",
    "AddressSpace",
    "AddressSpaceBase",
    "AddressSpaceBuilder",
    "AddressSpaceChange",
    "AddressSpaceError",
    "AddressSpaceLayout",
    "AddressSpacePlan",
    "AddressSpaceRegion",
    "AddressSpaceRegionType",
    "AlignmentImpossible",
    "Attachment",
    "BackingError",
    "BackingOptions",
    "BytePattern",
    "ClientError",
    "DaxMapping",
    "DaxWindow",
    "DimmSlots",
    "DirtyPages",
    "DuplicateName",
    "EffectiveBacking",
    "ForkedProcess",
    "Fragmented",
    "GenerationChanged",
    "GuestMemory",
    "Hotplug",
    "HugePagesShort",
    "InvalidAddressRange",
    "InvalidMemorySourceType",
    "InvalidPlan",
    "InvalidRegionType",
    "KvmSlots",
    "LayoutViolation",
    "Lease",
    "Machine",
    "MapFlags",
    "Mapping",
    "MemoryBlocks",
    "MemoryFault",
    "MemorySourceType",
    "Misaligned",
    "NoSpace",
    "NotContiguous",
    "NotMapped",
    "NumaError",
    "NumaIdTable",
    "NumaNode",
    "NumaNodeInfo",
    "NumaPolicy",
    "NumaRegionInfo",
    "PartialTransfer",
    "Pin",
    "Placement",
    "PlanCost",
    "PreallocHandle",
    "PreallocReport",
    "Progress",
    "Prot",
    "ReentrantChange",
    "RegionBusy",
    "RegionOverlap",
    "Reservation",
    "Subscription",
    "Transaction",
    "UnmappedAddress",
    "UnplugRequest",
    "Unsupported",
    "VhostUserClient",
    "VhostUserRegion",
    "__version__",
    "tqdm_progress",
    "usable_end",
]


if not TYPE_CHECKING:  # or every misspelt name would have a type

    def __getattr__(name: str) -> object:
        """What is not native comes when it is first asked for: `enum` alone takes longer to import than all the rest."""
        if not name.startswith("__"):
            from importlib import import_module  # noqa: PLC0415  as above

            for module in ("errors", "enums", "ranges", "progress", "reports", "hotplug"):
                lazy = import_module(f"{__name__}.{module}")
                if name == module:
                    return lazy
                if name in lazy.__all__:
                    return globals().setdefault(name, getattr(lazy, name))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


del TYPE_CHECKING
