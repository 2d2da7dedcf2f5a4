"""A map of random regions under the verbs of `GuestMemory`, beside its model in plain Python."""

import os
from collections.abc import Callable
from typing import NamedTuple

import pytest
from bytes_model import Model, ModelRegion, Need
from dbs_address_space import AddressSpace, AddressSpaceLayout, AddressSpaceRegion, GuestMemory
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from memory_helpers import PAGE, drain, ram, track

KINDS = ["shmem", "mmap", "rom", "none", "file", "private", "buffer", "device", "hole"]
OFFSET = 100
"""Where in their files regions begin."""


Place = tuple[int, int]
"""An edge of a region by its number, and how far from it."""


class Segment(NamedTuple):
    kind: str
    pages: int
    odd: int


segments = st.lists(
    st.builds(Segment, st.sampled_from(KINDS), st.integers(1, 3), st.sampled_from([0, 1, 7, 2048, 4095])),
    min_size=1,
    max_size=8,
)
places = st.tuples(st.integers(0, 30), st.one_of(st.integers(-9, 9), st.integers(-2 * PAGE, 2 * PAGE)))


class VerbsBesideModel(RuleBasedStateMachine):
    """The memory and its model side by side; writes are tracked throughout."""

    space: AddressSpace
    memory: GuestMemory

    def __init__(self) -> None:
        super().__init__()
        self.model = Model([])
        self.described: dict[int, tuple[AddressSpaceRegion, ModelRegion]] = {}
        self.files: list[int] = []

    @initialize(segments=segments)
    def build(self, segments: list[Segment]) -> None:
        at, windows = 0, []
        for segment in segments:
            start, at = at, self.describe(at, segment)
            if segment.kind == "device":
                windows.append((start, at - start))
        self.space = AddressSpace(AddressSpaceLayout(1 << 46, 0, 1 << 45, mmio_windows=windows))
        with self.space.transaction() as transaction:
            for region, _ in self.described.values():
                transaction.insert_region(region)
        self.memory = self.space.map_memory()
        track(self.memory)
        self.model = Model([modelled for _, modelled in self.described.values()])

    def describe(self, base: int, segment: Segment) -> int:
        """Describes one segment from `base` on, and returns where it ends."""
        size = segment.pages * PAGE - segment.odd
        if segment.kind == "hole":
            return base + size
        modelled = ModelRegion(base, bytearray(size), is_direct=segment.kind not in ("file", "private"))
        modelled.is_kept = segment.kind in ("file", "buffer")
        modelled.skew = segment.odd if segment.kind == "buffer" else base
        modelled.is_device = segment.kind == "device"
        modelled.prot = {"rom": "r", "none": ""}.get(segment.kind, "rw")
        self.described[base] = self.region(base, size, segment), modelled
        return modelled.end

    def region(self, base: int, size: int, segment: Segment) -> AddressSpaceRegion:
        match segment.kind:
            case "device":
                return AddressSpaceRegion.create_device_region(base, size)
            case "buffer":
                buffer = memoryview(bytearray(size + segment.odd))[segment.odd :]
                return AddressSpaceRegion.from_buffer(base, buffer)
            case "file" | "private":
                file = os.memfd_create("stateful")
                self.files.append(file)
                os.truncate(file, OFFSET + size)
                return AddressSpaceRegion.from_file(base, size, file, OFFSET, shared=segment.kind == "file")
            case kind:
                prot = {"rom": 1, "none": 0}.get(kind, 3)
                return ram(base, size, mem_type="mmap" if kind == "mmap" else "shmem", prot_flags=prot)

    def teardown(self) -> None:
        for region in self.model.regions:
            if region.allows("r"):
                assert self.memory.read(region.base, len(region.data)) == region.data
        for file in self.files:
            os.close(file)
        if self.model.regions:
            self.memory.close()

    @invariant()
    def pages_that_were_written_are_marked(self) -> None:
        if self.model.regions:
            assert drain(self.memory) == self.model.drain()

    def place(self, place: Place) -> int:
        edges = self.model.edges()
        return max(0, edges[place[0] % len(edges)] + place[1])

    def allowed(self, addr: int, size: int, need: Need, verb: Callable[[], object]) -> bool:
        """Whether an access can be done; one that can't raises with the first bad address, and does nothing."""
        refusal = self.model.refusal(addr, size, need)
        if refusal is None:
            return True
        with pytest.raises(refusal[0]) as refused:
            verb()
        assert refused.value.address == refusal[1]
        assert refused.value.size in (size, None)
        return False

    def check(self, addr: int, size: int, verb: Callable[[], object], expected: Callable[[], object]) -> None:
        if self.allowed(addr, size, "r", verb):
            assert verb() == expected()

    def change(self, addr: int, data: bytes, verb: Callable[[], object]) -> None:
        if self.allowed(addr, len(data), "w", verb):
            verb()
            self.model.put(addr, data)

    @rule(number=st.integers(0, 20))
    def replug(self, number: int) -> None:
        """Takes a region out and puts it back: memory of our own comes back as zeroes, adopted memory as it was."""
        if not self.described:
            return
        region, modelled = list(self.described.values())[number % len(self.described)]
        self.space.remove_region(region)
        if not modelled.is_device:
            with pytest.raises(LookupError):
                self.memory.read(region.base, 1)
        self.space.insert_region(region)
        modelled.dirty.clear()
        if not modelled.is_kept:
            modelled.data[:] = bytes(len(modelled.data))
        # What is plugged counts as written where it has data, and maybe in more pages.
        found = drain(self.memory)
        for at in (region.base + offset for offset, byte in enumerate(modelled.data) if byte):
            assert any(base <= at < base + size for base, size in found)
