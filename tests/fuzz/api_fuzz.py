"""Calls everything public with whatever a hostile caller may give it: `api_fuzz.py SEED CALLS`, in a process of its own.

Each call ends in a value or in an exception that names a mistake of the caller. A signal, a hang, a panic, a `SystemError` or a
descriptor that stays is a finding. The process touches only files that it made.
"""

from __future__ import annotations

import faulthandler
import gc
import inspect
import io
import mmap
import os
import random
import resource
import signal
import sys
import tempfile
import warnings
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import dbs_address_space as package
from dbs_address_space import (
    AddressSpace,
    AddressSpaceBuilder,
    AddressSpaceLayout,
    AddressSpaceRegion,
    DirtyPages,
    GuestMemory,
    Machine,
    tables,
)

DEADLINE = 30.0
CALLS_PER_WORLD = 150
MAPPED_AT_MOST = 3 << 30
LAYOUT = AddressSpaceLayout(1 << 46, 0, 1 << 45)
# Never with odd ints, which may name descriptors and paths of others.
ENDPOINTS = {"file", "fd", "sock", "vm_fd", "path", "mem_file_path", "uc", "program", "device", "space", "memory"}
ADDRESSES = [0, 8, 0xFFFC, 0x10000, 0x1FFF8, 0x40000, 0x42FF8, 0x80000, 0xC0000, 1 << 45, (1 << 45) + (1 << 20)]
SIZES = [0, 1, 8, 0x100, 0x1000, 0x3000, 0x10000, "4KiB", "64KiB", "320MiB", 1 << 45, 1 << 56]
NUMBERS = [0, 1, 2, 8, 255, 1 << 16, (1 << 64) - 1]
BUFFERS = [b"", b"\0", bytearray(8), bytearray(4096), bytearray(1 << 16)]
SENSIBLE: dict[str, list[Any]] = {
    **dict.fromkeys(["addr", "base", "dst", "src", "start", "low", "key"], ADDRESSES),
    **dict.fromkeys(["size", "max_size", "width"], SIZES),
    **dict.fromkeys(
        ["value", "expected", "new", "byte", "pad", "offset", "file_offset", "align", "limit", "slots", "threads"],
        NUMBERS,
    ),
    **dict.fromkeys(["data", "needle", "buffer"], BUFFERS),
    "ranges": [[(0, 8)], [(0, 1 << 45)], [(1 << 40, 1 << 30)], [(0, 8), (0x10000, 64)], []],
    "pairs": [[(0, b"x")], [(0, b"x"), (0x10000, b"y" * 64)], []],
    "addresses": [array("Q", [0, 8]), array("Q", [1 << 44]), array("Q")],
    "fmt": ["<Q", "16s", "<IIQ", "x", ""],
    "order": ["relaxed", "acquire", "release", "acq_rel", "seq_cst"],
    "shape": [1, (4,), (2, 3), ()],
    "dtype": ["u1", "<u8", "f4", "O"],
    "algorithm": ["blake3", "sha256"],
    "mode": ["rb", "r+b"],
    "region_type": ["ram", "device", "dax", "firmware"],
    "force": [True, False],
    "perm_flags": [1, 2, 0x22],
    "prot_flags": [0, 1, 3, 5, "rw-"],
    "name": ["a", "b", None, "low"],
    "mem_type": ["shmem", "mmap", "hugemmap", "hugeshmem", "hugetlbfs"],
    "policy": ["first", "last", "best"],
}
CALLBACKS = {"progress", "callback", "client", "client_or_callable", "handler"}
# Whatever these are, they may be waited for: never without an end.
WAITS = {"timeout"}
DUNDERS = [
    "__contains__",
    "__getitem__",
    "__eq__",
    "__lt__",
    "__hash__",
    "__repr__",
    "__str__",
    "__len__",
    "__iter__",
    "__bool__",
    "__reduce__",
    "__enter__",
    "__sub__",
    "__or__",
    "__and__",
    "__next__",
    "__copy__",
    "__sizeof__",
    "__dir__",
    "__format__",
]


class EvilError(Exception):
    """Raised by what the fuzzer passes in."""


class Evil:
    """Raises, re-enters, closes or collects whenever anything is asked of it."""

    def __init__(self, world: World, mood: str) -> None:
        self.world, self.mood = world, mood

    def act(self) -> int:
        if self.mood == "raise":
            raise EvilError
        if self.mood == "interrupt":
            raise KeyboardInterrupt
        if self.mood == "exit":
            raise SystemExit(3)
        if self.mood == "enter":
            self.world.meddle()
        if self.mood == "close":
            self.world.memory.close()
        if self.mood == "fork":
            self.world.fork()
        if self.mood == "recurse" and self.world.depth < 3:
            self.world.call()
        gc.collect(0)
        return 0x1000

    def __index__(self) -> int:
        return self.act()

    def __int__(self) -> int:
        return self.act()

    def __float__(self) -> float:
        return float(self.act())

    def __bool__(self) -> bool:
        return self.act() == 0

    def __len__(self) -> int:
        return self.act()

    def __eq__(self, other: object) -> bool:
        return self.act() == other

    def __hash__(self) -> int:
        return self.act()

    def __repr__(self) -> str:
        self.act()
        return "Evil"

    def __iter__(self) -> Iterator[object]:
        self.act()
        yield self
        yield 0x1000
        self.act()

    def __call__(self, *_arguments: object, **_keywords: object) -> int:
        return self.act()

    def __getitem__(self, _index: object) -> int:
        return self.act()

    def fileno(self) -> int:
        self.act()
        return self.world.file.fileno()

    def readinto(self, _buffer: object) -> int:
        return self.act()

    def read(self, *_arguments: object) -> Any:
        return self.act()

    def write(self, *_arguments: object) -> int:
        return self.act()

    def prepare(self, *_arguments: object) -> None:
        self.act()

    def commit(self, *_arguments: object) -> None:
        self.act()

    def rollback(self, *_arguments: object) -> None:
        self.act()


MOODS = ["raise", "interrupt", "exit", "enter", "close", "fork", "recurse", "collect"]


class World:
    """A space with memory, one object of everything that lives on it, and the caller that wishes it ill."""

    def __init__(self, seed: str, directory: Path) -> None:
        self.random = random.Random(seed)
        self.depth = 0
        self.directory = directory
        self.path = directory / "bytes"
        self.path.write_bytes(bytes(range(256)) * 64)
        self.file = self.path.open("r+b", buffering=0)
        self.space = AddressSpace.from_regions(self.regions(), LAYOUT)
        self.memory = self.space.map_memory()
        self.objects = self.made()

    def regions(self) -> list[AddressSpaceRegion]:
        return [
            AddressSpaceRegion("ram", 0, "64KiB", name="low"),
            AddressSpaceRegion("ram", 0x10000, "64KiB", mem_type="mmap", prot_flags="r--"),
            AddressSpaceRegion.from_buffer(0x40000, bytearray(0x3000), name="borrowed"),
            AddressSpaceRegion.from_file(0x80000, "16KiB", self.file, name="file"),
            AddressSpaceRegion.create_firmware_region(0xC0000, "64KiB", "r-x", name="rom"),
            AddressSpaceRegion.create_device_region(1 << 45, "4KiB", name="device"),
            AddressSpaceRegion.create_dax_region((1 << 45) + (1 << 20), "1MiB", name="dax"),
        ]

    def made(self) -> list[object]:
        space, memory, base = self.space, self.memory, self.space.snapshot()
        builder = AddressSpaceBuilder(numa_regions=["4MiB"])
        return [
            package,
            tables,
            memory.view(0, 16).obj,
            memory.view(0, 16).obj,
            space,
            memory,
            base,
            LAYOUT,
            *base.regions,
            base.diff(space.snapshot()),
            space.transaction(),
            memory.pin(0, 4096),
            memory.mapping(0),
            memory.open(),
            memory.dax_window("dax"),
            memory.search(b"\1\2\3"),
            DirtyPages([(0, 8192)]),
            Machine.named("q35"),
            builder,
            builder.plan(),
            space.reserve("64KiB", owner="fuzzer"),
            space.request_unplug("low"),
            space.subscribe(lambda _change: None),
            space.attach_device("device", Evil(self, "collect")),
            memory.prealloc(background=True),
            package.BytePattern("?? 12"),
            package.NumaNode(),
            package.NumaIdTable(),
            package.BackingOptions(),
            package.NumaPolicy("bind", [0]),
            package.Hotplug("1GiB"),
            package.NumaRegionInfo("4MiB"),
            package.NumaNodeInfo(0, 4096),
        ]

    def meddle(self) -> None:
        """A change, a write and a removal from inside whatever is being done."""
        self.memory.read(0, 8)
        base = self.random.randrange(0x100000, 0x200000, 0x1000)
        self.space.insert_region(AddressSpaceRegion("ram", base, "4KiB"))
        self.memory.write_u64(base, 1)
        self.space.remove_region(base)

    def fork(self) -> None:
        child = os.fork()
        if child == 0:
            # A verb in the child answers or raises; the watchdog of `faulthandler` doesn't live in a forked child.
            signal.alarm(int(DEADLINE / 3))
            try:
                self.memory.read(0, 8)
                self.space.remove_region("low")
            except BaseException:  # noqa: BLE001  whatever it is, the child ends here
                os._exit(0)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemError(f"a forked child ended with {status}")

    def number(self) -> object:
        r = self.random
        return r.choice(
            [
                0,
                1,
                7,
                8,
                0x1000,
                0x10000,
                0x20000 - 4,
                0x40000,
                0x42FFF,
                0x80000,
                0xC0000,
                1 << 45,
                4096,
                65536,
                1 << 20,
                -1,
                -(1 << 63),
                1 << 31,
                (1 << 32) - 1,
                1 << 56,
                1 << 63,
                (1 << 64) - 1,
                1 << 64,
                1 << 200,
                True,
                0.5,
                float("nan"),
                r.getrandbits(20),
                r.getrandbits(64),
                "4KiB",
                "2GB",
                "",
                None,
            ]
        )

    def odd(self) -> object:
        r = self.random
        released = memoryview(bytearray(8))
        released.release()
        return r.choice(
            [
                self.number(),
                self.number(),
                self.number(),
                b"",
                b"\1\2\3",
                bytearray(64),
                memoryview(bytearray(64))[::2],
                released,
                memoryview(bytearray(64)).cast("Q"),
                mmap.mmap(-1, 4096),
                "low",
                "rom",
                "\udcff",
                "a" * 10000,
                (),
                [],
                {},
                [(0, 8)],
                [(0, 8, 9)],
                [(1 << 63, 1 << 63)],
                [0, "x"],
                {"x": 1},
                object(),
                int,
                Evil(self, r.choice(MOODS)),
                Evil(self, "raise"),
                lambda *_: 0,
                r.choice(self.objects),
                io.BytesIO(b"abc"),
                1j,
                ...,
                NotImplemented,
                range(3),
                iter([(0, 8)]),
            ]
        )

    def endpoint(self) -> object:
        closed = self.path.open("rb")
        closed.close()
        return self.random.choice(
            [
                self.file,
                self.file.fileno(),
                closed,
                io.BytesIO(bytes(64)),
                Evil(self, "enter"),
                Evil(self, "raise"),
                self.path,
                str(self.path),
                self.directory,
                self.directory / "missing",
                None,
                1.5,
                b"x",
                object(),
                self.space,
                self.memory,
                -1,
            ]
        )

    def argument(self, name: str) -> object:
        if name in ENDPOINTS:
            return self.endpoint()
        if name in WAITS:
            return self.random.choice([0, 0.01, -1, "x", float("nan"), Evil(self, "raise")])
        if name in SENSIBLE and self.random.random() < 0.7:
            return self.random.choice(SENSIBLE[name])
        if name in CALLBACKS and self.random.random() < 0.8:
            return Evil(self, self.random.choice(MOODS))
        if name in {"region", "regions", "old", "new", "target", "x"} and self.random.random() < 0.7:
            return self.random.choice([*self.space.regions, "low", 0, 0x40000, "rom"])
        return self.odd()

    def arguments(self, function: Callable[..., object]) -> tuple[list[object], dict[str, object]]:
        """By its signature mostly; too many, too few and misnamed ones too. A wait is always given its end."""
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            return [self.odd() for _ in range(self.random.randrange(3))], {}
        positional: list[object] = []
        named: dict[str, object] = {}
        for parameter in parameters:
            wanted = parameter.default is parameter.empty or parameter.name in WAITS or self.random.random() < 0.3
            if not wanted or parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
                continue
            value = self.argument(parameter.name)
            if parameter.kind is parameter.KEYWORD_ONLY or named or parameter.default is not parameter.empty:
                named[parameter.name] = value
            else:
                positional.append(value)
        if self.random.random() < 0.02:
            named["sise"] = 1
        return positional, named

    def call(self) -> str:
        """One call of anything, and how it ended."""
        target = self.random.choice([self.space, self.memory, self.random.choice(self.objects)])
        public = [name for name in dir(target) if not name.startswith("_")]
        name = self.random.choice(public * 3 + [name for name in DUNDERS if hasattr(target, name)])
        if isinstance(target, (memoryview, GuestMemory)) and name == "close" and self.random.random() < 0.8:
            return "skipped"
        self.depth += 1
        announce(f"{type(target).__name__}.{name}")
        try:
            member: Any = getattr(target, name)
            if not callable(member):
                return "read"
            positional, named = self.arguments(member)
            announce(f"{type(target).__name__}.{name}({kinds(positional)}, {sorted(named)})")
            result = member(*positional, **named)
            if is_ours(result) and len(self.objects) < 100:
                self.objects.append(result)
            if isinstance(result, Iterator):
                next(result, None)
        except BaseException as error:  # noqa: BLE001  callbacks raise KeyboardInterrupt and SystemExit
            return judged(error, f"{type(target).__name__}.{name}")
        finally:
            self.depth -= 1
        return "returned"

    def end(self) -> None:
        self.objects.clear()
        gc.collect()
        self.file.close()


def is_ours(value: object) -> bool:
    """Whether a value is an object of the package that can be called further."""
    return type(value).__module__.startswith("dbs_address_space") and not isinstance(
        value, (Enum, BaseException, tuple)
    )


def kinds(values: list[object]) -> str:
    return ", ".join(repr(value) if isinstance(value, (int, float, str)) else type(value).__name__ for value in values)[
        :300
    ]


def announce(call: str) -> None:
    """Writes the call where the parent finds it after a signal."""
    LAST.seek(0)
    LAST.write(call.encode("utf-8", "backslashreplace")[:500].ljust(500))


def judged(error: BaseException, call: str) -> str:
    kind = type(error).__name__
    if kind == "PanicException" or type(error) in {SystemError, OverflowError, RecursionError}:
        sys.stdout.write(f"FINDING {call}: {kind}: {error}\n")
    return kind


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def main(seed: int, calls: int) -> None:
    faulthandler.enable()
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MAPPED_AT_MOST, MAPPED_AT_MOST))
    sys.unraisablehook = lambda _args: None  # what a client raises in commit is told there
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as directory:
        World(f"{seed}", Path(directory)).end()
        gc.collect()
        before = descriptors()
        for number in range(-(-calls // CALLS_PER_WORLD)):
            world = World(f"{seed}.{number}", Path(directory))
            for _ in range(CALLS_PER_WORLD):
                faulthandler.dump_traceback_later(DEADLINE, exit=True)
                outcomes[world.call()] += 1
            faulthandler.dump_traceback_later(DEADLINE, exit=True)
            announce("the end of the world")
            world.end()
            del world
            gc.collect()
        faulthandler.cancel_dump_traceback_later()
        if descriptors() > before:
            sys.stdout.write(f"FINDING {descriptors() - before} descriptors stay open\n")
    sys.stdout.write(f"seed {seed}: {sum(outcomes.values())} calls, {outcomes}\n")


if __name__ == "__main__":
    LAST = Path(sys.argv[3]).open("r+b", buffering=0)  # noqa: SIM115  open to the end
    main(int(sys.argv[1]), int(sys.argv[2]))
