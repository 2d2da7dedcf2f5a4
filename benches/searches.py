"""Searches of a resident GiB against the standard library's, and of sparse memory."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator

import numpy as np
import spaces
from blake3 import blake3
from dbs_address_space import BytePattern, GuestMemory
from harness import MILLISECONDS, Measure, Pace, Result, statement

GIB = 1 << 30
NEEDLE = b"needle in a hay!"
PATTERN = BytePattern("6e 65 ?? 64 6? 65 20 69")
EXPRESSION = re.compile(rb"ne.d[\x60-\x6f]e i", re.DOTALL)


CHUNK = 128 << 10
OTHERS = {
    "read": "memory.read(0, size)",
    "read and find": "memory.read(0, size).find(b'needle')",
    "read and write": "os.write(null, memory.read(0, size))",
}


def written() -> GuestMemory:
    """A GiB of random bytes."""
    memory = spaces.memory_of(spaces.ram(0, GIB))
    with memory.view(0, GIB) as view:
        np.frombuffer(view, "<u8")[:] = np.random.default_rng(4).integers(0, 2**63, GIB // 8, dtype="<u8")
    return memory


def small_scans(pace: Pace) -> Iterator[Result]:
    """They cost what their range costs, at the start of much that was written; BLAKE3 alone is the floor of digests."""
    memory = written()
    null = os.open("/dev/null", os.O_WRONLY)
    names: dict[str, object] = {"memory": memory, "null": null, "os": os}
    for size, shown in ((4 << 10, "4 KiB"), (256 << 10, "256 KiB")):
        for verb, ours, others, goal in (
            ("hash", "memory.hash(0, size)", "read", 2),
            ("compare", "memory.compare(0, data)", "read", 2),
            ("find_zero_pages", "memory.find_zero_pages(0, size)", "read", 2),
            ("search", "list(memory.search(b'needle', 0, size))", "read and find", 1.1),
            # A call has six system calls: a descriptor of its own, its flags and kind, whether it is ready, the write, the end.
            ("write_to", "memory.write_to(null, 0, size)", "read and write", 8 if size < CHUNK else 2),
        ):
            values = names | {"size": size, "data": memory.read(0, size)}
            samples = pace.in_turns(statement(ours, **values), statement(OTHERS[others], **values))
            yield Result("search", f"{verb}, {shown} of 1 GiB, against {others}", *samples, Measure.TIME, goal)
    names |= {"blake3": blake3, "page": memory.read(0, 4096), "pages": range(0, GIB, 4096)}
    samples = pace.in_turns(statement("memory.hash(0, 4096)", **names), statement("blake3(page).digest()", **names))
    yield Result("search", "hash, 4 KiB of 1 GiB, against BLAKE3 of bytes", *samples, Measure.TIME, 1.5)
    each, once = "for page in pages: memory.hash(page, 4096)", "memory.hash(0, 1 << 30)"
    samples = pace.in_turns(statement(each, **names), statement(once, **names))
    yield Result("search", "hash of each page of 1 GiB, against all at once", *samples, Measure.TIME, 1.5, MILLISECONDS)
    names["whole"] = memory.read(0, GIB)
    each, once = "for at in pages: blake3(whole[at:at + 4096]).digest()", "blake3(whole).digest()"
    samples = pace.in_turns(statement(each, **names), statement(once, **names))
    yield Result(
        "search", "BLAKE3 of each page of bytes, against all at once", *samples, Measure.TIME, None, MILLISECONDS
    )
    os.close(null)


def run(pace: Pace) -> Iterator[Result]:
    """Random bytes, and a needle at the very end."""
    memory = written()
    fd = memory.mapping(0).fd
    assert fd is not None
    plain = mmap.mmap(fd, GIB)
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
    yield from small_scans(pace)
    sparse = spaces.memory_of(spaces.ram(0, 4 * GIB))
    sparse.write(4 * GIB - len(NEEDLE), NEEDLE)
    samples = pace.alone(statement("list(memory.search(needle))", memory=sparse, needle=NEEDLE))
    yield Result("search", "16 bytes in 4 GiB, sparse", *samples, Measure.ALONE, 0.05, MILLISECONDS)
