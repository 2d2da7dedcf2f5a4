"""The abilities of the standard streams."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["has_color", "is_ascii", "width"]


def has_color(stream: TextIO, wanted: str | None) -> bool:
    """Whether escape sequences for colours go to a stream: as the option says, else as the environment does."""
    wanted = wanted or os.environ.get("DBS_ADDRESS_SPACE_COLOR") or "auto"
    if wanted != "auto":
        return wanted == "always"
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (stream.isatty() and os.environ.get("TERM") != "dumb")


def is_ascii(stream: TextIO) -> bool:
    """Whether a stream can show nothing beyond ASCII."""
    encoding = (stream.encoding or "ascii").lower().replace("-", "").replace("_", "")
    return encoding != "utf8" or os.environ.get("TERM") == "dumb"


def width(stream: TextIO) -> int:
    """The columns of a terminal; of a pipe, those that `COLUMNS` says."""
    try:
        return max(os.get_terminal_size(stream.fileno()).columns, 40)
    except OSError:
        # As `shutil.get_terminal_size`, whose module takes longer to import than this package.
        columns = os.environ.get("COLUMNS", "")
        return int(columns) if columns.isdecimal() and int(columns) else 80
