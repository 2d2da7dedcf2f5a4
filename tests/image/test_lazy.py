"""Memory that is filled while it is used: whoever is first finds what was saved, and never zeroes in its place."""

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import unicorn
from children import in_child
from dbs_address_space import (
    AddressSpace,
    AddressSpaceRegion,
    BackingError,
    BackingOptions,
    ImageCorrupt,
    InvalidArgument,
    MemoryFault,
    SavedSpace,
    Unsupported,
)
from host import require
from kernel_view import smaps
from memory_helpers import LAYOUT, MIB, PAGE, libc, mapped, numbered, ram
from stalling_files import stalling
from verbs import OTHER, VERBS, Verb, data
from virtual_machines import Vm, store

SIZE = 4 * MIB
CHUNK = 1 << 16
FULL = numbered(SIZE // 2)
EXPECTED = bytes(MIB) + FULL + bytes(MIB)
SOME = [verb for verb in VERBS if verb.right and verb.kind != "wait"]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Zeroes, two MiB of data in the midst, zeroes."""
    path = tmp_path_factory.mktemp("lazy") / "vm.img"
    space, memory = mapped(ram(0, SIZE, name="low"))
    memory.write(MIB, FULL)
    space.save(path).close()
    return path


def restored(path: Path, rate: Any = 0, timeout: float = 10.0) -> AddressSpace:
    try:
        return SavedSpace.open(path).restore("lazy", rate=rate, timeout=timeout)
    except Unsupported as refused:
        require(refused.feature != "userfaultfd", str(refused))
        raise


@pytest.fixture
def space(image: Path) -> Iterator[AddressSpace]:
    """Nothing of it comes in by itself."""
    with restored(image) as space:
        yield space


@pytest.mark.parametrize("verb", SOME, ids=str)
def test_every_verb_is_right_on_what_is_not_there_yet(space: AddressSpace, verb: Verb) -> None:
    size = max(verb.widths, default=2 * PAGE)
    addr = MIB + 9 * CHUNK
    assert verb.right is not None
    there = EXPECTED[addr : addr + size]
    expected, after = verb.right(there)
    space.memory.write(OTHER, data(2 * PAGE))
    assert verb(space.memory, addr, size) == expected
    assert space.memory.read(addr, size) == after
    assert space.memory.read(MIB, CHUNK) == EXPECTED[MIB : MIB + CHUNK]


def test_a_part_comes_in_when_it_is_used(space: AddressSpace) -> None:
    assert space.restore_stats is not None
    assert space.restore_stats[2:] == (0, 0, 0, None)
    assert space.memory.read_u8(MIB + 5) == EXPECTED[MIB + 5]
    assert not space.restore_stats.is_complete
    assert space.memory.read(0, SIZE) == EXPECTED
    assert space.wait_restored(timeout=0) is False or space.restore_stats.is_complete


def test_all_comes_in_by_itself(image: Path) -> None:
    with restored(image, None) as space:
        assert space.wait_restored(60)
        assert space.restore_stats is not None
        assert space.restore_stats.is_complete
        assert space.restore_stats.bytes_moved == len(FULL)
        assert space.memory.mapping(0).guarded_because is None
        assert space.memory.read(0, SIZE) == EXPECTED
        again = space.save(image.with_name("again.img"))
        assert again.is_checked is (space.memory.dirty.available()["pagemap"] is None)
        assert again.content == SavedSpace.open(image).content


def test_who_has_a_pointer_or_the_descriptor_finds_it_too(space: AddressSpace) -> None:
    memory = space.memory
    view = memory.view(MIB + 100, 3 * PAGE)
    assert bytes(view) == EXPECTED[MIB + 100 : MIB + 100 + 3 * PAGE]
    view.release()
    with memory.pin(2 * MIB, CHUNK) as pin:
        reader, writer = os.pipe()
        # The kernel reads it, at an address.
        assert ctypes.CDLL(None).write(writer, ctypes.c_void_p(pin.address + 10), 1000) == 1000
        assert os.read(reader, 1000) == EXPECTED[2 * MIB + 10 :][:1000]
        os.close(reader)
        os.close(writer)
    fd = memory.mapping(0).fd
    assert fd is not None
    assert os.pread(fd, SIZE, 0) == EXPECTED


def test_an_engine_finds_it(space: AddressSpace) -> None:
    engine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    with space.attach_unicorn(engine):
        assert engine.mem_read(MIB + 77, 1000) == EXPECTED[MIB + 77 :][:1000]


def test_a_guest_runs_on_what_is_not_there_yet(tmp_path: Path) -> None:
    code = store(MIB + 5, 0x42) + b"\xf4"
    space, memory = mapped(ram(0, SIZE))
    memory.write(0x8000, code)
    memory.write(MIB, FULL)
    space.save(tmp_path / "vm.img").close()
    with restored(tmp_path / "vm.img") as lazy:
        machine = Vm()
        slots = lazy.attach_kvm(machine.fd)
        machine.protected_mode(0x8000)
        machine.run_on(lazy)
        assert lazy.memory.read(MIB + 5, 1) == b"\x42"
        assert lazy.memory.read(MIB + 6, 1000) == EXPECTED[MIB + 6 :][:1000]
        assert lazy.restore_stats is not None
        assert lazy.restore_stats.served >= 1
        slots.detach()
        machine.close()


def test_what_is_saved_of_it_is_what_it_came_from(space: AddressSpace, image: Path, tmp_path: Path) -> None:
    saved = space.save(tmp_path / "again.img")
    assert saved.content == SavedSpace.open(image).content
    assert saved.data_size == len(FULL)


def test_a_checkpoint_of_it_has_all(space: AddressSpace) -> None:
    point = space.memory.checkpoint()
    space.memory.fill(MIB, MIB, 1)
    point.restore()
    assert space.memory.read(0, SIZE) == EXPECTED


def test_what_is_discarded_does_not_come_back(space: AddressSpace) -> None:
    space.memory.discard(MIB + 2 * PAGE, 3 * PAGE)
    assert (
        space.memory.read(MIB, CHUNK) == EXPECTED[MIB:][: 2 * PAGE] + bytes(3 * PAGE) + EXPECTED[MIB:][5 * PAGE : CHUNK]
    )


def test_pages_with_a_protection_of_their_own_come_in_too(space: AddressSpace) -> None:
    space.protect(MIB + PAGE, PAGE, "r--")
    space.protect(2 * MIB, PAGE, "r--")
    assert space.memory.read(0, SIZE) == EXPECTED
    assert space.restore_stats is not None
    assert space.restore_stats.error is None


def test_a_forked_child_finds_an_error_and_no_zeroes(space: AddressSpace) -> None:
    def body() -> None:
        with pytest.raises(MemoryFault):
            space.memory.read(MIB, 8)

    in_child(body)
    assert space.memory.read(MIB, 8) == EXPECTED[MIB:][:8]


def test_damage_is_a_fault_where_it_is_and_nowhere_else(image: Path, tmp_path: Path) -> None:
    path = tmp_path / "vm.img"
    path.write_bytes(image.read_bytes())
    with path.open("r+b") as file:
        file.seek(2 * MIB + MIB + 3 * CHUNK + 7)
        file.write(bytes([EXPECTED[MIB + 3 * CHUNK + 7] ^ 1]))
    with restored(path) as space:
        with pytest.raises(
            MemoryFault, match=rf"bytes could not be restored: {path}: chunk 19 is not what was written"
        ):
            space.memory.read(MIB + 3 * CHUNK, 8)
        assert space.memory.read(MIB, 3 * CHUNK) == EXPECTED[MIB:][: 3 * CHUNK]
    with restored(path, None) as space:
        with pytest.raises(ImageCorrupt, match="chunk 19 is not what was written"):
            space.wait_restored(60)
        assert space.restore_stats is not None
        assert "chunk 19" in str(space.restore_stats.error)
        with pytest.raises(MemoryFault):
            space.memory.read(MIB + 3 * CHUNK, 8)
        assert space.memory.read(3 * MIB - CHUNK, 2 * CHUNK) == EXPECTED[3 * MIB - CHUNK :][: 2 * CHUNK]


def test_an_image_that_is_cut_is_a_fault(image: Path, tmp_path: Path) -> None:
    path = tmp_path / "vm.img"
    path.write_bytes(image.read_bytes())
    with restored(path) as space:
        os.truncate(path, 3 * MIB + CHUNK)
        assert space.memory.read(MIB, CHUNK) == EXPECTED[MIB:][:CHUNK]
        with pytest.raises(MemoryFault):
            space.memory.read(2 * MIB, 1)


def test_what_could_not_be_had_stays_an_error(image: Path, tmp_path: Path) -> None:
    path = tmp_path / "vm.img"
    path.write_bytes(image.read_bytes())
    at = 2 * MIB + MIB + 3 * CHUNK
    with restored(path) as space, path.open("r+b") as file:
        file.seek(at)
        file.write(b"damaged")
        file.flush()
        with pytest.raises(MemoryFault):
            space.memory.read(MIB + 3 * CHUNK, 8)
        file.seek(at)
        file.write(EXPECTED[MIB + 3 * CHUNK :][:7])
        file.flush()
        with pytest.raises(MemoryFault):
            space.memory.read(MIB + 3 * CHUNK, 8)
        for call in space.memory.checkpoint, lambda: space.memory.discard(MIB + 3 * CHUNK, PAGE):
            with pytest.raises(BackingError, match="could not be read before") as caught:
                call()
            assert caught.value.errno == errno.EIO
        assert space.memory.read(MIB + 4 * CHUNK, CHUNK) == EXPECTED[MIB + 4 * CHUNK :][:CHUNK]


def test_a_file_that_is_not_read_is_an_error_where_it_was_touched(image: Path, tmp_path: Path) -> None:
    with stalling(image.read_bytes(), tmp_path / "slow") as file, restored(file.path, timeout=0.1) as space:
        assert space.memory.read(MIB, 8) == EXPECTED[MIB:][:8]
        file.is_stalled = True
        with pytest.raises(MemoryFault):
            space.memory.read(MIB + CHUNK, 8)
        # What is there is there.
        assert space.memory.read(MIB + 8, 8) == EXPECTED[MIB + 8 :][:8]
        file.go_on()
        assert space.memory.read(MIB + 2 * CHUNK, CHUNK) == EXPECTED[MIB + 2 * CHUNK :][:CHUNK]
        with pytest.raises(MemoryFault):
            space.memory.read(MIB + CHUNK, 8)


def test_a_guest_that_waits_for_a_file_is_given_an_error(image: Path, tmp_path: Path) -> None:
    with stalling(image.read_bytes(), tmp_path / "slow") as file, restored(file.path, timeout=0.1) as space:
        file.is_stalled = True
        reader, writer = os.pipe()
        with space.memory.pin(MIB, CHUNK) as pin:
            assert libc.write(writer, ctypes.c_void_p(pin.address), 8) == -1
            assert ctypes.get_errno() == errno.EFAULT
        os.close(reader)
        os.close(writer)


def test_what_nobody_waits_for_is_not_lost_when_a_file_is_late(image: Path, tmp_path: Path) -> None:
    with stalling(image.read_bytes(), tmp_path / "slow") as file:
        saved = SavedSpace.open(file.path)
        file.is_stalled = True
        with saved.restore("lazy", timeout=0.1) as space:
            with pytest.raises(TimeoutError, match="not read in time") as caught:
                space.wait_restored(60)
            assert caught.value.filename == str(file.path)
            file.go_on()
            assert space.memory.read(0, SIZE) == EXPECTED


def test_each_handle_of_a_space_knows_how_far_it_is(image: Path) -> None:
    with restored(image, None) as space:
        other = AddressSpace._of_memory(space.memory)  # noqa: SLF001
        assert other.wait_restored(60)
        assert other.restore_stats is not None
        assert other.restore_stats.is_complete


def test_regions_may_go_while_they_are_filled(tmp_path: Path) -> None:
    space, memory = mapped(ram(0, SIZE, name="low"), ram(8 * MIB, SIZE, name="high", mem_type="mmap"))
    memory.write(0, numbered(SIZE))
    memory.write(8 * MIB, numbered(SIZE, 1))
    space.save(tmp_path / "vm.img").close()
    with restored(tmp_path / "vm.img") as lazy:
        lazy.remove_region("low")
        assert lazy.memory.read(8 * MIB, SIZE) == numbered(SIZE, 1)
        lazy.insert_region(AddressSpaceRegion("ram", 0, MIB))
        assert lazy.memory.read(0, MIB) == bytes(MIB)
    for _ in range(10):
        restored(tmp_path / "vm.img", None).close()


def test_an_option_of_one_mode_is_refused_for_others(image: Path) -> None:
    with pytest.raises(InvalidArgument, match="rate= goes with mode='lazy'"):
        SavedSpace.open(image).restore("copy", rate=1)
    for mode in ("cow", "lazy"):
        with pytest.raises(InvalidArgument, match="progress= goes with mode='copy'"):
            SavedSpace.open(image).restore(mode, progress=print)
    space, _ = mapped(ram(0))
    assert space.wait_restored() is True
    assert space.restore_stats is None


@pytest.mark.parametrize("wanted", [True, None])
def test_what_no_forked_child_has_stays_so_when_all_is_there(tmp_path: Path, wanted: Any) -> None:
    region = AddressSpaceRegion("ram", 0, SIZE, name="low", backing=BackingOptions(dontfork=wanted))
    with AddressSpace.from_regions([region], LAYOUT) as space:
        space.map_memory().write(MIB, FULL)
        space.save(tmp_path / "vm.img").close()
    with restored(tmp_path / "vm.img", rate=None) as space:
        space.wait_restored()
        assert ("dc" in smaps(space.memory.host_address(0))["VmFlags"].split()) == bool(wanted)
