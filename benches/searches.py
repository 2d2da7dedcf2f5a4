"""Searches of a resident GiB against the standard library's, and of sparse memory."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator

import numpy as np
import spaces
from dbs_address_space import BytePattern, GuestMemory
from harness import MILLISECONDS, Measure, Pace, Result, statement

GIB = 1 << 30
NEEDLE = b"needle in a hay!"
PATTERN = BytePattern("6e 65 ?? 64 6? 65 20 69")
EXPRESSION = re.compile(rb"ne.d[\x60-\x6f]e i", re.DOTALL)


def small_scans(memory: GuestMemory, pace: Pace) -> Iterator[Result]:
    """They cost what their range costs, at the start of much that was written."""
    null = os.open("/dev/null", os.O_WRONLY)
    names = {"memory": memory, "null": null}
    for size, shown in ((4 << 10, "4 KiB"), (256 << 10, "256 KiB")):
        for verb, ours in (
            ("hash", "memory.hash(0, size)"),
            ("compare", "memory.compare(0, data)"),
            ("find_zero_pages", "memory.find_zero_pages(0, size)"),
            ("search", "list(memory.search(b'needle', 0, size))"),
            ("write_to", "memory.write_to(null, 0, size)"),
        ):
            values = names | {"size": size, "data": memory.read(0, size)}
            samples = pace.in_turns(statement(ours, **values), statement("memory.read(0, size)", **values))
            yield Result("search", f"{verb}, {shown} of 1 GiB, against read", *samples, Measure.TIME, 2)
    values = {"memory": memory}
    ours = "for page in range(0, 1 << 30, 4096): memory.hash(page, 4096)"
    samples = pace.in_turns(statement(ours, **values), statement("memory.hash(0, 1 << 30)", **values))
    yield Result("search", "hash of each page of 1 GiB, against all at once", *samples, Measure.TIME, 1.5, MILLISECONDS)
    os.close(null)


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
    yield from small_scans(memory, pace)
    sparse = spaces.memory_of(spaces.ram(0, 4 * GIB))
    sparse.write(4 * GIB - len(NEEDLE), NEEDLE)
    samples = pace.alone(statement("list(memory.search(needle))", memory=sparse, needle=NEEDLE))
    yield Result("search", "16 bytes in 4 GiB, sparse", *samples, Measure.ALONE, 0.05, MILLISECONDS)
