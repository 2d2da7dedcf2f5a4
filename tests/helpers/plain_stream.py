"""Reads and writes a stream as `docs/stream-format.md` says, and shares nothing with the package."""

import json
import struct
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from blake3 import blake3

PAGE, CHUNK = 4096, 1 << 16
ZERO = bytes(32)
KINDS = {1: "chunk", 2: "pass", 3: "blob", 4: "end", 5: "given up"}


class Record(NamedTuple):
    """A record, what follows it, and where it begins in the stream."""

    kind: str
    pages: int
    zeroed: int
    number: int
    digest: bytes
    payload: bytes
    at: int


class Plain(NamedTuple):
    """A whole stream."""

    content: Any
    records: list[Record]
    chunks: dict[int, bytes]
    blobs: dict[str, bytes]
    named: bytes


def digest(chunk: bytes) -> bytes:
    return blake3(chunk).digest() if any(chunk) else ZERO


def pages_in(mask: int) -> list[int]:
    return [page for page in range(16) if mask >> page & 1]


def apply(record: Record, chunks: dict[int, bytes]) -> None:
    """Puts the pages of a record in their place."""
    sent = {page: record.payload[at * PAGE : (at + 1) * PAGE] for at, page in enumerate(pages_in(record.pages))}
    assert digest(b"".join(sent.get(page, bytes(PAGE)) for page in range(16))) == record.digest
    old = chunks.get(record.number, bytes(CHUNK))
    sent |= dict.fromkeys(pages_in(record.zeroed), bytes(PAGE))
    chunks[record.number] = b"".join(sent.get(page, old[page * PAGE : (page + 1) * PAGE]) for page in range(16))


def content_of(chunks: dict[int, bytes]) -> bytes:
    named = ((number, digest(chunks[number])) for number in sorted(chunks))
    return blake3(b"".join(struct.pack("<Q32s", *one) for one in named if one[1] != ZERO)).digest()


def read(take: Callable[[int], bytes]) -> Plain:
    """A stream, of which `take` gives the next bytes; checked by all its digests."""
    head = take(64)
    magic, major, _, page_shift, chunk_shift, flags, _, _, _, json_size, _ = struct.unpack("<8s6I4Q", head)
    assert (magic, major, page_shift, chunk_shift, flags) == (b"DBSASTRM", 1, 12, 16, 0)
    text = take(json_size)
    framing = blake3(head + text)
    assert take(32) == framing.digest()
    at, plain = 64 + json_size + 32, Plain(json.loads(text), [], {}, {}, ZERO)
    while True:
        block = take(64)
        kind, pages, zeroed, number, size, reserved, sum_ = struct.unpack("<IHHQQQ32s", block)
        assert reserved == 0
        framing.update(block)
        payload = take(size)
        record = Record(KINDS[kind], pages, zeroed, number, sum_, payload, at)
        plain.records.append(record)
        at += 64 + size
        match record.kind:
            case "chunk":
                apply(record, plain.chunks)
            case "blob":
                assert blake3(payload).digest() == sum_
                plain.blobs[payload[:number].decode()] = payload[number:]
            case "end":
                assert payload == framing.digest()
                assert content_of(plain.chunks) == sum_
                return plain._replace(named=sum_)
            case "given up":
                return plain


def answer(content: bytes) -> bytes:
    """The answer of a receiver that has published the memory."""
    return struct.pack("<8sIIQQ32s", b"DBSASANS", 1, 0, 0, 0, content)


def head(text: bytes, room: int, machine: int = 62, major: int = 1) -> bytes:
    """The beginning of a stream with a JSON."""
    block = struct.pack("<8s6I4Q", b"DBSASTRM", major, 0, 12, 16, 0, machine, room, 0, len(text), 0)
    return block + text + blake3(block + text).digest()


def record(kind: int, masks: tuple[int, int], number: int, size: int, sum_: bytes) -> bytes:
    return struct.pack("<IHHQQQ32s", kind, *masks, number, size, 0, sum_)


def memory(plain: Plain) -> dict[int, bytes]:
    """The bytes of each region by its base."""
    found = {}
    for region in plain.content["regions"]:
        if (place := region["place"]) is not None:
            at = plain.content["areas"][place["area"]]["offset"] + place["offset"]
            numbers: Iterable[int] = range(at // CHUNK, (at + region["size"] + CHUNK - 1) // CHUNK)
            around = b"".join(plain.chunks.get(number, bytes(CHUNK)) for number in numbers)
            found[region["base"]] = around[at % CHUNK :][: region["size"]]
    return found


def described(**changes: Any) -> bytes:
    """A JSON of one region of a MiB, with other keys."""
    region = {"region_type": "ram", "base": 0, "size": 1 << 20, "place": {"area": 0, "offset": 0}} | changes
    layout = {"phys_end": 1 << 46, "mem_start": 0, "mem_end": 1 << 45, "mmio_windows": [], "reserved": []}
    areas = [{"offset": 0, "size": 1 << 20, "lineage": "00" * 16}]
    content = {"format": "dbs-address-space/image", "version": 1, "layout": layout, "areas": areas}
    return json.dumps(content | {"regions": [region], "blobs": {}, "parent": None}).encode()


HEAD = head(described(), 2 << 20)
"""The beginning of a stream with one region."""


def written(page: bytes) -> tuple[bytes, bytes]:
    """A whole stream with a page at 0x30000, and the digest of the memory."""
    sum_ = digest(page + bytes(15 * PAGE))
    chunk, end_of_pass = record(1, (1, 0), 3, PAGE, sum_), record(2, (0, 0), 1, 0, ZERO)
    content = blake3(struct.pack("<Q32s", 3, sum_)).digest()
    end = record(4, (0, 0), 0, 32, content)
    root = blake3(HEAD[:-32] + chunk + end_of_pass + end).digest()
    return HEAD + chunk + page + end_of_pass + end + root, content
