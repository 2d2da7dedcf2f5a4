"""Every public callable as its source declares it, with an object that has it and arguments that do."""

import ast
import inspect
import os
import shutil
import socket
import weakref
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any

import dbs_address_space as package
from dbs_address_space import (
    AddressRange,
    AddressSpaceBuilder,
    AddressSpaceRegion,
    DimmSlots,
    Hotplug,
    Machine,
    MemoryBlocks,
    NumaNodeInfo,
    SavedSpace,
    tables,
)
from dbs_address_space.adapters import qemu
from dbs_address_space.guest_file import GuestFile
from elf_programs import elf
from memory_helpers import GIB, LAYOUT, MIB, PAGE

SOURCE = Path(package.__file__).parent
UNCALLED = {
    *("AddressSpace.attach_unicorn", "AddressSpace.attach_drgn", "KvmSlots", "VhostUserClient"),
    *("AddressSpace.attach", "AddressSpace.share"),
}
"""Callables that want another program, and are tested where that is."""

NEEDED = {"AddressSpaceRegion.from_file.file", "DimmSlots.__init__.size", "DimmSlots.__init__.slots"}
"""Arguments that may be left out by the signature alone."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a callable: its name and annotation, whether it must be given."""

    name: str
    annotation: str
    is_required: bool
    is_keyword: bool = False
    """By name only."""
    is_positional: bool = False
    """By position only."""

    def takes(self, *kinds: str) -> bool:
        return any(kind in self.annotation for kind in kinds)


@dataclass(frozen=True)
class Signature:
    """The name of a callable, with that of its class, and its parameters."""

    owner: str
    name: str
    parameters: tuple[Parameter, ...]

    def __str__(self) -> str:
        return f"{self.owner}.{self.name}" if self.owner else self.name


def declared(path: Path) -> Iterator[Signature]:
    """The public functions and methods of a module; `__new__` and `__init__` are the call of their class."""
    tree = ast.parse(path.read_text())
    shown = exported(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name in shown:
            yield Signature("", node.name, tuple(parameters(node)))
        if isinstance(node, ast.ClassDef) and node.name in shown:
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and is_public(method.name):
                    yield Signature(node.name, method.name, tuple(parameters(method)))


def exported(tree: ast.Module) -> set[str]:
    """The names without an underscore that a module says it shows, or all of them where it does not say."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return {name for name in ast.literal_eval(node.value) if not name.startswith("_")}
    names = (node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef))
    return {name for name in names if not name.startswith("_")}


def is_public(name: str) -> bool:
    return not name.startswith("_") or name in {"__new__", "__init__", "__contains__", "__getitem__"}


def parameters(function: ast.FunctionDef) -> Iterator[Parameter]:
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    required = len(positional) - len(arguments.defaults)
    for index, argument in enumerate(positional):
        if argument.annotation is not None:
            only = argument in arguments.posonlyargs
            yield Parameter(argument.arg, ast.unparse(argument.annotation), index < required, is_positional=only)
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        assert argument.annotation is not None
        yield Parameter(argument.arg, ast.unparse(argument.annotation), default is None, is_keyword=True)


@cache
def signatures() -> tuple[Signature, ...]:
    """Of the extension and of the package's modules, overloads once each."""
    files = [
        "_core.pyi",
        "balloon.py",
        "hotplug.py",
        "images.py",
        "memory_blocks.py",
        "ranges.py",
        "guest_file.py",
        "adapters/qemu.py",
    ]
    # Of overloads, the last says most.
    found = {str(one): one for file in files for one in declared(SOURCE / file)}
    return tuple(one for one in found.values() if str(one) not in UNCALLED and one.owner not in UNCALLED)


class World:
    """A mapped space, and one object of each class that lives on it."""

    def __init__(self) -> None:
        self.space = AddressSpaceBuilder("q35", numa_regions=["4MiB"], hotplug=Hotplug("4GiB", slots=2)).build()
        self.uart = AddressSpaceRegion.create_device_region(0xC000_0000, PAGE, name="uart")
        self.space.insert_region(self.uart)
        self.space.insert_region(AddressSpaceRegion.create_dax_region(0xC020_0000, 2 * MIB, name="dax"))
        handler = SimpleNamespace(read=lambda _offset, _size: 0, write=lambda _offset, _size, _value: None)
        self.descriptor = os.memfd_create("a user's")
        os.ftruncate(self.descriptor, 2 * MIB)
        self.handler = handler
        ours, theirs = socket.socketpair()
        self.socket, _ = ours.detach(), theirs.detach()
        ended, gone = socket.socketpair()
        gone.close()
        self.closed_socket = ended.detach()
        self.space.attach_device("uart", handler)
        self.memory = self.space.memory
        self.folder = mkdtemp()
        weakref.finalize(self, shutil.rmtree, self.folder)
        self.image = f"{self.folder}/vm.img"
        self.space.save(self.image).close()
        self.transaction = self.space.transaction()
        self.transaction.__enter__()

    def owner(self, name: str) -> Any:
        """An object of a class, or what has a function."""
        space, memory, base = self.space, self.memory, self.space.snapshot()
        makers: dict[str, Callable[[], object]] = {
            "": lambda: SimpleNamespace(**{**vars(tables), **vars(qemu), **vars(package._core)}),  # noqa: SLF001
            "AddressSpace": lambda: space,
            "AddressSpaceBase": lambda: base,
            "AddressSpaceBuilder": lambda: AddressSpaceBuilder(numa_regions=["4MiB"]),
            "AddressSpaceChange": lambda: base.diff(base),
            "AddressSpaceLayout": lambda: LAYOUT,
            "AddressSpacePlan": lambda: AddressSpaceBuilder(numa_regions=["4MiB"]).plan(),
            "AddressSpaceRegion": lambda: self.uart,
            "AddressRange": lambda: AddressRange(0, PAGE),
            "Attachment": lambda: space.clients[0],
            "BackingOptions": package.BackingOptions,
            "Balloon": lambda: package.Balloon(memory),
            "BytePattern": lambda: package.BytePattern("00"),
            "Checkpoint": memory.checkpoint,
            "DaxWindow": lambda: memory.dax_window("dax"),
            "DimmSlots": lambda: DimmSlots(space, slots=2, size=GIB),
            "DirtyPages": package.DirtyPages,
            "DirtyTracker": lambda: memory.dirty.start("api"),
            "GuestFile": self.file,
            "GuestMemory": lambda: memory,
            "Hotplug": lambda: Hotplug("1GiB"),
            "Machine": lambda: Machine.named("q35"),
            "Mapping": lambda: memory.mapping(0),
            "MemoryPart": lambda: memory.part(0, PAGE),
            "MemoryBlocks": lambda: MemoryBlocks(memory, "ram0"),
            "NumaIdTable": package.NumaIdTable,
            "NumaNode": package.NumaNode,
            "NumaNodeInfo": lambda: NumaNodeInfo(0, PAGE),
            "NumaPolicy": lambda: package.NumaPolicy("bind", [0]),
            "NumaRegionInfo": lambda: package.NumaRegionInfo("4MiB"),
            "Pin": lambda: memory.pin(0, PAGE),
            "PreallocHandle": lambda: memory.prealloc(background=True),
            "Reservation": lambda: space.reserve(PAGE, owner="test", region_type="device"),
            "SavedSpace": lambda: SavedSpace(self.image),
            "Share": lambda: space.share(self.socket, private="skip", writable=False),
            "Subscription": lambda: space.subscribe(print),
            "Transaction": lambda: self.transaction,
            "UnplugRequest": lambda: space.request_unplug("uart"),
            "VhostUserRegion": lambda: memory.vhost_user_regions()[0],
        }
        return makers[name]()

    def file(self) -> GuestFile:
        """A file at the end of which a line is short."""
        file = self.memory.open("r+b")
        file.seek(self.space["ram0"].end - 8)
        return file

    def callable(self, signature: Signature) -> Callable[..., object]:
        owner = self.owner(signature.owner)
        if signature.name in {"__new__", "__init__"}:
            return type(owner)
        found: Callable[..., object] = getattr(owner, signature.name)
        return found

    def argument(self, signature: Signature, parameter: Parameter) -> object:
        """An argument that the callable takes."""
        named: dict[str, Callable[[], object]] = {
            "AddressSpace.attach_device.base": lambda: "uart",
            "AddressSpace.dispatch.addr": lambda: self.uart.base,
            "AddressSpace.dispatch.size": lambda: 1,
            "AddressSpace.protect.addr": lambda: 1 << 40,
            "AddressSpace.wait_for_change.generation": lambda: 1 << 32,
            "AddressSpaceBuilder.__new__.numa_regions": lambda: ["4MiB"],
            "AddressSpaceBuilder.__new__.machine": lambda: "q35",
            "AddressSpaceLayout.__new__.phys_end": lambda: 1 << 46,
            "AddressSpaceLayout.__new__.mem_end": lambda: 1 << 45,
            "AddressSpaceLayout.__new__.mmio_windows": lambda: [(0, 0)],
            "AddressRange.intersect.other": lambda: AddressRange(0, PAGE),
            "BytePattern.__new__.text": lambda: "00",
            "DimmSlots.__init__.size": lambda: GIB,
            "DimmSlots.__init__.slots": lambda: 2,
            "DimmSlots.plug.size": lambda: GIB,
            "DimmSlots.unplug.name": lambda: "dimm",
            "AddressSpace.save.path": lambda: f"{self.folder}/new.img",
            "SavedSpace.merge.path": lambda: f"{self.folder}/new.img",
            "SavedSpace.serve_uffd.sock": lambda: self.closed_socket,
            "DirtyPages.__new__.page_size": lambda: PAGE,
            "GuestMemory.fetch_add.size": lambda: 8,
            "GuestMemory.dax_window.region": lambda: "dax",
            "GuestMemory.load_elf.file": elf,
            "GuestMemory.load_image.file": lambda: b"x",
            "GuestMemory.readv.ranges": lambda: [(0, 8)],
            "GuestMemory.readv_into.ranges": lambda: [(0, 8)],
            "GuestMemory.view.size": lambda: PAGE,
            "Machine.__new__.mem_end": lambda: 1 << 32,
            "Machine.__new__.phys_bits": lambda: 36,
            "Machine.named.name": lambda: "q35",
            "MemoryBlocks.__init__.region": lambda: "ram0",
            "MemoryBlocks.__init__.block_size": lambda: 2 * MIB,
            "NumaPolicy.__new__.mode": lambda: "bind",
            "NumaPolicy.__new__.nodes": lambda: [0],
            "DaxWindow.map_file.prot": lambda: "r--",
            "slit.distances": lambda: [[10]],
            "srat.numa_nodes": dict,
            "srat.arch": lambda: "x86_64",
            "space_of_tree.text": lambda: "",
            "hotplug_commands.region": lambda: self.space["ram0"],
            "unplug_commands.region": lambda: self.space["ram0"],
        }
        general: dict[str, Callable[[], object]] = {
            "addresses": lambda: array("Q", [0]),
            "background": lambda: True,
            "buffer": lambda: bytearray(PAGE),
            "callback": lambda: print,
            "change": lambda: None,
            "client_or_callable": lambda: print,
            "data": lambda: b"x",
            "distances": lambda: [[10]],
            "dtype": lambda: "u1",
            "encoding": lambda: "ascii",
            "execute": lambda: lambda *_: "",
            "file": lambda: self.descriptor,
            "fmt": lambda: "<B",
            "gap": lambda: 0,
            "handler": lambda: self.handler,
            "infos": list,
            "info": lambda: NumaNodeInfo(0, PAGE),
            "layout": lambda: LAYOUT,
            "mem_file_path": lambda: "",
            "mem_prealloc": lambda: False,
            "mem_type": lambda: "shmem",
            "memory": lambda: self.memory,
            "name": lambda: "free",
            "needle": lambda: b"x",
            "numa_node_id": lambda: None,
            "other": lambda: self.uart,
            "after": self.space.snapshot,
            "owner": lambda: "test",
            "pairs": lambda: [(0, b"x")],
            "path": lambda: self.image,
            "plan": lambda: None,
            "progress": lambda: None,
            "prot_flags": lambda: 3,
            "region": lambda: self.uart,
            "old": lambda: "uart",
            "new": lambda: 0 if parameter.takes("SupportsIndex") else self.uart,
            "regions": list,
            "region_type": lambda: "ram",
            "sock": lambda: None,
            "space": lambda: self.space,
            "text": lambda: "{}",
            "value": lambda: 0,
            "x": lambda: "uart",
            "size": lambda: 8 if parameter.annotation == "SupportsIndex" else PAGE,
        }
        maker = named.get(f"{signature}.{parameter.name}") or general.get(parameter.name)
        return maker() if maker else 0

    def required(self, signature: Signature, *, but: str = "") -> dict[str, object]:
        return {
            parameter.name: self.argument(signature, parameter)
            for parameter in signature.parameters
            if (parameter.is_required or f"{signature}.{parameter.name}" in NEEDED) and parameter.name != but
        }


def call(
    function: Callable[..., object], signature: Signature, arguments: dict[str, object], **others: object
) -> object:
    """Calls it with what it requires by position where it may, for some take that only so; the rest, and `others`, by name."""
    positional = [
        one.name
        for one in signature.parameters
        if one.name in arguments and (one.is_positional or (one.is_required and not one.is_keyword))
    ]
    named = {name: value for name, value in arguments.items() if name not in positional}
    result = function(*(arguments[name] for name in positional), **named, **others)
    if inspect.iscoroutine(result):
        result.close()
    return result
