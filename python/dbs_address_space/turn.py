"""Turns of the threads that change one object of this package's Python part."""

from __future__ import annotations

import os
from _thread import RLock
from contextlib import contextmanager

from .errors import ForkedProcess, ReentrantChange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Turn"]


class Turn:
    """One thread at a time changes an object; a change from inside its change, as out of a client, is refused."""

    def __init__(self, what: str) -> None:
        """Begins free; `what` is the object in errors."""
        self._what = what
        self._process = os.getpid()
        self._lock = RLock()
        self._is_taken = False

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Takes the turn while it lasts; raises `ReentrantChange`, and `ForkedProcess` in a forked child."""
        if os.getpid() != self._process:
            raise ForkedProcess(f"{self._what} belongs to the parent process: a forked child can't change it")
        with self._lock:
            if self._is_taken:
                raise ReentrantChange(
                    f"a change of {self._what} from inside its change: make it after that has returned"
                )
            try:
                self._is_taken = True
                yield
            finally:
                self._is_taken = False
