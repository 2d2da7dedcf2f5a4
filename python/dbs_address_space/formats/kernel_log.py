"""The firmware's map as a Linux kernel prints it when it starts: `BIOS-e820:` lines, or those of EFI.

After arch/x86/kernel/e820.c and drivers/firmware/efi/efi.c of Linux. Under EFI the `BIOS-e820:` lines are made of the other
ones, which are printed only with `efi=debug`.
"""

from __future__ import annotations

import re

from dbs_address_space.errors import InvalidArgument

from .memory_map import RAM, RESERVED, TYPES, Entry, entries_of, map_of, settled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

    from dbs_address_space._core import AddressSpace

    from .copying import Copier
    from .source import Source

__all__ = ["read", "write"]

TABLES = {"firmware": "BIOS-e820", "user": "user"}
WORDS = {
    "usable": RAM,
    "reserved": RESERVED,
    "ACPI data": TYPES[3],
    "ACPI NVS": TYPES[4],
    "unusable": TYPES[5],
    "persistent (type 7)": TYPES[7],
    "persistent (type 12)": TYPES[12],
    "soft reserved": TYPES[0xEFFF_FFFF],
}
EFI_LINE = re.compile(r"efi: mem(\d{1,9}): \[([^|\]]*)([^\]]*)\] range=\[0x([0-9a-f]+)-0x([0-9a-f]+)\]")
EFI_RAM = ("Conventional", "Loader", "Boot")
EFI_WORDS = {"ACPI Reclaim Memory": TYPES[3], "ACPI Memory NVS": TYPES[4], "Unusable Memory": TYPES[5]}


def read(source: Source, *, table: str | None = None) -> AddressSpace:
    """The map of `table`: `"firmware"`, `"user"` as changed by `memmap=`, or `"efi"`; the firmware's, however it told of it."""
    if table not in (None, "efi", *TABLES):
        raise InvalidArgument(f"table={table!r} is none of 'firmware', 'user', 'efi'")
    lines = source.lines()
    found = [] if table == "efi" else _e820_tables(lines, TABLES[table or "firmware"])
    if found:
        for other in found[1:]:
            if [entry[:3] for entry in other] != [entry[:3] for entry in found[0]]:
                first, second = found[0][0].line, other[0].line
                raise source.error(
                    f"the map in line {first} and the one in line {second} differ: keep one", line=second
                )
        return map_of(source, settled(source, found[0]))
    if table in (None, "efi"):
        return map_of(source, _touching(settled(source, _efi_table(lines))))
    raise source.error(f"the log has no {table} table")


def _e820_tables(lines: list[tuple[int, str]], label: str) -> list[list[Entry]]:
    """The tables of a log: it may have several boots, or one twice. Each is sorted, so a new one begins where addresses fall."""
    span = r"\[mem 0x([0-9a-f]+)-0x([0-9a-f]+)\] (.+)|([0-9a-f]{16}) - ([0-9a-f]{16}) \((.+?)\)"
    pattern = re.compile(rf"(?:^|[\s\]]){label}: (?:{span})$")
    tables: list[list[Entry]] = []
    for number, line in lines:
        if match := pattern.search(line):
            entry = _entry(number, match)
            if not tables or entry.base <= tables[-1][-1].base:
                tables.append([])
            tables[-1].append(entry)
    return tables


def _entry(line: int, match: re.Match[str]) -> Entry:
    """Ends are inclusive, but for those that kernels before 3.0 printed."""
    if match[1]:
        return Entry(int(match[1], 16), int(match[2], 16) + 1, WORDS.get(match[3], match[3]), line)
    return Entry(int(match[4], 16), int(match[5], 16), WORDS.get(match[6], match[6]), line)


def _efi_table(lines: list[tuple[int, str]]) -> Iterable[Entry]:
    """The first table, which is the firmware's own: the kernel prints another one once it has reserved memory."""
    seen = -1
    for line, text in lines:
        if match := EFI_LINE.search(text):
            number, kind = int(match[1]), match[2].strip()
            if number <= seen:
                return
            seen = number
            is_special = "SP" in match[3].split("|")
            kind = TYPES[0xEFFF_FFFF] if is_special else RAM if kind.startswith(EFI_RAM) else EFI_WORDS.get(kind, kind)
            yield Entry(int(match[4], 16), int(match[5], 16) + 1, kind, line)


def _touching(entries: Iterable[Entry]) -> list[Entry]:
    """One entry for those of a kind that touch."""
    joined: list[Entry] = []
    for entry in entries:
        if joined and (joined[-1].end, joined[-1].kind) == (entry.base, entry.kind):
            joined[-1] = joined[-1]._replace(end=entry.end)
        else:
            joined.append(entry)
    return joined


def write(space: AddressSpace, file: BinaryIO, _copy: Copier) -> None:
    """The lines that a kernel would print for `"e820"`."""
    words = {kind: word for word, kind in WORDS.items()}
    file.writelines(
        f"BIOS-e820: [mem {entry.base:#018x}-{entry.end - 1:#018x}] {words[entry.kind]}\n".encode()
        for entry in entries_of(space)
    )
