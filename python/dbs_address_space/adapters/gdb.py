"""gdb on guest memory: a script for a gdb that is attached to this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dbs_address_space._core import GuestMemory

__all__ = ["script"]


def script(memory: GuestMemory) -> str:
    """Commands that define `$guest(addr)`, the host pointer of a guest physical address, for the map as it is now.

    For `gdb -p PID -x FILE`: then `x/8xg $guest(0x1000)` and `find $guest(0), +0x1000, "needle"` work on guest memory.
    """
    mappings = [(mapping.base, mapping.size, mapping.host_address) for mapping in memory.mappings()]
    return f"""python
import gdb

class Guest(gdb.Function):
    '''$guest(addr): the host pointer of a guest physical address.'''

    def invoke(self, addr):
        addr = int(addr) & 0xFFFF_FFFF_FFFF_FFFF
        for base, size, host in {mappings}:
            if base <= addr < base + size:
                return gdb.Value(host + addr - base).cast(gdb.lookup_type("char").pointer())
        raise gdb.GdbError(f"no guest memory at {{addr:#x}}")

Guest("guest")
end
"""
