"""JSON and files, as several commands write them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from .parsing import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dbs_address_space._core import AddressSpaceRegion

__all__ = ["print_json", "region_json", "write_picture"]

VERSION = 1


def print_json(kind: str, **content: Any) -> None:
    """One document; keys are only ever added within a version."""
    print(json.dumps({"format": f"dbs-address-space/{kind}", "version": VERSION, **content}, indent=1))


def region_json(region: AddressSpaceRegion | None) -> dict[str, Any] | None:
    """A region as maps in JSON have it: addresses are hexadecimal strings, sizes ints."""
    if region is None:
        return None
    has_memory = region.region_type.value in {"ram", "firmware"}
    return {
        "name": region.name,
        "region_type": region.region_type.value,
        "base": hex(region.base),
        "end": hex(region.end),
        "size": region.size,
        "prot": str(region.prot_flags) if has_memory else None,
        "host_numa_node_id": region.host_numa_node_id,
        "is_hotplug": region.is_hotplug,
        "backing": _backing(region) if region.region_type.value in {"ram", "firmware"} else None,
    }


def _backing(region: AddressSpaceRegion) -> dict[str, Any]:
    return {
        "mem_type": region.mem_type and region.mem_type.value,
        "page_size": region.page_size,
        "path": region.mem_file_path or None,
        "file_offset": region.file_offset,
    }


def write_picture(path: str, text: str, *, is_forced: bool) -> None:
    """Writes a picture to a file that appears when it is whole; `-` is the standard output."""
    if path == "-":
        sys.stdout.write(text)
        return
    target = Path(path)
    if target.exists() and not is_forced:
        raise UsageError(f"{path} is there already", "Give --force to replace it.")
    part = target.with_name(f".{target.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)
