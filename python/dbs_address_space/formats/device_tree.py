"""Flattened device trees: nodes of memory, and what `/reserved-memory` and `/memreserve/` keep of it.

After the Devicetree Specification. A node's addresses and sizes have as many cells as its parent says.
"""

from __future__ import annotations

from dbs_address_space._named_tuple import NamedTuple

from .memory_map import RAM, RESERVED, Entry, map_of, settled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dbs_address_space._core import AddressSpace

    from .source import Source

__all__ = ["read"]

BEGIN_NODE, END_NODE, PROPERTY, NOTHING, END = 1, 2, 3, 4, 9
MOST_LEVELS = 64
CELL = 4


class _Node(NamedTuple):
    """A node that has ended: its path, its properties, and the cells of addresses and sizes in it."""

    path: tuple[str, ...]
    properties: dict[str, bytes]
    cells: tuple[int, int]


def read(source: Source) -> AddressSpace:
    """The map of a machine's memory; of RAM what is not reserved."""
    entries = list(_reserved(source))
    for node in _nodes(source):
        if node.properties.get("device_type") == b"memory\0":
            entries += _ranges(source, node, RAM)
        elif node.path[1:2] == ("reserved-memory",) and len(node.path) == 3:  # noqa: PLR2004  right below it
            entries += _ranges(source, node, RESERVED)
    return map_of(source, settled(source, entries))


def _reserved(source: Source) -> Iterator[Entry]:
    """The list before the tree, which ends with an entry of zeroes."""
    (at,) = source.unpack(">I", 16, "the header")
    while True:
        base, size = source.unpack(">QQ", at, "the reserved ranges")
        if not (base or size):
            return
        yield Entry(base, base + size, RESERVED, 0)
        at += 16


def _ranges(source: Source, node: _Node, kind: str) -> Iterator[Entry]:
    """The ranges of a node."""
    reg, (address_cells, size_cells) = node.properties.get("reg", b""), node.cells
    stride = (address_cells + size_cells) * CELL
    if not 1 <= address_cells <= 2 or not 1 <= size_cells <= 2 or len(reg) % stride:  # noqa: PLR2004  of 64 bits
        raise source.error(
            f"{'/'.join(node.path)} has {len(reg)} bytes of ranges, of {address_cells} and {size_cells} cells"
        )
    for at in range(0, len(reg), stride):
        middle = at + address_cells * CELL
        base, size = int.from_bytes(reg[at:middle], "big"), int.from_bytes(reg[middle : at + stride], "big")
        yield Entry(base, base + size, kind, 0)


def _nodes(source: Source) -> Iterator[_Node]:
    """Every node when it ends, inner ones first."""
    at, strings, strings_size, size = (source.unpack(">I", place, "the header")[0] for place in (8, 12, 32, 36))
    words, names = (
        _Words(source, source.read(at, size, "the tree"), at),
        source.read(strings, strings_size, "the names"),
    )
    path, open_ = list[str](), list[dict[str, bytes]]()
    while (token := words.cell()) != END:
        if token == BEGIN_NODE and len(path) < MOST_LEVELS:
            path.append(words.text())
            open_.append({})
        elif token == PROPERTY and open_:
            length, name = words.cell(), words.cell()
            open_[-1][names[name:].partition(b"\0")[0].decode(errors="replace")] = words.take(length)
        elif token == END_NODE and open_:
            yield _Node(tuple(path), open_.pop(), _cells(open_[-1] if open_ else {}))
            path.pop()
        elif token != NOTHING:
            raise source.error(f"{token:#x} is not a token of a device tree here", offset=words.offset)


def _cells(parent: dict[str, bytes]) -> tuple[int, int]:
    """The cells of addresses and sizes in a node; the specification's defaults are 2 and 1."""
    address, size = parent.get("#address-cells", b"\2"), parent.get("#size-cells", b"\1")
    return int.from_bytes(address[:CELL], "big"), int.from_bytes(size[:CELL], "big")


class _Words:
    """The tree as cells of 32 bits, and texts and bytes that fill whole ones."""

    def __init__(self, source: Source, data: bytes, offset: int) -> None:
        self._source, self._data, self._start, self._at = source, data, offset, 0

    @property
    def offset(self) -> int:
        return self._start + self._at

    def take(self, size: int) -> bytes:
        if self._at + size > len(self._data):
            raise self._source.error("the tree ends early", offset=self.offset)
        found = self._data[self._at : self._at + size]
        self._at += -(-size // CELL) * CELL
        return found

    def cell(self) -> int:
        return int.from_bytes(self.take(CELL), "big")

    def text(self) -> str:
        end = self._data.find(b"\0", self._at)
        return self.take(max(end - self._at + 1, 1))[:-1].decode(errors="replace")
