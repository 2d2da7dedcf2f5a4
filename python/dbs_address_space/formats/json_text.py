"""JSON, however long: Ctrl-C ends the reading of it."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["parsed"]

SHORT = 8 << 20
"""A text that is read in a moment, without such calls."""


def parsed(text: str | bytes) -> Any:
    """The objects of a text, as `json.loads` gives them; C code reads them, and heeds signals only where it calls Python's."""
    if len(text) <= SHORT:
        return json.loads(text)
    return json.loads(text, object_hook=_object, parse_int=_number)


def _object(content: dict[str, Any]) -> dict[str, Any]:
    return content


def _number(digits: str) -> int:
    return int(digits)
