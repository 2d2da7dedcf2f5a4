"""Benchmarks of the package against what the standard library offers, both sides in one run.

Everything is measured in turns and shown as a ratio of medians with its quartiles; nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import bulk
import calls
import copies
import dumps
import guards
import images
import integers
import lookups
import machines
import many
import resets
import searches
import shares
import spaces
import streams
import windows
from harness import Pace, Result, table

import clients

GROUPS: dict[str, Callable[[Pace], Iterator[Result]]] = {
    "calls": calls.floor,
    "integers": integers.run,
    "look-ups": lookups.find,
    "changes": lookups.change,
    "copies": copies.run,
    "threads": copies.two_threads,
    "bulk": bulk.copies,
    "unicorn": bulk.unicorn,
    "vectors": many.vectors,
    "translate": many.translate,
    "search": searches.run,
    "guarded": guards.guarded,
    "tracking": guards.tracked,
    "resets": resets.run,
    "clients": clients.run,
    "windows": windows.run,
    "followers": shares.run,
    "plans": machines.plans,
    "room": machines.room,
    "prealloc": machines.prealloc,
    "images": images.run,
    "streams": streams.run,
    "dumps": dumps.run,
    "import": calls.import_time,
}
FULL, QUICK = Pace(rounds=41, seconds=0.02), Pace(rounds=7, seconds=0.002)


def arguments() -> argparse.Namespace:
    """The command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="few and short rounds: shows that all works, not what is fast"
    )
    parser.add_argument(
        "--only", action="append", choices=GROUPS, metavar="NAME", help=f"one of {', '.join(GROUPS)}; can be repeated"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write all samples, in seconds")
    return parser.parse_args()


def machine() -> dict[str, object]:
    """The machine of the figures."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def measure(names: list[str], pace: Pace) -> Iterator[Result]:
    """All results of the groups; a dot for each tells that it goes on."""
    for name in names:
        for result in GROUPS[name](pace):
            print(".", end="", file=sys.stderr, flush=True)
            yield result
    print(file=sys.stderr)


def main() -> None:
    """Measures, and prints the table."""
    wanted = arguments()
    spaces.raise_descriptor_limit()
    host = machine()
    results = list(measure(wanted.only or list(GROUPS), QUICK if wanted.quick else FULL))
    print(", ".join(f"{key} {value}" for key, value in host.items()), end="\n\n")
    print(table(results))
    if wanted.json:
        wanted.json.write_text(
            json.dumps({"machine": host, "results": [result.as_json() for result in results]}, indent=1)
        )


if __name__ == "__main__":
    main()
