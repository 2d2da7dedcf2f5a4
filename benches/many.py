"""Many ranges and addresses in one call, against many calls and against NumPy."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import spaces
from harness import MICROSECONDS, MILLISECONDS, Measure, Pace, Result, statement
from numpy.typing import NDArray

RANGES, SIZE = 1000, 64
ADDRESSES = 1_000_000


def vectors(pace: Pace) -> Iterator[Result]:
    """1,000 reads of 64 bytes from random pages of 4,096 regions."""
    memory = spaces.space_of(4096).map_memory()
    pages = random.Random(2).choices(range(4096), k=RANGES)
    pairs = [(spaces.base(page) + 128, SIZE) for page in pages]
    array = np.array(pairs, dtype="<u8")
    names = {
        "memory": memory,
        "read": memory.read,
        "pairs": pairs,
        "array": array,
        "buffer": bytearray(RANGES * SIZE),
    }
    reference = statement("[read(addr, size) for addr, size in pairs]", **names)
    for name, text in (
        ("readv, a list of pairs", "memory.readv(pairs)"),
        ("readv, an array of pairs", "memory.readv(array)"),
        ("readv_into, an array of pairs", "memory.readv_into(array, buffer)"),
    ):
        samples = pace.in_turns(statement(text, **names), reference)
        yield Result("vectors", f"{name}, against 1,000 reads", *samples, Measure.SPEED, 6, MICROSECONDS)


def translate(pace: Pace) -> Iterator[Result]:
    """A million addresses in 4,096 regions, against `numpy.searchsorted` and the arithmetic around it."""
    memory = spaces.space_of(4096).map_memory()
    starts = np.array([region.base for region in memory.regions], dtype="<u8")
    ends = np.array([region.end for region in memory.regions], dtype="<u8")
    hosts = np.array([mapping.host_address for mapping in memory.mappings()], dtype="<u8")

    def by_numpy(addresses: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        indexes = np.searchsorted(starts, addresses, side="right").astype("<i8") - 1
        there = (indexes >= 0) & (addresses < ends[indexes])
        return np.where(there, hosts[indexes] + (addresses - starts[indexes]), 0), np.where(there, indexes, -1)

    generator = np.random.default_rng(3)
    pages = generator.integers(0, 4096, ADDRESSES, dtype="u8") * np.uint64(spaces.STRIDE)
    addresses = pages + np.uint64(spaces.FIRST) + generator.integers(0, spaces.PAGE, ADDRESSES, dtype="u8")
    for name, these in (("random", addresses), ("sorted", np.sort(addresses))):
        for ours, reference in zip(memory.translate(these), by_numpy(these), strict=True):
            assert (ours == reference).all()
        ours_side = statement("translate(these)", translate=memory.translate, these=these)
        reference_side = statement("translate(these)", translate=by_numpy, these=these)
        samples = pace.in_turns(ours_side, reference_side)
        yield Result(
            "translate", f"1,000,000 addresses, {name}, against NumPy", *samples, Measure.SPEED, 3, MILLISECONDS
        )
