"""Makes chosen system calls fail, as a host under pressure would: in child processes only, for it can't be undone."""

import ctypes
import os
import platform
import struct

from host import require
from memory_helpers import libc

NUMBERS = {
    "x86_64": {
        "mmap": 9,
        "madvise": 28,
        "clone": 56,
        "fcntl": 72,
        "ftruncate": 77,
        "mlock": 149,
        "mbind": 237,
        "fallocate": 285,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
        "memfd_create": 319,
        "clone3": 435,
    },
    "aarch64": {
        "mmap": 222,
        "madvise": 233,
        "clone": 220,
        "fcntl": 25,
        "ftruncate": 46,
        "mlock": 228,
        "mbind": 235,
        "fallocate": 47,
        "process_vm_readv": 270,
        "process_vm_writev": 271,
        "memfd_create": 279,
        "clone3": 435,
    },
}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_EQUAL, JUMP_SET, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, FAIL = 0x7FFF_0000, 0x0005_0000
NUMBER_AT, ARGUMENTS_AT = 0, 16


def fail(
    call: str, errno: int, argument: int | None = None, *, equals: int | None = None, has: int | None = None
) -> None:
    """From here on `call` gives `errno`: always, or where an argument's low half is `equals`, or has the bits `has`."""
    number = NUMBERS[platform.machine()][call]
    program = [(LOAD, 0, 0, NUMBER_AT)]
    if argument is None:
        program += [(JUMP_EQUAL, 0, 1, number)]
    else:
        jump, value = (JUMP_EQUAL, equals) if equals is not None else (JUMP_SET, has)
        assert value is not None
        program += [
            (JUMP_EQUAL, 0, 3, number),
            (LOAD, 0, 0, ARGUMENTS_AT + 8 * argument),
            (jump, 0, 1, value & 0xFFFF_FFFF),
        ]
    program += [(RETURN, 0, 0, FAIL | errno), (RETURN, 0, 0, ALLOW)]
    code = b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(buffer))
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    result = libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.create_string_buffer(header, len(header)), 0, 0)
    require(result == 0, f"seccomp filters can't be set here: {os.strerror(ctypes.get_errno())}")
