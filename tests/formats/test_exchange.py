"""Recognition, sources of every kind, and files that appear whole or not at all."""

import gzip
import io
import os
import random
import re
import signal
import struct
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from dbs_address_space import (
    AccessDenied,
    AddressSpace,
    AddressSpaceRegion,
    ClientError,
    FormatError,
    InvalidArgument,
    MemoryFault,
    NotMapped,
    Progress,
    Unsupported,
    dump,
    formats,
    load,
)
from dbs_address_space.formats import registry
from memory_helpers import GIB, LAYOUT, MIB, PAGE
from unicorn import UC_ARCH_X86, UC_MODE_64, Uc
from virtual_machines import Vm

LIME = struct.pack("<IIQQ8x", 0x4C69_4D45, 1, 0x1000, 0x1FFF) + b"page".ljust(PAGE)


@pytest.fixture
def own_formats() -> Iterator[None]:
    """The table as it was, afterwards."""
    before = dict(registry._formats())  # noqa: SLF001
    yield
    registry._FORMATS.clear()  # noqa: SLF001
    registry._FORMATS.update(before)  # noqa: SLF001


def test_a_source_is_a_path_a_file_or_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a dump"
    path.write_bytes(LIME)
    with path.open("rb") as file:
        file.seek(7)
        spaces = [load(path), load(str(path)), load(file), load(LIME), load(bytearray(LIME)), load(path, format="lime")]
    assert {space.memory.read(0x1000, 4) for space in spaces} == {b"page"}


def test_a_pipe_is_read_to_its_end() -> None:
    reader, writer = os.pipe()
    os.write(writer, LIME)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert load(file).memory.read(0x1000, 4) == b"page"


def test_what_nobody_knows_is_never_guessed(tmp_path: Path) -> None:
    for content in (b"", b"\0" * PAGE, b"what?"):
        with pytest.raises(FormatError, match="raw memory needs format='raw'"):
            load(content)
    with pytest.raises(FormatError, match=re.escape(str(tmp_path))):
        load(tmp_path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing")
    with pytest.raises(TypeError):
        load(7)  # type: ignore[arg-type]  # what is tested


def test_an_unknown_format_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InvalidArgument, match=r"there is no format 'elv'; those to read are .*elf, .*lime"):
        load(LIME, format="elv")
    with pytest.raises(TypeError, match="absent"):
        load(LIME, absent="zero")
    with pytest.raises(InvalidArgument, match="absent='one'"):
        load(_elf(), absent="one")


def _elf() -> bytes:
    return (Path(__file__).parent / "samples/elf-aarch64.core").read_bytes()


def test_raw_memory_lies_where_the_caller_says() -> None:
    content = b"low".ljust(PAGE) + b"high".ljust(2 * PAGE)
    memory = load(content, format="raw", ranges=[(0, PAGE), (4 * GIB, "8KiB")]).memory
    assert (memory.read(0, 3), memory.read(4 * GIB, 4)) == (b"low", b"high")
    assert load(content, format="raw", base=MIB).memory.read(MIB, 3) == b"low"
    with pytest.raises(FormatError, match="it has 0x3000 bytes; the ranges have 0x1000"):
        load(content, format="raw", ranges=[(0, PAGE)])


def test_memory_stays_in_its_file(tmp_path: Path) -> None:
    """It is not copied: what the file loses later is a fault, and no signal."""
    path = tmp_path / "guest.lime"
    path.write_bytes(LIME)
    memory = load(path).memory
    with path.open("r+b") as file:
        file.seek(32)
        file.write(b"PAGE")
        file.flush()
        assert memory.read(0x1000, 4) == b"PAGE"
        file.truncate(0)
    with pytest.raises(MemoryFault):
        memory.read(0x1000, 4)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def lime(pages: int, *, step: int = PAGE) -> bytes:
    """Records of a page each, so far apart."""
    return b"".join(
        struct.pack("<IIQQ8x", 0x4C69_4D45, 1, page * step, page * step + PAGE - 1) + bytes([page & 0xFF]) * PAGE
        for page in range(pages)
    )


def test_a_header_that_is_cut_is_the_end_of_part_of_a_dump() -> None:
    cut = LIME + LIME[:31]
    with pytest.raises(FormatError, match=r"truncated: of the header of a record, .* 0x1 bytes are missing"):
        load(cut)
    assert [(one.base, one.size) for one in load(cut, partial=True).ranges()] == [(PAGE, PAGE)]
    with pytest.raises(FormatError, match=rf"no record begins here \(at offset {len(LIME):#x}\)"):
        load(LIME + bytes(32), partial=True)


def test_many_pieces_take_one_descriptor_and_few_regions() -> None:
    before = descriptors()
    few, many, copied = load(lime(500)), load(lime(2000)), load(lime(2000), copy=True)
    assert [len(space.regions) for space in (few, many, copied)] == [500, 1, 1]
    assert descriptors() <= before + 8
    for space in (few, many, copied):
        assert space.memory.read(499 * PAGE - 1, 2) == bytes([498 & 0xFF, 499 & 0xFF])
        assert space.memory.search(bytes([7, 7, 8, 8]), limit=1) is not None
        assert next(space.memory.search(bytes([254, 254]))) == 254 * PAGE


def test_more_segments_than_a_header_can_count_are_one_region(tmp_path: Path) -> None:
    count, size = 66_000, 64 << 10
    generator = random.Random(1)
    places = generator.sample(range(count), count)
    start = -(-(64 + count * 56 + 64) // PAGE) * PAGE
    segments = b"".join(
        struct.pack("<IIQQQQQQ", 1, 7, start + place * size, 0, number * size, size, size, PAGE)
        for number, place in enumerate(places)
    )
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 4, 62, 1, 0, 64, 64 + count * 56, 0, 64, 56, 0xFFFF, 64, 1, 0
    )
    path = tmp_path / "dump"
    with path.open("wb") as file:
        file.write(header + segments + struct.pack("<44xI16x", count))
        for number in (0, count // 2, count - 1):
            file.seek(start + places[number] * size)
            file.write(b"segment %d" % number)
        file.truncate(start + count * size)
    space = load(path)
    assert [(region.base, region.size) for region in space.regions] == [(0, count * size)]
    assert all(
        space.memory.read(number * size, 20).startswith(b"segment %d" % number) for number in (0, 33_000, 65_999)
    )
    assert space.memory.read(count * size - 4, 4) == bytes(4)
    assert len(space.memory.read(5 * size - 8, 16)) == 16


def test_gaps_between_many_pieces_are_not_in_the_dump() -> None:
    space = load(lime(2000, step=3 * PAGE))
    memory = space.memory
    assert len(space.regions) == 64
    assert sum(part.size for part in memory.data_ranges()) == 2000 * PAGE
    assert [memory.read_u8(page * 3 * PAGE) for page in (0, 1, 1999)] == [0, 1, 1999 & 0xFF]
    gap = 1500 * 3 * PAGE + PAGE
    with pytest.raises(AccessDenied, match="which is not in the dump there") as raised:
        memory.read(gap - 1, 2)
    assert raised.value.address == gap
    assert not memory.check_range(gap - 1, 2)
    # A search passes over the gaps.
    assert list(memory.search(bytes([7]) * 8, limit=2, align=3 * PAGE)) == [7 * 3 * PAGE, (256 + 7) * 3 * PAGE]


def test_memory_with_gaps_is_saved_and_dumped_without_them(tmp_path: Path) -> None:
    space = load(lime(2000, step=3 * PAGE))
    dump(space, tmp_path / "again.lime")
    again = load(tmp_path / "again.lime").memory
    space.save(tmp_path / "image").close()
    restored = AddressSpace.restore(tmp_path / "image").memory
    for memory in (again, restored):
        assert [memory.read_u8(page * 3 * PAGE) for page in (0, 1, 1999)] == [0, 1, 1999 & 0xFF]
    assert not again.check_range(1500 * 3 * PAGE + PAGE, 1)


def test_bytes_that_are_read_when_asked_for_have_no_address() -> None:
    memory = load(lime(600)).memory
    with pytest.raises(Unsupported, match="copy=True"):
        memory.view(0, 8, unguarded=True)
    with pytest.raises(Unsupported, match="copy=True"):
        memory.pin(0, 8)
    with pytest.raises(AccessDenied):
        memory.write(0, b"x")
    with pytest.raises(AccessDenied, match="those of a dump"):
        memory.write(0, b"x", force=True)
    assert bytes(load(lime(600), copy=True).memory.view(PAGE, 4)) == b"\1\1\1\1"


def test_clients_that_show_pages_refuse_what_is_in_none() -> None:
    space = load(lime(600))
    vm = Vm()
    try:
        with pytest.raises(Unsupported, match=r"KVM can't show ram .*copy=True"):
            space.attach_kvm(vm.fd)
        load(lime(600), copy=True).attach_kvm(vm.fd).detach()
    finally:
        vm.close()
    with pytest.raises(ClientError, match="Unicorn can't show"):
        space.attach_unicorn(Uc(UC_ARCH_X86, UC_MODE_64))


def test_a_dump_is_sparse_and_allocates_nothing(tmp_path: Path) -> None:
    space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, GIB, name="ram")], LAYOUT)
    memory = space.map_memory()
    memory.write(512 * MIB, b"data" * MIB)
    mapping = memory.mapping(0)
    assert mapping.fd is not None
    before = os.fstat(mapping.fd).st_blocks
    for suffix in ("elf", "lime", "raw"):
        path = tmp_path / f"guest.{suffix}"
        dump(space, path)
        assert path.stat().st_blocks * 512 <= 4 * MIB * 1.05
        assert path.stat().st_size >= GIB
    assert os.fstat(mapping.fd).st_blocks == before


def test_progress_is_told_of_all_bytes(tmp_path: Path, space: AddressSpace) -> None:
    told: list[Progress] = []
    dump(space, tmp_path / "guest.elf", progress=told.append)
    assert (told[-1].stage, told[-1].done) == ("dump", told[-1].total)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, space: AddressSpace) -> None:
    path = tmp_path / "guest.elf"
    path.write_bytes(b"before")

    def fails(_: object) -> None:
        assert path.read_bytes() == b"before"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        dump(space, path, progress=fails)
    assert [file.name for file in tmp_path.iterdir()] == ["guest.elf"]
    dump(space, path)
    assert path.read_bytes()[:4] == b"\x7fELF"
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_link_is_followed_and_a_pipe_left_alone(tmp_path: Path, space: AddressSpace) -> None:
    (tmp_path / "link.elf").symlink_to(tmp_path / "guest.elf")
    dump(space, tmp_path / "link.elf")
    assert (tmp_path / "link.elf").is_symlink()
    assert load(tmp_path / "guest.elf").ram_size == space.ram_size
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidArgument, match="not a plain file"):
        dump(space, tmp_path / "pipe", format="elf")
    with pytest.raises(InvalidArgument, match="tells no format"):
        dump(space, tmp_path / "guest")


def test_only_memory_that_is_there_is_dumped(tmp_path: Path) -> None:
    space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, PAGE)], LAYOUT)
    with pytest.raises(NotMapped):
        dump(space, tmp_path / "guest.elf")
    assert list(tmp_path.iterdir()) == []
    dump(space, tmp_path / "map.json")


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, 8 * GIB, mem_type="mmap")], LAYOUT)
    space.map_memory()
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))

    def start(_: object) -> None:
        if timer.ident is None:
            timer.start()

    with pytest.raises(KeyboardInterrupt):
        while True:
            dump(space, tmp_path / "guest.elf", progress=start)
    assert list(tmp_path.glob(".*")) == []


def test_a_format_of_ones_own(own_formats: None, tmp_path: Path, space: AddressSpace) -> None:
    def read(source: formats.Source, *, name: str = "mine") -> AddressSpace:
        size = int.from_bytes(source.read(4, 4, "the size"), "little")
        return AddressSpace.from_regions([AddressSpaceRegion("ram", 0, size, name=name)], LAYOUT)

    def write(space: AddressSpace, file: BinaryIO, _: object) -> None:
        file.write(b"MINE" + space.ram_size.to_bytes(4, "little"))

    mine = formats.Format(
        "mine",
        "a format of mine",
        sniff=lambda source: source.head[:4] == b"MINE",
        read=read,
        write=write,
        suffixes=(".mine",),
    )
    formats.register(mine)
    dump(space, tmp_path / "a.mine")
    assert load(tmp_path / "a.mine", name="theirs")["theirs"].size == space.ram_size
    with pytest.raises(FormatError, match=r"truncated: of the size, \[0x4, 0x8\)") as raised:
        load(b"MINE")
    assert (raised.value.format, raised.value.offset) == ("mine", 4)
    with pytest.raises(InvalidArgument, match="there is a format 'mine' already"):
        formats.register(mine)


def test_a_stream_is_read_as_it_says_and_stays_where_it_is(tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(LIME))
    with (
        gzip.open(packed) as unpacked,
        tempfile.NamedTemporaryFile() as written,
        (tmp_path / "new").open("w+b") as buffered,
    ):
        for file in (written, buffered):
            file.write(LIME)
        unpacked.read(9)
        for stream in (unpacked, io.BytesIO(LIME), written, buffered, written.file):
            position = stream.tell()
            assert load(stream).memory.read(0x1000, 4) == b"page"
            assert stream.tell() == position
        raw = load(unpacked, format="raw")
        assert raw.ram_size == len(LIME)
        memory = raw.memory
        assert memory.read(0, len(LIME)) == LIME


def test_a_stream_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "text").open("w+") as text:
        for stream in (io.StringIO("text"), text):
            with pytest.raises(TypeError, match=r"source\.read"):
                load(stream)  # type: ignore[arg-type]

    class Awaited:
        async def read(self, _size: int) -> bytes:
            return b""

    with pytest.raises(TypeError, match="coroutine"):
        load(Awaited())  # type: ignore[arg-type]


def test_a_path_that_can_not_be_is_refused_by_its_name(tmp_path: Path, space: AddressSpace) -> None:
    (tmp_path / "loop.elf").symlink_to(tmp_path / "loop.elf")
    with pytest.raises(InvalidArgument, match=r"loop\.elf"):
        dump(space, tmp_path / "loop.elf")
    with pytest.raises(FileNotFoundError, match=r"guest\.elf"):
        dump(space, tmp_path / "none" / "guest.elf")

    async def progress(_: object) -> None:
        pass

    with pytest.raises(TypeError, match="coroutine function"):
        dump(space, tmp_path / "guest.elf", progress=progress)
    assert not (tmp_path / "guest.elf").exists()
