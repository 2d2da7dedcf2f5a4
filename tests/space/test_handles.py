"""A handle means one thing: when that is gone, it says so by name, and leaves alone what took its place."""

import threading
from collections.abc import Callable
from typing import Any

import dbs_address_space
import pytest
from dbs_address_space import (
    AddressSpace,
    AddressSpaceBuilder,
    AddressSpaceChange,
    AddressSpaceError,
    AddressSpaceRegion,
    DimmSlots,
    GuestMemory,
    Hotplug,
    InvalidArgument,
    MemoryBlocks,
    NotMapped,
    RegionBusy,
    UnmappedAddress,
)
from memory_helpers import GIB, MIB, PAGE, WINDOW, mapped, ram, unnamed_file

SIZE = 8 * MIB
BASE = GIB
DATA = unnamed_file()
BYTES = b"somebody else's"


class Handle:
    """One kind of handle: how it is made of the region named `mine`, and what it answers when another has taken its place."""

    region = ram(BASE, SIZE, name="mine")
    verbs: tuple[Callable[[Any], object], ...] = ()
    """Each of them is refused once the region has gone."""

    def make(self, space: AddressSpace) -> Any:
        raise NotImplementedError

    def holds(self, handle: Any) -> None:
        """Checks a handle whose region has gone."""

    def let_go(self, handle: Any) -> None:
        """Ends what keeps the region in its space; a handle that vetoes its removal is not about what comes after it."""


class Blocks(Handle):
    verbs = (
        lambda blocks: blocks.plug(2 * MIB, 2 * MIB, prealloc=True),
        lambda blocks: blocks.plug(4 * MIB, 2 * MIB),
        lambda blocks: blocks.unplug(0, 2 * MIB),
        lambda blocks: blocks.unplug_all(),
        lambda blocks: blocks.is_plugged(0, 2 * MIB),
        lambda blocks: blocks.plugged_size,
        list,
    )

    def make(self, space: AddressSpace) -> MemoryBlocks:
        blocks = MemoryBlocks(space.memory, "mine")
        blocks.plug(0, 2 * MIB)
        return blocks

    def holds(self, handle: MemoryBlocks) -> None:
        assert "removed" in repr(handle)


class Window(Handle):
    region = AddressSpaceRegion.create_dax_region(WINDOW, SIZE, name="mine")
    verbs = (lambda window: window.unmap(0, PAGE), lambda window: window.map_file(0, DATA, 0, PAGE))

    def make(self, space: AddressSpace) -> Any:
        return space.memory.dax_window("mine")

    def holds(self, handle: Any) -> None:
        assert handle.mappings == ()


class MappingHandle(Handle):
    verbs = (lambda mapping: mapping.fd,)

    def make(self, space: AddressSpace) -> Any:
        return space.memory.mapping(BASE)


class Unplug(Handle):
    def make(self, space: AddressSpace) -> Any:
        self.space = space
        return space.request_unplug("mine")

    def holds(self, handle: Any) -> None:
        assert handle.done()
        handle.cancel()
        assert handle.done()
        with pytest.raises(UnmappedAddress, match=r"'mine'.*was removed"):
            self.space.remove_region(handle)


class Device(Handle):
    region = AddressSpaceRegion.create_device_region(WINDOW, SIZE, name="mine")
    written = 0

    def make(self, space: AddressSpace) -> Any:
        self.space = space
        return space.attach_device("mine", self)

    def read(self, _offset: int, _size: int) -> int:
        return 0

    def write(self, _offset: int, _size: int, _value: int) -> None:
        self.written += 1

    def holds(self, handle: Any) -> None:
        assert not handle.is_attached
        with pytest.raises(UnmappedAddress, match=r"'mine'.*has no handler"):
            self.space.dispatch(WINDOW, 4, 1)
        assert self.written == 0


class Holder(Handle):
    """Vetoes the removal of its region."""

    def __init__(self, take: Callable[[GuestMemory], Any]) -> None:
        self.take = take

    def make(self, space: AddressSpace) -> Any:
        handle = self.take(space.memory)
        with pytest.raises(RegionBusy, match="'mine'"):
            space.remove_region("mine")
        return handle

    def let_go(self, handle: Any) -> None:
        handle.release()


class Populating(Handle):
    def make(self, space: AddressSpace) -> Any:
        handle = space.memory.prealloc("mine", background=True)
        assert handle.wait()
        return handle

    def holds(self, handle: Any) -> None:
        handle.cancel()
        assert handle.report.size == SIZE


HANDLES: dict[str, Handle] = {
    "MemoryBlocks": Blocks(),
    "DaxWindow": Window(),
    "Mapping": MappingHandle(),
    "UnplugRequest": Unplug(),
    "Attachment": Device(),
    "Pin": Holder(lambda memory: memory.pin(BASE, 8)),
    "memoryview": Holder(lambda memory: memory.view(BASE, 8)),
    "PreallocHandle": Populating(),
}
"""The classes whose objects are about one region."""

OTHERS = {
    "AddressSpace": "the space itself",
    "GuestMemory": "one map_memory(), see below",
    "DirtyTracker": "all memory of one map_memory(), see tests/memory/test_trackers.py",
    "Checkpoint": "all memory of one map_memory(), see tests/memory/test_checkpoints.py",
    "DimmSlots": "DIMMs by their keys, see below",
    "Reservation": "addresses, see below",
    "SavedSpace": "a file, see tests/image/",
    "Transaction": "a change of the space, see below",
    "Balloon": "pages of a guest, whichever regions they lie in",
    "Subscription": "follows the whole space",
    "KvmSlots": "follows the whole space",
    "VhostUserClient": "follows the whole space",
    "Share": "shows the whole space",
    "MemoryPart": "bytes, whatever regions show them, see test_aliases.py",
    "AddressSpaceChange": "shows memory while a client is asked, see test_subscribe.py",
}
"""Handles of something else than one region."""

VALUES = {
    *("AddressRange", "AddressSpaceBase", "AddressSpaceBuilder", "AddressSpaceLayout", "AddressSpacePlan"),
    *("AddressSpaceRegion", "AddressSpaceRegionType", "BackingOptions", "BalloonStats", "BytePattern"),
    *("DaxMapping", "DirtyPages"),
    *(
        "EffectiveBacking",
        "ElfNote",
        "Follower",
        "Hotplug",
        "LoadedElf",
        "Lease",
        "Machine",
        "MapFlags",
        "MemorySourceType",
        "NumaIdTable",
        "NumaNode",
    ),
    *(
        "MapRow",
        "NumaNodeInfo",
        "NumaPolicy",
        "NumaRegionInfo",
        "Placement",
        "PlanCost",
        "PreallocReport",
        "Progress",
        "Prot",
        "ReceiveReport",
        "ResetStats",
        "RestoreStats",
        "SendProgress",
        "SendReport",
        "SpaceStats",
    ),
    *("VhostUserRegion",),
}
"""Classes of plain values, which act on nothing."""


def test_every_class_is_a_handle_or_a_value() -> None:
    names: list[str] = dbs_address_space.__all__  # type: ignore[attr-defined]  # computed
    found = {name: getattr(dbs_address_space, name) for name in names}
    classes = {name for name, value in found.items() if isinstance(value, type) and not issubclass(value, Exception)}
    assert classes - VALUES == (HANDLES.keys() | OTHERS.keys()) - {"memoryview"}
    assert classes & VALUES == VALUES


@pytest.fixture(params=HANDLES, name="kind")
def fixture_kind(request: pytest.FixtureRequest) -> Handle:
    return HANDLES[request.param]


def replaced(space: AddressSpace, region: AddressSpaceRegion) -> None:
    """Puts an equal region in the place of the one named `mine`, with bytes of its own."""
    with space.transaction() as change:
        change.remove_region("mine")
        change.insert_region(region)
    if region.region_type.value == "ram":
        space.memory.write(BASE, BYTES)


def check_untouched(space: AddressSpace, region: AddressSpaceRegion) -> None:
    assert space["mine"] is region
    if region.region_type.value == "ram":
        assert space.memory.read(BASE, SIZE) == BYTES + bytes(SIZE - len(BYTES))


def test_a_handle_leaves_alone_what_took_its_place(kind: Handle) -> None:
    space, memory = mapped(kind.region)
    handle, other = kind.make(space), kind.region.replace()
    kind.let_go(handle)
    replaced(space, other)
    for verb in kind.verbs:
        with pytest.raises((UnmappedAddress, NotMapped), match="'mine'"):
            verb(handle)
    kind.holds(handle)
    check_untouched(space, other)
    memory.close()


def test_a_handle_follows_its_region_to_another_name(kind: Handle) -> None:
    space, _ = mapped(kind.region)
    handle = kind.make(space)
    base = space.replace_region("mine", kind.region.replace(name="renamed"))
    for verb in kind.verbs:
        if kind is not HANDLES["DaxWindow"]:
            verb(handle)
    assert "renamed" in base
    kind.let_go(handle)


def test_blocks_that_wait_for_a_change_give_nothing_back_of_what_it_brings() -> None:
    region = ram(BASE, SIZE, name="mine")
    space, memory = mapped(region)
    blocks, other = Blocks().make(space), region.replace()
    asked, go_on, refused = threading.Event(), threading.Event(), []

    class Slow:
        def prepare(self, change: AddressSpaceChange) -> None:
            if change.removed:
                asked.set()
                go_on.wait(30)

        def commit(self, change: AddressSpaceChange) -> None: ...

        def rollback(self, change: AddressSpaceChange) -> None: ...

    def unplug() -> None:
        try:
            blocks.unplug_all()
        except UnmappedAddress as error:
            refused.append(error)

    with space.subscribe(Slow()):
        changing = threading.Thread(target=replaced, args=(space, other))
        changing.start()
        asked.wait(30)
        unplugging = threading.Thread(target=unplug)
        unplugging.start()
        # It waits for the change by now, or comes when all is over: it is refused in any case.
        unplugging.join(0.2)
        go_on.set()
        for thread in (changing, unplugging):
            thread.join()
    assert "removed" in str(refused[0])
    check_untouched(space, other)
    memory.close()


def test_a_request_removes_its_region_under_another_name() -> None:
    region = ram(BASE, SIZE, name="mine")
    space, _ = mapped(region)
    request = space.request_unplug("mine")
    space.replace_region("mine", region.replace(name="renamed"))
    assert len(space.remove_region(request)) == 0
    assert request.done()


# DIMMs.


def machine() -> tuple[AddressSpace, DimmSlots]:
    space = AddressSpaceBuilder("q35", numa_regions=["64MiB"], hotplug=Hotplug("4GiB", slots=2)).build()
    return space, DimmSlots(space, slots=2, size=2 * GIB, align=SIZE)


def test_a_slot_does_not_take_another_region_for_its_dimm() -> None:
    space, slots = machine()
    dimm = slots.plug(SIZE, name="d1")
    space.remove_region("d1")
    other = dimm.replace(is_hotplug=False)
    slots.window.insert_region(other)
    assert slots.dimms == {}
    with pytest.raises(UnmappedAddress, match=r"no DIMM is named 'd1'.*'d1'.*is not one"):
        slots.unplug("d1")
    assert space["d1"] is other


def test_another_region_of_a_dimms_name_stays() -> None:
    space, slots = machine()
    slots.plug(SIZE, name="d1")
    space.remove_region("d1")
    space.insert_region(ram(32 * GIB, name="d1"))
    with pytest.raises(UnmappedAddress, match="no DIMM is named 'd1'"):
        slots.unplug("d1")
    assert "d1" in space


def test_a_dimm_of_another_name_is_the_dimm() -> None:
    space, slots = machine()
    dimm = slots.plug(SIZE, name="d1")
    space.replace_region("d1", dimm.replace(name="d2"))
    assert [dimm.name for dimm in slots.dimms.values()] == ["d2"]
    slots.unplug("d2")
    assert slots.dimms == {}
    assert "d2" not in space


# Others.


def test_a_file_and_a_memory_are_of_one_mapping() -> None:
    space, memory = mapped(ram(0))
    file = memory.open("r+b")
    memory.close()
    new = space.map_memory()
    new.write(0, BYTES)
    for use in (
        lambda: file.write(b"x"),
        lambda: file.read(1),
        lambda: memory.write(0, b"x"),
        lambda: memory.read(0, 1),
    ):
        with pytest.raises(NotMapped):
            use()
    memory.close()
    assert new.read(0, len(BYTES)) == BYTES


def test_a_reservation_ends_for_good() -> None:
    space, _ = mapped()
    old = space.reserve("1MiB", owner="mine", base=GIB)
    old.release()
    new = space.reserve("1MiB", owner="mine", base=GIB)
    with pytest.raises(AddressSpaceError, match="'mine'"):
        old.insert_region(ram(GIB))
    old.release()
    assert (old.is_active, new.is_active) == (False, True)


@pytest.mark.parametrize("verb", ["remove_region", "replace_region"])
def test_a_transaction_means_the_regions_that_were_there(verb: str) -> None:
    region = ram(BASE, SIZE, name="mine")
    space, _ = mapped(region)
    arguments = ("mine",) if verb == "remove_region" else ("mine", region.replace(prot_flags="r--"))
    other = region.replace()

    def stage_and_lose() -> None:
        with space.transaction() as change:
            getattr(change, verb)(*arguments)
            replaced(space, other)

    with pytest.raises(UnmappedAddress, match=r"'mine'.*was removed"):
        stage_and_lose()
    check_untouched(space, other)


def test_a_released_reservation_inserts_nothing() -> None:
    space = mapped(ram(0))[0]
    reservation = space.reserve("1MiB", owner="dimm")
    reservation.release()
    with pytest.raises(InvalidArgument, match="was released"):
        reservation.insert_region(ram(reservation.base, PAGE))
    assert len(space) == 1
