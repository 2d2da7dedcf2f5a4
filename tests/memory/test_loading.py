"""Programs in guest memory: ELF files as QEMU loads them, images, and what is refused before a byte is written."""

import gzip
import os
from pathlib import Path
from typing import Any

import pytest
from dbs_address_space import (
    AccessDenied,
    AddressSpaceRegion,
    FormatError,
    GuestMemory,
    InvalidArgument,
    UnmappedAddress,
)
from dbs_address_space.formats import elf_notes
from elf_programs import CODE, NOTES, PROGRAM, elf
from memory_helpers import MIB, PAGE, numbered, ram
from qemu_helpers import qemu

DIRTY = b"\xa5" * MIB


@pytest.fixture
def regions() -> list[AddressSpaceRegion]:
    return [ram(0, MIB, name="low"), ram(MIB, MIB, name="high"), ram(4 * MIB, PAGE, name="rom", prot_flags="r--")]


@pytest.fixture
def dirty(memory: GuestMemory) -> GuestMemory:
    memory.write(0, DIRTY)
    return memory


@pytest.mark.parametrize("bits", [32, 64])
def test_segments_lie_where_qemu_puts_them(dirty: GuestMemory, tmp_path: Path, bits: int) -> None:
    path = tmp_path / "program"
    path.write_bytes(elf(bits=bits))
    program = dirty.load_elf(path)
    with qemu("q35", "-m", "16M", "-device", f"loader,file={path}") as machine:
        for base, size in program.segments:
            machine.ask("pmemsave", val=base, size=size, filename=str(tmp_path / "memory"))
            assert dirty.read(base, size) == (tmp_path / "memory").read_bytes()
    assert program.segments == ((0x4000, 0x2000), (0x1_0000, 5000))
    assert program.entry == 0x4010
    assert dirty.read(0x4000, 3001) == CODE + b"\0"
    assert {dirty.read(0x3FFF, 1), dirty.read(0x6000, 1), dirty.read(0x1_0000 + 5000, 1)} == {b"\xa5"}


@pytest.mark.parametrize("kind", ["path", "file", "bytes", "view"])
def test_a_program_is_a_path_a_file_or_bytes(dirty: GuestMemory, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "program"
    path.write_bytes(elf())
    with path.open("rb") as file:
        file.seek(7)
        sources: dict[str, Any] = {"path": str(path), "file": file, "bytes": elf(), "view": memoryview(elf())}
        notes = dirty.load_elf(sources[kind]).notes
        assert file.tell() == 7
    assert dirty.read(0x4000, len(CODE)) == CODE
    assert [(note.owner, note.kind, note.content) for note in notes] == [
        ("Xen", 18, b"\x10\x40\0\0"),
        ("VMCOREINFO", 0, b"PAGESIZE=4096"),
        ("GNU", 3, b"build-id"),
    ]
    assert elf_notes(elf(kind=4)) == notes


def test_an_entry_outside_every_segment_is_physical_already(memory: GuestMemory) -> None:
    assert memory.load_elf(elf(entry=0x4000)).entry == 0x4000


def changed(content: bytes, at: int, value: bytes) -> bytes:
    return content[:at] + value + content[at + len(value) :]


@pytest.mark.parametrize(
    ("content", "error", "text"),
    [
        pytest.param(b"", FormatError, "truncated", id="empty"),
        pytest.param(b"MZ".ljust(64), FormatError, "not a little-endian ELF", id="another file"),
        pytest.param(elf()[:100], FormatError, "truncated", id="cut headers"),
        pytest.param(elf()[:-5000], FormatError, "truncated", id="cut bytes"),
        pytest.param(elf(kind=4), FormatError, "type 4 is not a program", id="core dump"),
        pytest.param(elf([]), FormatError, "no segment to load", id="no segment"),
        pytest.param(elf([*PROGRAM, (0, 0x5FFF, 1, b"")]), FormatError, "overlaps", id="overlap"),
        pytest.param(elf([(0, 2**64 - 8, 8, b"")]), FormatError, "ends past", id="the end of the world"),
        pytest.param(elf([(0, 0, 1, b"ab")]), FormatError, "more bytes", id="more bytes than memory"),
        pytest.param(elf([*PROGRAM, (0, 0x3FF_FFFF_F000, PAGE, b"")]), UnmappedAddress, "0x3ff_ffff_f000", id="hole"),
        pytest.param(elf([*PROGRAM, (0, MIB, 1 << 50, b"")]), UnmappedAddress, "0x20_0000", id="zeroes without end"),
        pytest.param(elf([*PROGRAM, (0, 4 * MIB, 8, b"x")]), AccessDenied, "rom", id="read-only memory"),
        pytest.param(changed(elf(), elf().index(NOTES), b"\xff" * 4), FormatError, "a note reaches", id="notes"),
    ],
)
def test_a_program_that_is_refused_leaves_memory_alone(
    dirty: GuestMemory, content: bytes, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        dirty.load_elf(content)
    assert dirty.read(0, MIB) == DIRTY
    assert dirty.read(MIB, MIB) == bytes(MIB)


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_an_image_is_loaded_whole_or_not_at_all(dirty: GuestMemory, tmp_path: Path, compression: str | None) -> None:
    image = numbered(MIB // 2 + 3)
    stored = gzip.compress(image[:1000]) + gzip.compress(image[1000:]) if compression else image
    path = tmp_path / "image"
    path.write_bytes(stored)
    assert dirty.load_image(path, MIB // 2, compression=compression) == len(image)
    assert dirty.read(MIB // 2, len(image)) == image
    with pytest.raises(UnmappedAddress):
        dirty.load_image(path, 2 * MIB - len(image) + 1, compression=compression)
    with pytest.raises(AccessDenied):
        dirty.load_image(gzip.compress(b"bios"), 4 * MIB, compression="gzip")
    assert dirty.read(MIB // 2 + len(image), MIB // 2) == bytes(MIB // 2)
    assert dirty.load_image(gzip.compress(b"bios"), 4 * MIB, compression="gzip", force=True) == 4
    assert dirty.read(4 * MIB, 5) == b"bios\0"


def test_a_packed_image_without_end_is_refused(memory: GuestMemory) -> None:
    bomb = gzip.compress(bytes(64 * MIB), 9)[:-8]
    # Its end, which is cut, is not reached.
    with pytest.raises(UnmappedAddress):
        memory.load_image(bomb, 0, compression="gzip")


def test_what_is_no_image_is_refused(memory: GuestMemory, tmp_path: Path) -> None:
    packed = gzip.compress(numbered(PAGE))
    for content in (b"plain", packed[:-9], changed(packed, 40, b"\xff\xff\xff"), packed + b"x"):
        with pytest.raises(FormatError, match="can't be unpacked"):
            memory.load_image(content, 0, compression="gzip")
    for compression, error in (("xz", InvalidArgument), (1, TypeError)):
        with pytest.raises(error, match="compression"):
            memory.load_image(packed, 0, compression=compression)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        memory.load_image(tmp_path / "none", 0)
    assert memory.load_image(b"", 0) == 0


def test_a_pipe_can_be_loaded(memory: GuestMemory) -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as end:
        end.write(b"from a pipe")
    with os.fdopen(reader, "rb") as end:
        assert memory.load_image(end, 0x100) == 11
    assert memory.read(0x100, 11) == b"from a pipe"
