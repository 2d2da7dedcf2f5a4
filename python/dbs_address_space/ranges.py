"""Ranges of guest physical addresses."""

from __future__ import annotations

from ._core import check_type, checked_int, checked_range, guessed
from ._named_tuple import NamedTuple, in_hex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Self, SupportsIndex

__all__ = ["AddressRange", "VhostUserRegion"]


class _Numbers(NamedTuple):
    base: int
    size: int


@guessed
class AddressRange(_Numbers):
    """A half-open range of guest physical addresses, in bytes; it may be empty. The size may be text such as `"2GiB"`.

    Raises `InvalidAddressRange` for numbers that no range can have and an end past 2^64 - 1, `TypeError` for other types.

    >>> AddressRange(0x1000, 0x2000).end == 0x3000
    True
    >>> 0x3000 in AddressRange(0x1000, 0x2000)
    False
    >>> print(AddressRange(0xc000_0000, "1GiB"))
    [0xc000_0000, 0x1_0000_0000)
    """

    __slots__ = ()

    def __new__(cls, base: SupportsIndex, size: SupportsIndex | str) -> Self:
        """Checks the numbers, as for every range of this package."""
        return tuple.__new__(cls, checked_range(base, size))

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Self:  # type: ignore[override]  # `_replace` makes its result so
        return cls(*iterable)

    @property
    def end(self) -> int:
        """The first address behind the range."""
        return self.base + self.size

    @property
    def last_addr(self) -> int:
        """The address before `end`, or 0 where there is none: the empty range at 0."""
        return max(self.end - 1, 0)

    def __contains__(self, addr: SupportsIndex) -> bool:  # type: ignore[override]  # a range holds addresses, not its fields
        return self.base <= checked_int(addr, "addr") < self.end

    def intersect(self, other: AddressRange) -> AddressRange | None:
        """The addresses that both ranges have, or `None`.

        >>> AddressRange(0, 0x2000).intersect(AddressRange(0x1000, 0x2000))
        AddressRange(base=0x1000, size=0x1000)
        """
        check_type(other, tuple, "other")
        other = AddressRange(*other)
        base, end = max(self.base, other.base), min(self.end, other.end)
        return AddressRange(base, end - base) if base < end else None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base={self.base:#_x}, size={self.size:#_x})"

    def __str__(self) -> str:
        return f"[{self.base:#_x}, {self.end:#_x})"


class VhostUserRegion(NamedTuple):
    """A region of RAM in the memory table of a vhost-user backend, under the protocol's names; sizes in bytes.

    `userspace_addr` is the host address in this process, `fd` the mapping's own descriptor, borrowed, and `mmap_offset` the
    region's offset in that file.
    """

    guest_phys_addr: int
    memory_size: int
    userspace_addr: int
    mmap_offset: int
    fd: int

    def __repr__(self) -> str:
        return in_hex(self, "guest_phys_addr", "memory_size", "userspace_addr", "mmap_offset")
