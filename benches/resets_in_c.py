"""The resets of a C program that makes the kernel's own calls."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

from harness import Side

SOURCE = """
#include <string.h>
#include <sys/ioctl.h>
typedef unsigned long word;
struct run { word start, end, categories; };
struct scan { word size, flags, start, end, walk_end, vec, vec_len, max_pages, inverted, mask, any_of, returned; };

/* Registers, run, KVM_GET_DIRTY_LOG, which clears it, and back with the pages that it names. */
void by_dirty_log(int vm, int vcpu, void *regs, void *log, word *bitmap, char *memory, char *copy, word words, word number) {
    while (number--) {
        ioctl(vcpu, 0x4090AE82, regs);
        ioctl(vcpu, 0xAE80, 0);
        ioctl(vm, 0x4010AE42, log);
        for (word index = 0; index < words; index++)
            for (word bits = bitmap[index]; bits; bits &= bits - 1) {
                word at = (index * 64 + __builtin_ctzl(bits)) << 12;
                memcpy(memory + at, copy + at, 4096);
            }
    }
}

/* PAGEMAP_SCAN for pages that were written; of private memory, those that are there and not the page of zeroes. */
static long scanned(int pagemap, char *memory, word size, struct run *runs, word room, word private) {
    word zero = private ? 32 : 0, there = private ? 8 | 16 : 0;
    struct scan scan = {sizeof scan, 2, (word)memory, (word)memory + size, 0, (word)runs, room, 0, zero, 2 | zero, there, 2};
    return ioctl(pagemap, 0xC0606610, &scan);
}

void scan(int pagemap, char *memory, word size, word private, word number) {
    struct run runs[512];
    while (number--)
        scanned(pagemap, memory, size, runs, 512, private);
}

/* Writes to some pages, finds them and puts them back; they stay unprotected. */
void put_back(int pagemap, char *memory, char *copy, word size, word pages, word stride, word number) {
    struct run runs[512];
    while (number--) {
        for (word page = 0; page < pages; page++)
            memory[page * stride]++;
        long count = scanned(pagemap, memory, size, runs, 512, 0);
        for (long run = 0; run < count; run++)
            for (word at = runs[run].start - (word)memory; at < runs[run].end - (word)memory; at += 4096)
                if (memcmp(memory + at, copy + at, 4096))
                    memcpy(memory + at, copy + at, 4096);
    }
}

void write_to(char *memory, word pages, word stride) {
    for (word page = 0; page < pages; page++)
        memory[page * stride]++;
}
"""


@cache
def library() -> Any:
    """The functions, compiled."""
    with tempfile.TemporaryDirectory() as directory:
        source, built = Path(directory, "resets.c"), Path(directory, "resets.so")
        source.write_text(SOURCE)
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", built, source], check=True)
        return ctypes.CDLL(str(built))


@cache
def pagemap() -> int:
    """The page tables of this process."""
    return os.open("/proc/self/pagemap", os.O_RDONLY)


def side(name: str, *arguments: object) -> Side:
    """A side of so many rounds of a function, which takes their number last."""
    function = getattr(library(), name)

    def timed(number: int) -> float:
        begun = time.perf_counter()
        function(*arguments, ctypes.c_ulong(number))
        return time.perf_counter() - begun

    return timed
