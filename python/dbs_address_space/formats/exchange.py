"""Maps and memory from files, and into files."""

from __future__ import annotations

import os
from pathlib import Path

from dbs_address_space._core import AddressSpace, _NewFile, check_function, check_type, checked_threads
from dbs_address_space.errors import InvalidArgument
from dbs_address_space.paths import path_text

from . import registry
from .copying import Copier
from .source import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, BinaryIO, SupportsIndex

    from typing_extensions import Buffer

    from dbs_address_space.progress import Progress

    from .source import Stream

__all__ = ["dump", "load"]


def load(
    source: str | os.PathLike[str] | Stream | Buffer,
    *,
    format: str | None = None,  # noqa: A002  what one looks for
    **options: Any,
) -> AddressSpace:
    """A space from a file that holds a map, or memory: a mapped one where there is memory in it, read-only unless it is an image.

    `source` is a path, what `open()` gives in a binary mode, another binary stream, which is read whole, or the bytes of a
    file. The format is recognized by the content, or `format` names it. `docs/formats.md` has all formats and the `options` of
    each. Memory is mapped where it lies in the file, which may be larger than the host's memory. Packed memory, and that of many
    pieces, is read when it is asked for, or copied with `copy=True`. Bytes that a dump does not have can't be read:
    `UnmappedAddress` where it does not know of memory, `AccessDenied` where it leaves some out; `absent="zero"` makes zeroes of
    the latter.

    Raises `FormatError` with `.path`, `.line` and `.offset`, `TypeError` for an option that the format does not have, and what
    opening does.

    >>> import struct
    >>> page = b"hello".ljust(4096)
    >>> lime = struct.pack("<IIQQ8x", 0x4C694D45, 1, 0x1000, 0x1FFF) + page
    >>> load(lime).memory.read(0x1000, 5)
    b'hello'
    """
    if format is not None:
        check_type(format, str, "format")
    with Source(source) as opened:
        found = registry.named(format, "read") if format is not None else registry.recognized(opened)
        if found is None:
            known = ", ".join(registry.names("read"))
            raise opened.error(
                f"its format is not recognized; raw memory needs format='raw' (--from raw), the others are {known}"
            )
        opened.format = found.name
        if found.read is None:
            raise opened.error(f"{found.title}, which is not read: {found.refusal}")
        try:
            return found.read(opened, **options)
        except TypeError as error:
            before, unknown, option = str(error).rpartition("unexpected keyword argument ")
            if unknown and before == "read() got an ":
                message = f"{found.title} has no option {option}: docs/formats.md has those of each format"
                raise TypeError(message) from error
            raise


def dump(
    space: AddressSpace,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002  as for `load`
    threads: SupportsIndex | None = None,
    progress: Callable[[Progress], object] | None = None,
) -> None:
    """Writes the memory of a mapped space, or the map of any, to a new file: `"elf"`, `"lime"` or `"raw"`, or as `"json"`.

    Without `format` the suffix of the path decides. `docs/formats.md` has all of them. The file appears under its name when it is
    whole, and replaces what was there; an error or Ctrl-C leaves nothing behind. Pages of zeroes become holes of the file, and
    none is allocated in the guest. The guest may run: each page is as it was at some moment of the dump. `threads` threads write,
    by default as many as help; `progress(p)` is called at most 20 times a second. Raises `InvalidArgument` for an unknown format
    or a path that is not a plain file, `NotMapped` where a format wants memory, `OSError`.

    >>> import tempfile
    >>> from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion
    >>> space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, "1MiB")], AddressSpaceLayout(1 << 46, 0, 1 << 45))
    >>> space.map_memory().write(0x1000, b"hello")
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     dump(space, directory + "/guest.elf")
    ...     load(directory + "/guest.elf").memory.read(0x1000, 5)
    b'hello'
    """
    check_type(space, AddressSpace, "space")
    if format is not None:
        check_type(format, str, "format")
    check_function(progress, "progress", "a Progress")
    target = Path(os.path.realpath(path_text(path, "path")))
    found = registry.named(format, "write") if format is not None else registry.of_suffix(target.name)
    if found is None or found.write is None:
        known = ", ".join(registry.names("write"))
        raise InvalidArgument(f"the suffix of {str(path)!r} tells no format: give format= (--to), one of {known}")
    # What is still a link leads in a circle.
    if target.is_symlink() or (target.exists() and not target.is_file()):
        raise InvalidArgument(f"{str(path)!r} is not a plain file, and would be replaced")
    copy = Copier(str(target), checked_threads(threads), progress)
    _write(target, lambda file: found.write(space, file, copy))  # type: ignore[misc]


def _write(target: Path, write: Callable[[BinaryIO], None]) -> None:
    """Makes a file that has its name, and takes the place of what had it, when it is whole."""
    with _NewFile(str(target)) as made:
        with open(made.fileno(), "w+b", closefd=False) as file:
            write(file)
        made.publish()
