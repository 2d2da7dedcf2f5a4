"""Chains of images against plain copies: any writes, zeroed pages and plugs between saves, and every way back."""

import contextlib
from pathlib import Path
from tempfile import TemporaryDirectory

from dbs_address_space import DirtyTracker, SavedSpace
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from memory_helpers import MIB, PAGE, mapped, numbered, ram
from plain_image import memory as plain_memory
from plain_image import read as plain

SLOTS = {0: 3 * PAGE, 2 * MIB: 37 * PAGE, 4 * MIB: MIB + 17 * PAGE, 8 * MIB: PAGE}
"""The sizes of regions by where they are plugged: ends inside a chunk, and inside the room of an area."""
BASES = st.sampled_from(sorted(SLOTS))
PLACES = st.tuples(BASES, st.floats(0, 1), st.sampled_from([1, 7, PAGE, 5 * PAGE, 16 * PAGE, 40 * PAGE]))


class Chains(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.folder = Path(self.stack.enter_context(TemporaryDirectory()))
        kinds = ["shmem", "mmap"]
        self.space, self.memory = mapped(
            *(ram(base, size, mem_type=kinds[at % 2]) for at, (base, size) in enumerate(SLOTS.items()))
        )
        self.saved: list[SavedSpace] = []
        self.copies: list[dict[int, bytes]] = []
        self.tracker: DirtyTracker | None = None

    @initialize()
    def first(self) -> None:
        self.tracker = self.memory.dirty.start()
        self.save_whole()

    def copy(self) -> dict[int, bytes]:
        return {region.base: self.memory.read(region.base, region.size) for region in self.space.regions}

    def note(self, saved: SavedSpace) -> None:
        self.saved.append(saved)
        self.copies.append(self.copy())

    def path(self) -> Path:
        return self.folder / f"{len(self.saved)}.img"

    def save_whole(self) -> None:
        assert self.tracker is not None
        self.tracker.collect()
        self.note(self.space.save(self.path(), sync=False))

    @rule()
    def save_what_is_dirty(self) -> None:
        self.note(self.space.save(self.path(), parent=self.saved[-1], dirty=self.tracker, sync=False))

    @rule()
    def save_what_differs(self) -> None:
        assert self.tracker is not None
        self.tracker.collect()
        self.note(self.space.save(self.path(), parent=self.saved[-1].path, sync=False))

    @rule()
    def save_all(self) -> None:
        self.save_whole()

    def range(self, place: tuple[int, float, int]) -> tuple[int, int]:
        base, share, size = place
        size = min(size, SLOTS[base])
        return base + int(share * (SLOTS[base] - size)), size

    @rule(place=PLACES, seed=st.integers(0, 3))
    def write(self, place: tuple[int, float, int], seed: int) -> None:
        addr, size = self.range(place)
        if self.memory.check_range(addr, size):
            self.memory.write(addr, numbered(size, seed))

    @rule(place=PLACES, gives_back=st.booleans())
    def clear(self, place: tuple[int, float, int], gives_back: bool) -> None:  # noqa: FBT001
        addr, size = self.range(place)
        if not self.memory.check_range(addr, size):
            return
        pages = range(-(-addr // PAGE) * PAGE, (addr + size) // PAGE * PAGE)
        if gives_back and pages:
            self.memory.discard(pages.start, len(pages))
        self.memory.fill(addr, size, 0)

    @rule(base=BASES)
    def plug_or_unplug(self, base: int) -> None:
        if self.space.find_region(base):
            self.space.remove_region(base)
        else:
            self.space.insert_region(ram(base, SLOTS[base]))

    @rule(which=st.integers(0, 3), mode=st.sampled_from(["copy", "merge", "cow"]))
    def restore(self, which: int, mode: str) -> None:
        saved, expected = self.saved[-1 - which % len(self.saved)], self.copies[-1 - which % len(self.saved)]
        if mode != "copy":
            merged = saved.merge(self.folder / "merged.img", sync=False)
            assert (merged.content, merged.parent) == (saved.content, None)
            saved = merged
        restored = saved.restore("cow" if mode == "cow" else "copy")
        assert {r.base: restored.memory.read(r.base, r.size) for r in restored.regions} == expected

    @invariant()
    def the_last_is_what_is_there(self) -> None:
        if self.saved:
            chain = [plain(Path(saved.path)) for saved in self.saved[-1].chain()]
            assert plain_memory(chain) == self.copies[-1]

    def teardown(self) -> None:
        self.stack.close()


TestChains = Chains.TestCase
TestChains.settings = settings(
    max_examples=12, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
