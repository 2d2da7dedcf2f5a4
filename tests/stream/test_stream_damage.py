"""Streams that are cut, flipped or hostile: an error that says so, and nothing is published."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plain_stream
import pytest
from blake3 import blake3
from dbs_address_space import (
    AddressSpace,
    ImageCorrupt,
    ImageError,
    ImageMismatch,
    ImageTooNew,
    SendProgress,
)
from memory_helpers import GIB, LAYOUT, MIB, PAGE, mapped, numbered, ram
from plain_stream import HEAD, Plain, described, head, record, written
from stream_peers import Peer, captured, connection, replayed

AREA = 2 * MIB
Stream = tuple[bytes, Plain]


@pytest.fixture(scope="module")
def stream() -> Stream:
    """A small stream of two passes, with a blob."""
    _, memory = mapped(ram(0, 40 * PAGE, name="low"))
    memory.write(17 * PAGE, numbered(PAGE, 7))

    def told(progress: SendProgress) -> None:
        if progress.passes == 1:
            memory.write_u64(16 * PAGE, 1)
            memory.fill(17 * PAGE, PAGE, 0)

    return captured(memory, blobs={"vcpu0": b"registers"}, progress=told)


@pytest.fixture
def there() -> Iterator[AddressSpace]:
    """A space that takes nothing."""
    space = AddressSpace(LAYOUT)
    yield space
    assert (len(space), space.is_mapped, space.generation) == (0, False, 0)


def test_what_is_not_damaged_is_taken(stream: Stream) -> None:
    space = AddressSpace(LAYOUT)
    assert replayed(stream[0], space).blobs == {"vcpu0": b"registers"}
    assert space.memory.read(0, 40 * PAGE) == plain_stream.memory(stream[1])[0]
    assert [one.kind for one in stream[1].records] == ["blob", "chunk", "pass", "chunk", "pass", "end"]


def test_cut_at_every_record_nothing_is_published(stream: Stream, there: AddressSpace) -> None:
    content, plain = stream
    ends = [one.at for one in plain.records]
    for cut in sorted(
        {0, 1, 63, 64, 70, len(content) - 1, *ends, *(end + 1 for end in ends), *(end + 64 for end in ends)}
    ):
        with pytest.raises(ImageCorrupt, match=f"closed the connection before the stream's end, after {cut:#_x} bytes"):
            replayed(content[:cut], there)


def test_every_byte_that_is_flipped_is_noticed(stream: Stream, there: AddressSpace) -> None:
    content, plain = stream
    data = {
        at for one in plain.records if one.kind == "chunk" for at in range(one.at + 64, one.at + 64 + len(one.payload))
    }
    for at in (*(at for at in range(len(content)) if at not in data), *sorted(data)[::97]):
        flipped = bytearray(content)
        flipped[at] ^= 0x10
        with pytest.raises(ImageError) as caught:
            replayed(bytes(flipped), there)
        assert caught.value.path == "<stream>"


def test_damage_is_told_by_its_place(stream: Stream, there: AddressSpace) -> None:
    content, plain = stream
    chunk = plain.records[1]
    for at, said in (
        (chunk.at, f"at {chunk.at:#_x}: a record is of kind"),
        (chunk.at + 64, "chunk 1 is not what was sent"),
    ):
        flipped = bytearray(content)
        flipped[at] ^= 0x40
        with pytest.raises(ImageCorrupt, match=said) as caught:
            replayed(bytes(flipped), there)
    assert caught.value.chunk == 1


@pytest.mark.parametrize(
    ("begin", "error"),
    [
        (b"GET / HTTP/1.1\r\n" + bytes(64), ImageCorrupt),
        (head(b"{}", AREA, major=2), ImageTooNew),
        (head(b"{}", AREA, machine=40), ImageMismatch),
        (head(b"{}", AREA), ImageCorrupt),
        (head(b"[" * 100_000, AREA), ImageCorrupt),
        (head(b"{}", AREA + 1), ImageCorrupt),
        (head(b"{}", 1 << 63)[:48] + struct.pack("<QQ", 1 << 63, 0), ImageCorrupt),
    ],
)
def test_a_beginning_that_is_wrong_is_refused(begin: bytes, error: type[ImageError], there: AddressSpace) -> None:
    with pytest.raises(error):
        replayed(begin, there)


def test_what_is_written_by_hand_is_taken() -> None:
    page = numbered(PAGE, 3)
    content, digest = written(page)
    space = AddressSpace(LAYOUT)
    assert replayed(content, space).content == digest.hex()
    assert space.memory.read(0, MIB) == bytes(3 * 16 * PAGE) + page + bytes(MIB - 49 * PAGE)


@pytest.mark.parametrize(
    "body",
    [
        record(1, (1, 0), 1 << 60, PAGE, bytes(32)),
        record(1, (1, 0), 32, PAGE, bytes(32)),
        record(1, (1, 0), 31, PAGE, bytes(32)) + bytes(PAGE),
        record(1, (1, 0), 0, 1 << 62, bytes(32)),
        record(1, (0, 1), 5, 0, bytes(32)) + record(1, (0, 1), 5, 0, bytes(32)),
        record(1, (0, 1), 5, 0, bytes(32)) + record(1, (0, 1), 4, 0, bytes(32)),
        record(2, (0, 0), 2, 0, bytes(32)),
        record(3, (0, 0), 5, 1 << 62, bytes(32)),
        record(3, (0, 0), 1 << 62, 1 << 62, bytes(32)),
        record(3, (0, 0), 0, 0, blake3(b"").digest()) * 4097,
        record(5, (0, 0), 0, 1 << 62, bytes(32)),
        record(4, (0, 0), 0, 1 << 62, bytes(32)),
        record(0xFFFF_FFFF, (0, 0), 0, 0, bytes(32)),
    ],
)
def test_numbers_of_somebody_who_means_harm_are_refused(body: bytes, there: AddressSpace) -> None:
    with pytest.raises(ImageCorrupt) as caught:
        replayed(HEAD + body, there)
    assert "closed the connection" not in str(caught.value)


@pytest.mark.parametrize("key", ["file", "mem_file_path", "file_offset"])
def test_nobody_else_chooses_a_file_here(key: str, tmp_path: Path, there: AddressSpace) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(bytes(MIB))
    with victim.open("r+b") as file:
        value = {"file": file.fileno(), "mem_file_path": str(victim), "file_offset": 0}[key]
        with pytest.raises(ImageCorrupt, match=f"a region has .*{key}"):
            replayed(head(described(**{key: value}), AREA) + record(1, (1, 0), 0, PAGE, bytes(32)), there)


@pytest.mark.parametrize("changes", [{"base": 1 << 50}, {"size": 2 * MIB}, {"place": None}, {"region_type": "chaos"}])
def test_maps_that_can_not_be_are_refused(changes: dict[str, Any], there: AddressSpace) -> None:
    with pytest.raises(ImageCorrupt, match="JSON"):
        replayed(head(described(**changes), AREA), there)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\n" + bytes(64), plain_stream.answer(bytes(32))])
def test_an_answer_that_nobody_gives_is_an_error(answer: bytes) -> None:
    _, memory = mapped(ram(GIB, PAGE))
    with connection() as (ours, theirs):

        def say() -> None:
            theirs.recv(64)
            theirs.sendall(answer)

        peer = Peer(say)
        with pytest.raises(ImageError, match=r"does not answer|has published other|says that it has all"):
            memory.send(ours, timeout=10)
        peer.wait()
