"""A volatility3 layer on a mapped address space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dbs_address_space.adapters import needs

try:
    from volatility3.framework.exceptions import InvalidAddressException
    from volatility3.framework.interfaces.layers import DataLayerInterface
except ModuleNotFoundError as _error:
    raise needs("volatility3", _error) from _error

from dbs_address_space.errors import AddressSpaceError, InvalidAddressRange
from dbs_address_space.ranges import AddressRange

if TYPE_CHECKING:
    from collections.abc import Iterable

    from volatility3.framework.interfaces.context import ContextInterface

    from dbs_address_space._core import AddressSpace

__all__ = ["AddressSpaceLayer", "attach"]


def attach(space: AddressSpace, context: ContextInterface, name: str = "guest") -> AddressSpaceLayer:
    """Adds the memory of a mapped space to a context, as a physical layer with a name."""
    layer = AddressSpaceLayer(context, f"automagic.{name}", name, space=space)
    context.add_layer(layer)
    return layer


class AddressSpaceLayer(DataLayerInterface):  # type: ignore[misc]  # volatility3 has no types
    """Guest physical memory, always on the current map; holes and devices are invalid addresses."""

    def __init__(self, context: ContextInterface, config_path: str, name: str, *, space: AddressSpace) -> None:
        """Takes a mapped space (`NotMapped`)."""
        super().__init__(context, config_path, name)
        self._space = space
        self._memory = space.memory

    @property
    def minimum_address(self) -> int:
        """The first address with memory."""
        return min((int(region.base) for region in self._memory.regions), default=0)

    @property
    def maximum_address(self) -> int:
        """The last address with memory, inclusive as everywhere in volatility3."""
        return max((int(region.last_addr) for region in self._memory.regions), default=0)

    def is_valid(self, offset: int, length: int = 1) -> bool:
        """Whether all of a range has memory; a range that no machine can have has none."""
        try:
            return bool(self._memory.check_range(offset, length))
        except InvalidAddressRange:
            return False

    def read(self, offset: int, length: int, pad: bool = False) -> bytes:  # noqa: FBT001, FBT002  volatility3's signature
        """The bytes of a range; holes read as zeros with `pad`, else they are `InvalidAddressException`."""
        try:
            return self._memory.read(offset, length, pad=0 if pad else None)
        except AddressSpaceError as error:
            address = offset if error.address is None else error.address
            raise InvalidAddressException(self.name, address, str(error)) from error

    def write(self, offset: int, data: bytes) -> None:
        """Writes bytes, all or none."""
        try:
            self._memory.write(offset, data)
        except AddressSpaceError as error:
            address = offset if error.address is None else error.address
            raise InvalidAddressException(self.name, address, str(error)) from error

    def mapping(self, offset: int, length: int, ignore_errors: bool = False) -> list[Any]:  # noqa: FBT001, FBT002
        """The parts of a range that have memory, as volatility3's translations want them: offsets of this very layer."""
        parts = self._parts(offset, length)
        if not ignore_errors and sum(size for _, size in parts) < length:
            raise InvalidAddressException(self.name, offset, "a hole in the range")
        return [(low, size, low, size, self.name) for low, size in parts]

    def _parts(self, offset: int, length: int) -> list[AddressRange]:
        """The parts of a range that have memory, joined where they touch."""
        parts: list[AddressRange] = []
        for region in self._memory.regions:
            # Plain ints: volatility3 asks about ranges below 0 and beyond 2^64, too.
            low, end = max(region.base, offset), min(region.end, offset + length)
            part = AddressRange(low, end - low) if low < end else None
            if part and parts and parts[-1].end == part.base:
                part = AddressRange(parts[-1].base, parts.pop().size + part.size)
            parts += [part] if part else []
        return parts

    def _scan_iterator(self, scanner: Any, sections: Iterable[tuple[int, int]]) -> Iterable[Any]:
        """Scans the parts that have memory: volatility3 would drop a whole block for a hole in it."""
        parts = [part for section in sections for part in self._parts(*section)]
        yield from super()._scan_iterator(scanner, parts)

    @property
    def dependencies(self) -> list[str]:
        """It is the lowest layer."""
        return []

    @classmethod
    def get_requirements(cls) -> list[Any]:
        """It is made from a space, not from a configuration."""
        return []
