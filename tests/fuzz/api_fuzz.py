"""Calls everything public with whatever a hostile caller may give it: `api_fuzz.py SEED CALLS FILE`, in a process of its own.

Each call ends in a value or in an exception that names a mistake of the caller. A signal, a hang, a panic, a `SystemError`, and a
descriptor or mapping that stays are findings. The process touches only files and processes that it made. The file tells the last
call after a signal.
"""

import faulthandler
import gc
import io
import random
import resource
import signal
import sys
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / room) for room in ("", "helpers", "../examples", "fuzz")]

from fuzz_arguments import Arguments  # noqa: E402  found by the line above
from fuzz_world import Member, World, members  # noqa: E402  as above
from hostile import HostileError  # noqa: E402  as above
from kernel_view import descriptors, maps_of  # noqa: E402  as above

DEADLINE = 30.0
CALLS_PER_WORLD = 150
MAPPED_AT_MOST = 3 << 30
BUGS = (SystemError, OverflowError, RecursionError, NameError, AssertionError, UnboundLocalError)
"""Nothing that a caller does is told by these."""
RARE = {"close", "__exit__", "map_memory"}
"""They end the world."""


class Fuzzer:
    """Goes round everything public, in an order that the seed gives."""

    def __init__(self, seed: int, last: Path) -> None:
        self.random = random.Random(seed)
        self.members = self.endless()
        self.outcomes: Counter[str] = Counter()
        self.called: set[str] = set()
        self.last = last.open("r+b", buffering=0)
        self.is_interrupted = False

    def endless(self) -> Iterator[Member]:
        while True:
            order = members()
            self.random.shuffle(order)
            yield from order

    def announce(self, call: str) -> None:
        """Writes the call where the parent finds it after a signal."""
        self.last.seek(0)
        self.last.write(call.encode("utf-8", "backslashreplace")[:500].ljust(500))

    def call(self, world: World) -> None:
        """One call of the next that there is."""
        owner, name = next(self.members)
        if name in RARE and self.random.random() < 0.9:
            return
        target = world.instance(owner)
        call = f"{getattr(owner, '__name__', owner)}.{name}"
        world.depth += 1
        try:
            outcome = self.tried(world, target, name, call)
        except BaseException as error:  # noqa: BLE001  callbacks raise KeyboardInterrupt and SystemExit
            outcome = self.judged(error, call)
        finally:
            world.depth -= 1
        self.called.add(call)
        self.outcomes[outcome] += 1

    def tried(self, world: World, target: Any, name: str, call: str) -> str:
        self.announce(call)
        member = getattr(target, name)
        if not callable(member):
            return "read"
        positional, named = Arguments(world, world.path, world.objects).of(member)
        self.announce(f"{call}({kinds(positional)}, {dict(zip(named, map(type, named.values()), strict=True))})")
        self.interrupt_later()
        try:
            result = member(*positional, **named)
            if isinstance(result, Iterator) and not isinstance(result, io.IOBase):
                world.keep(next(result, None))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        world.keep(result)
        return "returned"

    def interrupt_later(self) -> None:
        """Ctrl-C comes at any moment."""
        if self.random.random() < 0.05:
            signal.setitimer(signal.ITIMER_REAL, self.random.choice([1e-5, 1e-4, 1e-3]))

    def judged(self, error: BaseException, call: str) -> str:
        kind = type(error).__name__
        if kind == "PanicException" or type(error) in BUGS:
            report(f"{call}: {kind}: {error!s:.500}")
        return kind


def kinds(values: list[Any]) -> str:
    plain = (int, float, str, bytes)
    return ", ".join(f"{value!r:.40}" if type(value) in plain else type(value).__name__ for value in values)


def report(finding: str) -> None:
    sys.stdout.write(f"FINDING {finding}\n")


def unraisable(args: Any) -> None:
    """Python tells here what a client raises in `commit`."""
    if type(args.exc_value).__name__ == "PanicException" or isinstance(args.exc_value, SystemError):
        report(f"unraisable {args.exc_value!r} in {args.object!r}")


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def watch() -> None:
    faulthandler.dump_traceback_later(DEADLINE, exit=True)


def live_in(fuzzer: Fuzzer, name: str, directory: Path, calls: int) -> None:
    watch()
    world = World(name, directory, fuzzer.call)
    if missing := world.missing():
        report(f"there is no object of {missing}")
    done = sum(fuzzer.outcomes.values())
    while sum(fuzzer.outcomes.values()) < done + calls:
        watch()
        # A signal may come between a call and the end of its timer.
        try:
            fuzzer.call(world)
        except (KeyboardInterrupt, HostileError):
            continue
    watch()
    fuzzer.announce("the end of the world")
    world.end()


def held(directory: Path) -> Counter[str]:
    """The descriptors by what they are of, and the mappings of memory of regions."""
    places = ("/memfd:", str(directory))
    return Counter(descriptors().values()) + Counter(place for place in places for _ in maps_of(place))


def main(seed: int, calls: int, last: Path) -> None:
    faulthandler.enable()
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MAPPED_AT_MOST, MAPPED_AT_MOST))
    signal.signal(signal.SIGALRM, interrupt)
    sys.unraisablehook = unraisable
    threading.excepthook = lambda _: None
    fuzzer = Fuzzer(seed, last)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        # What is imported late, and what stays for the whole process.
        live_in(Fuzzer(seed, last), f"{seed}", directory, 1)
        gc.collect()
        before = held(directory)
        for number in range(-(-calls // CALLS_PER_WORLD)):
            live_in(fuzzer, f"{seed}.{number}", directory, CALLS_PER_WORLD)
            gc.collect()
        faulthandler.cancel_dump_traceback_later()
        if left := held(directory) - before:
            report(f"left behind: {dict(left)}")
    members_called = f"{len(fuzzer.called)} of {len(set(members()))} public names"
    sys.stdout.write(f"seed {seed}: {calls} calls of {members_called}: {dict(fuzzer.outcomes.most_common())}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
