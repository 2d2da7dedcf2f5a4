"""A map as JSON, as this command reads and writes it. Addresses are hexadecimal strings, and ints are read too."""

from __future__ import annotations

import json

from dbs_address_space._core import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
from dbs_address_space.errors import AddressSpaceError
from dbs_address_space.formats.json_text import parsed

from .output import region_json
from .parsing import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dbs_address_space._core import AddressSpaceBase

__all__ = ["FORMAT", "content_of", "space_of"]

FORMAT = "dbs-address-space/map"


def content_of(space: AddressSpace, shown: AddressSpace | AddressSpaceBase, source: str) -> dict[str, Any]:
    """The regions that are shown, and all that the space says of addresses."""
    layout = space.layout
    ends = {"mem_start": hex(layout.mem_start), "mem_end": hex(layout.mem_end), "phys_end": hex(layout.phys_end)}
    return {
        "format": FORMAT,
        "version": 1,
        "source": source,
        "generation": space.generation,
        "mapped": space.is_mapped,
        "layout": {**ends, "mmio_windows": [_range(window) for window in layout.mmio_windows]},
        "regions": [region_json(region) for region in shown.regions],
        "free": [_range(gap) for gap in space.gaps()],
        "reservations": [{**_range(one), "owner": one.owner} for one in space.reservations],
    }


def _range(range_: Any) -> dict[str, Any]:
    return {"base": hex(range_.base), "end": hex(range_.end), "size": range_.size}


def space_of(content: bytes, source: str) -> AddressSpace:
    """The space of a JSON text; one that is wrong is told with its source."""
    try:
        found = parsed(content)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise UsageError(f"{source}: not a map of this package", f'Its JSON begins with "format": "{FORMAT}".')
        regions = [_region(region) for region in found["regions"]]
        return AddressSpace.from_regions(regions, _layout(found["layout"]))
    except json.JSONDecodeError as error:
        raise UsageError(f"{source}:{error.lineno}: not JSON: {error.msg}") from error
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        if isinstance(error, AddressSpaceError):
            raise
        raise UsageError(f"{source}: not a map: {type(error).__name__}: {error}") from error


def _address(value: int | str) -> int:
    return int(value, 16) if isinstance(value, str) else value


def _layout(content: dict[str, Any]) -> AddressSpaceLayout:
    ends = (_address(content[name]) for name in ("phys_end", "mem_start", "mem_end"))
    windows = content.get("mmio_windows", ())
    return AddressSpaceLayout(*ends, mmio_windows=[_bounds(window) for window in windows])


def _bounds(content: dict[str, Any]) -> tuple[int, int]:
    base = _address(content["base"])
    return base, _address(content["end"]) - base


def _region(content: dict[str, Any]) -> AddressSpaceRegion:
    backing = content.get("backing") or {}
    return AddressSpaceRegion(
        content["region_type"],
        *_bounds(content),
        name=content.get("name"),
        host_numa_node_id=content.get("host_numa_node_id"),
        is_hotplug=content.get("is_hotplug", False),
        prot_flags=content.get("prot"),
        mem_type=backing.get("mem_type"),
        page_size=backing.get("page_size"),
    )
