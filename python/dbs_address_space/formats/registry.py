"""The formats that there are, by name, and the recognition of a file by its content."""

from __future__ import annotations

from dbs_address_space._core import check_type
from dbs_address_space.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, BinaryIO

    from dbs_address_space._core import AddressSpace

    from .copying import Copier
    from .source import Source

__all__ = ["Format", "named", "names", "of_suffix", "recognized", "register"]


class Format:
    """A format of files: how it is recognized, read and written, and its usual suffixes.

    `sniff(source)` looks at the content; without it the format is read only when it is named. `read(source, **options)` gives the
    space. `write(space, file, copy)` writes to a new file, and `copy(space, file, places)` puts memory there. Either may be
    missing; `refusal` says why a file can't be read, and what to do instead.

    >>> Format("numbers", "a list of numbers").name
    'numbers'
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    refusal: str
    sniff: Callable[[Source], bool] | None
    read: Callable[..., AddressSpace] | None
    write: Callable[[AddressSpace, BinaryIO, Copier], None] | None

    def __init__(  # noqa: PLR0913  each but the first two by its name
        self,
        name: str,
        title: str,
        *,
        sniff: Callable[[Source], bool] | None = None,
        read: Callable[..., AddressSpace] | None = None,
        write: Callable[[AddressSpace, BinaryIO, Copier], None] | None = None,
        suffixes: tuple[str, ...] = (),
        refusal: str = "there is no reader",
    ) -> None:
        """Takes a name for programs, and a title for people."""
        self.name, self.title, self.suffixes, self.refusal = name, title, suffixes, refusal
        self.sniff, self.read, self.write = sniff, read, write

    def __repr__(self) -> str:
        return f"<Format {self.name!r}: {self.title}>"


_FORMATS: dict[str, Format] = {}


def register(format: Format) -> None:  # noqa: A002  the word of `load` and `dump`
    """Adds a format, which `load` tries before those that were there. Raises `InvalidArgument` for a name that is taken.

    >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion, load
    >>> def read(source):
    ...     size = int(source.text().split()[1])
    ...     return AddressSpace.from_regions([AddressSpaceRegion("ram", 0, size)], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    >>> register(Format("megs", "a size", sniff=lambda source: source.head.startswith(b"RAM "), read=read))
    >>> load(b"RAM 4096").ram_size
    4096
    """
    check_type(format, Format, "format")
    if format.name in _formats():
        raise InvalidArgument(f"there is a format {format.name!r} already: {_FORMATS[format.name].title}")
    others = dict(_FORMATS)
    _FORMATS.clear()
    _FORMATS.update({format.name: format, **others})


def _formats() -> dict[str, Format]:
    if not _FORMATS:
        from .builtin import FORMATS  # noqa: PLC0415  that table needs this class

        _FORMATS.update({format_.name: format_ for format_ in FORMATS})
    return _FORMATS


def named(name: str, verb: str) -> Format:
    """The format of a name, which must have the verb: `"read"` or `"write"`."""
    found = _formats().get(name)
    if found is None or getattr(found, verb) is None:
        what = f"can't {verb}" if found else "there is no"
        raise InvalidArgument(f"{what} format {name[:200]!r}; those to {verb} are {', '.join(names(verb))}")
    return found


def names(verb: str) -> list[str]:
    """The names of the formats that can be read, or written."""
    return sorted(format_.name for format_ in _formats().values() if getattr(format_, verb) is not None)


def recognized(source: Source) -> Format | None:
    """The first format that knows the content."""
    known = (format_ for format_ in _formats().values() if format_.sniff is not None and format_.sniff(source))
    return next(known, None)


def of_suffix(path: str) -> Format | None:
    """The format to write that has the suffix of a path."""
    writable: dict[str, Any] = {
        suffix: format_ for format_ in _formats().values() if format_.write for suffix in format_.suffixes
    }
    return next((format_ for suffix, format_ in writable.items() if path.endswith(suffix)), None)
