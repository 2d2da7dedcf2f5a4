"""The life of memory against a dict of bytes: regions come, go, change and are held while all of it is read and written."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from dbs_address_space import (
    AccessDenied,
    AddressSpace,
    AddressSpaceRegion,
    GuestMemory,
    NotContiguous,
    Prot,
    RegionBusy,
    UnmappedAddress,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from memory_helpers import LAYOUT, PAGE, ram

PAGES = 12
"""Where regions may lie."""
END = PAGES * PAGE
NOTHING = 0xEE
"""The filler of reads where nothing is."""

numbers = st.integers(0, PAGES - 1)
protections = st.sampled_from(["rw-", "rwx", "r--"])
sources = st.sampled_from(["shmem", "mmap"])
addresses = st.builds(lambda page, offset: max(0, page * PAGE + offset), st.integers(0, PAGES), st.integers(-9, 9))
sizes = st.one_of(st.integers(1, 16), st.integers(1, 3 * PAGE))


class MemoryLife(RuleBasedStateMachine):
    space: AddressSpace
    memory: GuestMemory

    @initialize()
    def begin(self) -> None:
        self.space = AddressSpace(LAYOUT)
        self.memory = self.space.map_memory()
        self.regions: dict[int, AddressSpaceRegion] = {}
        self.bytes: dict[int, int] = {}
        self.views: list[tuple[memoryview, int]] = []

    # The model.

    def region_at(self, addr: int) -> AddressSpaceRegion | None:
        return next((region for region in self.regions.values() if addr in region), None)

    def some_region(self, number: int) -> AddressSpaceRegion:
        return list(self.regions.values())[number % len(self.regions)]

    def content(self, addr: int, size: int) -> bytes:
        found = bytearray([NOTHING]) * size
        for region in self.regions.values():
            for each in range(max(addr, region.base), min(addr + size, region.end)):
                found[each - addr] = self.bytes.get(each, 0)
        return bytes(found)

    def put(self, addr: int, data: bytes) -> None:
        self.bytes.update(enumerate(data, addr))

    def forget(self, region: AddressSpaceRegion) -> None:
        for addr in [addr for addr in self.bytes if addr in region]:
            del self.bytes[addr]

    def is_held(self, region: AddressSpaceRegion) -> bool:
        return any(addr in region for _, addr in self.views)

    def first_bad(self, addr: int, size: int, *, writes: bool) -> tuple[type[Exception], int] | None:
        at = addr
        while at < addr + size:
            region = self.region_at(at)
            if region is None:
                return UnmappedAddress, at
            if writes and not region.prot_flags & 2:
                return AccessDenied, at
            at = region.end
        return None

    @contextmanager
    def refused_if(self, condition: object, error: type[Exception]) -> Iterator[None]:
        if condition:
            with pytest.raises(error):
                yield
        else:
            yield

    def allowed(self, addr: int, size: int, *, writes: bool) -> bool:
        """Whether an access can be done; otherwise all verbs refuse it with the first bad address."""
        bad = self.first_bad(addr, size, writes=writes)
        if bad is None:
            return True
        verbs = (
            [self.memory.fill, lambda addr, size: self.memory.write(addr, b"x" * size)]
            if writes
            else [self.memory.read]
        )
        for verb in verbs:
            with pytest.raises(bad[0]) as refused:
                verb(addr, size)
            assert getattr(refused.value, "address", None) == bad[1]
        return False

    # The map.

    @rule(page=numbers, pages=st.integers(1, 4), mem_type=sources, prot=protections)
    def plug(self, page: int, pages: int, mem_type: str, prot: str) -> None:
        region = ram(page * PAGE, pages * PAGE, mem_type=mem_type, prot_flags=prot)
        overlaps = any(region.intersect_with(other) for other in self.regions.values())
        if not overlaps and region.end <= END:
            self.space.insert_region(region)
            self.regions[region.base] = region

    @precondition(lambda self: self.regions)
    @rule(number=numbers)
    def unplug(self, number: int) -> None:
        region = self.some_region(number)
        is_held = self.is_held(region)
        with self.refused_if(is_held, RegionBusy):
            self.space.remove_region(region.base)
        if not is_held:
            del self.regions[region.base]
            self.forget(region)

    @precondition(lambda self: self.regions)
    @rule(number=numbers, prot=protections)
    def protect(self, number: int, prot: str) -> None:
        region = self.some_region(number)
        new = region.replace(prot_flags=prot)
        # A view keeps what it shows: reading, and writing if it may.
        needs = [Prot.READ | (0 if view.readonly else Prot.WRITE) for view, addr in self.views if addr in region]
        is_vetoed = any(need & ~new.prot_flags for need in needs)
        with self.refused_if(is_vetoed, RegionBusy):
            self.space.replace_region(region, new)
        if not is_vetoed:
            self.regions[region.base] = new

    @precondition(lambda self: self.regions)
    @rule(number=numbers, other=numbers)
    def renew(self, number: int, other: int) -> None:
        """Two regions at most, taken out and put back: new memory."""
        regions = {region.base: region for region in (self.some_region(number), self.some_region(other))}
        is_held = any(self.is_held(region) for region in regions.values())
        with self.refused_if(is_held, RegionBusy), self.space.transaction() as change:
            for region in regions.values():
                change.remove_region(region)
                change.insert_region(region)
        if not is_held:
            for region in regions.values():
                self.forget(region)

    @rule()
    def remap(self) -> None:
        with self.refused_if(self.views, RegionBusy):
            self.memory.close()
        if not self.views:
            self.memory = self.space.map_memory()
            self.bytes.clear()

    # The bytes.

    @rule(addr=addresses, size=sizes, byte=st.integers(0, 255))
    def fill(self, addr: int, size: int, byte: int) -> None:
        if self.allowed(addr, size, writes=True):
            self.memory.fill(addr, size, byte)
            self.put(addr, bytes([byte]) * size)

    @rule(addr=addresses, data=st.binary(min_size=1, max_size=20))
    def write(self, addr: int, data: bytes) -> None:
        if self.allowed(addr, len(data), writes=True):
            self.memory.write(addr, data)
            self.put(addr, data)

    @rule(addr=addresses, data=st.binary(min_size=1, max_size=20))
    def force(self, addr: int, data: bytes) -> None:
        with self.refused_if(self.first_bad(addr, len(data), writes=False), UnmappedAddress):
            self.memory.write(addr, data, force=True)
            self.put(addr, data)

    @rule(addr=addresses, value=st.integers(0, 2**64 - 1))
    def write_integer(self, addr: int, value: int) -> None:
        if self.allowed(addr, 8, writes=True):
            self.memory.write_u64(addr, value)
            self.put(addr, value.to_bytes(8, "little"))

    @rule(addr=addresses, size=sizes)
    def read(self, addr: int, size: int) -> None:
        if self.allowed(addr, size, writes=False):
            assert self.memory.read(addr, size) == self.content(addr, size)

    # Views.

    @rule(addr=addresses, size=st.integers(1, 20))
    def view(self, addr: int, size: int) -> None:
        bad, region = self.first_bad(addr, size, writes=False), self.region_at(addr)
        if bad is None and region is not None and addr + size <= region.end:
            self.views.append((self.memory.view(addr, size), addr))
            return
        with pytest.raises(UnmappedAddress if bad else NotContiguous):
            self.memory.view(addr, size)

    @precondition(lambda self: self.views)
    @rule(number=numbers, byte=st.integers(0, 255))
    def write_through_a_view(self, number: int, byte: int) -> None:
        view, addr = self.views[number % len(self.views)]
        if not view.readonly:
            view[0] = byte
            self.put(addr, bytes([byte]))

    @precondition(lambda self: self.views)
    @rule(number=numbers)
    def release(self, number: int) -> None:
        self.views.pop(number % len(self.views))[0].release()

    @invariant()
    def views_show_the_bytes(self) -> None:
        for view, addr in self.views:
            assert bytes(view) == self.content(addr, view.nbytes)

    @invariant()
    def the_memory_is_that_of_the_map(self) -> None:
        assert self.memory.regions == self.space.regions == tuple(self.regions[base] for base in sorted(self.regions))

    def teardown(self) -> None:
        assert self.memory.read(0, END, pad=NOTHING) == self.content(0, END)
        for view, _ in self.views:
            view.release()
        self.memory.close()


TestMemoryLife = MemoryLife.TestCase
TestMemoryLife.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
