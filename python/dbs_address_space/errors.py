"""The errors of this package, all of them `AddressSpaceError` and what Python has for the case.

Each carries `.address`, `.size`, `.region` and `.conflict`, `None` where that makes no sense, and can be pickled.
"""

from __future__ import annotations

from ._named_tuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._core import AddressSpaceChange, AddressSpaceRegion

__all__ = [
    "AccessDenied",
    "AddressSpaceError",
    "AlignmentImpossible",
    "BackingError",
    "ClientError",
    "DuplicateName",
    "ForkedProcess",
    "Fragmented",
    "GenerationChanged",
    "HugePagesShort",
    "InvalidAddressRange",
    "InvalidMemorySourceType",
    "InvalidPlan",
    "InvalidRegionType",
    "LayoutViolation",
    "Lease",
    "MemoryFault",
    "Misaligned",
    "NoSpace",
    "NotContiguous",
    "NotMapped",
    "NumaError",
    "PartialTransfer",
    "ReentrantChange",
    "RegionBusy",
    "RegionOverlap",
    "UnmappedAddress",
    "Unsupported",
]


class Lease(NamedTuple):
    """Something that holds a region: `what` is `"view"`, or the verb of a long access in flight."""

    what: str
    address: int
    size: int


class AddressSpaceError(Exception):
    """What every error of this package is."""

    address: int | None = None
    """The first guest physical address that is in question."""
    size: int | None = None
    """The bytes that were asked for."""
    region: AddressSpaceRegion | None = None
    """The region in question."""
    conflict: AddressSpaceRegion | None = None
    """The region that is in the way."""

    _errno = 0

    def __init__(self, message: str = "", *, errno: int | None = None, **data: object) -> None:
        """Takes the message and, by name, the data of the class."""
        if isinstance(self, OSError):
            super().__init__(errno or self._errno, message)
        else:
            super().__init__(message)
        for name, value in data.items():
            if not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {name!r}")
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Callable[..., AddressSpaceError], tuple[Any, ...], dict[str, object]]:
        state = {name: _picklable(value) for name, value in self.__dict__.items()}
        errno, message = self.args if isinstance(self, OSError) else (None, *self.args)
        return _rebuild, (type(self), message, errno), state


def _picklable(value: object) -> object:
    """The value, or `None` for what means nothing elsewhere: a region that holds a user's file, a client."""
    import pickle  # noqa: PLC0415  who prints an error does not need it

    try:
        pickle.dumps(value)
    except Exception:  # noqa: BLE001 - a client is a user's object, whose pickling may raise anything
        return None
    return value


def _rebuild(error: type[AddressSpaceError], message: str, errno: int | None) -> AddressSpaceError:
    return error(message, errno=errno)


class InvalidAddressRange(AddressSpaceError, ValueError):
    """A number, range, name or flag that no region or access can have."""


class LayoutViolation(InvalidAddressRange):
    """A region where the layout does not allow it."""


class RegionOverlap(InvalidAddressRange):
    """A region that shares addresses with `.conflict`."""


class DuplicateName(InvalidAddressRange):
    """A region with the name of `.conflict`."""


class Misaligned(InvalidAddressRange):
    """A base, size or offset that is not a multiple of what it must be."""


class InvalidRegionType(AddressSpaceError, ValueError):
    """Not a region type."""


class InvalidMemorySourceType(AddressSpaceError, ValueError):
    """Not a memory source, or one that contradicts the other arguments."""


class UnmappedAddress(AddressSpaceError, LookupError):
    """No region, or no memory, at `.address`."""


class AccessDenied(AddressSpaceError, PermissionError):
    """The protection of `.region` forbids the access."""

    _errno = 13


class MemoryFault(AddressSpaceError, OSError):
    """The memory itself failed: its file was cut, its page is gone, its device answers nothing."""

    _errno = 14
    completed: int = 0
    """How many bytes were done before the fault."""
    cause: str = ""
    """What is wrong with the memory, as far as the kernel tells."""
    file_offset: int | None = None
    """Where in the file the fault is."""


class BackingError(AddressSpaceError, OSError):
    """The kernel refused to give a region its memory; `.errno` says why."""

    _errno = 5


class HugePagesShort(BackingError):
    """The kernel's pool of huge pages is too small."""

    _errno = 12
    missing: int = 0
    """How many pages are missing."""
    page_size: int = 0
    """Bytes a page."""


class NumaError(BackingError):
    """A NUMA node that the host does not have, or that cannot be used."""


class NoSpace(AddressSpaceError, ValueError):
    """Less room than the `.size` asked for: `.free` bytes in all, `.largest` in one hole."""

    free: int = 0
    """The free bytes within the bounds."""
    largest: int = 0
    """The bytes of the largest hole."""
    align: int = 1
    """The alignment asked for."""


class Fragmented(NoSpace):
    """Room enough, but no hole is large enough."""


class AlignmentImpossible(NoSpace):
    """Room enough in one hole, but not at a multiple of `.align`."""


class InvalidPlan(AddressSpaceError, ValueError):
    """A plan that can't be built; `.problems` are all of its problems."""

    problems: tuple[str, ...] = ()
    """What is wrong, one text for each."""


class RegionBusy(AddressSpaceError, BufferError):
    """Something holds the region, so it can't be removed."""

    leases: tuple[Lease, ...] = ()
    """What holds it."""


class NotContiguous(AddressSpaceError, BufferError):
    """A view can't cross from `.region` into `.conflict`; `.address` is the joint."""


class NotMapped(AddressSpaceError, RuntimeError):
    """The space has no memory, or its memory was closed."""


class GenerationChanged(AddressSpaceError, RuntimeError):
    """The space has changed since the generation that a transaction was to begin with."""


class PartialTransfer(AddressSpaceError, OSError):
    """A transfer between a file and guest memory ended early; `.errno` says why, `EIO` that the file ended."""

    _errno = 5
    done: int = 0
    """How many bytes were transferred."""


class ReentrantChange(AddressSpaceError, RuntimeError):
    """A change from inside a change of the same space."""


class ForkedProcess(AddressSpaceError, RuntimeError):
    """A forked child can't change the space of its parent."""


class ClientError(AddressSpaceError, RuntimeError):
    """A client refused a change or failed at it; what it raised is the `__cause__`."""

    client: Any = None
    """The client, as it was given to `subscribe`."""
    change: AddressSpaceChange | None = None
    """The change that it was asked about."""


class Unsupported(AddressSpaceError, OSError):
    """The memory, the kernel or the machine can't do it."""

    _errno = 95
    feature: str = ""
    """What can't be done."""
    how: str = ""
    """How to get the effect."""
