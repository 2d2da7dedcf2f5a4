"""The fuzzer's world: everything public by its owner, and an object of each class."""

import enum
import inspect
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import dbs_address_space as package
from attachment_kinds import ATTACHED, Kind, space_to_follow
from dbs_address_space import (
    AddressSpace,
    AddressSpaceBuilder,
    AddressSpaceError,
    AddressSpaceLayout,
    AddressSpaceRegion,
    DirtyPages,
    Machine,
)
from dbs_address_space.adapters import _qemu_space, qemu
from elf_programs import elf
from fuzz_arguments import DEVICE, WINDOW
from hostile import Hostile

LAYOUT = AddressSpaceLayout(1 << 46, 0, 1 << 45)
MODULES = [
    package,
    *map(import_module, (f"dbs_address_space.{name}" for name in ("tables", "adapters.gdb", "adapters.qemu"))),
]
UNCALLED = {"__class__", "__new__", "__init_subclass__", "__subclasshook__", "__del__", "__setattr__", "__delattr__"}
"""These are not the package's, or would change the class for all."""

Member = tuple[Any, str]
"""An owner, which is a module or class, and a name."""


def is_public(name: str) -> bool:
    return not name.startswith("_") or (name.startswith("__") and name not in UNCALLED)


def classes() -> list[type]:
    found = {value for module in MODULES for value in vars(module).values() if inspect.isclass(value)}
    found |= {getattr(package, name) for name in dir(package) if inspect.isclass(getattr(package, name))}
    ours = [kind for kind in found if kind.__module__.startswith("dbs_address_space") and is_public(kind.__name__)]
    ours = [kind for kind in ours if kind.__name__ != "NamedTuple"]
    return sorted(ours, key=lambda kind: kind.__name__)


def members() -> list[Member]:
    """Every public class, function, method and property, and what Python calls by itself."""
    functions = [(module, name) for module in MODULES for name in module.__all__]
    owned = [(kind, name) for kind in classes() if not is_plain(kind) for name in dir(kind) if is_own(kind, name)]
    methods = [(kind, name) for kind, name in owned if callable(getattr(kind, name)) and not name.startswith("_")]
    # These have the most arguments.
    return [*functions, *owned, *3 * methods]


def is_own(kind: type, name: str) -> bool:
    """Whether a public member is the package's, and not what every object or tuple has."""
    member = getattr(kind, name)
    builtin = any(member == getattr(plain, name, None) for plain in (object, tuple))
    return is_public(name) and not builtin and type(member).__name__ != "_Guess"


def is_plain(kind: type) -> bool:
    """An enumeration or an error: only its constructor is called."""
    return issubclass(kind, (enum.Enum, BaseException))


class World:
    """A space with memory, an object of everything that lives on it, and what stands at the other side."""

    def __init__(self, seed: str, directory: Path, call: Callable[["World"], object]) -> None:
        self.random = random.Random(seed)
        self.call = call
        self.depth = 0
        self.thread = threading.Thread()
        self.path = directory / "bytes"
        self.path.write_bytes(bytes(range(256)) * 64)
        self.file = self.path.open("r+b", buffering=0)
        self.space = AddressSpace.from_regions(self.regions(), LAYOUT)
        self.memory = self.space.map_memory()
        self.kinds = [kind() for kind in ATTACHED.values()]
        self.objects: list[Any] = list(self.made())

    def regions(self) -> list[AddressSpaceRegion]:
        return [
            AddressSpaceRegion("ram", 0, "64KiB", name="low"),
            AddressSpaceRegion("ram", 0x10000, "64KiB", mem_type="mmap", prot_flags="r--"),
            AddressSpaceRegion.from_buffer(0x40000, bytearray(0x3000), name="borrowed"),
            AddressSpaceRegion.from_file(0x80000, "16KiB", self.file, name="file"),
            AddressSpaceRegion.create_firmware_region(0xC0000, "64KiB", "r-x", name="rom"),
            AddressSpaceRegion("ram", 0x100000, "1MiB", mem_type="mmap", name="more"),
            AddressSpaceRegion.create_device_region(DEVICE, "4KiB", name="uart"),
            AddressSpaceRegion.create_device_region(DEVICE + 0x1000, "4KiB", name="device"),
            AddressSpaceRegion.create_dax_region(WINDOW, "1MiB", name="dax"),
        ]

    def made(self) -> Iterator[Any]:
        space, memory = self.space, self.memory
        yield from [space, memory, space.snapshot(), LAYOUT, *space.regions, space.snapshot().diff(space.snapshot())]
        yield from [memory.pin(0, 4096), memory.part(0, 4096), memory.mapping(0)]
        yield from [memory.open("r+b"), memory.search(b"\1\2\3")]
        yield from [*space.rows(), memory.dirty.start(), memory.dirty.start("api"), memory.checkpoint()]
        yield from [memory.view(0, 16).obj, memory.array(0, 16, "u1").base]
        window = memory.dax_window("dax")
        window.map_file(0, self.file, 0, 4096)
        yield from [window, *window.mappings, *memory.effective(), *memory.verify_placement()]
        yield from [DirtyPages([(0, 8192)]), package.BytePattern("?? 12"), package.NumaIdTable(), package.NumaNode()]
        yield from [package.BackingOptions(), package.NumaPolicy("bind", [0]), package.Hotplug("1GiB")]
        yield from [package.NumaRegionInfo("4MiB"), package.NumaNodeInfo(0, 4096), package.AddressRange(0, 8)]
        builder = AddressSpaceBuilder(numa_regions=["128MiB"], hotplug=package.Hotplug("256MiB", 1))
        yield from [Machine.named("q35"), builder, builder.plan(), builder.plan().cost]
        yield space.save(self.path.with_name("vm.img"))
        request = space.request_unplug("more")
        yield from [space.transaction(), space.reserve("64KiB", owner="fuzzer"), request]
        planned = builder.plan().build()
        yield from [planned, package.DimmSlots(planned, slots=1, size="128MiB")]
        yield from [package.MemoryBlocks(memory, "more", block_size=1 << 16), package.Balloon(memory)]
        populating = memory.prealloc(background=True)
        populating.wait(10)
        yield from [populating, populating.report, package.Lease("view", 0, 8), package.Progress("search", 0, 1, 0.0)]
        yield from [space.stats(), memory.checkpoint().stats, package.Balloon(memory).stats]
        program = memory.load_elf(elf([(0, 0x2000, 8, b"program.")]))
        yield from [program, package.ElfNote("Xen", 18, b""), package.RestoreStats(None, None, 0, 0, 0, None)]
        yield from [
            package.SendReport(
                converged=False,
                passes=1,
                size=0,
                seconds=0,
                estimated_downtime=0,
                downtime=None,
                content=None,
                sources=(),
            ),
            package.ReceiveReport(1, 0, 0.0, "", {}),
        ]
        yield package.SendProgress("send", 0, 1, 0.0, 1, None)
        yield package.Follower(1, 0, 0, writable=True, leases=())
        # One of its own: a back-end can't map memory that is private to this process.
        followed = space_to_follow()
        yield from [followed, followed.memory, *followed.memory.vhost_user_regions()]
        for kind in self.kinds:
            # It may be asked for what it never answers.
            kind.patience = 0.5
            yield kind.attach(followed)
        yield space.attach_device("device", Hostile(self, "collect"))
        yield qemu.QemuSpace(os.getpid(), _qemu_space._Found((), 1 << 20))  # noqa: SLF001  no QEMU is needed for an empty one

    def instance(self, kind: Any) -> Any:
        """An object of a class; now and then the class itself."""
        found = [value for value in self.objects if isinstance(value, kind)] if inspect.isclass(kind) else []
        return self.random.choice(found) if found and self.random.random() < 0.95 else kind

    def missing(self) -> list[str]:
        """The classes of which there is no object."""
        wanted = [kind for kind in classes() if not is_plain(kind)]
        return [kind.__name__ for kind in wanted if not any(isinstance(value, kind) for value in self.objects)]

    def keep(self, value: Any) -> None:
        """Objects of the package can be called further."""
        is_ours = type(value).__module__.startswith("dbs_address_space")
        if is_ours and not is_plain(type(value)) and len(self.objects) < 150:
            self.objects.append(value)

    # What hostile objects do.

    def meddle(self) -> None:
        self.memory.read(0, 8)
        base = self.random.randrange(0x1000000, 0x2000000, 0x1000)
        self.space.insert_region(AddressSpaceRegion("ram", base, "4KiB"))
        self.memory.write_u64(base, 1)
        self.space.remove_region(base)

    def meddle_in_thread(self) -> None:
        # One at a time: clients that are told of what it does may wish for another.
        if self.thread.is_alive():
            return
        self.thread = threading.Thread(target=self.meddle_quietly)
        self.thread.start()
        # A caller that held a lock would be waited for.
        self.thread.join(0.5)

    def meddle_quietly(self) -> None:
        with suppress(Exception):
            self.meddle()

    def close(self) -> None:
        self.memory.close()

    def detach(self) -> None:
        ends = [getattr(value, "detach", None) or getattr(value, "release", None) for value in self.objects]
        self.random.choice([end for end in ends if end and not isinstance(end, ModuleType)])()

    def call_again(self) -> None:
        if self.depth < 3:
            self.call(self)

    def fileno(self) -> int:
        return self.file.fileno()

    def fork(self) -> None:
        child = os.fork()
        if child == 0:
            # A verb in the child answers or raises; no watchdog of the parent lives there.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            with suppress(BaseException):
                self.memory.read(0, 8)
            with suppress(BaseException):
                self.space.remove_region("low")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemError(f"a forked child ended with {status}")

    def end(self) -> None:
        if self.thread.is_alive():
            self.thread.join()
        for kind in self.kinds:
            end(kind)
        self.objects.clear()
        self.file.close()


def end(kind: Kind) -> None:
    with suppress(AddressSpaceError, OSError):
        kind.close()
