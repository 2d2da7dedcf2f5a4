"""The map in a console of `rich`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from dbs_address_space._core import AddressSpace, AddressSpaceBase

__all__ = ["lines"]


def lines(space: AddressSpace | AddressSpaceBase, _console: Any, options: Any) -> Iterator[Any]:
    """The table, as wide as the console, with its colours; only `rich` calls this, so it is there."""
    from rich.text import Text  # noqa: PLC0415  as above

    table = space.table(width=options.max_width, ascii=options.ascii_only, color=True)
    yield Text.from_ansi(table, no_wrap=True)
