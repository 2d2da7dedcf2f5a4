"""Pages that a guest gives back: each is the host's while it is in the balloon, and reads as zero behind it."""

import struct
from array import array
from typing import Any

import numpy as np
import pytest
from dbs_address_space import Balloon, BalloonStats, GuestMemory, InvalidAddressRange, InvalidArgument, UnmappedAddress
from host import huge_pages
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from memory_helpers import MIB, PAGE, blocks, mapped, ram

COUNT = 32


def filled(size: int = COUNT * PAGE, **options: Any) -> GuestMemory:
    _, memory = mapped(ram(0, size, **options))
    memory.fill(0, size, 0xA5)
    return memory


class AgainstSet(RuleBasedStateMachine):
    """The model is a set of pages; a page that was in the balloon is zero until the guest writes it again."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = filled()
        self.balloon = Balloon(self.memory)
        self.model: set[int] = set()
        self.zero: set[int] = set()

    @rule(frames=st.lists(st.integers(0, COUNT - 1)), packed=st.booleans())
    def inflate(self, frames: list[int], *, packed: bool) -> None:
        given: Any = struct.pack(f"<{len(frames)}I", *frames) if packed else iter(frames)
        assert self.balloon.inflate(given) == len(set(frames) - self.model) * PAGE
        self.zero |= set(frames) - self.model
        self.model |= set(frames)

    @rule(frames=st.lists(st.integers(0, COUNT + 3)))
    def deflate(self, frames: list[int]) -> None:
        assert self.balloon.deflate(frames) == len(set(frames) & self.model) * PAGE
        self.model -= set(frames)

    @rule(first=st.integers(0, COUNT - 1), count=st.integers(1, 4))
    def report(self, first: int, count: int) -> None:
        count = min(count, COUNT - first)
        before = self.balloon.stats
        assert self.balloon.report_free([(first * PAGE, count * PAGE)]) == count * PAGE
        after = self.balloon.stats
        assert (after.reports, after.reported) == (before.reports + 1, before.reported + count * PAGE)
        assert (after.size, after.discarded) == (before.size, before.discarded)
        self.zero |= set(range(first, first + count))

    @rule(frame=st.integers(0, COUNT - 1))
    def write(self, frame: int) -> None:
        self.memory.fill(frame * PAGE, PAGE, 0xA5)
        self.zero.discard(frame)

    @invariant()
    def pages_are_as_the_model_says(self) -> None:
        assert self.balloon.size == len(self.model) * PAGE
        assert {page // PAGE for part in self.balloon for page in range(part.base, part.end, PAGE)} == self.model
        for frame in range(COUNT):
            assert self.memory.read_u8(frame * PAGE) == (0 if frame in self.zero else 0xA5)


TestAgainstSet = AgainstSet.TestCase
TestAgainstSet.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)


def test_pages_in_the_balloon_take_no_memory() -> None:
    memory = filled()
    balloon = Balloon(memory)
    balloon.inflate([3, 4, 9])
    balloon.report_free([(16 * PAGE, 4 * PAGE)])
    assert blocks(memory, 0) == (COUNT - 7) * PAGE // 512


def test_a_page_that_is_not_memory_is_refused_and_none_is_taken() -> None:
    memory = filled()
    balloon = Balloon(memory)
    with pytest.raises(UnmappedAddress) as raised:
        balloon.inflate([0, COUNT - 1, COUNT])
    assert raised.value.address == COUNT * PAGE
    assert balloon.size == 0
    assert memory.read(0, COUNT * PAGE) == b"\xa5" * COUNT * PAGE
    for frames, error in (
        ([-1], InvalidAddressRange),
        ([1 << 60], InvalidAddressRange),
        (["a"], TypeError),
        (7, TypeError),
    ):
        with pytest.raises(error):
            balloon.inflate(frames)  # type: ignore[arg-type]
    with pytest.raises(UnmappedAddress):
        balloon.report_free([(0, PAGE), (COUNT * PAGE, PAGE)])
    assert balloon.stats == BalloonStats(0, 0, 0, 0)


def test_a_huge_page_is_given_back_once_all_of_it_is_in_the_balloon() -> None:
    with huge_pages(2) as size:
        memory = filled(2 * size, mem_type="hugeshmem")
        balloon = Balloon(memory)
        frames = size // PAGE
        balloon.inflate(range(1, frames + 1))
        assert balloon.stats.discarded == 0
        assert memory.read_u8(PAGE) == 0xA5
        balloon.inflate([0])
        assert balloon.stats == BalloonStats(size + PAGE, size, 0, 0)
        assert (memory.read_u8(PAGE), memory.read_u8(size)) == (0, 0xA5)
        assert balloon.report_free([(size, size - PAGE)]) == 0
        assert balloon.report_free([(size, size)]) == size
        memory.close()


def test_a_list_goes_over_touching_regions() -> None:
    _, memory = mapped(ram(0, MIB), ram(MIB, MIB, mem_type="mmap"))
    memory.fill(0, 2 * MIB, 1)
    balloon = Balloon(memory)
    assert balloon.inflate(range(MIB // PAGE - 2, MIB // PAGE + 2)) == 4 * PAGE
    assert memory.read(MIB - 3 * PAGE, 6 * PAGE) == b"\1" * PAGE + bytes(4 * PAGE) + b"\1" * PAGE
    assert "0x4000 bytes" in repr(balloon)


@pytest.mark.parametrize(
    "frames",
    [array("Q", [5, 6]), array("H", [5, 6]), np.array([5, 6]), np.array([5, 6], ">u4"), np.array([5, 6], "u4")],
    ids=lambda frames: getattr(frames, "typecode", None) or frames.dtype.str,
)
def test_an_array_of_ints_is_its_ints(frames: Any) -> None:
    balloon = Balloon(filled())
    assert balloon.inflate(frames) == 2 * PAGE
    assert [str(pages) for pages in balloon] == ["[0x5000, 0x7000)"]


@pytest.mark.parametrize("frames", [b"\5\0\0", np.array([1.0]), np.array([True]), np.zeros(2, "u4,u4")])
def test_a_buffer_of_something_else_is_refused(frames: Any) -> None:
    memory = filled()
    with pytest.raises((TypeError, InvalidArgument, InvalidAddressRange)):
        Balloon(memory).inflate(frames)
    assert memory.read(0, COUNT * PAGE) == b"\xa5" * COUNT * PAGE
