"""Images that are damaged, hostile or of another kind: an error that says so, or the bytes that were saved; never others."""

import json
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from dbs_address_space import (
    AddressSpace,
    ImageCorrupt,
    ImageError,
    ImageMismatch,
    ImageTooNew,
    SavedSpace,
    Unsupported,
)
from memory_helpers import MIB, PAGE, mapped, numbered, ram

AREA = 2 * MIB
EXPECTED = numbered(PAGE, 7)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small image: one page of data, in the second chunk, and a blob."""
    path = tmp_path_factory.mktemp("image") / "vm.img"
    space, memory = mapped(ram(0, 40 * PAGE, name="low"))
    memory.write(17 * PAGE, EXPECTED)
    space.save(path, blobs={"vcpu0": b"registers"}).close()
    return path


def put(path: Path, content: bytes, at: int, new: bytes) -> Path:
    """A copy of a file, sparse as images are, with other bytes at an offset."""
    with path.open("wb") as file:
        file.truncate(len(content))
        for start in (0, AREA + 17 * PAGE, AREA + AREA):
            file.seek(start)
            file.write(content[start : start + (PAGE if start < 2 * AREA else len(content))])
        file.seek(at)
        file.write(new)
    return path


def is_noticed(path: Path) -> bool:
    """Whether an image is refused; one that is not has to have the bytes that were saved."""
    try:
        with SavedSpace.open(path) as saved:
            restored = saved.restore()
            assert restored.memory.read(0, 40 * PAGE) == bytes(17 * PAGE) + EXPECTED + bytes(22 * PAGE)
            saved.verify()
            assert saved.blobs == {"vcpu0": b"registers"}
    except ImageError as error:
        return str(path) in str(error) and error.path == str(path)
    return False


def test_every_byte_that_is_flipped_is_noticed(image: Path, tmp_path: Path) -> None:
    content = image.read_bytes()
    behind = range(AREA + AREA, len(content))
    data = range(AREA + 17 * PAGE, AREA + 18 * PAGE, 97)
    strays = [5000, AREA - 1, AREA, AREA + 18 * PAGE, AREA + AREA - 1]
    ends = {*range(behind.start, behind.start + 1200, 23), *range(behind.stop - 96, behind.stop)}
    unnoticed = [
        at
        for at in (*range(256), *range(256, 4096, 61), *data, *strays, *sorted(ends & set(behind)))
        if not is_noticed(put(tmp_path / "flipped.img", content, at, bytes([content[at] ^ 0x10])))
    ]
    assert unnoticed == []


def test_every_length_is_noticed(image: Path, tmp_path: Path) -> None:
    content = image.read_bytes()
    lengths = [*range(0, 4200, 311), AREA, 2 * AREA, *range(len(content) - 200, len(content)), len(content) + 1]
    path = put(tmp_path / "cut.img", content, 0, b"")
    for length in sorted(lengths, reverse=True):
        with path.open("r+b") as file:
            file.truncate(length)
        assert is_noticed(path), length


def test_damage_is_told_by_region_and_address(image: Path, tmp_path: Path) -> None:
    path = put(tmp_path / "flipped.img", image.read_bytes(), AREA + 17 * PAGE + 5, b"\xff")
    with SavedSpace.open(path) as saved:
        for call in saved.verify, saved.restore, lambda: saved.merge(tmp_path / "merged.img"):
            with pytest.raises(
                ImageCorrupt, match=r"flipped.img: .*'low'.* at 0x1_0000: chunk 1 is not what was"
            ) as caught:
                call()
            assert (caught.value.chunk, caught.value.address, caught.value.region) == (1, 16 * PAGE, saved.regions[0])
    assert not (tmp_path / "merged.img").exists()


def test_damage_of_a_parent_is_not_blamed_on_its_child(tmp_path: Path) -> None:
    space, memory = mapped(ram(0, MIB, name="low"))
    memory.write(0, numbered(MIB))
    parent = space.save(tmp_path / "parent.img")
    memory.write(17 * PAGE, b"the child's")
    child = space.save(tmp_path / "child.img", parent=parent)
    flip(tmp_path / "parent.img", AREA + 18 * PAGE)
    for call in child.verify, child.restore:
        with pytest.raises(ImageCorrupt, match=r"parent.img: .*'low'.*, which \S*child.img builds on is not") as caught:
            call()
        assert (Path(caught.value.path).name, caught.value.address) == ("parent.img", 16 * PAGE)
    flip(tmp_path / "parent.img", AREA + 18 * PAGE)
    child.verify()
    flip(tmp_path / "child.img", AREA + 17 * PAGE)
    with pytest.raises(ImageCorrupt, match=r"child.img: .*: chunk 1 is not"):
        child.verify()


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_bytes_that_no_digest_knows_are_found(image: Path, tmp_path: Path) -> None:
    path = put(tmp_path / "stray.img", image.read_bytes(), AREA + 30 * PAGE, b"x")
    assert AddressSpace.restore(path).memory.read(30 * PAGE, 1) == b"\0"
    with pytest.raises(ImageCorrupt, match=r"bytes in .* that belong to no chunk"):
        SavedSpace.open(path).verify()


def signed(image: bytes, **fields: int | bytes) -> bytes:
    """An image with other fields in its header, and the digest of the root that it then has."""
    names = "magic major size page_shift chunk_shift flags machine data data_size json json_size blobs blobs_size table count"
    offsets = [0, 8, 16, 24, 28, 32, 36, *range(40, 104, 8), 112, 128, 160]
    places = dict(zip([*names.split(), "reserved", "parent", "content"], offsets, strict=True))
    header = bytearray(image[:4096])
    for name, value in fields.items():
        size = 4 if name in {"major", "page_shift", "chunk_shift", "flags", "machine"} else 8
        new = value if isinstance(value, bytes) else struct.pack("<I" if size == 4 else "<Q", value)
        header[places[name] : places[name] + len(new)] = new
    json_at, json_size, _, _, table, count = struct.unpack_from("<6Q", header, 56)
    header[192:224] = bytes(32)
    named = header + image[json_at : json_at + json_size] + image[table : table + 48 * min(count, 1 << 20)]
    header[192:224] = blake3(named).digest()
    return bytes(header) + image[4096:]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_hostile_numbers_are_refused_at_once(image: Path, tmp_path: Path) -> None:
    content = image.read_bytes()
    names = ("size", "data", "data_size", "json", "json_size", "blobs", "blobs_size", "table", "count")
    numbers = (0, 1, 4096, AREA, 1 << 32, 1 << 58, 1 << 63, (1 << 64) - 1, len(content), (1 << 64) // 48 + 1)
    before = struct.unpack_from("<Q", content, 16)[0], *struct.unpack_from("<8Q", content, 40)
    for name, old in zip(names, before, strict=True):
        for number in {*numbers, old + 1, old + 4096} - {old}:
            path = write(tmp_path / "hostile.img", signed(content, **{name: number}))
            # Blobs that are cut are found when they are read.
            assert is_noticed(path) or name == "blobs_size", (name, hex(number))


def test_another_version_and_another_machine_are_told_apart(image: Path, tmp_path: Path) -> None:
    content = image.read_bytes()
    with pytest.raises(ImageTooNew, match="its format is version 2"):
        SavedSpace.open(write(tmp_path / "new.img", signed(content, major=2)))
    for fields in ({"magic": b"notanimg"}, {"major": 0}, {"page_shift": 16}, {"chunk_shift": 12}, {"flags": 8}):
        with pytest.raises(ImageCorrupt):
            SavedSpace.open(write(tmp_path / "other.img", signed(content, **fields)))
    for fields in ({"flags": 1}, {"parent": b"p" * 32}, {"reserved": 1}, {"content": b"c" * 32}):
        with pytest.raises(ImageCorrupt):
            SavedSpace.open(write(tmp_path / "other.img", signed(content, **fields)))
    foreign = SavedSpace.open(write(tmp_path / "foreign.img", signed(content, machine=243)))
    foreign.verify()
    with pytest.raises(ImageMismatch, match=r"another architecture \(ELF machine 243\)"):
        foreign.restore()


def with_json(content: bytes, text: bytes) -> bytes:
    """An image with another JSON, its digests made anew."""
    _, _, json_at, _, blobs, blobs_size, table, count = struct.unpack_from("<8Q", content, 40)
    sections = [text, content[blobs : blobs + blobs_size], content[table : table + 48 * count]]
    body, places = bytearray(content[:json_at]), []
    for section in sections:
        body += bytes(-len(body) % 4096)
        places.append(len(body))
        body += section
    fields = {"json": places[0], "json_size": len(text), "blobs": places[1], "table": places[2], "size": len(body)}
    return signed(bytes(body), **fields)


def json_of(content: bytes) -> bytes:
    at, size = struct.unpack_from("<2Q", content, 56)
    return content[at : at + size]


EDITS: dict[str, Callable[[dict], object]] = {  # type: ignore[type-arg]
    "no layout": lambda content: content.pop("layout"),
    "another format": lambda content: content.update(format="x"),
    "an area outside": lambda content: content["areas"][0].update(offset=1 << 40),
    "an area before all": lambda content: content["areas"][0].update(offset=-(1 << 21)),
    "areas that overlap": lambda content: content["areas"].append(dict(content["areas"][0])),
    "no size": lambda content: content["areas"][0].update(size=0),
    "a short lineage": lambda content: content["areas"][0].update(lineage="00"),
    "a place outside": lambda content: content["regions"][0]["place"].update(offset=PAGE),
    "a place before": lambda content: content["regions"][0]["place"].update(offset=-1),
    "no such area": lambda content: content["regions"][0]["place"].update(area=3),
    "an area from the end": lambda content: content["regions"][0]["place"].update(area=-1),
    "a place that is a bool": lambda content: content["regions"][0]["place"].update(offset=False),
    "a blob that is a list": lambda content: content["blobs"].update(new={"offset": 0, "size": [1], "blake3": ""}),
    "a parent without a name": lambda content: content.update(parent=5),
    "no place": lambda content: content["regions"][0].update(place=None),
    "a huge region": lambda content: content["regions"][0].update(size=1 << 62),
    "text": lambda content: content["regions"][0].update(base="zero"),
    "a file of the reader's": lambda content: content["regions"][0].update(file="/dev/null"),
    "a descriptor of the reader's": lambda content: content["regions"][0].update(file=0),
    "a folder of the reader's": lambda content: content["regions"][0].update(mem_file_path="/dev/hugepages"),
    "two regions": lambda content: content["regions"].append(content["regions"][0]),
    "a list": lambda content: content.update(blobs=[]),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_description_that_can_not_be_is_corrupt(image: Path, tmp_path: Path, name: str) -> None:
    content = image.read_bytes()
    edited = json.loads(json_of(content))
    EDITS[name](edited)
    with pytest.raises(ImageCorrupt, match="its JSON"):
        SavedSpace.open(write(tmp_path / "edited.img", with_json(content, json.dumps(edited).encode())))


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"{", b"[" * 100_000, b'{"format": 1}', b"\xff", b"1e999"])
def test_a_text_that_is_no_description_is_corrupt(image: Path, tmp_path: Path, text: bytes) -> None:
    path = write(tmp_path / "edited.img", with_json(image.read_bytes(), text))
    with pytest.raises(ImageCorrupt):
        SavedSpace.open(path)


def test_a_blob_that_lies_outside_is_corrupt(image: Path, tmp_path: Path) -> None:
    content = image.read_bytes()
    edited = json.loads(json_of(content))
    edited["blobs"]["vcpu0"]["offset"] = 1 << 63
    saved = SavedSpace.open(write(tmp_path / "edited.img", with_json(content, json.dumps(edited).encode())))
    for call in lambda: saved.blobs, saved.restore, saved.verify:
        with pytest.raises(ImageCorrupt, match="the blob 'vcpu0'"):
            call()


def test_windows_that_cut_pages_are_refused(image: Path, tmp_path: Path) -> None:
    content = image.read_bytes()
    edited = json.loads(json_of(content))
    window = {**edited["regions"][0], "base": MIB, "size": PAGE, "name": "window"}
    edited["regions"].append({**window, "place": {**window["place"], "offset": 8}})
    saved = SavedSpace.open(write(tmp_path / "edited.img", with_json(content, json.dumps(edited).encode())))
    with pytest.raises(Unsupported, match=r"'window'.* bytes of .*'low'.* not whole pages"):
        saved.restore()


def mutations(content: bytes, seed: int) -> Iterator[bytes]:
    """Files whose bytes were changed here and there, half of them with digests that fit."""
    draw = random.Random(seed)
    text, table = json_of(content), struct.unpack_from("<Q", content, 88)[0]
    for _ in range(60):
        changed = bytearray(text)
        for _ in range(draw.choice((1, 2, 8))):
            at = draw.randrange(len(changed))
            changed[at : at + draw.randrange(3)] = draw.choice((b"", b"0", b"9" * 20, b"-", b"null", b'"', b"[", b"}"))
        yield with_json(content, bytes(changed))
        header, at = bytearray(content), draw.choice((draw.randrange(8, 112), table + draw.randrange(48)))
        header[at] ^= 1 << draw.randrange(8)
        yield signed(bytes(header))


@pytest.mark.parametrize("seed", range(3))
def test_random_changes_are_refused_or_harmless(image: Path, tmp_path: Path, seed: int) -> None:
    noticed = 0
    for content in mutations(image.read_bytes(), seed):
        path = write(tmp_path / "mutated.img", content)
        try:
            with SavedSpace.open(path) as saved:
                saved.verify()
                if saved.size < 1 << 30:
                    saved.restore().close()
        except (ImageError, Unsupported):
            noticed += 1
    assert noticed >= 60
