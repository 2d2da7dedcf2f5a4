"""Searches of a resident GiB against the standard library's, and of sparse memory."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator

import numpy as np
import spaces
from dbs_address_space import BytePattern
from harness import MILLISECONDS, Measure, Pace, Result, statement

GIB = 1 << 30
NEEDLE = b"needle in a hay!"
PATTERN = BytePattern("6e 65 ?? 64 6? 65 20 69")
EXPRESSION = re.compile(rb"ne.d[\x60-\x6f]e i", re.DOTALL)


def run(pace: Pace) -> Iterator[Result]:
    """Random bytes, and a needle at the very end."""
    memory = spaces.memory_of(spaces.ram(0, GIB))
    fd = memory.mapping(0).fd
    assert fd is not None
    plain = mmap.mmap(fd, GIB)
    with memory.view(0, GIB) as view:
        np.frombuffer(view, "<u8")[:] = np.random.default_rng(4).integers(0, 2**63, GIB // 8, dtype="<u8")
    memory.write(GIB - len(NEEDLE), NEEDLE)
    names = {"memory": memory, "plain": plain, "view": memoryview(plain), "re": EXPRESSION} | {
        "needle": NEEDLE,
        "pattern": PATTERN,
    }
    pace = Pace(max(pace.rounds // 4, 3), pace.seconds)
    for name, ours, reference in (
        ("16 bytes in 1 GiB, against mmap.find", "list(memory.search(needle))", "plain.find(needle)"),
        ("masked bytes in 1 GiB, against re", "list(memory.search(pattern))", "re.search(view)"),
    ):
        samples = pace.in_turns(statement(ours, **names), statement(reference, **names))
        yield Result("search", name, *samples, Measure.SPEED, 3, MILLISECONDS)
    sparse = spaces.memory_of(spaces.ram(0, 4 * GIB))
    sparse.write(4 * GIB - len(NEEDLE), NEEDLE)
    samples = pace.alone(statement("list(memory.search(needle))", memory=sparse, needle=NEEDLE))
    yield Result("search", "16 bytes in 4 GiB, sparse", *samples, Measure.ALONE, 0.05, MILLISECONDS)
