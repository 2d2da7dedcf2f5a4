"""The price of a call, below which nothing can be, and of the import."""

from __future__ import annotations

import operator
import subprocess
import sys
from collections.abc import Iterator
from time import perf_counter

import spaces
from harness import MILLISECONDS, Measure, Pace, Result, Side, statement


def floor(pace: Pace) -> Iterator[Result]:
    """Calls that do next to nothing: one of the interpreter's own, and ours."""
    space = spaces.space_of(1)
    guest = space.map_memory()
    calls = {
        "operator.index(x)": statement("index(1)", index=operator.index),
        "len(space)": statement("len(space)", space=space),
        "read_u8(addr)": statement("read(address)", read=guest.read_u8, address=spaces.FIRST),
        "check_range(addr, 0)": statement("check(address, 0)", check=guest.check_range, address=spaces.FIRST),
    }
    for name, side in calls.items():
        yield Result("calls", f"call: {name}", *pace.alone(side), Measure.ALONE)


def import_time(pace: Pace) -> Iterator[Result]:
    """A fresh interpreter that imports the package against one that does nothing."""
    rounds = Pace(max(pace.rounds, 21), 0)
    samples = rounds.in_turns(interpreter("import dbs_address_space"), interpreter("pass"))
    yield Result("import", "import of the package", *samples, Measure.DIFFERENCE, 5e-3, MILLISECONDS)


def interpreter(program: str) -> Side:
    """A side that runs a program from start to exit."""

    def side(number: int) -> float:
        began = perf_counter()
        for _ in range(number):
            subprocess.run([sys.executable, "-c", program], check=True)
        return perf_counter() - began

    return side
