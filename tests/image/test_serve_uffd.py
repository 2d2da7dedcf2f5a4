"""A VMM in another process whose memory an image fills while it runs, by Firecracker's handshake."""

import array
import errno
import gc
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from children import finish_child, start_child
from dbs_address_space import BackingError, ImageCorrupt, ImageMismatch, SavedSpace
from firecracker import ANONYMOUS, EVENT_REMOVE, SHARED, Vmm
from host import huge_pages
from interrupts import interrupted
from memory_helpers import MIB, PAGE, mapped, numbered, ram
from stalling_files import stalling

CHUNK = 1 << 16
SIZES = (4 * MIB, 2 * MIB)
DATA = bytes(MIB) + numbered(2 * MIB) + bytes(2 * MIB) + b"high".ljust(MIB, b"\0")
"""Of a low region and a high one, which the VMM has at other addresses."""
FULL = 2 * MIB


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "vm.img"
    space, memory = mapped(ram(0, 4 * MIB, name="low"), ram(1 << 32, 2 * MIB, name="high"))
    memory.write(MIB, DATA[MIB:][:FULL])
    memory.write((1 << 32) + MIB, b"high")
    space.save(path).close()
    return path


@contextmanager
def running(body: Callable[[], object]) -> Iterator[None]:
    """A child process that must end well."""
    child, report = start_child(body)
    try:
        yield
    finally:
        problem = finish_child(child, report, 30)
    if problem:
        pytest.fail(problem)


@contextmanager
def connected(image: Path, body: Callable[[Vmm], object], **how: Any) -> Iterator[socket.socket]:
    """The connection of a VMM, which is made in a child process and does `body` there."""
    path = image.with_name("uffd.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def vmm() -> None:
            listener.close()
            machine = Vmm(how.pop("sizes", SIZES), **how)
            machine.send(path)
            body(machine)

        with running(vmm), listener.accept()[0] as sock:
            yield sock


def descriptors_open() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def expect(vmm: Vmm, offset: int, size: int) -> None:
    assert vmm.read(offset, size) == DATA[offset : offset + size]


def test_a_vmm_finds_the_memory_of_the_image(image: Path) -> None:
    def body(vmm: Vmm) -> None:
        expect(vmm, MIB + 5, 1)
        expect(vmm, 0, len(DATA))
        vmm.write(7, b"written")
        assert vmm.read(0, 16) == bytes(7) + b"written" + bytes(2)

    with connected(image, body) as sock:
        stats = SavedSpace.open(image).serve_uffd(sock, rate=0)
    assert stats.to_first_touch is not None
    assert (stats.bytes_moved, stats.filled, stats.error) == (FULL + CHUNK, 0, None)
    assert stats.served >= (FULL + CHUNK) // CHUNK


def test_all_comes_in_by_itself(image: Path) -> None:
    def body(vmm: Vmm) -> None:
        while not vmm.is_there(5 * MIB):
            time.sleep(0.001)
        assert vmm.is_there(MIB)
        assert vmm.is_there(3 * MIB - PAGE)
        assert not vmm.is_there(0)
        expect(vmm, 0, len(DATA))

    with connected(image, body) as sock:
        stats = SavedSpace.open(image).serve_uffd(sock)
    assert stats.is_complete
    assert stats.filled == (FULL + CHUNK) // CHUNK


def test_memory_may_be_told_of_in_other_pieces_than_the_regions_of_the_image(image: Path) -> None:
    with connected(image, lambda vmm: expect(vmm, 0, len(DATA)), sizes=(MIB + PAGE, 5 * MIB - PAGE)) as sock:
        assert SavedSpace.open(image).serve_uffd(sock, rate=0).error is None


def test_huge_pages_come_in_whole(image: Path) -> None:
    with huge_pages(3) as size, connected(image, lambda vmm: expect(vmm, 0, len(DATA)), page_size=size) as sock:
        assert SavedSpace.open(image).serve_uffd(sock, rate=0).served == len(DATA) // size


def test_pages_with_a_protection_of_their_own_come_in_too(image: Path) -> None:
    def body(vmm: Vmm) -> None:
        vmm.protect(MIB + PAGE, PAGE)
        expect(vmm, 0, len(DATA))

    with connected(image, body) as sock:
        assert SavedSpace.open(image).serve_uffd(sock, rate=0).error is None


@pytest.mark.parametrize("rate", [0, None])
def test_pages_that_are_given_up_are_zero_from_then_on(image: Path, rate: int | None) -> None:
    def body(vmm: Vmm) -> None:
        vmm.give_up(MIB + PAGE, 2 * PAGE)
        expect(vmm, MIB, PAGE)
        assert vmm.read(MIB + PAGE, 2 * PAGE) == bytes(2 * PAGE)
        expect(vmm, MIB + 3 * PAGE, MIB)
        vmm.write(MIB + PAGE, b"again")
        vmm.give_up(MIB, MIB)
        assert vmm.read(MIB, MIB) == bytes(MIB)
        expect(vmm, 2 * MIB, MIB)

    with connected(image, body) as sock:
        assert SavedSpace.open(image).serve_uffd(sock, rate=rate).error is None


def test_pages_are_given_up_while_others_come_in(image: Path) -> None:
    def body(vmm: Vmm) -> None:
        def give_up() -> None:
            for _ in range(200):
                vmm.give_up(MIB, CHUNK)

        threads = [threading.Thread(target=give_up) for _ in range(2)]
        for thread in threads:
            thread.start()
        for offset in range(MIB + CHUNK, 3 * MIB, PAGE):
            expect(vmm, offset, PAGE)
        for thread in threads:
            thread.join()
        assert vmm.read(MIB, CHUNK) == bytes(CHUNK)

    with connected(image, body) as sock:
        assert SavedSpace.open(image).serve_uffd(sock).error is None


@pytest.mark.parametrize("flags", [ANONYMOUS, SHARED])
def test_damage_is_an_error_where_it_is_and_nowhere_else(image: Path, flags: int) -> None:
    with image.open("r+b") as file:
        file.seek(2 * MIB + MIB + 3 * CHUNK + 7)
        file.write(bytes([DATA[MIB + 3 * CHUNK + 7] ^ 1]))

    def body(vmm: Vmm) -> None:
        expect(vmm, MIB, 3 * CHUNK)
        assert vmm.is_poisoned(MIB + 3 * CHUNK)
        assert vmm.is_poisoned(MIB + 3 * CHUNK)
        expect(vmm, MIB + 4 * CHUNK, MIB)

    vmm = connected(image, body, flags=flags)
    with vmm as sock, pytest.raises(ImageCorrupt, match=r"'low'.*: chunk 19 is not ") as caught:
        SavedSpace.open(image).serve_uffd(sock, rate=0)
    assert caught.value.address == MIB + 3 * CHUNK


def test_a_vmm_that_waits_for_a_file_is_given_an_error(image: Path, tmp_path: Path) -> None:
    def body(vmm: Vmm) -> None:
        assert vmm.is_poisoned(MIB)

    with stalling(image.read_bytes(), tmp_path / "slow") as file, SavedSpace.open(file.path) as saved:
        file.is_stalled = True
        with connected(image, body) as sock, pytest.raises(TimeoutError, match="not read in time"):
            saved.serve_uffd(sock, rate=0, timeout=0.5)


def test_who_is_left_alone_finds_errors_and_no_zeroes(image: Path) -> None:
    reader, writer = os.pipe()

    def body(vmm: Vmm) -> None:
        vmm.give_up(2 * MIB, PAGE)
        expect(vmm, MIB, PAGE)
        os.read(reader, 1)
        expect(vmm, MIB, CHUNK)
        assert vmm.is_poisoned(MIB + CHUNK)
        assert vmm.is_poisoned(0)
        assert vmm.is_poisoned(2 * MIB + PAGE)
        assert vmm.read(2 * MIB, PAGE) == bytes(PAGE)
        # Nobody hears of it any more, or need to.
        vmm.give_up(MIB, PAGE)
        assert vmm.read(MIB, PAGE) == bytes(PAGE)

    with connected(image, body) as sock:
        with interrupted(0.2):
            SavedSpace.open(image).serve_uffd(sock, rate=0)
        os.write(writer, b"!")
    os.close(reader)
    os.close(writer)


def test_memory_that_was_not_told_of_is_an_error(image: Path) -> None:
    def body(vmm: Vmm) -> None:
        vmm.mappings.append(hidden.pop())
        assert vmm.is_poisoned(4 * MIB)

    hidden: list[dict[str, Any]] = []

    class Hiding(Vmm):
        def send(self, path: Path) -> None:
            hidden.append(self.mappings.pop())
            super().send(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "Vmm", Hiding)
        with connected(image, body) as sock, pytest.raises(BackingError, match="in none of the mappings"):
            SavedSpace.open(image).serve_uffd(sock, rate=0)


def test_a_handshake_may_come_in_pieces(image: Path) -> None:
    ours, theirs = socket.socketpair()

    def body() -> None:
        vmm = Vmm(SIZES)
        text = json.dumps(vmm.mappings).encode()
        theirs.sendall(text[:10])
        time.sleep(0.01)
        socket.send_fds(theirs, [text[10:]], [vmm.userfaultfd])
        expect(vmm, MIB, PAGE)

    with ours, theirs, running(body):
        ours.setblocking(False)  # noqa: FBT003
        SavedSpace.open(image).serve_uffd(ours, rate=0)
        assert not ours.getblocking()


ONE = {"base_host_virt_addr": 1 << 32, "size": MIB, "offset": 0, "page_size": PAGE}
WRONG: dict[str, tuple[Any, str]] = {
    "no JSON": (b"hello", "is not a JSON array"),
    "half of it": (b"[{}", "ended before its mappings"),
    "no UTF-8": (b"[\xff]", "is not a JSON array"),
    "nested": (b"[" * 9999 + b"]" * 9999, "is not a JSON array"),
    "too much": (b"[" + b" " * (2 << 20), "is not a JSON array"),
    "an object": ({}, "is not a JSON array"),
    "none": ([], "is not an array of mappings"),
    "a number": ([7], "mapping 0 is not an object"),
    "no base": ([{**ONE, "base_host_virt_addr": None}], "base_host_virt_addr=None"),
    "true": ([{**ONE, "size": True}], "size=True"),
    "negative": ([{**ONE, "offset": -1}], "offset=-1"),
    "huge": ([{**ONE, "size": 1 << 64}], "size=18446744073709551616"),
    "a fraction": ([{**ONE, "size": 4096.0}], "size=4096.0"),
    "no bytes": ([ONE, {**ONE, "size": 0}], "mapping 1 has 0x0 bytes"),
    "low": ([{**ONE, "base_host_virt_addr": 1 << 16}], "bytes at 0x1_0000"),
    "past the end": ([{**ONE, "base_host_virt_addr": (1 << 64) - PAGE}], "bytes at 0xffff_ffff_ffff_f000"),
    "half a page": ([{**ONE, "size": 100}], "not whole pages"),
    "pages of three": ([{**ONE, "page_size": 3 * PAGE}], "pages of 0x3000 bytes"),
    "pages of TiB": ([{**ONE, "page_size": 1 << 40}], "pages of"),
    "twice": ([ONE, {**ONE, "base_host_virt_addr": (1 << 32) + PAGE}], "overlap"),
    "behind the image": ([{**ONE, "offset": 6 * MIB - PAGE}], "the image up to 0x60_0000"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_handshake_that_is_wrong_is_refused_by_name(image: Path, case: str) -> None:
    content, why = WRONG[case]
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    ours, theirs = socket.socketpair()
    vmm = Vmm([MIB])

    def send() -> None:
        with theirs, suppress(BrokenPipeError):
            socket.send_fds(theirs, [text[:1]], [vmm.userfaultfd])
            theirs.sendall(text[1:])

    before = descriptors_open()
    sender = threading.Thread(target=send)
    sender.start()
    with SavedSpace.open(image) as saved, ours, pytest.raises((BackingError, ImageMismatch), match=why):
        saved.serve_uffd(ours)
    sender.join()
    del saved
    assert descriptors_open() == before - 2
    os.close(vmm.userfaultfd)


@pytest.mark.parametrize(
    ("descriptors", "why"),
    [
        ("", "has 0 descriptors"),
        ("uu", "has 2 descriptors"),
        ("u" * 40, "more descriptors than one"),
        ("f", "not a userfaultfd"),
        ("n", "not initialised"),
        ("r", "of forks or of memory that moves"),
    ],
)
def test_a_handshake_without_a_userfaultfd_is_refused(image: Path, descriptors: str, why: str) -> None:
    ours, theirs = socket.socketpair()
    vmms = {"u": Vmm([MIB]).userfaultfd, "r": Vmm([MIB], features=EVENT_REMOVE | 1 << 2).userfaultfd}
    vmms |= {"f": os.open(image, os.O_RDONLY), "n": Vmm.fresh()}
    sent = array.array("i", [vmms[one] for one in descriptors])
    with ours, theirs:
        theirs.sendmsg([json.dumps([ONE]).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sent)] if sent else [])
        before = descriptors_open()
        with pytest.raises(BackingError, match=why):
            SavedSpace.open(image).serve_uffd(ours)
        assert descriptors_open() == before
    for one in vmms.values():
        os.close(one)


def test_a_vmm_that_says_nothing_is_waited_for_a_while(image: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(BackingError, match="did not come in time") as caught:
        SavedSpace.open(image).serve_uffd(ours, timeout=0.01)
    assert caught.value.errno == errno.ETIMEDOUT
    ours, theirs = socket.socketpair()
    with ours, theirs, interrupted():
        SavedSpace.open(image).serve_uffd(ours, timeout=None)


def test_what_is_no_socket_is_refused_and_left_as_it_is(image: Path) -> None:
    with image.open("rb") as file, SavedSpace.open(image) as saved:
        before = descriptors_open()
        with pytest.raises(BackingError, match=r"descriptor \d+ is not a socket"):
            saved.serve_uffd(file)
        assert descriptors_open() == before
