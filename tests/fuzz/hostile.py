"""Arguments of a hostile caller: objects that act whenever they are asked anything, and values that no verb expects."""

import ctypes
import gc
import io
import mmap
import os
import random
import signal
from array import array
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, Protocol

import numpy as np


class HostileError(Exception):
    """Raised by what the fuzzer passes in."""


class Victim(Protocol):
    """Hostile objects act on it."""

    random: random.Random

    def meddle(self) -> None:
        """A change, a write and a removal."""

    def meddle_in_thread(self) -> None:
        """The same by another thread, for which the caller waits."""

    def close(self) -> None:
        """Closes the memory."""

    def detach(self) -> None:
        """Ends an attachment, or a lease."""

    def fork(self) -> None:
        """A child uses the memory, and ends."""

    def call_again(self) -> None:
        """Another call of anything."""

    def fileno(self) -> int:
        """A descriptor of the fuzzer's own file."""


def refuse(error: type[BaseException]) -> Callable[[Victim], None]:
    def act(_: Victim) -> None:
        raise error

    return act


MOODS: dict[str, Callable[[Victim], object]] = {
    "raise": refuse(HostileError),
    "interrupt": refuse(KeyboardInterrupt),
    "exit": refuse(SystemExit),
    "exhaust": refuse(MemoryError),
    "stop": refuse(StopIteration),
    "enter": lambda victim: victim.meddle(),
    "close": lambda victim: victim.close(),
    "detach": lambda victim: victim.detach(),
    "fork": lambda victim: victim.fork(),
    "recurse": lambda victim: victim.call_again(),
    "thread": lambda victim: victim.meddle_in_thread(),
    "collect": lambda _: gc.collect(),
}


class Hostile:
    """Acts on its victim whenever it is asked anything; then it answers."""

    def __init__(self, victim: Victim, mood: str = "", numbers: Sequence[int] = (0, 1, 8, 0x1000, -1, 1 << 64)) -> None:
        self.victim, self.mood, self.numbers = victim, mood or victim.random.choice(list(MOODS)), numbers

    def act(self) -> int:
        MOODS[self.mood](self.victim)
        return self.victim.random.choice(self.numbers)

    def answer(self, *_arguments: object, **_keywords: object) -> Any:
        return self.act()

    __index__ = __int__ = __call__ = __getitem__ = __contains__ = answer
    __enter__ = __exit__ = __add__ = __sub__ = answer
    # Of files, devices, clients, engines and buffers.
    read = readinto = seek = tell = flush = answer
    prepare = commit = rollback = leave = answer
    mem_map_ptr = mem_unmap = mem_protect = ctl_get_mode = add_memory_segment = answer
    base = obj = property(answer)
    name = property(lambda self: self.act() and "hostile")
    __array_interface__ = property(answer)

    def write(self, *arguments: object) -> object:
        return self.act() if len(arguments) != 1 else self.victim.random.choice([1, 1 << 70, self.act()])

    def fileno(self) -> int:
        self.act()
        return self.victim.fileno()

    def __len__(self) -> int:
        return self.act() & 0xFF

    def __float__(self) -> float:
        return float(self.act())

    def __bool__(self) -> bool:
        return self.act() == 0

    def __eq__(self, other: object) -> bool:
        return self.act() == other

    def __lt__(self, other: object) -> bool:
        return self.act() == 0

    def __hash__(self) -> int:
        return self.act() & 0xFF

    def __repr__(self) -> str:
        self.act()
        return "Hostile"

    def __fspath__(self) -> str:
        self.act()
        return "\0"

    def __buffer__(self, _flags: int) -> memoryview:
        self.act()
        return memoryview(bytearray(64))

    def __iter__(self) -> Iterator[object]:
        self.act()
        yield self
        yield (0x1000, 8)
        self.act()


class Listing(list[Any]):
    """Becomes shorter while it is looked through."""

    def __iter__(self) -> Iterator[Any]:
        for item in list(self):
            self.clear()
            yield item

    def __len__(self) -> int:
        return 1 << 40


class Text(str):
    """Is equal to nothing, and can't be a key."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise HostileError

    def __hash__(self) -> int:
        raise HostileError


class Liar:
    """Says that it is of another class."""

    def __init__(self, other: object) -> None:
        self.other = other

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self.other)


class Stream(io.RawIOBase):
    """A stream whose `readinto` keeps its buffer, or says that it filled more than there is."""

    def __init__(self, victim: Victim) -> None:
        self.victim, self.kept = victim, list[Any]()

    def readinto(self, buffer: Any) -> int:
        self.kept.append(buffer)
        return self.victim.random.choice([len(buffer), len(buffer) + 1, 1 << 62, -1, 0])

    def write(self, data: Any) -> int:
        self.kept.append(data)
        return self.victim.random.choice([len(data), 1 << 62, -1, 0])

    def readline(self, _size: int | None = -1) -> bytes:
        # Python's own makes a SystemError of what `readinto` says.
        return b""


NUMBERS = [
    *(0, 1, 7, 8, 4096, 65536, 1 << 20, -1, -(1 << 63), 1 << 31, (1 << 32) - 1, 1 << 56),
    *(1 << 63, (1 << 64) - 1, 1 << 64, 1 << 200, True, 0.5, float("nan"), "4KiB", "2GB", "", None),
    *(np.uint8(8), np.int64(-1), np.float64(8), ctypes.c_uint64(8)),
]


def released() -> memoryview:
    view = memoryview(bytearray(8))
    view.release()
    return view


def closed() -> io.BufferedIOBase:
    file = io.BytesIO(b"abc")
    file.close()
    return file


async def coroutine(*_: object) -> None: ...


BUFFERS: list[Callable[[], Any]] = [
    lambda: b"",
    lambda: b"\1\2\3",
    lambda: bytearray(64),
    lambda: bytearray(1 << 16),
    lambda: memoryview(bytearray(64))[::2],
    lambda: memoryview(bytearray(64))[::-1],
    lambda: memoryview(bytearray(64)).cast("Q"),
    lambda: memoryview(bytearray(64)).cast("B", (8, 8)),
    lambda: memoryview(bytes(64)),
    released,
    lambda: mmap.mmap(-1, 4096),
    lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ),
    lambda: np.zeros((8, 8), "u1"),
    lambda: np.zeros((8, 8), "u1").T,
    lambda: np.zeros(8, "<u8"),
    lambda: np.zeros(8, ">u8"),
    lambda: np.zeros(0, "u1"),
    lambda: np.zeros(3, [("a", "u1"), ("b", "<u8")]),
    lambda: np.broadcast_to(np.uint8(1), (1 << 16,)),
    lambda: array("d", [0.5]),
    lambda: array("Q", [0, 8, 1 << 44]),
    ctypes.c_uint64 * 8,
    ctypes.c_uint8,
]
CONSTANTS: list[Any] = [1j, ..., NotImplemented, range(3), int, object, repr, {}, ()]
OTHERS: list[Callable[[], Any]] = [
    *(partial(deepcopy, constant) for constant in CONSTANTS),
    lambda: "low",
    lambda: "\udcff",
    lambda: "a" * 10_000,
    lambda: Text("low"),
    lambda: Listing([(0, 8), (8, 8)]),
    lambda: [(0, 8)],
    lambda: [(0, 8, 9)],
    lambda: [(1 << 63, 1 << 63)],
    lambda: [0, "x"],
    lambda: {"x": 1},
    lambda: iter([(0, 8)]),
    lambda: (number for number in (0, 1 << 65)),
    lambda: coroutine,
    closed,
    lambda: io.BytesIO(b"abc"),
    lambda: io.StringIO("abc"),
    lambda: signal.SIGINT,
    lambda: os.stat_result(range(10)),
]


def odd(victim: Victim, objects: list[Any]) -> Any:
    """Anything."""
    choice = victim.random.choice
    kind = victim.random.random()
    if kind < 0.3:
        return choice([*NUMBERS, victim.random.getrandbits(20), victim.random.getrandbits(64)])
    if kind < 0.55:
        return Hostile(victim)
    if kind < 0.7:
        return choice(BUFFERS)()
    if kind < 0.9:
        return choice(OTHERS)()
    return choice([choice(objects), Liar(choice(objects)), Stream(victim)])
