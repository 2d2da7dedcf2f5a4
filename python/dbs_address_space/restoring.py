"""The map of an image with memory: regions that show the same bytes are windows on one memory again."""

from __future__ import annotations

from contextlib import contextmanager

from ._core import AddressSpace, AddressSpaceRegion
from .enums import MapFlags
from .errors import NoSpace, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._core import _ImagePart
    from .image_description import Description

    Made = Callable[[AddressSpaceRegion, int], AddressSpaceRegion]
    """Gives a region, whose bytes begin at a place in the data, its memory."""

PAGE = 4096

__all__ = ["closed_on_error", "not_populated", "nothing_ahead", "over_file", "places", "space_of"]


def space_of(description: Description, made: Made) -> AddressSpace:
    """An unmapped space with the map. Raises `Unsupported` for memory that no region shows whole, and that has no room."""
    regions = [region for region in description.regions if region.base not in description.places]
    groups = _groups(description)
    for first, *others in (group for group in groups if _is_whole(group, description)):
        whole = made(first, description.place(first))
        regions += [whole, *(_window(region, whole, first, description) for region in others)]
    space = AddressSpace.from_regions(regions, description.layout)
    for group in groups:
        if not _is_whole(group, description):
            _insert_windows(space, group, description, made)
    return space


@contextmanager
def closed_on_error(space: AddressSpace) -> Iterator[AddressSpace]:
    """Closes a space that does not come to be what it was made for."""
    try:
        yield space
    except BaseException:
        space.close()
        raise


def places(description: Description) -> list[tuple[int, int, bytes | None]]:
    """The place of each region that has bytes to be filled, and their identity where it shows all of an area."""
    filled = []
    for group in _groups(description):
        for region in group[:1] if _is_whole(group, description) else group:
            area = description.areas[description.places[region.base][0]]
            lineage = area.lineage if region.size == area.size else None
            filled.append((region.base, description.place(region), lineage))
    return filled


def _groups(description: Description) -> list[list[AddressSpaceRegion]]:
    """Regions that show the same bytes, directly or by way of others; the one that begins first and is largest comes first."""
    shown = [region for region in description.regions if region.base in description.places]
    shown.sort(key=lambda region: (description.place(region), -region.size))
    groups: list[list[AddressSpaceRegion]] = []
    for region in shown:
        if groups and description.place(region) < _end(groups[-1], description):
            groups[-1].append(region)
        else:
            groups.append([region])
    return groups


def _end(group: list[AddressSpaceRegion], description: Description) -> int:
    return max(description.place(region) + region.size for region in group)


def _is_whole(group: list[AddressSpaceRegion], description: Description) -> bool:
    """Whether its first region shows all that the others do."""
    return _end(group, description) == description.place(group[0]) + group[0].size


def _window(
    region: AddressSpaceRegion, whole: AddressSpaceRegion, first: AddressSpaceRegion, description: Description
) -> AddressSpaceRegion:
    offset = description.place(region) - description.place(first)
    if offset % PAGE or (region.size % PAGE and offset + region.size != whole.size):
        how = "leave one of them out before it is saved"
        message = f"{region} shows bytes of {first} that are not whole pages of memory of its own: {how}"
        raise Unsupported(message, region=region, feature="restoring shared bytes", how=how)
    window = AddressSpaceRegion.alias(
        region.base, whole, offset, region.size, prot_flags=region.prot_flags, name=region.name
    )
    return window.replace(is_hotplug=region.is_hotplug, host_numa_node_id=region.host_numa_node_id)


def _insert_windows(space: AddressSpace, group: list[AddressSpaceRegion], description: Description, made: Made) -> None:
    """Inserts regions that show parts of what none of them shows whole, which is at another address meanwhile."""
    first, place = group[0], description.place(group[0])
    size = _end(group, description) - place
    try:
        base = AddressSpace.from_regions(description.regions, description.layout).find_free(
            size, region_type=first.region_type
        )
    except NoSpace as error:
        how = f"leave {size:#_x} addresses free, or one of the regions out, before it is saved"
        message = f"{first} and {group[1]} show parts of {size:#_x} bytes, for which there is no room: {how}"
        raise Unsupported(message, region=first, feature="restoring shared bytes", how=how) from error
    whole = made(first.replace(base=base, size=size, name=None), place)
    with space.transaction() as change:
        change.insert_region(whole)
        for region in group:
            change.insert_region(_window(region, whole, first, description))
        change.remove_region(base)


def not_populated(region: AddressSpaceRegion, _place: int) -> AddressSpaceRegion:
    """The region without a wish for pages that are there from the start."""
    if region.backing.mlock:
        how = "restore by mode='copy'"
        message = f"{region} is locked in memory (mlock), which would bring in zeroes: {how}"
        raise Unsupported(message, region=region, feature="filling locked memory", how=how)
    if region.perm_flags & MapFlags.POPULATE:
        return region.replace(perm_flags=region.perm_flags & ~MapFlags.POPULATE)
    return region


def nothing_ahead(region: AddressSpaceRegion, _place: int) -> AddressSpaceRegion:
    """The region without a wish for pages before there are bytes for them, which a hostile sender makes as large as it likes."""
    perm_flags, backing = region.perm_flags & ~MapFlags.POPULATE, region.backing.replace(mlock=None)
    return region.replace(perm_flags=perm_flags, backing=backing)


def over_file(part: _ImagePart) -> Made:
    """Makes regions private maps of an image."""

    def made(region: AddressSpaceRegion, place: int) -> AddressSpaceRegion:
        return AddressSpaceRegion(
            region.region_type,
            region.base,
            region.size,
            name=region.name,
            host_numa_node_id=region.host_numa_node_id,
            file=part.fileno(),
            file_offset=part.data_offset + place,
            perm_flags=MapFlags.PRIVATE,
            prot_flags=region.prot_flags,
            is_hotplug=region.is_hotplug,
        )

    return made
