"""`memmap=` of a Linux kernel's command line, which changes the firmware's map, or with `exactmap` replaces it.

After Documentation/admin-guide/kernel-parameters.txt of Linux. Where kinds meet, the one with the higher E820 type stays.
"""

from __future__ import annotations

import re

from .memory_map import NAMES, RAM, RESERVED, TYPES, Entry, entries_of, map_of, without

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from dbs_address_space._core import AddressSpace

    from .copying import Copier
    from .source import Source

__all__ = ["read", "write"]

ARGUMENT = re.compile(r"(?:^|\s)memmap=(\S+)")
DIGITS = r"(0x[0-9a-f]{1,16}|\d{1,20})"
NUMBER = rf"{DIGITS}([kmgtpe]?)"
PART = re.compile(rf"{NUMBER}(?:([@#$!%]){NUMBER}(?:-{DIGITS})?(?:\+{DIGITS})?)?", re.IGNORECASE)
SIGNS = {"@": RAM, "#": TYPES[3], "$": RESERVED, "!": TYPES[12]}
LAST = (1 << 64) - 1
MOST = 512
"""More parts than a command line can have: each looks through all that came before."""


def read(source: Source, *, map: AddressSpace | None = None) -> AddressSpace:  # noqa: A002  of the firmware
    """The map that the parameters make of `map`, or of nothing."""
    parts = [part for found in ARGUMENT.findall(source.text().replace("\\$", "$")) for part in found.split(",")]
    if len(parts) > MOST:
        raise source.error(f"{len(parts)} parts of memmap= are more than a kernel takes")
    entries = sorted(entries_of(map)) if map is not None else []
    for part in parts:
        entries = [] if part == "exactmap" else _changed(source, entries, part)
    return map_of(source, entries)


def _changed(source: Source, entries: list[Entry], part: str) -> list[Entry]:
    """The entries after one part of a parameter."""
    match = PART.fullmatch(part)
    if match is None:
        raise source.error(
            f"memmap={part} is not SIZE, SIZE@START, SIZE#START, SIZE$START, SIZE!START or SIZE%START-OLD+NEW"
        )
    size, sign, start = _number(*match.group(1, 2)), match[3], _number(match[4] or "0", match[5] or "")
    if sign is None:
        return without(entries, [Entry(size, LAST, RAM, 0)], kind=RAM)
    range_ = Entry(start, start + size, SIGNS.get(sign, RAM), 0)
    if sign != "%":
        return _added(entries, range_)
    old, new = (_kind(text) for text in match.group(6, 7))
    if old is None and new is not None:
        return _added(entries, range_._replace(kind=new))
    kept = without(entries, [range_], kind=old)
    if new is None:
        return kept
    outside = [Entry(0, range_.base, "", 0), Entry(range_.end, LAST, "", 0)]
    changed = without([entry for entry in entries if entry.kind == old], outside)
    return sorted([*kept, *(part._replace(kind=new) for part in changed)])


def _kind(text: str | None) -> str | None:
    """The kind of a type; none where there is no type, or 0."""
    number = _number(text or "0", "")
    return TYPES.get(number, f"type {number}") if number else None


def _number(digits: str, unit: str) -> int:
    """A number as the kernel reads it: in hexadecimal, octal or decimal, with a unit."""
    is_octal = re.fullmatch("0[0-7]+", digits) is not None
    return int(digits, 8 if is_octal else 16 if "x" in digits.lower() else 10) << 10 * " kmgtpe".index(
        unit.lower() or " "
    )


def _added(entries: list[Entry], new: Entry) -> list[Entry]:
    """The entries with one more: it takes the place of lower kinds, and leaves that of higher ones."""
    rank = _rank(new)
    parts = without([new], [entry for entry in entries if _rank(entry) >= rank])
    lower = without([entry for entry in entries if _rank(entry) < rank], parts)
    return sorted([*parts, *lower, *(entry for entry in entries if _rank(entry) >= rank)])


def _rank(entry: Entry) -> int:
    return NAMES.get(entry.kind, LAST)


def write(space: AddressSpace, file: BinaryIO, _copy: Copier) -> None:
    """One line of parameters that replace the firmware's map. A shell and GRUB take `$` for their own: quote it there."""
    signs = {kind: sign for sign, kind in SIGNS.items()}
    parts = ["exactmap"]
    for entry in entries_of(space):
        kind = "" if entry.kind in signs else f"+{NAMES[entry.kind]:#x}"
        parts.append(f"{entry.end - entry.base:#x}{signs.get(entry.kind, '%')}{entry.base:#x}{kind}")
    file.write(" ".join(f"memmap={part}" for part in parts).encode() + b"\n")
