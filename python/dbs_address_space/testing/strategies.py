"""Hypothesis strategies: layouts, regions that they allow, and spaces."""

from __future__ import annotations

from dbs_address_space._core import AddressSpace, AddressSpaceLayout, AddressSpaceRegion, check_type, checked_size
from dbs_address_space.enums import AddressSpaceRegionType
from dbs_address_space.errors import InvalidArgument, RegionOverlap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import ModuleType
    from typing import SupportsIndex

    from hypothesis.strategies import DrawFn, SearchStrategy

__all__ = ["layouts", "regions", "spaces"]

_PAGE = 4096
_ANY = tuple(AddressSpaceRegionType)


def layouts() -> SearchStrategy[AddressSpaceLayout]:
    """Layouts of whole pages, with up to two MMIO windows, some of which touch or reach over the end of RAM.

    >>> from dbs_address_space.testing import layouts
    >>> from hypothesis import given
    >>> @given(layouts())
    ... def test_ends_are_those_of_pages(layout):
    ...     assert layout.phys_end % 4096 == 0
    >>> test_ends_are_those_of_pages()
    """
    found: SearchStrategy[AddressSpaceLayout] = _strategies().composite(_layout)()
    return found


def regions(
    *,
    layout: AddressSpaceLayout | None = None,
    region_types: Iterable[AddressSpaceRegionType | str] = _ANY,
    max_size: SupportsIndex | str = "16MiB",
) -> SearchStrategy[AddressSpaceRegion]:
    """Regions of whole pages that a layout allows, of all types by default.

    The usual layout has 46 bits, RAM below half of them, and a window below 4 GiB.
    `max_size` is that of one region. Raises `InvalidArgument` when the layout has no room for any of the types.

    >>> from dbs_address_space.testing import regions
    >>> from hypothesis import given
    >>> @given(regions(region_types=["device"], max_size="64KiB"))
    ... def test_a_device_has_no_memory(region):
    ...     assert not region.has_file
    >>> test_a_device_has_no_memory()
    """
    chosen = _usual() if layout is None else layout
    check_type(chosen, AddressSpaceLayout, "layout")
    pages = checked_size(max_size, "max_size") // _PAGE
    if not pages:
        raise InvalidArgument("max_size must be a page of 4 KiB or more")
    rooms = [(kind, room) for kind in map(AddressSpaceRegionType, region_types) for room in _rooms(chosen, kind)]
    if not rooms:
        raise InvalidArgument(
            f"the layout {chosen} has no room for such regions: give region_types= or another layout="
        )
    found: SearchStrategy[AddressSpaceRegion] = _strategies().composite(_region)(rooms, pages)
    return found


def spaces(
    *,
    layout: AddressSpaceLayout | None = None,
    region_types: Iterable[AddressSpaceRegionType | str] = _ANY,
    max_regions: int = 6,
    max_size: SupportsIndex | str = "16MiB",
    is_mapped: bool = False,
) -> SearchStrategy[AddressSpace]:
    """Spaces of up to `max_regions` regions with names, mapped where `is_mapped`; regions touch each other often.

    Each example is a space of its own: close it, or let it go. Raises as `regions` does.

    >>> from dbs_address_space.testing import spaces
    >>> from hypothesis import given
    >>> @given(spaces(region_types=["ram"], max_size="1MiB", is_mapped=True))
    ... def test_all_ram_is_written(space):
    ...     for region in space:
    ...         space.memory.fill(region.base, region.size, 1)
    >>> test_all_ram_is_written()
    """
    chosen = _usual() if layout is None else layout
    one = regions(layout=chosen, region_types=tuple(region_types), max_size=max_size)
    found: SearchStrategy[AddressSpace] = _strategies().composite(_space)(chosen, one, max_regions, is_mapped=is_mapped)
    return found


def _usual() -> AddressSpaceLayout:
    return AddressSpaceLayout(1 << 46, 0, 1 << 45, mmio_windows=[(3 << 30, 1 << 30)])


def _strategies() -> ModuleType:
    try:
        from hypothesis import strategies  # noqa: PLC0415  it is an extra
    except ModuleNotFoundError as error:
        how = "pip install 'dbs-address-space[testing]'"
        raise ModuleNotFoundError(f"strategies need hypothesis: {how}", name="hypothesis") from error
    return strategies


def _integers(draw: DrawFn, low: int, high: int) -> int:
    number: int = draw(_strategies().integers(low, high))
    return number


def _layout(draw: DrawFn) -> AddressSpaceLayout:
    mem_end = _integers(draw, 16, 1 << 30) * _PAGE
    phys_end = mem_end + _integers(draw, 0, 1 << 30) * _PAGE
    windows: list[tuple[int, int]] = []
    begin = 0
    for _ in range(_integers(draw, 0, 2)):
        base = begin + _integers(draw, 0, 1 << 20) * _PAGE
        size = _integers(draw, 1, 1 << 18) * _PAGE
        if base + size <= phys_end:
            windows.append((base, size))
            begin = base + size
    return AddressSpaceLayout(phys_end, 0, mem_end, mmio_windows=windows)


def _rooms(layout: AddressSpaceLayout, kind: AddressSpaceRegionType) -> list[tuple[int, int]]:
    """The addresses, in whole pages, in which a region of a type may lie."""
    windows = sorted((window.base, window.end) for window in layout.mmio_windows)
    if kind is AddressSpaceRegionType.FIRMWARE_MEMORY:
        return _whole_pages([(0, layout.phys_end)])
    if kind is not AddressSpaceRegionType.DEFAULT_MEMORY:
        return _whole_pages([*windows, (layout.mem_end, layout.phys_end)])
    begins = [layout.mem_start, *(end for _, end in windows)]
    ends = [*(base for base, _ in windows), layout.mem_end]
    return _whole_pages([(begin, min(end, layout.mem_end)) for begin, end in zip(begins, ends, strict=True)])


def _whole_pages(rooms: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    pages = [(-(-begin // _PAGE), end // _PAGE) for begin, end in rooms]
    return [(begin, end) for begin, end in pages if begin < end]


def _region(
    draw: DrawFn, rooms: Sequence[tuple[AddressSpaceRegionType, tuple[int, int]]], most: int
) -> AddressSpaceRegion:
    kind, (begin, end) = draw(_strategies().sampled_from(rooms))
    # Near the start of a room, where the next one is likely to meet it.
    base = _integers(draw, begin, min(end - 1, begin + 4 * most))
    size = _integers(draw, 1, min(most, end - base))
    return AddressSpaceRegion(kind, base * _PAGE, size * _PAGE)


def _space(
    draw: DrawFn,
    layout: AddressSpaceLayout,
    one: SearchStrategy[AddressSpaceRegion],
    most: int,
    *,
    is_mapped: bool,
) -> AddressSpace:
    space = AddressSpace(layout)
    for index, region in enumerate(draw(_strategies().lists(one, max_size=most))):
        try:
            space.insert_region(region.replace(name=f"{region.region_type.value}{index}"))
        except RegionOverlap as refused:
            _insert_behind(space, region.replace(name=f"{region.region_type.value}{index}"), refused.conflict)
    if is_mapped:
        space.map_memory()
    return space


def _insert_behind(space: AddressSpace, region: AddressSpaceRegion, conflict: object) -> None:
    """Inserts a region where it touches the one that is in its way, if there is room."""
    end = getattr(conflict, "end", None)
    moved = region.replace(base=end) if end and end + region.size < space.layout.phys_end else region
    if space.layout.is_region_valid(moved) and not space.overlapping(moved.base, moved.size):
        space.insert_region(moved)
