"""A drgn program on guest physical memory: `AddressSpace.attach_drgn`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbs_address_space.adapters import needs

try:
    from drgn import FaultError, Program
except ModuleNotFoundError as _error:
    raise needs("drgn", _error) from _error

from dbs_address_space.errors import AddressSpaceError, InvalidArgument

if TYPE_CHECKING:
    from dbs_address_space._core import AddressSpace, AddressSpaceChange, Attachment

__all__ = ["attach"]

ALL_ADDRESSES = 2**64 - 1


def attach(space: AddressSpace, program: Program) -> Attachment:
    """Adds the space as physical memory of a program: one segment over all addresses, read on the current map.

    drgn can't remove a segment: after `detach()`, which releases the space, a read of it is `FaultError`.
    """
    _ = space.memory  # NotMapped, when there is none
    if not isinstance(program, Program):
        raise TypeError(f"program must be a drgn.Program, not {type(program).__name__}")
    if program.platform is None:
        raise InvalidArgument(
            "the program has no platform, so drgn can't read physical memory: make it Program(Platform(Architecture.X86_64))"
        )
    reader = Reader(space)
    attachment = space.subscribe(reader)
    try:
        program.add_memory_segment(0, ALL_ADDRESSES, reader.read, physical=True)
    except BaseException:
        # A space that drgn did not take must not stay attached.
        attachment.detach()
        raise
    return attachment


class Reader:
    """Answers drgn from the current map; changes need no answer."""

    name = "drgn"

    def __init__(self, space: AddressSpace) -> None:
        """Reads until it leaves."""
        self._space: AddressSpace | None = space

    def __call__(self, _change: AddressSpaceChange) -> None:
        """Hears of a change: the next read sees it anyway."""

    def leave(self) -> None:
        """Lets go of the space."""
        self._space = None

    def read(self, address: int, count: int, _offset: int, _physical: bool) -> bytes:  # noqa: FBT001  drgn's signature
        """Bytes; a hole is `FaultError`."""
        if self._space is None:
            raise FaultError("the address space was detached", address)
        try:
            return self._space.memory.read(address, count)
        except AddressSpaceError as error:
            raise FaultError(str(error), address if error.address is None else error.address) from error
