"""The system calls of userfaultfd, as far as the tests need them."""

import ctypes
import fcntl
import os
import select
import struct
from dataclasses import dataclass

from host import require
from memory_helpers import PAGE

SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282}
API, REGISTER, COPY = 0xC018AA3F, 0xC020AA00, 0xC028AA03
MODE_MISSING = 1
EVENT_UNMAP = 1 << 6
"""A feature: whoever unmaps pages waits until the event has been read."""
MESSAGE = 32


@dataclass(frozen=True)
class Handler:
    """A userfaultfd, registered for missing pages of some memory."""

    fd: int

    def answer(self, byte: int) -> int:
        """Waits for a fault, answers it with a page of `byte`, and returns its address."""
        self.wait()
        message = os.read(self.fd, MESSAGE)
        address: int = struct.unpack_from("<Q", message, 16)[0] & ~(PAGE - 1)
        page = ctypes.create_string_buffer(bytes([byte]) * PAGE, PAGE)
        request = bytearray(struct.pack("<QQQQq", address, ctypes.addressof(page), PAGE, 0, 0))
        fcntl.ioctl(self.fd, COPY, request)
        return address

    def wait(self, seconds: float = 20) -> None:
        """Waits until there is something to read; of a descriptor that blocks, the kernel would say at once that there is."""
        assert select.select([self.fd], [], [], seconds)[0]

    def close(self) -> None:
        """Ends it: a waiter goes on with a page of zeroes."""
        os.close(self.fd)


def register(address: int, size: int, features: int = 0) -> Handler:
    """A handler for faults in memory of ours; skips where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(SYS_USERFAULTFD[os.uname().machine], os.O_CLOEXEC | os.O_NONBLOCK)
    require(fd >= 0, f"userfaultfd is not allowed here ({os.strerror(ctypes.get_errno())})")
    fcntl.ioctl(fd, API, bytearray(struct.pack("<QQQ", 0xAA, features, 0)))
    fcntl.ioctl(fd, REGISTER, bytearray(struct.pack("<QQQQ", address, size, MODE_MISSING, 0)))
    return Handler(fd)
