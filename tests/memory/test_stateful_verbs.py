"""Every verb of `GuestMemory` against plain bytearrays, over random maps that change."""

import io
import tempfile
from array import array
from functools import partial
from itertools import islice
from typing import Any, Literal

import numpy as np
import pytest
from bytes_model import undump
from dbs_address_space import Misaligned, NotContiguous, Unsupported
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule
from memory_helpers import PAGE
from stateful_verbs import Place, VerbsBesideModel, places
from verbs import VERBS, Verb

sizes = st.one_of(st.integers(0, 20), st.sampled_from([PAGE - 1, PAGE, PAGE + 1, 2 * PAGE + 3, 5 * PAGE]))
bytes_ = st.one_of(
    st.binary(max_size=20), st.builds(lambda byte, size: byte * size, st.sampled_from([b"a", b"\0"]), sizes)
)
widths = st.sampled_from([1, 2, 4, 8])
Order = Literal["big", "little"]
orders: st.SearchStrategy[Order] = st.sampled_from(["big", "little"])


IN_A_REGION = [verb for verb in VERBS if verb.kind in ("atomic", "lease", "wait") and verb.needs and not verb.crosses]
ANYWHERE = [
    verb
    for verb in VERBS
    if verb.touches and verb not in IN_A_REGION and not (verb.direct or verb.holes or verb.name == "copy")
]


class GuestMemoryBesideModel(VerbsBesideModel):
    # Every verb of a range.

    def does_right(self, verb: Verb, addr: int, size: int) -> None:
        assert verb.right
        result, after = verb.right(self.model.get(addr, size))
        assert verb(self.memory, addr, size) == result
        if verb.writes:
            self.model.put(addr, after)

    @rule(verb=st.sampled_from(ANYWHERE), place=places, size=sizes)
    def anywhere(self, verb: Verb, place: Place, size: int) -> None:
        addr, size = self.place(place), verb.fitting(size)
        if self.allowed(addr, size, verb.needs, lambda: verb(self.memory, addr, size)):
            self.does_right(verb, addr, size)

    @rule(verb=st.sampled_from(IN_A_REGION), place=places, size=sizes, width=widths)
    def in_a_region(self, verb: Verb, place: Place, size: int, width: int) -> None:
        addr, size = self.place(place), width if verb.widths else size
        if verb.widths and addr % width:
            with pytest.raises(Misaligned):
                verb(self.memory, addr, size)
        elif self.allowed(addr, size, verb.needs, lambda: verb(self.memory, addr, size)):
            region = self.model.find(addr)
            crosses = region is None or addr + size > region.end
            if size and (crosses or (verb.direct and region and not region.is_direct)):
                with pytest.raises((Unsupported, NotContiguous)):
                    verb(self.memory, addr, size)
            elif verb.kind == "atomic" and region and (addr - region.base + region.skew) % width:
                with pytest.raises(Misaligned):
                    verb(self.memory, addr, size)
            else:
                self.does_right(verb, addr, size)

    # Bytes.

    @rule(place=places, size=sizes)
    def check_range(self, place: Place, size: int) -> None:
        addr = self.place(place)
        assert self.memory.check_range(addr, size) == (self.model.refusal(addr, size, "") is None)

    @rule(place=places, size=sizes)
    def read_into(self, place: Place, size: int) -> None:
        addr, target = self.place(place), bytearray(b"?" * size)
        if self.allowed(addr, size, "r", lambda: self.memory.read_into(addr, target)):
            assert self.memory.read_into(addr, target) == size
            assert target == self.model.get(addr, size)
        else:
            assert target == b"?" * size

    @rule(place=places, size=sizes, byte=st.integers(0, 255))
    def read_padded(self, place: Place, size: int, byte: int) -> None:
        addr = self.place(place)
        denied = [region for region, _, _ in self.model.pieces(addr, size) if not region.is_device and not region.prot]
        if denied:
            with pytest.raises(PermissionError):
                self.memory.read(addr, size, pad=byte)
        else:
            assert self.memory.read(addr, size, pad=byte) == self.model.padded(addr, size, byte)

    @rule(place=places, data=bytes_)
    def write(self, place: Place, data: bytes) -> None:
        addr = self.place(place)
        self.change(addr, data, lambda: self.memory.write(addr, data))

    @rule(from_=places, to=places, size=sizes)
    def copy(self, from_: Place, to: Place, size: int) -> None:
        src, dst = self.place(from_), self.place(to)
        if self.allowed(src, size, "r", lambda: self.memory.copy(dst, src, size)):
            self.change(dst, self.model.get(src, size), lambda: self.memory.copy(dst, src, size))

    # Values.

    @rule(place=places, width=widths, order=orders, value=st.integers(0, (1 << 64) - 1))
    def integers(self, place: Place, width: int, order: Order, value: int) -> None:
        addr, big = self.place(place), order == "big"
        load, store = (getattr(self.memory, f"{verb}_u{8 * width}") for verb in ("read", "write"))
        data = (value >> (64 - 8 * width)).to_bytes(width, order)
        self.change(addr, data, partial(store, addr, int.from_bytes(data, order), big=big))
        self.check(
            addr, width, partial(load, addr, big=big), lambda: int.from_bytes(self.model.get(addr, width), order)
        )

    @rule(place=places, size=sizes)
    def read_c_string(self, place: Place, size: int) -> None:
        addr = self.place(place)
        there = next(self.model.readable(addr, addr + size), (0, b""))
        run = there[1] if there[0] == addr else b""
        zero = run.find(0)
        if zero >= 0 or len(run) == size:
            assert self.memory.read_c_string(addr, size) == (run[:zero] if zero >= 0 else run)
        else:
            refusal = self.model.refusal(addr, size, "r")
            assert refusal is not None
            with pytest.raises(refusal[0]) as refused:
                self.memory.read_c_string(addr, size)
            assert refused.value.address == refusal[1]

    # Looking.

    @rule(place=places, data=bytes_)
    def compare(self, place: Place, data: bytes) -> None:
        addr = self.place(place)

        def expected() -> int | None:
            there = self.model.get(addr, len(data))
            return next(
                (addr + at for at, pair in enumerate(zip(there, data, strict=True)) if pair[0] != pair[1]), None
            )

        self.check(addr, len(data), lambda: self.memory.compare(addr, data), expected)

    @rule(
        needle=st.one_of(st.binary(min_size=1, max_size=3), places),
        span=st.tuples(places, sizes),
        align=st.integers(1, 9),
    )
    def search(self, needle: Any, span: tuple[Place, int], align: int) -> None:
        start = self.place(span[0])
        if not isinstance(needle, bytes):
            needle = self.model.get(self.place(needle), 5) or b"a"
        found = self.memory.search(needle, start, start + span[1], limit=100, align=align)
        assert list(found) == list(islice(self.model.search(needle, start, start + span[1], align), 100))

    @rule(place=places, size=sizes)
    def find_zero_pages(self, place: Place, size: int) -> None:
        start = self.place(place)
        found = self.memory.find_zero_pages(start, start + size)
        assert [tuple(pages) for pages in found] == self.model.zero_pages(start, start + size)
        everything = [tuple(pages) for pages in self.memory.find_zero_pages()]
        assert everything == self.model.zero_pages(0, self.model.end)

    @rule(place=places, size=sizes)
    def hexdump(self, place: Place, size: int) -> None:
        addr = self.place(place)
        shown = undump(self.memory.hexdump(addr, size))
        assert [part for part in shown if part[1]] == list(self.model.readable(addr, addr + size))

    # Many at once.

    @rule(ranges=st.lists(st.tuples(places, sizes), max_size=5))
    def readv(self, ranges: list[tuple[Place, int]]) -> None:
        pairs = [(self.place(place), size) for place, size in ranges]
        refused = next((pair for pair in pairs if self.model.refusal(*pair, "r")), None)
        target = bytearray(b"?" * sum(size for _, size in pairs))
        if refused is not None:
            self.allowed(*refused, "r", lambda: self.memory.readv(pairs))
            self.allowed(*refused, "r", lambda: self.memory.readv_into(pairs, target))
            assert target == b"?" * len(target)
        else:
            expected = [self.model.get(*pair) for pair in pairs]
            assert self.memory.readv(np.array(pairs, dtype="u8").reshape(-1, 2)) == expected
            assert self.memory.readv_into(pairs, target) == len(target)
            assert target == b"".join(expected)

    @rule(pairs=st.lists(st.tuples(places, bytes_), max_size=4))
    def writev(self, pairs: list[tuple[Place, bytes]]) -> None:
        placed = [(self.place(place), data) for place, data in pairs]
        for addr, data in placed:
            if not self.allowed(addr, len(data), "w", lambda: self.memory.writev(placed)):
                return
        self.memory.writev(placed)
        for addr, data in placed:
            self.model.put(addr, data)

    @rule(all_places=st.lists(places, max_size=6))
    def many_addresses(self, all_places: list[Place]) -> None:
        addresses = array("Q", [self.place(place) for place in all_places])
        hosts, indexes = self.memory.translate(addresses, missing="mark")
        mapped = [region for region in self.model.regions if not region.is_device]
        for addr, host, index in zip(addresses, hosts, indexes, strict=True):
            holder = next((number for number, region in enumerate(mapped) if region.base <= addr < region.end), -1)
            assert index == holder
            assert host == (0 if holder < 0 else self.memory.host_address(addr))
        refused = next((addr for addr in addresses if self.model.refusal(addr, 8, "r")), None)
        if refused is not None:
            self.allowed(refused, 8, "r", lambda: self.memory.read_many_u64(addresses))
        else:
            expected = [int.from_bytes(self.model.get(addr, 8), "little") for addr in addresses]
            assert self.memory.read_many_u64(np.array(addresses, dtype="u8")).tolist() == expected

    # Files.

    @rule(place=places, data=bytes_, is_buffered=st.booleans())
    def read_from(self, place: Place, data: bytes, is_buffered: bool) -> None:  # noqa: FBT001
        addr = self.place(place)
        with tempfile.TemporaryFile(buffering=-1 if is_buffered else 0) as file:
            file.write(b"head" + data + b"tail")
            file.seek(0)
            file.read(4)
            self.change(addr, data, lambda: self.memory.read_from(file, addr, len(data)))
            assert file.read() in (b"tail", data + b"tail")

    @rule(place=places, size=sizes, is_buffered=st.booleans())
    def write_to(self, place: Place, size: int, is_buffered: bool) -> None:  # noqa: FBT001
        addr = self.place(place)
        with tempfile.TemporaryFile(buffering=-1 if is_buffered else 0) as file:
            file.write(b"head")
            if self.allowed(addr, size, "r", lambda: self.memory.write_to(file, addr, size)):
                assert self.memory.write_to(file, addr, size) == size
                file.write(b"tail")
                file.seek(0)
                assert file.read() == b"head" + self.model.get(addr, size) + b"tail"

    @rule(place=places, size=st.integers(1, 3 * PAGE), is_buffered=st.booleans())
    def file_read(self, place: Place, size: int, is_buffered: bool) -> None:  # noqa: FBT001
        addr, raw = self.place(place), self.memory.open()
        file = io.BufferedReader(raw) if is_buffered else raw
        file.seek(addr)
        base, run = next(self.model.readable(addr, addr + size), (0, b""))
        if base == addr and run:
            assert file.read(len(run)) == run
            assert file.tell() == addr + len(run)
        elif addr < max((region.end for region in self.model.regions if not region.is_device), default=0):
            refusal = self.model.refusal(addr, 1, "r")
            assert refusal is not None
            with pytest.raises(refusal[0]) as refused:
                file.read(size)
            assert refused.value.address == addr
        else:
            assert file.read(size) == b""


GuestMemoryBesideModel.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestGuestMemory = GuestMemoryBesideModel.TestCase
