"""A buffer of the user that is an mmap of a file that was cut: an error of each verb that copies from or to it."""

import ast
import mmap
import os
import socket
from array import array
from collections.abc import Callable, Iterator
from ctypes import Structure, addressof, c_ubyte
from pathlib import Path
from pickle import PickleBuffer
from typing import Any

import dbs_address_space
import numpy as np
import pytest
from children import in_child
from dbs_address_space import AddressSpace, AddressSpaceRegion, Balloon, GuestMemory, load
from memory_helpers import GIB, MIB, PAGE, mapped, ram

SIZE = 4 * PAGE


def file_write(memory: GuestMemory, buffer: memoryview) -> None:
    with memory.open("r+b") as file:
        file.seek(GIB)
        file.write(buffer)


def file_read_over_a_hole(memory: GuestMemory, buffer: memoryview) -> None:
    AddressSpace._of_memory(memory).insert_region(ram(GIB + 2 * MIB))  # noqa: SLF001
    with memory.open(holes="zero") as file:
        file.seek(GIB + MIB - 8)
        file.readinto(buffer)


def save_as_a_blob(memory: GuestMemory, buffer: Any) -> None:
    AddressSpace._of_memory(memory).save("unused", blobs={"registers": buffer})  # noqa: SLF001


def send_as_a_blob(memory: GuestMemory, buffer: Any) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        memory.send(ours, blobs={"registers": buffer})


def send_as_the_answer_of_stop(memory: GuestMemory, buffer: Any) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        memory.send(ours, stop=lambda: {"registers": buffer})


USES: dict[str, Callable[[GuestMemory, memoryview], object]] = {
    "write": lambda memory, buffer: memory.write(GIB, buffer),
    "write forced": lambda memory, buffer: memory.write(GIB, buffer, force=True),
    "write of 8 bytes": lambda memory, buffer: memory.write(GIB, buffer[-8:]),
    "writev": lambda memory, buffer: memory.writev([(GIB, buffer)]),
    "compare": lambda memory, buffer: memory.compare(GIB, buffer),
    "search": lambda memory, buffer: list(memory.search(buffer, GIB)),
    "read_into": lambda memory, buffer: memory.read_into(GIB, buffer),
    "readv_into": lambda memory, buffer: memory.readv_into([(GIB, SIZE)], buffer),
    "readv": lambda memory, buffer: memory.readv(buffer.cast("Q")),
    "translate": lambda memory, buffer: memory.translate(buffer.cast("Q"), missing="mark"),
    "read_many_u64": lambda memory, buffer: memory.read_many_u64(buffer.cast("Q")),
    "file": file_write,
    "file over a hole": file_read_over_a_hole,
    "load": lambda _, buffer: load(buffer),
    "load_image": lambda memory, buffer: memory.load_image(buffer, GIB),
    "a blob": save_as_a_blob,
    "a blob of a stream": send_as_a_blob,
    "the answer of stop": send_as_the_answer_of_stop,
    "a balloon": lambda memory, buffer: Balloon(memory).inflate(buffer),
}
KEPT: list[object] = []


def structure(size: int) -> type[Structure]:
    return type("Whole", (Structure,), {"_fields_": [("field", c_ubyte * size)]})


def at_address(exporter: mmap.mmap) -> memoryview:
    """Nothing leads from it to the mmap, which lives on: its mapping is what may be cut."""
    pinned = (c_ubyte * len(exporter)).from_buffer(exporter)
    KEPT.append(pinned)
    return memoryview((c_ubyte * len(exporter)).from_address(addressof(pinned))).cast("B")


EXPORTERS: dict[str, Callable[[mmap.mmap], memoryview]] = {
    "mmap": memoryview,
    "memoryview": lambda exporter: memoryview(memoryview(exporter)[:]).cast("B"),
    "NumPy": lambda exporter: np.frombuffer(exporter, "u1")[:][:].data,
    "np.memmap": lambda exporter: np.ndarray.__new__(np.memmap, (len(exporter),), "u1", exporter).data,
    "np.ndarray": lambda exporter: np.ndarray((len(exporter),), "u1", memoryview(exporter)).data,
    "ctypes": lambda exporter: memoryview((c_ubyte * len(exporter)).from_buffer(exporter)).cast("B"),
    "a field of ctypes": lambda exporter: memoryview(structure(len(exporter)).from_buffer(exporter).field).cast("B"),
    "ctypes at an address": at_address,
    "NumPy over ctypes": lambda exporter: np.ctypeslib.as_array((c_ubyte * len(exporter)).from_buffer(exporter)).data,
    "PickleBuffer": lambda exporter: PickleBuffer(exporter).raw(),
}


def exporter(content: bytes) -> tuple[int, mmap.mmap]:
    fd = os.memfd_create("buffer")
    os.write(fd, content)
    return fd, mmap.mmap(fd, len(content))


@pytest.mark.parametrize("mem_type", ["shmem", "mmap"])
@pytest.mark.parametrize("of", EXPORTERS)
@pytest.mark.parametrize("use", USES)
def test_a_buffer_that_was_cut_is_an_error(use: str, of: str, mem_type: str) -> None:
    def child() -> None:
        _, memory = mapped(ram(GIB, MIB, mem_type=mem_type))
        fd, mapping = exporter(array("Q", [GIB] * (SIZE // 8)).tobytes())
        buffer = EXPORTERS[of](mapping)
        os.ftruncate(fd, PAGE)
        with pytest.raises(OSError, match="buffer") as raised:
            USES[use](memory, buffer)
        assert raised.value.errno == 14

    in_child(child)


@pytest.mark.parametrize("use", USES)
def test_a_view_of_guest_memory_that_was_cut_is_an_error(use: str) -> None:
    def child() -> None:
        _, memory = mapped(ram(GIB, MIB))
        fd, _ = exporter(array("Q", [GIB] * (SIZE // 8)).tobytes())
        _, other = mapped(AddressSpaceRegion.from_file(0, SIZE, fd))
        buffer = other.view(0, SIZE, unguarded=True)
        os.ftruncate(fd, PAGE)
        with pytest.raises(OSError, match="buffer") as raised:
            USES[use](memory, buffer)
        assert raised.value.errno == 14

    in_child(child)


@pytest.mark.parametrize("of", EXPORTERS)
def test_a_buffer_of_an_mmap_is_copied_from_and_to(of: str) -> None:
    _, memory = mapped(ram(GIB, MIB))
    content = array("Q", range(GIB, GIB + SIZE, 8))
    fd, mapping = exporter(content.tobytes())
    buffer = EXPORTERS[of](mapping)
    memory.write(GIB, buffer)
    assert memory.read(GIB, SIZE) == mapping[:]
    assert memory.compare(GIB, buffer) is None
    assert list(memory.search(buffer, GIB)) == [GIB]
    assert list(memory.read_many_u64(buffer.cast("Q"))) == list(content)
    memory.fill(GIB, SIZE, 7)
    assert memory.read_into(GIB, buffer[8:]) == SIZE - 8
    assert mapping[:] == content.tobytes()[:8] + b"\7" * (SIZE - 8)
    memory.writev([(GIB, buffer[:4]), (GIB + 4, buffer[4:8])])
    assert memory.readv_into([(GIB, 8), (GIB, 8)], buffer) == 16
    assert mapping[:16] == content.tobytes()[:8] * 2
    os.close(fd)


OURS = {
    "formats/source.py: memoryview(part)",
    "loading.py: memoryview(mmap.mmap(source.fd, source.size, prot=mmap.PROT_READ))",
    "loading.py: memoryview(content)",
}
"""Views that Python makes, of its own bytes or for verbs in Rust: other buffers are for `copied_buffer` and `fill_buffer`."""


def views(path: Path) -> Iterator[str]:
    """The views that a file makes, but for those of a `with`, which are looked at and handed on."""
    tree = ast.parse(path.read_text())
    held = [item.context_expr for node in ast.walk(tree) if isinstance(node, ast.With) for item in node.items]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "memoryview" and node not in held:
            yield ast.unparse(node)


def test_python_itself_reads_no_buffer_of_the_users() -> None:
    package = Path(dbs_address_space.__file__).parent
    found = {f"{path.relative_to(package)}: {view}" for path in package.rglob("*.py") for view in views(path)}
    assert found == OURS
