"""A dict of memories and windows beside a space whose regions are cut, joined, grown, moved, aliased, protected, hidden
and shown, as a follower sees them, and a guest."""

import ctypes
import mmap
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import (
    AccessDenied,
    AddressSpace,
    AddressSpaceRegion,
    InvalidArgument,
    MemoryPart,
    RegionBusy,
    RegionOverlap,
    UnmappedAddress,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from memory_helpers import GIB, PAGE, drain, mapped, ram, track
from virtual_machines import HLT, Vm, store

PAGES = 24
NUMBER = st.integers(0, 255)
BASE = st.integers(0, PAGES - 1)
CODE = GIB
"""The address of the guest's code, of which the space knows nothing."""
AT = 5
"""The byte of each page that is looked at."""

Place = tuple[int, int]
"""A page of a memory: the memory's number, and that of the page."""


@dataclass
class Held:
    """A view of some pages."""

    pages: range
    view: memoryview
    is_writable: bool
    is_followers: bool


@dataclass
class Model:
    """The bytes of each page of each memory, and the page that each page of the guest shows."""

    bytes: dict[Place, int] = field(default_factory=dict)
    shown: dict[int, Place] = field(default_factory=dict)
    writable: dict[int, bool] = field(default_factory=dict)
    labels: dict[int, int] = field(default_factory=dict)
    """By which insertion or move a page came to be seen where it is."""
    windows: set[int] = field(default_factory=set)
    """The labels of what shows bytes that others brought."""
    private: set[int] = field(default_factory=set)
    """The memories that no follower has."""
    dirty: set[Place] = field(default_factory=set)

    def show(self, pages: range, places: list[Place], *, is_writable: bool, is_window: bool) -> None:
        label = max(self.labels.values(), default=0) + 1
        self.windows.discard(label)
        if is_window:
            self.windows.add(label)
        self.shown.update(zip(pages, places, strict=True))
        self.writable.update(dict.fromkeys(pages, is_writable))
        self.labels.update(dict.fromkeys(pages, label))

    def hide(self, pages: range) -> list[Place]:
        for page in pages:
            del self.writable[page], self.labels[page]
        return [self.shown.pop(page) for page in pages]

    def is_window(self, page: int) -> bool:
        return self.labels[page] in self.windows

    def is_followed(self, page: int) -> bool:
        memory, _ = self.shown[page]
        return memory not in self.private

    def drain(self) -> list[int]:
        found = [page for page, place in self.shown.items() if place in self.dirty]
        memories = {memory for memory, _ in self.shown.values()}
        self.dirty = {(memory, page) for memory, page in self.dirty if memory not in memories}
        return sorted(found)


class Windows(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.space, self.memory = mapped()
        track(self.memory)
        self.model = Model()
        self.held: list[Held] = []
        self.parts: list[tuple[MemoryPart, list[Place]]] = []
        self.memories = 0
        self.ours, self.theirs = socket.socketpair()
        self.share = self.space.share(self.ours, private="skip")
        self.follower = AddressSpace.attach(self.theirs)
        self.code = mmap.mmap(-1, PAGE)
        self.vm = Vm() if Path("/dev/kvm").exists() else None
        if self.vm:
            self.vm.set_slot(100, CODE, PAGE, ctypes.addressof(ctypes.c_char.from_buffer(self.code)))
            self.slots = self.space.attach_kvm(self.vm.fd)
        for kind in ("shmem", "mmap"):
            self.insert(8 * self.memories, 8, kind)

    def teardown(self) -> None:
        for held in self.held:
            held.view.release()
        for part, _ in self.parts:
            part.close()
        self.follower.close()
        self.share.detach()
        self.space.close()
        self.ours.close()
        self.theirs.close()
        if self.vm:
            self.slots.detach()
            self.vm.close()

    def region(self, number: int) -> AddressSpaceRegion:
        return self.space.regions[number % len(self.space)]

    def pages(self, region: AddressSpaceRegion) -> range:
        return range(region.base // PAGE, region.end // PAGE)

    def some(self, number: int, first: int, count: int) -> range:
        """Pages of one region."""
        pages = self.pages(self.region(number))[first % self.region(number).size // PAGE :]
        pages = pages or self.pages(self.region(number))
        return pages[: 1 + count % len(pages)]

    def is_held(self, pages: range, *, for_writing: bool = False) -> bool:
        held = [held for held in self.held if held.is_writable or not for_writing]
        return any(page in pages for one in held for page in one.pages)

    def inserts(
        self, region: AddressSpaceRegion, places: list[Place], *, is_writable: bool = True, is_window: bool = True
    ) -> bool:
        """Inserts a region where there is room, and finds that refused elsewhere."""
        pages = self.pages(region)
        if any(page in self.model.shown for page in pages):
            with pytest.raises(RegionOverlap):
                self.space.insert_region(region)
            return False
        self.space.insert_region(region)
        self.model.show(pages, places, is_writable=is_writable, is_window=is_window)
        return True

    def brought(self, places: list[Place], *, is_private: bool) -> None:
        """A memory has come."""
        self.model.bytes.update(dict.fromkeys(places, 0))
        if is_private:
            self.model.private.add(self.memories)

    @rule(base=BASE, count=st.integers(1, 6), kind=st.sampled_from(["shmem", "mmap"]))
    def insert(self, base: int, count: int, kind: str) -> None:
        places = [(self.memories, page) for page in range(count)]
        if self.inserts(ram(base * PAGE, count * PAGE, mem_type=kind), places, is_window=False):
            self.brought(places, is_private=kind == "mmap")
        self.memories += 1

    @precondition(lambda self: len(self.space) > 0)
    @rule(number=NUMBER, more=st.integers(1, 3))
    def grow(self, number: int, more: int) -> None:
        region = self.region(number)
        pages = self.pages(region)
        behind = range(pages.stop, pages.stop + more)
        places = [(self.memories, page) for page in range(more)]
        memory, _ = self.model.shown[pages[0]]
        refused = InvalidArgument if self.model.is_window(pages[0]) else None
        if not refused and any(page in self.model.shown for page in behind):
            refused = RegionOverlap
        if refused:
            with pytest.raises(refused):
                self.space.grow_region(region, region.size + more * PAGE)
            return
        self.space.grow_region(region, region.size + more * PAGE)
        self.model.show(behind, places, is_writable=self.model.writable[pages[0]], is_window=False)
        self.brought(places, is_private=memory in self.model.private)
        self.memories += 1

    @precondition(lambda self: len(self.space) > 0)
    @rule(number=NUMBER, at=NUMBER)
    def split(self, number: int, at: int) -> None:
        pages = self.pages(self.region(number))
        if len(pages) > 1:
            self.space.split_region(self.region(number), pages[1 + at % (len(pages) - 1)] * PAGE)

    @precondition(lambda self: len(self.space) > 1)
    @rule(number=NUMBER)
    def join(self, number: int) -> None:
        index = number % (len(self.space) - 1)
        lower, upper = self.space.regions[index], self.space.regions[index + 1]
        labels = self.model.labels
        label, pages = labels[lower.base // PAGE], self.pages(upper)
        try:
            self.space.join_regions(lower, upper)
        except InvalidArgument:
            return
        except RegionBusy:
            assert label != labels[pages[0]]
            assert self.is_held(pages)
            return
        assert label == labels[pages[0]] or not self.is_held(pages)
        labels.update(dict.fromkeys(pages, label))
        memory, page = self.model.shown[lower.end // PAGE - 1]
        assert self.model.shown[upper.base // PAGE] == (memory, page + 1)

    @precondition(lambda self: len(self.space) > 0)
    @rule(number=NUMBER, to=BASE)
    def move(self, number: int, to: int) -> None:
        region = self.region(number)
        pages = self.pages(region)
        target = range(to, to + len(pages))
        if any(page in self.model.shown and page not in pages for page in target):
            with pytest.raises(RegionOverlap):
                self.space.move_region(region, to * PAGE)
        elif to != pages[0] and self.is_held(pages):
            with pytest.raises(RegionBusy):
                self.space.move_region(region, to * PAGE)
        else:
            self.space.move_region(region, to * PAGE)
            if to != pages[0]:
                is_writable, is_window = self.model.writable[pages[0]], self.model.is_window(pages[0])
                self.model.show(target, self.model.hide(pages), is_writable=is_writable, is_window=is_window)

    @precondition(lambda self: len(self.space) > 0)
    @rule(number=NUMBER)
    def remove(self, number: int) -> None:
        region = self.region(number)
        if self.is_held(self.pages(region)):
            with pytest.raises(RegionBusy):
                self.space.remove_region(region)
        else:
            self.space.remove_region(region)
            self.model.hide(self.pages(region))

    @precondition(lambda self: len(self.space) > 0)
    @rule(number=NUMBER, first=NUMBER, count=NUMBER, to=BASE, is_writable=st.booleans())
    def alias(self, number: int, first: int, count: int, to: int, *, is_writable: bool) -> None:
        region, pages = self.region(number), self.some(number, first, count)
        offset, flags = pages[0] * PAGE - region.base, "rw-" if is_writable else "r--"
        window = AddressSpaceRegion.alias(to * PAGE, region, offset, len(pages) * PAGE, prot_flags=flags)
        self.inserts(window, [self.model.shown[page] for page in pages], is_writable=is_writable)

    @precondition(lambda self: len(self.space) > 0 and len(self.parts) < 3)
    @rule(number=NUMBER, first=NUMBER, count=NUMBER)
    def keep(self, number: int, first: int, count: int) -> None:
        pages = self.some(number, first, count)
        part = self.memory.part(pages[0] * PAGE, len(pages) * PAGE)
        self.parts.append((part, [self.model.shown[page] for page in pages]))

    @precondition(lambda self: bool(self.parts))
    @rule(number=NUMBER, to=BASE, is_writable=st.booleans())
    def show(self, number: int, to: int, *, is_writable: bool) -> None:
        part, places = self.parts[number % len(self.parts)]
        window = part.region(to * PAGE, prot_flags="rw-" if is_writable else "r--")
        self.inserts(window, places, is_writable=is_writable)

    @precondition(lambda self: bool(self.parts))
    @rule(number=NUMBER)
    def let_go(self, number: int) -> None:
        part, places = self.parts.pop(number % len(self.parts))
        late = part.region(PAGES * 2 * PAGE)
        part.close()
        try:
            self.space.insert_region(late)
        except UnmappedAddress:
            return
        # Windows of that part show all of it yet.
        assert set(places) <= set(self.model.shown.values())
        assert [self.memory.read_u8(late.base + index * PAGE + AT) for index in range(len(places))] == [
            self.model.bytes[place] for place in places
        ]
        self.space.remove_region(late)

    @rule(first=BASE, count=st.integers(1, 4), is_writable=st.booleans())
    def protect(self, first: int, count: int, *, is_writable: bool) -> None:
        pages, flags = range(first, first + count), "rw-" if is_writable else "r--"
        if not all(page in self.model.shown for page in pages):
            with pytest.raises(UnmappedAddress):
                self.space.protect(first * PAGE, count * PAGE, flags)
            return
        lost = [page for page in pages if self.model.writable[page] and not is_writable]
        if any(self.is_held(range(page, page + 1), for_writing=True) for page in lost):
            with pytest.raises(RegionBusy):
                self.space.protect(first * PAGE, count * PAGE, flags)
        else:
            self.space.protect(first * PAGE, count * PAGE, flags)
            self.model.writable.update(dict.fromkeys(pages, is_writable))

    @rule(page=BASE, value=st.integers(1, 255), is_forced=st.booleans(), by_follower=st.booleans())
    def write(self, page: int, value: int, *, is_forced: bool, by_follower: bool) -> None:
        place = self.model.shown.get(page)
        if by_follower and place and self.model.is_followed(page) and self.model.writable[page]:
            self.follower.memory.write(page * PAGE + AT, bytes([value]))
            self.model.bytes[place] = value
            return
        if place is None or not (self.model.writable[page] or is_forced):
            with pytest.raises((UnmappedAddress, AccessDenied)):
                self.memory.write(page * PAGE + AT, bytes([value]), force=is_forced)
            return
        self.memory.write(page * PAGE + AT, bytes([value]), force=is_forced)
        self.model.bytes[place] = value
        self.model.dirty.add(place)

    @precondition(lambda self: self.vm)
    @rule(page=BASE, value=st.integers(1, 255))
    def guest_writes(self, page: int, value: int) -> None:
        """The slots are those of the windows: elsewhere the write comes out of the machine."""
        assert self.vm
        exits: list[tuple[int, int]] = []
        addr = page * PAGE + AT
        code = store(addr, value) + HLT
        self.code[: len(code)] = code
        self.vm.protected_mode(CODE)
        self.vm.run(lambda _addr, _size: 0, lambda addr, _size, value: exits.append((addr, value)))
        is_taken = self.model.writable.get(page, False)
        assert exits == ([] if is_taken else [(addr, value)])
        if is_taken:
            self.model.bytes[self.model.shown[page]] = value

    @rule(page=BASE)
    def discard(self, page: int) -> None:
        place = self.model.shown.get(page)
        if place is not None and self.model.writable[page]:
            self.memory.discard(page * PAGE, PAGE)
            self.model.bytes[place] = 0
            self.model.dirty.add(place)

    @precondition(lambda self: len(self.space) > 0 and len(self.held) < 3)
    @rule(number=NUMBER, first=NUMBER, count=NUMBER, is_writable=st.booleans(), by_follower=st.booleans())
    def view(self, number: int, first: int, count: int, *, is_writable: bool, by_follower: bool) -> None:
        pages = self.some(number, first, count)
        is_writable = is_writable and self.model.writable[pages[0]]
        by_follower = by_follower and self.model.is_followed(pages[0])
        memory = self.follower.memory if by_follower else self.memory
        view = memory.view(pages[0] * PAGE, len(pages) * PAGE, writable=is_writable)
        self.held.append(Held(pages, view, is_writable, by_follower))

    @precondition(lambda self: bool(self.held))
    @rule(number=NUMBER)
    def release(self, number: int) -> None:
        held = self.held.pop(number % len(self.held))
        self.mark(held)
        held.view.release()

    def mark(self, held: Held) -> None:
        """Counts as written all that is held for writing, as far as that can be known here."""
        if held.is_writable and not held.is_followers:
            self.model.dirty |= {self.model.shown[page] for page in held.pages}

    @rule()
    def drained(self) -> None:
        for held in self.held:
            self.mark(held)
        found = [page for base, size in drain(self.memory) for page in range(base // PAGE, (base + size) // PAGE)]
        assert sorted(found) == self.model.drain()

    @invariant()
    def every_byte_is_seen_at_every_window(self) -> None:
        assert sorted(page for region in self.space for page in self.pages(region)) == sorted(self.model.shown)
        seen = {page: self.memory.read_u8(page * PAGE + AT) for page in self.model.shown}
        assert seen == {page: self.model.bytes[place] for page, place in self.model.shown.items()}
        for held in self.held:
            assert [held.view[index * PAGE + AT] for index in range(len(held.pages))] == [
                seen[page] for page in held.pages
            ]
            if held.is_writable:
                held.view[0] = 1

    @invariant()
    def the_follower_sees_the_same(self) -> None:
        rows = [(region.base, region.size, region.prot_flags) for region in self.space]
        assert [(region.base, region.size, region.prot_flags) for region in self.follower] == rows
        for page, place in self.model.shown.items():
            if self.model.is_followed(page):
                assert self.follower.memory.read_u8(page * PAGE + AT) == self.model.bytes[place]
            else:
                with pytest.raises(UnmappedAddress):
                    self.follower.memory.read_u8(page * PAGE + AT)

    @invariant()
    def every_window_knows_the_others(self) -> None:
        for page, place in self.model.shown.items():
            others = [other for other, shown in self.model.shown.items() if shown == place and other != page]
            found: list[Any] = [
                number
                for other in self.memory.aliases(page * PAGE, PAGE)
                for number in range(other.base // PAGE, (other.base + other.size) // PAGE)
            ]
            assert found == sorted(others)


TestWindows = Windows.TestCase
TestWindows.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
