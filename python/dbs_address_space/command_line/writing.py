"""Spaces into files, as `dump` and `convert` write them."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from dbs_address_space._core import size_text
from dbs_address_space.formats import registry
from dbs_address_space.formats.copying import Copier
from dbs_address_space.formats.exchange import dump

from . import progress
from .output import print_json, refuse_to_replace
from .parsing import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from dbs_address_space._core import AddressSpace

    from .parsing import Parser

__all__ = ["add_options", "write"]


def add_options(options: Parser) -> Parser:
    """The options of a command that writes a file, added to its others."""
    options.add_argument("--to", metavar="FORMAT")
    options.add_argument("--force", action="store_true")
    return options


def write(space: AddressSpace, options: Namespace, *, to: str | None) -> None:
    """Writes a space to the file, and tells what came of it. `to` is the format where the suffix tells none."""
    if options.file == "-":
        _print(space, to)
        return
    refuse_to_replace(options.file, is_forced=options.force)
    started = time.monotonic()
    suffixed = registry.of_suffix(options.file)
    format_ = options.to or (suffixed.name if suffixed else to)
    with progress.shown("writing", is_quiet=options.quiet, ending="   Ctrl-C leaves nothing") as shown:
        dump(space, options.file, format=format_, progress=shown)
    _tell(space, options, format_ or "", time.monotonic() - started)


def _print(space: AddressSpace, to: str | None) -> None:
    """A map to the standard output; memory wants a file, for the holes in it."""
    found = registry.named(to or "json", "write")
    if found.name in {"elf", "lime", "raw"}:
        raise UsageError(f"{found.title} is written to files only", "Give the name of a file.")
    from io import BytesIO  # noqa: PLC0415  start-up

    content = BytesIO()
    found.write(space, content, Copier("-"))  # type: ignore[misc]  # `named` has made sure
    sys.stdout.flush()
    sys.stdout.buffer.write(content.getvalue())


def _tell(space: AddressSpace, options: Namespace, name: str, seconds: float) -> None:
    status = Path(options.file).stat()
    size, data = status.st_size, min(status.st_blocks << 9, status.st_size)
    if options.json:
        content = {"path": options.file, "written": name, "regions": len(space)}
        print_json("dump", **content, size=size, data=data, seconds=round(seconds, 3))
    elif not options.quiet:
        title = registry.named(name, "write").title
        sizes = f"{size_text(size)}, {size_text(data)} of it data"
        print(f"{options.file}: {title}, {len(space)} regions, {sizes}, {seconds:.1f} s", file=sys.stderr)
