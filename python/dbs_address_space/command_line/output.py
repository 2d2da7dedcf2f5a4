"""JSON and files, as several commands write them."""

from __future__ import annotations

import sys
from pathlib import Path

from .parsing import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dbs_address_space._core import AddressSpaceRegion

__all__ = ["print_json", "refuse_to_replace", "region_json", "write_picture"]

VERSION = 1


def print_json(kind: str, **content: Any) -> None:
    """One document; keys are only ever added within a version."""
    import json  # noqa: PLC0415  start-up

    print(json.dumps({"format": f"dbs-address-space/{kind}", "version": VERSION, **content}, indent=1))


def region_json(region: AddressSpaceRegion | None) -> dict[str, Any] | None:
    """A region as maps in JSON have it, if there is one."""
    from dbs_address_space.formats.map_json import region_content  # noqa: PLC0415  start-up

    return None if region is None else region_content(region)


def write_picture(path: str, text: str, *, is_forced: bool) -> None:
    """Writes a picture to a file that appears when it is whole; `-` is the standard output."""
    if path == "-":
        sys.stdout.write(text)
        return
    refuse_to_replace(path, is_forced=is_forced)
    from dbs_address_space._core import _NewFile  # noqa: PLC0415  start-up

    with _NewFile(path) as made:
        with open(made.fileno(), "w", encoding="utf-8", closefd=False) as file:
            file.write(text)
        made.publish()


def refuse_to_replace(path: str, *, is_forced: bool) -> None:
    """Refuses a file that is there, unless the user knows."""
    if not is_forced and Path(path).exists():
        raise UsageError(f"{path} is there already", "Give --force to replace it.")
