"""Between two looks at the interrupt the work is bounded, whatever a caller gives: Ctrl-C ends it midway."""

import itertools
import signal
from collections.abc import Callable

import numpy as np
import pytest
from children import in_child
from dbs_address_space import BytePattern, DirtyPages, GuestMemory
from memory_helpers import GIB, MIB, mapped, ram

AT = 16 * GIB
NEEDLE = 64 << 10
ENDLESS = itertools.repeat((AT, 0))

WORK: dict[str, Callable[[GuestMemory], object]] = {
    "search where each place nearly matches": lambda memory: next(
        memory.search(BytePattern("00" * NEEDLE + "?1")), None
    ),
    "search without a fixed byte": lambda memory: next(memory.search(BytePattern("0?" * NEEDLE + "?1")), None),
    "search for what is never aligned": lambda memory: next(memory.search(bytes(NEEDLE), AT + 1, align=1 << 60), None),
    "search for much": lambda memory: list(memory.search(bytes(GIB // 2), limit=1 << 40)),
    "translate": lambda memory: memory.translate(np.zeros(1 << 27, "<u8"), missing="mark"),
    "readv": lambda memory: memory.readv(ENDLESS),
    "readv of a list": lambda memory: memory.readv([(AT, 0)] * (1 << 25)),
    "readv_into": lambda memory: memory.readv_into(ENDLESS, bytearray(8)),
    "writev": lambda memory: memory.writev(itertools.repeat((AT, b""))),
    "read_c_string": lambda memory: memory.read_c_string(AT, GIB),
    "bitmap": lambda _: DirtyPages([(0, 1 << 45)]).bitmap(0, 1 << 45),
}


@pytest.mark.parametrize("work", WORK)
def test_ctrl_c_ends(work: str) -> None:
    def child() -> None:
        _, memory = mapped(ram(AT, GIB, mem_type="mmap"))
        if work == "read_c_string":
            memory.fill(AT, GIB, 1)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            WORK[work](memory)

    in_child(child, timeout=20)


def test_ctrl_c_ends_a_discard_midway() -> None:
    def child() -> None:
        _, memory = mapped(ram(AT, GIB))
        memory.fill(AT, GIB, 1)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        with pytest.raises(KeyboardInterrupt):
            memory.discard(AT, GIB)
        assert memory.read_u8(AT) == 0
        assert memory.read_u8(AT + GIB - 1) == 1

    in_child(child)


def test_a_match_is_given_before_the_next_is_looked_for() -> None:
    def child() -> None:
        _, memory = mapped(ram(AT, 4 * MIB))
        assert next(memory.search(bytes(NEEDLE))) == AT
        assert list(itertools.islice(memory.search(bytes(NEEDLE), AT + 5, align=2), 3)) == [AT + 6, AT + 8, AT + 10]

    in_child(child, timeout=5)
