"""Reads an image as `docs/image-format.md` says, and shares nothing with the package."""

import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

from blake3 import blake3

PAGE, CHUNK, AREA = 4096, 1 << 16, 2 << 20
ZERO = bytes(32)


class Plain(NamedTuple):
    """One file: its JSON, its digests, and the pages and digest of each chunk in its table."""

    data: bytes
    content: Any
    root: bytes
    parent: bytes
    named: bytes
    chunks: dict[int, tuple[int, bytes]]


def read(path: Path) -> Plain:
    """A file, checked but for the digests of chunks."""
    data = path.read_bytes()
    header = data[:4096]
    magic, major, _minor, size, page_shift, chunk_shift, _flags, _machine = struct.unpack_from("<8sIIQIIII", header)
    assert (magic, major, size, page_shift, chunk_shift) == (b"DBSASIMG", 1, len(data), 12, 16)
    data_at, _, json_at, json_size, _, _, table_at, count = struct.unpack_from("<8Q", header, 40)
    assert data_at == AREA
    parent, named, root = struct.unpack_from("32s32s32s", header, 128)
    text, table = data[json_at : json_at + json_size], data[table_at : table_at + 48 * count]
    assert blake3(header[:192] + ZERO + header[224:] + text + table).digest() == root
    entries = (struct.unpack_from("<QH6x32s", table, 48 * index) for index in range(count))
    return Plain(
        data, json.loads(text), root, parent, named, {number: (pages, sum_) for number, pages, sum_ in entries}
    )


def chunk(chain: list[Plain], number: int) -> bytes:
    """A chunk of the first of a chain, from the files that have its pages."""
    pages = {}
    for plain in chain:
        if number not in plain.chunks:
            continue
        mask, digest = plain.chunks[number]
        if digest == ZERO:
            break
        for page in range(16):
            if mask >> page & 1 and page not in pages:
                at = AREA + number * CHUNK + page * PAGE
                pages[page] = plain.data[at : at + PAGE]
    return b"".join(pages.get(page, bytes(PAGE)) for page in range(16))


def memory(chain: list[Plain]) -> dict[int, bytes]:
    """The bytes of each region of the first of a chain by its base, checked against the digests of chunks and of the content."""
    digests: dict[int, bytes] = {}
    for plain in reversed(chain):
        digests |= {number: digest for number, (_, digest) in plain.chunks.items()}
    digests = {number: digests[number] for number in sorted(digests) if digests[number] != ZERO}
    named = b"".join(struct.pack("<Q32s", number, digest) for number, digest in digests.items())
    assert blake3(named).digest() == chain[0].named
    chunks = {number: chunk(chain, number) for number in digests}
    assert all(blake3(chunks[number]).digest() == digest for number, digest in digests.items())
    found = {}
    for region in chain[0].content["regions"]:
        if (place := region["place"]) is not None:
            at = chain[0].content["areas"][place["area"]]["offset"] + place["offset"]
            numbers = range(at // CHUNK, (at + region["size"] + CHUNK - 1) // CHUNK)
            around = b"".join(chunks.get(number, bytes(CHUNK)) for number in numbers)
            found[region["base"]] = around[at % CHUNK :][: region["size"]]
    return found
