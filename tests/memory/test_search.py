"""Searches: every border that a match can lie on, masks, alignment, bad needles."""

import copy
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import AddressSpaceRegion, BytePattern, GuestMemory, InvalidAddressRange, InvalidArgument
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_helpers import GIB, MIB, PAGE, blocks, make_file, mapped, ram
from threads import beats_during

CHUNK = 128 << 10
"""Bytes that are looked at in one go, besides the length of the needle."""
TOP = (1 << 64) - 1
NEEDLE = b"\x7fneedle in a haystack"


@pytest.fixture
def regions(tmp_path: Path) -> list[AddressSpaceRegion]:
    """Three touching regions of all paths, a hole, a region alone, a device, what can't be read between two that can."""
    with make_file(tmp_path / "ram", MIB + 5).open("r+b") as file:
        return [
            ram(0, MIB),
            AddressSpaceRegion.from_file(MIB, MIB, file, 5),
            ram(2 * MIB, MIB, mem_type="mmap"),
            ram(4 * MIB, MIB),
            ram(5 * MIB, MIB, prot_flags=0),
            ram(6 * MIB, MIB, prot_flags="r--"),
            AddressSpaceRegion.create_device_region(1 << 45, PAGE),
        ]


def all_of(memory: GuestMemory, needle: Any = NEEDLE, *span: int, **options: Any) -> list[int]:
    return list(memory.search(needle, *span, **options))


BORDERS = {"chunk": CHUNK, "second chunk": 2 * CHUNK, "half MiB": MIB // 2, "joint": MIB, "second joint": 2 * MIB}


def test_short_searches_and_steps_keep_the_interpreters_lock() -> None:
    """Beside a busy thread each time that it is let go may cost a switch interval."""
    _, memory = mapped(ram(0, MIB))
    memory.write(PAGE, b"needle" * 100)

    def search_often() -> None:
        for _ in range(100):
            assert len(list(memory.search(b"needle", 0, 16 * PAGE))) == 100

    assert beats_during(search_often) == 0
    matches = memory.search(b"needle")
    next(matches)
    assert beats_during(lambda: [next(matches) for _ in range(99)]) == 0


@pytest.mark.parametrize("border", list(BORDERS.values()), ids=list(BORDERS))
@pytest.mark.parametrize("before", range(len(NEEDLE) + 1))
def test_a_match_may_lie_on_any_border(memory: GuestMemory, border: int, before: int) -> None:
    memory.write(border - before, NEEDLE)
    assert all_of(memory) == [border - before]
    assert all_of(memory, BytePattern("7f 6? ?5 6??? " + NEEDLE[5:].hex())) == [border - before]


@pytest.mark.parametrize("end", [3 * MIB, 5 * MIB, 7 * MIB], ids=["hole", "unreadable", "last"])
def test_a_match_may_end_with_the_memory(memory: GuestMemory, end: int) -> None:
    memory.write(end - len(NEEDLE), NEEDLE, force=True)
    assert all_of(memory) == [end - len(NEEDLE)]
    assert all_of(memory, NEEDLE, 0, end) == [end - len(NEEDLE)]
    assert all_of(memory, NEEDLE, 0, end - 1) == []
    assert all_of(memory, NEEDLE, end - len(NEEDLE)) == [end - len(NEEDLE)]
    assert all_of(memory, NEEDLE, end - len(NEEDLE) + 1) == []


@pytest.mark.parametrize("border", [3 * MIB, 5 * MIB], ids=["hole", "unreadable"])
def test_no_match_crosses_what_has_no_bytes(memory: GuestMemory, border: int) -> None:
    behind = border + MIB
    memory.write(border - 7, NEEDLE[:7])
    memory.write(behind, NEEDLE[7:], force=True)
    assert all_of(memory) == []
    memory.write(border, NEEDLE, force=True) if border == 5 * MIB else None
    assert all_of(memory) == []


def test_matches_may_overlap_each_other(memory: GuestMemory) -> None:
    memory.write(CHUNK - 4, b"a" * 9)
    assert all_of(memory, b"aaa") == list(range(CHUNK - 4, CHUNK + 3))
    assert all_of(memory, b"aaa", align=2) == list(range(CHUNK - 4, CHUNK + 3, 2))
    assert all_of(memory, b"aaa", limit=3) == [CHUNK - 4, CHUNK - 3, CHUNK - 2]


@pytest.mark.parametrize("align", [1, 2, 3, 7, 8, 4096, 5000, 1 << 40, TOP])
def test_matches_begin_at_multiples(memory: GuestMemory, align: int) -> None:
    places = [0, 56, 4096, 10_000, 15_000, CHUNK - 8, MIB, MIB + 24, 4 * MIB + 40]
    for place in places:
        memory.write(place, NEEDLE)
    assert all_of(memory, align=align) == [place for place in places if place % align == 0]


@pytest.mark.parametrize("limit", [0, 1, 2, 5])
def test_a_limit_ends_the_search(memory: GuestMemory, limit: int) -> None:
    for place in (0, MIB, 4 * MIB):
        memory.write(place, NEEDLE)
    assert all_of(memory, limit=limit) == [0, MIB, 4 * MIB][:limit]


def test_an_ended_search_stays_ended(memory: GuestMemory) -> None:
    search = memory.search(NEEDLE)
    assert list(search) == []
    memory.write(0, NEEDLE)
    assert list(search) == []
    assert iter(search) is search


def test_zeroes_are_found_in_memory_without_pages(memory: GuestMemory) -> None:
    memory.write(2 * PAGE - 1, b"x")
    assert all_of(memory, bytes(PAGE), 0, 4 * PAGE, align=PAGE) == [0, 2 * PAGE, 3 * PAGE]
    assert all_of(memory, b"\0", limit=3) == [0, 1, 2]
    assert all_of(memory, bytes(MIB), align=MIB) == [MIB, 2 * MIB, 4 * MIB, 6 * MIB]
    assert all_of(memory, BytePattern("00 ?? 0?"), 2 * PAGE - 3, 2 * PAGE + 2) == [2 * PAGE - 2]
    assert blocks(memory, 0) <= 8 * 8


@pytest.mark.parametrize("size", [CHUNK, CHUNK + 1, MIB - 1, 2 * MIB + 7, 3 * MIB - 1, 3 * MIB])
def test_a_needle_may_be_long(memory: GuestMemory, size: int) -> None:
    needle = random.Random(size).randbytes(size)
    for place in {0, 3 * MIB - size}:
        memory.write(place, needle)
        assert all_of(memory, needle) == [place]
        memory.fill(0, 3 * MIB)


@pytest.mark.parametrize("size", [3 * MIB + 1, 16 * MIB])
def test_a_needle_longer_than_the_memory_is_not_there(memory: GuestMemory, size: int) -> None:
    assert all_of(memory, bytes(size)) == []
    assert all_of(memory, b"x" * size) == []
    assert blocks(memory, 0) == 0


@pytest.mark.parametrize("needle", [b"", bytearray(), memoryview(b"")], ids=["bytes", "bytearray", "memoryview"])
def test_nothing_cannot_be_searched_for(memory: GuestMemory, needle: Any) -> None:
    with pytest.raises(InvalidArgument, match="at least one byte"):
        memory.search(needle)


@pytest.mark.parametrize("needle", ["text", 1, None, [1, 2], 1.5])
def test_a_needle_is_bytes_or_a_pattern(memory: GuestMemory, needle: Any) -> None:
    with pytest.raises(TypeError):
        memory.search(needle)
    with pytest.raises(BufferError):
        memory.search(memoryview(b"abcd")[::2])


BAD_BOUNDS: list[dict[str, Any]] = [
    *({bound: value} for bound in ("start", "end", "limit", "align") for value in (-1, 1 << 64, True)),
    {"start": 2, "end": 1},
    {"align": 0},
]


@pytest.mark.parametrize("bounds", BAD_BOUNDS, ids=str)
def test_bounds_that_cannot_be_are_refused(memory: GuestMemory, bounds: dict[str, Any]) -> None:
    with pytest.raises(InvalidAddressRange):
        memory.search(NEEDLE, **bounds)


def test_bounds_may_lie_anywhere(memory: GuestMemory) -> None:
    memory.write(0, NEEDLE)
    for start, end in [(3 * MIB, 4 * MIB), (0, 0), (TOP, TOP), (1 << 45, TOP), (MIB, MIB), (8 * MIB, None)]:
        assert list(memory.search(NEEDLE, start, end)) == []
    assert all_of(memory, NEEDLE, 0, TOP) == [0]


def test_it_may_begin_and_end_in_the_midst_of_a_hole_of_the_file() -> None:
    _, memory = mapped(ram(0, 64 * MIB))
    memory.write(32 * MIB, NEEDLE)
    assert all_of(memory, NEEDLE, 5 * MIB + 3, 31 * MIB + 7) == []
    assert all_of(memory, NEEDLE, 31 * MIB + 7, 33 * MIB) == [32 * MIB]
    assert blocks(memory, 0) == 8


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_it_finds_what_find_finds(data: st.DataObject) -> None:
    """Small regions with few letters, so that matches cross many joints; nibbles that may be anything, too."""
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    text = data.draw(
        st.binary(min_size=sum(sizes), max_size=sum(sizes)).map(lambda text: bytes(c & 0x11 for c in text))
    )
    at, regions = 1000, []
    for size in sizes:
        regions.append(AddressSpaceRegion.from_buffer(at, bytearray(text[at - 1000 :][:size])))
        at += size
    _, memory = mapped(*regions)
    needle = data.draw(
        st.sampled_from([text[i:j] for i in range(len(text)) for j in range(i + 1, min(i + 7, len(text)) + 1)])
    )
    mask = data.draw(st.lists(st.sampled_from([0xFF, 0xF0, 0x0F, 0]), min_size=len(needle), max_size=len(needle)))
    starts = range(len(text) - len(needle) + 1)
    assert all_of(memory, needle) == [1000 + start for start in starts if text[start:].startswith(needle)]
    if any(mask):
        nibbles = [f"{byte:02x}"[0] if bits & 0xF0 else "?" for byte, bits in zip(needle, mask, strict=True)]
        others = [f"{byte:02x}"[1] if bits & 0x0F else "?" for byte, bits in zip(needle, mask, strict=True)]
        pattern = BytePattern(" ".join(map("".join, zip(nibbles, others, strict=True))))
        fits = [
            1000 + start
            for start in starts
            if all(
                (text[start + i] ^ byte) & bits == 0 for i, (byte, bits) in enumerate(zip(needle, mask, strict=True))
            )
        ]
        assert all_of(memory, pattern) == fits


def test_four_sparse_gib_are_searched_without_a_page() -> None:
    _, memory = mapped(ram(0, 4 * GIB))
    memory.write(3 * GIB - 5, NEEDLE)
    assert all_of(memory) == [3 * GIB - 5]
    assert blocks(memory, 0) == 2 * 8


@pytest.mark.parametrize(
    ("text", "shown"),
    [("48 8b ?? c?", "48 8b ?? c?"), ("488B??C?", "48 8b ?? c?"), (" f?\t?f\n", "f? ?f"), ("4 8", "48")],
)
def test_a_pattern_shows_what_it_is(text: str, shown: str) -> None:
    pattern = BytePattern(text)
    assert (str(pattern), repr(pattern), len(pattern)) == (shown, f"BytePattern('{shown}')", len(shown.split()))
    assert pattern == BytePattern(shown)
    assert hash(pattern) == hash(BytePattern(shown))
    assert pattern != BytePattern("11")
    assert pattern != shown


@pytest.mark.parametrize("text", ["", " ", "4", "??", "?? ??", "xx", "0x48", "48,8b", "48 8", "\0\0", "\uff14\uff18"])
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(InvalidArgument, match="not a byte pattern"):
        BytePattern(text)


@pytest.mark.parametrize("text", [b"48", 4, None])
def test_a_pattern_is_text(text: Any) -> None:
    with pytest.raises(TypeError):
        BytePattern(text)


def test_a_pattern_can_be_pickled() -> None:
    pattern = BytePattern("48 8b ?? c?")
    assert pickle.loads(pickle.dumps(pattern)) == copy.deepcopy(pattern) == pattern
