"""Memory that begins and ends anywhere, against a dict of bytes: RAM that ends inside a page, ROMs and dumps of any length."""

import mmap
import os
from array import array
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import pytest
from dbs_address_space import (
    AddressSpace,
    AddressSpaceRegion,
    BackingOptions,
    GuestMemory,
    Misaligned,
    RegionBusy,
    UnmappedAddress,
)
from host import require
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kernel_view import maps_of
from memory_helpers import GIB, LAYOUT, MIB, PAGE, blocks, drain, mapped, numbered, ram, track

EBDA = 0x9_FC00
"""Where the low RAM of a PC ends: inside a page."""
SOURCES = ["shmem", "mmap"]


@pytest.mark.parametrize("mem_type", SOURCES)
def test_two_ranges_share_a_page(mem_type: str) -> None:
    _, memory = mapped(ram(0, EBDA, mem_type=mem_type, name="low"), ram(EBDA, 0x123, mem_type=mem_type, name="ebda"))
    memory.write(EBDA - 3, b"across")
    assert memory.read(EBDA - 3, 6) == b"across"
    assert list(memory.search(b"across")) == [EBDA - 3]
    memory.fill(EBDA - 2, 4, 0)
    assert memory.read(EBDA - 3, 6) == b"a\0\0\0\0s"
    assert (memory.mapping(0).size, memory.mapping(EBDA).size) == (EBDA, 0x123)
    for size in (0x124, PAGE):
        with pytest.raises(UnmappedAddress) as refused:
            memory.read(EBDA, size)
        assert refused.value.address == EBDA + 0x123


@pytest.mark.parametrize("base", [0, 1, PAGE - 1, 3 * PAGE + 0x400])
@pytest.mark.parametrize("mem_type", SOURCES)
def test_a_page_of_the_guest_is_one_of_the_host(base: int, mem_type: str) -> None:
    _, memory = mapped(ram(base, 10_000, mem_type=mem_type))
    mapping = memory.mapping(base)
    assert (mapping.host_address - base) % PAGE == 0
    assert mapping.file_offset in (None, base % PAGE)
    # So that what is aligned for the guest is aligned here.
    at = -(-base // 8) * 8
    assert memory.fetch_add(at, 5) == 0
    assert memory.load(at) == 5


@pytest.mark.parametrize("options", [{}, {"guard_pages": True}, {"alignment": 2 * MIB}], ids=str)
@pytest.mark.parametrize("mem_type", SOURCES)
def test_all_pages_of_an_odd_range_are_there(mem_type: str, options: dict[str, Any]) -> None:
    """The first and the last byte lie in pages of which the region has one byte each."""
    base, size = 4 * PAGE - 1, 2 * PAGE + 2
    region = ram(base, size, mem_type=mem_type, backing=BackingOptions(mlock=True, **options))
    _, memory = mapped(region)
    (backing,) = memory.effective(base)
    assert (backing.resident, backing.locked) == (4 * PAGE, 4 * PAGE)
    memory.write(base, numbered(size))
    assert memory.read(base, size) == numbered(size)


def test_an_odd_rom_is_written_by_force_alone() -> None:
    rom = AddressSpaceRegion.create_firmware_region(GIB + 0x234, 10_000, "r-x", name="rom")
    space, memory = mapped(rom, ram(GIB + 0x234 + 10_000, 100))
    with pytest.raises(PermissionError):
        memory.write(rom.base, b"x")
    memory.write(rom.end - 2, b"ab", force=True)
    assert memory.read(rom.end - 2, 2) == b"ab"
    space.replace_region("rom", rom.replace(prot_flags="rw-"))
    memory.write(rom.base, b"x")


@pytest.mark.parametrize("mem_type", SOURCES)
def test_what_is_discarded_ends_where_a_page_or_the_region_does(mem_type: str) -> None:
    base, end = 0x400, 6 * PAGE + 0x600
    _, memory = mapped(ram(base, end - base, mem_type=mem_type), ram(end, PAGE, mem_type=mem_type))
    memory.fill(base, end - base + PAGE, 0xAA)
    for first, last in ((base, PAGE + 1), (base + 1, PAGE), (2 * PAGE, end - 1), (0x600, end)):
        with pytest.raises(Misaligned, match="cannot discard"):
            memory.discard(first, last - first)
    assert memory.read(base, end - base) == b"\xaa" * (end - base)
    memory.discard(base, 2 * PAGE - base)
    memory.discard(5 * PAGE, end - 5 * PAGE)
    # Of a file, pages that the region has in part are filled with zeroes.
    assert memory.effective(base)[0].resident == (5 if mem_type == "shmem" else 3) * PAGE
    assert memory.read(base, 2 * PAGE - base) == bytes(2 * PAGE - base)
    assert memory.read(2 * PAGE, 3 * PAGE) == b"\xaa" * 3 * PAGE
    assert memory.read(5 * PAGE, end - 5 * PAGE + 1) == bytes(end - 5 * PAGE) + b"\xaa"


@pytest.mark.parametrize("mode", ["api", "pagemap"])
@pytest.mark.parametrize("base", [0, 0x400, PAGE - 1])
def test_a_written_byte_is_one_page(base: int, mode: Literal["api", "pagemap"]) -> None:
    end = 5 * PAGE + 0x300
    space, memory = mapped(ram(base, end - base, name="low"), ram(end, PAGE, name="high"))
    why = mapped(ram(0))[1].dirty.available()[mode]
    require(why is None, str(why))
    tracker = memory.dirty.start(mode)
    tracker.collect()
    for address in (base, PAGE, 2 * PAGE - 1, 3 * PAGE, end - 1, end):
        memory.write(address, b"x")
        assert [(found.base, found.size) for found in tracker.collect()] == [(address // PAGE * PAGE, PAGE)]
    tracker.stop()
    assert space.clients == ()


def test_a_look_at_an_odd_range_allocates_no_page() -> None:
    """Pages are looked at in blocks of 64, which begin with a page and not with the region."""
    base = 0x400
    _, memory = mapped(ram(base, 200 * PAGE))
    memory.fill(base, 64 * PAGE - base, 1)
    before = blocks(memory, base)
    for _ in range(2):
        memory.hash(base, 200 * PAGE)
        memory.hash(base, 64 * PAGE)
    assert blocks(memory, base) == before


def test_a_cut_stays_where_a_page_of_the_memory_begins() -> None:
    space, memory = mapped(ram(0x400, 4 * PAGE, name="low"))
    memory.write(0x400, numbered(4 * PAGE))
    for at in (PAGE + 0x400, 2 * PAGE + 1):
        with pytest.raises(Misaligned, match="would cut a page"):
            space.split_region("low", at)
    space.split_region("low", 2 * PAGE)
    space.move_region(2 * PAGE, GIB + 0x123)
    assert memory.read(GIB + 0x123, 3 * PAGE - 0xC00) == numbered(4 * PAGE)[2 * PAGE - 0x400 :]
    space.move_region(GIB + 0x123, 2 * PAGE)
    assert memory.read(0x400, 4 * PAGE) == numbered(4 * PAGE)


@pytest.mark.parametrize("size", [1, 31, PAGE - 1, PAGE + 1, 10_000])
def test_a_file_of_any_length_is_mapped_to_its_end(tmp_path: Path, size: int) -> None:
    path = tmp_path / "dump"
    path.write_bytes(b"H" * 32 + numbered(size))
    region = AddressSpaceRegion.from_file(0x9_D401, path, offset=32)
    assert region.size == size
    _, memory = mapped(region)
    assert memory.read(0x9_D401, size) == numbered(size)
    memory.write(region.end - 1, b"!")
    assert path.read_bytes()[-1:] == b"!"
    assert path.stat().st_size == 32 + size
    assert memory.hash(0x9_D401, size, algorithm="sha256") == sha256(numbered(size)[:-1] + b"!").digest()
    with pytest.raises(UnmappedAddress):
        memory.read(region.end - 1, 2)


def test_read_only_buffers_lie_anywhere() -> None:
    data = numbered(10_000)
    _, memory = mapped(AddressSpaceRegion.from_buffer(0x123, memoryview(data)[7:]))
    assert memory.read(0x123, 9_993) == data[7:]
    with pytest.raises(PermissionError):
        memory.write(0x123, b"x")


def test_what_is_behind_the_region_in_its_pages_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 3 * PAGE)
    _, memory = mapped(AddressSpaceRegion.from_file(0x10, PAGE, path, 0x100))
    memory.fill(0x10, PAGE, 0)
    memory.discard(0x10, PAGE)
    assert path.read_bytes() == b"a" * 0x100 + bytes(PAGE) + b"a" * (2 * PAGE - 0x100)


@settings(max_examples=60, deadline=None)
@given(
    base=st.integers(0, 2 * PAGE),
    size=st.integers(1, 80 * PAGE),
    written=st.lists(st.integers(0, 80 * PAGE - 1), max_size=6),
)
def test_holes_and_data_end_where_they_do(base: int, size: int, written: list[int]) -> None:
    """A memfd has holes by page, and blocks that are looked at together begin with a page, not with the region."""
    _, memory = mapped(ram(base, size))
    bytes_ = bytearray(size)
    for offset in (offset for offset in written if offset < size):
        memory.write_u8(base + offset, 7)
        bytes_[offset] = 7
    for _ in range(2):
        assert memory.read(base, size) == bytes_
        assert list(memory.search(b"\7")) == [base + at for at, byte in enumerate(bytes_) if byte]
        whole = range(-(-base // PAGE) * PAGE, (base + size) // PAGE * PAGE, PAGE)
        empty = [page for page in whole if not any(bytes_[page - base : page - base + PAGE])]
        found = memory.find_zero_pages(base, base + size)
        assert [page for zeroes in found for page in range(zeroes.base, zeroes.end, PAGE)] == empty


places = st.one_of(
    st.integers(0, 12 * PAGE),
    st.builds(lambda page, by: max(page * PAGE + by, 0), st.integers(0, 12), st.integers(-2, 2)),
)
lengths = st.one_of(st.integers(1, 5), st.integers(1, 3 * PAGE), st.sampled_from([PAGE - 1, PAGE, PAGE + 1]))
kinds = st.sampled_from(["shmem", "mmap", "file", "private", "bytes", "array", "anonymous"])


def anonymous(data: bytes) -> mmap.mmap:
    made = mmap.mmap(-1, len(data))
    made.write(data)
    return made


BUFFERS: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "array": lambda data: array("B", data),
    "anonymous": anonymous,
}


class OddMemory(RuleBasedStateMachine):
    """Regions of all sources at any address, under a dict of bytes; what they were made of keeps what lies around them."""

    space: AddressSpace
    memory: GuestMemory

    @initialize()
    def begin(self) -> None:
        self.space = AddressSpace(LAYOUT)
        self.memory = self.space.map_memory()
        track(self.memory)
        self.regions: dict[int, AddressSpaceRegion] = {}
        self.bytes: dict[int, int] = {}
        self.dirty: set[int] = set()

    def teardown(self) -> None:
        self.memory.close()
        assert not maps_of("/memfd:odd ")

    @rule(base=places, size=lengths, kind=kinds, offset=st.integers(0, 2 * PAGE))
    def plug(self, base: int, size: int, kind: str, offset: int) -> None:
        if any(base < region.end and region.base < base + size for region in self.regions.values()):
            return
        region, content = self.made(base, size, kind, offset)
        self.space.insert_region(region)
        self.regions[base] = region
        self.bytes.update(enumerate(content, base))
        # What has data counts as written; and maybe more.
        written = {page for found in drain(self.memory) for page in range(found[0], sum(found), PAGE)}
        assert {(base + at) // PAGE * PAGE for at, byte in enumerate(content) if byte} <= written | self.dirty

    def made(self, base: int, size: int, kind: str, offset: int) -> tuple[AddressSpaceRegion, bytes]:
        if kind in SOURCES:
            return ram(base, size, mem_type=kind, name="odd" if not self.regions else None), bytes(size)
        whole = numbered(offset + size + 100)
        content = whole[offset : offset + size]
        if kind in ("file", "private"):
            fd = os.memfd_create("users")
            os.write(fd, whole)
            region = AddressSpaceRegion.from_file(base, size, fd, offset, shared=kind == "file")
            os.close(fd)
            return region, content
        buffer: Any = BUFFERS[kind](whole)
        return AddressSpaceRegion.from_buffer(base, memoryview(buffer)[offset : offset + size]), content

    @precondition(lambda self: self.regions)
    @rule(number=st.integers(0, 20))
    def unplug(self, number: int) -> None:
        region = list(self.regions.values())[number % len(self.regions)]
        self.space.remove_region(region)
        del self.regions[region.base]
        for address in range(region.base, region.end):
            del self.bytes[address]

    def is_there(self, address: int, size: int) -> bool:
        return all(at in self.bytes for at in range(address, address + size))

    def content(self, address: int, size: int) -> bytes:
        return bytes(self.bytes[at] for at in range(address, address + size))

    @rule(address=places, data=st.one_of(st.binary(min_size=1, max_size=9), st.builds(numbered, lengths)))
    def write(self, address: int, data: bytes) -> None:
        touched = [
            region for region in self.regions.values() if address < region.end and region.base < address + len(data)
        ]
        if not self.is_there(address, len(data)):
            with pytest.raises((UnmappedAddress, PermissionError)):
                self.memory.write(address, data)
        elif any(not region.prot_flags & 2 for region in touched):
            with pytest.raises(PermissionError):
                self.memory.write(address, data)
        else:
            self.memory.write(address, data)
            self.bytes.update(enumerate(data, address))
            pages = {at // PAGE * PAGE for at in range(address, address + len(data))}
            assert {page for found in drain(self.memory) for page in range(found[0], sum(found), PAGE)} == pages

    @rule(address=places, size=lengths)
    def read(self, address: int, size: int) -> None:
        if self.is_there(address, size):
            assert self.memory.read(address, size) == self.content(address, size)
            assert self.memory.compare(address, self.content(address, size)) is None
        else:
            missing = next(at for at in range(address, address + size) if at not in self.bytes)
            with pytest.raises(UnmappedAddress) as refused:
                self.memory.read(address, size)
            assert refused.value.address == missing

    @precondition(lambda self: self.regions)
    @rule(number=st.integers(0, 20))
    def view(self, number: int) -> None:
        region = list(self.regions.values())[number % len(self.regions)]
        with self.memory.view(region.base, region.size, writable=False, unguarded=True) as view:
            assert view == self.content(region.base, region.size)
            with pytest.raises(RegionBusy):
                self.space.remove_region(region)

    @invariant()
    def all_bytes_are_what_they_were(self) -> None:
        for region in self.regions.values():
            assert self.memory.read(region.base, region.size) == self.content(region.base, region.size)


TestOddMemory = OddMemory.TestCase
TestOddMemory.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
