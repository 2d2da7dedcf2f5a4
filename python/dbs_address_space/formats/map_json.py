"""The map as JSON, for programs: `map.schema.json` describes it.

Addresses are hexadecimal strings, and ints are read too; sizes and counts are ints. Keys are only ever added within a version,
and those that are not known are passed over.
"""

from __future__ import annotations

import json

from dbs_address_space._core import AddressSpace, AddressSpaceLayout, AddressSpaceRegion, protection_text
from dbs_address_space.errors import AddressSpaceError
from dbs_address_space.ranges import AddressRange

from .json_text import parsed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from dbs_address_space.errors import FormatError

    from .copying import Copier
    from .source import Source

__all__ = ["FORMAT", "VERSION", "content_of", "read", "region_content", "write"]

FORMAT, VERSION = "dbs-address-space/map", 1


def write(space: AddressSpace, file: BinaryIO, _copy: Copier) -> None:
    """The map of a space, with or without memory."""
    file.write(json.dumps(content_of(space, "space"), indent=1).encode() + b"\n")


def content_of(space: AddressSpace, source: str) -> dict[str, Any]:
    """The JSON of a space as objects of Python; `source` says where the space is from."""
    base = space.snapshot()
    return {
        "format": FORMAT,
        "version": VERSION,
        "source": source,
        "generation": base.generation,
        "mapped": space.is_mapped,
        "layout": _layout(base.layout),
        "regions": [region_content(region) for region in base.regions],
        "free": [_range(gap) for gap in base.gaps()],
        "reservations": [{**_range(one), "owner": one.owner} for one in space.reservations],
    }


def _range(range_: Any) -> dict[str, Any]:
    """An object that has a base, an end and a size."""
    return {"base": hex(range_.base), "end": hex(range_.end), "size": range_.size}


def _layout(layout: AddressSpaceLayout) -> dict[str, Any]:
    ends = {"mem_start": hex(layout.mem_start), "mem_end": hex(layout.mem_end), "phys_end": hex(layout.phys_end)}
    windows, reserved = (
        [_range(AddressRange(*one[:2])) for one in all_] for all_ in (layout.mmio_windows, layout.reserved)
    )
    kinds = [{**range_, "kind": kind} for range_, (_, _, kind) in zip(reserved, layout.reserved, strict=True)]
    return {**ends, "mmio_windows": windows, "reserved": kinds}


def region_content(region: AddressSpaceRegion) -> dict[str, Any]:
    """A region as maps in JSON have it."""
    has_memory = region.region_type.value in ("ram", "firmware")
    return {
        "name": region.name,
        "region_type": region.region_type.value,
        **_range(region),
        "prot": protection_text(region.prot_flags) if has_memory else None,
        "host_numa_node_id": region.host_numa_node_id,
        "is_hotplug": region.is_hotplug,
        "backing": _backing(region) if has_memory else None,
    }


def _backing(region: AddressSpaceRegion) -> dict[str, Any]:
    return {
        "mem_type": region.mem_type and region.mem_type.value,
        "page_size": region.page_size,
        "path": region.mem_file_path or None,
        "file_offset": region.file_offset,
    }


def read(source: Source) -> AddressSpace:
    """An unmapped space. Regions over files of the process that wrote it get memory of their own."""
    content = _parsed(source)
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        raise source.error(
            f"it is {content.get('format')!r}, version {content.get('version')!r}: not {FORMAT!r} {VERSION}"
        )
    try:
        regions = [_read_region(source, number, region) for number, region in enumerate(content["regions"])]
        return AddressSpace.from_regions(regions, _read_layout(content["layout"]))
    except (AddressSpaceError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise _told(source, "the map", error) from error


def _parsed(source: Source) -> dict[str, Any]:
    try:
        content = parsed(source.text())
    except json.JSONDecodeError as error:
        raise source.error(f"not JSON: {error.msg}", line=error.lineno, offset=error.pos) from error
    except (RecursionError, ValueError) as error:
        raise _told(source, "the JSON", error) from error
    if not isinstance(content, dict):
        raise source.error("the JSON of a map is an object")
    return content


def _told(source: Source, where: str, error: Exception) -> FormatError:
    """A `FormatError` for what is wrong in it; one that says it already stays."""
    if hasattr(error, "offset"):
        return error  # type: ignore[return-value]  # only a `FormatError` has one
    is_missing = type(error) is KeyError
    return source.error(f"{where}: {error} is missing" if is_missing else f"{where}: {error}")


def _address(value: int | str) -> int:
    return int(value, 16) if isinstance(value, str) else value


def _read_range(content: dict[str, Any]) -> tuple[int, int]:
    base = _address(content["base"])
    return base, _address(content["end"]) - base


def _read_layout(content: dict[str, Any]) -> AddressSpaceLayout:
    ends = (_address(content[name]) for name in ("phys_end", "mem_start", "mem_end"))
    windows = [_read_range(window) for window in content.get("mmio_windows", ())]
    reserved = [(*_read_range(range_), range_.get("kind", "reserved")) for range_ in content.get("reserved", ())]
    return AddressSpaceLayout(*ends, mmio_windows=windows, reserved=reserved)


def _read_region(source: Source, number: int, content: dict[str, Any]) -> AddressSpaceRegion:
    backing = content.get("backing") or {}
    given = {
        "name": content.get("name"),
        "host_numa_node_id": content.get("host_numa_node_id"),
        "is_hotplug": content.get("is_hotplug", False),
        "prot_flags": content.get("prot"),
        "mem_type": backing.get("mem_type"),
        "page_size": backing.get("page_size"),
        "mem_file_path": backing.get("path") or "",
    }
    try:
        return AddressSpaceRegion(content["region_type"], *_read_range(content), **given)
    except (AddressSpaceError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise _told(source, f"regions[{number}]", error) from error
