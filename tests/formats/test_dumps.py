"""Dumps that are read and not written: what the samples don't show."""

import itertools
import json
import random
import shutil
import struct
from pathlib import Path

import pytest
from dbs_address_space import FormatError, InvalidArgument, load
from dbs_address_space._core import _Pieces
from dbs_address_space.formats.firecracker import HOLES, START, _ranges
from hypothesis import given
from hypothesis import strategies as st
from memory_helpers import GIB, PAGE

SAMPLES = Path(__file__).parent / "samples"


def pieces_of(bitmap: bytes, count: int) -> tuple[tuple[int, int, int | None], ...]:
    """The pieces of pages of a byte each, from the begin of a file on."""
    return _Pieces.of_bitmap(bitmap, count, 1, 0, 1 << 62, False).all()  # noqa: FBT003  it is not partial


@given(st.binary(max_size=40), st.integers(0, 320))
def test_pages_of_a_bitmap(bitmap: bytes, count: int) -> None:
    bits = [bit for bit in range(min(count, len(bitmap) * 8)) if bitmap[bit // 8] >> bit % 8 & 1]
    found = pieces_of(bitmap, count)
    assert [bit for base, size, _ in found for bit in range(base, base + size)] == bits
    ends = [0, *itertools.accumulate(size for _, size, _ in found)]
    assert [offset for _, _, offset in found] == ends[:-1]
    assert all(base + size < behind for (base, size, _), (behind, _, _) in itertools.pairwise(found))


def test_a_large_bitmap_is_gone_through_fast() -> None:
    assert pieces_of(b"\xff" * (64 << 20) + b"\1", 1 << 40) == ((0, (64 << 23) + 1, 0),)
    assert pieces_of(bytes(64 << 20), 1 << 40) == ()


def xen_core(frames: list[int], pages: bytes) -> bytes:
    """Sections, not segments, and pages in any order."""
    names = b"\0.shstrtab\0.note.Xen\0.xen_pfn\0.xen_pages\0"
    note = struct.pack("<III4sQQQQ", 4, 32, 0x200_0001, b"Xen\0", 0xF00F_EBEE, 1, len(frames), PAGE)
    parts = [names, note, struct.pack(f"<{len(frames)}Q", *frames), pages]
    offset, headers, body = 64 + 5 * 64, [bytes(64)], b""
    for part, name in zip(parts, (b".shstrtab", b".note.Xen", b".xen_pfn", b".xen_pages"), strict=True):
        headers.append(
            struct.pack("<IIQQQQIIQQ", names.index(name), 1, 0, 0, offset + len(body), len(part), 0, 0, 0, 0)
        )
        body += part
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 4, 62, 1, 0, 0, 64, 0, 64, 56, 0, 64, 5, 1)
    return head + b"".join(headers) + body


@given(st.lists(st.integers(0, 64), unique=True, min_size=1, max_size=20))
def test_xens_pages_are_in_any_order(frames: list[int]) -> None:
    listed = [frames[0], 2**64 - 1, *frames[1:], 2**32 - 1]
    space = load(xen_core(listed, b"".join(frame.to_bytes(8, "little").ljust(PAGE, b"x") for frame in listed)))
    assert sum(range_.size for range_ in space.ranges()) == len(frames) * PAGE
    assert all(space.memory.read_u64(frame * PAGE) == frame for frame in frames)


def test_a_frame_twice_is_refused() -> None:
    with pytest.raises(FormatError, match="overlap"):
        load(xen_core([3, 4, 3], bytes(3 * PAGE)))


def test_vmwares_memory_without_its_metadata_is_refused(tmp_path: Path) -> None:
    path = shutil.copy(SAMPLES / "vmware/guest.vmem", tmp_path / "guest.vmem")
    with pytest.raises(FormatError, match=r"there is no .*guest\.vmss, which tells where its memory belongs"):
        load(path)
    space = load(path, metadata=SAMPLES / "vmware/guest.vmsn")
    assert [range_.end for range_ in space.ranges()] == [0x3000, 0x1_0000_2000]
    with pytest.raises(FormatError, match="these are not metadata of VMware's"):
        load(path, metadata=path)
    shutil.copy(SAMPLES / "vmware/guest.vmsn", tmp_path / "other.vmsn")
    with pytest.raises(FormatError, match=r"there is no .*other\.vmem, which has its memory"):
        load(tmp_path / "other.vmsn")


@pytest.mark.parametrize("nesting", ["snapshots", "flat", "object"])
def test_cloud_hypervisors_state_is_nested_in_several_ways(tmp_path: Path, nesting: str) -> None:
    state = {"memory_ranges": {"data": [{"gpa": 0, "length": PAGE}, {"gpa": 4 * GIB, "length": PAGE}]}}
    trees = {
        "snapshots": {"snapshots": {"memory-manager": {"snapshot_data": {"state": json.dumps(state)}}}},
        "flat": {"memory-manager": state},
        "object": {"snapshots": {"memory-manager": {"snapshots": {}, "snapshot_data": state}}},
    }
    (tmp_path / "state.json").write_text(json.dumps(trees[nesting]))
    (tmp_path / "memory-ranges").write_bytes(b"a" * PAGE + b"b" * PAGE)
    assert load(tmp_path).memory.read(4 * GIB, 1) == b"b"


@pytest.mark.parametrize(
    "state",
    ["", "7", "[]", "{}", '{"memory_ranges": {"data": [{"gpa": "0", "length": 4096}]}}', '{"memory_ranges": 7}', '{"state": "{"}',
     '{"memory_ranges": {"data": [{"gpa": -4096, "length": 4096}]}}', '{"snapshots": "' + "[" * 9999 + '"}'],
    ids=range(9),
)  # fmt: skip
def test_a_wrong_state_of_cloud_hypervisor_is_refused(tmp_path: Path, state: str) -> None:
    (tmp_path / "state.json").write_text(state)
    (tmp_path / "memory-ranges").write_bytes(bytes(PAGE))
    with pytest.raises(FormatError):
        load(tmp_path)


@pytest.mark.parametrize(
    ("arch", "size", "expected"),
    [
        ("x86_64", GIB, [(0, GIB)]),
        ("x86_64", 5 * GIB, [(0, 3 * GIB), (4 * GIB, 6 * GIB)]),
        ("x86_64", 256 * GIB, [(0, 3 * GIB), (4 * GIB, 256 * GIB), (512 * GIB, 513 * GIB)]),
        ("aarch64", GIB, [(2 * GIB, 3 * GIB)]),
    ],
)
def test_firecrackers_memory_has_holes(arch: str, size: int, expected: list[tuple[int, int]]) -> None:
    assert [(base, base + length) for base, length in _ranges(arch, size)] == expected
    assert HOLES.keys() == START.keys()


def test_a_memory_file_of_firecracker_is_mapped_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    with path.open("wb") as file:
        file.truncate(4 * GIB)
        file.seek(3 * GIB)
        file.write(b"above the hole")
    memory = load(path, format="firecracker", arch="x86_64").memory
    assert memory.read(4 * GIB, 14) == b"above the hole"
    with pytest.raises(InvalidArgument, match="arch='mips'"):
        load(path, format="firecracker", arch="mips")


@pytest.mark.parametrize(
    ("begin", "reason"),
    [(b"\x1f\x8b", "packed by gzip.*unpack it first"), (b"PK\3\4", "AFF4"), (b"MDMP", "a minidump of a process"),
     (b"LiME", "big-endian LiME"), (b"DISKDUMP", "diskdump"), (b"\x78\x9c", "packed by zlib")],
)  # fmt: skip
def test_what_is_not_read_is_refused_by_its_name(begin: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        load(begin + random.Random(1).randbytes(PAGE))
