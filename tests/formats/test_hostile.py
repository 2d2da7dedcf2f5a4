"""Files that are cut anywhere, or have any byte changed: each is answered at once, by a space or by a `FormatError`."""

import gzip
import random
import time
from pathlib import Path

import pytest
from dbs_address_space import AccessDenied, AddressSpace, FormatError, MemoryFault, load

SAMPLES = sorted(path for path in (Path(__file__).parent / "samples").iterdir() if path.is_file())
EDGE = 96
"""All bytes of the beginning are changed, and the file is cut at each; of the rest, some."""


def content_of(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def places(size: int, seed: str) -> list[int]:
    generator = random.Random(seed)
    return [*range(min(EDGE, size)), *(generator.randrange(size) for _ in range(EDGE // 2))]


def answered(content: bytes) -> None:
    """Within a second, and what can be opened can be read or says why not."""
    began = time.monotonic()
    try:
        space = load(content)
        if space.is_mapped:
            touched(space)
    except FormatError:
        pass
    assert time.monotonic() - began < 1


def touched(space: AddressSpace) -> None:
    for region in space.memory.regions[:8]:
        try:
            space.memory.read(region.base, 8)
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
