"""Ctrl-C in the midst of work."""

import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def interrupted(seconds: float = 0.1) -> Iterator[None]:
    """Ctrl-C ends at their second look at signals what is done here: work that looks only when it is done has no second."""
    looks: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        looks.append(number)
        is_second = len(looks) >= 2
        # Again, where the exception came in a finalizer and was lost.
        signal.setitimer(signal.ITIMER_REAL, 1 if is_second else 0.001)
        if is_second:
            raise KeyboardInterrupt

    # An exception in one of these, such as Hypothesis has, would be lost.
    callbacks, gc.callbacks[:] = gc.callbacks[:], []
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, seconds)
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.callbacks[:] = callbacks
