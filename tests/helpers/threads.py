"""Threads in tests: they run at once, take the interpreter from each other, or count while they get it."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def switch_interval(seconds: float) -> Iterator[None]:
    """How long a thread may keep the interpreter while another one wants it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def run_threads(*bodies: Callable[[], object]) -> None:
    """Runs all bodies at once; what any of them raises comes out."""
    raised: list[BaseException] = []

    def run(body: Callable[[], object]) -> None:
        try:
            body()
        except BaseException as error:  # noqa: BLE001  raised again below
            raised.append(error)

    threads = [threading.Thread(target=run, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


def until(holds: Callable[[], object], seconds: float = 60) -> None:
    """Returns once something holds that another thread or process brings about."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def beats_in_time(attempt: Callable[[], bool], seconds: float = 30) -> bool:
    """Whether an attempt succeeds: on a busy machine another thread may get no processor within one of them."""
    deadline = time.monotonic() + seconds
    while not (beats := attempt()) and time.monotonic() < deadline:
        continue
    return beats


def beats_during(work: Callable[[], object]) -> int:
    """How often another thread gets a turn during work, when no one is made to give the interpreter's lock up."""
    beats, stop = [0], threading.Event()

    def beat() -> None:
        while not stop.is_set():
            beats[0] += 1
            time.sleep(0.00002)

    thread = threading.Thread(target=beat)
    with switch_interval(3600):
        thread.start()
        try:
            while not beats[0]:
                time.sleep(0.001)
            before = beats[0]
            work()
            return beats[0] - before
        finally:
            stop.set()
            thread.join()
