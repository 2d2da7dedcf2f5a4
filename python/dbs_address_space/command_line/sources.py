"""Where maps and memory come from: files, the standard input, running programs."""

from __future__ import annotations

import sys

from .parsing import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dbs_address_space._core import AddressSpace, GuestMemory

__all__ = ["map_of", "memory_of"]

RUNNING = ("pid", "qmp", "space")
"""The kinds of running programs, as they stand before a colon; a file of such a name is `./pid:1234`."""


def map_of(source: str, *, format: str | None = None) -> AddressSpace:  # noqa: A002  as in `load`
    """The map of a source, with its memory where that is in the same file."""
    return _opened(source, format, wants_memory=False)


def memory_of(source: str, *, format: str | None = None) -> tuple[AddressSpace, GuestMemory]:  # noqa: A002  as in `load`
    """The memory of a source that has some, and its map."""
    space = _opened(source, format, wants_memory=True)
    if not space.is_mapped:
        raise UsageError(f"{source}: a map, without memory", "Give a dump, or a running program.")
    return space, space.memory


def _opened(source: str, format_: str | None, *, wants_memory: bool) -> AddressSpace:
    kind, colon, where = source.partition(":")
    if colon and kind in RUNNING:
        if format_ is not None:
            raise UsageError(f"{source}: --from is for files", f"A file of this name is ./{source}.")
        from . import monitor, served  # noqa: PLC0415  start-up

        opening = {"pid": monitor.of_process, "qmp": monitor.of_socket, "space": served.of_socket}[kind]
        return opening(where, wants_memory=wants_memory)
    from dbs_address_space.formats.exchange import load  # noqa: PLC0415  start-up

    return load(sys.stdin.buffer if source == "-" else source, format=format_)
