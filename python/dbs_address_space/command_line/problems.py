"""How errors are told: one line that says where and what, one that says what to do."""

from __future__ import annotations

import os
import sys

from dbs_address_space.errors import AddressSpaceError

from .parsing import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["tell"]

USERS = (UsageError, AddressSpaceError, OSError, MemoryError)
"""Errors of the user's and of the world's."""


def tell(error: Exception, *, is_json: bool) -> int:
    """Writes an error to the standard error, and gives the exit status."""
    if not isinstance(error, USERS):
        return _tell_of_ours(error)
    message = _message(error)
    hint = getattr(error, "hint", "") or getattr(error, "how", "")
    if is_json:
        import json  # noqa: PLC0415  start-up

        fields: dict[str, Any] = {name: getattr(error, name, None) for name in ("line", "offset")}
        file = getattr(error, "path", None) or getattr(error, "filename", None)
        content = {"message": message, "hint": hint or None, "file": file and str(file), **fields}
        print(json.dumps({"error": content}), file=sys.stderr)
    else:
        print(f"error: {_visible(message)}" + (f"\n  {_visible(hint)}" if hint else ""), file=sys.stderr)
    return 2


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error) or type(error).__name__


def _visible(text: str) -> str:
    """A text as it may be sent to a terminal: names in it are of strangers."""
    shown = (char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode() for char in text)
    encoding = sys.stderr.encoding or "ascii"
    return "".join(shown).encode(encoding, "backslashreplace").decode(encoding)


def _tell_of_ours(error: Exception) -> int:
    """A bug: one line, and the traceback for whoever asks for it."""
    print(f"error: internal: {type(error).__name__}: {_visible(str(error))}", file=sys.stderr)
    print("  This is a bug. Run it again with DBS_ADDRESS_SPACE_DEBUG=1, and report what it prints.", file=sys.stderr)
    if os.environ.get("DBS_ADDRESS_SPACE_DEBUG"):
        import traceback  # noqa: PLC0415  start-up

        traceback.print_exception(error)
    return 2
