"""Progress of long work, on a terminal's last line."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager

from dbs_address_space._core import size_text

from . import terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dbs_address_space.progress import Progress

    Shown = Callable[[Progress], object]

__all__ = ["shown"]

PATIENCE = 0.5
"""Seconds before anything is shown: short work shows nothing."""
INTERVAL = 0.1
"""At least these seconds between two lines."""
CELLS = 30


@contextmanager
def shown(word: str, *, is_quiet: bool, ending: str = "") -> Iterator[Shown | None]:
    """A `progress=` function where a person looks at the standard error; its line is gone at the end."""
    if is_quiet or not sys.stderr.isatty():
        yield None
        return
    is_ascii, started, told = terminal.is_ascii(sys.stderr), time.monotonic(), 0.0

    def show(progress: Progress) -> None:
        nonlocal told
        now = time.monotonic()
        if now - started >= PATIENCE and now - told >= INTERVAL:
            told = now
            _rewrite(line(word, progress, is_ascii=is_ascii) + ending)

    try:
        yield show
    finally:
        if told:
            _rewrite("")


def line(word: str, progress: Progress, *, is_ascii: bool) -> str:
    """How much is done, how fast, and how long the rest will take."""
    share = progress.done / progress.total if progress.total else 1.0
    done = round(share * CELLS)
    full, empty = ("#", ".") if is_ascii else ("━", "─")
    left = int((progress.total - progress.done) / progress.rate) if progress.rate else 0
    sizes = f"{size_text(progress.done)} of {size_text(progress.total)}"
    speed = f"{size_text(int(progress.rate))}/s"
    return f"{word}  {full * done}{empty * (CELLS - done)}  {sizes}   {speed}   {left // 60}:{left % 60:02} left"


def _rewrite(text: str) -> None:
    """Puts a text in the place of the terminal's last line, cut where it would go on in the next."""
    room = terminal.width(sys.stderr) - 1
    print(f"\r{text[:room]}\x1b[K", end="", file=sys.stderr, flush=True)
