"""Streams: the memory of a guest on its way to another process, in passes until little is left, then the rest at once."""

# ruff: noqa: SLF001  the private verbs of the memory are the package's own

from __future__ import annotations

from time import perf_counter

from ._core import AddressSpace, _StreamReceiver, check_type, checked_answer
from .blobs import copied_blobs
from .errors import ImageError, InvalidAddressRange, InvalidArgument, UnmappedAddress
from .image_description import described, encoded
from .progress import SendProgress
from .reports import ReceiveReport, SendReport
from .restoring import nothing_ahead, places, space_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from ._core import DirtyPages, DirtyTracker, GuestMemory, _StreamSender
    from .progress import Progress

__all__ = ["received", "sent"]

_NAME = "<stream>"


def sent(  # noqa: PLR0913  those of `send`
    memory: GuestMemory,
    sock: Any,
    *,
    max_downtime: float,
    max_passes: int,
    stop: Callable[[], dict[str, bytes] | None] | None,
    blobs: dict[str, bytes] | None,
    rate: int | None,
    timeout: float | None,
    trust: Sequence[str],
    progress: Callable[[SendProgress], object] | None,
) -> SendReport:
    """Sends a memory: `GuestMemory.send`."""
    first = copied_blobs(blobs, "blobs")
    with memory.dirty.start(trust=trust) as tracker:
        sender = memory._sender(sock, timeout, lambda base, areas, regions: encoded(base, areas, regions, {}, None))
        sending = _Sending(sender, tracker, progress)
        is_whole = False
        try:
            sending.blobs(first)
            report = sending.run(max_downtime, max_passes, stop, rate)
            is_whole = True
        except BaseException as error:
            if sending.note is not None:
                error.add_note(sending.note)
            raise
        finally:
            sender.close(is_whole)
    return report


class _Sending:
    """The passes of one stream, and the pace that they had."""

    def __init__(
        self, sender: _StreamSender, tracker: DirtyTracker, progress: Callable[[SendProgress], object] | None
    ) -> None:
        self._sender, self._tracker = sender, tracker
        self._told = None if progress is None else lambda told: progress(self._of(told))
        self._begun = perf_counter()
        self._passes, self._sent = 0, 0
        self._rate = 0.0
        self._estimate: float | None = None
        self.note: str | None = None
        """For an exception: what it means for the guest."""

    def blobs(self, blobs: dict[str, bytes]) -> None:
        for name, content in blobs.items():
            self._sender.blob(name, content)

    def run(
        self,
        max_downtime: float,
        max_passes: int,
        stop: Callable[[], dict[str, bytes] | None] | None,
        rate: int | None,
    ) -> SendReport:
        """Sends pass after pass until what is left may be sent at once."""
        self._send(None, self._begun, rate)
        while True:
            begun = perf_counter()
            self._sender.check_map()
            left = self._tracker.collect()
            self._estimate = left.size / self._rate
            if self._estimate <= max_downtime if stop else not left:
                return self._finish(left, stop)
            if self._passes == max_passes:
                what = f"after {max_passes} passes {left.size:#_x} bytes were left"
                self._sender.give_up(f"{what}, for an estimated downtime of {self._estimate:.3g} s")
                return self._report(None, None)
            self._send(left, begun, rate)

    def _finish(self, left: DirtyPages, stop: Callable[[], dict[str, bytes] | None] | None) -> SendReport:
        """Sends what is left, once the guest stands still."""
        stopped = None
        if stop is not None:
            stopped = perf_counter()
            self.note = "stop() was called: let the guest go on here, nothing of it is published elsewhere"
            self.blobs(copied_blobs(checked_answer(stop(), "stop"), "the answer of stop()"))
            left |= self._tracker.collect()
            if left:
                self._send(left, stopped, None)
            self._check_still()
        self._sender.check_map()
        if stop is not None:
            self.note = "stop() was called: it is not known whether the receiver has published the memory"
        content = self._sender.finish()
        return self._report(content, None if stopped is None else perf_counter() - stopped)

    def _check_still(self) -> None:
        if written := self._tracker.collect():
            what = f"{next(iter(written))} was written behind stop()"
            raise ImageError(f"{_NAME}: {what}: pause the guest's processors, and all other writers", path=_NAME)

    def _send(self, pages: DirtyPages | None, begun: float, rate: int | None) -> None:
        before = self._sender.moved
        self._sender.send(pages, rate, self._told)
        size = self._sender.moved - before if pages is None else pages.size
        now = perf_counter()
        self._passes += 1
        self._sent += size
        # The lower of the last and of all: a few pages vanish in buffers, and many by themselves take longer than all together.
        self._rate = max(min(size / max(now - begun, 1e-9), self._sent / max(now - self._begun, 1e-9)), 1.0)

    def _of(self, progress: Progress) -> SendProgress:
        return SendProgress(*progress, self._passes + 1, self._estimate)

    def _report(self, content: bytes | None, downtime: float | None) -> SendReport:
        return SendReport(
            content is not None,
            self._passes,
            self._sender.moved,
            perf_counter() - self._begun,
            self._estimate or 0.0,
            downtime,
            None if content is None else content.hex(),
            tuple(self._tracker.sources),
        )


def received(
    sock: Any, space: AddressSpace, timeout: float | None, progress: Callable[[Progress], object] | None
) -> ReceiveReport:
    """Receives a memory: `GuestMemory.receive`."""
    check_type(space, AddressSpace, "space")
    begun, generation = perf_counter(), space.generation
    if len(space):
        why = f"the space has regions: give a new one, AddressSpace({space.layout})"
        _StreamReceiver.decline(sock, timeout, f"InvalidArgument: {why}")
        raise InvalidArgument(why)
    receiver = _StreamReceiver(sock, timeout)
    try:
        hidden = _filled(receiver, space, progress)
        content, blobs = receiver.content.hex(), _blobs(receiver)
        report = ReceiveReport(receiver.passes, receiver.moved, perf_counter() - begun, content, blobs)
    except BaseException as error:
        receiver.refuse(f"{type(error).__name__}: {error}")
        raise
    space._adopt(hidden, generation, receiver)
    return report


def _filled(
    receiver: _StreamReceiver, space: AddressSpace, progress: Callable[[Progress], object] | None
) -> AddressSpace:
    """A space with all that came, which nobody sees."""
    description = described(receiver)
    if description.layout != space.layout:
        raise receiver.mismatch(f"it has the layout {description.layout}, and the space {space.layout}")
    try:
        hidden = space_of(description, nothing_ahead)
    except (InvalidAddressRange, UnmappedAddress) as error:
        raise receiver.corrupt(f"its JSON: {error}") from error
    memory = hidden.map_memory()
    try:
        memory._receive(receiver, places(description), progress)
    except BaseException:
        hidden.close()
        raise
    return hidden


def _blobs(receiver: _StreamReceiver) -> dict[str, bytes]:
    try:
        return {name.decode(): content for name, content in receiver.blobs}
    except UnicodeDecodeError as error:
        raise receiver.corrupt(f"the name of a blob: {error}") from error
