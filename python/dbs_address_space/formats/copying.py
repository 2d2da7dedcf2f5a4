"""Guest memory written to files: no page that nobody has written is allocated, and zeroes become holes."""

from __future__ import annotations

from dbs_address_space._named_tuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

    from dbs_address_space._core import AddressSpace, AddressSpaceRegion
    from dbs_address_space.progress import Progress

__all__ = ["Copier", "memory_parts"]


class Copier(NamedTuple):
    """Copies memory into a new file, as `dump` was asked to."""

    path: str
    """The file's name, for errors."""
    threads: int | None = None
    progress: Callable[[Progress], object] | None = None

    def __call__(self, space: AddressSpace, file: BinaryIO, places: Sequence[tuple[int, int, int]]) -> None:
        """Writes ranges of a mapped space, each a base, a size and a position in the file, in one go.

        The positions ascend, and nothing may have been written there: pages of zeroes become holes. Raises as `read` does, and
        `OSError`.
        """
        file.flush()
        space.memory._write_sparse(file.fileno(), self.path, places, self.threads, self.progress)  # noqa: SLF001  of this package
        if places:
            _, size, position = places[-1]
            file.truncate(position + size)


class Part(NamedTuple):
    """Addresses of a region, and what errors call it."""

    base: int
    size: int
    prot_flags: int
    region: str

    @property
    def last_addr(self) -> int:
        """The last of them."""
        return self.base + self.size - 1


def memory_parts(space: AddressSpace) -> tuple[list[Part], list[Part]]:
    """RAM and firmware of a mapped space by address: what can be read, and what can't. Raises `NotMapped`."""
    regions = [region for region in space.memory.regions if region.region_type.value in ("ram", "firmware")]
    parts = [part for region in regions for part in _parts(region)]
    return [part for part in parts if part.prot_flags & 1], [part for part in parts if not part.prot_flags & 1]


def _parts(region: AddressSpaceRegion) -> list[Part]:
    """A region as it is; of a dump, the parts that are there."""
    runs = region._runs() or [(region.base, region.size)]  # noqa: SLF001  of this package
    return [Part(base, size, int(region.prot_flags), str(region)) for base, size in runs]
