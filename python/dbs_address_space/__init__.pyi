from ._core import (
    AddressSpace as AddressSpace,
    AddressSpaceBase as AddressSpaceBase,
    AddressSpaceBuilder as AddressSpaceBuilder,
    AddressSpaceChange as AddressSpaceChange,
    AddressSpaceLayout as AddressSpaceLayout,
    AddressSpacePlan as AddressSpacePlan,
    AddressSpaceRegion as AddressSpaceRegion,
    Attachment as Attachment,
    BackingOptions as BackingOptions,
    BytePattern as BytePattern,
    Checkpoint as Checkpoint,
    DaxWindow as DaxWindow,
    DirtyPages as DirtyPages,
    DirtyTracker as DirtyTracker,
    GuestMemory as GuestMemory,
    Hotplug as Hotplug,
    KvmSlots as KvmSlots,
    Machine as Machine,
    Mapping as Mapping,
    MemoryPart as MemoryPart,
    NumaIdTable as NumaIdTable,
    NumaNode as NumaNode,
    NumaNodeInfo as NumaNodeInfo,
    NumaPolicy as NumaPolicy,
    NumaRegionInfo as NumaRegionInfo,
    Pin as Pin,
    PreallocHandle as PreallocHandle,
    Reservation as Reservation,
    Share as Share,
    Subscription as Subscription,
    Transaction as Transaction,
    UnplugRequest as UnplugRequest,
    VhostUserClient as VhostUserClient,
    __version__ as __version__,
    usable_end as usable_end,
)
from .balloon import *
from .enums import *
from .errors import *
from .formats.exchange import *
from .hotplug import *
from .images import *
from .loading import *
from .map_row import *
from .memory_blocks import *
from .progress import *
from .ranges import *
from .reports import *
