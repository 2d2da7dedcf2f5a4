"""Spaces that go back in time and fork, against full copies of what they were."""

from contextlib import suppress
from typing import Any

import pytest
from dbs_address_space import AddressSpace, AddressSpaceRegion, Checkpoint, CheckpointClosed, NotMapped, Unsupported
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from memory_helpers import PAGE, mapped, ram

SIZE = 64 * PAGE
HIGH = 1 << 32
numbers = st.integers(0, 9)

Contents = dict[int, bytes]


class World:
    """A space, its checkpoints with what it was then, and its bytes when its last step was done."""

    def __init__(self, space: AddressSpace) -> None:
        self.space = space
        self.open: list[tuple[Checkpoint, Any, Contents]] = []
        self.last = self.contents()

    def contents(self) -> Contents:
        return {region.base: self.space.memory.read(region.base, region.size) for region in self.space.regions}

    def region(self, number: int) -> AddressSpaceRegion:
        return self.space.regions[number % len(self.space.regions)]

    def note(self, base: int, offset: int, written: bytes) -> None:
        before = self.last[base]
        self.last[base] = before[:offset] + written + before[offset + len(written) :]

    def index(self, point: Checkpoint) -> int:
        """Which of its open checkpoints it is; -1 when it is closed."""
        return next((index for index, (other, *_) in enumerate(self.open) if other is point), -1)


class Travels(RuleBasedStateMachine):
    """Writes, plugging, moving, cutting, nesting and forks, also of forks: a step in one space changes no other."""

    worlds = Bundle("worlds")
    points = Bundle("points")

    @initialize(target=worlds, mem_type=st.sampled_from(["shmem", "mmap"]), mode=st.sampled_from(["auto", "compare"]))
    def begin(self, mem_type: str, mode: Any) -> World:
        self.mem_type, self.mode, self.count = mem_type, mode, 0
        self.all: list[World] = []
        return self.new(mapped(ram(0, SIZE, mem_type=mem_type), ram(HIGH, SIZE, mem_type=mem_type))[0])

    def new(self, space: AddressSpace) -> World:
        self.all.append(World(space))
        return self.all[-1]

    def free(self) -> int:
        self.count += 1
        return (self.count + 2) * HIGH

    @rule(world=worlds, region=numbers, page=st.integers(0, 63), value=st.integers(0, 3), size=st.integers(1, 9000))
    def write(self, world: World, region: int, page: int, value: int, size: int) -> None:
        there = world.region(region)
        addr = there.base + page * PAGE % there.size
        size = min(size, there.end - addr)
        world.space.memory.fill(addr, size, value)
        world.note(there.base, addr - there.base, bytes([value]) * size)

    @rule(world=worlds, page=st.integers(0, 63))
    def discard(self, world: World, page: int) -> None:
        there = world.space.regions[0]
        offset = page * PAGE % there.size
        # Of a fork, what its own pages hid would show again.
        with suppress(Unsupported):
            world.space.memory.discard(there.base + offset, PAGE)
            world.note(there.base, offset, bytes(PAGE))

    @rule(world=worlds)
    def plug(self, world: World) -> None:
        if len(world.space.regions) < 5:
            base = self.free()
            world.space.insert_region(ram(base, SIZE, mem_type=self.mem_type))
            world.last[base] = bytes(SIZE)

    @rule(world=worlds, region=numbers)
    def unplug(self, world: World, region: int) -> None:
        if len(world.space.regions) > 1:
            there = world.region(region)
            world.space.remove_region(there)
            del world.last[there.base]

    @rule(world=worlds, region=numbers)
    def move(self, world: World, region: int) -> None:
        there, base = world.region(region), self.free()
        world.space.move_region(there, base)
        world.last[base] = world.last.pop(there.base)

    @rule(world=worlds, region=numbers)
    def split(self, world: World, region: int) -> None:
        there = world.region(region)
        if there.size > PAGE:
            size = there.size // PAGE // 2 * PAGE
            world.space.split_region(there, there.base + size)
            bytes_ = world.last[there.base]
            world.last |= {there.base: bytes_[:size], there.base + size: bytes_[size:]}

    @rule(target=points, world=worlds)
    def take(self, world: World) -> Any:
        if len(world.open) >= 4:
            return multiple()
        point = world.space.memory.checkpoint(mode=self.mode if not world.open else "auto")
        world.open.append((point, world.space.snapshot(), dict(world.last)))
        return world, point

    @rule(taken=points)
    def restore(self, taken: tuple[World, Checkpoint]) -> None:
        world, point = taken
        index = world.index(point)
        if index < 0 or world not in self.all:
            with pytest.raises((CheckpointClosed, NotMapped)):
                point.restore()
            return
        _, base, contents = world.open[index]
        assert point.dirty().count == point.verify().count
        point.restore()
        assert world.space.snapshot() == base
        assert not point.verify()
        del world.open[index + 1 :]
        world.last = dict(contents)

    @rule(target=worlds, taken=points)
    def fork(self, taken: tuple[World, Checkpoint]) -> Any:
        world, point = taken
        index = world.index(point)
        if index < 0:
            with pytest.raises(CheckpointClosed):
                point.fork()
            return multiple()
        if len(self.all) >= 4:
            return multiple()
        _, base, contents = world.open[index]
        child = self.new(point.fork())
        assert child.space.snapshot() == base
        child.last = dict(contents)
        return child

    @rule(target=worlds, world=consumes(worlds))
    def end(self, world: World) -> Any:
        if world is self.all[0]:
            return world
        self.all.remove(world)
        world.space.memory.close()
        return multiple()

    @rule(taken=consumes(points))
    def close(self, taken: tuple[World, Checkpoint]) -> None:
        world, point = taken
        index = world.index(point)
        point.close()
        if index >= 0:
            del world.open[index]

    @invariant()
    def each_is_what_its_own_steps_made_it(self) -> None:
        for world in getattr(self, "all", ()):
            assert world.contents() == world.last

    def teardown(self) -> None:
        for world in getattr(self, "all", ()):
            world.space.memory.close()


TestTravels = Travels.TestCase
TestTravels.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
