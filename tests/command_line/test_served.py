"""A space that a program serves, as the commands see it from outside."""

import gc
import json
import os
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from children import in_child
from command_helpers import in_a_terminal, run
from dbs_address_space import (
    MAP_POPULATE,
    MAP_SHARED,
    AddressSpace,
    AddressSpaceLayout,
    AddressSpaceRegion,
    ForkedProcess,
    InvalidArgument,
    load,
)
from dbs_address_space.command_line import samples, top
from dbs_address_space.command_line.parsing import UsageError
from dbs_address_space.command_line.served import looked_at, of_socket
from dbs_address_space.serving import SpaceServer
from host import huge_pages, imported
from kernel_view import descriptors
from memory_helpers import GIB, MIB, PAGE

LAYOUT = AddressSpaceLayout(1 << 46, 0, 1 << 45, mmio_windows=[(3 * GIB, GIB)])


@pytest.fixture
def space() -> Iterator[AddressSpace]:
    regions = [
        AddressSpaceRegion("ram", 0, MIB, name="low"),
        AddressSpaceRegion("ram", 4 * MIB, MIB, name="private", mem_type="mmap"),
        AddressSpaceRegion("device", 3 * GIB, PAGE, name="uart"),
    ]
    with AddressSpace.from_regions(regions, LAYOUT) as space:
        space.map_memory().write(0x1000, b"needle")
        yield space


@pytest.fixture
def server(space: AddressSpace, tmp_path: Path) -> Iterator[SpaceServer]:
    with space.serve(tmp_path / "vm.sock") as server:
        yield server


def test_commands_see_the_map_and_the_memory(space: AddressSpace, server: SpaceServer, tmp_path: Path) -> None:
    source = f"space:{server.path}"
    shown = json.loads(run("show", "--json", source).stdout)
    assert [region["name"] for region in shown["regions"]] == ["low", "private", "uart"]
    space.insert_region(AddressSpaceRegion("ram", 8 * MIB, MIB, name="dimm0", is_hotplug=True))
    assert "dimm0" in run("show", source).stdout
    assert run("search", "needle", source).stdout == "0x1000  low+0x1000\n"
    space.memory.write(0x1000, b"NEEDLE")
    assert run("search", "-q", "needle", source).returncode == 1
    assert "|NEEDLE" in run("hexdump", "0x1000+16", source).stdout
    refused = run("hexdump", "--raw", f"{4 * MIB:#x}+16", source)
    assert refused.returncode == 2
    assert "private" in refused.stderr
    core = tmp_path / "guest.elf"
    assert run("dump", source, str(core)).returncode == 0
    assert load(core).memory.read(0x1000, 6) == b"NEEDLE"


def test_what_is_looked_at_is_left_as_it_is(space: AddressSpace, server: SpaceServer) -> None:
    """Looks allocate nothing, but for the page by which a mapping is tried; they hold nothing and leave no descriptor behind."""
    before, opened = space.memory.resident(), len(descriptors())
    for command in (["show"], ["top", "--count", "1", "--plain"]):
        assert run(*command, f"space:{server.path}").returncode == 0
    assert space.memory.resident() == before
    assert run("hexdump", "0x8000+0x10000", f"space:{server.path}").returncode == 0
    assert sum(one.size for one in space.memory.resident()) <= 2 * PAGE
    assert space.stats().leases == 0
    assert len(descriptors()) == opened


def test_only_who_asks_for_memory_makes_huge_pages_guarded(tmp_path: Path) -> None:
    with huge_pages(1) as size:
        region = AddressSpaceRegion("ram", 0, size, mem_type="hugeshmem", perm_flags=MAP_SHARED | MAP_POPULATE)
        with AddressSpace.from_regions([region], LAYOUT) as space, space.serve(tmp_path / "vm.sock") as server:
            space.map_memory()
            samples.of_source(f"space:{server.path}")()
            assert not space.memory.mapping(0).guarded
            assert run("hexdump", "0", f"space:{server.path}").returncode == 0
            assert space.memory.mapping(0).guarded


def test_an_unmapped_space_is_a_map(tmp_path: Path) -> None:
    space = AddressSpace.from_regions([AddressSpaceRegion("ram", 0, MIB, name="low")], LAYOUT)
    with space.serve(tmp_path / "vm.sock") as server:
        assert "low" in run("show", f"space:{server.path}").stdout
        assert run("top", "--count", "1", f"space:{server.path}").returncode == 0


def test_a_server_ends_with_its_socket(space: AddressSpace, tmp_path: Path) -> None:
    path = tmp_path / "vm.sock"
    server = space.serve(path)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError, match="somebody listens there already"):
        space.serve(path)
    server.close()
    server.close()
    assert not path.exists()
    done = run("show", f"space:{path}")
    assert done.returncode == 2
    assert (
        f'error: space:{path}: No such file or directory\n  In the program, call space.serve("{path}")' in done.stderr
    )
    with pytest.raises(TypeError, match="path must be a str"):
        space.serve(3)  # type: ignore[arg-type]


def test_a_server_leaves_the_socket_of_another_in_its_place(space: AddressSpace, tmp_path: Path) -> None:
    path = tmp_path / "vm.sock"
    first = space.serve(path)
    path.unlink()
    with space.serve(path) as second:
        first.close()
        assert run("show", f"space:{second.path}").returncode == 0
    assert not path.exists()


def test_a_socket_that_nobody_listens_at_is_replaced(space: AddressSpace, tmp_path: Path) -> None:
    path = tmp_path / "vm.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with space.serve(path) as server:
        assert run("show", f"space:{server.path}").returncode == 0
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="in use"):
        space.serve(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_who_says_nothing_keeps_nobody_waiting_for_long(server: SpaceServer) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(server.path)
        assert run("show", f"space:{server.path}").returncode == 0


@pytest.mark.parametrize(
    "answer", [b"", b"hello", b"\xff" * 8 + b"{}", b"\2" + bytes(7) + b"[]", b"\2" + bytes(7) + b"{}"]
)
def test_an_answer_that_is_none_is_an_error(answer: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(UsageError):
            samples.of_source(f"space:{path}")()
        thread.join()


def test_a_forked_child_serves_nothing_and_removes_nothing(
    space: AddressSpace, server: SpaceServer, tmp_path: Path
) -> None:
    def child() -> None:
        server.close()
        assert Path(server.path).exists()
        with pytest.raises(ForkedProcess):
            space.serve(tmp_path / "child.sock")

    in_child(child)
    assert run("show", f"space:{server.path}").returncode == 0


def test_top_tells_a_line_for_each_look(space: AddressSpace, server: SpaceServer) -> None:
    done = run("top", "--count", "2", "--interval", "1", f"space:{server.path}")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert "generation 0  resident ░" in first
    assert "4 KiB of 2 MiB" in first
    assert "leases 0  changes 0  faults 0  refused 0" in first
    assert "/s" not in first
    assert "+0 B/s" in second
    told = json.loads(run("top", "--json", "--count", "1", f"space:{server.path}").stdout)
    assert (told["resident"], told["leases"], len(told["regions"])) == (PAGE, 0, 2)
    assert run("top", "--count", "1", "/dev/null").returncode == 2


def test_top_counts_what_follows(space: AddressSpace, server: SpaceServer) -> None:
    look = samples.of_source(f"space:{server.path}")
    with space.subscribe(lambda change: None):
        assert "clients 1" in top.line(look(), None, is_ascii=True)
        assert "Subscription" in look().clients[0]
    assert "clients" not in top.line(look(), None, is_ascii=True)


def test_top_tells_how_fast_it_goes() -> None:
    def sample(at: float, resident: int, faults: int) -> samples.Sample:
        stats = {"changes": 1, "faults": faults, "refused": 0, "leases": 0}
        return samples.Sample(at, 1, 8 * MIB, resident, stats, [(0, "low", 8 * MIB, resident)], [])

    before, after = sample(1.0, MIB, 10), sample(3.0, 5 * MIB, 25)
    assert top.rates(after, before) == {"resident": 2.0 * MIB, "changes": 0, "faults": 7.5, "refused": 0}
    assert "+2 MiB/s  leases 0  changes 1  faults 25 (7.5/s)  refused 0" in top.line(after, before, is_ascii=True)
    assert top.rates(before, None) == top.rates(before, after) == {}


def test_find_tells_where_a_byte_lies_in_the_program(space: AddressSpace, server: SpaceServer) -> None:
    host = space.memory.host_address(0x1234)
    found = run("find", "0x1234", f"space:{server.path}").stdout
    assert f"host       {host:#_x} in process {os.getpid()}\n" in found
    told = json.loads(run("find", "--json", "0x1234", f"space:{server.path}").stdout)
    assert (told["host_address"], told["process"]) == (hex(host), os.getpid())
    assert json.loads(run("find", "--json", hex(1 << 40), f"space:{server.path}").stdout)["host_address"] is None
    assert f"{host:#_x}" in in_a_terminal(80, "find", "0x1234", f"space:{server.path}")


def test_top_goes_on_in_a_terminal_without_its_extra(server: SpaceServer) -> None:
    without = "import sys; sys.modules['textual'] = None\n"
    code = without + "from dbs_address_space.command_line import main; main(sys.argv[1:])"
    output = in_a_terminal(100, "top", "--count", "1", f"space:{server.path}", code=code)
    assert "pip install 'dbs-address-space[top]' brings a screen" in output
    assert "generation 0" in output


@pytest.fixture
def look(server: SpaceServer) -> Callable[[], samples.Sample]:
    return samples.of_source(f"space:{server.path}")


def test_the_screen_of_top_shows_sorts_and_filters(space: AddressSpace, look: Callable[[], samples.Sample]) -> None:
    imported("textual")
    import asyncio  # noqa: PLC0415

    from dbs_address_space.command_line._top_screen import TopScreen  # noqa: PLC0415
    from textual.widgets import DataTable, Static  # noqa: PLC0415

    async def use() -> None:
        screen = TopScreen("space:vm.sock", look, 60)
        async with screen.run_test(size=(100, 24)) as pilot:
            table = screen.query_one(DataTable)

            def names() -> list[str]:
                return [str(table.get_row_at(row)[1]) for row in range(table.row_count)]

            assert names() == ["low", "private"]
            space.memory.fill(4 * MIB, 8 * PAGE, 1)
            screen.look_again()
            assert str(table.get_row_at(1)[5]).endswith("/s")
            assert str(table.get_row_at(0)[5]) == ""
            await pilot.press("s")
            assert names() == ["private", "low"]
            await pilot.press("slash", *"low", "enter")
            assert names() == ["low"]
            assert "generation 0" in str(screen.query_one("#sums", Static).render())
            await pilot.press("space")
            assert screen.is_held
            await pilot.press("q")

    asyncio.run(use())


HOSTILE: dict[str, Any] = {
    "the number of a file": [{"base": "0x0", "file": 7, "offset": 0}],
    "a bool": [{"base": "0x0", "file": False, "offset": 0}],
    "a text": [{"base": "0x0", "file": "0", "offset": 0}],
    "a base": [{"base": 0, "file": 0, "offset": 0}],
    "digits": [{"base": "zz", "file": 0, "offset": 0}],
    "nothing": None,
    "a nest": "[" * 100_000,
}


@contextmanager
def liar(path: str, answer: str) -> Iterator[None]:
    """A program that answers once, and sends a descriptor."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def lie() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1)
                connection.sendall(struct.pack("<Q", len(answer)) + answer.encode())
                with suppress(OSError):
                    socket.send_fds(connection, [b"f"], [0])

        thread = threading.Thread(target=lie)
        thread.start()
        yield
        thread.join()


@pytest.mark.parametrize("memory", HOSTILE.values(), ids=HOSTILE)
def test_a_program_that_lies_is_told_from_one_that_serves(server: SpaceServer, tmp_path: Path, memory: Any) -> None:
    content, files = looked_at(server.path)
    path = str(tmp_path / "liar.sock")
    answer = memory if isinstance(memory, str) else json.dumps({**content, "memory": memory})
    before = descriptors()
    with liar(path, answer), pytest.raises(UsageError, match="not a socket"):
        of_socket(path, wants_memory=True)
    assert files == []
    assert len(descriptors()) <= len(before)


@pytest.mark.parametrize(
    "lie",
    [
        {"stats": None},
        {"stats": {}},
        {"stats": {"leases": "\x1b[2J", "faults": 0, "refused": 0}},
        {"time": "now"},
        {"time": 1e300},
        {"regions": [5]},
        {"map": {"generation": 1, "regions": [{}]}},
        {"clients": 5},
    ],
    ids=str,
)
def test_a_look_that_is_none_is_told_of(server: SpaceServer, tmp_path: Path, lie: dict[str, Any]) -> None:
    content, _ = looked_at(server.path)
    path = str(tmp_path / "liar.sock")
    with liar(path, json.dumps({**content, **lie})), pytest.raises(UsageError, match="not an answer"):
        samples.of_source(f"space:{path}")()


def test_a_server_that_nobody_has_ends(tmp_path: Path) -> None:
    def child() -> None:
        path = tmp_path / "dropped.sock"
        before = threading.active_count()
        AddressSpace(LAYOUT).serve(path)
        gc.collect()
        for thread in threading.enumerate():
            if thread.name == "dbs-serve":
                thread.join(20)
        assert threading.active_count() == before
        assert not path.exists()

    in_child(child)


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 108])
def test_a_path_that_no_socket_can_have_is_refused(space: AddressSpace, path: str) -> None:
    with pytest.raises(InvalidArgument, match="socket"):
        space.serve(path)


def test_a_file_in_the_way_is_named(space: AddressSpace, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OSError, match="file"):
        space.serve(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_server_ends_while_descriptors_are_missing(tmp_path: Path) -> None:
    def child() -> None:
        lowest = os.dup(0)
        os.close(lowest)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, hard))
        AddressSpace(LAYOUT).serve(tmp_path / "poor.sock").close()

    in_child(child, timeout=20)


def test_a_server_outlives_a_lack_of_descriptors(tmp_path: Path) -> None:
    def child() -> None:
        with AddressSpace(LAYOUT).serve(tmp_path / "poor.sock") as server:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            with socket.socket(socket.AF_UNIX) as client:
                # Not one is left for the connection.
                resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, hard))
                held = []
                with suppress(OSError):
                    while True:
                        held.append(os.dup(0))
                client.settimeout(20)
                client.connect(server.path)
                client.sendall(b"m")
                time.sleep(0.05)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                assert len(client.recv(8)) == 8

    in_child(child)
