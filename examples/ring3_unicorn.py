"""The same small machine as `ring3_kvm`, on Unicorn: slower, and on every host."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from engine import EngineMissing

if TYPE_CHECKING:
    from dbs_address_space import AddressSpace


class UnicornMachine:
    """An emulator on the memory of a space, whose guest leaves by a store to an address without memory."""

    def __init__(self, space: AddressSpace) -> None:
        """Follow a mapped space.

        Raises:
            EngineMissing: Unicorn is not installed.
        """
        try:
            import unicorn  # noqa: PLC0415  not everywhere
            from unicorn import x86_const  # noqa: PLC0415
        except ImportError as error:
            raise EngineMissing("Unicorn is not installed: pip install unicorn") from error
        self._error, self._rip = unicorn.UcError, x86_const.UC_X86_REG_RIP
        names = "RAX RBX RCX RDX RSI RDI RSP RBP R8 R9 R10 R11 R12 R13 R14 R15 RIP RFLAGS"
        self._general = [getattr(x86_const, f"UC_X86_REG_{name}") for name in names.split()]
        self._uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self._uc.hook_add(unicorn.UC_HOOK_MEM_WRITE_UNMAPPED, self._left)
        self._exit: tuple[int, int] | None = None
        self.slots = space.attach_unicorn(self._uc)

    def _left(self, _uc: object, _access: int, addr: int, _size: int, value: int, _data: object) -> bool:
        self._exit = addr, value
        return False

    def boot(self, entry: int) -> None:
        """Begin at an address."""
        self._uc.reg_write(self._rip, entry)

    def registers(self) -> Any:
        """The registers as they are, to go on from."""
        return self._uc.context_save()

    def resume(self, state: Any) -> None:
        """Go on from where another machine was."""
        self._uc.context_restore(state)

    def run(self) -> tuple[int, int]:
        """Run until the guest stores to an address without memory: that address, and what it stored."""
        self._exit = None
        try:
            self._uc.emu_start(self._uc.reg_read(self._rip), 0)
        except self._error:
            if self._exit is None:
                raise
        assert self._exit is not None
        # It goes on behind the store, which has two bytes.
        self._uc.reg_write(self._rip, self._uc.reg_read(self._rip) + 2)
        return self._exit

    def packed(self) -> bytes:
        """The registers for another process."""
        return struct.pack(f"<{len(self._general)}Q", *self._uc.reg_read_batch(self._general))

    def unpack(self, registers: bytes) -> None:
        """Go on from where a machine of another process was."""
        values = struct.unpack(f"<{len(self._general)}Q", registers)
        self._uc.reg_write_batch(list(zip(self._general, values, strict=True)))

    def close(self) -> None:
        """Let the memory go."""
        self.slots.detach()
