"""Ranges of guest physical addresses."""

from __future__ import annotations

from collections import namedtuple

__all__ = ["AddressRange"]


class AddressRange(namedtuple("AddressRange", ["base", "size"])):
    """A half-open range of guest physical addresses, in bytes.

    >>> AddressRange(0x1000, 0x2000).end == 0x3000
    True
    >>> 0x3000 in AddressRange(0x1000, 0x2000)
    False
    >>> print(AddressRange(0xc000_0000, 1 << 30))
    [0xc000_0000, 0x1_0000_0000)
    """

    __slots__ = ()
    base: int
    size: int

    @property
    def end(self) -> int:
        """The first address behind the range."""
        return self.base + self.size

    @property
    def last_addr(self) -> int:
        """The last address of the range; below `base` when the range is empty."""
        return self.end - 1

    def __contains__(self, addr: object) -> bool:
        return isinstance(addr, int) and self.base <= addr < self.end

    def intersect(self, other: AddressRange) -> AddressRange | None:
        """The addresses that both ranges have, or `None`.

        >>> AddressRange(0, 0x2000).intersect(AddressRange(0x1000, 0x2000))
        AddressRange(base=4096, size=4096)
        """
        base, end = max(self.base, other.base), min(self.end, other.end)
        return AddressRange(base, end - base) if base < end else None

    def __str__(self) -> str:
        return f"[{self.base:#_x}, {self.end:#_x})"
