"""Crash dumps of 64-bit Windows: full ones (type 1), and those with a bitmap, full (5) or of the kernel (6).

The layout is that of Windows' DUMP_HEADER64. A dump of the kernel lacks the pages of programs.
"""

from __future__ import annotations

from dbs_address_space._core import _Pieces

from .stored import Dump, Piece, checked, mapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dbs_address_space._core import AddressSpace

    from .source import Source

__all__ = ["read"]

HEADER, PAGE = 0x2000, 4096
TYPE, RUN_COUNT, RUNS, MOST_RUNS = 0xF98, 0x88, 0x98, 43
FULL, BITMAP, KERNEL_BITMAP = 1, 5, 6
OTHERS = {2: "summary", 4: "small", 8: "kernel memory", 9: "kernel and user memory", 10: "complete memory"}
BITS = 0x38
"""Where the bitmap begins in the second header."""


def read(source: Source, *, partial: bool = False, copy: bool = False) -> AddressSpace:
    """The memory of a dump, mapped where it lies."""
    (kind,) = source.unpack("<I", TYPE, "the type of the dump")
    if kind == FULL:
        return mapped(source, _full(source), partial=partial, copy=copy)
    if kind in (BITMAP, KERNEL_BITMAP):
        return mapped(source, _bitmap(source, partial), partial=partial, copy=copy)
    name = f" ({OTHERS[kind]})" if kind in OTHERS else ""
    raise source.error(
        f"a Windows dump of type {kind}{name}: full dumps (1) and those with a bitmap (5 and 6) are read", offset=TYPE
    )


def _full(source: Source) -> Iterator[Piece]:
    (count,) = source.unpack("<I", RUN_COUNT, "the number of runs")
    if not 1 <= count <= MOST_RUNS:
        raise source.error(f"{count:#x} runs of memory; a header has 1 to {MOST_RUNS}", offset=RUN_COUNT)
    numbers = source.unpack(f"<{2 * count}Q", RUNS, "the runs of memory")
    offset = HEADER
    for first, pages in zip(numbers[::2], numbers[1::2], strict=True):
        yield Piece(first * PAGE, pages * PAGE, offset)
        offset += pages * PAGE


def _bitmap(source: Source, partial: bool) -> Dump:  # noqa: FBT001  as it was given
    signature, dump, offset, _, count = source.unpack("<4s4s24xQQQ", HEADER, "the second header")
    if signature not in (b"SDMP", b"FDMP") or dump != b"DUMP":
        raise source.error(f"the second header begins with {signature + dump!r}", offset=HEADER)
    bitmap = source.read(HEADER + BITS, -(-count // 8), f"the bitmap of {count} pages")
    return Dump(checked(source, lambda: _Pieces.of_bitmap(bitmap, count, PAGE, offset, source.size, partial)))
