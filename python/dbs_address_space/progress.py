"""Progress of long work."""

from __future__ import annotations

from ._named_tuple import NamedTuple, in_hex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Progress", "SendProgress", "tqdm_progress"]


class Progress(NamedTuple):
    """The argument of a `progress=` function: `done` of `total` bytes of a stage, at `rate` bytes a second.

    >>> Progress("map", 1 << 20, 4 << 20, 1e9).done
    1048576
    """

    stage: str
    done: int
    total: int
    rate: float

    def __repr__(self) -> str:
        return in_hex(self, "done", "total")


class SendProgress(NamedTuple):
    """The argument of a `progress=` function of `GuestMemory.send`: a `Progress` of the pass over memory that goes on.

    `passes` counts the passes, this one included. `downtime` is the estimate, made when the pass began, of the seconds that the
    guest would have stood still if it had been stopped then: the bytes that were left, at the rate that was seen; `None` in the
    first pass.

    >>> SendProgress("send", 1 << 20, 4 << 20, 1e9, 2, 0.5).downtime
    0.5
    """

    stage: str
    done: int
    total: int
    rate: float
    passes: int
    downtime: float | None

    def __repr__(self) -> str:
        return in_hex(self, "done", "total")


def tqdm_progress(bar: Any) -> Callable[[Progress], None]:
    """A `progress=` function that moves a bar of tqdm, or of anything with `total`, `n`, `set_description` and `refresh`.

    >>> from types import SimpleNamespace
    >>> bar = SimpleNamespace(total=None, n=0, set_description=lambda *_, **__: None, refresh=lambda: None)
    >>> tqdm_progress(bar)(Progress("map", 1, 4, 1.0))
    >>> bar.n, bar.total
    (1, 4)
    """

    def show(progress: Progress) -> None:
        bar.total, bar.n = progress.total, progress.done
        bar.set_description(progress.stage, refresh=False)
        bar.refresh()

    return show
