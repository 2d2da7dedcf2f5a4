"""Where `process_vm_readv` is missing, as in gVisor and user-mode QEMU, or forbidden, memory works all the same."""

import os
import random
from collections.abc import Callable
from errno import ENOSYS, EPERM
from pathlib import Path

import pytest
from children import in_child
from dbs_address_space import MAP_PRIVATE, MAP_SHARED, AddressSpaceRegion, GuestMemory, MemoryFault
from memory_helpers import PAGE, make_file, mapped, ram
from seccomp import fail

SIZE = 8 * PAGE
CUT = 5 * PAGE
Verb = Callable[[GuestMemory, int, int], object]
VERBS: dict[str, Verb] = {
    "read": lambda memory, addr, size: memory.read(addr, size),
    "write": lambda memory, addr, size: memory.write(addr, b"\xaa" * size),
    "fill": lambda memory, addr, size: memory.fill(addr, size, 0xAA),
    "search": lambda memory, addr, size: list(memory.search(b"nowhere", addr, addr + size)),
}


@pytest.fixture(params=[ENOSYS, EPERM], ids=["missing", "forbidden"])
def sandboxed(request: pytest.FixtureRequest) -> Callable[[Callable[[], None]], None]:
    """Runs a body in a child that has neither call."""

    def run(body: Callable[[], None]) -> None:
        def probe() -> None:
            for call in ("process_vm_readv", "process_vm_writev"):
                fail(call, request.param)
            body()

        in_child(probe)

    return run


Sandbox = Callable[[Callable[[], None]], None]


@pytest.mark.parametrize("flags", [MAP_SHARED, MAP_PRIVATE])
def test_a_users_file_is_memory(sandboxed: Sandbox, flags: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(random.Random(1).randbytes(SIZE))

    def body() -> None:
        chosen = random.Random(2)
        with path.open("r+b") as file:
            _, memory = mapped(ram(0, SIZE, file=file, perm_flags=flags))
        model = bytearray(path.read_bytes())
        for _ in range(300):
            start, end = sorted(chosen.sample(range(SIZE + 1), 2))
            assert memory.read(start, end - start) == model[start:end]
            written = chosen.randbytes(end - start)
            memory.write(start, written)
            model[start:end] = written
        assert memory.read(0, SIZE) == model

    sandboxed(body)


def test_a_users_buffer_is_memory(sandboxed: Sandbox) -> None:
    def body() -> None:
        buffer = bytearray(SIZE)
        _, memory = mapped(AddressSpaceRegion.from_buffer(0, buffer))
        memory.write(PAGE - 3, b"across a page")
        assert memory.read(PAGE - 3, 13) == b"across a page" == buffer[PAGE - 3 : PAGE + 10]

    sandboxed(body)


@pytest.mark.parametrize("flags", [MAP_SHARED, MAP_PRIVATE])
@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
@pytest.mark.parametrize("start", [0, 1, PAGE, CUT - 1, CUT, CUT + 5])
def test_a_fault_has_its_exact_address(sandboxed: Sandbox, start: int, verb: Verb, flags: int, tmp_path: Path) -> None:
    def body() -> None:
        path = make_file(tmp_path / "file", SIZE)
        with path.open("r+b") as file:
            _, memory = mapped(ram(0, SIZE, file=file, perm_flags=flags))
        os.truncate(path, CUT)
        with pytest.raises(MemoryFault, match="truncated to 0x5000 bytes") as fault:
            verb(memory, start, SIZE - start)
        assert fault.value.address == max(start, CUT)

    sandboxed(body)
