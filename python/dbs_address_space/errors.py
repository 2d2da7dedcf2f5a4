"""The errors of this package, all of them an `AddressSpaceError` and the built-in error that Python has for the case.

Each carries `.address`, `.size`, `.region` and `.conflict`, `None` where that makes no sense, and can be pickled. `__all__`, the
names of the package and the tests follow from the classes here.
"""

from __future__ import annotations

from collections.abc import Callable

from ._core import AddressSpaceChange, AddressSpaceRegion
from ._named_tuple import NamedTuple, in_hex


class Lease(NamedTuple):
    """Something that holds a region: `what` is `"view"`, `"pin"`, or the verb of a long access in flight.

    `pid` is the process of a follower that holds it, and `None` for this one.
    """

    what: str
    address: int
    size: int
    pid: int | None = None

    def __repr__(self) -> str:
        return in_hex(self, "address", "size")


class AddressSpaceError(Exception):
    """The base of every error of this package."""

    address: int | None = None
    """The first guest physical address that is in question."""
    size: int | None = None
    """The bytes that were asked for."""
    region: AddressSpaceRegion | None = None
    """The region in question."""
    conflict: AddressSpaceRegion | None = None
    """The region that is in the way."""

    _errno = 0
    """The errno of an `OSError` for which no system call failed."""
    _call_failed = False
    """Whether a system call failed, so that its errno is part of the text."""

    def __init__(self, message: str = "", *, errno: int | None = None, **data: object) -> None:
        """Takes the message, the errno of a system call that failed and, by name, the data of the class."""
        if isinstance(self, OSError):
            super().__init__(errno or self._errno, message)
            self._call_failed = errno is not None
        else:
            super().__init__(message)
        for name, value in data.items():
            if not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {name!r}")
            setattr(self, name, value)

    def __str__(self) -> str:
        message = str(self.args[-1]) if self.args else ""
        return f"[Errno {self.args[0]}] {message}" if self._call_failed else message

    def __reduce__(self) -> tuple[Callable[..., AddressSpaceError], tuple[object, ...], dict[str, object]]:
        state = {name: _picklable(value) for name, value in self.__dict__.items()}
        errno, message = self.args if isinstance(self, OSError) else (None, *self.args)
        return _rebuild, (type(self), message, errno), state


def _picklable(value: object) -> object:
    """The value, or `None` for one that means nothing elsewhere: a region that holds a user's file, a client."""
    import pickle  # noqa: PLC0415  most errors are printed, not pickled

    try:
        pickle.dumps(value)
    except Exception:  # noqa: BLE001 - a client is a user's object, whose pickling may raise anything
        return None
    return value


def _rebuild(error: type[AddressSpaceError], message: str, errno: int | None) -> AddressSpaceError:
    return error(message, errno=errno)


class InvalidArgument(AddressSpaceError, ValueError):
    """An argument that is wrong: a name, a text, an option, or arguments that contradict each other."""


class InvalidAddressRange(InvalidArgument):
    """An address, a size, an alignment or another number that is out of range."""


class LayoutViolation(InvalidAddressRange):
    """A region where the layout does not allow it."""


class RegionOverlap(InvalidAddressRange):
    """A region that shares addresses with `.conflict`."""


class DuplicateName(InvalidAddressRange):
    """A region with the name of `.conflict`."""


class Misaligned(InvalidAddressRange):
    """A base, size or offset that is not a multiple of what it must be."""


class InvalidRegionType(InvalidArgument):
    """Not a region type."""


class InvalidMemorySourceType(InvalidArgument):
    """Not a memory source, or one that contradicts the other arguments."""


class UnmappedAddress(AddressSpaceError, LookupError):
    """No region, or no memory, at `.address`."""

    address: int


class UnknownName(UnmappedAddress, KeyError):
    """No region has the name that was asked for."""


class AccessDenied(AddressSpaceError, PermissionError):
    """The protection of `.region` forbids the access."""

    _errno = 13


class MemoryFault(AddressSpaceError, OSError):
    """The memory itself failed: its file was truncated, no page could be allocated, or its device did not respond."""

    _errno = 14
    completed: int = 0
    """The number of bytes done before the fault."""
    cause: str = ""
    """The failure of the memory, as far as the kernel tells."""
    file_offset: int | None = None
    """The position of the fault in the file."""


class BackingError(AddressSpaceError, OSError):
    """A region could not be given its memory, or a client refused it; `.errno` says why.

    The text begins with the errno where a system call failed. Where nothing was asked of the kernel, because it was clear that it
    would refuse, `.errno` is the one that it would have answered.
    """

    _errno = 5


class HugePagesShort(BackingError):
    """The kernel's pool of huge pages is too small."""

    _errno = 12
    missing: int = 0
    """The number of pages that are missing."""
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
    """The problems, one text for each."""


class FormatError(AddressSpaceError, ValueError):
    """A file that is not what its format wants, that ends early, or of a kind that can't be read; the text says where."""

    path: str = ""
    """The file, as it was given."""
    format: str = ""
    """The name of the format, empty where none was recognized."""
    line: int | None = None
    """The line, from 1 on, of a text."""
    offset: int | None = None
    """The offset in bytes."""


class ImageError(AddressSpaceError, ValueError):
    """An image that can't be made or used so: the guest ran while it was saved, or the file is in use."""

    path: str = ""
    """The file."""
    chunk: int | None = None
    """The number of the 64 KiB of its data that are in question."""


class ImageCorrupt(ImageError):
    """An image that is damaged, or that never was one."""


class ImageMismatch(ImageError):
    """An image that does not belong to the parent, the machine or the memory that it is used with."""


class ImageTooNew(ImageError):
    """An image that a later version of this package wrote."""


class RegionBusy(AddressSpaceError, BufferError):
    """Something holds the region, so it can't be removed."""

    leases: tuple[Lease, ...] = ()
    """The holders of the region."""


class NotContiguous(AddressSpaceError, BufferError):
    """A view can't cross from `.region` into `.conflict`; `.address` is the joint."""


class NotMapped(AddressSpaceError, RuntimeError):
    """The space has no memory, or its memory was closed."""


class GenerationChanged(AddressSpaceError, RuntimeError):
    """The space has changed since the generation that a transaction was to begin with."""


class TransactionClosed(AddressSpaceError, RuntimeError):
    """A transaction was used outside its `with` block, or entered a second time."""


class CheckpointClosed(AddressSpaceError, ValueError):
    """A checkpoint was used after it was closed, or after one that was taken before it was restored."""


class PartialTransfer(AddressSpaceError, OSError):
    """A transfer between a file and guest memory ended early; `.errno` says why, `EIO` that the file ended."""

    _errno = 5
    done: int = 0
    """The number of bytes transferred."""


class ReentrantChange(AddressSpaceError, RuntimeError):
    """A change from inside a change of the same space."""


class ForkedProcess(AddressSpaceError, RuntimeError):
    """A forked child can't change the space of its parent, nor wait for it or use what a thread of it had locked."""


class ClientError(AddressSpaceError, RuntimeError):
    """A client refused a change or failed at it; the exception that it raised is the `__cause__`."""

    client: object = None
    """The client, as it was given to `subscribe`."""
    change: AddressSpaceChange | None = None
    """The change that it was asked about."""


class ShareError(AddressSpaceError, ConnectionError):
    """The connection between a leader and a follower ended, or never came about."""

    _errno = 103


class Unsupported(AddressSpaceError, OSError):
    """The memory, the kernel or the machine can't do it."""

    _errno = 95
    feature: str = ""
    """The feature that is missing."""
    how: str = ""
    """Another way to the same effect."""


# Not as an assignment, which type checkers would read: without one they take every public name of this file.
globals()["__all__"] = [
    name for name, value in globals().items() if isinstance(value, type) and value.__module__ == __name__
]
