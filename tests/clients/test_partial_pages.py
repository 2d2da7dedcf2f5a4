"""Clients that take whole pages refuse what begins or ends inside one, or are shown the pages inside and say what is left out."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import unicorn
from dbs_address_space import (
    AddressRange,
    AddressSpace,
    AddressSpaceRegion,
    ClientError,
    InvalidArgument,
    Misaligned,
    UnmappedAddress,
)
from memory_helpers import GIB, MIB, PAGE, mapped, ram
from test_vhost_user import CONFIGURE_MEM_SLOTS, REPLY_ACK, Backend
from virtual_machines import HLT, Vm, store


def ranges(*pairs: tuple[int, int]) -> tuple[AddressRange, ...]:
    return tuple(AddressRange(*pair) for pair in pairs)


CODE, EBDA, ODD = 0x1000, 0x9_FC00, 64 * MIB + 0x234


@pytest.fixture
def regions() -> list[AddressSpaceRegion]:
    return [ram(0, EBDA, name="low"), ram(EBDA, 0x300, name="ebda"), ram(ODD, 3 * PAGE, name="odd")]


LEFT_OUT = ranges(
    (0x9_F000, EBDA - 0x9_F000),
    (EBDA, 0x300),
    (ODD, PAGE - 0x234),
    (ODD + 3 * PAGE - 0x234, 0x234),
)
"""The memory that a client of whole pages is not shown."""
INSIDE = ODD + PAGE - 0x234
"""The first whole page of the odd region, which has two."""


@pytest.fixture
def vm() -> Iterator[Vm]:
    vm = Vm()
    yield vm
    vm.close()


@pytest.fixture
def backend() -> Iterator[Backend]:
    backend = Backend(REPLY_ACK | CONFIGURE_MEM_SLOTS, slots=8)
    yield backend
    backend.close()


@pytest.fixture
def uc() -> unicorn.Uc:
    return unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)


def test_they_are_refused_by_name(space: AddressSpace, vm: Vm, backend: Backend, uc: unicorn.Uc) -> None:
    with pytest.raises(
        Misaligned, match=r"KVM can't show 'low' \[.*it ends at 0x9_fc00, inside a page.*\"skip\""
    ) as refused:
        space.attach_kvm(vm.fd)
    assert refused.value.region == space["low"]
    with pytest.raises(Misaligned, match="a vhost-user back-end can't show 'low'"):
        space.attach_vhost_user(backend.front)
    with pytest.raises(Misaligned, match="a vhost-user back-end can't show 'low'"):
        space.memory.vhost_user_regions()
    with pytest.raises(ClientError, match="Unicorn can't show") as raised:
        space.attach_unicorn(uc)
    assert isinstance(raised.value.__cause__, Misaligned)
    assert (space.clients, list(uc.mem_regions())) == ((), [])
    for attach in (
        lambda: space.attach_kvm(vm.fd, partial_pages="round"),
        lambda: space.attach_vhost_user(backend.front, partial_pages="round"),
        lambda: space.attach_unicorn(uc, partial_pages="round"),
    ):
        with pytest.raises(InvalidArgument, match="partial_pages"):
            attach()


def test_a_region_that_comes_later_is_refused_and_changes_nothing(vm: Vm) -> None:
    space, _ = mapped(ram(0, MIB, name="low"))
    slots = space.attach_kvm(vm.fd)
    before = space.snapshot()
    with pytest.raises(Misaligned, match="it begins at"):
        space.insert_region(ram(ODD, PAGE))
    assert (space.snapshot(), slots.base_to_slot) == (before, {0: 0})
    assert not slots.left_out


def test_a_guest_runs_in_the_whole_pages_inside(space: AddressSpace, vm: Vm) -> None:
    memory = space.memory
    slots = space.attach_kvm(vm.fd, dirty_log=True, partial_pages="skip")
    assert slots.left_out == LEFT_OUT
    assert slots.base_to_slot == {0: 0, ODD: 1}
    with pytest.raises(UnmappedAddress):
        slots.slot_of("ebda")
    space.remove_region("ebda")
    left_out = (LEFT_OUT[0], *LEFT_OUT[2:])
    tracker = memory.dirty.start("kvm")
    tracker.collect()
    last = 0x9_F000 - 1
    program = b"".join(store(at, 0x5A) for at in (last, INSIDE, INSIDE + PAGE + 9, ODD)) + HLT
    memory.write(CODE, program)
    tracker.collect()
    vm.protected_mode(CODE)
    vm.run_on(space)
    assert [memory.read_u8(at) for at in (last, INSIDE, INSIDE + PAGE + 9, ODD)] == [0x5A, 0x5A, 0x5A, 0]
    written = [(0x9_E000, PAGE), (INSIDE, 2 * PAGE)]
    assert [tuple(pages) for pages in slots.dirty_log(clear=False)] == written
    assert [tuple(pages) for pages in tracker.collect()] == written
    # What a part of it shows is found in the log, too.
    space.split_region("odd", INSIDE + PAGE)
    assert slots.left_out == left_out
    assert [tuple(pages) for pages in slots.dirty_log()] == written
    space.remove_region("low")
    space.insert_region(ram(0, EBDA, name="low"))
    assert slots.left_out == left_out
    slots.detach()
    assert not slots.left_out


def test_memory_in_pages_of_a_file_that_are_none_of_the_guests_is_left_out(vm: Vm, tmp_path: Path) -> None:
    """The ranges of a LiME file begin 32 bytes into a page."""
    path = tmp_path / "dump"
    path.write_bytes(bytes(32 + 2 * PAGE))
    space, _ = mapped(ram(0, MIB), AddressSpaceRegion.from_file(GIB, path, offset=32, name="dump"))
    with pytest.raises(Misaligned, match="its pages begin 0x20 bytes into pages of the host"):
        space.attach_kvm(vm.fd)
    with space.attach_kvm(vm.fd, partial_pages="skip") as slots:
        assert slots.left_out == ranges((GIB, 2 * PAGE))


def test_a_back_end_maps_the_whole_pages_inside(space: AddressSpace, backend: Backend) -> None:
    memory = space.memory
    client = space.attach_vhost_user(backend.front, partial_pages="skip")
    assert client.left_out == LEFT_OUT
    assert client.table == memory.vhost_user_regions(partial_pages="skip")
    assert [region[:2] for region in client.table] == [(0, 0x9_F000), (INSIDE, 2 * PAGE)]
    assert [region.mmap_offset % PAGE for region in client.table] == [0, 0]
    shown = client.table[1]
    assert shown.userspace_addr == memory.host_address(INSIDE)
    memory.write(INSIDE, b"seen")
    assert os.pread(shown.fd, 4, shown.mmap_offset) == b"seen"
    space.remove_region("odd")
    assert sorted(backend.table) == [0]
    space.insert_region(ram(ODD, 3 * PAGE))
    assert sorted(backend.table) == [0, INSIDE]
    client.detach()
    assert not backend.table
    assert not client.left_out


def test_an_engine_runs_in_the_whole_pages_inside(space: AddressSpace, uc: unicorn.Uc) -> None:
    memory = space.memory
    attachment = space.attach_unicorn(uc, partial_pages="skip")
    assert attachment.client.left_out == LEFT_OUT
    assert sorted((first, last + 1) for first, last, _ in uc.mem_regions()) == [
        (0, 0x9_F000),
        (INSIDE, INSIDE + 2 * PAGE),
    ]
    memory.write(CODE, store(INSIDE, 0x5A) + HLT)
    uc.emu_start(CODE, until=0)
    assert memory.read_u8(INSIDE) == 0x5A
    space.remove_region("odd")
    assert attachment.client.left_out == LEFT_OUT[:2]
    attachment.detach()
    assert list(uc.mem_regions()) == []
