"""A drgn program on guest physical memory: `AddressSpace.attach_drgn`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drgn import FaultError, Program

from dbs_address_space.attachment import Attachment
from dbs_address_space.errors import AddressSpaceError

if TYPE_CHECKING:
    from dbs_address_space._core import AddressSpace

__all__ = ["attach"]

ALL_ADDRESSES = 2**64 - 1


def attach(space: AddressSpace, program: Program) -> Attachment:
    """Adds the space as physical memory of a program: one segment over all addresses, read on the current map.

    drgn can't remove a segment: after `detach()`, which releases the space, a read of it is `FaultError`.
    """
    reader: list[AddressSpace] = [space]
    _ = space.memory  # NotMapped, when there is none

    def read(address: int, count: int, _offset: int, _physical: bool) -> bytes:  # noqa: FBT001  drgn's signature
        if not reader:
            raise FaultError("the address space was detached", address)
        try:
            return reader[0].memory.read(address, count)
        except AddressSpaceError as error:
            raise FaultError(str(error), address if error.address is None else error.address) from error

    program.add_memory_segment(0, ALL_ADDRESSES, read, physical=True)
    return Attachment(reader.clear)
