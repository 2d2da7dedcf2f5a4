"""ELF programs, made by hand."""

import struct

from memory_helpers import numbered

CODE = numbered(3000)
Segment = tuple[int, int, int, bytes]
"""Virtual and physical address, size in memory, bytes in the file."""
PROGRAM: list[Segment] = [(0xC000_4000, 0x4000, 0x2000, CODE), (0xC000_0000, 0x1_0000, 5000, CODE[:5])]
NOTES = b"".join(
    struct.pack("<III", len(owner), len(content), kind)
    + b"".join(part.ljust(-(-len(part) // 4) * 4, b"\0") for part in (owner, content))
    for owner, kind, content in [
        (b"Xen\0", 18, struct.pack("<I", 0x4010)),
        (b"VMCOREINFO\0", 0, b"PAGESIZE=4096"),
        (b"GNU\0", 3, b"build-id"),
    ]
)


def elf(segments: list[Segment] = PROGRAM, *, bits: int = 64, kind: int = 2, entry: int = 0xC000_4010) -> bytes:
    """An ELF program for x86 with notes."""
    word, machine = ("Q", 62) if bits == 64 else ("I", 3)
    sizes = (64, 56) if bits == 64 else (52, 32)
    count = len(segments) + 1
    begin = sizes[0] + sizes[1] * count
    identity = b"\x7fELF" + bytes([bits // 32, 1, 1])
    header = struct.pack(
        f"<16sHHI3{word}IHHHHHH", identity, kind, machine, 1, entry, sizes[0], 0, 0, *sizes, count, 0, 0, 0
    )
    parts = [(1, *segment) for segment in segments] + [(4, 0, 0, len(NOTES), NOTES)]
    headers, content = b"", b""
    for number, virtual, physical, size, data in parts:
        place = (begin + len(content), virtual, physical, len(data), size)
        if bits == 64:
            headers += struct.pack("<IIQQQQQQ", number, 7, *place, 4)
        else:
            headers += struct.pack("<IIIIIIII", number, *place, 7, 4)
        content += data
    return header + headers + content
