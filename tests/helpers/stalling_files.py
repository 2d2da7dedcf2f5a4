"""A file system whose files are read only while they may be: by FUSE, as far as one file that is read needs it."""

import ctypes
import errno
import os
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from pathlib import Path

from host import require
from memory_helpers import libc


class Operation(IntEnum):
    """A number by which the kernel asks for something."""

    LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, FLUSH, INIT, INTERRUPT, BATCH_FORGET = (
        1,
        2,
        3,
        14,
        15,
        18,
        25,
        26,
        36,
        42,
    )


DIRECT_IO = 1
"""Of an open file: each read is asked for, and none is kept in memory."""
FORCE_AND_DETACH = 3
"""Also while the file is open."""
FILE = 2
"""The number of the file; that of the directory is 1."""


class StallingFile:
    """A file under a name of its own, whose reads are kept waiting while `is_stalled`."""

    def __init__(self, content: bytes, folder: Path) -> None:
        """Mounts it; `path` is where it is."""
        self.content, self.folder, self.path = content, folder, folder / "file"
        self.is_stalled = False
        self.kept: list[tuple[int, bytes]] = []
        self.device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self.device},rootmode=40000,user_id=0,group_id=0".encode()
        failed = libc.mount(b"stalling", os.fsencode(folder), b"fuse", 0, options)
        require(not failed, f"FUSE can't be mounted here ({os.strerror(ctypes.get_errno())})")
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                request = os.read(self.device, 1 << 20)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                continue
            _, operation, unique, node = struct.unpack_from("<IIQQ", request)
            if operation == Operation.READ and self.is_stalled:
                self.kept.append((unique, request))
            elif operation not in {Operation.FORGET, Operation.BATCH_FORGET, Operation.INTERRUPT}:
                self.answer(unique, self.outcome(operation, node, request[40:]))

    def answer(self, unique: int, outcome: bytes | int) -> None:
        body, error = (outcome, 0) if isinstance(outcome, bytes) else (b"", -outcome)
        # Whoever asked may have gone.
        with suppress(FileNotFoundError):
            os.write(self.device, struct.pack("<IiQ", 16 + len(body), error, unique) + body)

    def outcome(self, operation: int, node: int, body: bytes) -> bytes | int:  # noqa: PLR0911  a table
        match operation:
            case Operation.INIT:
                return struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 0, 0, 1 << 16, 1, 0, 0, 0)
            case Operation.LOOKUP if body == b"file\0":
                return struct.pack("<QQQQII", FILE, 0, 0, 0, 0, 0) + self.attributes(FILE)
            case Operation.GETATTR:
                return struct.pack("<QII", 0, 0, 0) + self.attributes(node)
            case Operation.OPEN:
                return struct.pack("<QII", 0, DIRECT_IO, 0)
            case Operation.READ:
                _, offset, size = struct.unpack_from("<QQI", body)
                return self.content[offset : offset + size]
            case Operation.RELEASE | Operation.FLUSH:
                return b""
        return errno.ENOENT if operation == Operation.LOOKUP else errno.ENOSYS

    def attributes(self, node: int) -> bytes:
        mode, size = (stat.S_IFREG | 0o600, len(self.content)) if node == FILE else (stat.S_IFDIR | 0o700, 0)
        return struct.pack("<QQQQQQIIIIIIIIII", node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def go_on(self) -> None:
        """Answers what was kept, and what comes."""
        self.is_stalled = False
        for unique, request in self.kept:
            self.answer(unique, self.outcome(Operation.READ, FILE, request[40:]))
        self.kept.clear()

    def close(self) -> None:
        self.go_on()
        libc.umount2(os.fsencode(self.folder), FORCE_AND_DETACH)
        self.thread.join(20)
        os.close(self.device)


@contextmanager
def stalling(content: bytes, folder: Path) -> Iterator[StallingFile]:
    """The file, in a folder that is there for it."""
    require(os.geteuid() == 0 and Path("/dev/fuse").exists(), "a file system of one's own needs root and /dev/fuse")
    folder.mkdir()
    file = StallingFile(content, folder)
    try:
        yield file
    finally:
        file.close()
