"""The other end of a vhost-user socket, as many kinds of back-ends answer."""

import array
import mmap
import os
import socket
import struct
import threading
import time
from contextlib import suppress

GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 1, 2, 3, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL = 8, 9, 10, 11, 12, 13
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, SET_VRING_ENABLE = 15, 16, 18
GET_MAX_MEM_SLOTS, ADD_MEM_REG, REM_MEM_REG = 36, 37, 38
PROTOCOL_FEATURES, REPLY_ACK, CONFIGURE_MEM_SLOTS, VERSION_1 = 1 << 30, 1 << 3, 1 << 15, 1 << 32


class Backend(threading.Thread):
    """The other end of a socket: takes tables, refuses what it is told to, and notes all requests."""

    def __init__(self, protocol_features: int | None, slots: int = 3) -> None:
        super().__init__(daemon=True)
        self.protocol_features = protocol_features
        self.slots = slots
        self.socket, self.front = socket.socketpair()
        self.refuse: set[int] = set()
        self.refuse_bases: set[int] = set()
        self.silent: set[int] = set()
        self.delay = 0.0
        self.requests: list[int] = []
        self.table: dict[int, tuple[int, ...]] = {}
        self.start()

    def run(self) -> None:
        with suppress(OSError):
            while header := self.socket.recvmsg(12, socket.CMSG_SPACE(32)):
                data, ancillary, *_ = header
                if not data:
                    return
                request, flags, size = struct.unpack("<III", data)
                payload = self.socket.recv(size, socket.MSG_WAITALL) if size else b""
                fds = array.array("i")
                for *_, raw in ancillary:
                    fds.frombytes(raw)
                self.answer(request, flags, payload, list(fds))
                for fd in fds:
                    os.close(fd)

    def answer(self, request: int, flags: int, payload: bytes, fds: list[int]) -> None:
        self.requests.append(request)
        if request in self.silent:
            return
        numbers = {
            GET_FEATURES: VERSION_1 | (PROTOCOL_FEATURES if self.protocol_features is not None else 0),
            GET_PROTOCOL_FEATURES: self.protocol_features or 0,
            GET_MAX_MEM_SLOTS: self.slots,
        }
        refused = request in self.refuse or (
            request == ADD_MEM_REG and struct.unpack_from("<Q", payload, 8)[0] in self.refuse_bases
        )
        time.sleep(self.delay)
        if not refused:
            self.take(request, payload, fds)
        if request in numbers or flags & 8:
            number = numbers.get(request, int(refused))
            self.socket.sendall(struct.pack("<IIIQ", request, 5, 8, number))

    def take(self, request: int, payload: bytes, fds: list[int]) -> None:
        if request == SET_MEM_TABLE:
            assert len(fds) == struct.unpack_from("<I", payload)[0]
            self.table = {entry[0]: entry for entry in struct.iter_unpack("<QQQQ", payload[8:])}
        elif request == ADD_MEM_REG:
            entry = struct.unpack("<QQQQ", payload[8:])
            assert os.fstat(fds[0]).st_size >= entry[1]
            self.table[entry[0]] = entry
        elif request == REM_MEM_REG:
            assert self.table.pop(struct.unpack_from("<Q", payload, 8)[0]) == struct.unpack("<QQQQ", payload[8:])

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.join()
        self.socket.close()
        self.front.close()


class MappingBackend(Backend):
    """One that maps the memory of its table, as another process does."""

    def __init__(self, protocol_features: int | None, slots: int = 3) -> None:
        self.maps: dict[int, mmap.mmap] = {}
        super().__init__(protocol_features, slots)

    def take(self, request: int, payload: bytes, fds: list[int]) -> None:
        super().take(request, payload, fds)
        if request == ADD_MEM_REG:
            base, size, _, offset = struct.unpack("<QQQQ", payload[8:])
            self.maps[base] = mmap.mmap(fds[0], size, offset=offset)

    def close(self) -> None:
        super().close()
        for mapped in self.maps.values():
            mapped.close()


KINDS: dict[str, int | None] = {
    "slots": REPLY_ACK | CONFIGURE_MEM_SLOTS,
    "slots without acknowledgement": CONFIGURE_MEM_SLOTS,
    "tables": REPLY_ACK,
    "tables without acknowledgement": 0,
    "no protocol features": None,
}
