"""`Attachment`: what an `attach_*` verb began."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

__all__ = ["Attachment"]


class Attachment:
    """Something that follows an address space until `detach()`; also a context manager.

    Made by the `attach_*` verbs. Dropping it detaches nothing.
    """

    def __init__(self, detach: Callable[[], object]) -> None:
        """Takes what ends it."""
        self._detach: Callable[[], object] | None = detach

    @property
    def is_attached(self) -> bool:
        """Whether `detach()` was not called yet."""
        return self._detach is not None

    def detach(self) -> None:
        """Ends it and leaves no trace of it; doing it twice does nothing.

        >>> attachment = Attachment(lambda: print("detached"))
        >>> attachment.detach()
        detached
        >>> attachment.is_attached
        False
        """
        if self._detach is not None:
            self._detach()
            self._detach = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()
