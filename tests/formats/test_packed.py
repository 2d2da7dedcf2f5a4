"""Dumps whose memory is packed, and streams that have to be put together."""

import itertools
import random
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from dbs_address_space import AccessDenied, FormatError, MemoryFault, UnmappedAddress, load
from hypothesis import given
from hypothesis import strategies as st
from memory_helpers import PAGE
from test_samples import opened

SAMPLES = Path(__file__).parent / "samples"
STORED, ZLIB, SNAPPY, LEFT_OUT = 0, 1, 4, "left out"


def kdump(
    pages: Mapping[int, tuple[object, bytes]],
    *,
    method: int | None = None,
    frames: int = 0,
    split: int = 0,
    status: int = 1,
) -> bytes:
    """A compressed dump of pages by their frames: how each lies in it, and its bytes."""
    count = frames or max(pages, default=0) + 1
    half = -(-count // (8 * PAGE)) * PAGE
    bits = [
        sum(1 << frame for frame in chosen)
        for chosen in (pages, [f for f, (how, _) in pages.items() if how != LEFT_OUT])
    ]
    header = bytearray(PAGE)
    struct.pack_into("<8si", header, 0, b"KDUMP   ", 6)
    struct.pack_into("<IiiII", header, 424, status, PAGE, 1, 2 * half // PAGE, min(count, 2**32 - 1))
    second = bytearray(PAGE)
    struct.pack_into("<i", second, 12, split)
    struct.pack_into("<Q", second, 96, count)
    bitmaps = b"".join(number.to_bytes(half, "little") for number in bits)
    kept = [(how, data) for _, (how, data) in sorted(pages.items()) if how != LEFT_OUT]
    offset, table, body = 2 * PAGE + 2 * half + 24 * len(kept), b"", b""
    for how, data in kept:
        packed = zlib.compress(data) if how == ZLIB else snappy(data) if how == SNAPPY else data
        flags = method if method is not None else how
        table += struct.pack("<QIIQ", offset + len(body), len(packed), flags, 0)
        body += packed
    return bytes(header + second) + bitmaps + table + body


PAGES = st.dictionaries(
    st.integers(0, 200),
    st.tuples(
        st.sampled_from([STORED, ZLIB, LEFT_OUT]),
        st.one_of(st.just(bytes(PAGE)), st.binary(min_size=1, max_size=8).map(lambda data: (data * PAGE)[:PAGE])),
    ),
    min_size=1,
    max_size=20,
)


def flattened(content: bytes, generator: random.Random) -> bytes:
    """Blocks in any order; the first ones are written over."""
    cuts = sorted({0, len(content), *(generator.randrange(len(content)) for _ in range(5))})
    blocks = [(low, content[low:high]) for low, high in itertools.pairwise(cuts)]
    generator.shuffle(blocks)
    blocks.insert(0, (generator.randrange(len(content) - 8), b"garbage!"))
    body = b"".join(struct.pack(">qq", at, len(data)) + data for at, data in blocks)
    return struct.pack(">16sqq", b"makedumpfile", 1, 1).ljust(4096, b"\0") + body + struct.pack(">qq", -1, -1)


@given(pages=PAGES, seed=st.one_of(st.none(), st.integers(0, 99)), copy=st.booleans())
def test_each_page_is_stored_packed_or_left_out(
    pages: dict[int, tuple[object, bytes]],
    seed: int | None,
    copy: bool,  # noqa: FBT001  from Hypothesis
) -> None:
    content = kdump(pages)
    memory = load(content if seed is None else flattened(content, random.Random(seed)), copy=copy).memory
    for frame in range(201):
        how, data = pages.get(frame, (None, b""))
        if how is None or how == LEFT_OUT:
            with pytest.raises(UnmappedAddress if how is None else AccessDenied):
                memory.read(frame * PAGE, 1)
        else:
            assert memory.read(frame * PAGE, PAGE) == data


def test_zeroes_of_a_copy_take_no_room() -> None:
    space = load(kdump({frame: (ZLIB, bytes(PAGE)) for frame in range(1000)} | {1000: (ZLIB, b"x" * PAGE)}), copy=True)
    mapping = space.memory.mapping(0)
    assert mapping.fd is not None
    assert Path(f"/proc/self/fd/{mapping.fd}").stat().st_blocks * 512 <= 2 * PAGE
    assert bytes(space.memory.view(1000 * PAGE, 8)) == b"x" * 8


def test_a_damaged_page_is_a_fault_or_left_out_of_a_copy() -> None:
    content = kdump({5: (ZLIB, b"a" * PAGE), 6: (ZLIB, b"b" * PAGE)})
    broken = content.replace(zlib.compress(b"a" * PAGE), bytes(len(zlib.compress(b"a" * PAGE))))
    memory = load(broken).memory
    assert memory.read(0x6000, 1) == b"b"
    with pytest.raises(MemoryFault, match="the page at 0x5000 can't be unpacked") as raised:
        memory.read(0x5000, PAGE + 1)
    assert (raised.value.completed, raised.value.address) == (0, 0x5000)
    with pytest.raises(FormatError, match="the page at 0x5000 can't be unpacked"):
        load(broken, copy=True)
    memory = load(broken, copy=True, partial=True).memory
    assert memory.read(0x6000, 1) == b"b"
    with pytest.raises(AccessDenied, match="not in the dump"):
        memory.read(0x5000, 1)
    partly = opened("kdump-page-desc-outside.kdump.gz", copy=True, partial=True)
    assert partly.memory.read(0x1000, 11) == b"hello-kdump"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (kdump({0: (STORED, b"short")}), "the page at 0x0 has 0x5 of 0x1000 bytes"),
        (kdump({0: (STORED, bytes(PAGE + 1))}), "the page at 0x0 has 0x1001 bytes, more than a block"),
        (kdump({0: (ZLIB, bytes(PAGE * 3))}), "the page at 0x0 has more than 0x1000 bytes"),
        (kdump({0: (ZLIB, b"few")}), "the page at 0x0 has 0x3 of 0x1000 bytes"),
        (kdump({0: (STORED, bytes(PAGE))}, method=2), "packed by LZO.*makedumpfile -c"),
    ],
    ids=range(5),
)
def test_a_wrong_page_is_a_fault(content: bytes, reason: str) -> None:
    memory = load(content).memory
    with pytest.raises(MemoryFault, match=reason):
        memory.read(0, 1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (kdump({0: (STORED, bytes(PAGE))}, split=1), "a split dump"),
        (kdump({0: (STORED, bytes(PAGE))})[:430], "truncated: of the header"),
        (kdump({0: (STORED, bytes(PAGE))}, status=2), "packed by LZO.*makedumpfile -c"),
    ],
    ids=range(3),
)
def test_a_wrong_dump_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        load(content)


def test_an_incomplete_dump_is_refused() -> None:
    content = bytearray(kdump({0: (STORED, bytes(PAGE))}))
    content[424] |= 8
    with pytest.raises(FormatError, match="the dump is incomplete"):
        load(content)


def test_an_elf_file_may_be_in_the_stream() -> None:
    content = (SAMPLES / "elf-aarch64.core").read_bytes()
    stream = flattened(content, random.Random(3))
    assert load(stream).snapshot().ranges() == load(content).snapshot().ranges()
    with pytest.raises(FormatError, match="neither an ELF nor a kdump file"):
        load(flattened(b"neither" * 100, random.Random(3)))
    with pytest.raises(FormatError, match="neither an ELF nor a kdump file"):
        load(flattened(stream, random.Random(3)))


@pytest.mark.parametrize("block", [(1 << 62, 8), (-2, 8), (0, 0), (0, -1), (0, 1 << 62)])
def test_a_block_that_can_not_be_is_refused(block: tuple[int, int]) -> None:
    stream = struct.pack(">16sqq", b"makedumpfile", 1, 1).ljust(4096, b"\0") + struct.pack(">qq", *block) + bytes(8)
    with pytest.raises(FormatError, match="can't be"):
        load(stream)


def masked_crc(data: bytes) -> bytes:
    """The checksum of Snappy's frames: CRC-32C, turned and shifted."""
    crc = 0xFFFF_FFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F6_3B78 if crc & 1 else 0)
    crc ^= 0xFFFF_FFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282_EAD8) & 0xFFFF_FFFF)


def varint(number: int) -> bytes:
    return bytes([number & 0x7F | 0x80]) + varint(number >> 7) if number > 0x7F else bytes([number])


def snappy(data: bytes) -> bytes:
    """A block of literals, and of a copy where one byte fills it."""
    if len(data) > 8 and data.count(data[0]) == len(data):
        sizes = [min(64, len(data) - done) for done in range(1, len(data), 64)]
        return (
            varint(len(data))
            + b"\0"
            + data[:1]
            + b"".join(struct.pack("<BH", (size - 1) << 2 | 2, 1) for size in sizes)
        )
    return varint(len(data)) + b"".join(struct.pack("<BH", 61 << 2, len(part) - 1) + part for part in [data] if part)


def frame(data: bytes, *, stored: bool) -> bytes:
    body = masked_crc(data) + (data if stored else snappy(data))
    return struct.pack("<I", len(body) << 8 | (1 if stored else 0)) + body


def avml(records: dict[int, list[tuple[bool, bytes]]], *, between: bytes = b"") -> bytes:
    """Records of frames, each stored or packed."""
    content = b""
    for base, frames in records.items():
        size = sum(len(data) for _, data in frames)
        stream = b"\xff\6\0\0sNaPpY" + between.join(frame(data, stored=stored) for stored, data in frames)
        content += (
            struct.pack("<IIQQ8x", 0x4C4D_5641, 2, base, base + size - 1) + stream + struct.pack("<Q", len(stream))
        )
    return content


FRAMES = st.lists(
    st.tuples(
        st.booleans(),
        st.one_of(
            st.just(bytes(PAGE)),
            st.binary(min_size=1, max_size=1).map(lambda one: one * PAGE),
            st.binary(min_size=PAGE, max_size=PAGE),
        ),
    ),
    min_size=1,
    max_size=3,
)


RECORDS = st.dictionaries(st.integers(0, 15).map(lambda number: number << 20), FRAMES, min_size=1, max_size=3)


@given(records=RECORDS, copy=st.booleans())
def test_avmls_memory_is_unpacked(records: dict[int, list[tuple[bool, bytes]]], copy: bool) -> None:  # noqa: FBT001
    memory = load(avml(records, between=b"\xfe\3\0\0pad"), copy=copy).memory
    for base, frames in records.items():
        content = b"".join(data for _, data in frames)
        assert memory.read(base, len(content)) == content
        with pytest.raises(UnmappedAddress):
            memory.read(base + len(content), 1)


def test_a_damaged_record_is_kept_as_far_as_it_goes() -> None:
    content = avml({0: [(True, b"a" * PAGE), (True, b"b" * PAGE)], 1 << 20: [(False, b"c" * PAGE)]})
    broken = content.replace(b"b" * PAGE, b"B" + b"b" * (PAGE - 1))
    with pytest.raises(MemoryFault, match=r"the memory at 0x1000 can't be unpacked: .*checksum"):
        load(broken).memory.read(PAGE, 1)
    with pytest.raises(FormatError, match=r"the memory at 0x1000 can't be unpacked: .*checksum"):
        load(broken, copy=True)
    memory = load(broken, copy=True, partial=True).memory
    assert memory.read(0, PAGE) == b"a" * PAGE
    with pytest.raises(AccessDenied, match="not in the dump"):
        memory.read(PAGE, 1)


@pytest.mark.parametrize(
    ("chunk", "reason"),
    [
        (b"\2\1\0\0x", "a chunk of unknown type 0x2"),
        (b"\1\0\0\x10", "a chunk of 0x100000 bytes"),
        (frame(b"x" * 2 * PAGE, stored=True), "more bytes than that"),
        (struct.pack("<I", 9 << 8) + masked_crc(b"") + varint(1 << 31), "can't be unpacked"),
    ],
    ids=range(4),
)
def test_a_wrong_chunk_is_refused(chunk: bytes, reason: str) -> None:
    content = avml({0: [(True, b"x" * PAGE)]})
    start = content.index(b"sNaPpY") + 6
    with pytest.raises(FormatError, match=reason):
        load(content[:start] + chunk + content[start:])


def test_pages_of_a_kdump_may_be_packed_by_snappy() -> None:
    memory = load(kdump({0: (SNAPPY, b"x" * PAGE), 1: (STORED, b"y" * PAGE)})).memory
    assert memory.read(PAGE - 1, 2) == b"xy"
    with pytest.raises(MemoryFault, match="the page at 0x0 can't be unpacked"):
        load(kdump({0: (STORED, b"x" * PAGE)}, method=SNAPPY)).memory.read(0, 1)
