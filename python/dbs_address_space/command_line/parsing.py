"""The user's arguments: options, addresses, ranges."""

from __future__ import annotations

from argparse import ArgumentParser

from dbs_address_space._core import checked_range, checked_size
from dbs_address_space.errors import AddressSpaceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import NoReturn, Self

    from dbs_address_space._core import AddressSpace

__all__ = ["Parser", "UsageError", "address", "count", "range_of"]


class UsageError(Exception):
    """A mistake in the arguments, with what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        """A mistake: what is wrong, and what to write instead."""
        super().__init__(message)
        self.hint = hint


class Parser(ArgumentParser):
    """The options of one command; its help is text that stands in the command's module."""

    def __init__(self, command: str, *positionals: str) -> None:
        """A parser with the options that all commands have."""
        super().__init__(prog=f"dbs-address-space {command}", add_help=False, allow_abbrev=False)
        self.command = command
        for name in positionals:
            self.add_argument(name)
        self.add_argument("--color", choices=["auto", "always", "never"])
        self.add_argument("-q", "--quiet", action="store_true")

    @classmethod
    def of_source(cls, command: str, *positionals: str, has_json: bool = True) -> Self:
        """A parser of a command that reads a source, as `--from` says, and prints JSON where that makes sense."""
        parser = cls(command, *positionals)
        parser.add_argument("--from", dest="format", metavar="FORMAT")
        if has_json:
            parser.add_argument("--json", action="store_true")
        return parser

    def parse(self, arguments: list[str]) -> Namespace:
        """The options as given, wherever they stand among the sources."""
        return self.parse_intermixed_args(arguments)

    def error(self, message: str) -> NoReturn:
        """A refusal of the arguments, told as every other error is."""
        raise UsageError(message, f"See dbs-address-space {self.command} --help.")


def address(text: str, space: AddressSpace) -> int:
    """An address as a number, a size such as "4GiB", a region's name, or a name and an offset."""
    number = _number(text)
    if number is None and text not in space:
        number = _size(text)
    if number is not None:
        return number
    name, plus, offset = text.rpartition("+")
    region = space[name if plus else text]
    moved = _number(offset) if plus else 0
    if moved is None:
        raise UsageError(f"{offset!r} is not an offset", "Write NAME+0x1000.")
    return region.base + moved


def range_of(text: str, space: AddressSpace, *, usual: int | None = None) -> tuple[int, int]:
    """`FROM..TO`, where TO is exclusive, or `FROM+SIZE`: base and size. An address alone has the usual size, if there is one."""
    first, dots, last = text.partition("..")
    if dots:
        base, end = address(first, space), address(last, space)
        if end < base:
            raise UsageError(f"{text!r} ends before it begins", "Write FROM..TO, where TO is exclusive, or FROM+SIZE.")
        return checked_range(base, end - base)
    first, plus, size = text.rpartition("+")
    if plus:
        number = _number(size)
        return checked_range(address(first, space), size if number is None else number)
    if usual is None:
        raise UsageError(f"{text!r} is not a range", "Write FROM..TO or FROM+SIZE, as 0x1000+64KiB.")
    return address(text, space), usual


def count(text: str) -> int:
    """The value of an option that counts something, from 1 on."""
    number = _number(text)
    if number is None or number < 1:
        raise UsageError(f"{text!r} is not a number from 1 on")
    return number


def _size(text: str) -> int | None:
    try:
        return checked_size(text, "size")
    except AddressSpaceError:
        return None


def _number(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        return None
