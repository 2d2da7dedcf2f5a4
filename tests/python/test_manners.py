"""The manners that Python programmers expect of a class: weak references, `with`, a telling `repr`, an honest `dir()`."""

import gc
import re
import subprocess
import sys
import weakref

import dbs_address_space
import pytest
from dbs_address_space import (
    AddressRange,
    AddressSpace,
    AddressSpaceBuilder,
    AddressSpaceRegion,
    BackingOptions,
    ClientError,
    DaxMapping,
    DimmSlots,
    DirtyPages,
    Hotplug,
    Lease,
    PlanCost,
    PreallocReport,
    Progress,
    Prot,
    RegionBusy,
    _core,
)
from memory_helpers import LAYOUT, MIB, PAGE, mapped, ram
from public_callables import World, signatures

CLASSES = [value for value in vars(_core).values() if isinstance(value, type)]


@pytest.mark.parametrize("native", CLASSES, ids=lambda native: native.__name__)
def test_every_native_class_has_weak_references(native: type) -> None:
    assert native.__weakrefoffset__ > 0


def test_a_weak_reference_keeps_nothing() -> None:
    space = AddressSpace(LAYOUT)
    reference = weakref.ref(space)
    assert reference() is space
    del space
    gc.collect()
    assert reference() is None


def test_dir_is_what_is_public() -> None:
    program = """
import dbs_address_space
print(sorted({*dbs_address_space.__all__, "adapters", "formats", "tables", "testing"}) == dir(dbs_address_space))
print(dbs_address_space.tables.e820.__name__)
print([getattr(dbs_address_space.adapters, name).__name__.rpartition(".")[2] for name in dir(dbs_address_space.adapters)])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\ne820\n['drgn', 'gdb', 'kvm_state', 'qemu', 'unicorn', 'volatility3']\n"
    assert not {"sys", "_core", "import_module"} & set(dir(dbs_address_space))


def test_a_space_is_closed_with_its_memory_and_its_attachments() -> None:
    with mapped(ram(0, MIB))[0] as space:
        attachment = space.subscribe(print)
    assert (space.is_mapped, space.clients, attachment.is_attached, len(space)) == (False, (), False, 1)
    space.close()


def test_a_space_that_is_held_stays_as_it_is() -> None:
    space, memory = mapped(ram(0, MIB))
    attachment = space.subscribe(print)
    with memory.view(0, 16):
        with pytest.raises(RegionBusy):
            space.close()
        assert (space.is_mapped, space.clients) == (True, (attachment,))
    space.close()


def test_the_exception_of_the_body_passes() -> None:
    space, memory = mapped(ram(0, MIB))
    with pytest.raises(KeyError) as raised, space:
        view = memory.view(0, 16)
        raise KeyError("mine")
    assert "closing failed too" in raised.value.__notes__[0]
    view.release()


def test_reprs_are_in_hex_and_tell_something() -> None:
    space = AddressSpaceBuilder("q35", numa_regions=["1GiB"], hotplug=Hotplug("4GiB", slots=2)).build()
    slots = DimmSlots(space, slots=2, size=3 << 30)
    slots.plug("1GiB", name="dimm0")
    memory = mapped(AddressSpaceRegion("ram", 0, MIB))[1]
    file = memory.open()
    file.seek(0x1000)
    assert repr(slots) == "DimmSlots({0: 'dimm0' 0x4000_0000}, slots=2, size=0xc000_0000)"
    assert repr(file) == "<GuestFile mode='rb' at 0x1000>"
    file.close()
    assert repr(file) == "<GuestFile mode='rb' closed>"
    assert repr(AddressRange(1 << 32, 4096)) == "AddressRange(base=0x1_0000_0000, size=0x1000)"
    assert eval(repr(AddressRange(1 << 32, 4096))) == AddressRange(1 << 32, 4096)
    assert "mmap_offset=0x0" in repr(memory.vhost_user_regions()[0])
    assert repr(DaxMapping(4096, 8192, 0, Prot.READ)).startswith(
        "DaxMapping(offset=0x1000, size=0x2000, file_offset=0x0, "
    )
    assert repr(DirtyPages([(1 << 32, 8192)])) == "DirtyPages(2 pages of 0x1000 bytes in 1 ranges)"


def test_closing_a_space_ends_all_attachments_whatever_one_of_them_says() -> None:
    class Client:
        def prepare(self, change: object) -> None: ...
        def commit(self, change: object) -> None: ...
        def rollback(self, change: object) -> None: ...

        def leave(self) -> None:
            raise ValueError("not yet")

    space, _ = mapped(ram(0))
    first, second = space.subscribe(Client()), space.subscribe(print)
    with pytest.raises(ClientError, match="not yet"):
        space.close()
    assert (first.is_attached, second.is_attached, space.is_mapped) == (False, False, False)


DECIMAL = re.compile(r"(?<![\w.])\d{4,}(?![\w.]|_)")
"""A number that is long enough to be an address or bytes."""


def everything() -> list[object]:
    """An object of each class, with values of their own kinds."""
    world = World()
    memory, plan = world.memory, AddressSpaceBuilder("q35", numa_regions=["1GiB"]).plan()
    names = {signature.owner for signature in signatures()} - {""}
    return [
        *(world.owner(name) for name in sorted(names)),
        BackingOptions(page_size="2MiB", alignment="4MiB", policy="bind", seals=["grow"]),
        plan.cost,
        memory.prealloc(),
        memory.effective()[0],
        memory.verify_placement()[0]._replace(sampled=7, nodes={0: 7}),
        memory.search(b"x", start=PAGE),
        Progress("map", MIB, 1 << 30, 3.0),
        Lease("view", PAGE, PAGE),
    ]


def test_no_repr_has_bytes_in_decimal() -> None:
    shown = [repr(value) for value in everything()]
    assert [
        text for text in shown if DECIMAL.search(re.sub(r"nodes=\{0: \d+\}|seconds=[\d.e-]+|: \d+\}, nodes=", "", text))
    ] == []
    assert [text for text in shown if " object at 0x" in text] == []
    assert len(shown) >= 38


def test_reprs_of_reports_are_their_values() -> None:
    for value in (
        BackingOptions(page_size="2MiB", alignment="4MiB"),
        AddressSpaceBuilder("q35", numa_regions=["1GiB"]).plan().cost,
        Progress("map", MIB, 1 << 30, 3.0),
        Lease("view", PAGE, PAGE),
        PreallocReport(MIB, threads=1, seconds=0.5, touched=False),
    ):
        assert eval(repr(value), vars(dbs_address_space) | {"PlanCost": PlanCost}) == value


HANDLES = ["DimmSlots", "GuestFile", "MemoryBlocks", "SavedSpace"]


@pytest.mark.parametrize("name", HANDLES)
def test_every_handle_in_python_has_weak_references(name: str) -> None:
    handle = World().owner(name)
    assert weakref.ref(handle)() is handle
