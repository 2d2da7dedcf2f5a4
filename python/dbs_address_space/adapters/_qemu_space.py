"""A space over the memory of a running QEMU: the map comes by QMP, the bytes from the files that the process has open."""

from __future__ import annotations

import os
import re
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from dbs_address_space._core import AddressSpace, AddressSpaceLayout, AddressSpaceRegion, checked_answer, checked_int
from dbs_address_space.adapters._qemu_map import END, Range, flat_view, unique_name
from dbs_address_space.errors import InvalidArgument, Unsupported

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator
    from types import TracebackType
    from typing import Self

    from dbs_address_space._core import AddressSpaceChange, GuestMemory, Reservation

__all__ = [
    "QemuSpace",
    "check_execute",
    "memdev_name",
    "open_space",
    "open_space_async",
    "ram_names",
    "run_steps",
]

_Result = TypeVar("_Result")
if TYPE_CHECKING:
    Steps = Generator[tuple[str, dict[str, Any]], Any, _Result]
    """Commands, each with its arguments, that are sent their answers: by a caller who waits, or who awaits."""

_TRIES = 20
_WINDOW = re.compile(r"^\s*([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, i/o\): device-memory\b", re.MULTILINE)
_HOST = re.compile(r"Host virtual address for \S+ \(.*\) is (0x[0-9a-f]+)")


class _Ram(NamedTuple):
    """A range of RAM, and its place in a file that QEMU has open."""

    base: int
    size: int
    name: str
    file: tuple[int, int]
    """The numbers of its device and its inode: paths say nothing, and two files may have one name."""
    offset: int
    is_hotplug: bool


class _Found(NamedTuple):
    """A look at a QEMU: its RAM, and the end of the addresses that RAM may have."""

    ram: tuple[_Ram, ...]
    end: int


class QemuSpace:
    """The RAM of a running QEMU as a mapped space, made by `open_space`.

    `space` is the map, and `memory` has the bytes that the guest sees. What is not RAM, up to the end of the addresses for memory
    devices, is reserved. Call `refresh` when the guest's map has moved: after commands of yours, on the event `DEVICE_DELETED`,
    and once firmware has run, of which there is no event.
    """

    def __init__(self, pid: int, found: _Found) -> None:
        self.pid: int = pid
        self.space: AddressSpace = AddressSpace(AddressSpaceLayout(END, 0, END // 2))
        self._execute: Callable[[str, dict[str, Any]], Any] | None = None
        self._known: tuple[_Ram, ...] = ()
        self._reservations: list[Reservation] = []
        self.memory: GuestMemory = self.space.map_memory()
        self._follow(found)

    def refresh(self) -> AddressSpaceChange:
        """Reads QEMU's map again and follows it in one transaction; returns the change.

        A range that stays keeps its views. Raises `RegionBusy` for one that goes and is held, and what `open_space` raises; then
        nothing has changed.
        """
        return self._follow(run_steps(_look(self.pid), self._sender()))

    async def refresh_async(self) -> AddressSpaceChange:
        """`refresh`, of a space that `open_space_async` made."""
        return self._follow(await _run_async(_look(self.pid), self._sender()))

    def close(self) -> None:
        """Unmaps the memory, which the guest keeps."""
        self.space.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _sender(self) -> Callable[[str, dict[str, Any]], Any]:
        if self._execute is None:
            raise InvalidArgument(
                "this space has nobody to send commands: it is made by open_space or open_space_async"
            )
        return self._execute

    def _follow(self, found: _Found) -> AddressSpaceChange:
        before = self.space.snapshot()
        gone, new = set(self._known) - set(found.ram), [ram for ram in found.ram if ram not in self._known]
        regions = _regions(self.pid, new)
        self._release()
        try:
            with self.space.transaction() as transaction:
                for ram in gone:
                    transaction.remove_region(ram.base)
                for region in regions:
                    transaction.insert_region(region)
            self._known = found.ram
        finally:
            self._reserve(found.end)
        return before.diff(self.space.snapshot())

    def _release(self) -> None:
        while self._reservations:
            self._reservations.pop().release()

    def _reserve(self, end: int) -> None:
        reached = 0
        for ram in (*self._known, None):
            base, behind = (ram.base, ram.base + ram.size) if ram else (end, end)
            if base > reached:
                reservation = self.space.reserve(base - reached, owner="QEMU", base=reached)
                self._reservations.append(reservation)
            reached = max(reached, behind)


def open_space(execute: Callable[[str, dict[str, Any]], Any], *, pid: int | None = None) -> QemuSpace:
    """The RAM of a running QEMU, mapped where the guest has it: a `QemuSpace`.

    `execute(command, arguments)` sends a QMP command and returns its result. `pid` is QEMU's: it may be left out where `execute`
    has the connected socket as its attribute `socket`. This process must be allowed to look into QEMU's `/proc`: the same user,
    or root. ROMs, video memory and what devices share (ivshmem) are not RAM. Raises `Unsupported` for RAM that is private to it,
    `OSError` where it can't be looked into, `TimeoutError` where its map moves all the time.
    """
    pid = _checked_pid(execute, pid)
    return _opened(pid, run_steps(_look(pid), execute), execute)


async def open_space_async(
    execute: Callable[[str, dict[str, Any]], Awaitable[Any]], *, pid: int | None = None
) -> QemuSpace:
    """`open_space` with an `execute` whose result is awaited; use `refresh_async` on what it gives."""
    pid = _checked_pid(execute, pid)
    return _opened(pid, await _run_async(_look(pid), execute), execute)


def _opened(pid: int, found: _Found, execute: Callable[[str, dict[str, Any]], Any]) -> QemuSpace:
    opened = QemuSpace(pid, found)
    opened._execute = execute  # noqa: SLF001  of this module
    return opened


def check_execute(execute: object) -> None:
    """Refuses what can't send commands."""
    if not callable(execute):
        raise TypeError(f"execute must be a function that sends a QMP command, not {type(execute).__name__}")


def _checked_pid(execute: object, pid: int | None) -> int:
    check_execute(execute)
    return _peer(execute) if pid is None else checked_int(pid, "pid")


def _peer(execute: object) -> int:
    connection = getattr(execute, "socket", None)
    if not isinstance(connection, socket.socket):
        raise InvalidArgument(
            "pid is not given, and execute has no attribute socket: give the number of QEMU's process"
        )
    pid: int = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return pid


def run_steps(steps: Steps[_Result], execute: Callable[[str, dict[str, Any]], Any]) -> _Result:
    """The result of steps, each command of which is sent and waited for."""
    answer = None
    while True:
        try:
            command, arguments = steps.send(answer)
        except StopIteration as end:
            result: _Result = end.value
            return result
        answer = checked_answer(execute(command, arguments), "execute")


async def _run_async(steps: Steps[_Result], execute: Callable[[str, dict[str, Any]], Any]) -> _Result:
    answer = None
    while True:
        try:
            command, arguments = steps.send(answer)
        except StopIteration as end:
            result: _Result = end.value
            return result
        answer = await execute(command, arguments)


def _monitor(line: str) -> Steps[str]:
    return (yield "human-monitor-command", {"command-line": line})  # type: ignore[no-any-return]


def _look(pid: int) -> Steps[_Found]:
    """A look at a map that was the same before and after."""
    for _ in range(_TRIES):
        tree = yield from _monitor("info mtree -f")
        found = yield from _found(pid, tree)
        if (yield from _monitor("info mtree -f")) == tree:
            return found
    raise TimeoutError(f"QEMU's map moved during each of {_TRIES} looks: try again, or stop the machine first")


def _found(pid: int, tree: str) -> Steps[_Found]:
    names = yield from ram_names()
    devices = yield from _memory_devices()
    ram, seen = [], set[str]()
    for found in flat_view(tree):
        device = devices.get(found.base)
        if found.kind != "ram" or found.name not in names:
            continue
        # All addresses of a virtio-mem device look like RAM: reading what is not plugged would allocate it.
        is_resizable = device is not None and "memaddr" in device
        size = min(found.size, device["size"]) if device and is_resizable else found.size
        if size:
            host = yield from _monitor(f"gpa2hva {found.base:#x}")
            file, offset = _file_at(pid, host, found._replace(size=size))
            name = unique_name((device or {}).get("id") or found.name, offset, seen)
            ram.append(_Ram(found.base, size, name, file, offset, device is not None))
    window = _WINDOW.search((yield from _monitor("info mtree")))
    ends = [one.base + one.size for one in ram] + ([int(window[2], 16) + 1] if window else [])
    return _Found(tuple(ram), max(ends, default=0))


def _memory_devices() -> Steps[dict[int, dict[str, Any]]]:
    listed = yield "query-memory-devices", {}
    found = [device["data"] for device in listed]
    return {device.get("addr", device.get("memaddr")): device for device in found}


def memdev_name(path: str) -> str:
    """The name of a memory backend from its path, such as `/objects/ram0`."""
    return path.rpartition("/")[2]


def ram_names() -> Steps[set[str]]:
    """The names of the memory backends that are RAM: all but those that a device which is not a memory device holds."""
    backends = yield "query-memdev", {}
    plugged = {
        memdev_name(device["memdev"]) for device in (yield from _memory_devices()).values() if "memdev" in device
    }
    held = set()
    for folder in ("/machine/peripheral", "/machine/peripheral-anon"):
        for child in (yield "qom-list", {"path": folder}):
            if not child["type"].startswith("child<"):
                continue
            path = f"{folder}/{child['name']}"
            properties = yield "qom-list", {"path": path}
            if any(member["name"] == "memdev" for member in properties):
                held.add(memdev_name((yield "qom-get", {"path": path, "property": "memdev"})))
    return {backend["id"] for backend in backends if "id" in backend} - (held - plugged)


# The process.


class _Line(NamedTuple):
    """A line of `/proc/PID/maps`."""

    start: int
    end: int
    flags: str
    offset: int
    file: tuple[int, int]


def _lines(pid: int) -> Iterator[_Line]:
    for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
        addresses, flags, offset, device, inode, *_ = line.split()
        start, end = (int(address, 16) for address in addresses.split("-"))
        major, minor = (int(number, 16) for number in device.split(":"))
        yield _Line(start, end, flags, int(offset, 16), (os.makedev(major, minor), int(inode)))


def _file_at(pid: int, answer: str, ram: Range) -> tuple[tuple[int, int], int]:
    """The file behind a range of RAM, and the range's offset in it; `answer` is what `gpa2hva` prints."""
    match = _HOST.search(answer)
    if not match:
        raise Unsupported(
            f"QEMU does not tell where the RAM at {ram.base:#x} is: {answer.strip()}", feature="gpa2hva", how=""
        )
    first = reached = int(match[1], 16)
    places = set()
    for line in _lines(pid):
        if line.start <= reached < min(line.end, first + ram.size):
            places.add((line.file, line.offset - line.start, line.flags[3]))
            reached = line.end
    if reached < first + ram.size or len(places) != 1 or "s" not in {shared for *_, shared in places}:
        raise Unsupported(
            f"the RAM {ram.name!r} of QEMU at {ram.base:#x} is private to it: no file shows its bytes",
            feature="private memory of another process",
            how="start QEMU with memory-backend-memfd or memory-backend-file and share=on",
        )
    ((file, shift, _),) = places
    return file, first + shift


def _regions(pid: int, ram: list[_Ram]) -> list[AddressSpaceRegion]:
    descriptors: dict[tuple[int, int], int] = {}
    try:
        for one in ram:
            if one.file not in descriptors:
                descriptors[one.file] = _descriptor(pid, one)
        return [_region(one, descriptors[one.file]) for one in ram]
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


def _region(ram: _Ram, descriptor: int) -> AddressSpaceRegion:
    region = AddressSpaceRegion.from_file(ram.base, ram.size, descriptor, ram.offset, name=ram.name)
    return region.replace(is_hotplug=True) if ram.is_hotplug else region


def _descriptor(pid: int, ram: _Ram) -> int:
    """The file as QEMU has it open, opened again: its path may be gone, or be a directory."""
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            status = path.stat()
            if (status.st_dev, status.st_ino) == ram.file:
                return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    raise Unsupported(
        f"QEMU has no descriptor of what is behind its RAM {ram.name!r}",
        feature="memory without a descriptor",
        how="start QEMU with memory-backend-memfd or memory-backend-file and share=on",
    )
