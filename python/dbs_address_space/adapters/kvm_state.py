"""The registers of a virtual CPU on KVM, to go back with the memory: `memory.checkpoint(on_restore=capture(vcpu_fd).apply)`.

For x86_64 guests. The virtual CPU is the user's, as is its descriptor; it must not run meanwhile.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from dbs_address_space.errors import InvalidArgument, Unsupported

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterable

__all__ = ["GROUPS", "VcpuState", "capture"]

KVM_RUN = 0xAE80
KVM_GET_MSR_INDEX_LIST = 0xC004AE02
KVM_GET_MSRS, KVM_SET_MSRS = 0xC008AE88, 0x4008AE89
IMMEDIATE_EXIT_OFFSET = 1
"""The byte of `struct kvm_run` with which KVM_RUN finishes what is in flight, and returns."""
MSR_TSC = 0x10
"""The time stamp counter goes on: KVM takes a value that is written for a new offset."""


class _Group(NamedTuple):
    """Registers that one ioctl reads and another writes: their numbers, the size of the structure."""

    read: int
    write: int
    size: int


_STRUCTURES = {
    "mp_state": _Group(0x8004AE98, 0x4004AE99, 4),
    "sregs": _Group(0x8138AE83, 0x4138AE84, 312),
    "regs": _Group(0x8090AE81, 0x4090AE82, 144),
    "xcrs": _Group(0x8188AEA6, 0x4188AEA7, 392),
    "xsave": _Group(0x9000AEA4, 0x5000AEA5, 4096),
    "events": _Group(0x8040AE9F, 0x4040AEA0, 64),
    "debugregs": _Group(0x8080AEA1, 0x4080AEA2, 128),
    "lapic": _Group(0x8400AE8E, 0x4400AE8F, 1024),
}
GROUPS = ("sregs", "xcrs", "xsave", "msrs", "lapic", "regs", "debugregs", "mp_state", "events")
"""The groups of registers by their names in the KVM API, in the order in which they are put back."""


class VcpuState:
    """Registers of a virtual CPU as they were at one moment; made by `capture`."""

    def __init__(
        self, vcpu_fd: int | None, values: dict[str, ctypes.Array[ctypes.c_char]], run: mmap.mmap | None
    ) -> None:
        """Keeps what was read."""
        self._vcpu_fd, self._values, self._run = vcpu_fd, values, run

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the groups that it has: this virtual CPU may not have all that were asked for."""
        return tuple(self._values)

    def apply(self, vcpu_fd: int | None = None) -> None:
        """Puts the registers back, or into another virtual CPU, which goes on from there; `OSError` when KVM refuses some."""
        fd = self._vcpu_fd if vcpu_fd is None else vcpu_fd
        if fd is None:
            raise InvalidArgument(
                "the registers come from another process: give vcpu_fd, the virtual CPU that is to have them"
            )
        if vcpu_fd is None:
            _finish(fd, self._run)
        for name, value in self._values.items():
            done = fcntl.ioctl(fd, KVM_SET_MSRS if name == "msrs" else _STRUCTURES[name].write, value)
            if name == "msrs" and done < len(value) // 16:
                (index,) = struct.unpack_from("<I", value, 8 + done * 16)
                raise OSError(errno.EIO, f"KVM refused the model-specific register {index:#x}")

    def __bytes__(self) -> bytes:
        """The registers for another process, as JSON: `from_bytes` reads them."""
        return json.dumps({name: bytes(value).hex() for name, value in self._values.items()}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> VcpuState:
        """The registers that `bytes(state)` gave; `apply` wants a virtual CPU then. Raises `InvalidArgument` for other bytes."""
        try:
            values = {name: bytes.fromhex(text) for name, text in json.loads(data).items()}
        except (AttributeError, TypeError, ValueError, RecursionError) as error:
            raise InvalidArgument(f"these bytes are not registers: {error}") from error
        for name, value in values.items():
            # The kernel reads as many bytes of a buffer as it says, or as the structure has.
            if len(value) != _size(name, value):
                raise InvalidArgument(f"these bytes are not registers: {name!a} has {len(value)} bytes")
        ordered = (name for name in GROUPS if name in values)
        return cls(None, {name: ctypes.create_string_buffer(values[name], len(values[name])) for name in ordered}, None)

    def __repr__(self) -> str:
        return f"VcpuState({', '.join(self.groups)})"


def capture(
    vcpu_fd: int, *, groups: Iterable[str] = GROUPS, run: mmap.mmap | None = None, device: str = "/dev/kvm"
) -> VcpuState:
    """Reads the registers of a virtual CPU that does not run, all that it has or some groups of `GROUPS`.

    Each group takes one ioctl when it is put back. A guest that computes with integers changes `regs` alone; most change
    `xsave` too. Give the shared page, `run`, if the virtual CPU may have left for a read of a device or port: the read is then
    finished with what the page has for it, before registers are read or put back. The time stamp counter goes on. `device`
    tells the model-specific registers. `InvalidArgument` for a group that is not one, `Unsupported` for a descriptor of
    something else than a virtual CPU, `OSError` otherwise.
    """
    names = list(groups)
    if unknown := [name for name in names if name not in GROUPS]:
        raise InvalidArgument(f"groups has {unknown[0]!r}: give some of {', '.join(GROUPS)}")
    _finish(vcpu_fd, run)
    values: dict[str, ctypes.Array[ctypes.c_char]] = {}
    for name in (name for name in GROUPS if name in names):
        value = _msrs(vcpu_fd, device) if name == "msrs" else _read(vcpu_fd, name)
        if value is not None:
            values[name] = value
    return VcpuState(vcpu_fd, values, run)


def _size(name: str, value: bytes) -> int:
    """The bytes that a group must have; none has -1."""
    if name == "msrs":
        return 8 + 16 * int.from_bytes(value[:4], "little")
    return _STRUCTURES[name].size if name in _STRUCTURES else -1


def _read(vcpu_fd: int, name: str) -> ctypes.Array[ctypes.c_char] | None:
    group = _STRUCTURES[name]
    buffer = ctypes.create_string_buffer(group.size)
    try:
        fcntl.ioctl(vcpu_fd, group.read, buffer)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.ENOSYS) and name == "sregs":
            how = "the descriptor that KVM_CREATE_VCPU returned, of an x86_64 machine"
            message = f"file descriptor {vcpu_fd} is not a virtual CPU of KVM: give {how}"
            raise Unsupported(message, feature="KVM_GET_SREGS", how=how) from error
        # Without an interrupt controller in the kernel a virtual CPU has no local one.
        if name in ("lapic", "xcrs", "xsave", "debugregs") and error.errno in (errno.EINVAL, errno.ENOTTY):
            return None
        raise
    return buffer


def _msrs(vcpu_fd: int, device: str) -> ctypes.Array[ctypes.c_char] | None:
    """The entries of all model-specific registers that can be read and written."""
    entries = [entry for index in _msr_indexes(device) if (entry := _msr(vcpu_fd, index))]
    all_entries = struct.pack("<II", len(entries), 0) + b"".join(entries)
    return ctypes.create_string_buffer(all_entries, len(all_entries)) if entries else None


def _msr_indexes(device: str) -> list[int]:
    kvm = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        buffer = ctypes.create_string_buffer(struct.pack("<I", 1 << 12), 4 + (4 << 12))
        fcntl.ioctl(kvm, KVM_GET_MSR_INDEX_LIST, buffer)
        (count,) = struct.unpack_from("<I", buffer)
        return [index for index in struct.unpack_from(f"<{count}I", buffer, 4) if index != MSR_TSC]
    finally:
        os.close(kvm)


def _msr(vcpu_fd: int, index: int) -> bytes | None:
    """One that the virtual CPU lets be read and written, with its value."""
    buffer = ctypes.create_string_buffer(struct.pack("<IIIIQ", 1, 0, index, 0, 0), 24)
    try:
        if fcntl.ioctl(vcpu_fd, KVM_GET_MSRS, buffer) == 1 and fcntl.ioctl(vcpu_fd, KVM_SET_MSRS, buffer) == 1:
            return buffer.raw[8:]
    except OSError:
        pass
    return None


def _finish(vcpu_fd: int, run: mmap.mmap | None) -> None:
    """Finishes an access that is in flight: KVM would do it later, over the registers that are put back."""
    if run is None:
        return
    run[IMMEDIATE_EXIT_OFFSET] = 1
    try:
        fcntl.ioctl(vcpu_fd, KVM_RUN, 0)
    except InterruptedError:
        pass
    finally:
        run[IMMEDIATE_EXIT_OFFSET] = 0
