"""The JSON of an image: its layout, its regions and the place of each in the file. `docs/image-format.md` has the keys."""

from __future__ import annotations

import json

from ._core import AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion, BackingOptions, NumaPolicy
from ._named_tuple import NamedTuple
from .errors import AddressSpaceError, InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ._core import _ImagePart, _StreamReceiver

__all__ = ["Area", "BlobPlace", "Description", "described", "encoded"]

FORMAT, VERSION = "dbs-address-space/image", 1
_HAVE_MEMORY = ("ram", "firmware")
_PLACE = ("region_type", "base", "size", "name", "host_numa_node_id", "is_hotplug", "prot_flags")
_OF_OWN_MEMORY = {*_PLACE, "mem_type", "perm_flags", "is_anonpage", "backing"}
"""The arguments of regions that an image may give."""


class Area(NamedTuple):
    """The place of one piece of memory in the data, and the identity of its bytes."""

    offset: int
    size: int
    lineage: bytes


class BlobPlace(NamedTuple):
    """The place of a blob among the blobs, and its digest."""

    offset: int
    size: int
    digest: bytes


class Description(NamedTuple):
    """All that the JSON says; `places` has an area's index and an offset in it for each region by its base."""

    layout: AddressSpaceLayout
    regions: tuple[AddressSpaceRegion, ...]
    areas: tuple[Area, ...]
    places: dict[int, tuple[int, int]]
    blobs: dict[str, BlobPlace]
    parent: str | None

    def known(self) -> list[tuple[int, int, bytes, int | None]]:
        """The areas, and the address of the first byte of each."""
        addresses = {area: base for base, (area, offset) in self.places.items() if offset == 0}
        return [(*area, addresses.get(index)) for index, area in enumerate(self.areas)]

    def place(self, region: AddressSpaceRegion) -> int:
        """The offset in the data at which the memory of a region begins."""
        area, offset = self.places[region.base]
        return self.areas[area].offset + offset


def encoded(
    base: AddressSpaceBase,
    areas: Iterable[tuple[int, int, Iterable[int]]],
    places: Iterable[tuple[int, int, int]],
    blobs: dict[str, BlobPlace],
    parent: str | None,
) -> bytes:
    """The JSON of a map."""
    (phys_end, mem_start, mem_end), ranges = base.layout.__getnewargs_ex__()
    place_of = {address: {"area": area, "offset": offset} for address, area, offset in places}
    content = {
        "format": FORMAT,
        "version": VERSION,
        "layout": {"phys_end": phys_end, "mem_start": mem_start, "mem_end": mem_end, **ranges},
        "areas": [{"offset": at, "size": size, "lineage": bytes(lineage).hex()} for at, size, lineage in areas],
        "regions": [{**_region(region), "place": place_of.get(region.base)} for region in base.regions],
        "blobs": {name: {"offset": at, "size": size, "blake3": sum_.hex()} for name, (at, size, sum_) in blobs.items()},
        "parent": parent,
    }
    return json.dumps(content, separators=(",", ":"), default=list).encode()


def _region(region: AddressSpaceRegion) -> dict[str, Any]:
    """The arguments that make it; of a file or buffer of the user's only what memory of its own can have too."""
    place = {"region_type": region.region_type.value, "base": region.base, "size": region.size}
    keywords = _arguments(region)
    if keywords is None:
        kept = ("name", "host_numa_node_id", "is_hotplug")
        return {**place, **{name: getattr(region, name) for name in kept}, "prot_flags": int(region.prot_flags)}
    _, options = keywords["backing"].__getnewargs_ex__()
    options = {name: value for name, value in options.items() if value is not None}
    if "policy" in options:
        (mode, nodes), strict = options["policy"].__getnewargs_ex__()
        options["policy"] = {"mode": mode, "nodes": nodes, **strict}
    keywords = {name: value for name, value in keywords.items() if value not in (None, "", 0, False)}
    if keywords.pop("mem_file_path", None):
        # The file is the guest's that was saved: memory of the same pages, but of its own.
        keywords = {name: value for name, value in keywords.items() if name not in ("file_offset", "perm_flags")}
        keywords |= {"mem_type": "hugeshmem"} if "mem_type" in keywords else {}
        options.pop("trusted", None)
    return {**place, **keywords, "backing": options}


def _arguments(region: AddressSpaceRegion) -> dict[str, Any] | None:
    """The arguments that make a region, unless it is of a file or buffer of the user's: what is restored must not write there."""
    try:
        _, keywords = region.__getnewargs_ex__()
    except TypeError:
        return None
    return None if "file" in keywords else keywords


def described(part: _ImagePart | _StreamReceiver) -> Description:
    """The description in the JSON of an image or a stream; raises its `ImageCorrupt`."""
    try:
        description = parsed(part.json)
        check(description, part.room)
    except (
        AddressSpaceError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        missing = isinstance(error, KeyError) and not isinstance(error, AddressSpaceError)
        raise part.corrupt(f"its JSON: {error}{' is missing' if missing else ''}") from error
    return description


def parsed(text: bytes) -> Description:
    """The description in a JSON; raises what it is that is wrong: `LookupError`, `TypeError`, `ValueError`, `RecursionError`."""
    from .formats import json_text  # noqa: PLC0415  start-up

    content = json_text.parsed(text)
    if content["format"] != FORMAT or content["version"] != VERSION:
        raise InvalidArgument(
            f"{content['format']!r} version {content['version']!r} is not {FORMAT!r} version {VERSION}"
        )
    layout = content["layout"]
    ends = (layout.pop(name) for name in ("phys_end", "mem_start", "mem_end"))
    windows = [tuple(window) for window in layout.pop("mmio_windows")]
    reserved = [tuple(one) for one in layout.pop("reserved")]
    areas = tuple(
        Area(_number(area["offset"]), _number(area["size"]), bytes.fromhex(area["lineage"]))
        for area in content["areas"]
    )
    regions, places = [], {}
    for given in content["regions"]:
        place = given.pop("place")
        region = _read_region(given)
        regions.append(region)
        if place is not None:
            places[region.base] = (_number(place["area"]), _number(place["offset"]))
    blobs = {
        name: BlobPlace(_number(blob["offset"]), _number(blob["size"]), bytes.fromhex(blob["blake3"]))
        for name, blob in content["blobs"].items()
    }
    read = AddressSpaceLayout(*ends, mmio_windows=windows, reserved=reserved)
    # Overlaps and the like are found here.
    base = AddressSpaceBase.from_regions(regions, read)
    if not isinstance(content["parent"], str | None):
        raise InvalidArgument(f"parent is {content['parent']!r}, and not a name")
    return Description(read, base.regions, areas, places, blobs, content["parent"])


def _number(value: object) -> int:
    if type(value) is not int or value < 0:
        raise InvalidArgument(f"{value!r} is not a number from 0 on")
    return value


def _read_region(given: dict[str, Any]) -> AddressSpaceRegion:
    if not given.keys() <= _OF_OWN_MEMORY:
        # A file or a path would be one of whoever reads the image, and be written to.
        raise InvalidArgument(f"a region has {sorted(given.keys() - _OF_OWN_MEMORY)}, which memory of its own has not")
    options = given.pop("backing", {})
    if "policy" in options:
        options["policy"] = NumaPolicy(**options["policy"])
    return AddressSpaceRegion(**given, backing=BackingOptions(**options))


def check(description: Description, room: int) -> None:
    """Refuses places that do not lie in the data, or that are of other memory too."""
    reached = 0
    for area in sorted(description.areas):
        if len(area.lineage) != 16 or area.offset < reached or area.size <= 0:  # noqa: PLR2004  bytes of a lineage
            raise InvalidArgument(f"the area at {area.offset:#_x} lies in another one, or has no size")
        reached = area.offset + area.size
    if reached > room:
        raise InvalidArgument(f"the areas end at {reached:#_x}, and the data at {room:#_x}")
    for region in description.regions:
        if (region.region_type.value in _HAVE_MEMORY) != (region.base in description.places):
            raise InvalidArgument(f"{region} has memory and no place, or a place and no memory")
    sizes = {region.base: region.size for region in description.regions}
    for base, (index, offset) in description.places.items():
        if not 0 <= offset <= description.areas[index].size - sizes[base]:
            raise InvalidArgument(f"the region at {base:#_x} does not lie in its area")
