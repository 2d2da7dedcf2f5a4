"""Files that are cut anywhere, or have any byte changed: each is answered at once, by a space or by a `FormatError`."""

import gzip
import random
import struct
from pathlib import Path

import pytest
from dbs_address_space import AccessDenied, AddressSpace, FormatError, MemoryFault, load

SAMPLES = sorted(path for path in (Path(__file__).parent / "samples").iterdir() if path.is_file())
EDGE = 64
"""All bytes of the beginning are changed, and the file is cut at each; of the rest, some."""


def content_of(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def places(size: int, seed: str) -> list[int]:
    generator = random.Random(seed)
    return [*range(min(EDGE, size)), *(generator.randrange(size) for _ in range(EDGE // 2))]


def answered(content: bytes) -> None:
    """A space that is there can be read, or says why not."""
    try:
        space = load(content)
        if space.is_mapped:
            touched(space)
    except FormatError:
        pass


def touched(space: AddressSpace) -> None:
    for region in space.memory.regions[:8]:
        try:
            space.memory.read(region.base, min(region.size, 8))
        except (AccessDenied, MemoryFault):
            continue


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_a_cut_file_is_answered(path: Path) -> None:
    content = content_of(path)
    for size in places(len(content), path.name):
        answered(content[:size])


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_a_changed_byte_is_answered(path: Path) -> None:
    content, generator = bytearray(content_of(path)), random.Random(path.name)
    for place in places(len(content), path.name):
        before = content[place]
        for value in (0, 0xFF, before ^ (1 << generator.randrange(8))):
            content[place] = value
            answered(bytes(content))
        content[place] = before


SPACES = b" " * 300_000
LONG = {
    "a log": b"BIOS-e820: [mem 0x0-0x1] a" + SPACES + b"b",
    "sysfs": b"0 0x0 0x1 a" + SPACES + b"b",
    "iomem": b"00000000-00000fff : a" + SPACES + b"b",
    "iomem, nested": b"\n".join(b"  " * level + b"00000000-00000fff : a" for level in range(500)),
    "mtree": b'FlatView #0\n AS "memory", root: system\n  0000000000000000-0000000000000fff (prio 0, ram): a'
    + SPACES
    + b"b",
    "memmap": b"memmap=" + b"9" * 300_000,
    "memmap, many": b" ".join(b"memmap=4K@%dM" % number for number in range(30_000)),
    "JSON, nested": b'{"format": "dbs-address-space/map", "": ' + b"[" * 300_000,
    "JSON, a number": b'{"format": "dbs-address-space/map", "version": ' + b"9" * 300_000 + b"}",
    "LiME, many": b"EMiL\1\0\0\0".ljust(32, b"\0") * 10_000,
    "efi": b"efi: mem" + b"9" * 300_000 + b": [",
}


@pytest.mark.parametrize("kind", LONG)
def test_a_long_text_is_answered(kind: str) -> None:
    answered(LONG[kind])


def test_a_table_of_more_entries_than_machines_have_is_refused() -> None:
    table = b"".join(struct.pack("<QQI", page << 13, 4096 << page % 2, 1 + page % 2) for page in range(15_000))
    with pytest.raises(FormatError, match="more than 8192 ranges"):
        load(table, format="e820")
