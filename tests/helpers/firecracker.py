"""A VMM that restores its memory as Firecracker does: by its userfaultfd, which another process is sent over a socket."""

import ctypes
import errno
import fcntl
import json
import os
import socket
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from host import require
from memory_helpers import PAGE, libc
from userfaultfd import API, MODE_MISSING, REGISTER, SYS_USERFAULTFD

EVENT_REMOVE = 1 << 3
ANONYMOUS = 0x4022
"""MAP_PRIVATE, MAP_ANONYMOUS and MAP_NORESERVE."""
SHARED = 0x4021
"""The same, shared."""
HUGETLB = 0x40000
MADV_DONTNEED = 4

libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]


class Vmm:
    """Regions of anonymous memory, registered for missing pages, and the mappings that describe them."""

    def __init__(
        self, sizes: Iterable[int], *, page_size: int = PAGE, features: int = EVENT_REMOVE, flags: int = ANONYMOUS
    ) -> None:
        """Maps regions of these sizes, each behind the other in the file."""
        self.userfaultfd = fd = self.fresh()
        fcntl.ioctl(fd, API, bytearray(struct.pack("<QQQ", 0xAA, features, 0)))
        self.mappings: list[dict[str, Any]] = []
        offset = 0
        for size in sizes:
            base = libc.mmap(None, size, 3, flags | (HUGETLB if page_size > PAGE else 0), -1, 0)
            assert base != ctypes.c_void_p(-1).value
            fcntl.ioctl(fd, REGISTER, bytearray(struct.pack("<QQQQ", base, size, MODE_MISSING, 0)))
            sized = {"page_size": page_size, "page_size_kib": page_size}
            self.mappings.append({"base_host_virt_addr": base, "size": size, "offset": offset, **sized})
            offset += size

    @staticmethod
    def fresh() -> int:
        """A userfaultfd that is not initialised."""
        fd: int = libc.syscall(SYS_USERFAULTFD[os.uname().machine], os.O_CLOEXEC | os.O_NONBLOCK)
        require(fd >= 0, f"userfaultfd is not allowed here ({os.strerror(ctypes.get_errno())})")
        return fd

    def address(self, offset: int) -> int:
        """The host address of a byte of the file."""
        found = [one for one in self.mappings if one["offset"] <= offset < one["offset"] + one["size"]]
        address: int = found[0]["base_host_virt_addr"] + offset - found[0]["offset"]
        return address

    def send(self, path: Path) -> None:
        """The handshake, after which the socket is closed."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            socket.send_fds(sock, [json.dumps(self.mappings).encode()], [self.userfaultfd])

    def read(self, offset: int, size: int) -> bytes:
        """Touches memory and gives its bytes, page by page: regions may lie apart."""
        pages = range(offset - offset % PAGE, offset + size, PAGE)
        parts = ((max(page, offset), min(page + PAGE, offset + size)) for page in pages)
        return b"".join(ctypes.string_at(self.address(start), end - start) for start, end in parts)

    def write(self, offset: int, data: bytes) -> None:
        ctypes.memmove(self.address(offset), data, len(data))

    def give_up(self, offset: int, size: int) -> None:
        """Gives pages back to the kernel, as a balloon does."""
        assert libc.madvise(self.address(offset), size, MADV_DONTNEED) == 0

    def protect(self, offset: int, size: int) -> None:
        """Forbids writes to it."""
        assert libc.mprotect(ctypes.c_void_p(self.address(offset)), ctypes.c_size_t(size), 1) == 0

    def is_there(self, offset: int) -> bool:
        """Whether a page is there, without a touch."""
        found = ctypes.c_ubyte()
        assert libc.mincore(self.address(offset), PAGE, ctypes.byref(found)) == 0
        return bool(found.value & 1)

    def is_poisoned(self, offset: int) -> bool:
        """Whether a touch is an error, which the kernel's own touch survives."""
        reader, writer = os.pipe()
        written: int = libc.write(writer, self.address(offset), 1)
        os.close(reader)
        os.close(writer)
        return written == -1 and ctypes.get_errno() == errno.EFAULT
