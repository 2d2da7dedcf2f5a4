"""Views and arrays: zero-copy windows that hold their region, and the vetoes that follow from it."""

import ctypes
import gc
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dbs_address_space import (
    AccessDenied,
    AddressSpace,
    AddressSpaceRegion,
    GuestMemory,
    InvalidAddressRange,
    InvalidArgument,
    Lease,
    NotContiguous,
    RegionBusy,
    UnmappedAddress,
    Unsupported,
)
from kernel_view import maps_of, protection
from memory_helpers import MIB, PAGE, WINDOW, make_file, mapped, ram

ROM = 4 * PAGE
Take = Callable[[GuestMemory], Any]

TAKES: dict[str, Take] = {
    "view": lambda memory: memory.view(16, 32),
    "slice": lambda memory: memory.view(16, 32)[4:8],
    "cast": lambda memory: memory.view(16, 32).cast("Q"),
    "read-only view": lambda memory: memory.view(16, 32, writable=False),
    "memoryview of a view": lambda memory: memoryview(memory.view(16, 32)),
    "array": lambda memory: memory.array(16, (2, 4), "<u4"),
    "array slice": lambda memory: memory.array(16, (2, 4), "<u4")[:, 1],
    "frombuffer": lambda memory: np.frombuffer(memory.view(16, 32), dtype="u1"),
    "DLPack": lambda memory: np.from_dlpack(memory.array(16, (8,), "<u4")),
    "ctypes": lambda memory: (ctypes.c_char * 32).from_buffer(memory.view(16, 32)),
}


@pytest.fixture
def regions() -> list[AddressSpaceRegion]:
    rom = AddressSpaceRegion.create_firmware_region(ROM, PAGE, "r--", name="rom")
    return [ram(0, name="low"), ram(PAGE, name="high"), rom]


def leases_of(space: AddressSpace, base: int) -> tuple[Lease, ...]:
    """The leases of a region, found in the only way: by trying to remove it."""
    with pytest.raises(RegionBusy) as refused:
        space.remove_region(base)
    assert refused.value.region == space[base]
    return refused.value.leases


def test_a_view_is_the_memory_itself(memory: GuestMemory) -> None:
    with memory.view(0x10, 5) as view:
        assert (type(view), view.format, view.nbytes, view.readonly, view.contiguous) == (
            memoryview,
            "B",
            5,
            False,
            True,
        )
        view[:] = b"hello"
        assert memory.read(0x10, 5) == b"hello"
        memory.write(0x11, b"u")
        assert bytes(view) == b"hullo"


def test_two_views_show_the_same_bytes(memory: GuestMemory) -> None:
    with memory.view(0, 8) as one, memory.view(4, 8) as other:
        one[4] = 77
        assert other[0] == 77


def test_a_read_only_region_gives_read_only_views(memory: GuestMemory) -> None:
    with memory.view(ROM, 4) as view:
        assert view.readonly
        with pytest.raises(TypeError):
            view[0] = 1
        assert not memory.array(ROM, 4, "u1").flags.writeable


def test_writable_can_be_given_up_and_not_taken(memory: GuestMemory) -> None:
    with memory.view(0, 4, writable=False) as view:
        assert view.readonly
    with memory.view(0, 4, writable=True) as view:
        assert not view.readonly
    for take in (lambda: memory.view(ROM, 4, writable=True), lambda: memory.array(ROM, 4, "u1", writable=True)):
        with pytest.raises(AccessDenied) as refused:
            take()
        assert refused.value.address == ROM
    assert not memory.array(0, 4, "u1", writable=False).flags.writeable


def test_a_read_only_exporter_gives_no_writable_buffer(memory: GuestMemory) -> None:
    exporter = memory.view(0, 4, writable=False).obj
    with pytest.raises((TypeError, BufferError)):
        (ctypes.c_char * 4).from_buffer(exporter)


@pytest.mark.parametrize(
    "take",
    [lambda memory: memory.view(PAGE - 4, 8), lambda memory: memory.array(PAGE - 4, 2, "<u4")],
    ids=["view", "array"],
)
def test_a_view_cannot_cross_a_joint(memory: GuestMemory, take: Take) -> None:
    with pytest.raises(NotContiguous, match="joint at 0x1000") as refused:
        take(memory)
    error = refused.value
    assert (error.address, error.size) == (PAGE, 8)
    assert error.region == memory.regions[0]
    assert error.conflict == memory.regions[1]


@pytest.mark.parametrize(
    ("addr", "size", "bad"), [(2 * PAGE - 1, 2, 2 * PAGE), (2 * PAGE, 1, 2 * PAGE), (ROM - 1, 2, ROM - 1)]
)
def test_a_view_of_a_hole_is_refused(memory: GuestMemory, addr: int, size: int, bad: int) -> None:
    with pytest.raises(UnmappedAddress) as refused:
        memory.view(addr, size)
    assert refused.value.address == bad


def test_a_window_without_access_has_no_view() -> None:
    _, memory = mapped(AddressSpaceRegion.create_dax_region(WINDOW, MIB))
    with pytest.raises(AccessDenied):
        memory.view(WINDOW, 1)


@pytest.mark.parametrize(
    "take",
    [lambda memory: memory.view(0, PAGE), lambda memory: memory.array(0, PAGE, "u1")],
    ids=["view", "array"],
)
def test_guarded_memory_has_no_view_unless_asked_for(take: Take, tmp_path: Path) -> None:
    with make_file(tmp_path / "ram", PAGE).open("r+b") as file:
        _, memory = mapped(ram(0, file=file))
    with pytest.raises(Unsupported, match="unguarded=True") as refused:
        take(memory)
    assert "unguarded=True" in refused.value.how
    assert refused.value.region == memory.regions[0]


def test_an_unguarded_view_reaches_the_file(tmp_path: Path) -> None:
    path = make_file(tmp_path / "ram", PAGE)
    with path.open("r+b") as file:
        _, memory = mapped(ram(0, file=file))
    with memory.view(8, 4, unguarded=True) as view:
        view[:] = b"view"
    memory.array(16, 1, "<u4", unguarded=True)[0] = 0x6566_6768
    assert path.read_bytes()[8:20] == b"view\0\0\0\0hgfe"


@pytest.mark.parametrize("dtype", ["u1", "<u8", ">f4", "c16", "S5", [("flags", "<u2"), ("addr", "<u8")]])
@pytest.mark.parametrize("shape", [6, (6,), (2, 3), [3, 1, 2], ()])
def test_arrays_have_any_shape_and_dtype(memory: GuestMemory, shape: Any, dtype: Any) -> None:
    memory.write(64, bytes(range(200)))
    result = memory.array(64, shape, dtype)
    expected = np.ndarray(shape, dtype, bytes(range(200)))
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    assert result.tobytes() == expected.tobytes()


def test_an_array_is_the_memory_itself(memory: GuestMemory) -> None:
    numbers = memory.array(0, (2, 2), "<u4")
    numbers[1, 0] = 0xDEAD_BEEF
    assert memory.read_u32(8) == 0xDEAD_BEEF
    assert not numbers.flags.owndata
    assert numbers.flags.writeable


def test_strides_are_in_bytes(memory: GuestMemory) -> None:
    memory.write(0, bytes(range(64)))
    assert memory.array(0, 4, "u1", strides=(16,)).tolist() == [0, 16, 32, 48]
    last = memory.array(PAGE - 17, 2, "u1", strides=(16,))
    assert last.shape == (2,)
    with pytest.raises(NotContiguous):
        memory.array(PAGE - 16, 2, "u1", strides=(16,))


def test_an_empty_array_is_allowed_anywhere(memory: GuestMemory) -> None:
    assert memory.array(3 * PAGE, (0, 5), "<u8").size == 0


@pytest.mark.parametrize("shape", [-1, (2, -1), (2**40, 2**40)])
def test_impossible_shapes_are_refused(memory: GuestMemory, shape: Any) -> None:
    with pytest.raises(InvalidAddressRange):
        memory.array(0, shape, "u1")


def test_objects_cannot_live_in_guest_memory(memory: GuestMemory) -> None:
    for dtype in (object, [("number", "<u8"), ("what", object)]):
        with pytest.raises(TypeError, match="Python objects"):
            memory.array(0, 4, dtype)


def test_without_numpy_it_says_what_to_install(memory: GuestMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(ImportError, match=r"dbs-address-space\[numpy\]"):
        memory.array(0, 4, "u1")
    with memory.view(0, 4) as view:
        assert view.nbytes == 4


@pytest.mark.parametrize("take", TAKES.values(), ids=TAKES)
def test_everything_that_looks_at_memory_holds_it(space: AddressSpace, take: Take) -> None:
    held = take(space.memory)
    assert leases_of(space, 0) == (Lease("view", 16, 32),)
    assert held is not None
    del held
    assert 0 not in space.remove_region(0)


def test_every_lease_is_named(space: AddressSpace, memory: GuestMemory) -> None:
    array, views = memory.array(0, 2, "<u8"), [memory.view(8, 4), memory.view(100, 1)]
    assert sorted(leases_of(space, 0)) == [Lease("view", 0, 16), Lease("view", 8, 4), Lease("view", 100, 1)]
    views[1].release()
    assert sorted(leases_of(space, 0)) == [Lease("view", 0, 16), Lease("view", 8, 4)]
    del array
    assert leases_of(space, 0) == (Lease("view", 8, 4),)


def test_slices_share_their_views_lease(space: AddressSpace, memory: GuestMemory) -> None:
    view = memory.view(0, 64)
    parts = [view[i : i + 8] for i in range(0, 64, 8)]
    assert leases_of(space, 0) == (Lease("view", 0, 64),)
    view.release()
    assert leases_of(space, 0) == (Lease("view", 0, 64),)
    for part in parts:
        part.release()
    space.remove_region(0)


def test_a_refused_removal_changes_nothing(space: AddressSpace, memory: GuestMemory) -> None:
    before, generation = space.snapshot(), space.generation
    with memory.view(0, 8) as view:
        leases_of(space, 0)
        view[:] = b"in use.."
        assert memory.read(0, 8) == b"in use.."
        with memory.view(0, 1):
            assert len(leases_of(space, 0)) == 2
    assert (space.snapshot(), space.generation) == (before, generation)


def test_a_view_holds_its_own_region_only(space: AddressSpace, memory: GuestMemory) -> None:
    with memory.view(0, 1):
        space.remove_region("high")
        assert space[0].name == "low"


def test_the_message_says_who_and_what_to_do(space: AddressSpace, memory: GuestMemory) -> None:
    with memory.view(0x10, 0x20), pytest.raises(RegionBusy, match=r"'low'.*0x20 bytes at 0x10.*timeout="):
        space.remove_region("low")


def test_close_is_vetoed(space: AddressSpace, memory: GuestMemory) -> None:
    view = memory.view(PAGE, 8)
    with pytest.raises(RegionBusy) as refused:
        memory.close()
    assert refused.value.leases == (Lease("view", PAGE, 8),)
    assert space.is_mapped
    with memory.view(0, 1):
        pass
    view.release()
    memory.close()
    assert not space.is_mapped


def test_with_is_vetoed_too() -> None:
    space, memory = mapped(ram(0))
    views = []
    with pytest.raises(RegionBusy), memory:
        views.append(memory.view(0, 1))
    assert memory.read(0, 1) == b"\0"
    assert space.is_mapped


def test_one_held_region_vetoes_a_whole_transaction(space: AddressSpace, memory: GuestMemory) -> None:
    before = space.snapshot()
    change = space.transaction()
    with memory.view(PAGE, 1), pytest.raises(RegionBusy), change:
        change.remove_region(0)
        change.remove_region(PAGE)
    assert space.snapshot() == before
    with memory.view(0, 1), memory.view(PAGE, 1):
        pass


def test_taking_a_protection_away_is_vetoed(space: AddressSpace, memory: GuestMemory) -> None:
    low = space["low"]
    with memory.view(0, 4) as view:
        with pytest.raises(RegionBusy):
            space.replace_region(low, low.replace(prot_flags="r--"))
        space.replace_region(low, low.replace(name="renamed"))
        view[0] = 1
    space.replace_region(0, space[0].replace(prot_flags="r--"))
    with pytest.raises(AccessDenied):
        memory.write(0, b"x")


def test_the_exporter_can_be_viewed_again(space: AddressSpace, memory: GuestMemory) -> None:
    view = memory.view(0, 4)
    exporter = view.obj
    with memoryview(exporter):
        assert len(leases_of(space, 0)) == 2
    view.release()
    space.remove_region(0)
    with pytest.raises(BufferError, match="removed"):
        memoryview(exporter)
    space.insert_region(ram(0))
    with pytest.raises(BufferError, match="removed"):
        memoryview(exporter)


def test_an_exporter_alone_keeps_nothing(memory: GuestMemory) -> None:
    exporter = memory.view(0, 4).obj
    assert maps_of("/memfd:low ")
    memory.close()
    assert not maps_of("/memfd:low ")
    with pytest.raises(BufferError):
        memoryview(exporter)


def release_later(view: memoryview, seconds: float) -> threading.Thread:
    def release() -> None:
        time.sleep(seconds)
        view.release()

    thread = threading.Thread(target=release)
    thread.start()
    return thread


@pytest.mark.parametrize("timeout", [60.0, None, float("inf")])
def test_a_removal_waits_for_another_thread(space: AddressSpace, memory: GuestMemory, timeout: float | None) -> None:
    releasing = release_later(memory.view(0, 4), 0.2)
    assert 0 not in space.remove_region(0, timeout=timeout)
    releasing.join()


def test_a_wait_ends(space: AddressSpace, memory: GuestMemory) -> None:
    with memory.view(0, 4):
        began = time.monotonic()
        with pytest.raises(RegionBusy) as refused:
            space.remove_region(0, timeout=0.15)
        assert time.monotonic() - began >= 0.15
        assert refused.value.leases == (Lease("view", 0, 4),)


def test_others_go_on_while_a_removal_waits(space: AddressSpace, memory: GuestMemory) -> None:
    view = memory.view(0, 4)
    done = []
    waiting = threading.Thread(target=lambda: done.append(space.remove_region(0, timeout=60)))
    waiting.start()
    for round_ in range(50):
        space.insert_region(ram(10 * PAGE))
        memory.write_u64(10 * PAGE, round_)
        view[0] = round_
        space.remove_region(10 * PAGE)
    assert not done
    view.release()
    waiting.join()
    assert 0 not in done[0]


@pytest.mark.parametrize("timeout", [-1.0, float("nan")])
def test_a_timeout_must_make_sense(space: AddressSpace, timeout: float) -> None:
    with pytest.raises(InvalidArgument, match="timeout"):
        space.remove_region(0, timeout=timeout)
    assert 0 in space


class Cycle:
    """Something that only the garbage collector can free."""

    def __init__(self, view: object) -> None:
        self.view = view
        self.me = self


@pytest.mark.parametrize("take", [TAKES["view"], TAKES["array"]], ids=["view", "array"])
def test_a_view_in_a_cycle_is_collected_even_at_once(space: AddressSpace, take: Take) -> None:
    gc.disable()
    try:
        Cycle(take(space.memory))
        assert 0 not in space.remove_region(0)
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["view", "slice", "array", "DLPack"])
def test_a_lease_outlives_space_and_memory(name: str) -> None:
    space, memory = mapped(ram(0, name="outlived"))
    memory.fill(0, PAGE, 0x5A)
    held, host = TAKES[name](memory), memory.host_address(0)
    del space, memory
    gc.collect()
    assert set(np.asarray(held).tobytes()) == {0x5A}
    assert protection(host) == "rw-s"
    del held
    assert not maps_of("/memfd:outlived")


def test_an_array_in_a_cycle_lets_go_of_its_memory() -> None:
    space, memory = mapped(ram(0, name="cyclic"))
    Cycle([memory.array(0, 4, "u1"), space, memory])
    del space, memory
    gc.collect()
    assert not maps_of("/memfd:cyclic")


def test_the_last_view_of_anonymous_memory_unmaps_it() -> None:
    _, memory = mapped(ram(0, 3 * MIB, mem_type="mmap"))
    view, host = memory.view(0, 4), memory.host_address(0)
    del memory, _
    assert protection(host) == "rw-p"
    view.release()
    assert protection(host) == ""
